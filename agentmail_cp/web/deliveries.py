"""Routes of what was delivered to an endpoint, and of having it delivered again: below the three paths of
endpoints, one set of handlers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import Provide
from litestar.params import FromPath, JSONBody
from litestar.types import Dependencies

from agentmail_cp import bodies, events, idempotency, pages, webhooks
from agentmail_cp.access import Principal
from agentmail_cp.db import Tx
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.events import EventType
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import Repeatable, answered
from agentmail_cp.web.inject import Asked, Caller, Db
from agentmail_cp.web.listing import listing, sees_all, visible_to
from agentmail_cp.web.scopes import Within, called, everywhere, one_inbox, one_pod, within
from agentmail_cp.web.webhooks import as_uuid, find, types_of
from agentmail_cp.webhooks import Delivery, Replay, Replayed, State, Webhook


class _Deliveries(Controller):
    """What can be done with the deliveries of an endpoint in any scope."""

    tags = ("Webhooks",)

    @get(
        "/deliveries",
        operation_id=called("webhooks", "list_deliveries"),
        guards=[needs("webhook_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token", "state", "event_type"),
    )
    async def list(
        self, within: Within, webhook_id: FromPath[str], asked: Asked, db: Db
    ) -> bodies.ListWebhookDeliveries:
        """List what was delivered to an endpoint, or is going to be, newest first."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            found, token = await webhooks.list_deliveries(
                tx,
                await find(tx, within.reach, webhook_id),
                state=_state(asked.text("state")),
                event_type=_type(asked.text("event_type")),
                limit=limit,
                page_token=asked.text("page_token"),
            )
        shown = [bodies.delivery(each) for each in found]
        return bodies.ListWebhookDeliveries(len(shown), limit, shown, token)

    @get(
        "/deliveries/{delivery_id:str}",
        operation_id=called("webhooks", "get_delivery"),
        guards=[needs("webhook_read")],
        responses=ERRORS,
    )
    async def get(
        self, within: Within, webhook_id: FromPath[str], delivery_id: FromPath[str], db: Db
    ) -> bodies.WebhookDeliveryAttempts:
        """Get one delivery with all its attempts."""
        async with db.reading() as tx:
            webhook = await find(tx, within.reach, webhook_id)
            found = await webhooks.get_delivery(tx, webhook, as_uuid(delivery_id, "delivery"))
            tried = await webhooks.list_attempts(tx, found)
        return bodies.delivery_attempts(found, tried)

    @post(
        "/deliveries/{delivery_id:str}/resend",
        operation_id=called("webhooks", "resend"),
        guards=[needs("webhook_update")],
        responses=ERRORS,
        status_code=200,
    )
    async def resend(
        self,
        within: Within,
        webhook_id: FromPath[str],
        delivery_id: FromPath[str],
        caller: Caller,
        db: Db,
        once: Repeatable,
    ) -> Response[bodies.WebhookDelivery]:
        """Deliver an event once more, now and with the same id. A key that may not read all hidden messages
        has only events delivered of messages it may read.
        """
        async with db.transaction() as tx:
            said = ["resend", webhook_id, delivery_id]
            claim = await once.claim(tx, "webhook", within.reach, said)
            webhook = await find(tx, within.reach, webhook_id, lock=not claim.made)
            named = as_uuid(delivery_id, "delivery")
            if claim.made:
                again = webhooks.get_delivery(tx, webhook, named)
                return answered(claim, bodies.delivery(await idempotency.replay(again)))
            await _check_visible(tx, await webhooks.get_delivery(tx, webhook, named), caller)
            found = await webhooks.resend(tx, webhook, named)
            await idempotency.complete(tx, claim, found.delivery_id, new=False)
        return answered(claim, bodies.delivery(found), new=False)

    @post(
        "/replay",
        operation_id=called("webhooks", "replay"),
        guards=[needs("webhook_update")],
        responses=ERRORS,
        status_code=200,
    )
    async def replay(
        self,
        within: Within,
        webhook_id: FromPath[str],
        caller: Caller,
        db: Db,
        once: Repeatable,
        data: JSONBody[bodies.ReplayWebhook],
    ) -> Response[bodies.ReplayedWebhook]:
        """Deliver again, with the same ids, what an endpoint wants of the events since a time: also what it
        missed while it was disabled, or before it was there. At most 10,000 events; `next_after` says
        where to go on. A key that may not read all hidden messages has only events delivered of messages
        it may read.
        """
        async with db.transaction() as tx:
            claim = await once.claim(tx, "webhook", within.reach, ["replay", webhook_id, data])
            webhook = await find(tx, within.reach, webhook_id, lock=not claim.made)
            if claim.made:
                # What was made has no row: what there is to say of it is what names it.
                done = msgspec.json.decode(claim.made.resource_id, type=Replayed)
            else:
                done = await webhooks.replay(tx, webhook, await _replay(tx, webhook, caller, data))
                named = msgspec.json.encode(done).decode()
                await idempotency.complete(tx, claim, named, new=False)
        return answered(claim, bodies.replayed(webhook, done), new=False)

    @post(
        "/test",
        operation_id=called("webhooks", "test"),
        guards=[needs("webhook_update")],
        responses=ERRORS,
        status_code=200,
    )
    async def test(
        self,
        within: Within,
        webhook_id: FromPath[str],
        caller: Caller,
        db: Db,
        once: Repeatable,
        data: JSONBody[bodies.SendWebhookTest | None] = None,
    ) -> Response[bodies.WebhookDelivery]:
        """Deliver a sample of an event, to see whether the endpoint takes it."""
        wanted = data or bodies.SendWebhookTest()
        async with db.transaction() as tx:
            claim = await once.claim(tx, "webhook", within.reach, ["test", webhook_id, wanted])
            webhook = await find(tx, within.reach, webhook_id, lock=not claim.made)
            if claim.made:
                again = webhooks.get_delivery(tx, webhook, UUID(claim.made.resource_id))
                return answered(claim, bodies.delivery(await idempotency.replay(again)))
            event_type = _wanted_by(webhook, wanted.event_type, caller)
            found = await webhooks.send_test(tx, webhook, event_type)
            await idempotency.complete(tx, claim, found.delivery_id, new=False)
        return answered(claim, bodies.delivery(found), new=False)


