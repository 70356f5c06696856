"""Delivering: claimed deliveries become signed POSTs, and what came of them is written down.

One loop per worker takes turns. A turn is one transaction that records what is over and claims what is due,
as far as `lanes` has room; then the claimed events are rendered together, and each is posted by itself. So
a delivery begins as soon as its row is committed, and the database is asked per batch, not per delivery.

What happens when                    then
===================================  =================================================================
the mail server is away              the claims rest for `RECOVERY`; no attempt is counted
the database is away                 outcomes are kept and recorded later; nothing new begins
an event cannot be read              others go on; it rests longer each time (`rendering`), not counted
a worker is killed                   nobody renews its claims: they are made again in seconds, at least once
a worker is told to stop             what is under way has `GRACE` to end; the rest is given back
an event cannot be rendered          that is an attempt in vain of its own deliveries, nobody else's
too many names are looked up         the delivery is due again in `BUSY`; no attempt is counted
an event is no longer kept           its deliveries have failed
===================================  =================================================================

A receiver tells repetitions by the id, which is that of the event. Bodies, secrets, headers and the query
strings of URLs stand in no log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import SystemRandom
from time import monotonic
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import structlog
from msgspec import structs
from prometheus_client import Counter, Gauge, Histogram

from agentmail_cp.db import Database
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Event
from agentmail_cp.outbound import (
    Network,
    Outbound,
    OutboundError,
    Reason,
    Request,
    Resolve,
    Response,
)
from agentmail_cp.rounds import Rounds, Standstill
from agentmail_cp.webhooks import claims as rows
from agentmail_cp.webhooks import samples, signing
from agentmail_cp.webhooks.attempts import (
    MOST_RESPONSE,
    OURS,
    Failure,
    Result,
    as_text,
    failure_of_reason,
    failure_of_status,
)
from agentmail_cp.webhooks.claims import BATCH, Claim, Done
from agentmail_cp.webhooks.lanes import MOST, PROBES, Lanes
from agentmail_cp.webhooks.publishing import CHANNEL
from agentmail_cp.webhooks.rendering import Render, Rendered, Rendering
from agentmail_cp.webhooks.schedule import asked_for

log = structlog.stdlib.get_logger(__name__)

TIMEOUT: Final = 15.0
"""Seconds an attempt may take in all."""

RESOLVERS: Final = 64
"""Names that are looked up at once; each holds a thread for as long as name servers don't answer."""

BUSY: Final = 2.0
"""Seconds a delivery is put off whose endpoint's name could not be looked up for all the others."""

LOOK: Final = 1.0
"""Seconds between looks for retries whose time has come and for what dead workers left."""

SOON: Final = timedelta(seconds=10)
"""A pause up to which whoever noted it also wakes for it; longer ones may last `LOOK` longer."""

CROWDED: Final = 0.1
"""Seconds between looks for attempts that have become slow, while there is no room for others."""

MEASURE: Final = 15.0
"""Seconds between measurements, and between looks for deliveries to endpoints that were disabled."""

RECOVERY: Final = 2.0
"""Seconds to wait when the database or the mail server is away."""

GRACE: Final = 2.0
"""Seconds that attempts under way have to end when the worker is told to stop."""

RENEWAL: Final = 1.0
"""Seconds between renewals of the leases of what is under way."""

_rng = SystemRandom()

