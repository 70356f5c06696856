"""PURE: what one reader of events wants, and which of it they have been told.

A reader may wish for several things; what two wishes have in common is told once. Each wish begins at a
position of the log. What lies behind it is read from the log first, then the wish is `live`: what is
published from then on comes from the feed. Both ways may bring the same event, and the log may be ahead of
the feed, so each event is asked about here before it is told. From the feed events come in the order of
positions, and from the log, too, for each wish. A reader the feed has left behind goes on with the log in the
feed's place, until it is near the end again.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import msgspec

from agentmail_cp.events import Event, EventType, Subscribed


class Wish(msgspec.Struct, eq=False):
    """Events after the position `start`. Up to `read` all of them have been told; a live wish hears of the
    rest from the feed.
    """

    wanted: Subscribed
    start: int
    read: int
    live: bool = False


class Wishes:
    """The wishes of one reader."""

    def __init__(self) -> None:
        self._all: list[Wish] = []
        self._heard = 0
        self._ahead: set[int] = set()
        """Told from the log, and still to come from the feed."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Wish]:
        return iter(self._all)

    def add(self, wanted: Subscribed, start: int) -> Wish:
        """A new wish, which is to be read from the log until it is live."""
        wish = Wish(wanted, start, start)
        self._all.append(wish)
        return wish

    def knows(self, wanted: Subscribed) -> bool:
        """Whether something is wished for already."""
        return any(each.wanted == wanted for each in self._all)

    def from_log(self, wish: Wish, event: Event) -> bool:
        """Whether an event the log holds for a wish is to be told now; it counts as told then."""
        place = _place(event)
        wish.read = place
        others = [each for each in self._all if each is not wish and _has(each, event)]
        if any(place <= self._told_up_to(each) for each in others):
            return False
        if place > self._heard and any(each.live for each in others):
            self._ahead.add(place)
        return True

    def from_feed(self, event: Event) -> bool:
        """Whether an event the feed brings, or the log in its place, is to be told; it counts as told
        then.
        """
        place = _place(event)
        if place <= self._heard:
            return False
        self._heard = place
        if place in self._ahead:
            self._ahead.remove(place)
            return False
        return any(each.live and place > each.read and _has(each, event) for each in self._all)

    @property
    def live(self) -> list[Wish]:
        return [each for each in self._all if each.live]

    @property
    def behind(self) -> int:
        """The position up to which every live wish has been told of everything."""
        return min(self._told_up_to(each) for each in self.live)

    @property
    def live_wanted(self) -> Subscribed:
        """At least all that live wishes want, as one."""
        wanted = [each.wanted for each in self.live]
        named = all(each.inbox_ids or each.pod_ids for each in wanted)
        return Subscribed(
            reach=wanted[0].reach,
            types=frozenset[EventType]().union(*(each.types for each in wanted)),
            inbox_ids=frozenset[UUID]().union(*(each.inbox_ids for each in wanted if named)),
            pod_ids=frozenset[UUID]().union(*(each.pod_ids for each in wanted if named)),
        )

    def _told_up_to(self, wish: Wish) -> int:
        return max(wish.read, self._heard) if wish.live else wish.read


def _has(wish: Wish, event: Event) -> bool:
    return _place(event) > wish.start and wish.wanted.wants(event)


def _place(event: Event) -> int:
    """The position of an event that is published, as everything is that is read or heard."""
    return event.position or 0
