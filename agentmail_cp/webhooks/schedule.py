"""PURE: when a delivery is tried again, and when an endpoint is given up.

A delivery is tried at once and then after each of `STEPS`, about 28 hours in all. An endpoint that is
overloaded may ask for more time, up to twice a step; one that says it is gone is believed at once; one
where nothing succeeded for `PATIENCE` is taken to be gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

STEPS: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
"""Pauses after the first attempt, the second, and so on."""

JITTER: Final = 0.2
"""Which part of a step it may be shorter or longer by: what failed together shall not return together."""

PATIENCE: Final = timedelta(days=5)
"""How long an endpoint may do nothing but fail."""

OVERLOADED: Final = frozenset({429, 503})
"""Statuses whose `Retry-After` counts (RFC 9110 section 10.2.3, RFC 6585 section 4)."""

GONE: Final = 410
"""The status with which an endpoint unsubscribes."""

_MOST_DIGITS: Final = 9
"""Of seconds: more than any step is, and few enough to be read as a number."""


def pause(failures: int, chance: float, asked: timedelta | None = None) -> timedelta | None:
    """How long to wait after so many failures (1 after the first attempt); None when that was the last.

    `chance` is from 0 to 1, where 0.5 is the step itself. `asked` is the endpoint's `Retry-After`.
    """
    if failures > len(STEPS):
        return None
    step = STEPS[failures - 1]
    planned = step * (1 + JITTER * (2 * chance - 1))
    if asked is None:
        return planned
    return min(max(asked, planned, step), 2 * step)


def asked_for(status: int, headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """The pause an overloaded endpoint asks for, in seconds or as a date (RFC 9110 section 10.2.3); None
    where it asks for none, or in words that mean nothing. `headers` has lower-case names.
    """
    value = headers.get("retry-after", "").strip()
    if status not in OVERLOADED or not value:
        return None
    if value.isascii() and value.isdecimal():
        return timedelta(seconds=int(value[:_MOST_DIGITS]))
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    # A date of no zone ("-0000") is meant in UTC (RFC 5322 section 3.3).
    return max(timedelta(), until.replace(tzinfo=until.tzinfo or UTC) - now)
