"""Claims: the inboxes a worker reads now, kept for as long as it reads them.

A claim is the row's `claimed_until`: whoever wants a reading under way to count for nothing sets another
(`messages.mark_due`). It is short, so that a dead worker's inboxes are soon read by others, and renewed by
a living one, however long the mail server takes: two workers would otherwise take them from each other, and
neither's reading would ever count.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.errors import Unavailable
from agentmail_cp.mailserver import AccountId, MailState
from agentmail_cp.messages import Place

LEASE = timedelta(seconds=5)
RENEWAL = 1.0
"""Seconds between renewals."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """An inbox this worker reads now, and the state it reads from."""

    inbox_id: UUID
    organization_id: UUID
    pod_id: UUID
    domain: str
    account_id: AccountId
    state: MailState | None
    failures: int
    claimed_until: datetime

    @property
    def place(self) -> Place:
        return Place(self.inbox_id, self.organization_id, self.pod_id, self.domain)


class Kept:
    """Claims that are renewed."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.claims = claims

    async def renew(self, db: Database) -> None:
        """Renew until cancelled. A claim that was lost stays as it was, and counts for nothing."""
        while True:
            await asyncio.sleep(RENEWAL)
            with contextlib.suppress(Unavailable):
                async with db.transaction() as tx:
                    renewed = await _renew(tx, self.claims)
                until = {each.inbox_id: each.claimed_until for each in renewed}
                self.claims = [
                    msgspec.structs.replace(
                        claim, claimed_until=until.get(claim.inbox_id, claim.claimed_until)
                    )
                    for claim in self.claims
                ]


@contextlib.asynccontextmanager
async def kept(db: Database, claims: Sequence[Claim]) -> AsyncGenerator[Kept]:
    """Keep claims while the mail server is asked. What is written then goes by `claims` as they are when the
    context is left.
    """
    keeping = Kept(claims)
    renewing = asyncio.create_task(keeping.renew(db))
    try:
        yield keeping
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


class _Renewed(msgspec.Struct, frozen=True):
    inbox_id: UUID
    claimed_until: datetime


async def _renew(tx: Tx, claims: Sequence[Claim]) -> list[_Renewed]:
    return await fetch_all(
        tx,
        _Renewed,
        _RENEW,
        {
            "lease": LEASE,
            "inboxes": [claim.inbox_id for claim in claims],
            "held_until": [claim.claimed_until for claim in claims],
        },
    )


_RENEW = """
with held as (
    select inbox_id from inbox_sync
    join unnest(%(inboxes)s::uuid[], %(held_until)s::timestamptz[]) as claim (inbox_id, until)
        using (inbox_id)
    where claimed_until = claim.until
    order by inbox_id for update of inbox_sync skip locked
)
update inbox_sync set claimed_until = now() + %(lease)s
from held where inbox_sync.inbox_id = held.inbox_id
returning inbox_sync.inbox_id, claimed_until
"""
