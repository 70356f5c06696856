"""One message as the index has it, and the columns it is read from."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from agentmail_cp.authentication import Authentication
from agentmail_cp.filing import Direction
from agentmail_cp.mailserver import DocumentId


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message as lists show it. Addresses are in display form, ids in brackets.

    `authentication` is None for mail nobody checked; `original_recipient` is the address of mail that only
    came here by a domain's catch-all, None where that is unknown.
    """

    inbox_id: UUID
    document_id: DocumentId
    organization_id: UUID
    pod_id: UUID
    thread_id: UUID
    message_id: str
    direction: Direction
    labels: list[str]
    timestamp: datetime
    subject: str | None
    sender: str
    to: list[str]
    cc: list[str]
    bcc: list[str]
    reply_to: list[str]
    in_reply_to: str | None
    references: list[str]
    preview: str
    size: int
    has_attachment: bool
    authentication: Authentication | None
    original_recipient: str | None
    created_at: datetime
    updated_at: datetime


class Named(msgspec.Struct, frozen=True):
    """A message of some inbox of some organisation by its id."""

    organization_id: UUID
    inbox_id: UUID
    message_id: str


class Filed(msgspec.Struct, frozen=True):
    """Where a message is found: its id in brackets, and its thread."""

    message_id: str
    thread_id: UUID


COLUMNS = (
    "inbox_id, document_id, organization_id, pod_id, thread_id, message_id, direction, labels,"
    ' "timestamp", subject, sender, "to", cc, bcc, reply_to, in_reply_to, "references", preview,'
    " size, has_attachment, authentication, original_recipient, created_at, updated_at"
)
