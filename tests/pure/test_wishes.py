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


def hold(reader: Reader) -> None:
    """Everything was told once, and in order to each wish that was there from the beginning."""
    told = [each.position or 0 for each in reader.told]
    assert len(told) == len(set(told))
    expected = {
        each.position
        for each in reader.log
        for wish in reader.wishes
        if (each.position or 0) > wish.start and wish.wanted.wants(each)
    }
    assert set(told) == expected


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_every_wish_is_met_once_however_log_and_feed_race(chance: random.Random) -> None:
    """A client with two subscriptions would see an event twice, or never."""
    reader = Reader()
    pending: list[Wish] = []
    for _ in range(chance.randrange(5, 60)):
        match chance.choice(["publish", "publish", "feed", "hear", "wish", "page", "live"]):
            case "publish":
                reader.publish(chance.choice(INBOXES), chance.choice(TYPES))
            case "feed":
                reader.feed()
            case "hear":
                reader.hear()
            case "wish" if len(reader.wishes) < 4:
                some = chance.sample(INBOXES, chance.randrange(3))
                types = chance.sample(TYPES, chance.randrange(1, 3))
                start = chance.randrange(len(reader.log) + 1)
                pending.append(reader.wishes.add(wanted(*some, types=types), start))
            case "page" if pending:
                reader.page(chance.choice(pending), chance.randrange(1, 4))
            case "live" if pending:
                reader.go_live(pending.pop(chance.randrange(len(pending))), 3)
            case _:
                pass
    for each in pending:
        reader.go_live(each, 3)
    while reader.fed < len(reader.log):
        reader.feed()
    reader.hear()
    hold(reader)


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
