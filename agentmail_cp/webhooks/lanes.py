"""PURE: who has to wait when a worker has much to deliver, so that nobody waits for somebody else's endpoint.

Attempts of a worker run in lanes. Endpoints that are well share the fast one; an attempt there that is not
over after `SLOW_AFTER` seconds gives its place back and goes on beside it, and until it is over its
endpoint gets no further attempts of this worker. An endpoint whose last attempt failed has a lane of few
places, one attempt at a time, until one succeeds. So an endpoint that hangs or refuses takes no place that
another waits for; what it has in the fast lane at most are `AT_ONCE` places for `SLOW_AFTER` seconds.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

AT_ONCE: Final = 16
"""Attempts at one endpoint that are under way at the same time, over all workers."""

FAST: Final = 96
"""Attempts of one worker in the fast lane."""

MOST: Final = 512
"""Attempts of one worker at endpoints that were well, the slow ones included. Each holds a socket, and a
process may by default have 1,024 files open."""

FAILING: Final = 64
"""Attempts of one worker at endpoints whose last attempt failed."""

SLOW_AFTER: Final = 1.0
"""Seconds after which an attempt is slow."""


class Room(msgspec.Struct, frozen=True):
    """How many more attempts may begin, and the endpoints that get none as they are slow."""

    fast: int
    failing: int
    slow: frozenset[UUID]


class _Underway(msgspec.Struct, frozen=True):
    webhook_id: UUID
    failing: bool
    since: float


class Lanes:
    """The attempts of one worker. Times are of any clock in seconds that only goes forward."""

    def __init__(self) -> None:
        self._underway: dict[UUID, _Underway] = {}

    def __len__(self) -> int:
        return len(self._underway)

    def enter(self, delivery_id: UUID, webhook_id: UUID, *, failing: bool, now: float) -> None:
        """An attempt begins."""
        self._underway[delivery_id] = _Underway(webhook_id, failing, now)

    def leave(self, delivery_id: UUID) -> None:
        """An attempt is over."""
        self._underway.pop(delivery_id, None)

    def room(self, now: float) -> Room:
        """What may begin now."""
        well = [each for each in self._underway.values() if not each.failing]
        slow = [each for each in well if now - each.since >= SLOW_AFTER]
        return Room(
            fast=max(0, min(FAST - len(well) + len(slow), MOST - len(well))),
            failing=max(0, FAILING - len(self._underway) + len(well)),
            slow=frozenset(each.webhook_id for each in slow),
        )
