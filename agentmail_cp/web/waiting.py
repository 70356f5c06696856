"""Requests that wait for something to happen: their work ends when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from litestar.types import Receive

T = TypeVar("T")

LONGEST: Final = 60.0
"""Seconds a request may wait; proxies commonly allow as much."""


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work comes to; None when the client left before. Its request has no body, or it was read."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
