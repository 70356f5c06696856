"""When a delivery is tried again: the schedule customers were promised, whatever their server answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentmail_cp.webhooks import schedule

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
chances = st.floats(0, 1)
numbers = st.integers(1, len(schedule.STEPS))


def test_the_schedule_is_the_one_that_was_promised() -> None:
    """At once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h: eight attempts."""
    pauses = [schedule.pause(failures, 0.5) for failures in range(1, 8)]
    seconds = [5, 300, 1800, 7200, 18_000, 36_000, 36_000]
    assert pauses == [timedelta(seconds=each) for each in seconds]
    assert schedule.pause(8, 0.5) is None


@given(failures=numbers, chance=chances)
def test_jitter_is_a_fifth_at_most(failures: int, chance: float) -> None:
    step = schedule.STEPS[failures - 1]
    pause = schedule.pause(failures, chance)
    assert pause is not None
    assert step * 0.8 <= pause <= step * 1.2


@given(failures=numbers, chance=chances, asked=st.timedeltas(min_value=timedelta()))
def test_what_an_endpoint_asks_for_counts_up_to_twice_the_step(
    failures: int, chance: float, asked: timedelta
) -> None:
    """Otherwise a mistaken `Retry-After` would stop its deliveries for years, or make us hammer it."""
    step = schedule.STEPS[failures - 1]
    pause = schedule.pause(failures, chance, asked)
    assert pause is not None
    assert step <= pause <= 2 * step
    if 1.2 * step <= asked <= 2 * step:
        assert pause == asked


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("text", ["120", " 120 ", format_datetime(NOW + timedelta(minutes=2))])
def test_an_overloaded_endpoint_may_ask_in_seconds_or_by_date(status: int, text: str) -> None:
    asked = schedule.asked_for(status, {"retry-after": text}, NOW)
    assert asked == timedelta(minutes=2)


@pytest.mark.parametrize(
    ("status", "text"),
    [(500, "120"), (200, "120"), (429, ""), (429, "soon"), (429, "-5"), (503, "1.5"), (429, "²")],
)
def test_nothing_else_is_waited_for(status: int, text: str) -> None:
    assert schedule.asked_for(status, {"retry-after": text}, NOW) is None


def test_a_date_that_is_over_asks_for_nothing() -> None:
    date = format_datetime(NOW - timedelta(days=1))
    assert schedule.asked_for(429, {"retry-after": date}, NOW) == timedelta()


@given(text=st.text() | st.from_regex(r"\A[0-9]{1,40}\Z"))
@example("Fri, 31 Dec 9999 23:59:60 -2359")
@example("Sat, 01 Jan 0001 00:00:00 +2359")
@example("9" * 30)
def test_no_retry_after_breaks_a_delivery(text: str) -> None:
    asked = schedule.asked_for(429, {"retry-after": text}, NOW)
    assert asked is None or asked >= timedelta()
    pause = schedule.pause(1, 0.5, asked)
    assert pause is not None
    assert pause <= timedelta(seconds=10)
