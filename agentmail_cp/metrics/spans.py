"""PURE: the time a question is about, the points an answer has, and sums over what lies between them.

Times are aware. A span, a period and a window include their beginning and not their end, so that
neighbours count nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate

import msgspec

from agentmail_cp.errors import Invalid, QueryRangeTooWide

DEFAULT = timedelta(hours=24)
OLDEST = timedelta(days=90)
LEEWAY = timedelta(hours=1)
"""How much further back a start may lie: callers count their 90 days by their own clock."""

HOUR, DAY = timedelta(hours=1), timedelta(days=1)

MOST_POINTS = 1000
"""Points an answer may have for each type, and periods it may be made of."""

LONGEST_PERIOD = 86_400
"""Seconds."""

LONGEST_WINDOW = MOST_POINTS * LONGEST_PERIOD
"""Seconds."""


class Span(msgspec.Struct, frozen=True):
    """The time from `start` to `end`; `current` when it ends now."""

    start: datetime
    end: datetime
    current: bool

    @property
    def length(self) -> timedelta:
        return self.end - self.start


class Grid(msgspec.Struct, frozen=True):
    """`size` points in time, one `period` apart, the last at `end`; each stands for the period before it."""

    end: datetime
    period: timedelta
    size: int

    @property
    def begin(self) -> datetime:
        """Where the period of the first point begins."""
        return self.end - self.size * self.period

    @property
    def last(self) -> datetime:
        """Where the period of the last point begins."""
        return self.end - self.period

    @property
    def points(self) -> list[datetime]:
        return [self.begin + place * self.period for place in range(1, self.size + 1)]

    def widened(self, window: timedelta) -> Grid:
        """The same with as many points before as it takes to fill the window of the first."""
        return Grid(self.end, self.period, self.size + window // self.period - 1)

    def spread(self, amounts: Iterable[tuple[datetime, int]]) -> list[int]:
        """What belongs to each point. An amount comes with the time at which its period begins."""
        each = [0] * self.size
        for begun, amount in amounts:
            each[(begun - self.begin) // self.period] += amount
        return each


def span(now: datetime, start: datetime | None, end: datetime | None) -> Span:
    """The time asked about, by default the last 24 hours; never what is yet to come.

    Raises `Invalid` TIME_OUT_OF_RANGE for a start over 90 days ago, or not before the end.
    """
    until = now if end is None else min(end, now)
    field = "end" if start is None else "start"
    try:
        since = until - DEFAULT if start is None else start
    except OverflowError:
        since = until
    if since < now - OLDEST - LEEWAY:
        raise Invalid(
            field,
            f"This range begins over {OLDEST.days} days ago.",
            fix="Give a later start.",
            detail="TIME_OUT_OF_RANGE",
        )
    if since >= until:
        raise Invalid(
            field,
            "This range ends before it begins, or lies in the future.",
            fix="Give an earlier start, or a later end.",
            detail="TIME_OUT_OF_RANGE",
        )
    return Span(since, until, current=until == now)


def grid(span: Span, period: int | None, window: int = 0) -> Grid:
    """The points of an answer, counted back from the end of the span.

    `period` and `window` are in seconds. The period is an hour by default, or a day where hours would
    be too many. Raises `Invalid` for a window that is no multiple of the period, and
    `QueryRangeTooWide` when range and window together have over 1000 periods.
    """
    rolled = timedelta(seconds=window)
    whole = span.length + rolled
    step = timedelta(seconds=period) if period else HOUR if whole <= MOST_POINTS * HOUR else DAY
    if rolled % step:
        raise Invalid(
            "window",
            f"window is no multiple of period, {step.total_seconds():.0f} seconds.",
            fix="Give a window of one or more whole periods.",
        )
    if whole > MOST_POINTS * step:
        raise QueryRangeTooWide(
            "period",
            f"Range and window have over {MOST_POINTS} periods.",
            fix="Give a longer period, a later start or a shorter window.",
        )
    return Grid(span.end, step, -(-span.length // step))


def totals(each: Sequence[int]) -> list[int]:
    """The sum of everything up to each place."""
    return list(accumulate(each))


def rolling(each: Sequence[int], width: int) -> list[int]:
    """The sum of every `width` neighbours."""
    sums = [0, *accumulate(each)]
    return [after - before for before, after in zip(sums, sums[width:], strict=False)]
