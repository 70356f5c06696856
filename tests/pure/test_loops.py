"""When two machines that answer each other are stopped, and that people never are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.loops import LONGEST, Turn, answered_enough, too_fast

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
PACE = timedelta(seconds=60)
HOUR = timedelta(hours=1)


def conversation(*gaps: float, first: bool = True) -> list[Turn]:
    """A thread of alternating messages, newest first. `gaps` are the seconds between them, the first one
    from the newest to now; `first` is whether the inbox wrote the newest.
    """
    turns: list[Turn] = []
    at = NOW
    for number, gap in enumerate(gaps):
        at -= timedelta(seconds=gap)
        turns.append(Turn(own=first if number % 2 == 0 else not first, at=at))
    return turns


threads = st.lists(
    st.tuples(st.booleans(), st.floats(min_value=0, max_value=200)), max_size=30
).map(
    lambda spans: [
        Turn(own, NOW - timedelta(seconds=sum(gap for _, gap in spans[: number + 1])))
        for number, (own, _) in enumerate(spans)
    ]
)
limits = st.integers(min_value=1, max_value=12)


def test_two_machines_are_told_to_pause() -> None:
    """Ten mails in ten seconds, and a thousand before somebody looks."""
    turns = conversation(*[1] * 10)
    assert too_fast(turns, NOW, 10, PACE) == turns[0].at + PACE
    assert too_fast(turns[:9], NOW, 10, PACE) is None


def test_one_pause_makes_it_a_new_conversation() -> None:
    """A person who thinks for a minute once would be taken for a machine."""
    for place in range(10):
        gaps = [1.0] * 10
        gaps[place] = 60
        assert too_fast(conversation(*gaps), NOW, 10, PACE) is None


def test_several_mails_of_one_side_are_one_turn() -> None:
    """An agent that sends three mails in a row would count as a conversation, or a machine that does would
    not.
    """
    same = [Turn(own=False, at=NOW - timedelta(seconds=each)) for each in range(1, 40)]
    assert too_fast(same, NOW, 2, PACE) is None
    twice = [
        Turn(turn.own, turn.at - timedelta(seconds=later))
        for turn in conversation(*[10] * 4)
        for later in (0, 1)
    ]
    assert too_fast(twice, NOW, 4, PACE) is not None
    assert too_fast(twice, NOW, 5, PACE) is None


def test_without_a_number_nothing_is_a_loop() -> None:
    """An operator who switched the rule off would still be refused."""
    turns = conversation(*[1] * 50)
    assert too_fast(turns, NOW, 0, PACE) is None
    assert answered_enough(turns, NOW, 0) is None


@given(threads, limits)
def test_whoever_waits_as_told_may_send(turns: list[Turn], most: int) -> None:
    """A client that obeys Retry-After would be refused again and again."""
    until = too_fast(turns, NOW, most, PACE)
    if until is not None:
        assert NOW < until <= NOW + LONGEST
        assert too_fast(turns, until, most, PACE) is None
        assert too_fast(turns, until - timedelta(microseconds=1), most, PACE) is not None
    until = answered_enough(turns, NOW, most)
    if until is not None:
        assert NOW < until <= NOW + HOUR
        assert answered_enough(turns, until, most) is None
        assert answered_enough(turns, until - timedelta(microseconds=1), most) is not None


@given(threads, limits)
def test_what_is_taken_for_a_loop_went_back_and_forth(turns: list[Turn], most: int) -> None:
    """Whoever writes alone, or seldom, is no machine."""
    if too_fast(turns, NOW, most, PACE) is None:
        return
    older = [*turns[1:], None]
    changes = sum(
        not each or turn.own is not each.own for turn, each in zip(turns, older, strict=True)
    )
    assert changes >= most
    quick = sum(
        each is not None and turn.at - each.at < PACE
        for turn, each in zip(turns, older, strict=True)
    )
    assert quick >= most - 1


def test_machines_that_wait_as_told_wait_longer_each_time() -> None:
    """SDKs repeat a 429 by themselves: two of them would go on all day, ten mails a minute."""
    turns: list[Turn] = []
    now, own = NOW, True
    while now < NOW + timedelta(days=1):
        until = too_fast(turns[:100], now, 10, PACE)
        now = until or now
        turns.insert(0, Turn(own, now))
        now, own = now + timedelta(seconds=2), not own
    assert 80 < len(turns) < 120
    assert turns[0].at - turns[-1].at > timedelta(hours=16)


def test_people_who_pause_now_and_then_never_meet_the_rule() -> None:
    """A conversation that is quick for a while would get slower and slower."""
    turns: list[Turn] = []
    now = NOW
    for _ in range(50):
        for each in range(9):
            assert too_fast(turns[:100], now, 10, PACE) is None
            turns.insert(0, Turn(each % 2 == 0, now))
            now += timedelta(seconds=20)
        now += PACE


def test_twice_the_wait_makes_a_loop_forgotten() -> None:
    """Somebody who switched the machine off and wrote by hand would wait for hours."""
    loop = conversation(*[5] * 40)
    until = too_fast(loop, NOW, 10, PACE)
    assert until == loop[0].at + 8 * PACE
    later = loop[0].at + 16 * PACE
    assert too_fast([Turn(own=False, at=later), *loop], later, 10, PACE) is None
    sooner = later - timedelta(seconds=1)
    assert too_fast([Turn(own=False, at=sooner), *loop], sooner, 10, PACE) is not None


@given(threads, limits)
def test_answers_to_machines_run_out(turns: list[Turn], most: int) -> None:
    """Only what the inbox itself wrote within the hour counts."""
    wrote = sorted((turn.at for turn in turns if turn.own and turn.at > NOW - HOUR), reverse=True)
    until = answered_enough(turns, NOW, most)
    assert until == (wrote[most - 1] + HOUR if len(wrote) >= most else None)
