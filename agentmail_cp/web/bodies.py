"""Bodies of requests and answers, field by field as the official SDKs and the seeds spell them.

Answers carry the SDKs' fields and, beside them, the seeds' own spellings. Fields without a value are left
out. Requests take a text or a list wherever the contract does, and ignore fields they do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import access, extract, inboxes, messages, sending, threads
from agentmail_cp.mailserver import Attachment, MailContent
from agentmail_cp.settings import Settings

Texts = str | list[str] | None


class CreateInbox(msgspec.Struct, kw_only=True):
    """`POST /v0/inboxes`. Everything may be left out."""

    username: str | None = None
    domain: str | None = None
    display_name: str | None = None
    client_id: str | None = None
    metadata: dict[str, str | int | float | bool | None] | None = None
    status: Literal["active"] | None = None


class UpdateInbox(msgspec.Struct, kw_only=True):
    """`PATCH /v0/inboxes/{inbox_id}`."""

    display_name: str | UnsetType | None = UNSET
    metadata: dict[str, str | int | float | bool | None] | UnsetType | None = UNSET


class Endpoint(msgspec.Struct):
    """Where a mail client connects. `tls` is `implicit`, `starttls` or `none`."""

    host: str
    port: int
    tls: str


class Credentials(msgspec.Struct):
    """How a mail client gets into the inbox. The password is shown here and never again."""

    username: str
    password: str
    imap: Endpoint
    smtp: Endpoint


class Inbox(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An inbox. `inbox_id`, `email` and `email_address` are the address; `id` is its `inb_…` form."""

    inbox_id: str
    email: str
    email_address: str
    id: str
    pod_id: UUID
    username: str
    domain: str
    created_at: datetime
    updated_at: datetime
    send_paused: bool | None = None
    display_name: str | None = None
    client_id: str | None = None
    metadata: dict[str, Any] | None = None
    credentials: Credentials | None = None


class ListInboxes(msgspec.Struct, omit_defaults=True):
    """One page of inboxes; `data` is seed 003's name for them."""

    count: int
    limit: int
    inboxes: list[Inbox]
    data: list[Inbox]
    next_page_token: str | None = None


def inbox(found: inboxes.Inbox, credentials: Credentials | None = None) -> Inbox:
    """An inbox as callers see it."""
    return Inbox(
        inbox_id=found.address,
        email=found.address,
        email_address=found.address,
        id=inboxes.public_id(found.inbox_id),
        pod_id=found.pod_id,
        username=found.username,
        domain=found.domain,
        created_at=found.created_at,
        updated_at=found.updated_at,
        send_paused=False,
        display_name=found.display_name,
        client_id=found.client_id,
        metadata=found.metadata or None,
        credentials=credentials,
    )


def credentials(created: inboxes.Created, settings: Settings, host: str) -> Credentials | None:
    """What a mail client needs, when this answer is the one that may tell the password."""
    if created.password is None:
        return None
    return Credentials(
        username=created.inbox.address,
        password=created.password,
        imap=Endpoint(settings.imap_host or host, settings.imap_port, settings.imap_tls),
        smtp=Endpoint(settings.smtp_host or host, settings.smtp_port, settings.smtp_tls),
    )


class SendAttachment(msgspec.Struct, kw_only=True):
    """An attachment to send: `content` is base64."""

    content: str | None = None
    url: str | None = None
    filename: str | None = None
    content_type: str | None = None
    content_disposition: Literal["inline", "attachment"] | None = None
    content_id: str | None = None


class SendMessage(msgspec.Struct, kw_only=True):
    """`POST …/messages/send`. Addresses are `a@b.c` or `Name <a@b.c>`, one or several."""

    to: Texts = None
    cc: Texts = None
    bcc: Texts = None
    reply_to: Texts = None
    subject: str | None = None
    text: str | None = None
    html: str | None = None
    labels: Texts = None
    headers: dict[str, str] | None = None
    attachments: list[SendAttachment] | None = None
    track_opens: bool | None = None


class RejectedRecipient(msgspec.Struct):
    """A recipient the mail server did not take."""

    address: str
    reason: str


class SendMessageResponse(msgspec.Struct, omit_defaults=True):
    """A mail that was handed in. `rejected` names recipients it was not handed in for."""

    message_id: str
    thread_id: UUID
    rejected: list[RejectedRecipient] = msgspec.field(default_factory=list[RejectedRecipient])


def sent(answer: sending.Answer) -> SendMessageResponse:
    """The answer of a send."""
    rejected = [RejectedRecipient(each.address, each.reason) for each in answer.rejected]
    return SendMessageResponse(answer.message_id, answer.thread_id, rejected)


class AttachmentItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a message says of an attachment."""

    attachment_id: UUID
    size: int
    filename: str | None = None
    content_type: str | None = None
    content_disposition: str | None = None
    content_id: str | None = None


class MessageItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A message in a list: everything but its bodies."""

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


class Message(MessageItem, omit_defaults=True, kw_only=True):
    """A whole message."""

    reply_to: list[str] | None = None
    text: str | None = None
    html: str | None = None
    extracted_text: str | None = None
    extracted_html: str | None = None
    headers: dict[str, str] | None = None


class ListMessages(msgspec.Struct, omit_defaults=True):
    """One page of messages."""

    count: int
    limit: int
    messages: list[MessageItem]
    next_page_token: str | None = None


class UpdateMessage(msgspec.Struct, kw_only=True):
    """`PATCH …/messages/{message_id}`. Null means: none."""

    add_labels: Texts = None
    remove_labels: Texts = None


class UpdateMessageResponse(msgspec.Struct):
    """All labels of a message after a change."""

    message_id: str
    labels: list[str]


