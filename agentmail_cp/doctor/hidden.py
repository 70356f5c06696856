"""The hidden inbox of the round trip: made, found, and removed without a trace.

It is in an organisation of its own (`access.HIDDEN`) that no list shows and no key reaches. States:
nothing → made → removed. One doctor at a time has it, by a lock that PostgreSQL lets go of with the
connection; whatever an earlier doctor that died has left is removed first. Its account is destroyed
before its rows go: as long as there is an account, somebody knows of it.
"""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from typing import Final, LiteralString

import msgspec
from psycopg import AsyncConnection

from agentmail_cp import access, inboxes, limits
from agentmail_cp.access import HIDDEN, Reach
from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.domains import MailDomain
from agentmail_cp.inboxes import Inbox, NewInbox
from agentmail_cp.mailserver import AccountId, MailServer
from agentmail_cp.settings import Settings

NAME: Final = "agentmail-cp doctor"
LOCK: Final = 0x646F63746F72
"""Advisory lock held while the inbox is there: the letters `doctor`."""

PASSES: Final = 5
"""How often rows are removed that were being written while the others went."""


class HiddenInbox(msgspec.Struct, frozen=True):
    """The inbox and its mail password."""

    inbox: Inbox
    password: str

    def __repr__(self) -> str:
        return f"HiddenInbox({self.inbox.address})"


class _Left(msgspec.Struct, frozen=True):
    address: str
    account_id: AccountId | None


async def hold(url: str, closing: AsyncExitStack) -> bool:
    """Be the one doctor at work until the stack closes; False when another is."""
    connection = await AsyncConnection.connect(url, autocommit=True, connect_timeout=2)
    await closing.enter_async_context(connection)
    cursor = await connection.execute("select pg_try_advisory_lock(%s)", (LOCK,))
    row = await cursor.fetchone()
    return bool(row and row[0])


async def make(db: Database, server: MailServer, settings: Settings) -> HiddenInbox:
    """Make the inbox, on the service's own domain. Raises what making any inbox does."""
    await remove(db, server)
    async with db.transaction() as tx:
        await access.create_organization(tx, NAME, organization_id=HIDDEN)
    created = await inboxes.create(
        db,
        server,
        reach=Reach(HIDDEN),
        domain=MailDomain(settings.domain.lower(), shared=False),
        new=NewInbox(username=f"doctor-{secrets.token_hex(8)}", display_name=NAME),
        limits=limits.defaults(settings),
    )
    return HiddenInbox(created.inbox, created.password or "")


async def remove(db: Database, server: MailServer) -> list[str]:
    """Destroy accounts, then rows; returns the addresses that were there."""
    async with db.reading() as tx:
        left = await _left(tx)
    for each in left:
        account_id = each.account_id or await _found(server, each.address)
        if account_id is not None:
            await server.destroy_account(account_id)
    for _ in range(PASSES):
        async with db.transaction() as tx:
            if await access.erase_organization(tx, HIDDEN) == 0:
                break
    return [each.address for each in left]


async def remains(db: Database, server: MailServer, address: str) -> str | None:
    """What is left of a removed inbox, None for nothing."""
    async with db.reading() as tx:
        rows = len(await _left(tx))
    if rows:
        return f"{rows} inboxes in the database"
    account = await server.find_account(address)
    return None if account is None else f"the account {address} in Stalwart"


async def _left(tx: Tx) -> list[_Left]:
    return await fetch_all(tx, _Left, _INBOXES, {"hidden": HIDDEN})


async def _found(server: MailServer, address: str) -> AccountId | None:
    """The account of an inbox whose making was cut off."""
    account = await server.find_account(address)
    return account.account_id if account is not None and account.ours else None


_INBOXES: LiteralString = (
    "select address, account_id from inbox where organization_id = %(hidden)s order by address"
)
