"""Catch-alls of inboxes that go: cleared before the account is retired, or it would go on catching mail.

From then on what is addressed to nobody is refused, so that its senders learn of it.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.domains.domain import UNSETTLED
from agentmail_cp.mailserver import MailServer, MailServerRejected, Refusal


class _Name(msgspec.Struct, frozen=True):
    name: str


async def release(tx: Tx, *, organization_id: UUID, inbox_id: UUID) -> list[str]:
    """Have an inbox catch nothing any more; the names it did that for, which the mail server is to be told of
    (`stop`; the loop of `settlement` does it again).
    """
    rows = await fetch_all(
        tx,
        _Name,
        "update domain set catch_all_inbox_id = null,"
        f" unsettled_since = {UNSETTLED}, updated_at = now()"
        " where organization_id = %(organization_id)s and catch_all_inbox_id = %(inbox_id)s"
        " and deleted_at is null returning name",
        {"organization_id": organization_id, "inbox_id": inbox_id},
    )
    return [each.name for each in rows]


async def restore(tx: Tx, *, organization_id: UUID, inbox_id: UUID, names: Collection[str]) -> None:
    """Take a `release` back, where nobody chose another inbox meanwhile: the inbox was not deleted."""
    await tx.execute(
        "update domain set catch_all_inbox_id = %(inbox_id)s,"
        f" unsettled_since = {UNSETTLED}"
        " where organization_id = %(organization_id)s and name = any(%(names)s)"
        " and catch_all_inbox_id is null and deleted_at is null",
        {"organization_id": organization_id, "inbox_id": inbox_id, "names": list(names)},
    )


async def stop(server: MailServer, name: str) -> None:
    """Have the mail server refuse what is addressed to nobody in a domain."""
    try:
        await server.set_catch_all(name, None)
    except MailServerRejected as error:
        if error.code is not Refusal.UNKNOWN_DOMAIN:
            raise


async def stop_for(server: MailServer, name: str, address: str) -> None:
    """The same, if it is this address that catches: for whoever finishes what another began."""
    found = await server.find_domain(name)
    if found is not None and found.owner is not None and found.catch_all == address:
        await stop(server, name)
