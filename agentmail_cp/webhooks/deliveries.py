"""The delivery log of an endpoint, and asking for something to be delivered (again).

A delivery that is asked for again is the same row with the same id of its event: a receiver that has seen it
knows it. What delivers is `delivering`; what came of each attempt stays in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, LiteralString
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from agentmail_cp import pages
from agentmail_cp.db import Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Conflict, NotFound
from agentmail_cp.events import VISIBLE, EventType
from agentmail_cp.webhooks.endpoints import Webhook
from agentmail_cp.webhooks.publishing import WANTED, announce

State = Literal["pending", "delivered", "failed"]

MOST_REPLAYED: Final = 10_000
"""Events that one replay delivers again."""

_SELECT: LiteralString = (
    "select delivery.delivery_id, delivery.number, delivery.organization_id, webhook_id, event_id,"
    " event_type, state, due_at, attempts, created_at, updated_at, last.status, last.error"
    " from delivery left join delivery_attempt as last"
    " on last.organization_id = delivery.organization_id"
    " and last.delivery_id = delivery.delivery_id and last.number = delivery.attempts"
    " where delivery.organization_id = %(organization_id)s and webhook_id = %(webhook_id)s"
)


_IN_STATE: Final[Mapping[State, LiteralString]] = {
    "pending": " and state = 'pending'",
    "delivered": " and state = 'delivered'",
    "failed": " and state = 'failed'",
}
"""Spelt out, so that indexes of one state can be used whatever the plan is made for."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: the endpoint's status, or why there was none, and the beginning of its answer."""

    number: int
    at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    response: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one endpoint; without `event_id` it is a test. `due_at` is when the next attempt is,
    while it is pending. `status` and `error` are those of the last attempt.
    """

    delivery_id: UUID
    number: int
    organization_id: UUID
    webhook_id: UUID
    event_id: UUID | None
    event_type: EventType
    state: State
    due_at: datetime
    attempts: int
    created_at: datetime
    updated_at: datetime
    status: int | None
    error: str | None


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are delivered again: written in this time and published behind a `position`; with
    `only_failed` those alone whose delivery failed; with `masks` only those of messages that have one of
    these hiding masks now.
    """

    since: datetime
    until: datetime | None = None
    position: int = 0
    only_failed: bool = False
    masks: Sequence[int] | None = None


class Replayed(msgspec.Struct, frozen=True):
    """How many events are delivered again, and where to go on if there may be more."""

    count: int
    next: UUID | None


async def list_page(
    tx: Tx,
    webhook: Webhook,
    *,
    state: State | None = None,
    event_type: EventType | None = None,
    limit: int,
    page_token: str | None,
) -> tuple[list[Delivery], str | None]:
    """One page of an endpoint's deliveries, newest first, and the token of the next."""
    scope = f"deliveries/{webhook.webhook_id}/{state}/{event_type}"
    query = _SELECT
    parameters = _of(webhook) | {"limit": limit + 1, "event_type": event_type}
    if state is not None:
        query += _IN_STATE[state]
    if event_type is not None:
        query += " and event_type = %(event_type)s"
    if page_token:
        (parameters["number"],) = pages.decode(scope, page_token, tuple[pages.BigInt])
        query += " and delivery.number < %(number)s"
    query += " order by delivery.number desc limit %(limit)s"
    rows = await fetch_all(tx, Delivery, query, parameters)
    return pages.cut(scope, rows, limit, lambda last: (last.number,))


def _of(webhook: Webhook) -> dict[str, Any]:
    return {"organization_id": webhook.organization_id, "webhook_id": webhook.webhook_id}


async def get(tx: Tx, webhook: Webhook, delivery_id: UUID) -> Delivery:
    """One delivery of an endpoint; `NotFound` otherwise."""
    found = await fetch_one(
        tx,
        Delivery,
        _SELECT + " and delivery.delivery_id = %(delivery_id)s",
        _of(webhook) | {"delivery_id": delivery_id},
    )
    if found is None:
        raise NotFound(
            "There is no such delivery.",
            fix="List the deliveries of this webhook; they are kept as long as events are.",
        )
    return found


