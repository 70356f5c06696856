"""What a test that failed had begun ends with it.

All tests share one event loop. A test that ran out of time is left by pytest, but its coroutine is still a
task of that loop and would go on beside the next tests: the services it started would work on their rows with
mail servers of their own, and slow down everything to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator

import pytest
import pytest_asyncio

PATIENCE = 10.0
"""Seconds in which everything a test began has to end."""

_loops: list[asyncio.AbstractEventLoop] = []
"""The one of all tests, once there is one."""


@pytest_asyncio.fixture(scope="session", autouse=True)
async def loop_of_all_tests() -> AsyncGenerator[None]:
    """Where tasks are looked for."""
    _loops.append(asyncio.get_running_loop())
    yield
    _loops.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Cancel what a test that fails has begun and not ended."""
    before = _tasks()
    try:
        return (yield)
    except BaseException:
        _end(_tasks() - before)
        raise


def _tasks() -> set[asyncio.Task[object]]:
    """All but those of psycopg's pools, which fixtures go on using until they close them."""
    running = {task for loop in _loops for task in asyncio.all_tasks(loop)}
    return {task for task in running if not task.get_name().startswith("pool-")}


def _end(tasks: set[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        _loops[0].run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))
