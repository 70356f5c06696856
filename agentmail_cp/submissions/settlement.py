"""Looking at submissions that are due: whose copy is in Sent, and what that means for ours.

Only rows taken with `record.claim` are touched; repeating has no effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from agentmail_cp import filing, messages
from agentmail_cp.db import Database, Tx
from agentmail_cp.labels import SEEN, SENT_KEYWORD
from agentmail_cp.mailserver import (
    DocumentId,
    Folder,
    Mail,
    MailServer,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
    Relabel,
)
from agentmail_cp.submissions.record import (
    HANDED_IN,
    Claimed,
    LeaseLost,
    claim,
    close,
    set_state,
)

log = structlog.stdlib.get_logger(__name__)

LOOK = 0.5
"""Seconds between two looks for rows that are due."""


class _Copies(msgspec.Struct, frozen=True):
    """The copies in Sent: the client's, and ours. `elsewhere`: the index shows another than ours."""

    theirs: list[Mail]
    ours: list[Mail]
    elsewhere: bool
    shown: bool

    @property
    def saved_by_client(self) -> bool:
        return self.elsewhere or bool(self.theirs)


async def settle(db: Database, server: MailServer) -> int:
    """Look at every submission that is due; returns how many were.

    One that cannot be settled waits; raises `MailServerUnavailable` when none can.
    """
    looked_at = 0
    while claims := await claim(db):
        outcomes = await asyncio.gather(
            *(_settle_claimed(db, server, row) for row in claims), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        looked_at += len(claims)
    return looked_at


async def _settle_claimed(db: Database, server: MailServer, row: Claimed) -> None:
    try:
        await _settle_one(db, server, row)
    except MailServerUnavailable:
        await close(db, row, row.state, again=True)
        raise
    except MailServerRejected as error:
        await _refused(db, row, error)
    except MailServerConfused as error:
        log.error("submission.not_settled", submission_id=str(row.submission_id), reason=str(error))
    except LeaseLost:
        log.warning("submission.lease_lost", submission_id=str(row.submission_id))


async def _settle_one(db: Database, server: MailServer, row: Claimed) -> None:
    found = await _look(db, server, row)
    if row.state == "pending" and not found.saved_by_client:
        await _file(db, server, row, found.ours)
    elif row.state == "imported" and found.shown:
        await _keep(db, server, row, found)
    elif found.saved_by_client:
        await _give_way(db, server, row, found)
    else:
        await close(db, row, row.state)


async def _look(db: Database, server: MailServer, row: Claimed) -> _Copies:
    """What is in Sent, and what the index shows. The index is asked last: what it shows by then the
    mail server had before.
    """
    found = await server.find(row.account_id, row.message_id, row.mail_state)
    in_sent = [mail for mail in found if Folder.SENT in mail.folders]
    ours = [mail for mail in in_sent if _is_ours(mail, row)]
    async with db.reading() as tx:
        indexed = await _indexed(tx, row)
    others = indexed - {row.document_id} - {mail.document_id for mail in ours}
    return _Copies(
        theirs=[mail for mail in in_sent if not _is_ours(mail, row)],
        ours=ours,
        elsewhere=bool(others),
        shown=row.document_id in indexed,
    )


def _is_ours(mail: Mail, row: Claimed) -> bool:
    return mail.document_id == row.document_id or SENT_KEYWORD in mail.keywords


async def _indexed(tx: Tx, row: Claimed) -> set[DocumentId | None]:
    """The documents the index shows of this mail as sent."""
    rows = await (
        await tx.execute(
            "select document_id from message where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and direction = 'sent'"
            " and (message_id = any(%(message_ids)s) or document_id = %(document_id)s)",
            {
                "inbox_id": row.inbox_id,
                "organization_id": row.organization_id,
                "message_ids": list(filing.ids_of(row.message_id)),
                "document_id": row.document_id,
            },
        )
    ).fetchall()
    return {found["document_id"] for found in rows}


async def _file(db: Database, server: MailServer, row: Claimed, ours: Sequence[Mail]) -> None:
    """Put our copy into Sent, unless an earlier attempt has, and record it as sent."""
    document_id = (
        ours[0].document_id
        if ours
        else await server.append(
            row.account_id,
            row.blob_id,
            folder=Folder.SENT,
            keywords=frozenset({SEEN, SENT_KEYWORD}),
            received_at=row.created_at,
        )
    )
    mails = await server.fetch(row.account_id, [document_id])
    async with db.transaction() as tx:
        if not mails or not await messages.lock(tx, row.organization_id, row.inbox_id):
            await set_state(tx, row, "done")
            return
        filed = await messages.record(
            tx, row.place, present=mails, copies={row.message_id: document_id}
        )
        # Not filed: the client's copy came at this moment. Two of ours: one has to go.
        again = document_id not in filed or len(ours) > 1
        await set_state(tx, row, "imported", document_id, again=again)
    HANDED_IN.labels("imported").inc()


async def _keep(db: Database, server: MailServer, row: Claimed, found: _Copies) -> None:
    """Ours is shown. Where the client's has come, intake moves the message to it, then we look again."""
    extra = [mail.document_id for mail in found.ours if mail.document_id != row.document_id]
    if extra:
        await server.destroy_mail(row.account_id, extra)
    await close(db, row, "imported", again=bool(found.theirs))


async def _give_way(db: Database, server: MailServer, row: Claimed, found: _Copies) -> None:
    """The client saved its own copy: ours goes, and what was done to it is done to the other."""
    keywords = frozenset[str]().union(*(mail.keywords for mail in found.ours)) - {SENT_KEYWORD}
    if row.state == "imported" and keywords:
        changes = [Relabel(mail.document_id, add=keywords) for mail in found.theirs[:1]]
        await _relabel(server, row, changes)
    if found.ours:
        await server.destroy_mail(row.account_id, [mail.document_id for mail in found.ours])
    await close(db, row, "done")
    HANDED_IN.labels("replaced" if found.ours else "kept").inc()


async def _relabel(server: MailServer, row: Claimed, changes: Sequence[Relabel]) -> None:
    try:
        await server.relabel(row.account_id, changes)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_MAIL:
            raise


_FOR_GOOD = {Refusal.NO_BLOB, Refusal.INVALID_MAIL, Refusal.TOO_LARGE}


async def _refused(db: Database, row: Claimed, error: MailServerRejected) -> None:
    """The mail server does not take our copy."""
    if error.code is Refusal.NO_ACCOUNT:
        await close(db, row, "done")
        return
    name = str(row.submission_id)
    if error.code not in _FOR_GOOD and not row.old:
        log.warning("submission.refused", submission_id=name, reason=error.code.value)
        return
    log.error("submission.lost", submission_id=name, reason=error.code.value)
    HANDED_IN.labels("lost").inc()
    await close(db, row, "done")
