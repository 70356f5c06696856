"""kill -9 of the service at each step of a delivery: everything arrives, and a repetition can be told."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.failure.mortal import DELIVERY, Fate, program
from tests.failure.real import Ringing, Running, running
from tests.fix_app import until
from tests.fix_process import ServiceProcess
from tests.receiver import ON_LOOPBACK, Receiver

pytestmark = [pytest.mark.stalwart, pytest.mark.slow]

SEED = 20_261_121


@pytest_asyncio.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with Receiver.listening() as listening:
        yield listening


@pytest.mark.timeout(180)
async def test_every_event_arrives_and_under_one_id(
    ringing: Ringing, database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    """At least once, never not; and its id is what a receiver tells the second from the first by."""
    fate = Fate(tmp_path / "fate")
    settings = ringing.settings(database_url, outbound_allow=ON_LOOPBACK, sweep_interval=1)
    process = ServiceProcess(tmp_path, settings, program=program(tmp_path / "fate"))
    ringing.relay.target = process.port
    choose = random.Random(SEED)
    async with process:
        live = await running(process, database_url)
        process.closing.push_async_callback(live.close)
        made = await live.client.post(
            "/v0/webhooks", json={"url": receiver.url(), "event_types": ["message.received"]}
        )
        inbox = await live.inbox()
        for number, step in enumerate(DELIVERY):
            fate.set(step, choose.uniform(0, 0.005))
            await ringing.deliver(inbox["email"], number)
            await until(lambda: _is_over(fate), bool, seconds=20)
            await process.until_status(200)
            await live.rows(
                "update delivery set claimed_until = now() where state = 'pending' returning 1"
            )
        ids = await until(
            lambda: _ids_by_message(receiver), lambda ids: len(ids) == len(DELIVERY), seconds=20
        )
        await until(lambda: _states(live), lambda states: states == {"delivered"}, seconds=20)
    assert all(len(each) == 1 for each in ids.values())
    # Who dies after the answer has told nobody of it.
    assert len(receiver.got) > len(DELIVERY)
    for got in receiver.got:
        got.verify(made.json()["secret"])
    assert "Traceback" not in process.log


async def _is_over(fate: Fate) -> bool:
    return not fate.open


async def _ids_by_message(receiver: Receiver) -> dict[str, set[str]]:
    ids: dict[str, set[str]] = defaultdict(set)
    for got in receiver.got:
        ids[got.event["message"]["message_id"]].add(got.headers["svix-id"])
    return ids


async def _states(live: Running) -> set[str]:
    return {row["state"] for row in await live.rows("select state from delivery")}
