"""The doorbell: what Stalwart's webhook announces marks inboxes as due, and does no more than that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import Unavailable
from agentmail_cp.mailserver import AccountId, MailServer, MailServerError

ECHOES = (0.1, 0.3)
"""Seconds between further rings: what happens while a ring's own announcement is on its way is held back,
too, and mail clients do several things in a row."""


async def ring(tx: Tx, accounts: Iterable[AccountId]) -> None:
    """Mark the inboxes of these accounts as due and wake the workers."""
    await tx.execute(
        # Rows are always locked in the order of inbox_id, so that no two transactions wait in a ring.
        "with rung as (select inbox_id from inbox_sync where account_id = any(%(accounts)s)"
        " and (due_at is null or (due_at > now() and failures = 0)) order by inbox_id for update)"
        " update inbox_sync set due_at = now() from rung where inbox_sync.inbox_id = rung.inbox_id",
        {"accounts": sorted(accounts)},
    )
    await tx.execute("select pg_notify('intake', '')")


class Doorbell:
    """Takes what Stalwart's webhook announces: answers at once, writes a moment later.

    Stalwart keeps the last events of a burst back until another event comes (seen on 0.16.18), so each
    announcement of something else than our own ring is followed by one ring, a little later than the
    webhook's throttle, and by two more (`ECHOES`). What is lost between answer and write, the sweep finds.
    """

    def __init__(self, db: Database, server: MailServer, *, throttle: float) -> None:
        self._db = db
        self._server = server
        self._pause = throttle * 1.5 + 0.005
        self._accounts: set[AccountId] = set()
        self._rung = asyncio.Event()
        self._ring_again = asyncio.Event()

    def announce(self, accounts: Iterable[AccountId], *, only_ring: bool) -> None:
        """Something happened in these accounts. Never waits."""
        self._accounts.update(accounts)
        if self._accounts:
            self._rung.set()
        if not only_ring:
            self._ring_again.set()

    async def run(self) -> None:
        """Write announcements and ring until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._ring())

    async def _write(self) -> None:
        while True:
            await self._rung.wait()
            self._rung.clear()
            accounts, self._accounts = self._accounts, set()
            try:
                async with self._db.transaction() as tx:
                    await ring(tx, accounts)
            except Unavailable:
                self._accounts |= accounts
                await asyncio.sleep(1)
                self._rung.set()

    async def _ring(self) -> None:
        while True:
            await self._ring_again.wait()
            self._ring_again.clear()
            await asyncio.sleep(self._pause)
            await self._ring_once()
            for pause in ECHOES:
                if await self._announced_within(pause):
                    break
                await self._ring_once()

    async def _ring_once(self) -> None:
        with contextlib.suppress(MailServerError):
            await self._server.ring()

    async def _announced_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ring_again.wait()
        return self._ring_again.is_set()
