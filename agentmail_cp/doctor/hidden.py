"""The hidden inboxes of the round trip, one that writes and one that reads: made, and removed without trace.

They are in an organisation of their own (`access.HIDDEN`) that no list shows and no key reaches. States:
nothing → made → removed. One doctor at a time has them, by a lock that PostgreSQL lets go of with the
connection; whatever an earlier doctor that died has left is removed first. Accounts are destroyed
before its rows go: as long as there is an account, somebody knows of it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection
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
"""Advisory lock held while the inboxes are there: the letters `doctor`."""

PASSES: Final = 5
"""How often rows are removed that were being written while the others went."""


class HiddenInbox(msgspec.Struct, frozen=True):
    """The inbox and its mail password."""

    inbox: Inbox
    password: str

    def __repr__(self) -> str:
        return f"HiddenInbox({self.inbox.address})"


class HiddenPair(msgspec.Struct, frozen=True):
    """Who writes, and who reads: Stalwart does not deliver a mail to the mailbox it was sent from."""

    sender: HiddenInbox
    reader: HiddenInbox

    @property
    def addresses(self) -> tuple[str, str]:
        return self.sender.inbox.address, self.reader.inbox.address


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


async def make(db: Database, server: MailServer, settings: Settings) -> HiddenPair:
    """Make the inboxes, on the service's own domain. Raises what making any inbox does."""
    await remove(db, server)
    async with db.transaction() as tx:
        await access.create_organization(tx, NAME, organization_id=HIDDEN)
    sender, reader = await asyncio.gather(
        *(_make_one(db, server, settings) for _ in range(2)),
    )
    return HiddenPair(sender, reader)


async def _make_one(db: Database, server: MailServer, settings: Settings) -> HiddenInbox:
    created = await inboxes.create(
        db,
        server,
        reach=Reach(HIDDEN),
        domain=MailDomain(settings.domain.lower(), shared=False),
        new=NewInbox(username=f"doctor-{secrets.token_hex(8)}", display_name=NAME),
        limits=msgspec.structs.replace(
            limits.defaults(settings), inboxes_per_organization=0, inboxes_per_pod=0
        ),
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
        async with db.reading() as tx:
            if await access.erase_organization(tx, HIDDEN) == 0:
                break
    return [each.address for each in left]


async def remains(db: Database, server: MailServer, addresses: Collection[str]) -> list[str]:
    """What is left of removed inboxes."""
    async with db.reading() as tx:
        rows = [f"{each.address} in the database" for each in await _left(tx)]
    found = await asyncio.gather(*(server.find_account(address) for address in addresses))
    return rows + [f"{each.address} in Stalwart" for each in found if each is not None]


async def _left(tx: Tx) -> list[_Left]:
    return await fetch_all(tx, _Left, _INBOXES, {"hidden": HIDDEN})


async def _found(server: MailServer, address: str) -> AccountId | None:
    """The account of an inbox whose making was cut off."""
    account = await server.find_account(address)
    return account.account_id if account is not None and account.ours else None


_INBOXES: LiteralString = (
    "select address, account_id from inbox where organization_id = %(hidden)s order by address"
)
