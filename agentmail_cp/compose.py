"""From what a caller wants sent to a finished mail: every header of outgoing mail is decided here.

`In-Reply-To` and `References` are written in this module and nowhere else (RFC 5322 section 3.6.4): by
`reply_headers` for answers, or taken from a caller's own headers so that they thread. Time, ids and
randomness come in as arguments; this module does no I/O and never looks at a stored mail.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from random import Random

import msgspec

from agentmail_cp import labels
from agentmail_cp.addresses import check_name, one_line
from agentmail_cp.errors import Invalid, Unprocessable
from agentmail_cp.mailserver import Address, OutgoingAttachment, OutgoingEmail

MAX_RECIPIENTS = 50
"""Addresses over to, cc and bcc."""

MAX_SUBJECT = 998
"""Characters in a subject."""

MAX_HEADERS = 50
"""Headers of the caller's own."""

MAX_HEADER_NAME = 76
MAX_HEADER_VALUE = 998
"""Bytes in the value of a header of the caller's own (RFC 5322 section 2.1.1)."""

MAX_REFERENCES = 900
"""Characters in References; a line, its name included, holds 998 (RFC 5322 section 2.1.1)."""

_TOKEN = re.compile(r"[!-9;-~]+")
_BRACKETED = re.compile(r"<([^<>]*)>")
_UNFIT_FOR_ID = re.compile(r"[\s\x00-\x1f\x7f<>]+")
_ID_ALPHABET = string.ascii_lowercase + string.digits

_FIX_FOR_HEADER = {
    "from": "Leave it out: From is the inbox; its display_name can be changed.",
    "to": "Use the field to.",
    "cc": "Use the field cc.",
    "bcc": "Use the field bcc.",
    "reply-to": "Use the field reply_to.",
    "subject": "Use the field subject.",
}
_SET_BY_SERVER = frozenset(
    {"sender", "date", "message-id", "mime-version", "received", "return-path"}
    | {"dkim-signature", "authentication-results"}
)
_SET_BY_SERVER_PREFIXES = ("content-", "resent-", "arc-")


class SendMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A new mail as a caller wants it: addresses parsed, attachments uploaded."""

    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    labels: tuple[str, ...] = ()
    attachments: tuple[OutgoingAttachment, ...] = ()


class Stamp(msgspec.Struct, frozen=True):
    """What makes a mail this one: who writes it (the inbox and its display name), under which
    Message-ID (no brackets), and when (aware, in whole seconds).
    """

    sender: Address
    message_id: str
    date: datetime


def compose_send(message: SendMessage, stamp: Stamp) -> OutgoingEmail:
    """The finished mail.

    Raises `Unprocessable` without a recipient, and `Invalid`: TOO_MANY_RECIPIENTS, HEADER_INJECTION,
    SUBJECT_TOO_LONG, NAME_TOO_LONG, INVALID_HEADER_NAME, RESERVED_HEADER, HEADER_TOO_LONG,
    TOO_MANY_HEADERS, INVALID_MESSAGE_ID, and those of `labels.for_send`.
    """
    own, in_reply_to, references = _own_headers(message.headers)
    return OutgoingEmail(
        message_id=stamp.message_id,
        date=stamp.date,
        sender=_checked(stamp.sender, "display_name"),
        to=_checked_all(message.to, "to"),
        cc=_checked_all(message.cc, "cc"),
        bcc=_checked_all(message.bcc, "bcc"),
        reply_to=_checked_all(message.reply_to, "reply_to"),
        subject=_subject(message.subject),
        text=_text(message.text, "text"),
        html=_text(message.html, "html"),
        in_reply_to=in_reply_to,
        references=references,
        headers=own,
        attachments=message.attachments,
        keywords=_keywords(message.labels),
        recipients=_recipients(message),
    )


def new_message_id(domain: str, rng: Random) -> str:
    """A Message-ID without brackets: short, as language models misremember the ends of long ones."""
    return "".join(rng.choices(_ID_ALPHABET, k=16)) + f"@{domain}"


def reply_headers(
    parent_message_id: str, parent_references: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`In-Reply-To` and `References` of an answer (RFC 5322 section 3.6.4), ids without brackets.

    References are the parent's own and then the parent, each once. When they would pass
    `MAX_REFERENCES` the oldest, which names the conversation, and the newest stay.
    """
    parent = _bare(parent_message_id)
    older = [id_ for id_ in _distinct(parent_references) if id_ != parent]
    return (parent,), _fit((*older, parent))


def parse_message_ids(text: str) -> tuple[str, ...]:
    """The message ids in a header, without brackets, each once, in order.

    Tolerant: rubbish between ids is skipped, white space inside one is dropped (bad folding), and a
    header without any bracket is read as words with an `@`. Never raises.
    """
    bracketed = tuple(_distinct(_BRACKETED.findall(text)))
    if bracketed:
        return bracketed
    return tuple(_distinct(word for word in re.split(r"[\s,;<>]+", text) if "@" in word))


def fingerprint(inbox_id: str, endpoint: str, body: object) -> bytes:
    """What tells a repeated request from another one under the same Idempotency-Key: SHA-256 over its
    canonical JSON, in which the order of keys does not count.
    """
    return sha256(
        msgspec.json.encode([inbox_id, endpoint, body], order="deterministic"),
    ).digest()