def message_item(
    row: messages.Message, address: str, content: MailContent | None = None
) -> MessageItem:
    """A message for a list; `content` only where its attachments are to be shown."""
    return MessageItem(**_shown(row, address, content))


def _shown(row: messages.Message, address: str, content: MailContent | None) -> dict[str, Any]:
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
        "attachments": _attachments(row, content.attachments if content else ()),
        "in_reply_to": row.in_reply_to,
        "references": row.references or None,
    }


def _attachments(
    row: messages.Message, attachments: Iterable[Attachment]
) -> list[AttachmentItem] | None:
    shown = [
        AttachmentItem(
            attachment_id=uuid5(row.inbox_id, f"{row.document_id}/{each.part_id}"),
            size=each.size,
            filename=each.filename,
            content_type=each.content_type,
            content_disposition="inline" if each.inline else "attachment",
            content_id=each.content_id,
        )
        for each in attachments
    ]
    return shown or None


def message(row: messages.Message, address: str, content: MailContent) -> Message:
    """A whole message. Takes time on a large one: call it off the event loop."""
    text = content.text
    if text is None and content.html is not None:
        text = extract.text_of(content.html)
    return Message(
        **_shown(row, address, content),
        reply_to=row.reply_to or None,
        text=text,
        html=content.html,
        extracted_text=extract.reply_text(text) if text else None,
        extracted_html=extract.reply_html(content.html) if content.html else None,
        headers=dict(content.headers),
    )


class ThreadItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A conversation in a list, with seed 001's `participants` and `last_message_at`."""

    inbox_id: str
    thread_id: UUID
    labels: list[str]
    timestamp: datetime
    last_message_at: datetime
    senders: list[str]
    recipients: list[str]
    participants: list[str]
    last_message_id: str
    message_count: int
    size: int
    updated_at: datetime
    created_at: datetime
    received_timestamp: datetime | None = None
    sent_timestamp: datetime | None = None
    subject: str | None = None
    preview: str | None = None
    attachments: list[AttachmentItem] | None = None


class Thread(ThreadItem, omit_defaults=True, kw_only=True):
    """A conversation with its messages, oldest first."""

    count: int
    messages: list[Message]


class ListThreads(msgspec.Struct, omit_defaults=True):
    """One page of threads; `data` is seed 003's name for them."""

    count: int
    limit: int
    threads: list[ThreadItem]
    data: list[ThreadItem]
    next_page_token: str | None = None


def thread_item(row: threads.Thread, address: str) -> ThreadItem:
    """A thread for a list."""
    return ThreadItem(**_thread_shown(row, address))


def thread(row: threads.Thread, address: str, shown: list[Message]) -> Thread:
    """A thread with its messages."""
    fields = _thread_shown(row, address)
    fields["attachments"] = [a for each in shown for a in each.attachments or ()] or None
    return Thread(**fields, count=len(shown), messages=shown)


def _thread_shown(row: threads.Thread, address: str) -> dict[str, Any]:
    return {
        "inbox_id": address,
        "thread_id": row.thread_id,
        "labels": row.labels,
        "timestamp": row.timestamp,
        "last_message_at": row.timestamp,
        "senders": row.senders,
        "recipients": row.recipients,
        "participants": list(dict.fromkeys([*row.senders, *row.recipients])),
        "last_message_id": row.last_message_id,
        "message_count": row.message_count,
        "size": row.size,
        "updated_at": row.updated_at,
        "created_at": row.created_at,
        "received_timestamp": row.received_timestamp,
        "sent_timestamp": row.sent_timestamp,
        "subject": row.subject,
        "preview": row.preview or None,
    }


class CreateApiKey(msgspec.Struct, kw_only=True):
    """`POST /v0/api-keys`. Without `permissions` the key may do everything in its scope."""

    name: str | None = None
    permissions: dict[str, bool] | None = None
    expires_at: datetime | None = None


class UpdateApiKey(msgspec.Struct, kw_only=True):
    """`PATCH /v0/api-keys/{api_key_id}`."""

    name: str | UnsetType = UNSET
    permissions: dict[str, bool] | UnsetType | None = UNSET


class ApiKey(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An API key without its secret."""

    api_key_id: UUID
    prefix: str
    name: str
    created_at: datetime
    updated_at: datetime
    type: str | None = None
    permissions: dict[str, bool] | None = None
    used_at: datetime | None = None
    expires_at: datetime | None = None


class CreatedApiKey(ApiKey, omit_defaults=True, kw_only=True):
    """A new API key. `api_key` is the secret, shown here and never again."""

    api_key: str


class ListApiKeys(msgspec.Struct, omit_defaults=True):
    """One page of API keys."""

    count: int
    api_keys: list[ApiKey]
    next_page_token: str | None = None


class Identity(msgspec.Struct, omit_defaults=True):
    """Whose key this is and how far it reaches."""

    scope_type: str
    scope_id: str
    organization_id: UUID
    api_key_id: UUID


def api_key(key: access.ApiKey) -> ApiKey:
    """A key as callers see it."""
    return ApiKey(**_key_shown(key))


def created_api_key(made: access.NewApiKey) -> CreatedApiKey:
    """A new key with its secret."""
    return CreatedApiKey(**_key_shown(made.key), api_key=made.secret)


def _key_shown(key: access.ApiKey) -> Mapping[str, Any]:
    return {
        "api_key_id": key.api_key_id,
        "prefix": key.prefix,
        "name": key.name,
        "created_at": key.created_at,
        "updated_at": key.updated_at,
        "type": "bearer",
        "permissions": key.permissions,
        "used_at": key.used_at,
        "expires_at": key.expires_at,
    }
