"""Changing an inbox: its display name and metadata, and its pauses.

A patch changes the row in one transaction. A status is known to the mail server too, which holds mail back
while an inbox is `paused`: the row says so first, with a lease (`pausing_until`), then the mail server is
told, then the lease goes. While it is there nobody else changes the status; when it has run out,
`settle_pauses` tells the mail server what the row says by then. Sending follows the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import LiteralString

import structlog
from msgspec import UNSET
from psycopg.types.json import Jsonb

from agentmail_cp import domains, pauses
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx, fetch_all, fetch_only
from agentmail_cp.errors import Conflict, Invalid, Unavailable
from agentmail_cp.inboxes.inbox import (
    COLUMNS,
    LEASE,
    Inbox,
    InboxPatch,
    check_display_name,
    check_metadata,
    get,
    merge_metadata,
)
from agentmail_cp.mailserver import (
    MailServer,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)
from agentmail_cp.pauses import BY_REQUEST

log = structlog.stdlib.get_logger(__name__)

PATIENCE = 8.0
"""Seconds the mail server may take to be told: less than the lease, so that nobody else is at it."""

SETTLED_AT_ONCE = 16


async def update(
    db: Database, server: MailServer, *, reach: Reach, inbox: str, patch: InboxPatch
) -> Inbox:
    """Change an inbox within reach: all of the patch, or nothing of it.

    Raises `Invalid`, `NotFound`, `Conflict` while another request changes the status or where sending
    cannot go on, and `Unavailable`.
    """
    check_patch(patch)
    async with db.transaction() as tx:
        before = await get(tx, reach, inbox, lock=True)
        await _ensure_resumable(tx, before, patch)
        telling = _has_to_be_told(before, patch)
        changed = await _change(tx, before, patch, telling=telling)
    if not telling:
        return changed
    await _carry_out(db, server, changed, before)
    async with db.reading() as tx:
        return await get(tx, reach, inbox)


def check_patch(patch: InboxPatch) -> None:
    """Raise `Invalid` for what can be judged without a database."""
    if patch.empty:
        raise Invalid(
            "display_name",
            "Nothing to update.",
            fix="Give display_name, metadata, status or send_paused.",
            detail="REQUIRED",
        )
    if patch.metadata == {}:
        raise Invalid(
            "metadata",
            "metadata is empty.",
            fix="Give the keys to change, or null to clear all.",
        )
    if patch.display_name is not UNSET:
        check_display_name(patch.display_name)
    if patch.metadata is not UNSET:
        check_metadata(patch.metadata or {})


async def _ensure_resumable(tx: Tx, current: Inbox, patch: InboxPatch) -> None:
    """Raise `Conflict` where `send_paused` false would change nothing about what stands in the way."""
    if patch.send_paused is not False:
        return
    broken = await domains.broken(tx, current.organization_id, current.domain)
    status = current.status if patch.status is UNSET else patch.status
    left = pauses.pause(status, None, broken)
    if left is not None:
        raise Conflict(f"Sending cannot go on. {left.reason}", fix=left.fix)


def _has_to_be_told(current: Inbox, patch: InboxPatch) -> bool:
    """Whether the mail server has to be told the status. Raises `Conflict` while another request does."""
    if patch.status is UNSET:
        return False
    if current.pausing_until is None:
        return current.status != patch.status
    left = (current.pausing_until - datetime.now(UTC)).total_seconds()
    if left > 0:
        raise Conflict(
            "Another request is changing the status of this inbox.",
            fix="Repeat the request after Retry-After seconds.",
            retry_after=max(1.0, left),
        )
    return True


async def _carry_out(db: Database, server: MailServer, taken: Inbox, before: Inbox) -> None:
    """Tell the mail server. When it is away the inbox is what it was; when only its answer is missing, the
    change stands and `settle_pauses` finishes it.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            await tell(db, server, taken)
    except TimeoutError:
        log.warning("inbox.pausing_unanswered", inbox_id=str(taken.inbox_id))
    except MailServerUnavailable as error:
        if error.reached:
            log.warning("inbox.pausing_unanswered", inbox_id=str(taken.inbox_id))
            return
        async with db.transaction() as tx:
            await _undo(tx, taken, before)
        raise Unavailable(
            "The mail server is not answering; the inbox was not changed.",
            retry_after=error.retry_after,
        ) from error


