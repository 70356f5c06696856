"""Finding out what became of sends whose answer never came, and recording it.

Only rows whose lease is over are touched, one process at a time; repeating has no effect.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

import msgspec
import structlog

from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.mailserver import (
    DocumentId,
    Folder,
    FoundMail,
    Mail,
    MailServer,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
    Relabel,
)
from agentmail_cp.messages import Place
from agentmail_cp.sending.record import (
    COLUMNS,
    OWED,
    SETTLING,
    Send,
    answer_without_copy,
    close,
    finish,
    release,
)

log = structlog.stdlib.get_logger(__name__)
SECOND_LOOK = 1.0
"""Seconds between two looks for a mail that was not handed in: a mail server that was frozen may, when
it wakes, still carry out a request nobody waits for any more."""
SETTLED_AT_ONCE = 16


class Claimed(msgspec.Struct, frozen=True):
    row: Send
    place: Place


async def claim(db: Database, send_id: UUID | None = None) -> list[Claimed]:
    """Take open rows whose lease is over, so that one process alone settles them."""
    async with db.transaction() as tx:
        rows = await fetch_all(
            tx,
            Send,
            "update send set state = 'unknown', lease_until = now() + %(lease)s,"
            " owed_until = coalesce(owed_until, now() + %(owed)s) where send_id = any(array("
            "select send_id from send where state in ('submitting', 'unknown')"
            " and lease_until <= now() and send_id = coalesce(%(send_id)s::uuid, send_id)"
            " order by lease_until limit %(most)s for update skip locked))"
            f" returning {COLUMNS}",
            {"lease": SETTLING, "owed": OWED, "send_id": send_id, "most": SETTLED_AT_ONCE},
        )
        return [Claimed(row, await _place(tx, row)) for row in rows]


async def _place(tx: Tx, row: Send) -> Place:
    places = await fetch_all(
        tx,
        Place,
        "select inbox_id, organization_id, pod_id, domain from inbox"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        {"inbox_id": row.inbox_id, "organization_id": row.organization_id},
    )
    return places[0]


async def settle_one(db: Database, server: MailServer, claimed: Claimed) -> None:
    """Find out what became of one send, and record it. Repeating has no effect."""
    row = claimed.row
    found = await _find_surely(server, row)
    if found is None:
        await close(db, row, "abandoned")
        return
    if found.submitted is None or found.submitted.refused_by_all:
        await server.destroy_mail(row.account_id, [found.document_id])
        await close(db, row, "abandoned" if found.submitted is None else "refused")
        return
    mails = await _filed(server, row, found.document_id)
    async with db.transaction() as tx:
        for mail in mails:
            await finish(tx, row, claimed.place, mail, found.submitted)
        if not mails:
            await answer_without_copy(tx, row, found.submitted.verdicts)


async def _filed(server: MailServer, row: Send, document_id: DocumentId) -> tuple[Mail, ...]:
    """The copy of a mail that was handed in, moved to Sent where the mail server did not get to it; nothing
    when somebody erased it meanwhile.
    """
    mails = await server.fetch(row.account_id, [document_id])
    if not any(Folder.DRAFTS in mail.folders for mail in mails):
        return mails
    move = Relabel(document_id, remove=frozenset({"$draft"}), move_to=Folder.SENT)
    try:
        await server.relabel(row.account_id, [move])
    except MailServerRejected as error:
        if error.code is not Refusal.NO_MAIL:
            raise
    return await server.fetch(row.account_id, [document_id])


async def _find_surely(server: MailServer, row: Send) -> FoundMail | None:
    """Look for a mail; believe only at the second look that it was not handed in."""
    found = await _find(server, row)
    if found is not None and found.submitted is not None:
        return found
    await asyncio.sleep(SECOND_LOOK)
    return await _find(server, row)


async def _find(server: MailServer, row: Send) -> FoundMail | None:
    try:
        return await server.find_own(row.account_id, row.message_id, row.mail_state)
    except MailServerRejected as error:
        if error.code is Refusal.NO_ACCOUNT:
            return None
        if error.code is not Refusal.STATE_LOST:
            raise
        return await server.find_own(row.account_id, row.message_id, None)


async def settle(db: Database, server: MailServer) -> int:
    """Settle every send whose outcome is open and whose lease is over; returns how many.

    One that cannot be settled waits for the next round; raises `MailServerUnavailable` when none can.
    """
    settled = 0
    while claims := await claim(db):
        outcomes = await asyncio.gather(
            *(_settle_claimed(db, server, claimed) for claimed in claims), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            settled += outcome
    return settled


async def _settle_claimed(db: Database, server: MailServer, claimed: Claimed) -> bool:
    row = claimed.row
    try:
        await settle_one(db, server, claimed)
    except MailServerUnavailable:
        await release(db, row)
        raise
    except (MailServerRejected, MailServerConfused) as error:
        log.error("send.not_settled", send_id=str(row.send_id), reason=str(error))
        return False
    log.info("send.settled", send_id=str(row.send_id))
    return True
