"""What follows from choosing an API key as mail password: the logins of its scope have to change.

The choice and what is due for it are written in one transaction; then Stalwart is told, by whoever made the
change as far as that goes, and by `settle` for the rest. So a revoked key opens no mailbox longer than it
takes to write them: not after a crash, and not after an outage of the mail server.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from agentmail_cp.access import ApiKey, Reach
from agentmail_cp.credentials import logins, mail_passwords
from agentmail_cp.credentials.mail_passwords import MailPassword
from agentmail_cp.db import Database, Tx
from agentmail_cp.mailserver import MailServer

LOOK = 1.0
"""Seconds between two looks for keys that died and logins that are due."""

AT_ONCE = 5.0
"""Seconds a request brings logins to the mail server itself; `settle` goes on."""

PAUSE = 0.05
"""Seconds between two looks whether others are done."""

LONG = 600.0
"""Seconds one round of `settle` may write before it looks at keys again."""


async def choose(tx: Tx, reach: Reach, secret: str) -> tuple[MailPassword, ApiKey]:
    """Make an API key the mail password of a scope; raises as `mail_passwords.choose`."""
    chosen, key = await mail_passwords.choose(tx, reach, secret)
    await logins.mark(tx, reach)
    return chosen, key


async def withdraw(tx: Tx, reach: Reach) -> None:
    """Take back a scope's choice; raises `NotFound`. Where no wider one holds, its inboxes have no mail
    password until they are given one.
    """
    await mail_passwords.withdraw(tx, reach)
    await logins.mark(tx, reach)


async def key_changed(tx: Tx, organization_id: UUID, api_key_id: UUID) -> bool:
    """Take back what a key was chosen for, if it is no longer good for it. To be called in the transaction
    that deletes or changes a key, after it did. Returns whether logins are due.
    """
    if not await mail_passwords.is_chosen(tx, organization_id, api_key_id):
        return False
    return await _revoke(tx, organization_id)


async def _revoke(tx: Tx, organization_id: UUID) -> bool:
    removed = await mail_passwords.remove_dead(tx, organization_id)
    for each in removed:
        await logins.mark(tx, each.reach)
    return bool(removed)


async def apply_now(db: Database, server: MailServer, organization_id: UUID) -> None:
    """Bring what is due in an organisation to the mail server, as far as that goes at once. What another
    process has taken up is waited for.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + AT_ONCE
    while (left := ends - loop.time()) > 0:
        if not await logins.apply(db, server, organization_id=organization_id, patience=left):
            return
        async with db.reading() as tx:
            if not await logins.pending(tx, Reach(organization_id)):
                return
        await asyncio.sleep(PAUSE)


async def settle(db: Database, server: MailServer) -> int:
    """Take back choices whose keys died, and bring to the mail server what is due. Returns in how many
    organisations keys had died.
    """
    async with db.reading() as tx:
        affected = await mail_passwords.with_dead_keys(tx)
    for organization_id in affected:
        async with db.transaction() as tx:
            await _revoke(tx, organization_id)
    await logins.apply(db, server, patience=LONG)
    return len(affected)
