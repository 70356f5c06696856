"""One request for the log: where it goes on, what it wants, and how long it waits.

While it waits it holds no connection to the database: the feed wakes it, and the log answers it, so that what
it is told and where it goes on are always of one piece. It ends when the client leaves, and with what there
is when the process is about to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import msgspec
from litestar import Request

from agentmail_cp import bodies, events, payloads
from agentmail_cp.db import Database
from agentmail_cp.events import Feed, Page, Place, Subscribed
from agentmail_cp.mailserver import MailServer
from agentmail_cp.web import inject
from agentmail_cp.web.waiting import while_there

PATIENCE: Final = 2.0
"""Seconds a request looks through events that are not wanted before it answers with an empty page."""

LARGEST: Final = 16_000_000
"""Bytes of events after which a page is full."""

AT_ONCE: Final = 20
"""Events that are made ready together."""


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for the log asks for. With `masks`, only events of messages that have one of these
    hiding masks. `wait` is in seconds.
    """

    wanted: Subscribed
    cursor: str
    limit: int
    wait: float = 0.0
    masks: Sequence[int] | None = None


class Tail:
    """The log, for one request."""

    def __init__(
        self, request: Request[Any, Any, Any], db: Database, server: MailServer, feed: Feed
    ) -> None:
        self._request = request
        self._db = db
        self._server = server
        self._feed = feed

    async def answer(self, asked: Following) -> bytes:
        """A `bodies.ListEvents`; nothing for a client that left.

        Raises `Invalid` and `Gone` for cursors as `events.place_of` does, and `Unavailable`.
        """
        if not asked.wait:
            return await self._answer(asked)
        return await while_there(self._request.receive, self._answer(asked)) or b""

    async def _answer(self, asked: Following) -> bytes:
        page = await self._page(asked)
        shown: list[bytes] = []
        for start in range(0, len(page.events), AT_ONCE):
            shown += await payloads.render(
                self._db, self._server, page.events[start : start + AT_ONCE]
            )
            if sum(map(len, shown)) > LARGEST:
                break
        cursor = page.place.cursor
        if len(shown) < len(page.events):
            cursor = str(page.events[len(shown) - 1].event_id)
        return bodies.events_page(shown, limit=asked.limit, cursor=cursor)

    async def _page(self, asked: Following) -> Page:
        deadline = monotonic() + asked.wait
        async with self._db.reading() as tx:
            place = await events.place_of(tx, asked.wanted.reach, asked.cursor)
        while True:
            # First the ear, then the look: what is published in between is heard.
            with self._feed.subscribe(asked.wanted, most=1) as heard:
                page = await self._look(asked, place)
                if page.events or monotonic() >= deadline:
                    return page
                place = page.place
                if page.ended and not await _sounds(heard, deadline - monotonic()):
                    return page

    async def _look(self, asked: Following, place: Place) -> Page:
        """The next page that is not empty, unless there is none or it takes too long to find."""
        until = monotonic() + PATIENCE
        while True:
            async with self._db.reading() as tx:
                page = await events.page(
                    tx, asked.wanted, place, limit=asked.limit, masks=asked.masks
                )
            if page.events or page.ended or monotonic() > until:
                return page
            place = page.place


async def _sounds(heard: events.Subscription, seconds: float) -> bool:
    """Wait for an event, at most so long. False when nothing will come any more."""
    with contextlib.suppress(TimeoutError, events.Overrun):
        async with asyncio.timeout(max(0.0, seconds)):
            try:
                await heard.get()
            except events.Closed:
                return False
    return True


async def provide_tail(
    request: Request[Any, Any, Any], db: inject.Db, server: inject.Server, feed: inject.Feed
) -> Tail:
    """The dependency `tail`."""
    return Tail(request, db, server, feed)
