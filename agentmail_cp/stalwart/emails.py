"""What Stalwart says of mails, and the port's words for it. Pure.

Owns the shapes of `Email/get` and `Email/changes` answers (RFC 8621 section 4), the properties that are
asked for, and how they become `Mail` and `MailContent`. Asks for nothing itself: `mail.py` does.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from agentmail_cp import decoding
from agentmail_cp.mailserver import (
    Address,
    Attachment,
    BlobId,
    Mail,
    MailContent,
    MailState,
    ReportType,
)
from agentmail_cp.stalwart.ids import document_of
from agentmail_cp.stalwart.mime import header_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentmail_cp.stalwart.folders import Places

PREVIEW: Final = 200
MOST_SUBJECT: Final = 131_072
"""Characters of a raw subject that are decoded: more than any that is kept of it takes."""
LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)

MAIL: Final = (
    "id",
    "mailboxIds",
    "keywords",
    "receivedAt",
    "sentAt",
    "messageId",
    "inReplyTo",
    "references",
    "header:Subject",
    "from",
    "to",
    "cc",
    "bcc",
    "replyTo",
    "size",
    "preview",
    "textBody",
    "htmlBody",
    "attachments",
    "header:Authentication-Results:all",
    "header:X-Agentmail-Original-Recipient:asText",
)
"""Properties of `Mail`; the parts tell which mails are HTML only and which have attachments.
`hasAttachment` is not asked for: to it, inline pictures are none.
"""

LEAF: Final = ("partId", "type")
"""What is asked of each body part of `MAIL`."""

CONTENT: Final = ("id", "blobId", "headers", "textBody", "htmlBody", "attachments", "bodyValues")
ATTACHED: Final = ("id", "textBody", "htmlBody", "attachments")
PART: Final = ("partId", "blobId", "size", "type", "name", "cid", "disposition", "charset")


REPORTS: Final = {
    "message/delivery-status": ReportType.DELIVERY_STATUS,
    "message/global-delivery-status": ReportType.DELIVERY_STATUS,
    "message/feedback-report": ReportType.FEEDBACK,
}
"""The part that makes a mail a report (RFC 3464, 6533 and 5965)."""

LOST: Final = frozenset({"cannotCalculateChanges", "invalidArguments"})
"""Stalwart's answers to a state it forgot or never gave out."""


class Page(msgspec.Struct, rename="camel"):
    """One answer of Email/changes (RFC 8620 section 5.2)."""

    new_state: MailState
    has_more_changes: bool
    created: list[str]
    updated: list[str]
    destroyed: list[str]


class Leaf(msgspec.Struct, frozen=True, rename="camel"):
    """A body part as `MAIL` asks for it."""

    part_id: str | None
    type: str


class _Address(msgspec.Struct):
    email: str | None = None
    name: str | None = None


class Email(msgspec.Struct, rename="camel"):
    """A mail as `MAIL` and `LEAF` ask for it."""

    id: str
    mailbox_ids: dict[str, bool]
    keywords: dict[str, bool]
    received_at: str
    size: int
    text_body: list[Leaf]
    html_body: list[Leaf]
    attachments: list[Leaf]
    sent_at: str | None = None
    message_id: list[str] | None = None
    in_reply_to: list[str] | None = None
    references: list[str] | None = None
    subject: str | None = msgspec.field(default=None, name="header:Subject")
    sender: list[_Address] | None = msgspec.field(default=None, name="from")
    to: list[_Address] | None = None
    cc: list[_Address] | None = None
    bcc: list[_Address] | None = None
    reply_to: list[_Address] | None = None
    preview: str | None = None
    authentication_results: list[str] = msgspec.field(
        default=[], name="header:Authentication-Results:all"
    )
    original_recipient: str | None = msgspec.field(
        default=None, name="header:X-Agentmail-Original-Recipient:asText"
    )

    @property
    def html_shown(self) -> str | None:
        """The part id of the HTML that stands where text would, None when the mail begins with text."""
        texts = (part for part in self.text_body if part.type.startswith("text/"))
        first = next(texts, None)
        return first.part_id if first is not None and first.type == "text/html" else None

    @property
    def report(self) -> ReportType | None:
        """What a part of the mail claims to report."""
        return next((REPORTS[part.type] for part in self.attachments if part.type in REPORTS), None)

    @property
    def shows_media(self) -> bool:
        """Whether something else than text stands among the bodies."""
        return not all(part.type.startswith("text/") for part in (*self.text_body, *self.html_body))


class Keywords(msgspec.Struct):
    """The keywords of a mail in Stalwart's spelling."""

    id: str
    keywords: dict[str, bool]


class _Header(msgspec.Struct):
    name: str
    value: str


class _Part(msgspec.Struct, rename="camel"):
    part_id: str | None
    size: int
    type: str
    blob_id: str | None = None
    name: str | None = None
    cid: str | None = None
    disposition: str | None = None
    charset: str | None = None


class Value(msgspec.Struct, rename="camel"):
    """The text of a body part."""

    value: str
    is_encoding_problem: bool = False


class Attached(msgspec.Struct, rename="camel"):
    """A mail as `ATTACHED` and `PART` ask for it."""

    id: str
    text_body: list[_Part]
    html_body: list[_Part]
    attachments: list[_Part]


class Content(Attached, kw_only=True, rename="camel"):
    """A mail as `CONTENT` and `PART` ask for it."""

    blob_id: str
    headers: list[_Header]
    body_values: dict[str, Value]


class QueryPage(msgspec.Struct, rename="camel"):
    """One answer of Email/query (RFC 8620 section 5.5)."""

    query_state: MailState
    ids: list[str]
    total: int


