"""Finishing what crashed requests left of drafts, and destroying the documents of those that were sent.

A version that intake has not read yet is looked for as well: one that came and went in between is in no
list of changes. Only rows whose lease is over are touched, one process at a time; repeating has no
effect. A draft that is `sending` is settled with its send.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import msgspec
import structlog

from agentmail_cp import messages
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.drafts import rows
from agentmail_cp.drafts.draft import COLUMNS, Draft, message_id_of, row_of
from agentmail_cp.drafts.record import is_draft
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import (
    DocumentId,
    Mail,
    MailServer,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)

log = structlog.stdlib.get_logger(__name__)

SETTLING = timedelta(seconds=30)
"""The lease of whoever finds out what became of a draft."""

SECOND_LOOK = 1.0
"""Seconds between two looks for a document that is not there: a mail server that was frozen may, when it
wakes, still carry out a request nobody waits for any more."""

SETTLED_AT_ONCE = 16


class Claimed(msgspec.Struct, frozen=True):
    """A row whose outcome is to be found out, and where it is."""

    row: Draft
    place: Place


async def settle(db: Database, server: MailServer) -> int:
    """Settle every draft whose lease is over; returns how many.

    One that cannot be settled waits for the next round; raises `MailServerUnavailable` when none can.
    """
    settled = 0
    while claims := await claim(db):
        outcomes = await asyncio.gather(
            *(_settle(db, server, claimed) for claimed in claims), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            settled += outcome
    return settled


async def _settle(db: Database, server: MailServer, claimed: Claimed) -> bool:
    row = claimed.row
    try:
        await settle_claimed(db, server, claimed)
    except MailServerUnavailable:
        async with db.transaction() as tx:
            await rows.expire(tx, row)
        raise
    except (MailServerRejected, MailServerConfused) as error:
        log.error("draft.not_settled", draft_id=str(row.draft_id), reason=str(error))
        return False
    if row.state != "draft":
        log.info("draft.settled", draft_id=str(row.draft_id), state=row.state)
    return True


async def claim(db: Database, only: Draft | None = None) -> list[Claimed]:
    """Take rows whose lease is over. One that was being made turns into one being deleted: it was
    promised to nobody.
    """
    async with db.transaction() as tx:
        found = await fetch_all(
            tx,
            Draft,
            "with due (inbox, id) as (select inbox_id, draft_id from draft"
            " where state <> 'sending' and lease_until <= now()"
            " and inbox_id = coalesce(%(inbox_id)s::uuid, inbox_id)"
            " and draft_id = coalesce(%(draft_id)s::uuid, draft_id)"
            " order by lease_until limit %(most)s for update skip locked)"
            " update draft set lease_until = now() + %(lease)s,"
            " client_id = case when state = 'storing' then null else client_id end,"
            " state = case when state = 'storing' then 'deleting' else state end"
            " from due where inbox_id = due.inbox and draft_id = due.id"
            f" returning {COLUMNS}",
            {
                "lease": SETTLING,
                "inbox_id": only.inbox_id if only else None,
                "draft_id": only.draft_id if only else None,
                "most": SETTLED_AT_ONCE,
            },
        )
        return [Claimed(row, await _place(tx, row)) for row in found]


async def _place(tx: Tx, row: Draft) -> Place:
    place = await fetch_one(
        tx,
        Place,
        "select inbox_id, organization_id, pod_id, domain from inbox"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        row.key,
    )
    return place or Place(row.inbox_id, row.organization_id, row.pod_id, "")


async def settle_claimed(db: Database, server: MailServer, claimed: Claimed) -> None:
    """Find out what became of a draft, and write it down. Repeating has no effect."""
    if claimed.row.state == "draft":
        await _look_for(db, server, claimed)
    elif claimed.row.state == "updating":
        await _settle_update(db, server, claimed)
    elif claimed.row.document_id is None and claimed.row.taken is None:
        found = await _look(server, claimed)
        await clear(db, server, claimed.place, claimed.row, [mail.document_id for mail in found])
    else:
        await clear(db, server, claimed.place, claimed.row)


async def _look_for(db: Database, server: MailServer, claimed: Claimed) -> None:
    """Remove a draft whose version in force is gone, which nobody else would notice."""
    row = claimed.row
    wanted = [row.document_id] if row.document_id is not None else []
    there = bool(await server.fetch(row.account_id, wanted))
    async with db.transaction() as tx:
        await messages.lock(tx, row.organization_id, row.inbox_id)
        await rows.looked(tx, row, there=there)


async def _settle_update(db: Database, server: MailServer, claimed: Claimed) -> None:
    """All of the change, when its version is stored; none of it otherwise."""
    row = claimed.row
    found = await _look(server, claimed)
    if found and row.taken is not None:
        await _destroy(server, row, [row.taken])
    async with db.transaction() as tx:
        written = (
            await rows.written(tx, row, found[-1], row.kept_labels, told=False) if found else None
        )
    if written is None:
        await _take_back(db, server, row, found)


async def _take_back(db: Database, server: MailServer, row: Draft, found: list[Mail]) -> None:
    """The change came to nothing, or gave way to what a mail client saved meanwhile."""
    async with db.reading() as tx:
        current = await row_of(tx, row.key)
    if current is None or current.lease_until != row.lease_until:
        return
    await _destroy(server, row, [mail.document_id for mail in found])
    async with db.transaction() as tx:
        await rows.release(tx, row)


async def _look(server: MailServer, claimed: Claimed) -> list[Mail]:
    """The version being written, if it is stored; believed to be missing only at the second look."""
    found = await _find(server, claimed)
    if not found:
        await asyncio.sleep(SECOND_LOOK)
        found = await _find(server, claimed)
    return found


async def _find(server: MailServer, claimed: Claimed) -> list[Mail]:
    row = claimed.row
    message_id = message_id_of(row.draft_id, row.version, claimed.place.domain)
    try:
        mails = await server.find(row.account_id, message_id, row.mail_state)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_ACCOUNT:
            raise
        return []
    return [mail for mail in mails if is_draft(mail, ())]


async def clear_sent(db: Database, server: MailServer, place: Place, draft: Draft) -> None:
    """Destroy the document of a draft whose send was just recorded. What a mail client saved since the
    draft was taken stays.
    """
    async with db.reading() as tx:
        row = await row_of(tx, draft.key)
    if row is not None and row.state == "sent" and row.taken is not None:
        await clear(db, server, place, row)
    elif row is not None and row.state == "draft" and draft.document_id is not None:
        await _destroy(server, row, [draft.document_id])


async def clear(
    db: Database,
    server: MailServer,
    place: Place,
    row: Draft,
    documents: list[DocumentId] | None = None,
) -> None:
    """Destroy the document of a draft that was deleted or sent, then forget the row."""
    unwanted = documents if documents is not None else [each for each in (row.taken,) if each]
    await _destroy(server, row, unwanted)
    async with db.transaction() as tx:
        # What was read before must not bring the draft back.
        await messages.mark_due(tx, place)
        await rows.forget(tx, row)


async def _destroy(server: MailServer, row: Draft, documents: list[DocumentId]) -> None:
    if not documents:
        return
    try:
        await server.destroy_mail(row.account_id, documents)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_ACCOUNT:
            raise
