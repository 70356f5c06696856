"""Metrics: which time is asked about, which points an answer has, and what is summed between them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentmail_cp.errors import Invalid, QueryRangeTooWide
from agentmail_cp.metrics import MOST_POINTS, Grid, Span, grid, span
from agentmail_cp.metrics.spans import OLDEST, rolling, totals

NOW = datetime(2026, 11, 21, 10, 17, 3, 141592, UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)

lately = st.timedeltas(-100 * DAY, 10 * DAY).map(lambda ago: NOW + ago)
anytime = st.datetimes(timezones=st.just(UTC)) | lately
lengths = st.timedeltas(timedelta(microseconds=1), OLDEST)
periods = st.integers(1, 86_400)


def ended(length: timedelta) -> Span:
    return Span(NOW - length, NOW, current=True)


def test_the_last_day_is_what_is_asked_about() -> None:
    """Whoever asks without a time wants to see how things are."""
    assert span(NOW, None, None) == Span(NOW - DAY, NOW, current=True)
    assert span(NOW, None, NOW - 3 * DAY) == Span(NOW - 4 * DAY, NOW - 3 * DAY, current=False)
    assert span(NOW, NOW - SECOND, None) == Span(NOW - SECOND, NOW, current=True)


def test_the_future_is_not_counted() -> None:
    """A chart of "this month" asks up to its end; points without data would look like an outage."""
    assert span(NOW, NOW - DAY, NOW + 9 * DAY) == Span(NOW - DAY, NOW, current=True)
    assert span(NOW, None, datetime.max.replace(tzinfo=UTC)) == Span(NOW - DAY, NOW, current=True)


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        (NOW - 91 * DAY, None, "start"),
        (None, NOW - 91 * DAY, "end"),
        (None, datetime.min.replace(tzinfo=UTC), "end"),
        (NOW, None, "start"),
        (NOW + DAY, NOW + 2 * DAY, "start"),
        (NOW - DAY, NOW - DAY, "start"),
        (NOW - DAY, NOW - 2 * DAY, "start"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(
    start: datetime | None, end: datetime | None, field: str
) -> None:
    """An empty answer would be taken for "nothing happened"."""
    with pytest.raises(Invalid) as caught:
        span(NOW, start, end)
    assert (caught.value.field, caught.value.detail) == (field, "TIME_OUT_OF_RANGE")


def test_ninety_days_by_the_callers_clock_are_not_too_much() -> None:
    """A caller whose clock is behind, or whose request took a moment, asks for a little more."""
    assert span(NOW, NOW - OLDEST - timedelta(minutes=5), None).length > OLDEST


@given(anytime | st.none(), anytime | st.none())
def test_a_range_is_never_empty_too_old_or_to_come(
    start: datetime | None, end: datetime | None
) -> None:
    """Whatever is asked, no statement may read further back than is said."""
    try:
        found = span(NOW, start, end)
    except Invalid:
        return
    assert NOW - OLDEST - timedelta(hours=1) <= found.start < found.end <= NOW


@given(lengths, periods)
def test_points_cover_the_range_and_end_with_it(length: timedelta, period: int) -> None:
    """The last point is the one people read; a gap or a point too many falsifies every chart."""
    assume(length <= MOST_POINTS * timedelta(seconds=period))
    found = grid(ended(length), period)
    assert found.points[-1] == NOW
    assert found.size == len(found.points) <= MOST_POINTS
    assert {
        after - before for before, after in zip(found.points, found.points[1:], strict=False)
    } <= {timedelta(seconds=period)}
    start = NOW - length
    assert found.begin <= start < found.points[0]


@given(lengths, periods)
def test_too_many_points_are_refused(length: timedelta, period: int) -> None:
    """A chart of 90 days by seconds would take the database and the client down."""
    assume(length > MOST_POINTS * timedelta(seconds=period))
    with pytest.raises(QueryRangeTooWide):
        grid(ended(length), period)


@given(lengths)
def test_without_a_period_every_range_has_an_answer(length: timedelta) -> None:
    """Whoever just asks for three months must not have to learn about periods first."""
    assert grid(ended(length), None).period in {timedelta(hours=1), DAY}
    assert grid(ended(length), None, 86_400).size <= MOST_POINTS
    assert grid(ended(DAY), None).period == timedelta(hours=1)


def test_a_window_is_made_of_whole_periods() -> None:
    """Half a period has no count of its own."""
    for period, window in ((3600, 1800), (3600, 5400), (None, 1)):
        with pytest.raises(Invalid) as caught:
            grid(ended(DAY), period, window)
        assert caught.value.field == "window"


def test_a_window_counts_against_the_limit() -> None:
    """Points are few and what each is made of is not: a window of years would read everything."""
    assert grid(ended(DAY), 3600, 976 * 3600).size == 24
    with pytest.raises(QueryRangeTooWide):
        grid(ended(DAY), 3600, 977 * 3600)


@given(
    st.lists(st.tuples(st.integers(-5, 30), st.integers(0, 9))),
    st.integers(1, 20),
    st.integers(1, 86_400),
)
def test_totals_are_what_counting_at_each_point_gives(
    things: list[tuple[int, int]], size: int, period: int
) -> None:
    """Usage: everything that is older than a point is in it, and nothing else."""
    points = Grid(NOW, timedelta(seconds=period), size)
    at = [(points.begin + place * points.period / 2, amount) for place, amount in things]
    begun = [(begin_of(points, moment), amount) for moment, amount in at if moment < points.end]
    assert totals(points.spread(begun)) == [
        sum(amount for moment, amount in at if moment < point) for point in points.points
    ]


def begin_of(points: Grid, moment: datetime) -> datetime:
    """What the statement says: the beginning of the period, the first one for what is older."""
    moment = max(moment, points.begin)
    return moment - (moment - points.begin) % points.period


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9))),
    st.integers(1, 20),
    st.integers(1, 10),
    st.integers(1, 86_400),
)
def test_rolling_sums_are_what_counting_each_window_gives(
    things: list[tuple[int, int]], size: int, width: int, period: int
) -> None:
    """Rates: a bounce weighs on every window it is in, and on no other."""
    points = Grid(NOW, timedelta(seconds=period), size)
    window = points.period * width
    cells = points.widened(window)
    at = [(cells.begin + place * points.period / 2, amount) for place, amount in things]
    at = [(moment, amount) for moment, amount in at if moment < points.end]
    sums = rolling(cells.spread((begin_of(cells, moment), n) for moment, n in at), width)
    assert sums == [
        sum(amount for moment, amount in at if point - window <= moment < point)
        for point in points.points
    ]
