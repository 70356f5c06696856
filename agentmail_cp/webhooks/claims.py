"""Which deliveries a worker takes, and writing down what came of them.

A delivery that is due is claimed by one worker alone, for as long as that renews its `LEASE`: a worker that
dies gives back what it had within seconds. Of each endpoint only the oldest that are due are looked at,
`lanes.AT_ONCE` of them or, while it fails, one: that keeps an endpoint's deliveries about in order, its
attempts few over all workers, and the cost of a look the same however much waits for an endpoint that is
away. Among these the organisations take turns, and each one's failing endpoints have a `SHARE`, so that none
waits for another's. A result counts for the claim it was made under: where a lease ended too early, the
delivery is somebody else's by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all, fetch_only
from agentmail_cp.events import Event, EventType
from agentmail_cp.events.reading import COLUMNS
from agentmail_cp.webhooks.attempts import FINAL, OURS, Failure, Result
from agentmail_cp.webhooks.lanes import AT_ONCE, SHARE, Room
from agentmail_cp.webhooks.schedule import PATIENCE, pause

LEASE: Final = timedelta(seconds=4)
"""How long a delivery stays a worker's that does not renew its claim: as late is what a dead worker had. One
that is cut off from PostgreSQL for longer may deliver what another delivers as well, with the same id.
"""

BATCH: Final = 64
"""Deliveries that are claimed at once."""

MANY: Final = 1_000
"""Deliveries that are given up in one statement."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that this worker makes now, and where to. `secrets` are those that sign, the newest first;
    `failing` says that the endpoint's last attempt failed.
    """

    delivery_id: UUID
    number: int
    organization_id: UUID
    webhook_id: UUID
    event_id: UUID | None
    event_type: EventType
    failures: int
    claim_id: UUID
    url: str
    headers: dict[str, str]
    secrets: list[str]
    failing: bool

    @property
    def message_id(self) -> str:
        """What a receiver knows a repetition by: the same in every attempt and resend."""
        return str(self.event_id or self.delivery_id)

    def __repr__(self) -> str:
        return f"Claim(delivery_id={self.delivery_id})"


class Done(msgspec.Struct, frozen=True):
    """A claim and what came of it. `chance` is this delivery's share of luck in the schedule, 0 to 1."""

    claim: Claim
    result: Result
    chance: float

    @property
    def rest(self) -> timedelta | None:
        """How long to wait for the next attempt; None when there is none."""
        if self.result.failure is None:
            return None
        return pause(self.claim.failures + 1, self.chance, self.result.asked)

    @property
    def state(self) -> str:
        if self.result.failure is None:
            return "delivered"
        over = self.result.failure in FINAL or self.rest is None
        return "failed" if over else "pending"


_PENDING: LiteralString = (
    # One step of the index for each endpoint, however many deliveries it has.
    "recursive pending as ("
    " (select webhook_id from delivery where state = 'pending' order by webhook_id limit 1)"
    " union all"
    " select (select delivery.webhook_id from delivery where state = 'pending'"
    " and delivery.webhook_id > pending.webhook_id order by delivery.webhook_id limit 1)"
    " from pending where pending.webhook_id is not null)"
)

_UNDONE: LiteralString = "state not in ('delivered', 'failed')"
"""That a delivery is pending, in words that do not invite PostgreSQL to look for it among all that are, by
their index, instead of by its own key.
"""

_CLAIM: LiteralString = (
    f"with {_PENDING}, endpoint as (select webhook.webhook_id, failing_since is not null as failing"
    " from pending join webhook using (webhook_id) where enabled and webhook_id <> all(%(closed)s)),"
    # What is under way comes before what waits, so that it counts against its endpoint and organisation.
    " open as (select delivery_id, organization_id, due_at, failing, taken, row_number()"
    " over (partition by endpoint.webhook_id order by taken desc, due_at, number) as place"
    " from endpoint cross join lateral (select delivery_id, organization_id, due_at, number,"
    " coalesce(claimed_until > now(), false) as taken"
    " from delivery where delivery.webhook_id = endpoint.webhook_id and state = 'pending'"
    " and due_at <= now() order by due_at, number"
    " limit case when failing then 1 else %(at_once)s end) as oldest),"
    # Every organisation's first before any organisation's second, and so of the endpoints of each.
    " shared as (select delivery_id, due_at, failing, taken, row_number()"
    " over (partition by organization_id, failing order by taken desc, place, due_at) as share"
    " from open),"
    " queue as (select delivery_id, failing, row_number()"
    " over (partition by failing order by share, due_at) as turn from shared"
    " where not taken and (share <= %(share)s or not failing)),"
    " chosen as (select delivery_id from delivery where delivery_id = any(array("
    "select delivery_id from queue where turn <= case when failing then %(failing)s else %(fast)s end))"
    f" and {_UNDONE} and (claimed_until is null or claimed_until <= now())"
    " for update skip locked)"
    " update delivery set claimed_until = clock_timestamp() + %(lease)s,"
    " claim_id = gen_random_uuid() from chosen, webhook"
    " where delivery.delivery_id = chosen.delivery_id and webhook.webhook_id = delivery.webhook_id"
    " returning delivery.delivery_id, delivery.organization_id, delivery.webhook_id, event_id,"
    " event_type, failures, claim_id, url, headers, failing_since is not null as failing,"
    " case when previous_until > now() then array[secret, previous_secret]"
    " else array[secret] end as secrets, number"
)


