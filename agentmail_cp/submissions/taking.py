"""Judging and noting a mail that is about to be sent, while Stalwart and its client wait.

A recipient is judged when the client names it, the whole mail when it is there: policy, then the copy, then
the row, which counts it. Until the row is written nothing happened. A mail that comes again (the client never
heard our answer) is known by its Message-ID, and counts again only for recipients it did not have before.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import structlog
from uuid_utils.compat import uuid7

from agentmail_cp import limits, outcomes, policy
from agentmail_cp.compose import new_message_id
from agentmail_cp.db import Database, Tx, fetch_one
from agentmail_cp.errors import MessageRejected, Unavailable
from agentmail_cp.filing import Place
from agentmail_cp.inboxes import inbox_uuid
from agentmail_cp.limits import Charge, Exhausted, Limits
from agentmail_cp.mailserver import (
    AccountId,
    BlobId,
    MailServer,
    MailServerRejected,
    MailState,
)
from agentmail_cp.policy import Leaving
from agentmail_cp.submissions.mail import (
    GivenId,
    HandedIn,
    answers_machine,
    copy_of,
    ensure_own,
    message_id_of,
    references_of,
)
from agentmail_cp.submissions.record import HANDED_IN

log = structlog.stdlib.get_logger(__name__)

PATIENCE = 25.0
"""Seconds a question may take: less than Stalwart waits (stalwart-config/hook.toml), so that no row is
written of which the client does not hear."""

_rng = random.SystemRandom()


class _Owner(msgspec.Struct, frozen=True):
    """The inbox behind a login. `taken`: it handed in this Message-ID before, to `noted`."""

    inbox_id: UUID
    organization_id: UUID
    pod_id: UUID
    account_id: AccountId
    address: str
    domain: str
    mail_state: MailState | None
    taken: bool
    noted: list[str]

    @property
    def place(self) -> Place:
        return Place(self.inbox_id, self.organization_id, self.pod_id, self.domain)

    def new_to(self, mail: HandedIn) -> tuple[str, ...]:
        """The recipients this mail has not been counted for."""
        known = set(self.noted) if self.taken else set[str]()
        return tuple(each for each in mail.recipients if each.lower() not in known)


async def check_recipient(db: Database, login: str, recipient: str) -> None:
    """Whether the inbox behind a login may write to this address. Raises as `take`, but for limits, which
    are asked about the whole mail.
    """
    async with db.reading() as tx:
        owner = await _owner(tx, login, None)
        await policy.may_write_to(tx, owner.place, [recipient])


async def take(
    db: Database, server: MailServer, mail: HandedIn, *, delay: timedelta, defaults: Limits
) -> GivenId | None:
    """Judge a mail that is about to be sent, and note it; returns the Message-ID it must be given, if any.

    Once this returns, the mail is counted, and shows up as sent after `delay` at the latest. `defaults` hold
    where the organisation has no limits of its own. Raises `MessageRejected` for a login without an inbox
    and for a mail that is not from the inbox, as `policy.may_send`, and `Unavailable` and the mail server's
    errors: nothing was noted then.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            return await _take(db, server, mail, delay, defaults)
    except TimeoutError as error:
        raise Unavailable("The mail could not be put aside in time.") from error


async def _take(
    db: Database, server: MailServer, mail: HandedIn, delay: timedelta, defaults: Limits
) -> GivenId | None:
    named, given = message_id_of(mail), None
    owner, charge = await _judge(db, mail, named, defaults)
    if charge is None:
        return None
    message_id = named or new_message_id(owner.domain, _rng)
    if named is None:
        given = GivenId(message_id, replaces=bool(mail.values("message-id")))
    blob_id = None if owner.taken else await _put_aside(server, owner, mail, given)
    while charge is not None:
        # Others may have taken what was left, or noted the same mail, between the question and the count.
        with contextlib.suppress(Exhausted):
            if await _note(db, owner, message_id, blob_id, charge, delay):
                break
        owner, charge = await _judge(db, mail, named, defaults)
    return given


async def _judge(
    db: Database, mail: HandedIn, message_id: str | None, defaults: Limits
) -> tuple[_Owner, Charge | None]:
    """Whose the mail is, and what it counts as; None when it was counted before."""
    async with db.reading() as tx:
        owner = await _owner(tx, mail.login, message_id)
        ensure_own(mail, owner.address)
        new = owner.new_to(mail)
        if len(new) < len(mail.recipients):
            await policy.may_write_to(tx, owner.place, mail.recipients)
        if not new:
            return owner, None
        leaving = Leaving(
            place=owner.place,
            recipients=new,
            references=references_of(mail),
            answers_machine=answers_machine(mail),
        )
        return owner, await policy.may_send(tx, leaving, defaults)


