"""How many requests an API key may make in a minute, exact over all processes.

Owns the table `request_window`. A key's window begins with its first request and lasts sixty seconds by
PostgreSQL's clock; whatever comes after it begins the next. A process takes requests from the window in
leases, one statement each, and spends them by itself: at most some two hundred statements a key and
minute, whatever the limit. Leases never add up to more than the limit. One that ends unspent is lost, so
leases begin small, grow with what the process has spent, and shrink with what is left.

What a process knows of a key is one of:

- nothing, or a window that is over: the next request asks the database;
- a lease with something unspent: a request takes one and asks nobody;
- a lease that is spent, with more in the database: the next request asks, others wait for that answer;
- a window with nothing left: requests are refused until it ends, and nobody is asked;
- that the key has no limit: looked up again after the length of a window.

The limit is the setting `requests_per_minute`, or the organisation's own, as it was when the window began
here. A refused request is not counted anywhere. This module knows neither HTTP nor what a key may do.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from datetime import datetime
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec

from agentmail_cp import limits
from agentmail_cp.db import Database, Tx, fetch_only
from agentmail_cp.errors import RateLimited
from agentmail_cp.settings import Settings

WINDOW: Final = 60.0
"""Seconds a window lasts."""

LEASES: Final = 200
"""The least number of leases in a limit: two processes that stop asking lose under one per cent of it."""

REST: Final = 16
"""A lease is at most this part of what is left, so that the end of a window is shared out singly."""

MOST_KEYS: Final = 10_000
"""Keys one process remembers; beyond them, what was used longest ago is forgotten."""


class Lease(msgspec.Struct, frozen=True):
    """What the database gave. `taken` is what of the limit all processes have together, `ends_in` the
    seconds until `resets_at`, where the window ends.
    """

    granted: int
    taken: int
    ends_in: float
    resets_at: datetime


class Allowance(msgspec.Struct, frozen=True):
    """What became of one request, and what is left. `remaining` is exact where one process serves a key;
    others may have taken more since this one asked. `retry_after` is in seconds, and None when the
    request may go on.
    """

    limit: int
    remaining: int
    resets_at: datetime
    retry_after: float | None = None

    def require(self) -> None:
        """Raise `RateLimited` when the request came too early."""
        if self.retry_after is not None:
            raise RateLimited(
                f"This API key has made the {self.limit} requests it may make in a minute.",
                retry_at=self.resets_at,
                retry_after=self.retry_after,
                fix="Wait until retry_at, and ask less often; the operator can raise the limit.",
            )


class Share:
    """What one process has of a key's window. Times are those of `monotonic`."""

    __slots__ = (
        "asking", "ends", "heals", "left", "limit", "resets_at", "spent", "unspent", "waiting",
    )  # fmt: skip

    def __init__(self) -> None:
        self.limit = 0
        self.unspent = 0
        self.spent = 0
        self.left = 0
        """Of the limit, in the database, when it was last asked."""
        self.ends = 0.0
        """No later than the window does: until then, what is known here holds."""
        self.heals = 0.0
        """No earlier than the window's end: from then on, a refused request is welcome."""
        self.resets_at: datetime | None = None
        self.waiting = 0
        """Requests that cannot go on before the database has answered."""
        self.asking: asyncio.Task[None] | None = None

    def knows(self, now: float) -> bool:
        """Whether a request can be decided without the database."""
        return now < self.ends and (not self.limit or self.unspent > 0 or self.left == 0)

    def decide(self, now: float) -> Allowance | None:
        """Spend one request, or refuse it; None when there is no limit. Only where `knows` holds."""
        if self.resets_at is None or not self.limit:
            return None
        if self.unspent == 0:
            return Allowance(self.limit, 0, self.resets_at, max(0.0, self.heals - now))
        self.unspent -= 1
        self.spent += 1
        return Allowance(self.limit, self.unspent + self.left, self.resets_at)

    def wanted(self, limit: int, now: float) -> int:
        """How large the next lease should be: no larger than what this process has spent already, so that
        a replica that sees few of a key's requests holds few back.
        """
        spent = self.spent if now < self.ends else 0
        return max(1, min(limit // LEASES, spent))

    def take(self, limit: int, lease: Lease, *, asked: float, answered: float) -> None:
        """Add a lease; the database was asked and has answered at these times."""
        if lease.resets_at != self.resets_at:
            self.unspent = self.spent = 0
        self.limit = limit
        self.unspent += lease.granted
        self.left = max(0, limit - lease.taken)
        self.resets_at = lease.resets_at
        self.ends = asked + lease.ends_in
        self.heals = answered + lease.ends_in

    def unlimit(self, until: float) -> None:
        """Note that the key has no limit; what has been noted holds until then."""
        self.limit, self.ends = 0, until


class Throttle:
    """Decides about requests of all keys in this process. `window` is in seconds."""

    def __init__(self, db: Database, settings: Settings, *, window: float = WINDOW) -> None:
        self._db = db
        self._settings = settings
        self._window = window
        self._shares: OrderedDict[UUID, Share] = OrderedDict()

    @property
    def remembered(self) -> int:
        """How many keys this process knows something of."""
        return len(self._shares)

    async def admit(self, organization_id: UUID, api_key_id: UUID) -> Allowance | None:
        """Count a request of a key; None when the key has no limit. Raises `Unavailable`."""
        share = self._share(api_key_id)
        now = monotonic()
        while not share.knows(now):
            await self._ask(organization_id, api_key_id, share)
            now = monotonic()
        return share.decide(now)

    def _share(self, api_key_id: UUID) -> Share:
        share = self._shares.get(api_key_id)
        if share is not None:
            self._shares.move_to_end(api_key_id)
            return share
        if len(self._shares) >= MOST_KEYS:
            self._shares.popitem(last=False)
        share = self._shares[api_key_id] = Share()
        return share

    async def _ask(self, organization_id: UUID, api_key_id: UUID, share: Share) -> None:
        """Wait for the answer to one question, which everybody who waits shares."""
        share.waiting += 1
        try:
            if share.asking is None:
                share.asking = asyncio.create_task(self._lease(organization_id, api_key_id, share))
                share.asking.add_done_callback(_look_at)
            # Whoever gives up leaves the question to the others.
            await asyncio.shield(share.asking)
        finally:
            share.waiting -= 1

    async def _lease(self, organization_id: UUID, api_key_id: UUID, share: Share) -> None:
        try:
            async with self._db.reading() as tx:
                limit = await self._limit(tx, organization_id, share)
                if not limit:
                    share.unlimit(monotonic() + self._window)
                    return
                asked = monotonic()
                lease = await _take(
                    tx,
                    organization_id,
                    api_key_id,
                    limit=limit,
                    size=share.wanted(limit, asked),
                    waiting=share.waiting,
                    window=self._window,
                )
            share.take(limit, lease, asked=asked, answered=monotonic())
        finally:
            share.asking = None

    async def _limit(self, tx: Tx, organization_id: UUID, share: Share) -> int:
        """The limit of the window that runs; looked up when one begins."""
        if share.limit and monotonic() < share.ends:
            return share.limit
        own = await limits.of(tx, self._settings, organization_id)
        return own.requests_per_minute


def _look_at(asked: asyncio.Task[None]) -> None:
    """Take note of an error that nobody waits for any more; asyncio logs those it finds unread."""
    if not asked.cancelled():
        asked.exception()


async def _take(
    tx: Tx,
    organization_id: UUID,
    api_key_id: UUID,
    *,
    limit: int,
    size: int,
    waiting: int,
    window: float,
) -> Lease:
    """Take a lease of about `size` requests, and of `waiting` at least, as far as the limit goes."""
    return await fetch_only(
        tx,
        Lease,
        "insert into request_window as held"
        " (api_key_id, organization_id, started_at, taken, granted)"
        " select %(api_key_id)s, %(organization_id)s, now(), first, first"
        " from least(%(limit)s::bigint, greatest(%(size)s::bigint, %(waiting)s::bigint)) as first"
        " on conflict (organization_id, api_key_id) do update set (started_at, taken, granted) ="
        " (select begun, before + lease, lease"
        " from (select held.started_at > now() - make_interval(secs => %(window)s)) as a (running),"
        " lateral (select case when running then held.started_at else now() end,"
        " case when running then held.taken else 0 end) as b (begun, before),"
        " lateral (select greatest(0, %(limit)s::bigint - before)) as c (rest),"
        " lateral (select least(rest, greatest(%(waiting)s::bigint,"
        " least(%(size)s::bigint, rest / %(part)s)))) as d (lease))"
        " returning granted, taken, started_at + make_interval(secs => %(window)s) as resets_at,"
        " extract(epoch from started_at - now())::float8 + %(window)s as ends_in",
        {
            "api_key_id": api_key_id,
            "organization_id": organization_id,
            "limit": limit,
            "size": size,
            "waiting": waiting,
            "part": REST,
            "window": window,
        },
    )


async def forget_old(tx: Tx) -> None:
    """Remove the windows of keys that have not been used for a day."""
    await tx.execute("delete from request_window where started_at < now() - interval '1 day'")
