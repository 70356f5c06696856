"""A mail as its author wants it, what is checked of it, and the finished mail it becomes.

Owns every limit on outgoing mail and which headers a caller may set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, cast

import msgspec

from agentmail_cp import labels
from agentmail_cp.addresses import MAX_RECIPIENTS, check_name, one_line
from agentmail_cp.compose.ids import fit, parse_message_ids
from agentmail_cp.compose.subjects import MAX_SUBJECT
from agentmail_cp.errors import Invalid, Unprocessable
from agentmail_cp.mailserver import Address, OutgoingAttachment, OutgoingEmail

MAX_HEADERS = 50
"""Headers of the caller's own."""

MAX_ATTACHMENTS = 100
"""Attachments a caller may give a message, or a draft with those it has."""

MAX_HEADER_NAME = 76
MAX_HEADER_VALUE = 998
"""Bytes in the value of a header of the caller's own (RFC 5322 section 2.1.1)."""

MEDIA_TYPE = re.compile(
    r"(?!multipart/)[a-z0-9][\w.+-]*/[a-z0-9][\w.+-]*", re.ASCII | re.IGNORECASE
)
"""The type of an attachment without parameters (RFC 2045 section 5.1). A multipart is made of parts, so
no bytes can be one.
"""

CONTENT_ID = re.compile(r"[!-;=?-~]{1,255}")
"""The id of an attachment without brackets (RFC 2045 section 7)."""

THREADING = frozenset({"in-reply-to", "references"})
"""Headers a caller may set on a new mail only."""

_EXACT = 2**53
"""Up to here every whole number is a float of its own."""

_TOKEN = re.compile(r"[!-9;-~]+")

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


def compose_send(message: SendMessage, stamp: Stamp, *, draft: bool = False) -> OutgoingEmail:
    """A new mail; `In-Reply-To` and `References` among the caller's own headers are taken over.

    Raises as `finished`, and `Invalid` INVALID_MESSAGE_ID.
    """
    _, in_reply_to, references = own_headers(message.headers)
    return finished(message, stamp, in_reply_to=in_reply_to, references=references, draft=draft)


def finished(
    message: SendMessage,
    stamp: Stamp,
    *,
    in_reply_to: tuple[str, ...],
    references: tuple[str, ...],
    draft: bool,
) -> OutgoingEmail:
    """The mail with every header decided. A `draft` may lack recipients and is not marked as sent.

    Raises `Unprocessable` without a recipient, and `Invalid`: TOO_MANY_RECIPIENTS, HEADER_INJECTION,
    SUBJECT_TOO_LONG, NAME_TOO_LONG, INVALID_HEADER_NAME, RESERVED_HEADER, HEADER_TOO_LONG,
    TOO_MANY_HEADERS, and those of `labels.for_send`.
    """
    headers, _, _ = own_headers(message.headers)
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
        headers=headers,
        attachments=message.attachments,
        keywords=_keywords(message.labels, draft=draft),
        recipients=_recipients(message, draft=draft),
    )


def fingerprint(place: str, endpoint: str, body: object) -> bytes:
    """What tells a repeated request from another one under the same Idempotency-Key: SHA-256 over its
    canonical JSON, in which the order of keys does not count, nor how a number or bytes were written.
    """
    plain = msgspec.to_builtins([place, endpoint, body], builtin_types=(bytes,))
    return sha256(msgspec.json.encode(_canonical(plain), order="deterministic")).digest()


def _canonical(value: Any) -> Any:
    """The same value with 1.0 as 1, as SDKs write one for the other, and each run of bytes, which may be
    megabytes, replaced by its digest.
    """
    match value:
        case bytes():
            return {"sha256": sha256(value).hexdigest()}
        case float() if value.is_integer() and abs(value) < _EXACT:
            return int(value)
        case dict():
            items = cast("dict[str, Any]", value).items()
            return {name: _canonical(each) for name, each in items}
        case list() | tuple():
            return [_canonical(each) for each in cast("list[Any]", value)]
        case _:
            return value


def _recipients(message: SendMessage, *, draft: bool) -> tuple[str, ...]:
    everyone = (*message.to, *message.cc, *message.bcc)
    if not everyone and not draft:
        raise Unprocessable(
            "This message has no recipient.",
            fix="Give at least one address in to, cc or bcc.",
            field="to",
            detail="REQUIRED",
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


def _keywords(names: tuple[str, ...], *, draft: bool) -> frozenset[str]:
    own = frozenset(labels.encode(label) for label in labels.for_send(names))
    return own if draft else own | {labels.SENT_KEYWORD}


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


def own_headers(
    headers: Mapping[str, str],
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]:
    """The caller's headers, checked, with `In-Reply-To` and `References` taken out and parsed."""
    ensure_few_headers(len(headers))
    own: list[tuple[str, str]] = []
    ids: dict[str, tuple[str, ...]] = {}
    for name, value in headers.items():
        field = f"headers.{name[:MAX_HEADER_NAME]}"
        check_header(name, value, field)
        if name.lower() in THREADING:
            ids[name.lower()] = _given_ids(value, field)
        else:
            own.append((name, value.strip()))
    return tuple(own), ids.get("in-reply-to", ()), fit(ids.get("references", ()))


def ensure_few_headers(count: int) -> None:
    """Raise `Invalid` TOO_MANY_HEADERS for more headers of the caller's own than a mail may have."""
    if count > MAX_HEADERS:
        raise Invalid(
            "headers",
            f"There are {count} headers.",
            fix=f"Use at most {MAX_HEADERS}.",
            detail="TOO_MANY_HEADERS",
        )


def ensure_few_attachments(count: int, field: str) -> None:
    """Raise `Invalid` TOO_MANY_ATTACHMENTS for more than a mail may have; each takes its time on the way."""
    if count > MAX_ATTACHMENTS:
        raise Invalid(
            field,
            f"There are {count} attachments.",
            fix=f"Use at most {MAX_ATTACHMENTS}, or put the files into an archive.",
            detail="TOO_MANY_ATTACHMENTS",
        )


def check_header(name: str, value: str, field: str) -> None:
    """Raise `Invalid` for what cannot be a header of the caller's own."""
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