async def hurry(tx: Tx) -> None:
    """Let the transaction end before it is on disk: if PostgreSQL itself crashes within the next moment, what
    was claimed or delivered then is delivered once more, as after any other crash.
    """
    await tx.execute("select set_config('synchronous_commit', 'off', true)")


async def claim(tx: Tx, room: Room) -> list[Claim]:
    """Take deliveries that are due, in about the order in which they were made."""
    claims = await fetch_all(tx, Claim, _CLAIM, wanted(room))
    return sorted(claims, key=lambda each: each.number)


def wanted(room: Room) -> dict[str, object]:
    """What a claim is limited to."""
    return {
        "closed": list(room.closed),
        "at_once": AT_ONCE,
        "fast": min(room.fast, BATCH),
        "failing": min(room.failing, BATCH),
        "share": SHARE,
        "lease": LEASE,
    }


async def events_of(tx: Tx, claims: Iterable[Claim]) -> dict[UUID, Event]:
    """The events of claims, without those that are no longer kept."""
    ids = {each.event_id for each in claims if each.event_id is not None}
    if not ids:
        return {}
    rows = await fetch_all(
        tx,
        Event,
        f"select {COLUMNS} from event where event_id = any(%(event_ids)s)",
        {"event_ids": list(ids)},
    )
    return {event.event_id: event for event in rows}


_MINE: LiteralString = (
    # In the order of their ids, so that renewing and recording the same claims never wait in a ring.
    "mine as (select delivery_id as id, claim"
    " from unnest(%(ids)s::uuid[], %(claims)s::uuid[]) as claimed (id, claim)"
    f" join delivery on delivery_id = id where {_UNDONE} and claim_id = claim"
    " order by delivery_id for no key update of delivery)"
)
"""Claims that still are this worker's, locked."""


async def hold(tx: Tx, claims: Sequence[Claim], lease: timedelta = LEASE) -> int:
    """Let the leases of claims end `lease` from now; returns how many still are this worker's."""
    cursor = await tx.execute(
        f"with {_MINE} update delivery set claimed_until = clock_timestamp() + %(lease)s"
        f" from mine where delivery_id = id and {_UNDONE} and claim_id = claim",
        {**_identified(claims), "lease": lease},
    )
    return cursor.rowcount


async def put_off(tx: Tx, claims: Sequence[Claim], pause: timedelta) -> None:
    """Give claims back, to be due in `pause`, as if nothing had been tried; what comes after them at their
    endpoints is looked at meanwhile.
    """
    await tx.execute(
        f"with {_MINE} update delivery set due_at = now() + %(pause)s, claimed_until = null,"
        f" claim_id = null from mine where delivery_id = id and {_UNDONE} and claim_id = claim",
        {**_identified(claims), "pause": pause},
    )


def _identified(claims: Sequence[Claim]) -> dict[str, object]:
    return {
        "ids": [each.delivery_id for each in claims],
        "claims": [each.claim_id for each in claims],
    }


_RECORD: LiteralString = (
    f"with {_MINE}, told as (select * from unnest(%(ids)s::uuid[], %(claims)s::uuid[],"
    " %(states)s::text[], %(rests)s::interval[], %(ats)s::timestamptz[], %(durations)s::int[],"
    " %(statuses)s::smallint[], %(errors)s::text[], %(responses)s::text[])"
    " as told (id, claim, outcome, rest, at, duration_ms, status, error, response)),"
    " written as (update delivery set state = outcome, claimed_until = null, claim_id = null,"
    " due_at = now() + coalesce(rest, '0'), attempts = attempts + 1,"
    " failures = failures + case when outcome = 'delivered' then 0 else 1 end, updated_at = now()"
    " from told join mine using (id, claim)"
    f" where delivery_id = id and {_UNDONE} and claim_id = claim"
    " returning delivery_id, organization_id, attempts)"
    " insert into delivery_attempt (delivery_id, number, organization_id, at, duration_ms, status,"
    " error, response) select delivery_id, attempts, organization_id, at, duration_ms, status,"
    " error, response from written join told on id = delivery_id"
)


