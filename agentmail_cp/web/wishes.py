"""PURE: what one reader of events wants, and which of it they have been told.

A reader may wish for several things; what two wishes have in common is told once. Each wish begins at a
position of the log. What lies behind it is read from the log first, then the wish is `live`: what is
published from then on comes from the feed. Both ways may bring the same event, and the log may be ahead of
the feed, so each event is asked about here before it is told. From the feed events come in the order of
positions, and from the log, too, for each wish.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agentmail_cp.events import Event, Subscribed


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
        if place in self._ahead or any(place <= self._told_up_to(each) for each in others):
            return False
        if place > self._heard and any(each.live for each in others):
            self._ahead.add(place)
        return True

    def from_feed(self, event: Event) -> bool:
        """Whether an event the feed brings is to be told; it counts as told then."""
        place = _place(event)
        self._heard = max(self._heard, place)
        if place in self._ahead:
            self._ahead.remove(place)
            return False
        return any(each.live and place > each.read and _has(each, event) for each in self._all)

    def _told_up_to(self, wish: Wish) -> int:
        return max(wish.read, self._heard) if wish.live else wish.read


def _has(wish: Wish, event: Event) -> bool:
    return _place(event) > wish.start and wish.wanted.wants(event)


def _place(event: Event) -> int:
    """The position of an event that is published, as everything is that is read or heard."""
    return event.position or 0