def _recipients(message: SendMessage) -> tuple[str, ...]:
    everyone = (*message.to, *message.cc, *message.bcc)
    if not everyone:
        raise Unprocessable(
            "This message has no recipient.",
            fix="Give at least one address in to, cc or bcc.",
            field="to",
        )
    if len(everyone) > MAX_RECIPIENTS:
        raise Invalid(
            "to",
            f"This message has {len(everyone)} recipients over to, cc and bcc.",
            fix=f"Send to at most {MAX_RECIPIENTS} at a time.",
            detail="TOO_MANY_RECIPIENTS",
        )
    distinct: dict[str, str] = {}
    for address in everyone:
        distinct.setdefault(_same_mailbox(address.email), address.email)
    return tuple(distinct.values())


def _same_mailbox(email: str) -> str:
    local, _, domain = email.rpartition("@")
    return f"{local}@{domain.lower()}"


def _keywords(names: tuple[str, ...]) -> frozenset[str]:
    own = {labels.encode(label) for label in labels.for_send(names)}
    return frozenset({labels.SENT_KEYWORD, *own})


def _subject(text: str) -> str:
    one_line(text, "subject")
    if len(text) > MAX_SUBJECT:
        raise Invalid(
            "subject",
            f"This subject has {len(text)} characters.",
            fix=f"Use at most {MAX_SUBJECT}.",
            detail="SUBJECT_TOO_LONG",
        )
    return text


def _text(text: str | None, field: str) -> str | None:
    """A body. RFC 5322 section 2.3 allows no NUL, and many mail clients end the text there."""
    if text is not None and "\0" in text:
        raise Invalid(field, f"{field} holds a NUL character.", fix="Remove it.")
    return text


def _checked(address: Address, field: str) -> Address:
    one_line(address.email, field)
    return Address(address.email, check_name(address.name or "", field) or None)


def _checked_all(addresses: tuple[Address, ...], field: str) -> tuple[Address, ...]:
    return tuple(_checked(address, field) for address in addresses)


def _own_headers(
    headers: Mapping[str, str],
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]:
    """The caller's headers, checked, with `In-Reply-To` and `References` taken out and parsed."""
    if len(headers) > MAX_HEADERS:
        raise Invalid(
            "headers",
            f"There are {len(headers)} headers.",
            fix=f"Use at most {MAX_HEADERS}.",
            detail="TOO_MANY_HEADERS",
        )
    own: list[tuple[str, str]] = []
    ids: dict[str, tuple[str, ...]] = {}
    for name, value in headers.items():
        field = f"headers.{name[:MAX_HEADER_NAME]}"
        _check_header(name, value, field)
        if name.lower() in {"in-reply-to", "references"}:
            ids[name.lower()] = _given_ids(value, field)
        else:
            own.append((name, value.strip()))
    return tuple(own), ids.get("in-reply-to", ()), _fit(ids.get("references", ()))


def _check_header(name: str, value: str, field: str) -> None:
    one_line(name, "headers")
    one_line(value, field)
    if not _TOKEN.fullmatch(name):
        raise Invalid(
            field,
            f"{name[:MAX_HEADER_NAME]!r} cannot be the name of a header.",
            fix="Use letters, digits and hyphens, like X-Campaign.",
            detail="INVALID_HEADER_NAME",
        )
    _check_not_reserved(name, field)
    if len(name) > MAX_HEADER_NAME or len(value.encode()) > MAX_HEADER_VALUE:
        raise Invalid(
            field,
            "This header is too long.",
            fix=f"Use at most {MAX_HEADER_NAME} bytes in its name, {MAX_HEADER_VALUE} in its value.",
            detail="HEADER_TOO_LONG",
        )


def _check_not_reserved(name: str, field: str) -> None:
    lower = name.lower()
    fix = _FIX_FOR_HEADER.get(lower)
    if fix is None and (lower in _SET_BY_SERVER or lower.startswith(_SET_BY_SERVER_PREFIXES)):
        fix = "Leave it out: the server sets it."
    if fix:
        raise Invalid(
            field, f"The header {name} cannot be set here.", fix=fix, detail="RESERVED_HEADER"
        )


def _given_ids(value: str, field: str) -> tuple[str, ...]:
    ids = parse_message_ids(value)
    if not ids:
        raise Invalid(
            field,
            "This header holds no message id.",
            fix="Write ids like <k3v9x2m4q8w1z7t5@example.com>, parted by spaces.",
            detail="INVALID_MESSAGE_ID",
        )
    return ids


def _fit(ids: tuple[str, ...]) -> tuple[str, ...]:
    """Drop ids after the first until the header fits; the last always stays."""
    if _width(ids) <= MAX_REFERENCES:
        return ids
    root, *rest = ids
    while len(rest) > 1 and _width((root, *rest)) > MAX_REFERENCES:
        rest.pop(0)
    kept = (root, *rest)
    return kept if _width(kept) <= MAX_REFERENCES else kept[-1:]


def _width(ids: Iterable[str]) -> int:
    """Bytes of the ids with their brackets, parted by one space each."""
    return sum(len(id_.encode()) + 3 for id_ in ids) - 1


def _distinct(ids: Iterable[str]) -> Iterator[str]:
    return iter(dict.fromkeys(bare for id_ in ids if (bare := _bare(id_))))


def _bare(message_id: str) -> str:
    return _UNFIT_FOR_ID.sub("", message_id)
