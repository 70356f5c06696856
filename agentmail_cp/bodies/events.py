"""Bodies of an inbox's events."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from agentmail_cp import events


class InboxEvent(msgspec.Struct, kw_only=True):
    """A label that was put on a message or taken off it."""

    organization_id: UUID
    pod_id: UUID
    inbox_id: str
    event_id: UUID
    event_type: str
    message_id: str
    label: str
    event_at: datetime
    created_at: datetime


class ListInboxEvents(msgspec.Struct, omit_defaults=True):
    """One page of events."""

    count: int
    limit: int
    events: list[InboxEvent]
    next_page_token: str | None = None


def inbox_event(event: events.LabelEvent, address: str) -> InboxEvent:
    """An event as callers see it."""
    return InboxEvent(
        organization_id=event.organization_id,
        pod_id=event.pod_id,
        inbox_id=address,
        event_id=event.event_id,
        event_type=event.type.value,
        message_id=event.message_id,
        label=event.label,
        event_at=event.created_at,
        created_at=event.created_at,
    )
