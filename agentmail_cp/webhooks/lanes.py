"""PURE: who has to wait when a worker has much to deliver, so that nobody waits for somebody else's endpoint.

Attempts of a worker run in lanes. Endpoints that are well share the fast one; an attempt there that is not
over after `SLOW_AFTER` seconds gives its place back and goes on beside it, and until it is over its
endpoint gets no further attempts of this worker. An endpoint whose last attempt failed has a lane of few
places, one attempt at a time, until one succeeds; the more failed in a row, the longer it rests in between,
up to `REST`, since making what is to be delivered costs most. There, too, a slow attempt gives its place
back, until there are `PROBES` of them; no organisation has more than a `SHARE` of these. So an endpoint that
hangs or refuses takes no place that another waits for; what it has in the fast lane at most are `AT_ONCE`
places for `SLOW_AFTER` seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
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

PROBES: Final = 256
"""The same, the slow ones included."""

SHARE: Final = 64
"""Attempts at failing endpoints of one organisation that are under way at the same time, over all workers."""

SLOW_AFTER: Final = 1.0
"""Seconds after which an attempt is slow."""


REST: Final = 1.0
"""Seconds an endpoint rests at most after a failed attempt, while there are others to try it with. Well below
the first step of the schedule.
"""

FORGOTTEN: Final = 600.0
"""Seconds after which a failure is forgotten here."""

PATIENT: Final = 6
"""Failures in a row after which it rests for that long; each one less is half as long."""


class Room(msgspec.Struct, frozen=True):
    """How many more attempts may begin, and the endpoints that get none, as they are slow or rest."""

    fast: int
    failing: int
    closed: frozenset[UUID]


class _Failed(msgspec.Struct, frozen=True):
    """How often an endpoint failed in a row, and until when it rests."""

    times: int
    until: float


class _Underway(msgspec.Struct, frozen=True):
    webhook_id: UUID
    failing: bool
    since: float


def _slow(attempts: Sequence[_Underway], now: float) -> list[_Underway]:
    return [each for each in attempts if now - each.since >= SLOW_AFTER]


class Lanes:
    """The attempts of one worker. Times are of any clock in seconds that only goes forward."""

    def __init__(self) -> None:
        self._underway: dict[UUID, _Underway] = {}
        self._failed: dict[UUID, _Failed] = {}

    def __len__(self) -> int:
        return len(self._underway)

    def enter(self, delivery_id: UUID, webhook_id: UUID, *, failing: bool, now: float) -> None:
        """An attempt begins."""
        self._underway[delivery_id] = _Underway(webhook_id, failing, now)

    def leave(self, delivery_id: UUID) -> None:
        """An attempt is over, or came to nothing."""
        self._underway.pop(delivery_id, None)

    def succeeded(self, webhook_id: UUID) -> None:
        """An attempt at an endpoint succeeded."""
        self._failed.pop(webhook_id, None)

    def failed(self, webhook_id: UUID, now: float) -> float:
        """An attempt at an endpoint failed; how many seconds it rests."""
        before = self._failed.get(webhook_id)
        times = min(before.times + 1 if before else 1, PATIENT)
        rest = REST * 2.0 ** (times - PATIENT)
        self._failed[webhook_id] = _Failed(times, now + rest)
        return rest

    def room(self, now: float) -> Room:
        """What may begin now."""
        well = [each for each in self._underway.values() if not each.failing]
        failing = [each for each in self._underway.values() if each.failing]
        slow = _slow(well, now)
        return Room(
            fast=max(0, min(FAST - len(well) + len(slow), MOST - len(well))),
            failing=max(
                0, min(FAILING - len(failing) + len(_slow(failing, now)), PROBES - len(failing))
            ),
            closed=frozenset(each.webhook_id for each in slow) | self._resting(now),
        )

    def _resting(self, now: float) -> frozenset[UUID]:
        """Who rests. An endpoint that has not been tried for long is none that fails in a row."""
        self._failed = {
            webhook_id: each
            for webhook_id, each in self._failed.items()
            if now < each.until + FORGOTTEN
        }
        return frozenset(
            webhook_id for webhook_id, each in self._failed.items() if now < each.until
        )
