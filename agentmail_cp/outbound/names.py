"""Looking names up, in threads, so that names nobody answers for keep no others waiting.

The system's resolver is asked, as `/etc/hosts`, search domains and whatever else the operator has set up
count; it blocks, and for a name whose servers are silent it may do so for half a minute. So an owner has a
share of the threads; a look-up's time begins when a thread does; and one that nobody waits for any more takes
none.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Final
from weakref import WeakValueDictionary

from agentmail_cp.outbound.errors import OutboundError, Reason

PATIENCE: Final = 5.0
"""Seconds a look-up may take."""

QUEUE: Final = 2.0
"""Seconds it may wait for a thread."""

OWNERS: Final = 4
"""The part of the threads that are for one owner is one in so many."""

OWNER: ContextVar[str] = ContextVar("owner", default="")
"""Whose request the current task makes: httpcore hands nothing of a request to what connects it."""

_Asked = tuple[str, str, int]


class _Looking:
    """A look-up under way, whether a thread has begun it, and how many wait for it."""

    def __init__(self, found: asyncio.Task[Sequence[str]], begun: asyncio.Event) -> None:
        self.found = found
        self.begun = begun
        self.waiting = 0


class Names:
    """The look-ups of one process, or part of it, in so many threads."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")
        self._share = max(1, threads // OWNERS)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._looking: dict[_Asked, _Looking] = {}

    def close(self) -> None:
        """Begin no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Every address of a name, looked up once for all of its owner's who ask meanwhile. Raises `OSError`
        as the system does, and `OutboundError` where too much else is being looked up.
        """
        asked = (OWNER.get(), host, port)
        looking = self._looking.get(asked) or self._begin(asked)
        looking.waiting += 1
        try:
            await _turn(looking.begun)
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(looking.found)
        finally:
            looking.waiting -= 1
            if not looking.waiting and not looking.begun.is_set():
                looking.found.cancel()
                self._forget(asked, looking)

    def _begin(self, asked: _Asked) -> _Looking:
        begun = asyncio.Event()
        looking = _Looking(asyncio.ensure_future(self._look_up(asked, begun)), begun)
        self._looking[asked] = looking
        looking.found.add_done_callback(functools.partial(self._ended, asked, looking))
        return looking

    async def _look_up(self, asked: _Asked, begun: asyncio.Event) -> Sequence[str]:
        owner, host, port = asked
        loop = asyncio.get_running_loop()

        def work() -> Sequence[str]:
            loop.call_soon_threadsafe(begun.set)
            return look_up(host, port)

        if not owner:
            return await loop.run_in_executor(self._threads, work)
        async with self._shares.setdefault(owner, asyncio.Semaphore(self._share)):
            return await loop.run_in_executor(self._threads, work)

    def _ended(
        self, asked: _Asked, looking: _Looking, found: asyncio.Future[Sequence[str]]
    ) -> None:
        self._forget(asked, looking)
        looking.begun.set()
        if not found.cancelled():
            # Nobody may be waiting for it any more, and asyncio complains of an error nobody saw.
            found.exception()

    def _forget(self, asked: _Asked, looking: _Looking) -> None:
        if self._looking.get(asked) is looking:
            del self._looking[asked]


async def _turn(begun: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(QUEUE):
            await begun.wait()
    except TimeoutError:
        text = "Too many names are being looked up here. Try again in a moment."
        raise OutboundError(Reason.BUSY, text) from None


def look_up(host: str, port: int) -> Sequence[str]:
    """Every address of a name. Blocks."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))
