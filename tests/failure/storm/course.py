"""The course of a storm and of an outage: peace, trouble, peace again, and the reckoning."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.failure.storm import verdict
from tests.failure.storm.consumers import TOLD, Endpoint, Listener
from tests.failure.storm.ledger import Ledger
from tests.failure.storm.load import Load
from tests.failure.storm.strikes import Strike, strikes
from tests.failure.storm.world import World, running

INBOXES: Final = 8
ENDPOINTS: Final = 3
PAUSE: Final = 4.0
"""Seconds between two strikes, on average."""

QUIET: Final = 3.0
"""Seconds without anything new after which a storm counts as over."""

PATIENCE: Final = 720.0
"""Seconds everything may take to come to rest: a Stalwart killed while it tries a mail leaves that locked
in its queue for ten minutes (0.16, crates/smtp/src/queue/spool.rs)."""


@dataclass
class Report:
    """What happened: `figures` by name, and what is wrong."""

    figures: dict[str, object]
    complaints: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        """For a person."""
        lines = [f"{name:<44}{value}" for name, value in self.figures.items()]
        shown = [f"WRONG: {each}" for each in self.complaints[:50]]
        more = len(self.complaints) - len(shown)
        return "\n".join([*lines, *shown, *([f"and {more} more"] if more else [])])


@dataclass
class Watch:
    """Everybody who is told."""

    endpoints: list[Endpoint]
    listener: Listener

    @property
    def count(self) -> int:
        """How much was told so far."""
        return sum(each.got.total() for each in self.endpoints) + len(self.listener.heard)


@contextlib.asynccontextmanager
async def _watching(world: World) -> AsyncGenerator[Watch]:
    async with contextlib.AsyncExitStack() as stack:
        endpoints = [
            await stack.enter_async_context(Endpoint().listening()) for _ in range(ENDPOINTS)
        ]
        for each in endpoints:
            each.secret = await world.endpoint(each.url, TOLD)
        listener = Listener(world.api.url, world.key)
        listening = asyncio.create_task(listener.run())
        try:
            yield Watch(endpoints, listener)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def storm(
    folder: Path,
    database_url: str,
    *,
    seconds: float,
    rate: float,
    seed: int,
    pause: float = PAUSE,
    patience: float = PATIENCE,
) -> Report:
    """Mail at `rate` a second for so long, while one blow after the other falls."""
    async with running(folder, database_url) as world, _watching(world) as watch:
        inboxes = [await world.inbox() for _ in range(INBOXES)]
        load = Load(world, inboxes, rate=rate, seed=seed)
        plan = strikes(seed, max(1, int(seconds / pause)), pause=pause)
        fallen: list[Strike] = []
        striking = asyncio.create_task(_strike(world, plan, fallen))
        await asyncio.gather(load.from_outside(seconds), load.from_inboxes(seconds))
        striking.cancel()
        await asyncio.gather(striking, return_exceptions=True)
        await _heal(world)
        rested = await _rest(world, watch, patience)
        return await _reckon(
            world, watch, load.ledger, _fallen(fallen) | {"seconds to rest": rested}
        )


async def outage(
    folder: Path, database_url: str, *, seconds: float, rate: float, seed: int
) -> Report:
    """The whole control plane is away for so long while mail arrives, and Stalwart is restarted meanwhile."""
    async with running(folder, database_url) as world, _watching(world) as watch:
        inboxes = [await world.inbox() for _ in range(INBOXES)]
        load = Load(world, inboxes, rate=rate, seed=seed)
        await asyncio.gather(load.from_outside(3), load.from_inboxes(3))
        world.api.kill()
        world.worker.kill()
        arriving = asyncio.create_task(load.from_outside(seconds))
        await asyncio.sleep(seconds / 2)
        async with world.stalwart_away():
            await asyncio.sleep(0.5)
        await arriving
        await _heal(world)
        caught_up = await _rest(world, watch, PATIENCE)
        return await _reckon(world, watch, load.ledger, {"seconds to catch up": caught_up})


def _fallen(fallen: Sequence[Strike]) -> dict[str, object]:
    counts = Counter(each.blow for each in fallen)
    return {f"times: {blow}": count for blow, count in sorted(counts.items())}


async def _strike(world: World, plan: Sequence[Strike], fallen: list[Strike]) -> None:
    for each in plan:
        await asyncio.sleep(each.pause)
        striking = asyncio.ensure_future(world.strike(each.blow, each.lasts))
        try:
            await asyncio.shield(striking)
        finally:
            # A blow that has fallen is made good before anybody else does so.
            await striking
        fallen.append(each)


async def _heal(world: World) -> None:
    await world.to_database.heal()
    await world.to_mail.heal()
    if not world.stalwart.pid:
        await world.stalwart.start()
    for each in (world.api, world.worker):
        if not each.running:
            each.launch()
    await world.api.until_status(200)


async def _rest(world: World, watch: Watch, patience: float) -> float:
    """Wait until nothing more is told and no outcome is open; the seconds that took."""
    loop = asyncio.get_running_loop()
    began = changed = loop.time()
    seen = -1
    while loop.time() < began + patience:
        if watch.count != seen:
            seen, changed = watch.count, loop.time()
        elif loop.time() > changed + QUIET and not await _open(world, watch):
            return round(changed - began, 1)
        await asyncio.sleep(0.2)
    return patience


async def _open(world: World, watch: Watch) -> bool:
    """Whether something is still to come. Asked of the database, as asking for each message takes long."""
    async with world.database.reading() as tx:
        found = await tx.execute(
            "select exists (select from recipient where status in ('queued', 'delayed')) as open,"
            " (select count(*) from event where type = any(%(told)s)) as wanted",
            {"told": TOLD},
        )
        row = await found.fetchone()
    assert row is not None
    behind = any(len(each.got) < row["wanted"] for each in watch.endpoints)
    return row["open"] or behind or len(watch.listener.heard) < row["wanted"]


async def _events(world: World) -> list[dict[str, Any]]:
    """The whole log, as it is told."""
    found: list[dict[str, Any]] = []
    after = "start"
    while True:
        page = await world.get("/v0/events", after=after, limit="100")
        if not page["events"]:
            return found
        found += page["events"]
        after = page["next_cursor"]


async def _shown(world: World, ledger: Ledger) -> dict[str, Any]:
    """The sent messages by id."""
    gate = asyncio.Semaphore(8)

    async def one(inbox: str, message_id: str) -> tuple[str, Any]:
        async with gate:
            return message_id, await world.get(f"/v0/inboxes/{inbox}/messages/{message_id}")

    return dict(await asyncio.gather(*(one(each.inbox, each.message_id) for each in ledger.sent)))


async def _reckon(world: World, watch: Watch, ledger: Ledger, figures: dict[str, object]) -> Report:
    events = await _events(world)
    shown = await _shown(world, ledger)
    complaints = itertools.chain(
        verdict.received(events, ledger),
        verdict.sent(events, ledger),
        verdict.outcomes(events, ledger, world.deaths, shown),
        verdict.endpoints(events, watch.endpoints),
        verdict.listener(events, watch.listener.heard),
    )
    statuses = Counter(
        one["status"] for each in shown.values() for one in each.get("deliveries", ())
    )
    return Report(
        {
            "accepted from outside": len(ledger.accepted),
            "handed in without an answer": len(ledger.doubtful),
            "sends answered": len(ledger.sent),
            "requests it took": ledger.attempts,
            **{f"outcome {name}": count for name, count in sorted(statuses.items())},
            **{
                f"event {name}": n
                for name, n in sorted(Counter(e["event_type"] for e in events).items())
            },
            "webhook requests taken": sum(each.got.total() for each in watch.endpoints),
            "more than once": sum(each.got.total() - len(each.got) for each in watch.endpoints),
            "WebSocket connections": watch.listener.connections,
            **figures,
        },
        list(complaints),
    )
