"""What is counted, and the statements that count it.

Each reads one covering index (0013_metrics.sql) between two places, for each type by itself: a hundred
thousand entries take some 20 ms. At most `spans.MOST_POINTS` rows for each type come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

import msgspec
from msgspec.structs import asdict

from agentmail_cp.access import Reach, in_reach
from agentmail_cp.db import Tx, fetch_all, fetch_only
from agentmail_cp.metrics.spans import Grid, Span, rolling, totals

EVENT_TYPES: Final = (
    "message.received",
    "message.received.spam",
    "message.received.blocked",
    "message.received.unauthenticated",
    "message.sent",
    "message.delivered",
    "message.bounced",
    "message.complained",
    "message.rejected",
    "domain.verified",
)
"""The contract's. One that nothing writes yet has no events."""

_SENT = "message.sent"
_WENT_WRONG = {"bounce": "message.bounced", "complaint": "message.complained"}
RATE_TYPES: Final = tuple(_WENT_WRONG)

_OF_INBOX = ("storage_bytes", "message_count", "thread_count")
_OF_POD = (*_OF_INBOX, "inbox_count", "domain_count")
USAGE_TYPES: Final = (*_OF_POD, "pod_count")
"""What there can be more or less of in an organisation; `usage_types` says so of less."""


class Bucket(msgspec.Struct, frozen=True):
    """How many events there were at one moment, or in the period that begins with it."""

    timestamp: datetime
    count: int


class Total(msgspec.Struct, frozen=True):
    """How much there was at a moment."""

    timestamp: datetime
    value: int


class Rate(msgspec.Struct, frozen=True):
    """The share of `sent` recipients for whom it went wrong, in the window that ends with this moment."""

    timestamp: datetime
    rate: float | None
    sent: int


class _Now(msgspec.Struct, frozen=True):
    now: datetime


class _Added(msgspec.Struct, frozen=True):
    begun: datetime
    things: int
    bytes: int


class _Happened(msgspec.Struct, frozen=True):
    type: str
    timestamp: datetime
    count: int


async def now(tx: Tx) -> datetime:
    """PostgreSQL's time."""
    return (await fetch_only(tx, _Now, "select now() as now", {})).now


def usage_types(reach: Reach) -> tuple[str, ...]:
    """What there can be more or less of within reach."""
    if reach.inbox_id is not None:
        return _OF_INBOX
    return USAGE_TYPES if reach.whole else _OF_POD


async def events(
    tx: Tx,
    reach: Reach,
    types: Sequence[str],
    span: Span,
    *,
    period: int | None,
    limit: int,
    descending: bool,
) -> dict[str, list[Bucket]]:
    """Events of each type by time: those of each moment, or of each period of so many seconds.

    Periods begin at multiples of their length since 1970, so that days are days in UTC; those in which
    nothing happened are left out. Of each type, the first `limit` are given.
    """
    moment: LiteralString = "created_at"
    if period is not None:
        moment = "date_bin(%(period)s, created_at, timestamptz '1970-01-01 00:00:00Z')"
    order: LiteralString = "desc" if descending else "asc"
    rows = await fetch_all(
        tx,
        _Happened,
        'select wanted.type, found."timestamp", found.count'
        " from unnest(%(types)s::text[]) as wanted (type) cross join lateral"
        f' (select {moment} as "timestamp", count(*) from event'
        f" where organization_id = %(organization_id)s{in_reach(reach)}"
        " and event.type = wanted.type and type not in ('label.added', 'label.removed')"
        " and created_at >= %(start)s and created_at < %(end)s"
        f" group by 1 order by 1 {order} limit %(limit)s) as found"
        f' order by found."timestamp" {order}',
        {
            **asdict(reach),
            "types": list(types),
            "period": timedelta(seconds=period or 0),
            "start": span.start,
            "end": span.end,
            "limit": limit,
        },
    )
    found: dict[str, list[Bucket]] = {each: [] for each in types}
    for row in rows:
        found[row.type].append(Bucket(row.timestamp, row.count))
    return found


async def usage(
    tx: Tx, reach: Reach, types: Sequence[str], grid: Grid, *, current: bool
) -> dict[str, list[Total]]:
    """How much there was of each type at each point, of what exists now.

    `current` says that the last point is now: it counts whatever exists, also mail that a mail client
    filed with a time to come.
    """
    read: dict[str, list[_Added]] = {}
    found: dict[str, list[Total]] = {}
    for each in types:
        query = _ADDED.get(each)
        if query is not None and query not in read:
            read[query] = await _added(tx, reach, query, grid, current=current)
        rows = read[query] if query is not None else []
        amounts = (
            (row.begun, row.bytes if each == "storage_bytes" else row.things) for row in rows
        )
        sums = totals(grid.spread(amounts))
        found[each] = [Total(*point) for point in zip(grid.points, sums, strict=True)]
    return found


