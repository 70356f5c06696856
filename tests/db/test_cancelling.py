"""A wait for the database ends when it is told to, whatever comes at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from agentmail_cp.db import Database


@pytest_asyncio.fixture
async def narrow(database_url: str) -> AsyncGenerator[Database]:
    """A pool of one connection, so that a second borrower waits."""
    pool = Database(database_url, size=1)
    await pool.open()
    yield pool
    await pool.close()


@pytest.mark.parametrize("turns", range(12))
async def test_an_end_that_comes_together_with_a_connection_is_heard(
    narrow: Database, turns: int
) -> None:
    """A worker told to stop would go on for ever, and its service be killed instead: `asyncio.wait_for` of
    Python 3.11, by which the pool waits, forgets a cancellation that comes with what it waits for.
    """

    async def borrow_and_stay() -> None:
        async with narrow.reading():
            pass
        await asyncio.sleep(3600)

    async with narrow.reading():
        borrower = asyncio.create_task(borrow_and_stay())
        await asyncio.sleep(0.02)
    for _ in range(turns):
        await asyncio.sleep(0)
    borrower.cancel()
    done, _ = await asyncio.wait({borrower}, timeout=1.0)
    borrower.cancel()
    assert done
    async with narrow.reading() as tx:
        await tx.execute("select 1")
