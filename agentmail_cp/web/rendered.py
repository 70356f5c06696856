"""Payloads that several sockets of this process send: each is made once, and kept for a moment.

An event that a thousand sockets want is published to all of them at once. Whoever asks first has it made,
with some that will be asked for next; the others wait for the same answer. What was made is kept for some
seconds and while there is room: a slow reader finds its payload gone and has it made again, so that no
reader holds more than the one it is sending. Equal for everybody: a payload does not depend on who is told.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final
from uuid import UUID

import msgspec

from agentmail_cp import payloads
from agentmail_cp.db import Database
from agentmail_cp.events import Event
from agentmail_cp.mailserver import MailServer

ROOM: Final = 4_000_000
"""Characters of payloads that are kept."""

KEPT_FOR: Final = 5.0
"""Seconds a payload is kept. Labels change meanwhile, and messages are deleted."""

AT_ONCE: Final = 16
"""Payloads that are made together at most."""

_Made = Mapping[UUID, str]


class _Kept(msgspec.Struct, frozen=True):
    text: str
    until: float


class Rendered:
    """The payloads of one process's events, as text."""

    def __init__(self, db: Database, server: MailServer, *, room: int = ROOM) -> None:
        self._db = db
        self._server = server
        self._room = room
        self._kept: OrderedDict[UUID, _Kept] = OrderedDict()
        self._size = 0
        self._making: dict[UUID, asyncio.Task[_Made]] = {}

    async def text(self, event: Event, following: Sequence[Event] = ()) -> str:
        """The payload of an event; `following` are those that will be asked for next.

        Raises `Unavailable` when the database or the mail server is away.
        """
        self._forget_old()
        kept = self._kept.get(event.event_id)
        if kept is not None:
            return kept.text
        making = self._making.get(event.event_id) or self._make([event, *following])
        # Whoever gives up leaves the answer to the others.
        made = await asyncio.shield(making)
        return made[event.event_id]

    def _make(self, events: Sequence[Event]) -> asyncio.Task[_Made]:
        new = [each for each in events if not self._known(each)][:AT_ONCE]
        making = asyncio.create_task(self._render(new))
        for each in new:
            self._making[each.event_id] = making
        making.add_done_callback(_look_at)
        return making

    def _known(self, event: Event) -> bool:
        return event.event_id in self._kept or event.event_id in self._making

    async def _render(self, events: Sequence[Event]) -> _Made:
        try:
            told = await payloads.render(self._db, self._server, events)
            made = {each.event_id: text.decode() for each, text in zip(events, told, strict=True)}
        finally:
            for each in events:
                del self._making[each.event_id]
        for event_id, text in made.items():
            self._keep(event_id, text)
        return made

    def _keep(self, event_id: UUID, text: str) -> None:
        self._kept[event_id] = _Kept(text, monotonic() + KEPT_FOR)
        self._size += len(text)
        while self._size > self._room:
            self._forget_oldest()

    def _forget_old(self) -> None:
        now = monotonic()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, dropped = self._kept.popitem(last=False)
        self._size -= len(dropped.text)


def _look_at(making: asyncio.Task[_Made]) -> None:
    """Take note of an error nobody waits for any more."""
    if not making.cancelled():
        making.exception()
