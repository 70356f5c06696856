"""Bodies of the log of events, and of an inbox's changes of labels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from agentmail_cp import events
from agentmail_cp.bodies.notices import Notice


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
    """One page of changes of labels. It has no `next_cursor`, by which a page of the log is told from it."""

    count: int
    limit: int
    events: list[InboxEvent]
    next_page_token: str | None = None
    next_cursor: None = None


class ListEvents(msgspec.Struct):
    """One page of the log, oldest first. `next_cursor` is where to go on, also from an empty page."""

    count: int
    limit: int
    events: list[Notice]
    next_cursor: str


class _Page(msgspec.Struct):
    """The same with events that are JSON already."""

    count: int
    limit: int
    events: list[msgspec.Raw]
    next_cursor: str


def events_page(payloads: Sequence[bytes], *, limit: int, cursor: str) -> bytes:
    """A `ListEvents` as JSON, of events as they are told."""
    shown = [msgspec.Raw(each) for each in payloads]
    return msgspec.json.encode(_Page(len(shown), limit, shown, cursor))


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
