"""The WebSocket over restarts and crashes: who comes back with `after` hears of each event once, in order."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.failure import sandboxed
from tests.failure.real import Ringing, Running, running, service
from tests.fix_app import DOMAIN, until
from tests.fix_process import ServiceProcess
from tests.sockets import Listener, listening, not_opened

MAILS = 60


class Follower:
    """A client as the guide has it: when it loses its socket, it goes on after the last event."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        self.told: list[str] = []
        self.codes: list[int | None] = []
        self.connected = asyncio.Event()
        self._cursor = "start"

    async def follow(self) -> None:
        while True:
            try:
                async with listening(self.url, self.key) as listener:
                    await self._listen(listener)
            except (ConnectionClosed, InvalidHandshake, OSError):
                await asyncio.sleep(0.02)

    async def _listen(self, listener: Listener) -> None:
        try:
            await listener.subscribe(after=self._cursor, event_types=["message.received"])
            self.connected.set()
            while True:
                self._cursor = (await listener.event())["event_id"]
                self.told.append(self._cursor)
        finally:
            self.connected.clear()
            self.codes.append(listener.connection.close_code)


async def published(live: Running) -> list[str]:
    """What was received, in the order of all events."""
    rows = await live.rows(
        "select event_id from event where type = 'message.received' order by position"
    )
    return [str(row["event_id"]) for row in rows]


@pytest.mark.stalwart
@pytest.mark.timeout(120)
async def test_nothing_is_missed_or_heard_twice_over_restarts(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """An agent would leave a mail unanswered after each of our releases, or answer it twice."""
    choose = random.Random(6)
    process = service(tmp_path, ringing, database_url, sweep_interval=3600)
    async with process, asyncio.TaskGroup() as group:
        live = await running(process, database_url)
        follower = Follower(process.url, live.key)
        following = group.create_task(follower.follow())
        inbox = await live.inbox()
        arriving = group.create_task(ringing.deliver(inbox["email"], *range(MAILS)))
        for crash in (False, True, False):
            await follower.connected.wait()
            await asyncio.sleep(choose.uniform(0.05, 0.3))
            if crash:
                process.kill()
            else:
                await process.terminate()
            await process.start()
        await arriving
        await until(lambda: _count(follower), lambda seen: seen >= MAILS, seconds=30)
        following.cancel()
        assert follower.told == await published(live)
        assert len(follower.told) == MAILS
        # 1006: the connection broke off.
        assert follower.codes[:3] == [1012, 1006, 1012]
    assert "Traceback" not in process.log


@pytest.mark.stalwart
async def test_a_replica_tells_what_another_read(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """Whether an agent hears of its mail would depend on where a load balancer put it."""
    (tmp_path / "other").mkdir()
    process = service(tmp_path, ringing, database_url)
    other = ServiceProcess(
        tmp_path / "other", ringing.settings(database_url), "serve", "--no-worker"
    )
    async with process, other:
        live = await running(process, database_url)
        inbox = await live.inbox()
        async with listening(other.url, live.key) as listener:
            await listener.subscribe()
            await ringing.deliver(inbox["email"], 1, 2, 3)
            told = [(await listener.event())["message"]["subject"] for _ in range(3)]
            assert told == ["Subject 1", "Subject 2", "Subject 3"]


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_no_log_has_a_key_or_what_was_said(
    database_url: str, tmp_path: Path, log_format: str
) -> None:
    """Whoever reads the log of a service could read everybody's mail."""
    settings = {"log_level": "debug", "log_format": log_format, "domain_shared": False}
    process = ServiceProcess(
        tmp_path,
        {"database_url": database_url, "domain": DOMAIN, **settings},
        program=sandboxed.program(tmp_path),
    )
    async with process:
        live = await running(process, database_url)
        inbox = await live.inbox()
        at = f"{process.url}/v0?api_key="
        assert (await not_opened(at + "canary-key"))[0] == 401
        assert (await not_opened(f"{process.url}/canary-path?api_key={live.key}"))[0] == 404
        async with connect(at.replace("http", "ws", 1) + live.key, proxy=None) as connection:
            listener = Listener(connection)
            await listener.refused("{canary-frame")
            await listener.refused({"type": "subscribe", "inbox_ids": ["canary-inbox@b.test"]})
            await listener.subscribe(event_types=["message.received"])
            await live.post(inbox, to=inbox["email"], subject="canary-s", text="canary-text")
            assert "canary-text" in str(await listener.event())
            await live.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
        await process.terminate()
    assert live.key not in process.log
    assert "canary" not in process.log


async def _count(follower: Follower) -> int:
    return len(follower.told)
