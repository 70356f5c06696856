"""PURE: how a stored mail is filed: under which id, with which links, labels and mask.

Every bound on what one mail may put into the index is here: hostile mail has ids, subjects and address
lists of any length, NULs and lone surrogates.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import msgspec

from agentmail_cp import addresses, authentication, labels
from agentmail_cp.authentication import Authentication
from agentmail_cp.mailserver import Address, DocumentId, Folder, Mail
from agentmail_cp.threads import Links

Direction = Literal["received", "sent"]

HIDING = {"spam": 1, "blocked": 2, "unauthenticated": 4, "trash": 8}
"""The labels that hide a message from lists, and their bit in `mask`."""

LONGEST_ID = 500
LONGEST_SUBJECT = 2_000
LONGEST_NAME = 256
MOST_ADDRESSES = 1_000
MOST_REFERENCES = 100
LONGEST_PREVIEW = 200

SYNTHETIC = re.compile(r"<document-\d+@[^>]*>|<digest-[0-9a-f]{32}@message-id\.invalid>")
"""No mail goes by such a Message-ID of its own: it could stand in the way of another's."""

_UNFIT_FOR_PATHS = re.compile(r"[\x00-\x1f\x7f?#\ue02f]|%[0-9A-Fa-f]{2}|/\.\.?/")
"""What does not come through where an id is put into a path as it is, as the Python SDK does: its HTTP
client ends the path at `?` and `#`, follows dots, leaves what looks percent-encoded, and refuses control
characters. U+E02F is the mark of `web.paths`.
"""


class Place(msgspec.Struct, frozen=True):
    """Whose messages are written: an inbox and what it belongs to."""

    inbox_id: UUID
    organization_id: UUID
    pod_id: UUID
    domain: str


class Arrival(msgspec.Struct, frozen=True):
    """A mail that was received just now. `sender` is the address in From, the first of several, None when
    there is none; `answers` says whether it answers a mail of the inbox itself (In-Reply-To);
    `authentication` is what the mail server found out about its sender, None when nobody checked.
    """

    document_id: DocumentId
    sender: str | None
    answers: bool
    authentication: Authentication | None = None


def arrivals(fresh: Iterable[Mail], sent: Collection[str]) -> list[Arrival]:
    """Those of the new mails that others sent. `sent` are ids (in brackets) of the inbox's own."""
    fresh = list(fresh)
    ours = (mail.message_id for mail in fresh if _direction(mail) == "sent")
    own = {*sent, *(id_of(each) for each in ours if each)}
    return [
        Arrival(
            mail.document_id,
            mail.sender.email if mail.sender else None,
            not own.isdisjoint(named for each in parents(mail) for named in ids_of(each)),
            authentication.read(mail.authentication_results),
        )
        for mail in fresh
        if _direction(mail) == "received"
    ]


def parents(mail: Mail) -> list[str]:
    """The Message-IDs (no brackets) that the mail answers, as far as they make sense."""
    return _bounded(mail.in_reply_to)


def choose_ids(
    place: Place,
    fresh: Sequence[Mail],
    taken: Iterable[str],
    reserved: frozenset[str] = frozenset(),
) -> dict[DocumentId, str]:
    """The id each new message goes by: that of its Message-ID, or one made for its document.

    `taken` are ids others of the inbox go by, or are about to; `reserved` ones are for mail in Sent.
    """
    taken = set(taken)
    chosen: dict[DocumentId, str] = {}
    for mail in fresh:
        own = _own_id(mail)
        kept_free = own in reserved and Folder.SENT not in mail.folders
        if own is None or own in taken or kept_free:
            own = synthetic_id(mail.document_id, place.domain)
        chosen[mail.document_id] = own
        taken.add(own)
    return chosen


def _own_id(mail: Mail) -> str | None:
    if mail.message_id is None or not usable(mail.message_id):
        return None
    return None if SYNTHETIC.fullmatch(f"<{mail.message_id}>") else id_of(mail.message_id)


def id_of(message_id: str) -> str:
    """The id a mail with this Message-ID (no brackets) goes by: the same in brackets, or, where a path could
    not hold that, a digest of it, so that whoever knows the Message-ID still finds the mail.
    """
    own = f"<{message_id}>"
    if not _UNFIT_FOR_PATHS.search(own):
        return own
    digest = sha256(message_id.encode("utf-8", "replace")).hexdigest()[:32]
    return f"<digest-{digest}@message-id.invalid>"


def ids_of(message_id: str) -> tuple[str, ...]:
    """Every id a mail with this Message-ID (no brackets) may go by: earlier releases had no digests."""
    return tuple(dict.fromkeys((f"<{message_id}>", id_of(message_id))))


