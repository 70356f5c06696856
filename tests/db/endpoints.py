"""Webhook endpoints and their deliveries as rows, without anybody who receives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import webhooks
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, fetch_all
from agentmail_cp.events import EventType
from agentmail_cp.messages import Place
from agentmail_cp.publication import Publication
from agentmail_cp.webhooks import Failure, NewWebhook, Webhook
from agentmail_cp.webhooks import claims as rows
from agentmail_cp.webhooks.attempts import Result
from agentmail_cp.webhooks.claims import Claim, Done
from agentmail_cp.webhooks.lanes import FAILING, FAST, Room
from tests.db.mailbox import a_mail, record

EMPTY = Room(fast=FAST, failing=FAILING, closed=frozenset())
"""The room of a worker that has nothing to do."""

SENT_BACK = Result(
    at=datetime(2026, 1, 1, tzinfo=UTC),
    duration=timedelta(milliseconds=12),
    status=500,
    failure=Failure.REFUSED,
    response="no",
)
TAKEN = Result(at=SENT_BACK.at, duration=SENT_BACK.duration, status=200, response="ok")


class Row(msgspec.Struct, frozen=True):
    """What is to be seen of a delivery."""

    delivery_id: UUID
    event_id: UUID | None
    state: str
    attempts: int
    failures: int
    wait: float
    """Seconds until it is due."""


async def an_endpoint(
    db: Database, place: Place, url: str = "https://hooks.test/mail", **fields: Any
) -> Webhook:
    """An endpoint of the whole organisation that wants what is received, unless told otherwise."""
    wanted: dict[str, Any] = {"event_types": [EventType.MESSAGE_RECEIVED], **fields}
    async with db.transaction() as tx:
        made = await webhooks.create(
            tx, Reach(place.organization_id), NewWebhook(url=url, **wanted), most=0
        )
    return made.webhook


async def happen(db: Database, place: Place, *numbers: int) -> None:
    """Let these mails be received, and publish their events."""
    await record(db, place, *(a_mail(number) for number in numbers))
    await Publication(db).publish_batch()


async def claim(db: Database, room: Room = EMPTY) -> list[Claim]:
    async with db.transaction() as tx:
        return await rows.claim(tx, room)


async def end(db: Database, claims: Sequence[Claim], result: Result, chance: float = 0.5) -> None:
    async with db.transaction() as tx:
        await rows.record(tx, [Done(each, result, chance) for each in claims])


async def deliveries(db: Database, webhook: Webhook) -> list[Row]:
    """All of an endpoint, in the order in which they were made."""
    async with db.reading() as tx:
        return await fetch_all(
            tx,
            Row,
            "select delivery_id, event_id, state, attempts, failures,"
            " extract(epoch from due_at - now())::float8 as wait"
            " from delivery where webhook_id = %(webhook_id)s order by number",
            {"webhook_id": webhook.webhook_id},
        )


async def look_at(db: Database, webhook: Webhook) -> Webhook:
    async with db.reading() as tx:
        return await webhooks.get(tx, webhook.reach, webhook.webhook_id)


async def let_pass(db: Database, webhook: Webhook, change: LiteralString) -> None:
    """Let time pass by moving what is written back: `due_at = now()`."""
    async with db.transaction() as tx:
        await tx.execute(
            f"update delivery set {change} where webhook_id = %(webhook_id)s",
            {"webhook_id": webhook.webhook_id},
        )
