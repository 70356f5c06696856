"""Arrivals: the first message an inbox received after a moment, or after an event.

What counts is when a message reached our log, not its Date header, which strangers write. The inbox's events
are looked through in their order, from the oldest on, so that a message is found however many came after it.
They are numbered under the inbox's lock and commit in that order: whoever heard of one has seen all before
it, and need not look at them again. Reaches back as far as events are kept. Only reads, and owns no table.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import events
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx, fetch_one, fetch_only
from agentmail_cp.events import EventType, Subscribed
from agentmail_cp.filing import Place
from agentmail_cp.messages import COLUMNS, Message
from agentmail_cp.threads import pattern

RECEIVED: Final = frozenset(
    {
        EventType.MESSAGE_RECEIVED,
        EventType.MESSAGE_RECEIVED_SPAM,
        EventType.MESSAGE_RECEIVED_BLOCKED,
        EventType.MESSAGE_RECEIVED_UNAUTHENTICATED,
    }
)
"""The events of arrivals."""

STEP: Final = timedelta(seconds=5)
"""How far back the database's clock may be set without hiding a message. Otherwise an inbox's events have
times in their order, and each a later one than the message it is about.
"""


class Since(msgspec.Struct, frozen=True):
    """Where to begin: behind the inbox's event of this number, and after this moment, if there is one."""

    seq: int
    at: datetime | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which message is waited for: one whose sender and subject contain all these texts, in any case, and
    that has one of these hiding masks.
    """

    masks: tuple[int, ...]
    sender: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()


class Arrival(Message, frozen=True, kw_only=True):
    """A message, and the number of the event of its arrival."""

    seq: int


class _Seq(msgspec.Struct, frozen=True):
    seq: int


async def since_time(tx: Tx, place: Place, at: datetime) -> Since:
    """After a moment; one that is still to come by the database's clock is now."""
    return await fetch_only(
        tx,
        Since,
        "select coalesce(max(seq), 0) as seq, least(%(at)s::timestamptz, now()) as at from event"
        " where organization_id = %(organization_id)s and inbox_id = %(inbox_id)s"
        " and created_at <= least(%(at)s::timestamptz, now()) - %(margin)s",
        {
            "organization_id": place.organization_id,
            "inbox_id": place.inbox_id,
            "at": at,
            "margin": STEP,
        },
    )


async def since_event(tx: Tx, reach: Reach, place: Place, event_id: UUID) -> Since:
    """After an event that is within reach, of this inbox or another one.

    Raises `Gone` when events after it have expired, or it is unknown.
    """
    position = await events.position_of(tx, reach, str(event_id))
    own = Reach(place.organization_id, place.pod_id, place.inbox_id)
    await events.after(tx, Subscribed(reach=own, types=RECEIVED), position, limit=1)
    last = await fetch_only(
        tx,
        _Seq,
        "select coalesce(max(seq), 0) as seq from event where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and position <= %(position)s",
        {
            "organization_id": place.organization_id,
            "inbox_id": place.inbox_id,
            "position": position,
        },
    )
    return Since(last.seq)


async def first(tx: Tx, place: Place, since: Since, wanted: Wanted) -> Arrival | None:
    """The oldest message that is wanted."""
    query: LiteralString = (
        f"select {COLUMNS}, seq from (select organization_id, inbox_id, message_id, seq from event"
        " where organization_id = %(organization_id)s and inbox_id = %(inbox_id)s"
        " and seq > %(seq)s and type = any(%(types)s)) as arrived"
        " join message using (organization_id, inbox_id, message_id)"
        " where mask = any(%(masks)s::smallint[])"
        " and created_at > coalesce(%(at)s::timestamptz, '-infinity')"
    )
    if wanted.sender:
        query += " and sender ilike all(%(sender)s)"
    if wanted.subject:
        query += " and subject ilike all(%(subject)s)"
    return await fetch_one(
        tx,
        Arrival,
        query + " order by seq limit 1",
        {
            "organization_id": place.organization_id,
            "inbox_id": place.inbox_id,
            "seq": since.seq,
            "at": since.at,
            "types": [each.value for each in RECEIVED],
            "masks": list(wanted.masks),
            "sender": [pattern(each) for each in wanted.sender],
            "subject": [pattern(each) for each in wanted.subject],
        },
    )
