"""Events that nobody wrote, for what only looks at them."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

from agentmail_cp.events import Event, EventType

SOMEWHERE = UUID(int=1)


def an_event(
    position: int = 1,
    *,
    organization_id: UUID = SOMEWHERE,
    pod_id: UUID = SOMEWHERE,
    inbox_id: UUID = SOMEWHERE,
    kind: EventType = EventType.MESSAGE_RECEIVED,
) -> Event:
    """A published event of no message."""
    return Event(
        event_id=uuid4(),
        organization_id=organization_id,
        pod_id=pod_id,
        inbox_id=inbox_id,
        seq=position,
        position=position,
        type=kind,
        thread_id=None,
        message_id=None,
        document_id=None,
        recipients=1,
        facts={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
