"""The log as it grows, for everybody in this process who wants to hear of it at once.

One `Feed` per process reads what is published, woken by PostgreSQL, and hands each event in memory to the
subscriptions that want it, in the order of positions. It remembers how far it has read, so that a break of
the connection delays events and loses none. A subscription hears of what is published while it is open:
whoever resumes subscribes first, then reads the log (`reading.after`), then takes from the subscription what
has a higher position than the last they read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Generator
from typing import Final
from uuid import UUID

import structlog

from agentmail_cp.db import Database
from agentmail_cp.errors import Unavailable
from agentmail_cp.events.event import Event
from agentmail_cp.events.filters import Subscribed
from agentmail_cp.events.publishing import PUBLISHED, newest_position, published_since
from agentmail_cp.rounds import Rounds

log = structlog.stdlib.get_logger(__name__)

MOST: Final = 1000
"""Events a subscription holds for a reader who does not take them."""

BATCH: Final = 500
"""Events read at once."""

LOOK: Final = 2.0
"""Seconds after which the log is looked at although nothing was heard of it."""

RECOVERY: Final = 0.5
"""Seconds between two attempts while PostgreSQL is away."""


class Overrun(Exception):
    """A subscription holds as many events as it may, and its reader takes none: it will miss some."""


class Closed(Exception):
    """The process is about to stop: nothing more will come."""


class Subscription:
    """Events that somebody waits for, oldest first; one reader at a time."""

    def __init__(self, wanted: Subscribed, most: int) -> None:
        self._wanted = wanted
        self._most = most
        self._held = deque[Event]()
        self._overrun = False
        self._closed = False
        self._changed = asyncio.Event()

    async def get(self) -> Event:
        """The next event. Raises `Overrun` or `Closed`."""
        return (await self.take(1))[0]

    async def take(self, most: int) -> list[Event]:
        """The next events: at least one, at most so many. Raises `Overrun` or `Closed`.

        What is held when the process is about to stop can still be taken.
        """
        while not self._held or self._overrun:
            if self._overrun:
                raise Overrun
            if self._closed:
                raise Closed
            self._changed.clear()
            await self._changed.wait()
        return [self._held.popleft() for _ in range(min(most, len(self._held)))]

    def offer(self, event: Event) -> None:
        """Hold this event if it is wanted."""
        if self._overrun or not self._wanted.wants(event):
            return
        if len(self._held) >= self._most:
            self._overrun = True
            self._held.clear()
        else:
            self._held.append(event)
        self._changed.set()

    @property
    def overrun(self) -> bool:
        """Whether the next `take` raises `Overrun`: for whoever waits for the reader."""
        return self._overrun

    def close(self) -> None:
        """Have the reader end."""
        self._closed = True
        self._changed.set()


class Feed:
    """Everything that is published from now on, for the subscriptions of one process."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._position: int | None = None
        self._subscriptions: dict[UUID, set[Subscription]] = {}
        self._rounds = Rounds()
        self._closed = False

    @contextlib.contextmanager
    def subscribe(self, wanted: Subscribed, *, most: int = MOST) -> Generator[Subscription]:
        """Hear of these events while the block lasts. A subscription that holds `most` of them raises
        `Overrun` when the next comes.
        """
        subscription = Subscription(wanted, most)
        if self._closed:
            subscription.close()
        organization_id = wanted.reach.organization_id
        group = self._subscriptions.setdefault(organization_id, set())
        group.add(subscription)
        try:
            yield subscription
        finally:
            group.discard(subscription)
            if not group and self._subscriptions.get(organization_id) is group:
                del self._subscriptions[organization_id]

    @property
    def subscribers(self) -> int:
        """How many subscriptions are open."""
        return sum(len(group) for group in self._subscriptions.values())

    def close(self) -> None:
        """End every wait: the process is about to stop."""
        self._closed = True
        for group in self._subscriptions.values():
            for each in group:
                each.close()

    async def find_place(self) -> None:
        """Begin behind what is published now, so that whoever subscribes from here on misses nothing. While
        PostgreSQL is away nothing is published either; the place is then found when it is back.
        """
        with contextlib.suppress(Unavailable):
            await self._find_place()

    async def run(self) -> None:
        """Read what is published until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds.listen(self._db, PUBLISHED))
            group.create_task(self._rounds.run(self._step))

    async def _step(self) -> float:
        try:
            more = await self.read_batch()
        except Unavailable:
            return RECOVERY
        return 0.0 if more else LOOK

    async def read_batch(self) -> bool:
        """Hand on what is published since the last time, one batch of it; whether there may be more."""
        if self._position is None:
            await self._find_place()
            return False
        if not self._subscriptions and await self._skip():
            return False
        async with self._db.reading() as tx:
            events = await published_since(tx, self._position, limit=BATCH)
        if not events:
            await self._step_back()
        for event in events:
            for subscription in self._subscriptions.get(event.organization_id, ()):
                subscription.offer(event)
            self._position = event.position
        return len(events) == BATCH

    async def _skip(self) -> bool:
        """Move behind what nobody wants; not if somebody subscribed meanwhile."""
        async with self._db.reading() as tx:
            newest = await newest_position(tx)
        if self._subscriptions:
            return False
        self._position = max(newest, self._position or 0)
        return True

    async def _step_back(self) -> None:
        """A standby that took over may not have what was published last: positions are then given anew."""
        async with self._db.reading() as tx:
            newest = await newest_position(tx)
        if newest < (self._position or 0):
            log.warning("feed.stepped_back")
            self._position = newest

    async def _find_place(self) -> None:
        if self._position is None:
            async with self._db.reading() as tx:
                self._position = await newest_position(tx)
