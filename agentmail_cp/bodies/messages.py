"""Bodies of messages, one and many."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from agentmail_cp import codes, extract, links, messages, recipients
from agentmail_cp.authentication import Authentication
from agentmail_cp.bodies.attachments import AttachmentItem, attachment_items
from agentmail_cp.bodies.sends import Texts
from agentmail_cp.mailserver import Attachment, MailContent
from agentmail_cp.markup import Markup, read


class MessageItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A message in a list: everything but its bodies. Beyond the contract: `authentication` is there for
    mail that was checked when it came in from outside, `original_recipient` for mail that only came here by
    the domain's catch-all.
    """

    inbox_id: str
    thread_id: UUID
    message_id: str
    labels: list[str]
    timestamp: datetime
    sender: str = msgspec.field(name="from")
    to: list[str]
    size: int
    updated_at: datetime
    created_at: datetime
    cc: list[str] | None = None
    bcc: list[str] | None = None
    subject: str | None = None
    preview: str | None = None
    attachments: list[AttachmentItem] | None = None
    in_reply_to: str | None = None
    references: list[str] | None = None
    authentication: Authentication | None = None
    original_recipient: str | None = None


class ExtractedCode(msgspec.Struct, kw_only=True):
    """A one-time code as it is typed in. `confidence` is between 0 and 1."""

    code: str
    confidence: float


class ExtractedLink(msgspec.Struct, kw_only=True):
    """A link and the words it stands behind. `confidence`, between 0 and 1, says how sure it is that the
    message asks to follow it.
    """

    url: str
    text: str
    kind: links.Kind
    confidence: float


class MessageDelivery(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Where a sent message stands at one recipient. `unknown`: the mail server told nothing, and will not.
    `code` is an enhanced status code (RFC 3463) or an SMTP reply code.
    """

    address: str
    status: recipients.Status
    code: str | None = None
    diagnostic: str | None = None
    updated_at: datetime


class Message(MessageItem, omit_defaults=True, kw_only=True):
    """A whole message. Its codes and links are the surest first; `deliveries` has one that was sent and is
    asked for by itself.
    """

    extracted_codes: list[ExtractedCode]
    extracted_links: list[ExtractedLink]
    reply_to: list[str] | None = None
    text: str | None = None
    html: str | None = None
    extracted_text: str | None = None
    extracted_html: str | None = None
    deliveries: list[MessageDelivery] | None = None
    headers: dict[str, str] | None = None


class ListMessages(msgspec.Struct, omit_defaults=True):
    """One page of messages; `data` is seed 003's name for them."""

    count: int
    limit: int
    messages: list[MessageItem]
    data: list[MessageItem]
    next_page_token: str | None = None


class UpdateMessage(msgspec.Struct, kw_only=True):
    """`PATCH …/messages/{message_id}`. Null means: none."""

    add_labels: Texts = None
    remove_labels: Texts = None


class UpdateMessageResponse(msgspec.Struct):
    """All labels of a message after a change."""

    message_id: str
    labels: list[str]


class BatchGetMessages(msgspec.Struct, kw_only=True):
    """`POST …/messages/batch-get`. At most 500 ids, each once."""

    message_ids: list[str]


class BatchGetMessagesResponse(msgspec.Struct):
    """Those of the messages asked for that there are, in the order asked. `limit` is how many were
    asked for.
    """

    limit: int
    count: int
    messages: list[MessageItem]


class BatchUpdateMessages(UpdateMessage, kw_only=True):
    """`POST …/messages/batch-update`. At most 50 ids, each once."""

    message_ids: list[str]


class BatchUpdateMessagesResponse(msgspec.Struct):
    """All labels of the messages after a change, in the order asked."""

    limit: int
    count: int
    updates: list[UpdateMessageResponse]


def message_item(
    row: messages.Message, address: str, attached: Iterable[Attachment] = ()
) -> MessageItem:
    """A message for a list, with what it has attached."""
    return MessageItem(**message_fields(row, address, attached))


def message_fields(
    row: messages.Message, address: str, attached: Iterable[Attachment]
) -> dict[str, Any]:
    """What every form of a message shows, by field."""
    return {
        "inbox_id": address,
        "thread_id": row.thread_id,
        "message_id": row.message_id,
        "labels": row.labels,
        "timestamp": row.timestamp,
        "sender": row.sender,
        "to": row.to,
        "size": row.size,
        "updated_at": row.updated_at,
        "created_at": row.created_at,
        "cc": row.cc or None,
        "bcc": row.bcc or None,
        "subject": row.subject,
        "preview": row.preview or None,
        "attachments": attachment_items(row.inbox_id, row.document_id, attached),
        "in_reply_to": row.in_reply_to,
        "references": row.references or None,
        "authentication": row.authentication,
        "original_recipient": row.original_recipient,
    }


def message_delivery(standing: recipients.Recipient) -> MessageDelivery:
    """Where a message stands at a recipient."""
    return MessageDelivery(**msgspec.structs.asdict(standing))


def message_without_content(row: messages.Message, address: str) -> Message:
    """A message whose text, HTML and headers cannot be had, with all that the index knows of it."""
    return Message(
        **message_fields(row, address, ()),
        reply_to=row.reply_to or None,
        extracted_codes=[],
        extracted_links=[],
    )


def message(row: messages.Message, address: str, content: MailContent) -> Message:
    """A whole message. Takes time on a large one: call it off the event loop."""
    text = content.text
    if text is None and content.html is not None:
        text = extract.text_of(content.html)
    new_text = extract.reply_text(text) if text else None
    new_html = extract.reply_html(content.html) if content.html else None
    markup = read(new_html) if new_html else None
    return Message(
        **message_fields(row, address, content.attachments),
        reply_to=row.reply_to or None,
        text=text,
        html=content.html,
        extracted_text=new_text,
        extracted_html=new_html,
        extracted_codes=_codes(row.subject, new_text, markup),
        extracted_links=_links(new_text, markup),
        headers=dict(content.headers),
    )


def _codes(subject: str | None, text: str | None, markup: Markup | None) -> list[ExtractedCode]:
    found = codes.find(subject or "", text or "", *([markup.text] if markup else []))
    return [ExtractedCode(code=each.code, confidence=each.confidence) for each in found]


def _links(text: str | None, markup: Markup | None) -> list[ExtractedLink]:
    return [
        ExtractedLink(url=each.url, text=each.text, kind=each.kind, confidence=each.confidence)
        for each in links.find(text or "", markup)
    ]
