"""Each event a reader wishes for is told once and in order, whatever it comes from."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentmail_cp.access import Reach
from agentmail_cp.events import Event, EventType, Subscribed
from agentmail_cp.web.wishes import Wish, Wishes

HERE = Reach(uuid4())
INBOXES = [uuid4() for _ in range(3)]
TYPES = [EventType.MESSAGE_RECEIVED, EventType.MESSAGE_SENT]


def event(position: int, inbox_id: UUID = INBOXES[0], kind: EventType = TYPES[0]) -> Event:
    return Event(
        event_id=uuid4(),
        organization_id=HERE.organization_id,
        pod_id=INBOXES[0],
        inbox_id=inbox_id,
        seq=position,
        position=position,
        type=kind,
        thread_id=None,
        message_id=None,
        document_id=None,
        recipients=1,
        facts={},
        created_at=datetime.now(UTC),
    )


def wanted(*inboxes: UUID, types: list[EventType] | None = None) -> Subscribed:
    return Subscribed(reach=HERE, inbox_ids=frozenset(inboxes), types=frozenset(types or TYPES))


class Reader:
    """A reader beside a log and a feed, which this test moves on as it likes."""

    def __init__(self) -> None:
        self.wishes = Wishes()
        self.log: list[Event] = []
        self.fed = 0
        """How much of the log the feed has handed on."""
        self.queue: list[Event] = []
        self.told: list[Event] = []

    def publish(self, inbox_id: UUID, kind: EventType) -> None:
        self.log.append(event(len(self.log) + 1, inbox_id, kind))

    def feed(self) -> None:
        """The feed reads one event, and holds it for whoever wants it now."""
        if self.fed < len(self.log):
            new = self.log[self.fed]
            self.fed += 1
            if any(each.live and each.wanted.wants(new) for each in self.wishes):
                self.queue.append(new)

    def hear(self) -> None:
        """Take what the feed holds."""
        heard, self.queue = self.queue, []
        self.told += [each for each in heard if self.wishes.from_feed(each)]

    def fall_behind(self) -> None:
        """Lose what the feed holds, read the log in its place, and hear the feed again from where it is."""
        self.queue = []
        if self.wishes.live:
            behind, wanted = self.wishes.behind, self.wishes.live_wanted
            owed = [each for each in self.log[behind:] if wanted.wants(each)]
            self.told += [each for each in owed if self.wishes.from_feed(each)]

    def page(self, wish: Wish, most: int) -> bool:
        """Tell a page of the log; whether it was full."""
        found = [
            each
            for each in self.log
            if (each.position or 0) > wish.read and wish.wanted.wants(each)
        ][:most]
        self.told += [each for each in found if self.wishes.from_log(wish, each)]
        return len(found) == most

    def go_live(self, wish: Wish, most: int) -> None:
        wish.live = True
        while self.page(wish, most):
            pass


class Race(Reader):
    """The same, where chance says what is next."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.pending: list[Wish] = []

    def step(self) -> None:
        self.chance.choice(
            [
                *(self.write, self.write, self.feed, self.hear),
                *(self.wish, self.read_on, self.finish, self.fall_behind),
            ]
        )()

    def write(self) -> None:
        self.publish(self.chance.choice(INBOXES), self.chance.choice(TYPES))

    def wish(self) -> None:
        some = self.chance.sample(INBOXES, self.chance.randrange(3))
        types = self.chance.sample(TYPES, self.chance.randrange(1, 3))
        start = self.chance.randrange(len(self.log) + 1)
        if len(self.wishes) < 4:
            self.pending.append(self.wishes.add(wanted(*some, types=types), start))

    def read_on(self) -> None:
        if self.pending:
            self.page(self.chance.choice(self.pending), self.chance.randrange(1, 4))

    def finish(self) -> None:
        if self.pending:
            self.go_live(self.pending.pop(self.chance.randrange(len(self.pending))), 3)

    def end(self) -> None:
        """Everything that is still to come."""
        while self.pending:
            self.finish()
        while self.fed < len(self.log):
            self.feed()
        self.hear()


@settings(max_examples=300)
@given(st.randoms(use_true_random=False), st.integers(5, 60))
def test_every_wish_is_met_once_however_log_and_feed_race(
    chance: random.Random, steps: int
) -> None:
    """A client with two subscriptions would see an event twice, or never."""
    race = Race(chance)
    for _ in range(steps):
        race.step()
    race.end()
    told = [each.position or 0 for each in race.told]
    assert len(told) == len(set(told))
    assert set(told) == {
        each.position
        for each in race.log
        for wish in race.wishes
        if (each.position or 0) > wish.start and wish.wanted.wants(each)
    }


@given(st.randoms(use_true_random=False), st.integers(0, 10))
def test_a_single_subscription_is_told_in_order(chance: random.Random, start: int) -> None:
    """An agent would read an answer before the question."""
    reader = Reader()
    for _ in range(10):
        reader.publish(INBOXES[0], TYPES[0])
    reader.fed = chance.randrange(11)
    wish = reader.wishes.add(wanted(), start)
    while reader.page(wish, 3):
        reader.publish(INBOXES[1], TYPES[1])
        if len(reader.log) > 20:
            break
    reader.go_live(wish, 3)
    for step in chance.choices([reader.feed, reader.hear], k=60):
        step()
    told = [each.position or 0 for each in reader.told]
    assert told == list(range(start + 1, start + 1 + len(told)))


@pytest.mark.parametrize("live", [True, False])
def test_the_same_wish_is_known(live: bool) -> None:
    """A client that repeats itself would take up one place after the other."""
    wishes = Wishes()
    wishes.add(wanted(INBOXES[0]), 0).live = live
    assert wishes.knows(wanted(INBOXES[0]))
    assert not wishes.knows(wanted(INBOXES[1]))
