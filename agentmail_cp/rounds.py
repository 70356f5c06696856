"""What the loops of a process have in common: they work when they are told of something, and now and then
although they are not, because word of it may get lost.

A loop is at work, or pauses until it is woken or its pause is over. Nothing is kept of why it was woken: each
round looks for itself. Owns no table, and knows of no loop in particular.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import LiteralString, Never

from structlog.stdlib import BoundLogger

from agentmail_cp.db import Database


class Rounds:
    """The rounds of one loop."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Let the next round begin without a pause."""
        self._woken.set()

    async def listen(self, db: Database, channel: LiteralString) -> None:
        """Wake at every notification on a channel, and at every connection, until cancelled."""
        async for _ in db.listen(channel):
            self.wake()

    async def run(self, step: Callable[[], Awaitable[float]]) -> Never:
        """Work until cancelled. A step says how many seconds to pause before the next unless woken."""
        while True:
            # Before the step, so that word that comes while it looks is not forgotten.
            self._woken.clear()
            pause = await step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()


class Standstill:
    """Whether a loop waits for something that is away. The log is told once that it does (`<name>.waiting`)
    and once that it goes on (`<name>.resumed`), however often it looks meanwhile.
    """

    def __init__(self, log: BoundLogger, name: str) -> None:
        self._log = log
        self._name = name
        self._waiting = False

    def begins(self, reason: str) -> None:
        """The loop waits."""
        if not self._waiting:
            self._log.warning(self._name + ".waiting", reason=reason)
        self._waiting = True

    def is_over(self) -> None:
        """The loop goes on."""
        if self._waiting:
            self._log.info(self._name + ".resumed")
        self._waiting = False