async def _put_aside(
    server: MailServer, owner: _Owner, mail: HandedIn, given: GivenId | None
) -> BlobId | None:
    """The bytes of our copy, in the sender's account; None when the mail server does not take them."""
    raw = copy_of(mail, given, datetime.now(UTC))
    try:
        return await server.upload(owner.account_id, raw, "message/rfc822")
    except MailServerRejected as error:
        # Trying again would not help, and the mail itself can be sent.
        log.error("submission.not_kept", inbox_id=str(owner.inbox_id), reason=error.code.value)
        HANDED_IN.labels("lost").inc()
        return None


async def _owner(tx: Tx, login: str, message_id: str | None) -> _Owner:
    """The active inbox behind a login. Raises `MessageRejected` where there is none."""
    found = await fetch_one(
        tx,
        _Owner,
        "select inbox.inbox_id, inbox.organization_id, inbox.pod_id, inbox.account_id, address, domain,"
        " inbox_sync.state as mail_state, submission_id is not null as taken,"
        " case when submission_id is not null then array(select recipient.address from recipient"
        " where recipient.inbox_id = inbox.inbox_id"
        " and recipient.organization_id = inbox.organization_id"
        " and recipient.message_id = %(named)s) else '{}' end as noted"
        " from inbox join inbox_sync using (inbox_id, organization_id)"
        " left join submission on submission.inbox_id = inbox.inbox_id"
        " and submission.organization_id = inbox.organization_id"
        " and submission.message_id = %(message_id)s"
        " where inbox.inbox_id = %(inbox_id)s and inbox.state = 'active'",
        {
            "inbox_id": inbox_uuid(login.lower()),
            "message_id": message_id,
            "named": f"<{message_id}>",
        },
    )
    if found is None:
        log.info("submission.foreign_login")
        raise MessageRejected(
            "Message rejected: this login has no inbox here, so it may not send.",
            fix="Log in with the address of an inbox.",
        )
    return found


async def _note(
    db: Database,
    owner: _Owner,
    message_id: str,
    blob_id: BlobId | None,
    charge: Charge,
    delay: timedelta,
) -> bool:
    """Write the row, which counts the mail; False when another question about it was first. Without a copy
    the row says no more than that it was counted.
    """
    async with db.transaction() as tx:
        with limits.counting():
            noted = await tx.execute(_NOTE, _row(owner, message_id, blob_id, charge, delay))
        if noted.rowcount == 0:
            return False
        await _expect(tx, owner, message_id, charge.recipients)
    if blob_id is not None:
        HANDED_IN.labels("taken").inc()
    return True


def _row(
    owner: _Owner, message_id: str, blob_id: BlobId | None, charge: Charge, delay: timedelta
) -> dict[str, object]:
    return {
        **charge.parameters,
        "submission_id": uuid7(),
        "organization_id": owner.organization_id,
        "inbox_id": owner.inbox_id,
        "account_id": owner.account_id,
        "message_id": message_id,
        "blob_id": blob_id,
        "mail_state": owner.mail_state,
        "taken": owner.taken,
        "delay": delay,
    }


_NOTE = f"""
with noted as (
    insert into submission (submission_id, organization_id, inbox_id, account_id, message_id, blob_id,
        mail_state, state, due_at, recipients, counted_thread, counted_at)
    values (%(submission_id)s, %(organization_id)s, %(inbox_id)s, %(account_id)s, %(message_id)s,
        coalesce(%(blob_id)s::text, ''), %(mail_state)s,
        case when %(blob_id)s::text is null then 'done' else 'pending' end,
        case when %(blob_id)s::text is not null then now() + %(delay)s end,
        cardinality(%(recipients)s::text[]), %(thread_id)s, now())
    on conflict (inbox_id, message_id) do update
    set recipients = coalesce(submission.recipients, 0) + excluded.recipients
    where submission.organization_id = excluded.organization_id and %(taken)s
    returning submission_id as send_id, organization_id, inbox_id
), begun as (
    select send_id, organization_id, inbox_id, cardinality(%(recipients)s::text[]) as recipients,
        %(thread_id)s::uuid as counted_thread, now() as counted_at
    from noted
), {limits.COUNTING}
select from begun
"""


async def _expect(tx: Tx, owner: _Owner, message_id: str, recipients: Collection[str]) -> None:
    await outcomes.handed_in(
        tx,
        organization_id=owner.organization_id,
        inbox_id=owner.inbox_id,
        message_id=f"<{message_id}>",
        addresses=list(recipients),
    )