def usable(message_id: str | None) -> bool:
    """Whether a Message-ID is there, of a sane length, and of characters PostgreSQL can hold."""
    if not message_id or len(message_id) > LONGEST_ID:
        return False
    return clean(message_id) == message_id


def synthetic_id(document_id: DocumentId, domain: str) -> str:
    """The id of a message that cannot go by its Message-ID."""
    return f"<document-{document_id}@{domain}>"


def links(place: Place, mail: Mail) -> Links:
    """What decides the mail's thread: the ids it mentions, oldest first, and its own. A mail without a
    usable one is known by the id made for it, which answers to it mention.
    """
    own = mail.message_id or ""
    if not usable(own):
        own = synthetic_id(mail.document_id, place.domain).strip("<>")
    ids = dict.fromkeys([*_bounded(mail.references), *parents(mail), own])
    return Links(mail.document_id, tuple(ids), mail.received_at)


def _bounded(ids: Sequence[str]) -> list[str]:
    """The usable ids, the first and the last of them where there are too many."""
    every = [each for each in ids if usable(each)]
    if len(every) <= MOST_REFERENCES:
        return every
    return every[:10] + every[10 - MOST_REFERENCES :]


def row(
    place: Place,
    mail: Mail,
    thread_id: UUID,
    message_id: str,
    kept: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """The index row of a mail, bounded and cleaned. `kept` are labels it has whatever its keywords."""
    direction = _direction(mail)
    shown = labels.labels_of(
        direction=direction, folders=mail.folders, keywords=mail.keywords, kept=kept
    )
    in_reply_to = next((each for each in mail.in_reply_to if usable(each)), None)
    return {
        **contents(mail),
        "inbox_id": place.inbox_id,
        "document_id": mail.document_id,
        "organization_id": place.organization_id,
        "pod_id": place.pod_id,
        "thread_id": thread_id,
        "message_id": message_id,
        "direction": direction,
        "labels": list(shown),
        "kept_labels": labels.still_kept(kept, mail.keywords),
        "mask": mask_of(shown),
        "timestamp": mail.received_at,
        "sender": _shown(mail.sender) if mail.sender else "",
        "authentication": _checked(mail) if direction == "received" else None,
        "original_recipient": _recipient(mail) if direction == "received" else None,
        # The sender's secret: some servers forget to take it away.
        "bcc": _all_shown(mail.bcc) if direction == "sent" else [],
        "in_reply_to": f"<{in_reply_to}>" if in_reply_to else None,
    }


def contents(mail: Mail) -> dict[str, Any]:
    """The columns that messages and drafts have in common, bounded and cleaned."""
    return {
        "subject": None if mail.subject is None else _one_line(mail.subject)[:LONGEST_SUBJECT],
        "to": _all_shown(mail.to),
        "cc": _all_shown(mail.cc),
        "bcc": _all_shown(mail.bcc),
        "reply_to": _all_shown(mail.reply_to),
        "references": [f"<{each}>" for each in _bounded(mail.references)],
        "preview": clean(mail.preview)[:LONGEST_PREVIEW],
        "size": mail.size,
        "has_attachment": mail.has_attachment,
    }


def _direction(mail: Mail) -> Direction:
    own = Folder.SENT in mail.folders or labels.SENT_KEYWORD in mail.keywords
    return "sent" if own else "received"


def _checked(mail: Mail) -> str | None:
    """As JSON, what the mail server found out about who sent it."""
    found = authentication.read(mail.authentication_results)
    return msgspec.json.encode(found).decode() if found else None


def _recipient(mail: Mail) -> str | None:
    return _one_line(mail.original_recipient)[:LONGEST_ID] if mail.original_recipient else None


def _shown(address: Address) -> str:
    name = _one_line(address.name)[:LONGEST_NAME] if address.name else None
    return addresses.display(Address(_one_line(address.email)[:LONGEST_ID], name))


def _all_shown(several: Sequence[Address]) -> list[str]:
    return [_shown(each) for each in several[:MOST_ADDRESSES]]


def _one_line(text: str) -> str:
    """Text for a line of its own: a stranger's encoded words hold line breaks, too."""
    return addresses.tame(clean(text))


def clean(text: str | None) -> str:
    """Text PostgreSQL can hold: no NUL, no lone surrogate. Hostile mail has both."""
    return (text or "").replace("\x00", "").encode("utf-8", "replace").decode()


def mask_of(shown: Iterable[str]) -> int:
    """The hiding bits of a message with these labels."""
    return sum(bit for label, bit in HIDING.items() if label in set(shown))


def visible_masks(included: Iterable[str]) -> tuple[int, ...]:
    """Every mask a message may have to be listed when these hiding labels are included."""
    allowed = mask_of(included)
    return tuple(mask for mask in range(16) if mask & ~allowed == 0)
