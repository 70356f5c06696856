"""Finishing what crashed requests left of inboxes: a half-made one is taken back, a half-deleted retired."""

from __future__ import annotations

import structlog

from agentmail_cp.db import Database, fetch_all
from agentmail_cp.inboxes.changing import in_rounds
from agentmail_cp.inboxes.creation import take_back
from agentmail_cp.inboxes.deletion import finish_deleting
from agentmail_cp.inboxes.inbox import COLUMNS, LEASE, Inbox
from agentmail_cp.mailserver import (
    MailServer,
    MailServerConfused,
    MailServerRejected,
)

log = structlog.stdlib.get_logger(__name__)
SETTLED_AT_ONCE = 16


async def settle(db: Database, server: MailServer) -> int:
    """Finish or take back what crashed requests left: returns how many inboxes were settled.

    A `creating` inbox was never shown to anybody: its account, if ours and empty, is destroyed and its
    address is free again. A `deleting` inbox was promised to be gone: its account is retired. One the
    mail server refuses waits for a later round; raises `MailServerUnavailable` when it is away.
    """
    return await in_rounds(
        lambda: _claim_unsettled(db), lambda inbox: _settle_claimed(db, server, inbox)
    )


async def _settle_claimed(db: Database, server: MailServer, inbox: Inbox) -> bool:
    try:
        await (take_back if inbox.state == "creating" else finish_deleting)(db, server, inbox)
    except (MailServerRejected, MailServerConfused) as error:
        log.error("inbox.not_settled", inbox_id=str(inbox.inbox_id), reason=str(error))
        return False
    log.info("inbox.settled", state=inbox.state, inbox_id=str(inbox.inbox_id))
    return True


async def _claim_unsettled(db: Database) -> list[Inbox]:
    async with db.transaction() as tx:
        return await fetch_all(
            tx,
            Inbox,
            "update inbox set lease_until = now() + %(lease)s where inbox_id = any(array("
            "select inbox_id from inbox where state in ('creating', 'deleting')"
            " and lease_until < now() order by lease_until limit %(most)s for update skip locked))"
            f" returning {COLUMNS}",
            {"lease": LEASE, "most": SETTLED_AT_ONCE},
        )
