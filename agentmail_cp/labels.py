"""Labels: how they are spelt as IMAP keywords and folders, and who may change which.

Three kinds exist. *Server labels* tell what happened to a mail and are never a caller's to set.
`unread` and `trash` are the caller's, and mirror `$seen` and the Trash folder. *Custom labels* are the
caller's own free text, lower-case, each stored as one IMAP keyword, so that a mail client shows them
and everything can be rebuilt from the mail server; those it has no room for are *kept*, in the index only.

A keyword that no label is spelt as stays hidden: the IANA registry's own (`$answered`), those mail
clients set on everything (`nonjunk`), and one that merely reads like a server label (`sent`): setting a
flag in a mail client must not make a mail look sent. A custom label of such a name is stored escaped.
This module does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec

from agentmail_cp.addresses import one_line
from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import DocumentId, Folder, Relabel

Direction = Literal["sent", "received"]

MAX_LABEL = 100
"""Characters in a label."""

MAX_KEYWORD = 128
"""Characters in a keyword, all ASCII; Stalwart 0.16 cuts the rest off in silence."""

MAX_LABELS = 100
"""Labels one request may name."""

UNREAD, TRASH, SPAM, DRAFT = "unread", "trash", "spam", "draft"

_FROM_SERVER_KEYWORD = {
    f"${label}": label
    for label in (
        "delivered",
        "bounced",
        "complained",
        "delayed",
        "rejected",
        "opened",
        "scheduled",
        "blocked",
        "unauthenticated",
    )
}
SERVER_LABELS = frozenset({"received", "sent", SPAM, DRAFT, *_FROM_SERVER_KEYWORD.values()})
"""Labels only the server sets."""

SYSTEM_LABELS = SERVER_LABELS | {UNREAD, TRASH}

SEEN = "$seen"
SENT_KEYWORD = "$sent"
"""Marks a mail of the inbox's own that this service handed in, wherever it is filed later."""

_OF_FOLDER = {Folder.TRASH: TRASH, Folder.JUNK: SPAM, Folder.DRAFTS: DRAFT}
_OF_KEYWORD = {**_FROM_SERVER_KEYWORD, "$flagged": "flagged", "$important": "important"}
_TO_KEYWORD = {label: keyword for keyword, label in _OF_KEYWORD.items()}

# The IANA registry "IMAP and JMAP Keywords", RFC 3501 flags as RFC 8621 spells them, and the junk
# flags of Thunderbird and Apple Mail.
_HIDDEN_KEYWORDS = frozenset(
    {SEEN, SENT_KEYWORD, "$deleted", "$recent", "$draft", "$answered", "$forwarded", "$mdnsent"}
    | {"$junk", "$notjunk", "$phishing", "$hasattachment", "$hasnoattachment", "$autosent"}
    | {"$submitpending", "$submitted", "$canunsubscribe", "$unsubscribed", "$followed", "$muted"}
    | {"$hasmemo", "$memo", "$istrusted", "$maskedemail", "$new", "$notify", "$imported"}
    | {"$mailflagbit0", "$mailflagbit1", "$mailflagbit2", "junk", "nonjunk", "notjunk"}
)
_SPOKEN_FOR = _HIDDEN_KEYWORDS | _OF_KEYWORD.keys() | _TO_KEYWORD.keys() | SYSTEM_LABELS

# RFC 9051 `atom` in lower case: visible ASCII without ( ) { % * " \ ].
_ATOM_BYTES = frozenset(range(0x21, 0x7F)) - frozenset(b'(){%*"\\]') - frozenset(range(0x41, 0x5B))
_ESCAPE = re.compile(rb"=([0-9a-f]{2})")


class Change(msgspec.Struct, frozen=True):
    """A checked request to change labels; no label is in both sets."""

    add: frozenset[str]
    remove: frozenset[str]

    @property
    def empty(self) -> bool:
        return not self.add and not self.remove


def labels_of(
    *,
    direction: Direction,
    folders: Collection[Folder],
    keywords: Collection[str],
    kept: Collection[str] = (),
) -> tuple[str, ...]:
    """Every label of a stored mail, sorted. `keywords` are lower case; `kept` are labels it has besides."""
    labels: set[str] = {direction, *kept}
    if SEEN not in keywords:
        labels.add(UNREAD)
    labels.update(_OF_FOLDER[folder] for folder in folders if folder in _OF_FOLDER)
    return tuple(sorted(labels | decode_all(keywords)))


def still_kept(kept: Iterable[str], keywords: Iterable[str]) -> list[str]:
    """Those of the `kept` labels that no keyword holds, sorted: one that a keyword holds goes with it. What
    only the server says, no keyword holds.
    """
    return sorted(frozenset(kept) - (decode_all(keywords) - SERVER_LABELS))


def encode(label: str) -> str:
    """The keyword of a label that is kept as one, as `=xx` for each UTF-8 byte no atom may hold.

    Takes labels as `normalise` gives them. Injective; `decode` takes it back.
    """
    if keyword := _TO_KEYWORD.get(label):
        return keyword
    raw = label.encode()
    spoken_for = label in _SPOKEN_FOR
    return "".join(
        chr(byte) if _is_plain(raw, index) and not (spoken_for and index == 0) else f"={byte:02x}"
        for index, byte in enumerate(raw)
    )


