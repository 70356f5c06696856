"""Reading the log in the order of all events, from where a reader stopped.

A cursor is the id of an event, `start` (the oldest that is kept) or `now`. A reader who goes on after a
position has missed nothing below it: positions are given in the order of commits (`publishing`), and what has
none yet is not shown. Only what is within reach counts; a cursor from elsewhere is as unknown as one that
never was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.access import Reach
from agentmail_cp.access.reach import in_reach
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.errors import Gone, Invalid
from agentmail_cp.events.event import Event, EventType

START: Final = "start"
"""The cursor before the oldest event that is kept."""

NOW: Final = "now"
"""The cursor behind the newest event."""

COLUMNS: Final[LiteralString] = (
    "event_id, organization_id, pod_id, inbox_id, seq, position, type, thread_id, message_id,"
    " document_id, recipients, facts, created_at"
)
"""The columns of an `Event`."""


class _Place(msgspec.Struct, frozen=True):
    event_id: UUID
    position: int


async def position_of(tx: Tx, reach: Reach, cursor: str) -> int:
    """Behind which position a cursor stands; 0 for `start`.

    Raises `Invalid` INVALID_CURSOR for what is no cursor, and `Gone` with the oldest event's id for an event
    that is unknown: not kept any longer, or never within reach.
    """
    if cursor == START:
        return 0
    if cursor == NOW:
        place = await _newest(tx, reach)
        return place.position if place else 0
    found = await fetch_one(
        tx,
        _Known,
        "select position, number is null as before_positions from event"
        " where organization_id = %(organization_id)s and event_id = %(event_id)s"
        + in_reach(reach),
        _parameters(reach, event_id=_event_id(cursor)),
    )
    if found is None:
        raise await _gone(tx, reach)
    if found.position is not None:
        return found.position
    # Not published yet, so that whatever is published from now on may come after it; or from before events
    # had positions, which everything that has one comes after.
    return 0 if found.before_positions else await position_of(tx, reach, NOW)


class _Known(msgspec.Struct, frozen=True):
    position: int | None
    before_positions: bool


async def newest(tx: Tx, reach: Reach) -> str:
    """The cursor behind everything that is published within reach: an event's id, or `start` while there
    is none.
    """
    place = await _newest(tx, reach)
    return str(place.event_id) if place else START


async def after(
    tx: Tx,
    reach: Reach,
    position: int,
    *,
    types: frozenset[EventType],
    inbox_ids: Iterable[UUID] = (),
    pod_ids: Iterable[UUID] = (),
    limit: int,
) -> list[Event]:
    """Events behind a position in their order: what `Subscribed` of the same words wants, at most `limit`."""
    inboxes, pods = list(inbox_ids), list(pod_ids)
    named: LiteralString = (
        " and (inbox_id = any(%(inbox_ids)s) or pod_id = any(%(pod_ids)s))"
        if inboxes or pods
        else ""
    )
    return await fetch_all(
        tx,
        Event,
        f"select {COLUMNS} from event where organization_id = %(organization_id)s"
        f" and position > %(position)s{in_reach(reach)} and type = any(%(types)s){named}"
        " order by position limit %(limit)s",
        _parameters(
            reach,
            position=position,
            types=[each.value for each in types],
            inbox_ids=inboxes,
            pod_ids=pods,
            limit=limit,
        ),
    )


async def _newest(tx: Tx, reach: Reach) -> _Place | None:
    return await fetch_one(
        tx,
        _Place,
        "select event_id, position from event where organization_id = %(organization_id)s"
        " and position is not null" + in_reach(reach) + " order by position desc limit 1",
        _parameters(reach),
    )


async def _gone(tx: Tx, reach: Reach) -> Gone:
    oldest = await fetch_one(
        tx,
        _Place,
        "select event_id, position from event where organization_id = %(organization_id)s"
        " and position is not null" + in_reach(reach) + " order by position limit 1",
        _parameters(reach),
    )
    return Gone(
        "The event to go on after is not kept any longer, so that events may be missing.",
        fix="Go on with after=start, which is from the oldest event that is kept.",
        code="cursor_expired",
        oldest=str(oldest.event_id) if oldest else None,
    )


def _event_id(cursor: str) -> UUID:
    try:
        return UUID(cursor)
    except ValueError:
        raise Invalid(
            "after",
            "after is neither the id of an event nor start or now.",
            fix="Use next_cursor of the answer before, or an event_id.",
            detail="INVALID_CURSOR",
        ) from None


def _parameters(reach: Reach, **others: Any) -> dict[str, Any]:
    return {
        "organization_id": reach.organization_id,
        "pod_id": reach.pod_id,
        "inbox_id": reach.inbox_id,
        **others,
    }