ATTEMPTS = Counter("agentmail_webhook_attempts", "Attempts to deliver, by outcome.", ["outcome"])
SECONDS = Histogram(
    "agentmail_webhook_attempt_seconds",
    "Time one attempt takes.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
UNDERWAY = Gauge("agentmail_webhook_attempts_underway", "Deliveries claimed by this process.")
PENDING = Gauge("agentmail_webhook_pending_deliveries", "Deliveries not made yet, resting or due.")
OVERDUE = Gauge(
    "agentmail_webhook_oldest_due_seconds",
    "Age of the oldest due delivery to an endpoint that is not failing.",
)


class _Busy(Exception):
    """An attempt did not even begin, for want of a thread."""


class Delivering:
    """The loop that delivers. One per worker process. `allowed` are networks beyond the internet where
    endpoints may be; `resolve` is what their names are looked up with, if not by the system.
    """

    def __init__(
        self,
        db: Database,
        render: Render,
        allowed: Sequence[Network] = (),
        *,
        resolve: Resolve | None = None,
    ) -> None:
        self._db = db
        ways = (
            Outbound(allowed, connections=most, resolvers=RESOLVERS, resolve=resolve)
            for most in (MOST, PROBES)
        )
        # Names that are resolved slowly, or never, keep those waiting alone that fail as well.
        self._outbound, self._probes = ways
        self._rendering = Rendering(render)
        self._lanes = Lanes()
        self._done: list[Done] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: dict[UUID, Claim] = {}
        self._rounds = Rounds()
        self._standstill = Standstill(log, "deliveries")

    async def run(self) -> None:
        """Deliver until cancelled; then let go of everything."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._rounds.listen(self._db, CHANNEL))
                group.create_task(self._rounds.run(self._step))
                group.create_task(self._renew())
                group.create_task(self._watch())
        finally:
            await self._stop()
            await self.close()

    async def close(self) -> None:
        """End every connection."""
        await self._outbound.close()
        await self._probes.close()

    async def _step(self) -> float:
        """Take a turn; how many seconds to wait for news before the next."""
        try:
            crowded = await self.turn()
        except Unavailable as error:
            self._standstill.begins(error.message)
            await asyncio.sleep(RECOVERY)
            return 0.0
        except Exception:
            log.exception("deliveries.failed")
            await asyncio.sleep(RECOVERY)
            return 0.0
        self._standstill.is_over()
        return CROWDED if crowded else LOOK

    async def turn(self) -> bool:
        """Record what is over, claim what is due and begin to deliver it; whether there was no room."""
        room = self._lanes.room(monotonic())
        done, self._done = self._done, []
        claims: list[Claim] = []
        events: Mapping[UUID, Event] = {}
        try:
            async with self._db.transaction() as tx:
                await rows.hurry(tx)
                await rows.record(tx, done)
                if room.fast or room.failing:
                    claims = await rows.claim(tx, room)
                    events = await rows.events_of(tx, claims)
        except (Unavailable, asyncio.CancelledError):
            # Whatever else it is may be in them, and would come again each time: what they were about is
            # then delivered once more.
            self._done = done + self._done
            raise
        for each in claims:
            self._enter(each)
        for some in self._apart(claims):
            self._begin(self._deliver(some, events))
        if len(claims) >= BATCH:
            self._rounds.wake()
        return room.fast == 0

    def _enter(self, claim: Claim) -> None:
        self._held[claim.delivery_id] = claim
        self._lanes.enter(
            claim.delivery_id, claim.webhook_id, failing=claim.failing, now=monotonic()
        )
        UNDERWAY.set(len(self._lanes))

    def _leave(self, claim: Claim) -> None:
        self._held.pop(claim.delivery_id, None)
        self._lanes.leave(claim.delivery_id)
        UNDERWAY.set(len(self._lanes))
        self._rounds.wake()

    def _wake_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._rounds.wake)

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _apart(self, claims: Sequence[Claim]) -> list[list[Claim]]:
        """Claims that are rendered together: all but those of events that others would wait for in vain."""
        together = [each for each in claims if not self._rendering.is_suspect(each.event_id)]
        alone: dict[UUID | None, list[Claim]] = {}
        for each in claims:
            if self._rendering.is_suspect(each.event_id):
                alone.setdefault(each.event_id, []).append(each)
        return [*([together] if together else []), *alone.values()]

    async def _deliver(self, claims: Sequence[Claim], events: Mapping[UUID, Event]) -> None:
        """Render the events of some claims, and post each to its endpoint."""
        wanted = {each.event_id for each in claims}
        theirs = [event for event_id, event in events.items() if event_id in wanted]
        try:
            found = await self._rendering.bodies(theirs)
        except Exception:
            log.exception("deliveries.not_rendered")
            found = Rendered({}, frozenset(event.event_id for event in theirs), {})
        for each in claims:
            if each.event_id not in found.waiting and each.event_id not in found.put_off:
                self._begin(self._post(each, _body(each, found), kept=_is_kept(each, events)))
        await self._let_rest([each for each in claims if each.event_id in found.waiting])
        for event_id, pause in found.put_off.items():
            await self._put_off([each for each in claims if each.event_id == event_id], pause)

    async def _let_rest(self, claims: Sequence[Claim]) -> None:
        """Give claims back, to be looked at again in `RECOVERY` seconds, as if nothing had been tried."""
        if not claims:
            return
        with contextlib.suppress(Unavailable):
            async with self._db.transaction() as tx:
                await rows.hold(tx, claims, timedelta(seconds=RECOVERY))
        for each in claims:
            self._leave(each)
        self._wake_in(RECOVERY)

    async def _put_off(self, claims: Sequence[Claim], pause: float) -> None:
        """Let claims be due later, as if nothing had been tried: others of their endpoints go first."""
        with contextlib.suppress(Unavailable):
            async with self._db.transaction() as tx:
                await rows.put_off(tx, claims, timedelta(seconds=pause))
        for each in claims:
            self._leave(each)
        self._wake_in(pause)

    async def _renew(self) -> None:
        """Keep what is under way, and what is over but not recorded yet."""
        while True:
            await asyncio.sleep(RENEWAL)
            held = [*self._held.values(), *(each.claim for each in self._done)]
            if not held:
                continue
            with contextlib.suppress(Unavailable):
                async with self._db.transaction() as tx:
                    await rows.hurry(tx)
                    await rows.hold(tx, held)

    async def _post(self, claim: Claim, body: bytes | None, *, kept: bool) -> None:
        try:
            result = await self._result(claim, body, kept=kept)
        except _Busy:
            log.info("delivery.put_off", delivery_id=str(claim.delivery_id))
            await self._put_off([claim], BUSY)
            return
        kind = result.failure or "delivered"
        ATTEMPTS.labels(kind).inc()
        SECONDS.observe(result.duration.total_seconds())
        if result.failure is not None:
            log.info(
                "delivery.failed",
                delivery_id=str(claim.delivery_id),
                host=urlsplit(claim.url).hostname,
                reason=kind,
                status=result.status,
            )
        done = Done(claim, result, _rng.random())
        self._done.append(done)
        self._leave(claim)
        self._plan(done)

    def _plan(self, done: Done) -> None:
        """Be awake when there is something to do again for this endpoint."""
        failure = done.result.failure
        if failure is None:
            self._lanes.succeeded(done.claim.webhook_id)
        elif failure not in OURS:
            self._wake_in(self._lanes.failed(done.claim.webhook_id, monotonic()))
        if done.rest is not None and done.rest <= SOON:
            self._wake_in(done.rest.total_seconds())

    async def _result(self, claim: Claim, body: bytes | None, *, kept: bool) -> Result:
        """Try once. Raises nothing but `_Busy`, so that every attempt is recorded and none is for ever."""
        at, begun = datetime.now(UTC), monotonic()
        if body is None:
            failure = Failure.NOT_MADE if kept else Failure.NOT_KEPT
            return Result(at=at, duration=timedelta(), failure=failure)
        try:
            found = await self._ask(claim, body, at)
        except _Busy:
            raise
        except Exception:
            log.exception("delivery.broken", delivery_id=str(claim.delivery_id))
            found = Result(at=at, duration=timedelta(), failure=Failure.BROKEN)
        return structs.replace(found, duration=timedelta(seconds=monotonic() - begun))

    async def _ask(self, claim: Claim, body: bytes, at: datetime) -> Result:
        request = Request(
            url=claim.url,
            method="POST",
            headers=tuple(headers(claim, body, at).items()),
            content=body,
            most=MOST_RESPONSE,
            seconds=TIMEOUT,
            idle=TIMEOUT,
            owner=str(claim.organization_id),
        )
        try:
            outbound = self._probes if claim.failing else self._outbound
            async with outbound.open(request) as response:
                return Result(
                    at=at,
                    duration=timedelta(),
                    status=response.status,
                    failure=failure_of_status(response.status),
                    response=await _beginning(response),
                    asked=asked_for(response.status, response.headers, at),
                )
        except OutboundError as error:
            if error.reason is Reason.BUSY:
                raise _Busy from None
            failure = failure_of_reason(error.reason)
            return Result(at=at, duration=timedelta(), failure=failure)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                await self._look_around()
            await asyncio.sleep(MEASURE)

    async def _look_around(self) -> None:
        async with self._db.transaction() as tx:
            given_up = await rows.give_up(tx)
            waiting = await rows.measure(tx)
        PENDING.set(waiting.pending)
        OVERDUE.set(waiting.overdue)
        if given_up:
            log.info("deliveries.given_up", count=given_up)

    async def _stop(self) -> None:
        """Let what is under way end, record it, and give the rest back: it is delivered by others."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        left = list(self._tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        with contextlib.suppress(Unavailable):
            async with self._db.transaction() as tx:
                await rows.record(tx, self._done)
                await rows.hold(tx, list(self._held.values()), timedelta())


def headers(claim: Claim, body: bytes, at: datetime) -> dict[str, str]:
    """The headers of an attempt: the endpoint's own, and ours, which none of its own can replace."""
    signed = signing.headers(claim.secrets, claim.message_id, int(at.timestamp()), body)
    ours = {"Content-Type": "application/json", **signed}
    taken = {name.lower() for name in ours}
    theirs = {name: value for name, value in claim.headers.items() if name.lower() not in taken}
    return theirs | ours


def _body(claim: Claim, found: Rendered) -> bytes | None:
    if claim.event_id is None:
        return samples.body(claim.event_type, claim.delivery_id)
    return found.bodies.get(claim.message_id)


def _is_kept(claim: Claim, events: Mapping[UUID, Event]) -> bool:
    return claim.event_id is None or claim.event_id in events


async def _beginning(response: Response) -> str:
    """What there is of an answer's body. A status is an answer, even if nothing comes after it."""
    try:
        return as_text(await response.beginning())
    except OutboundError:
        return ""
