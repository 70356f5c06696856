"""Reading the log in the order of all events, from where a reader stopped.

A cursor is the id of an event, `start` (the oldest that is kept) or `now`. A reader who goes on after a
position has missed nothing below it: positions are given in the order of commits (`publishing`), and what has
none yet is not shown. Where events behind a position have expired (`retention`), `Gone` is raised instead of
skipping them. Only what is within reach counts; a cursor from elsewhere is as unknown as one that never was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.access import Reach
from agentmail_cp.access.reach import in_reach
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.errors import Gone, Invalid
from agentmail_cp.events.event import Event
from agentmail_cp.events.filters import Subscribed

START: Final = "start"
"""The cursor before the oldest event that is kept."""

NOW: Final = "now"
"""The cursor behind the newest event."""

SCAN: Final = 2000
"""Events within reach that are looked at for one page, wanted or not."""

COLUMNS: Final[LiteralString] = (
    "event_id, organization_id, pod_id, inbox_id, seq, position, type, thread_id, message_id,"
    " document_id, recipients, facts, created_at"
)
"""The columns of an `Event`."""


class Place(msgspec.Struct, frozen=True):
    """Where a reader stopped: behind this position, which `cursor` will name later."""

    position: int
    cursor: str


class Page(msgspec.Struct, frozen=True):
    """Events in their order, and where to go on: behind them, and behind all that was looked at and not
    wanted. `ended`: that is the end of what is published.
    """

    events: list[Event]
    place: Place
    ended: bool


async def place_of(tx: Tx, reach: Reach, cursor: str) -> Place:
    """The place a cursor names.

    Raises `Invalid` INVALID_CURSOR for what is no cursor, and `Gone` with the oldest event's id for an event
    that is unknown: expired before the last of its inbox that did, or never within reach.
    """
    if cursor == START:
        return Place(0, START)
    if cursor == NOW:
        return await _newest(tx, reach)
    found = await fetch_one(
        tx,
        _Known,
        "select position, number is null as before_positions from event"
        " where organization_id = %(organization_id)s and event_id = %(event_id)s"
        + in_reach(reach)
        + " union all select position, false from event_horizon"
        " where organization_id = %(organization_id)s and event_id = %(event_id)s"
        + in_reach(reach),
        _parameters(reach, event_id=_event_id(cursor)),
    )
    if found is None:
        raise await _gone(tx, reach)
    if found.position is not None:
        return Place(found.position, cursor)
    # Not published yet: whatever is published from now on may come after it. Or from before events had
    # positions: everything that has one comes after it.
    return Place(0, START) if found.before_positions else await _newest(tx, reach)


class _Known(msgspec.Struct, frozen=True):
    position: int | None
    before_positions: bool


async def position_of(tx: Tx, reach: Reach, cursor: str) -> int:
    """Behind which position a cursor stands; 0 for `start`. Raises what `place_of` does."""
    return (await place_of(tx, reach, cursor)).position


async def newest(tx: Tx, reach: Reach) -> str:
    """The cursor behind everything that is published within reach: an event's id, or `start` while there
    is none.
    """
    return (await _newest(tx, reach)).cursor


async def after(
    tx: Tx,
    wanted: Subscribed,
    position: int,
    *,
    limit: int,
    masks: Sequence[int] | None = None,
) -> list[Event]:
    """The events wanted that are behind a position, in their order, at most `limit`. `masks` are those of
    `page`.

    Raises `Gone` with the oldest event's id where some behind the position have expired.
    """
    found: list[Event] = []
    place = Place(position, START)
    while True:
        more = await page(tx, wanted, place, limit=limit - len(found), masks=masks)
        found += more.events
        if more.ended or len(found) == limit:
            return found
        place = more.place


async def page(
    tx: Tx,
    wanted: Subscribed,
    place: Place,
    *,
    limit: int,
    masks: Sequence[int] | None = None,
) -> Page:
    """The next page behind a place. With `masks`, only events of messages that have one of these hiding
    masks now: not of those that are gone, as nobody can say any more whether they were hidden.

    Looks at `SCAN` events at most, so that a page may be empty before the end. Raises `Gone` with the oldest
    event's id where some behind the place have expired.
    """
    end = await _look_ahead(tx, wanted.reach, place.position)
    found: list[Event] = []
    if end is not None:
        found = await _wanted(
            tx, wanted, place.position, end=end.position, masks=masks, limit=limit
        )
    await _check_kept(tx, wanted.reach, place.position)
    if len(found) == limit:
        last = found[-1]
        return Page(found, Place(last.position or 0, str(last.event_id)), ended=False)
    if end is None:
        return Page(found, place, ended=True)
    return Page(found, Place(end.position, str(end.event_id)), ended=end.count < SCAN)


async def visible(
    tx: Tx, organization_id: UUID, events: Sequence[Event], masks: Sequence[int]
) -> list[Event]:
    """Those of an organisation's events that are of messages with one of these hiding masks now: what `page`
    would show of them.
    """
    named = [event.event_id for event in events]
    seen = await visible_ids(tx, organization_id, named, masks)
    return [event for event in events if event.event_id in seen]


async def visible_ids(
    tx: Tx, organization_id: UUID, event_ids: Sequence[UUID], masks: Sequence[int]
) -> frozenset[UUID]:
    """The same of events by their ids, without those that are no longer kept."""
    rows = await fetch_all(
        tx,
        _Seen,
        "select event_id from event where organization_id = %(organization_id)s"
        f" and event_id = any(%(event_ids)s){VISIBLE}",
        {
            "organization_id": organization_id,
            "event_ids": list(event_ids),
            "masks": list(masks),
        },
    )
    return frozenset(row.event_id for row in rows)


class _Seen(msgspec.Struct, frozen=True):
    event_id: UUID


# No `exists`, which would be made a join with every message there is.
VISIBLE: Final[LiteralString] = (
    " and (event.message_id is null or"
    " (select mask from message where message.inbox_id = event.inbox_id"
    " and message.organization_id = %(organization_id)s"
    " and message.message_id = event.message_id limit 1) = any(%(masks)s::smallint[]))"
)
"""The condition that a row of `event` is of a message with one of `masks`, and of `organization_id`."""


class _End(msgspec.Struct, frozen=True):
    event_id: UUID
    position: int
    count: int


async def _look_ahead(tx: Tx, reach: Reach, position: int) -> _End | None:
    """The last of the next events within reach, wanted or not; None at the end."""
    return await fetch_one(
        tx,
        _End,
        "select event_id, event.position, count from"
        " (select max(position) as position, count(*) as count from"
        " (select position from event where organization_id = %(organization_id)s"
        f" and position > %(position)s{in_reach(reach)} order by position limit %(scan)s) as ahead"
        ") as last join event on event.position = last.position"
        " where event.organization_id = %(organization_id)s",
        _parameters(reach, position=position, scan=SCAN),
    )


async def _wanted(
    tx: Tx,
    wanted: Subscribed,
    position: int,
    *,
    end: int | None = None,
    masks: Sequence[int] | None = None,
    limit: int,
) -> list[Event]:
    query: LiteralString = (
        f"select {COLUMNS} from event where organization_id = %(organization_id)s"
        f" and position > %(position)s{in_reach(wanted.reach)} and type = any(%(types)s)"
    )
    if end is not None:
        query += " and position <= %(end)s"
    if wanted.inbox_ids or wanted.pod_ids:
        query += " and (inbox_id = any(%(inbox_ids)s) or pod_id = any(%(pod_ids)s))"
    if masks is not None:
        query += VISIBLE
    return await fetch_all(
        tx,
        Event,
        query + " order by position limit %(limit)s",
        _parameters(
            wanted.reach,
            position=position,
            end=end,
            types=[each.value for each in wanted.types],
            inbox_ids=list(wanted.inbox_ids),
            pod_ids=list(wanted.pod_ids),
            masks=None if masks is None else list(masks),
            limit=limit,
        ),
    )


async def _check_kept(tx: Tx, reach: Reach, position: int) -> None:
    """Raise `Gone` where events behind this position have expired. Asked after they are read, so that none
    expires in between.
    """
    if position and await _expired(tx, reach) > position:
        raise await _gone(tx, reach)


class _Position(msgspec.Struct, frozen=True):
    position: int | None


async def _expired(tx: Tx, reach: Reach) -> int:
    """Up to which position events within reach may have expired."""
    row = await fetch_one(
        tx,
        _Position,
        "select max(expired) as position from event_horizon"
        " where organization_id = %(organization_id)s" + in_reach(reach),
        _parameters(reach),
    )
    return (row.position if row else None) or 0


class _Named(msgspec.Struct, frozen=True):
    event_id: UUID
    position: int


async def _newest(tx: Tx, reach: Reach) -> Place:
    """The place behind everything that is published within reach, expired or not."""
    found = await fetch_one(
        tx,
        _Named,
        "select event_id, position from"
        " (select event_id, position from"
        " (select event_id, position from event where organization_id = %(organization_id)s"
        f" and position is not null{in_reach(reach)} order by position desc limit 1) as kept"
        " union all select event_id, position from"
        " (select event_id, position from event_horizon where organization_id = %(organization_id)s"
        f" and expired > 0{in_reach(reach)} order by expired desc limit 1) as expired"
        ") as newest order by position desc limit 1",
        _parameters(reach),
    )
    return Place(found.position, str(found.event_id)) if found else Place(0, START)


async def _gone(tx: Tx, reach: Reach) -> Gone:
    oldest = await fetch_one(
        tx,
        _Named,
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