async def record(tx: Tx, done: Sequence[Done]) -> None:
    """Write down the results of claims, and what they say about their endpoints."""
    if not done:
        return
    results = [each.result for each in done]
    await tx.execute(
        _RECORD,
        {
            **_identified([each.claim for each in done]),
            "states": [each.state for each in done],
            "rests": [each.rest if each.state == "pending" else None for each in done],
            "ats": [each.at for each in results],
            "durations": [each.duration // timedelta(milliseconds=1) for each in results],
            "statuses": [each.status for each in results],
            "errors": [each.failure and each.failure.value for each in results],
            "responses": [each.response for each in results],
        },
    )
    await _judge(tx, done)


async def _judge(tx: Tx, done: Sequence[Done]) -> None:
    """Note which endpoints began or ceased to fail, and disable those that are gone or fail for long."""
    last = {each.claim.webhook_id: each for each in done if each.result.failure not in OURS}
    failing = [webhook_id for webhook_id, each in last.items() if each.result.failure]
    well = [
        webhook_id
        for webhook_id, each in last.items()
        if not each.result.failure and each.claim.failing
    ]
    gone = {each.claim.webhook_id for each in done if each.result.failure is Failure.GONE}
    if failing or well or gone:
        await tx.execute(
            _JUDGE,
            {"well": well, "failing": failing, "gone": list(gone), "patience": PATIENCE},
        )


_JUDGE: LiteralString = (
    # In the order of their ids, so that no two workers wait in a ring.
    "with judged as (select webhook_id as id, webhook_id = any(%(well)s) as well,"
    " case when webhook_id = any(%(gone)s) then 'gone'"
    " when webhook_id = any(%(failing)s) and failing_since <= now() - %(patience)s then 'failing'"
    " end as reason"
    " from webhook where enabled and (webhook_id = any(%(gone)s)"
    " or (webhook_id = any(%(well)s) and failing_since is not null)"
    " or (webhook_id = any(%(failing)s) and (failing_since is null"
    " or failing_since <= now() - %(patience)s)))"
    " order by webhook_id for no key update)"
    " update webhook set failing_since = case when well then null"
    " else coalesce(failing_since, now()) end, enabled = reason is null, disabled_reason = reason,"
    " disabled_at = case when reason is not null then now() end"
    " from judged where webhook_id = id"
)


async def give_up(tx: Tx) -> int:
    """End deliveries to endpoints that are disabled or gone; returns how many, at most `MANY`."""
    cursor = await tx.execute(
        f"with {_PENDING}, ended as (select pending.webhook_id from pending"
        " left join webhook using (webhook_id)"
        " where pending.webhook_id is not null and enabled is not true),"
        " chosen as (select delivery_id from delivery join ended using (webhook_id)"
        " where state = 'pending' and (claimed_until is null or claimed_until <= now())"
        " limit %(many)s for update of delivery skip locked)"
        " update delivery set state = 'failed', claimed_until = null, updated_at = now()"
        " from chosen where delivery.delivery_id = chosen.delivery_id",
        {"many": MANY},
    )
    return cursor.rowcount


class Backlog(msgspec.Struct, frozen=True):
    """How many deliveries are pending, and how many seconds the oldest is overdue of those to endpoints that
    are well.
    """

    pending: int
    overdue: float


async def measure(tx: Tx) -> Backlog:
    """What waits to be delivered, over all organisations."""
    return await fetch_only(
        tx,
        Backlog,
        "select count(*) as pending, coalesce(extract(epoch from now() - min(due_at)"
        " filter (where enabled and failing_since is null and due_at <= now())), 0)::float8"
        " as overdue from delivery left join webhook using (webhook_id) where state = 'pending'",
        {},
    )


async def forget_old(tx: Tx, age: timedelta) -> None:
    """Remove deliveries made longer ago than `age`, and what came of them."""
    await tx.execute(
        "with old as (delete from delivery where created_at < now() - %(age)s"
        " returning delivery_id)"
        " delete from delivery_attempt using old"
        " where delivery_attempt.delivery_id = old.delivery_id",
        {"age": age},
    )
