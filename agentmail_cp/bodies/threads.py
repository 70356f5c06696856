"""Bodies of threads."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from agentmail_cp import threads
from agentmail_cp.bodies.attachments import AttachmentItem
from agentmail_cp.bodies.messages import Message
from agentmail_cp.bodies.sends import Texts


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
    """A conversation with a page of its messages, oldest first; the first page has the newest."""

    count: int
    limit: int
    messages: list[Message]
    next_page_token: str | None = None


class ListThreads(msgspec.Struct, omit_defaults=True):
    """One page of threads; `data` is seed 003's name for them."""

    count: int
    limit: int
    threads: list[ThreadItem]
    data: list[ThreadItem]
    next_page_token: str | None = None


class UpdateThread(msgspec.Struct, kw_only=True):
    """`PATCH …/threads/{thread_id}`. Null means: none."""

    add_labels: Texts = None
    remove_labels: Texts = None


class UpdateThreadResponse(msgspec.Struct):
    """All labels of a thread after a change."""

    thread_id: UUID
    labels: list[str]


def thread_item(
    row: threads.Thread, address: str, attached: list[AttachmentItem] | None = None
) -> ThreadItem:
    """A thread for a list, with what its messages have attached."""
    return ThreadItem(**thread_fields(row, address, attached))


def thread(
    row: threads.Thread,
    address: str,
    shown: list[Message],
    *,
    attached: list[AttachmentItem] | None,
    limit: int,
    next_page_token: str | None,
) -> Thread:
    """A thread with a page of its messages, and what all of them have attached."""
    fields = thread_fields(row, address, attached)
    return Thread(
        **fields,
        count=len(shown),
        limit=limit,
        messages=shown,
        next_page_token=next_page_token,
    )


def thread_fields(
    row: threads.Thread, address: str, attached: list[AttachmentItem] | None
) -> dict[str, Any]:
    """What every form of a thread shows, by field."""
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
        "attachments": attached or None,
    }
