"""How a service in the same process hears the sandbox: what Stalwart tells over HTTP, told directly."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from agentmail_cp import outcomes
from agentmail_cp.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentmail_cp.db import Database
    from agentmail_cp.intake import Doorbell
    from agentmail_cp.mailserver import AccountId, Enqueued, Report
    from agentmail_cp.sandbox import MailSandbox


def hear(sandbox: MailSandbox, doorbell: Doorbell, db: Database) -> None:
    """Connect a sandbox's bell, and what it tells of mail on its way, to a service."""

    def ring(account: AccountId) -> None:
        doorbell.announce([account], only_ring=True)

    async def learn(mail: Enqueued) -> None:
        # Stalwart sends the mail all the same when nobody listens.
        with contextlib.suppress(Unavailable):
            async with db.reading() as tx:
                await outcomes.queued(tx, mail)

    async def note(reports: Sequence[Report]) -> None:
        async with db.transaction() as tx:
            await outcomes.note(tx, reports)

    sandbox.on_bell = ring
    sandbox.on_queued = learn
    sandbox.on_report = note