_OF = "/webhooks/{webhook_id:str}"


class InboxDeliveries(_Deliveries):
    """Deliveries to the endpoints of one inbox."""

    path = "/inboxes/{inbox_id:str}" + _OF
    dependencies: Dependencies | None = within(Provide(one_inbox))


class PodDeliveries(_Deliveries):
    """Deliveries to the endpoints of a pod and of its inboxes."""

    path = "/pods/{pod_id:str}" + _OF
    dependencies: Dependencies | None = within(Provide(one_pod))


class Deliveries(_Deliveries):
    """Deliveries to all endpoints that the caller's key reaches."""

    path = _OF
    dependencies: Dependencies | None = within(Provide(everywhere))


def _state(text: str | None) -> State | None:
    if text is None:
        return None
    try:
        return msgspec.convert(text, State)
    except msgspec.ValidationError:
        raise Invalid(
            "state",
            "No delivery has this state.",
            fix=f"Use {', '.join(get_args(State))}, or leave it out.",
        ) from None


def _type(text: str | None) -> EventType | None:
    """The type that a list is narrowed to. Nobody is told of anything by it, so it takes no permission."""
    if text is None:
        return None
    try:
        return EventType(text)
    except ValueError:
        raise Invalid(
            "event_type",
            "There are no events of this type.",
            fix=f"Use any of {', '.join(EventType)}.",
            detail="UNKNOWN_EVENT_TYPE",
        ) from None


def _wanted_by(webhook: Webhook, named: str | None, caller: Principal) -> EventType:
    """The type of a test: what the endpoint is never told of, its receiver cannot be expected to know."""
    if named is None:
        return webhook.event_types[0]
    (wanted,) = types_of(events.check_types([named], caller, field="event_type"))
    if wanted not in webhook.event_types:
        raise Invalid(
            "event_type",
            "This webhook is not told of events of this type.",
            fix=f"Use {' or '.join(webhook.event_types)}, or leave it out.",
        )
    return wanted


async def _check_visible(tx: Tx, delivery: Delivery, caller: Principal) -> None:
    """Raise `NotFound` for an event of a message that is hidden from the caller by now. What is delivered
    is read when it is, so it would be as good as reading it.
    """
    if delivery.event_id is None or sees_all(caller):
        return
    named = [delivery.event_id]
    if not await events.visible_ids(tx, caller.organization_id, named, visible_to(caller)):
        raise NotFound(
            "The message of this event is gone, or hidden from this API key.",
            fix="Use a key that may read mail with its labels.",
        )


async def _replay(
    tx: Tx, webhook: Webhook, caller: Principal, data: bodies.ReplayWebhook
) -> Replay:
    position = 0
    if data.after is not None:
        position = await events.position_of(tx, webhook.reach, data.after)
    return Replay(
        since=_utc("since", data.since),
        until=None if data.until is None else _utc("until", data.until),
        position=position,
        only_failed=data.only_failed,
        masks=None if sees_all(caller) else visible_to(caller),
    )


def _utc(field: str, moment: datetime) -> datetime:
    """A moment in UTC, as which one without an offset is taken. Raises `Invalid` INVALID_TIME."""
    try:
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        raise Invalid(
            field,
            f"{field} is not a time.",
            fix="Use ISO 8601, like 2026-11-21T08:15:00Z.",
            detail="INVALID_TIME",
        ) from None