async def list_attempts(tx: Tx, delivery: Delivery) -> list[Attempt]:
    """What came of each attempt, in their order."""
    return await fetch_all(
        tx,
        Attempt,
        "select number, at, duration_ms, status, error, response from delivery_attempt"
        " where organization_id = %(organization_id)s and delivery_id = %(delivery_id)s"
        " order by number",
        {"organization_id": delivery.organization_id, "delivery_id": delivery.delivery_id},
    )


_AGAIN: LiteralString = (
    "state = 'pending', due_at = now(), claimed_until = null, failures = 0, updated_at = now()"
)
"""The beginning of the schedule, once more. Only for what nobody is about to deliver anyway (`_RESTS`)."""

_RESTS: LiteralString = "(delivery.state <> 'pending' or delivery.due_at > now())"


def _ensure_enabled(webhook: Webhook) -> None:
    if not webhook.enabled:
        raise Conflict(
            f"This webhook is disabled ({webhook.disabled_reason}), so nothing is delivered to it.",
            fix='Enable it first: PATCH it with {"enabled": true}.',
        )


async def resend(tx: Tx, webhook: Webhook, delivery_id: UUID) -> Delivery:
    """Deliver once more, now, and on failure by the schedule. The caller holds the endpoint. Raises
    `NotFound`, and `Conflict` where it is disabled.
    """
    _ensure_enabled(webhook)
    await tx.execute(
        f"update delivery set {_AGAIN} where organization_id = %(organization_id)s"
        f" and webhook_id = %(webhook_id)s and delivery_id = %(delivery_id)s and {_RESTS}",
        _of(webhook) | {"delivery_id": delivery_id},
    )
    await announce(tx)
    return await get(tx, webhook, delivery_id)


async def send_test(tx: Tx, webhook: Webhook, event_type: EventType) -> Delivery:
    """Deliver a sample of an event, which stands in no log. The caller holds the endpoint. Raises `Conflict`
    where it is disabled.
    """
    _ensure_enabled(webhook)
    delivery_id = uuid7()
    await tx.execute(
        "insert into delivery (delivery_id, organization_id, webhook_id, event_type)"
        " values (%(delivery_id)s, %(organization_id)s, %(webhook_id)s, %(event_type)s)",
        _of(webhook) | {"delivery_id": delivery_id, "event_type": event_type},
    )
    await announce(tx)
    return await get(tx, webhook, delivery_id)


async def replay(
    tx: Tx, webhook: Webhook, wanted: Replay, *, most: int = MOST_REPLAYED
) -> Replayed:
    """Deliver again what an endpoint wants of the log, the first `most` events of it, whether they were
    delivered before, failed, or were never meant for it. The caller holds it. Raises `Conflict` where it is
    disabled.
    """
    _ensure_enabled(webhook)
    done = await fetch_only(
        tx,
        Replayed,
        _REPLAY,
        _of(webhook)
        | {
            "since": wanted.since,
            "until": wanted.until,
            "position": wanted.position,
            "only_failed": wanted.only_failed,
            "masks": None if wanted.masks is None else list(wanted.masks),
            "most": most,
        },
    )
    if done.count:
        await announce(tx)
    return done


_REPLAY = f"""
with wanted as (
    select event.event_id, event.type, event.position from event
    join webhook on webhook.organization_id = event.organization_id
    where event.organization_id = %(organization_id)s and webhook.webhook_id = %(webhook_id)s
        and event.position > %(position)s and event.created_at >= %(since)s
        and (%(until)s::timestamptz is null or event.created_at < %(until)s)
        and {WANTED}
        and (not %(only_failed)s or exists (
            select from delivery where delivery.organization_id = %(organization_id)s
                and delivery.webhook_id = %(webhook_id)s
                and delivery.event_id = event.event_id and delivery.state = 'failed'))
        and (%(masks)s::smallint[] is null or (true{VISIBLE}))
    order by event.position
    limit %(most)s
), again as (
    insert into delivery (delivery_id, organization_id, webhook_id, event_id, event_type)
    select gen_random_uuid(), %(organization_id)s, %(webhook_id)s, event_id, type from wanted
    order by position
    on conflict (webhook_id, event_id) do update set {_AGAIN}
    where delivery.organization_id = excluded.organization_id and {_RESTS}
)
select count(*) as count,
    case when count(*) = %(most)s then (array_agg(event_id order by position desc))[1] end as next
from wanted
"""
