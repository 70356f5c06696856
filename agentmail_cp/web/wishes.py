"""PURE: what one reader of events wants, and which of it they have been told.

A reader may wish for several things, each from a position of the log on. They are told as one: in the order
of positions, from the one that is least far on, so that what several wishes have in common comes once, and
nothing comes before something that was wished for and is still owed. So the last event a reader was told is
where all their wishes can go on from.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from agentmail_cp.events import Event, EventType, Subscribed


class Wish(msgspec.Struct, eq=False):
    """Events after the position `start`. Up to `read` everything was told."""

    wanted: Subscribed
    start: int
    read: int


class Wishes:
    """The wishes of one reader; there are only ever more of them."""

    def __init__(self) -> None:
        self._all: list[Wish] = []

    def __len__(self) -> int:
        return len(self._all)

    def add(self, wanted: Subscribed, start: int) -> None:
        self._all.append(Wish(wanted, start, start))

    def knows(self, wanted: Subscribed) -> bool:
        """Whether something is wished for already."""
        return any(each.wanted == wanted for each in self._all)

    @property
    def behind(self) -> int:
        """The position from which the log has to be read."""
        return min(each.read for each in self._all)

    @property
    def wanted(self) -> Subscribed:
        """At least all that is wished for, as one."""
        each_wanted = [each.wanted for each in self._all]
        named = all(each.inbox_ids or each.pod_ids for each in each_wanted)
        return Subscribed(
            reach=each_wanted[0].reach,
            types=frozenset[EventType]().union(*(each.types for each in each_wanted)),
            inbox_ids=frozenset[UUID]().union(*(each.inbox_ids for each in each_wanted if named)),
            pod_ids=frozenset[UUID]().union(*(each.pod_ids for each in each_wanted if named)),
        )

    def owed(self, event: Event) -> bool:
        """Whether the next event is to be told; it counts as told then. Events have to come in their order:
        of all that is `wanted` after `behind`, none may be missing before this one.
        """
        place = event.position or 0
        theirs = [each for each in self._all if place > each.start and each.wanted.wants(event)]
        told = any(place <= each.read for each in theirs)
        for each in self._all:
            each.read = max(each.read, place)
        return bool(theirs) and not told

    def level(self) -> None:
        """Take note that there was nothing more to be read for any of them."""
        furthest = max(each.read for each in self._all)
        for each in self._all:
            each.read = furthest