def decode(keyword: str) -> str | None:
    """The label a keyword stands for; None for keywords that stay hidden."""
    if label := _OF_KEYWORD.get(keyword):
        return label
    if keyword in _SPOKEN_FOR:
        return None
    try:
        label = _ESCAPE.sub(_unescape, keyword.encode()).decode()
    except UnicodeError:
        return None
    return label if _is_normal(label) and encode(label) == keyword else None


def decode_all(keywords: Iterable[str]) -> frozenset[str]:
    """The labels these keywords stand for."""
    return frozenset(label for keyword in keywords if (label := decode(keyword)))


def normalise(label: str, field: str) -> str:
    """A label in its one spelling: trimmed, lower case. Raises `Invalid`: INVALID_LABEL,
    LABEL_TOO_LONG, HEADER_INJECTION.
    """
    tidy = one_line(label, field).strip().lower()
    if not tidy:
        raise Invalid(
            field,
            "A label cannot be blank.",
            fix='Give it a name, like "follow-up".',
            detail="INVALID_LABEL",
        )
    if len(tidy) > MAX_LABEL or len(encode(tidy)) > MAX_KEYWORD:
        raise Invalid(
            field,
            f"The label {tidy[:20]!r}… is too long.",
            fix=f"Use at most {MAX_LABEL} characters; one outside a-z, 0-9 and -_.: takes the room "
            "of three or more.",
            detail="LABEL_TOO_LONG",
        )
    return tidy


def normalise_all(labels: str | Sequence[str] | None, field: str) -> frozenset[str]:
    """Several labels, or one as a plain text. Raises as `normalise`, and TOO_MANY_LABELS."""
    given = [labels] if isinstance(labels, str) else labels or []
    if len(given) > MAX_LABELS:
        raise Invalid(
            field,
            f"There are {len(given)} labels in this request.",
            fix=f"Name at most {MAX_LABELS}.",
            detail="TOO_MANY_LABELS",
        )
    return frozenset(normalise(label, field) for label in given)


def for_send(labels: str | Sequence[str] | None, field: str = "labels") -> tuple[str, ...]:
    """The custom labels of a mail about to be sent, sorted. System labels are dropped in silence, as
    callers copy them from the mail they answer. Raises as `normalise_all`.
    """
    return tuple(sorted(normalise_all(labels, field) - SYSTEM_LABELS))


def change(add: str | Sequence[str] | None, remove: str | Sequence[str] | None) -> Change:
    """Check a request to change labels; a label in both lists is removed.

    Raises as `normalise_all` with field `add_labels` or `remove_labels`, and SYSTEM_LABEL.
    """
    adding = _changeable(normalise_all(add, "add_labels"), "add_labels")
    removing = _changeable(normalise_all(remove, "remove_labels"), "remove_labels")
    return Change(adding - removing, removing)


def after(change: Change, current: Iterable[str]) -> tuple[str, ...]:
    """The labels of a message that had `current` once `change` is done, sorted."""
    labels = (set(current) | change.add) - change.remove
    # A mail is spam by lying in Junk, which it leaves for Trash.
    return tuple(sorted(labels - {SPAM} if TRASH in change.add else labels))


def relabel(document_id: DocumentId, change: Change, current: Collection[str]) -> Relabel | None:
    """What the mail server has to do to a message that has the labels `current`; None if nothing.

    A mail leaves Trash for Sent or Inbox only if it is there: one in a folder of the user's stays.
    Nothing else depends on `current`, which may be a moment old.
    """
    add = {encode(label) for label in change.add - {UNREAD, TRASH}}
    remove = {encode(label) for label in change.remove - {UNREAD, TRASH}}
    if UNREAD in change.add:
        remove.add(SEEN)
    if UNREAD in change.remove:
        add.add(SEEN)
    move_to = _move(change, current)
    if not add and not remove and move_to is None:
        return None
    return Relabel(document_id, frozenset(add), frozenset(remove), move_to)


def _move(change: Change, current: Collection[str]) -> Folder | None:
    if TRASH in change.add:
        return Folder.TRASH
    if TRASH in change.remove and TRASH in current:
        return Folder.SENT if "sent" in current else Folder.INBOX
    return None


def _changeable(labels: frozenset[str], field: str) -> frozenset[str]:
    if refused := sorted(labels & SERVER_LABELS):
        raise Invalid(
            field,
            f"The label {refused[0]!r} is set by the server only.",
            fix="Leave it out; unread, trash and labels of your own can be changed.",
            detail="SYSTEM_LABEL",
        )
    return labels


def _is_plain(raw: bytes, index: int) -> bool:
    """Whether the byte stands for itself; `=` does unless it would read as an escape."""
    return raw[index] in _ATOM_BYTES and not _ESCAPE.match(raw, index)


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode())


def _is_normal(label: str) -> bool:
    try:
        return normalise(label, "label") == label
    except Invalid:
        return False
