"""Noting a mail that is about to be sent, while Stalwart and its client wait."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import structlog
from uuid_utils.compat import uuid7

from agentmail_cp import outcomes
from agentmail_cp.compose import new_message_id
from agentmail_cp.db import Database, Tx, fetch_one
from agentmail_cp.errors import Unavailable
from agentmail_cp.inboxes import inbox_uuid
from agentmail_cp.mailserver import (
    AccountId,
    BlobId,
    MailServer,
    MailServerRejected,
    MailState,
)
from agentmail_cp.submissions.mail import GivenId, HandedIn, copy_of, message_id_of
from agentmail_cp.submissions.record import HANDED_IN

log = structlog.stdlib.get_logger(__name__)

PATIENCE = 25.0
"""Seconds a question may take: less than Stalwart waits (stalwart-config/hook.toml), so that no row is
written of which the client does not hear."""

_rng = random.SystemRandom()


class _Owner(msgspec.Struct, frozen=True):
    inbox_id: UUID
    organization_id: UUID
    account_id: AccountId
    domain: str
    mail_state: MailState | None
    taken: bool


async def take(
    db: Database, server: MailServer, mail: HandedIn, *, delay: timedelta
) -> GivenId | None:
    """Note a mail that is about to be sent; returns the Message-ID it must be given, if any.

    Once this returns, the mail shows up as sent after `delay` at the latest. A login that is no inbox of
    ours is let pass. Raises `Unavailable` and the mail server's errors: nothing was noted then.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            return await _take(db, server, mail, delay)
    except TimeoutError as error:
        raise Unavailable("The mail could not be put aside in time.") from error


async def _take(
    db: Database, server: MailServer, mail: HandedIn, delay: timedelta
) -> GivenId | None:
    message_id, given = message_id_of(mail), None
    async with db.reading() as tx:
        owner = await _owner(tx, mail.login, message_id)
    if owner is None:
        log.info("submission.foreign_login")
        return None
    if owner.taken:
        return None
    if message_id is None:
        message_id = new_message_id(owner.domain, _rng)
        given = GivenId(message_id, replaces=bool(mail.values("message-id")))
    raw = copy_of(mail, given, datetime.now(UTC))
    try:
        blob_id = await server.upload(owner.account_id, raw, "message/rfc822")
    except MailServerRejected as error:
        # Trying again would not help, and the mail itself can be sent.
        log.error("submission.not_kept", inbox_id=str(owner.inbox_id), reason=error.code.value)
        HANDED_IN.labels("lost").inc()
        return given
    async with db.transaction() as tx:
        await _insert(tx, owner, message_id, blob_id, delay)
        await outcomes.handed_in(
            tx,
            organization_id=owner.organization_id,
            inbox_id=owner.inbox_id,
            message_id=f"<{message_id}>",
            addresses=mail.recipients,
        )
    HANDED_IN.labels("taken").inc()
    return given


async def _owner(tx: Tx, login: str, message_id: str | None) -> _Owner | None:
    """The active inbox behind a login, and whether it has handed in this Message-ID before."""
    return await fetch_one(
        tx,
        _Owner,
        "select inbox_id, organization_id, inbox.account_id, domain,"
        " inbox_sync.state as mail_state, exists (select from submission"
        " where submission.inbox_id = inbox.inbox_id"
        " and submission.organization_id = inbox.organization_id"
        " and message_id = %(message_id)s) as taken"
        " from inbox join inbox_sync using (inbox_id, organization_id)"
        " where inbox_id = %(inbox_id)s and inbox.state = 'active'",
        {"inbox_id": inbox_uuid(login.lower()), "message_id": message_id},
    )


async def _insert(
    tx: Tx, owner: _Owner, message_id: str, blob_id: BlobId, delay: timedelta
) -> None:
    await tx.execute(
        "insert into submission (submission_id, organization_id, inbox_id, account_id, message_id,"
        " blob_id, mail_state, due_at) values (%(submission_id)s, %(organization_id)s, %(inbox_id)s,"
        " %(account_id)s, %(message_id)s, %(blob_id)s, %(mail_state)s, now() + %(delay)s)"
        " on conflict (inbox_id, message_id) do nothing",
        {
            "submission_id": uuid7(),
            "organization_id": owner.organization_id,
            "inbox_id": owner.inbox_id,
            "account_id": owner.account_id,
            "message_id": message_id,
            "blob_id": blob_id,
            "mail_state": owner.mail_state,
            "delay": delay,
        },
    )
