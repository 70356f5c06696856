"""Bodies of metrics: by type, points in time."""

from __future__ import annotations

from datetime import datetime

import msgspec


class MetricBucket(msgspec.Struct, frozen=True):
    """How many events there were at one moment or, with `period`, in the period that begins with it."""

    timestamp: datetime
    count: int


class UsagePoint(msgspec.Struct, frozen=True):
    """How much of what exists now there was at a moment."""

    timestamp: datetime
    value: int


class RatePoint(msgspec.Struct, frozen=True):
    """The share of recipients for whom it went wrong in the window that ends with this moment; null
    when nothing was sent in it.
    """

    timestamp: datetime
    rate: float | None
    sent: int
