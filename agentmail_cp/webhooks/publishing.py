"""From published events to deliveries: which endpoints are told of what."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.events import Event

CHANNEL = "delivery"
"""Where it is announced that something is to be delivered."""


async def fan_out(tx: Tx, events: Sequence[Event]) -> int:
    """Write one delivery for each of these events and each enabled endpoint that wants it, in the order
    of the events; returns how many. Belongs into the transaction that publishes them, and writes nothing
    twice.
    """
    if not events:
        return 0
    cursor = await tx.execute(FAN_OUT, {"event_ids": [event.event_id for event in events]})
    if cursor.rowcount:
        await announce(tx)
    return cursor.rowcount


class _Endpoints(msgspec.Struct, frozen=True):
    organization_id: UUID
    count: int


async def count_enabled(tx: Tx, organization_ids: Collection[UUID]) -> Mapping[UUID, int]:
    """How many endpoints of each organisation may want an event: none of those that are left out."""
    rows = await fetch_all(
        tx,
        _Endpoints,
        "select organization_id, count(*) from webhook"
        " where organization_id = any(%(organization_ids)s) and enabled group by organization_id",
        {"organization_ids": list(organization_ids)},
    )
    return {each.organization_id: each.count for each in rows}


async def announce(tx: Tx) -> None:
    """Wake whoever delivers, once the transaction is committed."""
    await tx.execute("select pg_notify(%(channel)s, '')", {"channel": CHANNEL})


WANTED = (
    "event.type = any(webhook.event_types)"
    " and (webhook.pod_id is null or webhook.pod_id = event.pod_id)"
    " and (webhook.inbox_id is null or webhook.inbox_id = event.inbox_id)"
    " and (cardinality(webhook.pod_ids) + cardinality(webhook.inbox_ids) = 0"
    " or event.pod_id = any(webhook.pod_ids) or event.inbox_id = any(webhook.inbox_ids))"
)
"""Whether an event is within an endpoint's scope and passes its filter. Types that need a permission and
changes of labels are told to those only who name them, and every endpoint names its types."""

FAN_OUT = (
    "insert into delivery (delivery_id, organization_id, webhook_id, event_id, event_type)"
    " select gen_random_uuid(), event.organization_id, webhook.webhook_id, event.event_id, event.type"
    " from event join webhook on webhook.organization_id = event.organization_id"
    f" where event.event_id = any(%(event_ids)s) and webhook.enabled and {WANTED}"
    " order by event.position, webhook.webhook_id"
    " on conflict (webhook_id, event_id) do nothing"
)