_MESSAGES: LiteralString = (
    'select date_bin(%(period)s, least(greatest("timestamp", %(begin)s), %(last)s), %(begin)s)'
    " as begun, count(*) as things, sum(size)::bigint as bytes from message"
    ' where organization_id = %(organization_id)s and "timestamp" < %(until)s'
)
_THREADS: LiteralString = (
    "select date_bin(%(period)s, least(greatest(created_at, %(begin)s), %(last)s), %(begin)s)"
    " as begun, count(*) as things, 0 as bytes from thread"
    " where organization_id = %(organization_id)s and created_at < %(until)s"
)
_INBOXES: LiteralString = (
    "select date_bin(%(period)s, least(greatest(created_at, %(begin)s), %(last)s), %(begin)s)"
    " as begun, count(*) as things, 0 as bytes from inbox"
    " where organization_id = %(organization_id)s and created_at < %(until)s and state = 'active'"
)
_PODS: LiteralString = (
    "select date_bin(%(period)s, least(greatest(created_at, %(begin)s), %(last)s), %(begin)s)"
    " as begun, count(*) as things, 0 as bytes from pod"
    " where organization_id = %(organization_id)s and created_at < %(until)s"
)
_DOMAINS: LiteralString = (
    "select date_bin(%(period)s, least(greatest(created_at, %(begin)s), %(last)s), %(begin)s)"
    " as begun, count(*) as things, 0 as bytes from domain"
    " where organization_id = %(organization_id)s and created_at < %(until)s and deleted_at is null"
)
_ADDED: Mapping[str, LiteralString] = {
    "storage_bytes": _MESSAGES,
    "message_count": _MESSAGES,
    "thread_count": _THREADS,
    "inbox_count": _INBOXES,
    "pod_count": _PODS,
    "domain_count": _DOMAINS,
}
"""What says when each thing that exists was added. A domain of all pods counts for none of them."""


async def _added(
    tx: Tx, reach: Reach, query: LiteralString, grid: Grid, *, current: bool
) -> list[_Added]:
    # The pod of an inbox, too, as the index begins with it.
    if reach.pod_id is not None:
        query += " and pod_id = %(pod_id)s"
    if reach.inbox_id is not None:
        query += " and inbox_id = %(inbox_id)s"
    return await fetch_all(
        tx,
        _Added,
        query + " group by 1",
        {
            **asdict(reach),
            "period": grid.period,
            "begin": grid.begin,
            "last": grid.last,
            "until": "infinity" if current else grid.end,
        },
    )


async def rates(
    tx: Tx, reach: Reach, types: Sequence[str], grid: Grid, *, window: int
) -> dict[str, list[Rate]]:
    """For each type and point the share of recipients for whom it went wrong, over so many seconds."""
    cells = grid.widened(timedelta(seconds=window))
    wanted = {each: _WENT_WRONG[each] for each in types}
    rows = await _recipients(tx, reach, [_SENT, *wanted.values()], cells)
    width = cells.size - grid.size + 1

    def over_windows(event_type: str) -> list[int]:
        of_type = ((row.timestamp, row.count) for row in rows if row.type == event_type)
        return rolling(cells.spread(of_type), width)

    sent = over_windows(_SENT)
    return {
        each: [
            Rate(point, bad / all_ if all_ else None, all_)
            for point, bad, all_ in zip(grid.points, over_windows(event), sent, strict=True)
        ]
        for each, event in wanted.items()
    }


async def _recipients(tx: Tx, reach: Reach, types: Sequence[str], cells: Grid) -> list[_Happened]:
    """How many recipients the events of each cell were about."""
    parameters: dict[str, Any] = {
        **asdict(reach),
        "types": list(types),
        "period": cells.period,
        "begin": cells.begin,
        "end": cells.end,
    }
    return await fetch_all(
        tx,
        _Happened,
        'select type, date_bin(%(period)s, created_at, %(begin)s) as "timestamp",'
        " sum(recipients)::bigint as count from event"
        f" where organization_id = %(organization_id)s{in_reach(reach)}"
        " and type = any(%(types)s) and type not in ('label.added', 'label.removed')"
        " and created_at >= %(begin)s and created_at < %(end)s group by 1, 2",
        parameters,
    )
