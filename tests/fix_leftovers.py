"""A test that pytest has left ends.

All tests share one event loop. A test that ran out of time is left by pytest, but its coroutine is still a
task of that loop and would go on beside the next tests: the services it started would work on their rows with
mail servers of their own, and slow down everything to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from types import CoroutineType

import pytest
import pytest_asyncio

PATIENCE = 10.0
"""Seconds a test has to clean up."""

_loops: list[asyncio.AbstractEventLoop] = []
"""The one of all tests, once there is one."""


@pytest_asyncio.fixture(scope="session", autouse=True)
async def loop_of_all_tests() -> AsyncGenerator[None]:
    """Where tasks are looked for."""
    _loops.append(asyncio.get_running_loop())
    yield
    _loops.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Cancel a test that was left."""
    try:
        return (yield)
    except BaseException:
        if isinstance(item, pytest.Function):
            _end({task for task in _tasks() if _runs(task, item)})
        raise


def _tasks() -> set[asyncio.Task[object]]:
    return {task for loop in _loops for task in asyncio.all_tasks(loop)}


def _runs(task: asyncio.Task[object], item: pytest.Function) -> bool:
    """Whether this is the test itself. What fixtures began is theirs to end, and goes on until then."""
    coroutine: object = task.get_coro()
    function: object = item.obj
    code = getattr(function, "__code__", None)
    return isinstance(coroutine, CoroutineType) and coroutine.cr_code is code


def _end(tasks: set[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        _loops[0].run_until_complete(asyncio.wait(tasks, timeout=PATIENCE))
