"""The order of all events: giving each its position, and following them in it.

An event is written without a position, in the transaction that changes the rest. Whoever publishes holds an
advisory lock until that is committed, so that positions become visible in their order: whoever has seen one
will never see a lower one appear. A transaction that stays open holds up nothing but its own events, which
get their positions when it has ended. Within an inbox, `number` follows `seq`, and so does `position`.

Events from before there were positions (no `number`) never get one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all, fetch_only
from agentmail_cp.events.event import Event
from agentmail_cp.events.reading import COLUMNS

WRITTEN: Final[LiteralString] = "unpublished"
"""The channel on which PostgreSQL tells that an event was written."""

PUBLISHED: Final[LiteralString] = "event"
"""The channel on which it tells that events were published."""

LOCK: Final = 0x61676D6576
"""Advisory lock of whoever publishes: the letters `agmev`."""

_PUBLISH: Final[LiteralString] = (
    # nextval stands outside of what is ordered, so that it is asked in that order.
    "with due as (select event_id as due_id, nextval('event_position') as place from"
    " (select event_id from event where event_id = any(%(event_ids)s) and position is null"
    " order by number) as unpublished)"
    f" update event set position = place from due where event_id = due_id returning {COLUMNS}"
)


class Unpublished(msgspec.Struct, frozen=True):
    """An event that was written and has no position yet."""

    event_id: UUID
    organization_id: UUID


async def unpublished(tx: Tx, *, limit: int) -> list[Unpublished]:
    """The oldest events without a position, in their order, for `tx` to publish; none when somebody else is
    publishing.
    """
    turn = await fetch_only(
        tx, _Turn, "select pg_try_advisory_xact_lock(%(lock)s) as mine", {"lock": LOCK}
    )
    if not turn.mine:
        return []
    # A statement of its own, so that it sees what the last holder of the lock has committed.
    return await fetch_all(
        tx,
        Unpublished,
        "select event_id, organization_id from event"
        " where position is null and number is not null order by number limit %(limit)s",
        {"limit": limit},
    )


async def publish(tx: Tx, due: Sequence[Unpublished]) -> list[Event]:
    """Give events that are `unpublished` their positions, and tell who listens once `tx` has committed;
    returns them in their order.
    """
    if not due:
        return []
    events = await fetch_all(tx, Event, _PUBLISH, {"event_ids": [each.event_id for each in due]})
    if events:
        await tx.execute("select pg_notify(%(channel)s, '')", {"channel": PUBLISHED})
    return sorted(events, key=_position)


class _Turn(msgspec.Struct, frozen=True):
    mine: bool


def _position(event: Event) -> int:
    return event.position or 0


async def published_since(tx: Tx, position: int, *, limit: int) -> list[Event]:
    """What anybody's events were published behind a position, in their order."""
    return await fetch_all(
        tx,
        Event,
        f"select {COLUMNS} from event where position > %(position)s"
        " order by position limit %(limit)s",
        {"position": position, "limit": limit},
    )


async def newest_position(tx: Tx) -> int:
    """The position of the newest event of all; 0 while there is none."""
    row = await fetch_only(
        tx, _Newest, "select coalesce(max(position), 0) as position from event", {}
    )
    return row.position


class _Newest(msgspec.Struct, frozen=True):
    position: int


async def oldest_unpublished(tx: Tx) -> float:
    """How many seconds the event has waited that has waited longest to be published; 0 for none."""
    row = await fetch_only(
        tx,
        _Waiting,
        "select coalesce(extract(epoch from now() - (select created_at from event"
        " where position is null and number is not null order by number limit 1)), 0)::float8"
        " as seconds",
        {},
    )
    return max(0.0, row.seconds)


class _Waiting(msgspec.Struct, frozen=True):
    seconds: float
