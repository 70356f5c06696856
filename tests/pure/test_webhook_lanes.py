"""Lanes: no endpoint takes the place another waits for, whatever it does."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.webhooks import schedule
from agentmail_cp.webhooks.lanes import (
    AT_ONCE,
    FAILING,
    FAST,
    MOST,
    PROBES,
    REST,
    SLOW_AFTER,
    Lanes,
)

HANGING, HEALTHY = UUID(int=1), UUID(int=2)


def begin(lanes: Lanes, count: int, *, webhook_id: UUID = HANGING, failing: bool = False) -> None:
    for number in range(count):
        delivery_id = UUID(int=1000 * webhook_id.int + number)
        lanes.enter(delivery_id, webhook_id, failing=failing, now=0.0)


def test_attempts_under_way_take_room_until_they_are_over() -> None:
    lanes = Lanes()
    begin(lanes, 10)
    assert lanes.room(0.0).fast == FAST - 10
    lanes.leave(UUID(int=1000))
    assert lanes.room(0.0).fast == FAST - 9


def test_an_endpoint_that_hangs_gives_its_places_back_and_gets_no_more() -> None:
    """Else enough such endpoints would stop everybody's deliveries for the length of a timeout."""
    lanes = Lanes()
    begin(lanes, AT_ONCE)
    begin(lanes, 1, webhook_id=HEALTHY)
    room = lanes.room(SLOW_AFTER - 0.01)
    assert (room.fast, room.closed) == (FAST - AT_ONCE - 1, frozenset())
    lanes.leave(UUID(int=2000))
    room = lanes.room(SLOW_AFTER)
    assert (room.fast, room.closed) == (FAST, {HANGING})


def test_failing_endpoints_have_places_of_their_own() -> None:
    lanes = Lanes()
    begin(lanes, FAILING, failing=True)
    room = lanes.room(SLOW_AFTER - 0.01)
    assert (room.fast, room.failing, room.closed) == (FAST, 0, frozenset())


def test_failing_endpoints_that_hang_give_their_places_back_as_well() -> None:
    """One that failed once and is well again waited for the timeouts of all that are away."""
    lanes = Lanes()
    begin(lanes, FAILING, failing=True)
    assert lanes.room(SLOW_AFTER).failing == FAILING
    begin(lanes, PROBES - FAILING, webhook_id=HEALTHY, failing=True)
    assert lanes.room(SLOW_AFTER).failing == 0


def test_an_endpoint_that_keeps_failing_rests_longer_and_longer() -> None:
    """Rendering every event for an endpoint that is away would cost more than all others together."""
    lanes = Lanes()
    rests = [lanes.failed(HANGING, 100.0) for _ in range(8)]
    assert rests[0] < 0.05
    assert sorted(rests) == rests
    assert rests[-1] == REST
    assert lanes.room(100.0).closed == {HANGING}
    assert lanes.room(100.0 + REST).closed == frozenset()
    lanes.succeeded(HANGING)
    assert lanes.room(100.0).closed == frozenset()
    assert lanes.failed(HANGING, 200.0) == rests[0]


def test_an_endpoint_never_rests_until_its_next_retry() -> None:
    assert schedule.STEPS[0].total_seconds() * (1 - schedule.JITTER) > REST + SLOW_AFTER


@given(
    well=st.integers(0, MOST),
    failing=st.integers(0, PROBES),
    now=st.floats(0, 20),
)
def test_a_worker_never_holds_more_sockets_than_it_may(well: int, failing: int, now: float) -> None:
    lanes = Lanes()
    begin(lanes, well)
    begin(lanes, failing, webhook_id=HEALTHY, failing=True)
    room = lanes.room(now)
    assert 0 <= room.fast <= FAST
    assert well + room.fast <= max(MOST, well)
    assert 0 <= room.failing <= FAILING
    assert failing + room.failing <= PROBES
