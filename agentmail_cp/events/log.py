"""Writing the log, and reading an inbox's own part of it.

Each event gets the next number of its inbox, taken from `inbox_sync.event_seq` under that row's lock, so that
an inbox's numbers are gap-free and commit in order. What happened to no inbox has no number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from agentmail_cp import pages
from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.events.event import Event, EventType, LabelEvent, NewEvent
from agentmail_cp.events.publishing import WRITTEN
from agentmail_cp.events.reading import COLUMNS


async def append(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, events: Sequence[NewEvent]
) -> None:
    """Write events of one inbox, in order. The caller holds the inbox's lock."""
    if not events:
        return
    await tx.execute(
        "with numbered as (update inbox_sync set event_seq = event_seq + %(count)s"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " returning event_seq, pod_id)"
        " insert into event (event_id, organization_id, pod_id, inbox_id, seq, type, thread_id,"
        " message_id, document_id, recipients, facts, created_at)"
        " select event_id, %(organization_id)s, pod_id, %(inbox_id)s,"
        " event_seq - %(count)s + place, type, thread_id, message_id, document_id, recipients, facts,"
        # Under the lock: an inbox's events have times in their order, whenever their transactions began.
        " clock_timestamp()"
        # In the same transaction; who listens is told when it commits.
        " from numbered, pg_notify(%(channel)s, '') as told, unnest(%(event_ids)s::uuid[], %(types)s::text[],"
        " %(threads)s::uuid[], %(message_ids)s::text[], %(documents)s::bigint[], %(recipients)s::int[],"
        " %(facts)s::jsonb[]) with ordinality"
        " as new (event_id, type, thread_id, message_id, document_id, recipients, facts, place)"
        " order by place",
        {
            "channel": WRITTEN,
            "count": len(events),
            "inbox_id": inbox_id,
            "organization_id": organization_id,
            "event_ids": [uuid7() for _ in events],
            "types": [event.type.value for event in events],
            "threads": [event.thread_id for event in events],
            "message_ids": [event.message_id for event in events],
            "documents": [event.document_id for event in events],
            "recipients": [event.recipients for event in events],
            "facts": [Jsonb(dict(event.facts)) for event in events],
        },
    )


async def append_of_scope(
    tx: Tx,
    *,
    organization_id: UUID,
    pod_id: UUID | None,
    type: EventType,  # noqa: A002 - what an event has
    facts: Mapping[str, Any],
) -> None:
    """Write an event of no inbox, of a pod or of the whole organisation."""
    await tx.execute(
        "insert into event (event_id, organization_id, pod_id, type, recipients, facts, created_at)"
        " select %(event_id)s, %(organization_id)s, %(pod_id)s, %(type)s, 1, %(facts)s,"
        " clock_timestamp() from pg_notify(%(channel)s, '')",
        {
            "event_id": uuid7(),
            "organization_id": organization_id,
            "pod_id": pod_id,
            "type": type.value,
            "facts": Jsonb(dict(facts)),
            "channel": WRITTEN,
        },
    )


async def list_of_inbox(tx: Tx, organization_id: UUID, inbox_id: UUID) -> list[Event]:
    """All events of an inbox, oldest first."""
    return await fetch_all(
        tx,
        Event,
        f"select {COLUMNS} from event"
        " where organization_id = %(organization_id)s and inbox_id = %(inbox_id)s"
        " order by seq",
        {"organization_id": organization_id, "inbox_id": inbox_id},
    )


async def list_labels(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID,
    masks: Sequence[int] | None = None,
    limit: int,
    page_token: str | None,
    ascending: bool = False,
) -> tuple[list[LabelEvent], str | None]:
    """One page of an inbox's changes of labels in their order, and the token of the next page.

    With `masks`, only of messages that have one of these hiding masks now: not of those that are gone, as
    nobody can say any more whether they were hidden.
    """
    scope = f"events/{inbox_id}/{ascending}"
    query: LiteralString = (
        "select event_id, organization_id, pod_id, seq, type, message_id, facts->>'label' as label,"
        " created_at from event where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and type in ('label.added', 'label.removed')"
    )
    parameters: dict[str, Any] = {
        "organization_id": organization_id,
        "inbox_id": inbox_id,
        "limit": limit + 1,
    }
    if masks is not None:
        query += (
            " and exists (select from message where message.inbox_id = event.inbox_id"
            " and message.organization_id = %(organization_id)s"
            " and message.message_id = event.message_id and mask = any(%(masks)s::smallint[]))"
        )
        parameters["masks"] = list(masks)
    if page_token:
        (parameters["seq"],) = pages.decode(scope, page_token, tuple[pages.BigInt])
        query += " and seq > %(seq)s" if ascending else " and seq < %(seq)s"
    query += " order by seq" if ascending else " order by seq desc"
    rows = await fetch_all(tx, LabelEvent, query + " limit %(limit)s", parameters)
    return pages.cut(scope, rows, limit, lambda last: (last.seq,))
