"""How the sandbox fails when it is told to.

Owns `Faults`, which is read anew at each call, and `answering`, which every call goes through.
With none set the server is healthy. It never fails by chance.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec

from agentmail_cp.mailserver import (
    MailServerConfused,
    MailServerError,
    MailServerUnavailable,
    Refusal,
)

Hook = Callable[[], Awaitable[None]]
"""Something awaited in the middle of a call, so that a test can stop the world there."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with the sandbox; several at once are fine.

    `down`, `slow`, `lost_answer` and `confused` concern the calls named in `methods`, or all of
    them when it is empty.
    """

    down: bool = False
    """Nothing is done and every call raises Unavailable; the SMTP door answers 451."""

    slow: float = 0.0
    """Seconds before a call is carried out. Past the sandbox's `patience` its answer is lost."""

    lost_answer: bool = False
    """The call is carried out and then raises Unavailable with `reached`."""

    confused: bool = False
    """Every call raises Confused, as when something else answers in the mail server's place."""

    methods: frozenset[str] = frozenset()

    reject: Refusal | None = None
    """`submit` and `store_draft` are refused as a whole."""

    refuse: Mapping[str, str] = {}
    """`submit` is refused for these recipients, with this SMTP reply each."""

    bounce: frozenset[str] = frozenset()
    """Mail to these recipients is accepted and comes back to its sender as a delivery report."""

    delay: frozenset[str] = frozenset()
    """Mail to these recipients stays in the queue until they are taken out and `retry` is called."""

    complain: frozenset[str] = frozenset()
    """Mail to these recipients arrives, and its sender gets a complaint about it."""

    def of(self, method: str) -> Faults:
        """The faults that concern this call."""
        return self if not self.methods or method in self.methods else HEALTHY


HEALTHY = Faults()


@asynccontextmanager
async def answering(
    faults: Faults, *, patience: float, before: Hook | None, after: Hook | None
) -> AsyncGenerator[None]:
    """Wrap one call in its faults. Raises MailServerUnavailable or MailServerConfused.

    `patience` is how many seconds the caller waits for an answer.
    """
    if before is not None:
        await before()
    if faults.down:
        raise MailServerUnavailable("The mail sandbox was told to be down.")
    if faults.confused:
        raise MailServerConfused("The mail sandbox was told to make no sense.")
    if faults.slow:
        await asyncio.sleep(min(faults.slow, patience))
    lost = faults.lost_answer or faults.slow > patience
    try:
        yield
    except MailServerError:
        if not lost:
            raise
    if after is not None:
        await after()
    if lost:
        raise MailServerUnavailable("The mail sandbox did not answer in time.", reached=True)
