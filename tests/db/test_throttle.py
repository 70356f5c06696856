"""Counting over processes: nobody gets more than the limit, and nobody less."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from agentmail_cp import throttle
from agentmail_cp.db import Database
from agentmail_cp.errors import Unavailable
from agentmail_cp.throttle import Allowance, Throttle
from tests.fix_app import settings_for
from tests.fix_proxy import Proxy, port_of, through

ORGANIZATION = UUID(int=1)
LONG = 600.0


@pytest.fixture
def key() -> UUID:
    return uuid7()


def throttled(db: Database, limit: int, *, window: float = LONG) -> Throttle:
    """What one process counts with."""
    return Throttle(db, settings_for(db.url, requests_per_minute=limit), window=window)


async def spend(process: Throttle, key: UUID) -> Allowance:
    """One request of a key that has a limit."""
    allowance = await process.admit(ORGANIZATION, key)
    assert allowance is not None
    return allowance


async def spend_all(processes: list[Throttle], key: UUID) -> int:
    """Ask all processes in turn until each refuses; how many requests got through."""
    through = 0
    open_ = list(processes)
    while open_:
        for each in list(open_):
            if (await spend(each, key)).retry_after is None:
                through += 1
            else:
                open_.remove(each)
    return through


class Counted(Database):
    """A pool that counts how often it was asked for a connection."""

    asked = 0

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncGenerator[Any]:
        self.asked += 1
        async with super().reading() as tx:
            yield tx


@contextlib.asynccontextmanager
async def counted(url: str) -> AsyncGenerator[Counted]:
    pool = Counted(url)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 1000, 3001])
@pytest.mark.parametrize("processes", [1, 2, 5])
async def test_processes_that_share_a_key_let_exactly_its_limit_through(
    database: Database, key: UUID, limit: int, processes: int
) -> None:
    made = [throttled(database, limit) for _ in range(processes)]
    assert await spend_all(made, key) == limit


@pytest.mark.parametrize("limit", [100, 1000])
async def test_what_a_process_holds_back_is_under_half_a_percent(
    database: Database, key: UUID, limit: int
) -> None:
    """A load balancer that stops asking one replica takes little of the key's requests with it."""
    first, second = (throttled(database, limit) for _ in range(2))
    for _ in range(limit // 3):
        await spend(first, key)
    assert await spend_all([second], key) >= limit - limit // 3 - limit // throttle.LEASES


async def test_replicas_that_saw_a_key_once_hold_nothing_back(
    database: Database, key: UUID
) -> None:
    """With thirty replicas, half a per cent each would be a sixth of the limit."""
    many = [throttled(database, 1000) for _ in range(30)]
    for each in many:
        await spend(each, key)
    assert await spend_all(many[:1], key) == 970


async def test_a_high_limit_costs_no_more_questions_than_a_low_one(
    database_url: str, key: UUID
) -> None:
    """A key with a million requests a minute would otherwise keep PostgreSQL busy by itself."""
    async with counted(database_url) as db:
        process = throttled(db, 100_000)
        for _ in range(50_000):
            await spend(process, key)
        assert db.asked <= 120


async def test_requests_that_wait_share_one_question(database_url: str, key: UUID) -> None:
    """A burst of a thousand requests must not take every connection of the pool."""
    async with counted(database_url) as db:
        process = throttled(db, 1000)
        got = await asyncio.gather(*(spend(process, key) for _ in range(500)))
        assert db.asked == 1
        assert all(each.retry_after is None for each in got)
        assert {each.remaining for each in got} == set(range(500, 1000))


async def test_a_burst_over_the_limit_is_cut_at_the_limit(database: Database, key: UUID) -> None:
    two = [throttled(database, 100) for _ in range(2)]
    got = await asyncio.gather(*(spend(two[n % 2], key) for n in range(300)))
    assert sum(each.retry_after is None for each in got) == 100


async def test_refusing_asks_nobody_until_the_window_ends(database_url: str, key: UUID) -> None:
    """A client that ignores Retry-After must not become a load on PostgreSQL."""
    async with counted(database_url) as db:
        process = throttled(db, 3)
        await spend_all([process], key)
        before = db.asked
        refused = [await spend(process, key) for _ in range(1000)]
        assert all(each.retry_after is not None for each in refused)
        assert db.asked == before


async def test_a_window_begins_with_the_first_request_after_the_last_one(
    database: Database, key: UUID
) -> None:
    process = throttled(database, 2, window=0.5)
    begun = monotonic()
    first = await spend(process, key)
    await spend_all([process], key)
    refused = await spend(process, key)
    assert refused.retry_after is not None
    assert 0 < refused.retry_after <= 0.5
    assert refused.resets_at == first.resets_at
    await asyncio.sleep(refused.retry_after)
    assert monotonic() - begun >= 0.5
    fresh = await spend(process, key)
    assert (fresh.retry_after, fresh.remaining) == (None, 1)
    assert (fresh.resets_at - first.resets_at).total_seconds() >= 0.5


async def test_refused_requests_use_up_nothing_of_the_next_window(
    database: Database, key: UUID
) -> None:
    two = [throttled(database, 10, window=0.4) for _ in range(2)]
    for _ in range(3):
        assert await spend_all(two, key) == 10
        waits = [(await spend(each, key)).retry_after for _ in range(50) for each in two]
        await asyncio.sleep(max(each or 0.0 for each in waits))


async def test_keys_do_not_count_for_each_other(database: Database, key: UUID) -> None:
    process = throttled(database, 5)
    assert await spend_all([process], key) == 5
    assert await spend_all([process], uuid7()) == 5


async def test_without_a_limit_nothing_is_counted(database: Database, key: UUID) -> None:
    process = throttled(database, 0)
    assert [await process.admit(ORGANIZATION, key) for _ in range(10)] == [None] * 10
    async with database.reading() as tx:
        assert await (await tx.execute("select 1 from request_window")).fetchone() is None


async def test_the_memory_of_a_process_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgetting a key costs a question; it never gives requests away twice."""
    monkeypatch.setattr(throttle, "MOST_KEYS", 10)
    process = throttled(database, 3)
    keys = [uuid7() for _ in range(25)]
    granted = [await spend(process, each) for _ in range(5) for each in keys]
    assert sum(each.retry_after is None for each in granted) == 3 * len(keys)
    assert process.remembered == 10


async def test_a_request_that_is_given_up_takes_nobody_with_it(
    database: Database, key: UUID
) -> None:
    """A client that hangs up while PostgreSQL is asked; others wait for the same answer."""
    process = throttled(database, 1000)
    requests = [asyncio.create_task(spend(process, key)) for _ in range(10)]
    await asyncio.sleep(0)
    requests[0].cancel()
    got = await asyncio.gather(*requests[1:])
    assert all(each.retry_after is None for each in got)
    with pytest.raises(asyncio.CancelledError):
        await requests[0]


async def test_without_postgresql_all_who_wait_hear_it_at_once(
    database_url: str, key: UUID
) -> None:
    """One after the other, a hundred requests would wait two seconds each."""
    async with Proxy(port_of(database_url)) as proxy:
        db = Database(through(database_url, proxy), wait=0.5)
        await db.open()
        try:
            process = throttled(db, 1000)
            await spend(process, key)
            proxy.refuse()
            begun = monotonic()
            got = await asyncio.gather(
                *(spend(process, key) for _ in range(100)), return_exceptions=True
            )
            assert monotonic() - begun < 3
            assert {type(each) for each in got} == {Unavailable}
        finally:
            await db.close()


async def test_windows_of_keys_long_unused_are_forgotten(database: Database, key: UUID) -> None:
    process = throttled(database, 5)
    await spend(process, key)
    await spend(process, uuid7())
    async with database.transaction() as tx:
        await tx.execute(
            "update request_window set started_at = now() - interval '25 hours'"
            " where api_key_id = %(key)s",
            {"key": key},
        )
        await throttle.forget_old(tx)
        rows = await (await tx.execute("select api_key_id from request_window")).fetchall()
    assert len(rows) == 1
    assert rows[0]["api_key_id"] != key
