"""Webhooks: how many deliveries a worker makes in a second, how soon, and whether sick endpoints slow it.

The receiver is a process of its own. A delivery begins when its row is committed and ends when its
request has arrived. Events are of real mail, which is read from Stalwart when it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

import httpx
import msgspec
import psycopg

from bench.measuring import Figure, Target, deliver, new_inbox, percentiles, processor_of
from bench.receiver import Taken
from bench.world import free_port

MAILS = 300
WELL = 8
ROUNDS = 2
PACE = 20.0
"""Events in a second while times are taken: each goes to every endpoint."""

PATIENCE = 60.0
"""Seconds after which something is wrong."""

OWE = """
insert into delivery (delivery_id, organization_id, webhook_id, event_id, event_type)
select gen_random_uuid(), event.organization_id, webhook_id, event_id, event.type
from event cross join unnest(%(webhooks)s::uuid[]) as webhook_id where event_id = any(%(events)s)
on conflict (webhook_id, event_id) do update set state = 'pending', due_at = now(), failures = 0;
"""


class Receiving(msgspec.Struct):
    """The receiver, and a connection to the database to owe it something."""

    port: int
    http: httpx.AsyncClient
    tx: psycopg.AsyncConnection

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def taken(self) -> list[Taken]:
        """What arrived since the last time."""
        answer = await self.http.get(self.url("/taken"))
        return msgspec.json.decode(answer.content, type=list[Taken])

    async def settled(self, webhooks: Sequence[UUID]) -> None:
        """Wait until nothing is owed to these; then forget what arrived."""
        pending = "select from delivery where state = 'pending' and webhook_id = any(%s) limit 1"
        while (await self.tx.execute(pending, (list(webhooks),))).rowcount:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await self.taken()

    async def owe(self, webhooks: Sequence[UUID], events: Sequence[UUID]) -> None:
        """Make deliveries due: every event to every endpoint."""
        async with self.tx.transaction():
            await self.tx.execute(OWE, {"webhooks": list(webhooks), "events": list(events)})
            await self.tx.execute("select pg_notify('delivery', '')")


async def deliveries(target: Target) -> list[Figure]:
    """Everything about webhooks."""
    address = await new_inbox(target)
    for _ in range(MAILS):
        await asyncio.to_thread(deliver, target.smtp_port, address)
    async with _receiving(target) as receiver:
        events = await _events(receiver)
        well = [await _endpoint(target, receiver.url(f"/{number}")) for number in range(WELL)]
        await _arrivals(receiver, well, events[:20])
        figures = [await _rate(target, receiver, well, events)]
        return [*figures, *await _beside_the_sick(target, receiver, well, events)]


@contextlib.asynccontextmanager
async def _receiving(target: Target) -> AsyncGenerator[Receiving]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.receiver", str(port)])  # noqa: ASYNC220
    try:
        async with (
            httpx.AsyncClient(timeout=60) as http,
            await psycopg.AsyncConnection.connect(target.database_url, autocommit=True) as tx,
        ):
            receiver = Receiving(port, http, tx)
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await receiver.taken()
                    break
                await asyncio.sleep(0.05)
            yield receiver
    finally:
        process.kill()
        process.wait(10)


async def _events(receiver: Receiving) -> list[UUID]:
    """The events of all mails, once they are there."""
    while True:
        rows = await (
            await receiver.tx.execute(
                "select event_id from event where type = 'message.received'"
                " and position is not null order by position desc limit %s",
                (MAILS,),
            )
        ).fetchall()
        if len(rows) == MAILS:
            return [row[0] for row in rows]
        await asyncio.sleep(0.1)


async def _endpoint(target: Target, url: str) -> UUID:
    # Domains are never verified here: it is told of what is owed to it directly, and of nothing else.
    wanted = {"url": url, "event_types": ["domain.verified"]}
    answer = (await target.api.post("/v0/webhooks", json=wanted)).raise_for_status()
    return UUID(answer.json()["webhook_id"])


async def _arrivals(
    receiver: Receiving, webhooks: Sequence[UUID], events: Sequence[UUID]
) -> list[Taken]:
    """Owe everything at once; what arrived when all has."""
    await receiver.settled(webhooks)
    await receiver.owe(webhooks, events)
    found: list[Taken] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < len(webhooks) * len(events):
            await asyncio.sleep(0.05)
            found += await receiver.taken()
    return found


async def _rate(
    target: Target, receiver: Receiving, webhooks: Sequence[UUID], events: Sequence[UUID]
) -> Figure:
    """How many in a second, of a backlog, and what each takes of a processor."""
    await receiver.settled(webhooks)
    begun, used = time.monotonic(), processor_of(target.process)
    found = await _arrivals(receiver, webhooks, events)
    await receiver.settled(webhooks)
    each = (processor_of(target.process) - used) * 1000 / len(found)
    times = [(at - begun) * 1000 for _, _, at in found]
    rate = len(found) / (max(times) / 1000)
    print(
        f"{len(found)} deliveries in {max(times) / 1000:.1f} s: {rate:.0f} a second,"
        f" {each:.2f} ms of a processor each in our process",
        flush=True,
    )
    figure = Figure("deliver a backlog", len(webhooks), None, *percentiles(times), rate=rate)
    print(figure.line, flush=True)
    return figure


async def _beside_the_sick(
    target: Target, receiver: Receiving, well: Sequence[UUID], events: Sequence[UUID]
) -> list[Figure]:
    """Times of the endpoints that are well, without and with two that are not, in turns. Those are new each
    time: how an endpoint falls sick is the worst of it.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(2 * ROUNDS):
        sick: list[UUID] = []
        if turn % 2:
            urls = (receiver.url(f"/hang{turn}"), f"http://127.0.0.1:{free_port()}/")
            sick = [await _endpoint(target, url) for url in urls]
        await receiver.settled(well)
        times[bool(turn % 2)] += await _paced(receiver, [*sick, *well], events)
    figures = [
        Figure(name, WELL, None, *percentiles(times[sick]))
        for name, sick in (
            ("deliver an event", False),
            ("the same beside two sick endpoints", True),
        )
    ]
    for figure in figures:
        print(figure.line, flush=True)
    print(
        f"  p99 beside the sick: {figures[1].p99 / figures[0].p99:.2f} of that without", flush=True
    )
    return figures


async def _paced(
    receiver: Receiving, webhooks: Sequence[UUID], events: Sequence[UUID]
) -> list[float]:
    """How long each delivery took to endpoints that are well, in ms, at the pace of events."""
    owed: dict[str, float] = {}
    begun = time.monotonic()
    for number, event in enumerate(events):
        await asyncio.sleep(max(0.0, begun + number / PACE - time.monotonic()))
        await receiver.owe(webhooks, [event])
        owed[str(event)] = time.monotonic()
    found: list[Taken] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < WELL * len(events):
            await asyncio.sleep(0.1)
            found += [each for each in await receiver.taken() if not each[0].startswith("/hang")]
    return [(at - owed[event]) * 1000 for _, event, at in found]
