"""What an event is: its types, and the rows of the log.

An event row holds ids and small facts, never a subject, address list or body: those are read from the
index and from Stalwart when somebody is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import msgspec


class EventType(StrEnum):
    """The contract's event types that exist here."""

    MESSAGE_RECEIVED = "message.received"
    MESSAGE_RECEIVED_SPAM = "message.received.spam"
    MESSAGE_RECEIVED_BLOCKED = "message.received.blocked"
    MESSAGE_RECEIVED_UNAUTHENTICATED = "message.received.unauthenticated"
    MESSAGE_SENT = "message.sent"
    MESSAGE_DELIVERED = "message.delivered"
    MESSAGE_BOUNCED = "message.bounced"
    MESSAGE_COMPLAINED = "message.complained"
    MESSAGE_REJECTED = "message.rejected"
    DOMAIN_VERIFIED = "domain.verified"
    LABEL_ADDED = "label.added"
    LABEL_REMOVED = "label.removed"


LABEL_TYPES: Final = frozenset({EventType.LABEL_ADDED, EventType.LABEL_REMOVED})
"""Told to those only who name them, and shown in `/events`."""

PROTECTED: Final[Mapping[EventType, str]] = {
    EventType.MESSAGE_RECEIVED_SPAM: "label_spam_read",
    EventType.MESSAGE_RECEIVED_BLOCKED: "label_blocked_read",
    EventType.MESSAGE_RECEIVED_UNAUTHENTICATED: "label_unauthenticated_read",
}
"""The permission it takes to be told; told to those only who name them."""

DEFAULT_TYPES: Final = (
    EventType.MESSAGE_RECEIVED,
    EventType.MESSAGE_SENT,
    EventType.MESSAGE_DELIVERED,
    EventType.MESSAGE_BOUNCED,
    EventType.MESSAGE_COMPLAINED,
    EventType.MESSAGE_REJECTED,
    EventType.DOMAIN_VERIFIED,
)
"""What is meant where no types are named (seed 000)."""


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that just happened to a message. `recipients` is for how many of them it did. `facts` are
    small: `label` of a label event, what `outcomes` knows of a delivery, a bounce, a complaint.
    """

    type: EventType
    thread_id: UUID
    message_id: str
    document_id: int
    recipients: int = 1
    facts: Mapping[str, Any] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the log. `seq` counts from 1 within the inbox. `position` is its place in the order of
    all events, None until it is published. What happened to no inbox has none, and no `seq`; without a pod
    it is of the whole organisation, and told to those only who reach all of it and name no part.
    """

    event_id: UUID
    organization_id: UUID
    pod_id: UUID | None
    inbox_id: UUID | None
    seq: int | None
    position: int | None
    type: EventType
    thread_id: UUID | None
    message_id: str | None
    document_id: int | None
    recipients: int
    facts: dict[str, Any]
    created_at: datetime

    @property
    def inbox(self) -> UUID:
        """The inbox of an event that happened to one."""
        if self.inbox_id is None:
            raise LookupError("This event happened to no inbox.")
        return self.inbox_id


class LabelEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A label that was put on a message or taken off it."""

    event_id: UUID
    organization_id: UUID
    pod_id: UUID
    seq: int
    type: EventType
    message_id: str
    label: str
    created_at: datetime
