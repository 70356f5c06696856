"""Bodies of threads."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from agentmail_cp import threads
from agentmail_cp.web.bodies.attachments import AttachmentItem
from agentmail_cp.web.bodies.messages import Message


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
