"""Each event a reader wishes for is told once and in order, whatever it comes from."""

from __future__ import annotations

import random
from collections.abc import Iterable
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from agentmail_cp.access import Reach
from agentmail_cp.events import Event, EventType, Subscribed
from agentmail_cp.web.wishes import Wishes
from tests.pure.an_event import an_event

HERE = Reach(uuid4())
INBOXES = [uuid4() for _ in range(3)]
TYPES = [EventType.MESSAGE_RECEIVED, EventType.MESSAGE_SENT]


def wanted(*inboxes: UUID, types: list[EventType] | None = None) -> Subscribed:
    return Subscribed(reach=HERE, inbox_ids=frozenset(inboxes), types=frozenset(types or TYPES))


class Reader:
    """A reader beside a log, told as the socket tells: a page of the log, or what the feed brings."""

    def __init__(self) -> None:
        self.wishes = Wishes()
        self.log: list[Event] = []
        self.told: list[int] = []
        self.asked: list[tuple[Subscribed, int]] = []

    def publish(self, inbox_id: UUID, kind: EventType) -> None:
        self.log.append(
            an_event(
                len(self.log) + 1,
                organization_id=HERE.organization_id,
                inbox_id=inbox_id,
                kind=kind,
            )
        )

    def wish(self, wanted: Subscribed, start: int) -> None:
        self.wishes.add(wanted, start)
        self.asked.append((wanted, start))

    def read(self, most: int) -> bool:
        """A page of the log; whether there may be more."""
        behind, wanted = self.wishes.behind, self.wishes.wanted
        page = [each for each in self.log[behind:] if wanted.wants(each)][:most]
        self.tell(page)
        if len(page) < most:
            self.wishes.level()
        return len(page) == most

    def tell(self, page: Iterable[Event]) -> None:
        for each in page:
            if self.wishes.owed(each):
                self.told.append(each.position or 0)
                assert self.owed_up_to(self.told[-1]) <= set(self.told)

    def owed_up_to(self, position: int) -> set[int]:
        """What a client that comes back after this position will not be told again."""
        return {
            place
            for each in self.log[:position]
            for wanted, start in self.asked
            if (place := each.position or 0) > start and wanted.wants(each)
        }


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.integers(5, 60))
def test_every_wish_is_met_once_and_nothing_comes_too_early(
    chance: random.Random, steps: int
) -> None:
    """A client with two subscriptions would see an event twice, or come back after one it never saw."""
    reader = Reader()

    def write() -> None:
        reader.publish(chance.choice(INBOXES), chance.choice(TYPES))

    def wish() -> None:
        some = chance.sample(INBOXES, chance.randrange(3))
        types = chance.sample(TYPES, chance.randrange(1, 3))
        reader.wish(wanted(*some, types=types), chance.randrange(len(reader.log) + 1))

    def read() -> None:
        if reader.asked:
            reader.read(chance.randrange(1, 4))

    for _ in range(steps):
        chance.choice([write, write, read, read, wish])()
    wish()
    while reader.read(3):
        pass
    assert len(reader.told) == len(set(reader.told))
    assert set(reader.told) == reader.owed_up_to(len(reader.log))


@given(st.integers(0, 10), st.integers(0, 10))
def test_what_the_feed_brings_again_is_not_told_again(start: int, behind: int) -> None:
    """Between reading the log and hearing of what is new, an event comes from both."""
    reader = Reader()
    for _ in range(10):
        reader.publish(INBOXES[0], TYPES[0])
    reader.wish(wanted(), start)
    while reader.read(3):
        pass
    reader.publish(INBOXES[0], TYPES[0])
    reader.tell(reader.log[behind:])
    assert reader.told == list(range(start + 1, 12))


def test_the_same_wish_is_known() -> None:
    """A client that repeats itself would take up one place after the other."""
    wishes = Wishes()
    wishes.add(wanted(INBOXES[0]), 0)
    assert wishes.knows(wanted(INBOXES[0]))
    assert not wishes.knows(wanted(INBOXES[1]))
