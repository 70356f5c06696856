"""From events to bodies, so that an event that cannot be read keeps no other waiting.

Events are rendered together, which costs the mail server least. Where that has to wait, each account's are
tried by themselves, then each of what is left; where nothing can be read, the mail server is away. An event
that could not be read beside others that could is from then on rendered alone, and rests longer each time:
anybody may send a mail that takes longer to read than an answer may.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import SystemRandom
from typing import Final
from uuid import UUID

import msgspec
import structlog

from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Event, EventType

log = structlog.stdlib.get_logger(__name__)

AT_ONCE: Final = 4
"""Parts of a batch that are tried at the same time: each may be as much mail as is read at once."""

DOUBT: Final = 2 * AT_ONCE
"""Parts tried in vain, and none with success, after which the mail server is taken to be away."""

PAUSE: Final = 2.0
"""Seconds an event rests that could not be read beside others that could; twice that the next time."""

MOST_PAUSE: Final = 60.0
"""Seconds it rests at most."""

REMEMBERED: Final = 10_000
"""Events that could not be read of which is known how often they were tried."""

Render = Callable[[Sequence[Event]], Awaitable[Sequence[bytes]]]
"""The bodies of events, in their order. Raises `Unavailable` when that has to wait."""

_rng = SystemRandom()


class Rendered(msgspec.Struct, frozen=True):
    """Bodies by id, the events that wait for the mail server or the database, and those that are put off,
    each by how many seconds. What is in none of them cannot be put into words.
    """

    bodies: dict[str, bytes]
    waiting: frozenset[UUID]
    put_off: dict[UUID, float]

    def __or__(self, other: Rendered) -> Rendered:
        return Rendered(
            self.bodies | other.bodies, self.waiting | other.waiting, self.put_off | other.put_off
        )


class _Vain(msgspec.Struct, frozen=True):
    """How often an event could not be read while others could, and what had been read by the last time."""

    times: int
    read: int


class Rendering:
    """The rendering of one worker, and what it remembers of events that could not be read."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._vain: dict[UUID, _Vain] = {}
        self._read: Counter[bool] = Counter()
        self._alone = asyncio.Semaphore(AT_ONCE)

    def is_suspect(self, event_id: UUID | None) -> bool:
        """Whether others would wait for an event in vain, so that it is rendered by itself."""
        before = self._vain.get(event_id) if event_id else None
        return before is not None and before.times > 0

    async def bodies(self, events: Sequence[Event]) -> Rendered:
        """Render what can be."""
        if len(events) == 1 and self.is_suspect(events[0].event_id):
            async with self._alone:
                return await self._readable(events)
        # What carries no mail need not wait for the mail server.
        with_mail, without = await asyncio.gather(
            self._readable([event for event in events if _carries_mail(event)]),
            self._readable([event for event in events if not _carries_mail(event)]),
        )
        return with_mail | without

    async def _readable(self, events: Sequence[Event]) -> Rendered:
        if not events:
            return Rendered({}, frozenset(), {})
        made, left = await self._tried([events])
        told = not left
        for divided in (_by_account, _by_event):
            parts = [smaller for part in left for smaller in divided(part)]
            if len(parts) > len(left):
                found, left = await self._tried(parts)
                made |= found
                told = told or len(left) < len(parts)
                if not told:
                    break
        unread = [event for part in left for event in part]
        put_off = {event.event_id: pause for event in unread if (pause := self._note(event, told))}
        waiting = frozenset(event.event_id for event in unread) - put_off.keys()
        if unread:
            log.info("deliveries.resting", waiting=len(waiting), put_off=len(put_off))
        return Rendered(made, waiting, put_off)

    async def _tried(
        self, parts: Sequence[Sequence[Event]]
    ) -> tuple[dict[str, bytes], list[Sequence[Event]]]:
        """Bodies, and the parts that have to wait."""
        made: dict[str, bytes] = {}
        left: list[Sequence[Event]] = []
        # In any order: those that come first every time may be those that cannot be read.
        order = _rng.sample(parts, len(parts))
        for first in range(0, len(order), AT_ONCE):
            some = order[first : first + AT_ONCE]
            if len(left) == first >= DOUBT:
                return made, list(order)
            for part, found in zip(some, await asyncio.gather(*map(self._try, some)), strict=True):
                if found is None:
                    left.append(part)
                else:
                    made |= found
        return made, left

    async def _try(self, events: Sequence[Event]) -> dict[str, bytes] | None:
        """Bodies; None where that has to wait."""
        try:
            made = await self._rendered(events)
        except Unavailable:
            return None
        for event in events:
            self._vain.pop(event.event_id, None)
        self._read[_carries_mail(events[0])] += 1
        return made

    async def _rendered(self, events: Sequence[Event]) -> dict[str, bytes]:
        """Events in words; one that breaks the others is left out. Raises `Unavailable`."""
        try:
            bodies = await self._render(events)
        except Unavailable:
            raise
        except Exception:
            log.exception("deliveries.not_rendered", events=len(events))
            if len(events) == 1:
                return {}
            alone = [await self._rendered([event]) for event in events]
            return {event_id: body for each in alone for event_id, body in each.items()}
        return {str(event.event_id): body for event, body in zip(events, bodies, strict=True)}

    def _note(self, event: Event, told: bool) -> float:  # noqa: FBT001
        """Remember that an event could not be read; how many seconds it is put off. None where others of its
        kind could not be either, neither with it nor since the last time.
        """
        read = self._read[_carries_mail(event)]
        before = self._vain.pop(event.event_id, _Vain(0, read))
        its_own = told or before.times > 0 or read > before.read
        now = _Vain(before.times + its_own, read)
        self._vain[event.event_id] = now
        if len(self._vain) > REMEMBERED:
            del self._vain[next(iter(self._vain))]
        return min(PAUSE * 2.0 ** (now.times - 1), MOST_PAUSE) if its_own else 0.0


def _by_account(events: Sequence[Event]) -> list[Sequence[Event]]:
    parts: dict[tuple[UUID, UUID | None], list[Event]] = {}
    for event in events:
        parts.setdefault((event.organization_id, event.inbox_id), []).append(event)
    return list(parts.values())


def _by_event(events: Sequence[Event]) -> list[Sequence[Event]]:
    return [[event] for event in events]


def _carries_mail(event: Event) -> bool:
    return event.type.startswith(EventType.MESSAGE_RECEIVED)
