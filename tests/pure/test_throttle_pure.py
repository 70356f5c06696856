"""What a process knows of a key's window, with clocks and answers that take their time."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.errors import RateLimited
from agentmail_cp.throttle import LEASES, Allowance, Lease, Share

WINDOW = 60.0
EPOCH = datetime(2026, 11, 21, tzinfo=UTC)


class Ledger:
    """PostgreSQL: the one window of a key, by a clock that all processes share."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.begun = -WINDOW
        self.taken = 0

    @property
    def ends(self) -> float:
        return self.begun + WINDOW

    def take(self, now: float, size: int) -> Lease:
        if now >= self.ends:
            self.begun, self.taken = now, 0
        granted = min(size, self.limit - self.taken)
        self.taken += granted
        return Lease(granted, self.taken, self.ends - now, EPOCH + timedelta(seconds=self.begun))


class Process:
    """A replica: its share of the key, and how it asks."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.share = Share()

    def request(self, now: float, way_there: float, way_back: float) -> tuple[float, Allowance]:
        """One request that begins now; when it was decided, and how."""
        while not self.share.knows(now):
            limit = self.ledger.limit
            lease = self.ledger.take(now + way_there, self.share.wanted(limit, now))
            answered = now + way_there + way_back
            self.share.take(limit, lease, asked=now, answered=answered)
            now = answered
        allowance = self.share.decide(now)
        assert allowance is not None
        return now, allowance


Steps = list[tuple[int, float, float, float]]
steps = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 2 * WINDOW)),
        st.floats(0, 0.5),
        st.floats(0, 0.5),
    ),
    max_size=200,
)


@given(limit=st.integers(1, 60), steps=steps)
def test_no_window_lets_more_than_the_limit_through(limit: int, steps: Steps) -> None:
    """However long answers take, and whichever replica is asked."""
    ledger, now = Ledger(limit), 0.0
    processes = [Process(ledger) for _ in range(4)]
    admitted: Counter[float] = Counter()
    for which, pause, there, back in steps:
        now, allowance = processes[which].request(now + pause, there, back)
        if allowance.retry_after is None:
            # What is spent counts for the window in which it is spent, not a later one.
            assert now < ledger.ends
            admitted[ledger.begun] += 1
    assert all(each <= limit for each in admitted.values())


@given(limit=st.integers(1, 60), steps=steps)
def test_only_a_window_that_is_used_up_refuses_and_only_until_it_ends(
    limit: int, steps: Steps
) -> None:
    ledger, now = Ledger(limit), 0.0
    processes = [Process(ledger) for _ in range(4)]
    for which, pause, there, back in steps:
        now, allowance = processes[which].request(now + pause, there, back)
        if allowance.retry_after is not None:
            assert ledger.taken == limit
            assert processes[which].share.unspent == 0
            assert ledger.ends <= now + allowance.retry_after + 1e-6
            assert allowance.remaining == 0


@given(limit=st.integers(1, 3000), steps=st.lists(st.integers(0, 3), max_size=400))
def test_what_is_left_is_told_exactly_or_from_before_others_took_some(
    limit: int, steps: list[int]
) -> None:
    """A client that paces itself by what is left must not be told less than there is."""
    ledger = Ledger(limit)
    processes = [Process(ledger) for _ in range(4)]
    spent = 0
    for which in steps:
        _, allowance = processes[which].request(0.0, 0.0, 0.0)
        spent += allowance.retry_after is None
        held = sum(each.share.unspent for each in processes if each is not processes[which])
        assert allowance.remaining >= limit - spent - held
        assert 0 <= allowance.remaining < limit


@given(limit=st.integers(1, 100_000), requests=st.integers(1, 3000))
def test_a_replica_never_holds_more_than_it_has_spent_nor_than_a_part_of_the_limit(
    limit: int, requests: int
) -> None:
    process = Process(Ledger(limit))
    for spent in range(min(requests, limit)):
        process.request(0.0, 0.0, 0.0)
        assert process.share.unspent <= min(spent + 1, limit // LEASES)


def test_a_lease_outlives_a_look_that_came_a_moment_early() -> None:
    """A process takes its window for over a little before it is; what it holds is still its own."""
    share = Share()
    share.take(100, Lease(10, 10, 60.0, EPOCH), asked=0.0, answered=0.2)
    share.take(100, Lease(1, 11, 0.1, EPOCH), asked=60.0, answered=60.05)
    assert share.unspent == 11


def test_a_lease_dies_with_its_window() -> None:
    share = Share()
    share.take(100, Lease(10, 10, 60.0, EPOCH), asked=0.0, answered=0.2)
    later = EPOCH + timedelta(seconds=61)
    share.take(100, Lease(1, 1, 60.0, later), asked=61.0, answered=61.2)
    assert (share.unspent, share.spent, share.left) == (1, 0, 99)


def test_a_limit_that_was_lowered_below_what_was_taken_leaves_nothing() -> None:
    share = Share()
    share.take(5, Lease(0, 9, 60.0, EPOCH), asked=0.0, answered=0.0)
    allowance = share.decide(1.0)
    assert allowance is not None
    assert (allowance.remaining, allowance.retry_after) == (0, 59.0)


def test_a_key_without_a_limit_is_asked_about_again() -> None:
    """Whoever gives an organisation a limit sees it hold."""
    share = Share()
    share.unlimit(60.0)
    assert share.knows(59.9)
    assert share.decide(59.9) is None
    assert not share.knows(60.0)


def test_a_refusal_says_how_long() -> None:
    Allowance(10, 0, EPOCH).require()
    with pytest.raises(RateLimited) as refused:
        Allowance(10, 0, EPOCH, 7.5).require()
    assert (refused.value.retry_at, refused.value.retry_after) == (EPOCH, 7.5)
