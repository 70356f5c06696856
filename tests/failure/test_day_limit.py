"""The limit on an organisation's mail of a day, with two hundred senders at once and two processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from agentmail_cp.app import create_app
from agentmail_cp.db import Database
from agentmail_cp.mailserver import Folder
from tests.failure.real import Ringing, service
from tests.failure.real import running as with_organization
from tests.failure.world import World, new_organization, new_sandbox
from tests.fix_app import Json, settings_for, started
from tests.limiting import counts

pytestmark = pytest.mark.timeout(180)

SENDERS = 200
INBOXES = 20
LIMIT = 150
PATIENCE = 60.0


@pytest.fixture(autouse=True)
async def one_day() -> None:
    """A count that begins anew at midnight would let twice as much through."""
    now = datetime.now(UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    if (left := (midnight - now).total_seconds()) < PATIENCE:
        await asyncio.sleep(left)


async def send_until_refused(client: httpx.AsyncClient, inbox: Json, to: str, name: str) -> int:
    """How many mails a sender got out before it was told that the day is over."""
    sent = 0
    while True:
        answer = await client.post(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/send",
            json={"to": to, "subject": "Subject", "text": "Text"},
            headers={"Idempotency-Key": f"{name}-{sent}"},
        )
        if answer.status_code == 429:
            assert answer.json()["code"] == "rate_limit_exceeded"
            assert datetime.fromisoformat(answer.json()["retry_at"]) > datetime.now(UTC)
            return sent
        if answer.status_code in {409, 503}:
            # More at once than there are connections; repeated, the same key sends it once all the same.
            assert answer.headers["retry-after"]
            await asyncio.sleep(0.2)
            continue
        assert answer.status_code == 200, answer.text
        sent += 1


async def all_at_once(clients: Sequence[httpx.AsyncClient], inboxes: list[Json]) -> int:
    """Everybody sends, by one process or the other; how many mails got out."""
    to = inboxes[0]["email"]
    return sum(
        await asyncio.gather(
            *(
                send_until_refused(
                    clients[n % len(clients)], inboxes[n % len(inboxes)], to, f"sender-{n}"
                )
                for n in range(SENDERS)
            )
        )
    )


@contextlib.asynccontextmanager
async def two_on_one_sandbox(database_url: str) -> AsyncGenerator[list[World]]:
    """Two applications with connections of their own, on one mail server and one database."""
    sandbox = new_sandbox()
    settings = settings_for(database_url, sends_per_day=LIMIT)
    apps = [create_app(settings, server=sandbox, worker=False) for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(started(each)) for each in apps]
        databases: list[Database] = [each.state["resources"].db for each in apps]
        organization_id, key = await new_organization(databases[0])
        for each in clients:
            each.headers["Authorization"] = f"Bearer {key}"
        yield [
            World(client, db, sandbox, organization_id, key, 0)
            for client, db in zip(clients, databases, strict=True)
        ]


async def test_two_applications_end_exactly_at_the_limit_of_the_day(database_url: str) -> None:
    """A count that is read and written in two steps lets through what happens in between."""
    async with two_on_one_sandbox(database_url) as worlds:
        first = worlds[0]
        inboxes = [await first.inbox(f"sender-{n}") for n in range(INBOXES)]
        assert await all_at_once([each.client for each in worlds], inboxes) == LIMIT
        assert (await counts(first.db, first.organization_id))["organization"] == LIMIT
        stored = [len(await first.stored(each, Folder.SENT)) for each in inboxes]
        assert sum(stored) == LIMIT
        assert Counter(await first.states()) == {"sent": LIMIT}


@pytest.mark.stalwart
@pytest.mark.slow
async def test_two_processes_on_a_real_server_end_exactly_at_the_limit_of_the_day(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("one", "two")]
    for each in places:
        each.mkdir()
    first, second = [
        service(each, ringing, database_url, sends_per_day=LIMIT, stalwart_timeout=10)
        for each in places
    ]
    async with first, second:
        live = await with_organization(first, database_url)
        inboxes = [await live.inbox() for _ in range(INBOXES)]
        async with httpx.AsyncClient(
            base_url=second.url, headers=dict(live.client.headers), timeout=60
        ) as other:
            live.client.timeout = httpx.Timeout(60)
            assert await all_at_once([live.client, other], inboxes) == LIMIT
        (row,) = await live.rows(
            "select sum(count)::int as n from send_count where kind = 'organization'"
        )
        assert row["n"] == LIMIT
        states = await live.rows("select state from send")
        assert Counter(each["state"] for each in states) == {"sent": LIMIT}
        await live.close()