async def begin_paused(db: Database, server: MailServer, made: Inbox) -> None:
    """Tell the mail server of an inbox that is made paused. Whatever comes of that, there is the inbox;
    `settle_pauses` goes on.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            await tell(db, server, made)
    except (MailServerError, TimeoutError) as error:
        log.warning("inbox.pausing_waits", reason=type(error).__name__)


async def tell(db: Database, server: MailServer, taken: Inbox) -> None:
    """Tell the mail server what the row says, and let go of the row. Repeating has no effect."""
    try:
        await server.pause_receiving(taken.account, taken.status == "paused")
    except MailServerRejected as error:
        # Somebody destroyed the account behind our back: it takes no mail either.
        if error.code is not Refusal.NO_ACCOUNT:
            raise
    async with db.transaction() as tx:
        await _end(tx, taken)


async def _end(tx: Tx, taken: Inbox) -> None:
    """The mail server has this status; of a row that somebody else took meanwhile nothing is known."""
    await tx.execute(
        "update inbox set pausing_until = null, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and pausing_until = %(pausing_until)s",
        {
            "inbox_id": taken.inbox_id,
            "organization_id": taken.organization_id,
            "pausing_until": taken.pausing_until,
        },
    )


async def _undo(tx: Tx, taken: Inbox, before: Inbox) -> None:
    """Make the inbox what it was before it was taken, except for what somebody else changed meanwhile.

    `bounces_from` stays: where it was set, sending stops again, and going on sets it anew.
    """
    await tx.execute(
        _UNDO,
        {
            "status": before.status,
            "display_name": before.display_name,
            "metadata": Jsonb(before.metadata),
            "send_paused": before.send_paused,
            "send_paused_reason": before.send_paused_reason,
            "taken_display_name": taken.display_name,
            "taken_metadata": Jsonb(taken.metadata),
            "taken_send_paused": taken.send_paused,
            "taken_send_paused_reason": taken.send_paused_reason,
            "inbox_id": taken.inbox_id,
            "organization_id": taken.organization_id,
            "pausing_until": taken.pausing_until,
        },
    )


_UNDO = """
update inbox set status = %(status)s, pausing_until = null, updated_at = now(),
    display_name = case when display_name is not distinct from %(taken_display_name)s
        then %(display_name)s else display_name end,
    metadata = case when metadata = %(taken_metadata)s then %(metadata)s else metadata end,
    send_paused = case when send_paused = %(taken_send_paused)s
        and send_paused_reason is not distinct from %(taken_send_paused_reason)s
        then %(send_paused)s else send_paused end,
    send_paused_reason = case when send_paused = %(taken_send_paused)s
        and send_paused_reason is not distinct from %(taken_send_paused_reason)s
        then %(send_paused_reason)s else send_paused_reason end
where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s
    and pausing_until = %(pausing_until)s
"""


async def _change(tx: Tx, current: Inbox, patch: InboxPatch, *, telling: bool) -> Inbox:
    """Write the patch down; with a lease, where the mail server has to be told the status."""
    metadata = current.metadata
    if patch.metadata is not UNSET:
        metadata = merge_metadata(metadata, patch.metadata)
    return await fetch_only(
        tx,
        Inbox,
        _CHANGE,
        {
            "display_name": _either(patch.display_name, current.display_name),
            "metadata": Jsonb(metadata),
            "status": _either(patch.status, current.status),
            "telling": telling,
            "lease": LEASE,
            "resumes": patch.resumes,
            "stops": patch.send_paused is True,
            "by_request": BY_REQUEST,
            "inbox_id": current.inbox_id,
            "organization_id": current.organization_id,
        },
    )


def _either(given: object, current: str | None) -> object:
    return current if given is UNSET else given


_CHANGE: LiteralString = (
    "update inbox set display_name = %(display_name)s, metadata = %(metadata)s, status = %(status)s,"
    " pausing_until = case when %(telling)s then now() + %(lease)s else pausing_until end,"
    # What bounced before a person let it go on does not stop it again.
    " bounces_from = case when %(resumes)s and send_paused then now() else bounces_from end,"
    " send_paused_reason = case when %(resumes)s then null"
    " when %(stops)s then coalesce(send_paused_reason, %(by_request)s) else send_paused_reason end,"
    " send_paused = (send_paused or %(stops)s) and not %(resumes)s,"
    " updated_at = now() where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
    f" returning {COLUMNS}"
)


async def settle_pauses(db: Database, server: MailServer) -> int:
    """Tell the mail server of statuses it may not know of; returns of how many. One it refuses waits for a
    later round; raises `MailServerUnavailable` when it is away.
    """
    return await in_rounds(lambda: _claim(db), lambda inbox: _settle_claimed(db, server, inbox))


async def in_rounds(
    claim: Callable[[], Awaitable[list[Inbox]]], settle: Callable[[Inbox], Awaitable[bool]]
) -> int:
    """Settle what can be claimed, all of a round at once, until nothing is left; returns how many were. What
    one of them raises is raised when its round is over.
    """
    settled = 0
    while claimed := await claim():
        results = await asyncio.gather(*map(settle, claimed), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
            settled += result
    return settled


async def _settle_claimed(db: Database, server: MailServer, inbox: Inbox) -> bool:
    try:
        await tell(db, server, inbox)
    except (MailServerRejected, MailServerConfused) as error:
        log.error("inbox.pause_not_settled", inbox_id=str(inbox.inbox_id), reason=str(error))
        return False
    log.info("inbox.pause_settled", status=inbox.status, inbox_id=str(inbox.inbox_id))
    return True


async def _claim(db: Database) -> list[Inbox]:
    async with db.transaction() as tx:
        return await fetch_all(
            tx,
            Inbox,
            "update inbox set pausing_until = now() + %(lease)s where inbox_id = any(array("
            "select inbox_id from inbox where pausing_until < now() and state = 'active'"
            " order by pausing_until limit %(most)s for update skip locked))"
            f" returning {COLUMNS}",
            {"lease": LEASE, "most": SETTLED_AT_ONCE},
        )
