"""Deleting an inbox, and erasing what a deleted one retains.

For callers an inbox is gone with the first transaction (`deleting`), and with it the catch-all of its domain,
if it was that; the account is retired after it, and its mail stays until it is erased.
"""

from __future__ import annotations

from uuid import UUID

from agentmail_cp import (
    access,
    credentials,
    drafts,
    limits,
    lists,
    messages,
    outcomes,
    recipients,
    webhooks,
)
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.domains import catching
from agentmail_cp.errors import Conflict, NotFound, Unavailable
from agentmail_cp.inboxes.inbox import COLUMNS, LEASE, Inbox, get, get_for_reading, inbox_uuid
from agentmail_cp.mailserver import (
    MailServer,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)

ERASING = 600.0
"""Seconds the rows of one inbox's mail may take to go."""


async def delete(db: Database, server: MailServer, *, reach: Reach, inbox: str) -> None:
    """Delete an inbox within reach: gone for callers at once, its mail retained, its address refused by SMTP.

    When the mail server is away the inbox stays as it was and `Unavailable` is raised; when only its
    answer is missing, the deletion stands and `settle` finishes it.
    """
    async with db.transaction() as tx:
        found = await _set_deleting(tx, await get(tx, reach, inbox))
        caught = await catching.release(tx, **_whose(found))
    try:
        for name in caught:
            await catching.stop(server, name)
        await _retire(server, found)
    except MailServerUnavailable as error:
        if error.reached:
            return
        async with db.transaction() as tx:
            await _undelete(tx, found)
            await catching.restore(tx, **_whose(found), names=caught)
        raise Unavailable(
            "The mail server is not answering; the inbox was not deleted.",
            retry_after=error.retry_after,
        ) from error
    async with db.transaction() as tx:
        await _set_deleted(tx, found)


async def _retire(server: MailServer, inbox: Inbox) -> None:
    try:
        await server.retire_account(inbox.account)
    except MailServerRejected as error:
        # Somebody destroyed the account behind our back: it takes no mail either.
        if error.code is not Refusal.NO_ACCOUNT:
            raise


async def _set_deleting(tx: Tx, inbox: Inbox) -> Inbox:
    deleting = await fetch_one(
        tx,
        Inbox,
        "update inbox set state = 'deleting', lease_until = now() + %(lease)s, deleted_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        f" and state = 'active' returning {COLUMNS}",
        {
            "lease": LEASE,
            "inbox_id": inbox.inbox_id,
            "organization_id": inbox.organization_id,
        },
    )
    if deleting is None:
        raise NotFound("There is no such inbox.")
    return deleting


async def _undelete(tx: Tx, inbox: Inbox) -> None:
    await tx.execute(
        "update inbox set state = 'active', lease_until = null, deleted_at = null"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and state = 'deleting' and lease_until = %(lease_until)s",
        {
            "inbox_id": inbox.inbox_id,
            "organization_id": inbox.organization_id,
            "lease_until": inbox.lease_until,
        },
    )


async def _set_deleted(tx: Tx, inbox: Inbox) -> None:
    parameters = _whose(inbox)
    cursor = await tx.execute(
        "update inbox set state = 'deleted', lease_until = null, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and state = 'deleting'",
        parameters,
    )
    if cursor.rowcount == 1:
        await tx.execute(
            "delete from inbox_sync where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s",
            parameters,
        )
        await drafts.unschedule_all(tx, inbox.place)
        await recipients.give_up(tx, **_whose(inbox))
        await access.revoke_within(tx, inbox.reach)
        await credentials.forget(tx, inbox.reach)
        await lists.erase(tx, inbox.reach)
        await webhooks.erase(tx, inbox.reach)


def _whose(inbox: Inbox) -> dict[str, UUID]:
    return {"inbox_id": inbox.inbox_id, "organization_id": inbox.organization_id}


async def finish_deleting(db: Database, server: MailServer, inbox: Inbox) -> None:
    await catching.stop_for(server, inbox.domain, inbox.address)
    await _retire(server, inbox)
    async with db.transaction() as tx:
        await _set_deleted(tx, inbox)


async def erase(db: Database, server: MailServer, *, organization_id: UUID, address: str) -> None:
    """Destroy the retained mail of a deleted inbox. The address stays taken."""
    inbox_id = inbox_uuid(address.lower())
    async with db.transaction() as tx:
        inbox = await get_for_reading(tx, organization_id, inbox_id)
    if inbox.state != "deleted":
        raise Conflict(f"{inbox.address} is not deleted.", fix="Delete the inbox first.")
    await server.destroy_account(inbox.account)
    async with db.transaction(patience=ERASING) as tx:
        await _set_erased(tx, inbox)


async def _set_erased(tx: Tx, inbox: Inbox) -> None:
    await messages.erase(tx, inbox.place)
    await drafts.erase(tx, inbox.place)
    await outcomes.erase(tx, inbox.place)
    await limits.forget_inbox(tx, **_whose(inbox))
    await tx.execute(
        "update inbox set state = 'erased', display_name = null, metadata = '{}', client_id = null,"
        " updated_at = now() where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s",
        {"inbox_id": inbox.inbox_id, "organization_id": inbox.organization_id},
    )


async def erase_retained(db: Database, server: MailServer, *, days: int) -> int:
    """Erase every inbox that was deleted longer ago than this; returns how many."""
    async with db.transaction() as tx:
        expired = await fetch_all(
            tx,
            Inbox,
            f"select {COLUMNS} from inbox where state = 'deleted'"
            " and deleted_at < now() - make_interval(days => %(days)s)"
            " order by deleted_at limit 1000",
            {"days": days},
        )
    for inbox in expired:
        await erase(db, server, organization_id=inbox.organization_id, address=inbox.address)
    return len(expired)