class Found(msgspec.Struct):
    """What an Email/query with a filter found."""

    ids: list[str]


class Shown(msgspec.Struct, rename="camel"):
    """The body parts shown as text, with `LEAF` of each, and their texts."""

    id: str
    text_body: list[Leaf]
    body_values: dict[str, Value]


class Bodies(msgspec.Struct, rename="camel"):
    """The texts of a mail's body parts."""

    id: str
    body_values: dict[str, Value]


def mail_of(email: Email, places: Places, preview: str | None) -> Mail:
    """The mail in the port's words, rid of what the server did not write (`trace.py`). `preview` replaces
    Stalwart's own, which glues words together where HTML has a tag between them.
    """
    senders = _addresses(email.sender)
    message_ids = _message_ids(email.message_id)
    return Mail(
        document_id=document_of(email.id),
        folders=places.folders(email.mailbox_ids),
        keywords=frozenset(keyword.lower() for keyword in email.keywords),
        received_at=_moment(email.received_at) or LONG_AGO,
        sent_at=_moment(email.sent_at),
        message_id=message_ids[0] if message_ids else None,
        in_reply_to=_message_ids(email.in_reply_to),
        references=_message_ids(email.references),
        # Stalwart's own would be two halves of a character that a sender cut in two encoded words.
        subject=_text(header_text((email.subject or "")[:MOST_SUBJECT])) or None,
        sender=senders[0] if senders else None,
        to=_addresses(email.to),
        cc=_addresses(email.cc),
        bcc=_addresses(email.bcc),
        reply_to=_addresses(email.reply_to),
        size=email.size,
        has_attachment=bool(email.attachments) or email.shows_media,
        preview=preview or " ".join(_text(email.preview or "").split())[:PREVIEW],
        report=email.report,
        authentication_results=tuple(map(_text, email.authentication_results)),
        original_recipient=_text(email.original_recipient or "").strip().lower() or None,
    )


def _addresses(found: Sequence[_Address] | None) -> tuple[Address, ...]:
    return tuple(
        Address(_text(address.email), _text(address.name) if address.name else None)
        for address in found or ()
        if address.email
    )


def _message_ids(found: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(_text(each) for each in found or () if each)


def _text(value: str) -> str:
    """U+0000 is in no real text, but in mails made to break what reads them."""
    return value.replace("\0", "")


def _moment(text: str | None) -> datetime | None:
    """A moment in UTC, None for one that no calendar has: Date headers hold anything."""
    if text is None:
        return None
    try:
        return msgspec.convert(text, datetime).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        return None


def content_of(content: Content) -> MailContent:
    """What the mail says, in the port's words."""
    # Stalwart gives a mail that ends with its headers no part at all.
    has_parts = bool(content.text_body or content.html_body or content.attachments)
    return MailContent(
        document_id=document_of(content.id),
        raw_blob_id=BlobId(content.blob_id),
        headers=tuple((each.name, _text(header_text(each.value))) for each in content.headers),
        text=_body(content.text_body, "text/plain", content.body_values) if has_parts else "",
        html=_body(content.html_body, "text/html", content.body_values),
        attachments=attached_to(content),
    )


def length(content: Content) -> int:
    """Characters of headers and bodies."""
    headers = sum(len(each.value) for each in content.headers)
    return headers + sum(len(each.value) for each in content.body_values.values())


def attached_to(mail: Attached) -> tuple[Attachment, ...]:
    """What the mail has attached, in document order."""
    parts = {part.part_id: part for part in (*_media(mail), *mail.attachments)}
    return tuple(
        _attachment(part) for part in sorted(parts.values(), key=_position) if part.blob_id
    )


def _media(mail: Attached) -> list[_Part]:
    """Inline pictures outside multipart/related, which are in the body lists only (RFC 8621 section
    4.1.4).
    """
    return [p for p in (*mail.text_body, *mail.html_body) if not p.type.startswith("text/")]


def _body(parts: Sequence[_Part], content_type: str, values: Mapping[str, Value]) -> str | None:
    """The parts of this type in order, None when there is none: HTML stands in for missing text."""
    texts = [
        _shown(part, values[part.part_id].value)
        for part in parts
        if part.type == content_type and part.part_id is not None and part.part_id in values
    ]
    return "\n".join(texts) if texts else None


def _shown(part: _Part, value: str) -> str:
    """A text, without what Stalwart 0.16 makes of UTF-8 that is called ASCII: it reads Windows-1252."""
    return _text(decoding.reread(value) if part.charset == "us-ascii" else value)


def undecoded(content: Content) -> list[str]:
    """The texts Stalwart could not decode, by part id: it stops at the first byte that is wrong, and
    shows broken base64 as it is, broken quoted-printable not at all.
    """
    values = content.body_values
    return [
        part.part_id
        for part in {
            each.part_id: each for each in (*content.text_body, *content.html_body)
        }.values()
        if part.part_id is not None
        and (value := values.get(part.part_id)) is not None
        and (value.is_encoding_problem or (part.size and not value.value))
    ]


def _position(part: _Part) -> int:
    """Stalwart's part ids are the parts' numbers in document order."""
    return int(part.part_id) if part.part_id and part.part_id.isdecimal() else 0


def _attachment(part: _Part) -> Attachment:
    return Attachment(
        part_id=part.part_id or "",
        blob_id=BlobId(part.blob_id or ""),
        size=part.size,
        content_type=part.type,
        filename=part.name,
        content_id=part.cid,
        inline=part.disposition == "inline" or (part.disposition is None and part.cid is not None),
        # Stalwart says so of every text that does not say what it is written in.
        charset=None if part.charset == "us-ascii" else part.charset,
    )
