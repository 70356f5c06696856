"""Routes of metrics, per inbox, per pod and over all that the key reaches: one set of handlers.

They tell how much there is, also of what hides from lists. Only what arrived as spam, blocked or
unauthenticated is told apart for keys that may read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from litestar import Controller, get
from litestar.di import Provide
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.types import Dependencies

from agentmail_cp import bodies, filing, metrics, pages
from agentmail_cp.access import Principal
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import Invalid
from agentmail_cp.metrics import LONGEST_PERIOD, LONGEST_WINDOW, MOST_POINTS, Span
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Db
from agentmail_cp.web.listing import Query, asking
from agentmail_cp.web.scopes import Scope, Within, called, everywhere, one_inbox, one_pod, within

Point = TypeVar("Point")

DAY = 86_400
"""The default window, in seconds."""


def _types(*names: str) -> Schema:
    each = Schema(type=OpenAPIType.STRING, enum=list(names))
    return Schema(type=OpenAPIType.ARRAY, items=each)


def _seconds(most: int) -> Schema:
    return Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=most)


_TIME = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME)
_WHICH = "a JSON array, repeated, or comma-separated; all that there are by default."
_SHAPES: dict[str, tuple[Schema, str]] = {
    "event_types": (_types(*metrics.EVENT_TYPES), f"Only events of these types: {_WHICH}"),
    "usage_types": (_types(*metrics.USAGE_TYPES), f"Only usage of these types: {_WHICH}"),
    "rate_types": (_types(*metrics.RATE_TYPES), f"Only rates of these types: {_WHICH}"),
    "start": (_TIME, "The beginning, at most 90 days ago; a day before the end by default."),
    "end": (_TIME, "The end; now by default, and for a time to come."),
    "period": (_seconds(LONGEST_PERIOD), "Seconds between two points."),
    "window": (
        _seconds(LONGEST_WINDOW),
        "Seconds that lead to a point, a multiple of `period`; a day by default.",
    ),
    "limit": (
        Schema(type=OpenAPIType.INTEGER, minimum=1),
        f"Points of each type, at most {MOST_POINTS}.",
    ),
    "descending": (Schema(type=OpenAPIType.BOOLEAN), "Latest first."),
}


EVENTS = asking(_SHAPES, "event_types", "start", "end", "period", "limit", "descending")
USAGE = asking(_SHAPES, "usage_types", "start", "end", "period", "limit", "descending")
RATES = asking(_SHAPES, "rate_types", "start", "end", "period", "window", "limit", "descending")


class _Metrics(Controller):
    """What is counted in any scope."""

    tags = ("Metrics",)

    @get(
        "/events",
        operation_id=called("metrics", "query_events"),
        guards=[needs("metrics_read")],
        responses=ERRORS,
        operation_class=EVENTS,
    )
    async def query_events(
        self, within: Within, asked: Asked, caller: Caller, db: Db
    ) -> dict[str, list[bodies.MetricBucket]]:
        """Count what happened to mail, by type: at each moment or, with `period`, in each period in which
        something did. Periods begin at multiples of their length since 1970 in UTC.

        By default those types are counted that the key may tell apart.
        """
        return await _events(db, within, asked, caller)

    @get(
        operation_id=called("metrics", "query"),
        guards=[needs("metrics_read")],
        responses=ERRORS,
        operation_class=EVENTS,
    )
    async def query(
        self, within: Within, asked: Asked, caller: Caller, db: Db
    ) -> dict[str, list[bodies.MetricBucket]]:
        """Count events, as `/events` below this path does: older clients ask here."""
        return await _events(db, within, asked, caller)

    @get(
        "/usage",
        operation_id=called("metrics", "query_usage"),
        guards=[needs("metrics_read")],
        responses=ERRORS,
        operation_class=USAGE,
    )
    async def query_usage(
        self, within: Within, asked: Asked, db: Db
    ) -> dict[str, list[bodies.UsagePoint]]:
        """Tell how much there was, by type: of what exists now, how much existed at each point. Points are
        counted back from the end, by default an hour apart, or a day when that would be over 1000.
        """
        types = _wanted(asked, "usage_types", metrics.usage_types(within.reach))
        period, part = _number(asked, "period", LONGEST_PERIOD), _part(asked)
        async with db.reading() as tx:
            span = await _span(tx, asked)
            grid = metrics.grid(span, period)
            found = await metrics.usage(tx, within.reach, types, grid, current=span.current)
        return {
            each: [bodies.UsagePoint(one.timestamp, one.value) for one in part.of(totals)]
            for each, totals in found.items()
        }

    @get(
        "/rates",
        operation_id=called("metrics", "query_rates"),
        guards=[needs("metrics_read")],
        responses=ERRORS,
        operation_class=RATES,
    )
    async def query_rates(
        self, within: Within, asked: Asked, db: Db
    ) -> dict[str, list[bodies.RatePoint]]:
        """Tell for what share of recipients mail bounced or was complained of, in the window that leads to
        each point. Points are counted back from the end, by default an hour apart, or a day when that
        would be over 1000.
        """
        types = _wanted(asked, "rate_types", metrics.RATE_TYPES)
        period = _number(asked, "period", LONGEST_PERIOD)
        window = _number(asked, "window", LONGEST_WINDOW) or DAY
        part = _part(asked)
        async with db.reading() as tx:
            span = await _span(tx, asked)
            grid = metrics.grid(span, period, window)
            found = await metrics.rates(tx, within.reach, types, grid, window=window)
        return {
            each: [bodies.RatePoint(one.timestamp, one.rate, one.sent) for one in part.of(rates)]
            for each, rates in found.items()
        }


class InboxMetrics(_Metrics):
    """Metrics of one inbox."""

    path = "/inboxes/{inbox_id:str}/metrics"
    dependencies: Dependencies | None = within(Provide(one_inbox))


class PodMetrics(_Metrics):
    """Metrics of a pod. `{pod_id}` is its id or its client_id."""

    path = "/pods/{pod_id:str}/metrics"
    dependencies: Dependencies | None = within(Provide(one_pod))


class Metrics(_Metrics):
    """Metrics of all that the key reaches."""

    path = "/metrics"
    dependencies: Dependencies | None = within(Provide(everywhere))


async def _span(tx: Tx, asked: Query) -> Span:
    """The time asked about."""
    return metrics.span(await metrics.now(tx), asked.time("start"), asked.time("end"))


async def _events(
    db: Database, within: Scope, asked: Query, caller: Principal
) -> dict[str, list[bodies.MetricBucket]]:
    types = _event_types(asked, caller)
    period, part = _number(asked, "period", LONGEST_PERIOD), _part(asked)
    async with db.reading() as tx:
        found = await metrics.events(
            tx,
            within.reach,
            types,
            await _span(tx, asked),
            period=period,
            limit=part.limit,
            descending=part.descending,
        )
    return {
        each: [bodies.MetricBucket(one.timestamp, one.count) for one in buckets]
        for each, buckets in found.items()
    }


def _event_types(asked: Query, caller: Principal) -> Sequence[str]:
    """The types asked for, or all that the key may tell apart. Raises `Forbidden` for others."""
    hidden = {f"message.received.{label}": f"label_{label}_read" for label in filing.HIDING}
    known = metrics.EVENT_TYPES
    if not asked.texts("event_types"):
        return [each for each in known if each not in hidden or caller.may(hidden[each])]
    named = _wanted(asked, "event_types", known)
    for each in named:
        if each in hidden:
            caller.require(hidden[each])
    return named


def _wanted(asked: Query, name: str, known: Sequence[str]) -> Sequence[str]:
    """The types asked for, all of them by default."""
    named = asked.texts(name)
    if strange := [each for each in named if each not in known]:
        raise Invalid(
            name, f"There is no {strange[0][:50]!r} here.", fix=f"Use {', '.join(known)}."
        )
    return named or known


def _number(asked: Query, name: str, most: int) -> int | None:
    value = asked.text(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= most):
        raise Invalid(
            name,
            f"{name} is not a whole number of seconds.",
            fix=f"Use 1 to {most}, or leave it out.",
        )
    return int(value)


class _Part(msgspec.Struct, frozen=True):
    """Which points of an answer are shown."""

    limit: int
    descending: bool

    def of(self, points: Sequence[Point]) -> Sequence[Point]:
        return (points[::-1] if self.descending else points)[: self.limit]


def _part(asked: Query) -> _Part:
    limit = pages.limit(asked.text("limit"), default=MOST_POINTS, maximum=MOST_POINTS)
    return _Part(limit, asked.flag("descending"))


ROUTES = (InboxMetrics, PodMetrics, Metrics)
