"""How long events are kept, and what is remembered of those that are not.

What expires leaves its inbox's horizon behind (table `event_horizon`), or that of its pod or organisation
where it had no inbox: the last event that expired, which stays a cursor, and its position, so that a reader
who had not come that far is told that events are missing. An inbox that is erased takes its events with it at
once; nobody is to miss those.
"""

from __future__ import annotations

from typing import Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.db import Database, Tx, fetch_only

BATCH: Final = 1000
"""Events that expire in one transaction."""


async def expire(db: Database, *, days: int, batch: int = BATCH) -> int:
    """Remove the events that are older than so many days, a batch per transaction; how many that were. What
    is not published yet stays, so that everything is told once.
    """
    done = 0
    while True:
        async with db.transaction() as tx:
            row = await fetch_only(
                tx, _Count, _EXPIRE, {"days": days, "batch": batch, "expires": True}
            )
        done += row.count
        if row.count < batch:
            return done


class _Count(msgspec.Struct, frozen=True):
    count: int


_REMEMBER: Final[LiteralString] = (
    "insert into event_horizon"
    " (inbox_id, organization_id, pod_id, event_id, position, expired)"
    " select distinct on (subject_id) subject_id, organization_id, pod_id, event_id, position,"
    " case when %(expires)s then position else 0 end"
    " from removed cross join lateral"
    " (select coalesce(inbox_id, pod_id, organization_id) as subject_id) as subject"
    " where position is not null order by subject_id, position desc"
    " on conflict (inbox_id) do update set expired = greatest(event_horizon.expired, excluded.expired),"
    " event_id = case when event_horizon.position < excluded.position then excluded.event_id"
    " else event_horizon.event_id end,"
    " position = greatest(event_horizon.position, excluded.position)"
    " where event_horizon.organization_id = excluded.organization_id"
)

_EXPIRE: Final[LiteralString] = (
    "with removed as (delete from event where event_id = any(array("
    "select event_id from event where created_at < now() - %(days)s * interval '1 day'"
    " and (position is not null or number is null) order by created_at limit %(batch)s))"
    " returning inbox_id, organization_id, pod_id, event_id, position),"
    f" remembered as ({_REMEMBER})"
    " select count(*) as count from removed"
)

_ERASE: Final[LiteralString] = (
    "with removed as (delete from event where inbox_id = %(inbox_id)s"
    " and organization_id = %(organization_id)s"
    " returning inbox_id, organization_id, pod_id, event_id, position)"
    f" {_REMEMBER}"
)


async def erase(tx: Tx, *, organization_id: UUID, inbox_id: UUID) -> None:
    """Forget every event of an inbox."""
    await tx.execute(
        _ERASE,
        {"inbox_id": inbox_id, "organization_id": organization_id, "expires": False},
    )
