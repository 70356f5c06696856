"""Judging and noting a mail that is about to be sent, while Stalwart and its client wait.

A recipient is judged when the client names it, the whole mail when it is there: policy, then the copy, then
the row, which counts it. Until the row is written nothing happened. A mail that comes again (the client never
heard our answer) is known by its Message-ID and what it says, and counts again only for recipients it did not
have before, until it has come again too often for that. Another mail under the same Message-ID gets its own:
else one Message-ID would open every limit, and hide what was sent. So does a mail under one that the inbox
has used before, by whatever door: only the copy of a client that saves it before it hands the mail in says
nothing against its Message-ID, for as long as `SAVED_FIRST`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog
from uuid_utils.compat import uuid7

from agentmail_cp import filing, limits, outcomes, policy
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
    digest_of,
    ensure_own,
    message_id_of,
    references_of,
)
from agentmail_cp.submissions.record import HANDED_IN

log = structlog.stdlib.get_logger(__name__)

PATIENCE = 25.0
"""Seconds a question may take: less than Stalwart waits (stalwart-config/hook.toml), so that no row is
written of which the client does not hear."""

FREE_REPEATS = 5
"""How often a mail may come again without being counted again: each time its recipients may get another."""

SAVED_FIRST = timedelta(hours=1)
"""How long before it hands a mail in a client may save the copy: it tries again while we are away."""

_rng = random.SystemRandom()


class _Owner(msgspec.Struct, frozen=True):
    """The inbox behind a login. `taken`: it handed in this mail before, to `noted`; `foreign`: another one
    has its Message-ID. `inboxes` are recipients that are inboxes of this server: Stalwart may have put them
    in the place of tags and catch-alls, of which the lists were asked as they were written
    (`check_recipient`).
    """

    inbox_id: UUID
    organization_id: UUID
    pod_id: UUID
    account_id: AccountId
    address: str
    domain: str
    mail_state: MailState | None
    taken: bool
    foreign: bool
    repeats: int
    noted: list[str]
    inboxes: frozenset[str]

    @property
    def place(self) -> Place:
        return Place(self.inbox_id, self.organization_id, self.pod_id, self.domain)

    def new_to(self, mail: HandedIn) -> tuple[str, ...]:
        """The recipients this mail has not been counted for."""
        known = set(self.noted) if self.taken and self.repeats < FREE_REPEATS else set[str]()
        return tuple(each for each in mail.recipients if each.lower() not in known)


async def check_recipient(db: Database, login: str, recipient: str) -> None:
    """Whether the inbox behind a login may write to this address. Raises as `take`, but for limits, which
    are asked about the whole mail.
    """
    async with db.reading() as tx:
        owner = await _owner(tx, login)
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


class _Key(NamedTuple):
    """What a mail is known by when it comes again."""

    message_id: str
    digest: bytes


class _AnotherMail(Exception):
    """The inbox handed in something else under this Message-ID."""


async def _take(
    db: Database, server: MailServer, mail: HandedIn, delay: timedelta, defaults: Limits
) -> GivenId | None:
    digest = await asyncio.to_thread(digest_of, mail)
    named = message_id_of(mail)
    if named is not None:
        with contextlib.suppress(_AnotherMail):
            await _take_as(db, server, mail, _Key(named, digest), None, delay, defaults)
            return None
    made = new_message_id(mail.login.rpartition("@")[2].lower(), _rng)
    given = GivenId(made, replaces=bool(mail.values("message-id")))
    await _take_as(db, server, mail, _Key(made, digest), given, delay, defaults)
    return given


async def _take_as(
    db: Database,
    server: MailServer,
    mail: HandedIn,
    key: _Key,
    given: GivenId | None,
    delay: timedelta,
    defaults: Limits,
) -> None:
    """Judge and note a mail under this Message-ID. Raises `_AnotherMail`."""
    owner, charge = await _judge(db, mail, key, defaults)
    blob_id = None if owner.taken else await _put_aside(server, owner, mail, given)
    while True:
        # Others may have taken what was left, or noted the same mail, between the question and the count.
        with contextlib.suppress(Exhausted):
            if charge is None:
                noted = await _note_repeat(db, owner, key)
            else:
                noted = await _note(db, owner, key, blob_id, charge, delay)
            if noted:
                return
        owner, charge = await _judge(db, mail, key, defaults)


async def _judge(
    db: Database, mail: HandedIn, key: _Key, defaults: Limits
) -> tuple[_Owner, Charge | None]:
    """Whose the mail is, and what it counts as; None when it was counted before. Raises `_AnotherMail`."""
    async with db.reading() as tx:
        owner = await _owner(tx, mail.login, key, mail.recipients)
        ensure_own(mail, owner.address)
        if owner.foreign:
            raise _AnotherMail
        new = owner.new_to(mail)
        if len(new) < len(mail.recipients):
            await policy.may_write_to(tx, owner.place, mail.recipients, owner.inboxes)
        if not new:
            return owner, None
        leaving = Leaving(
            place=owner.place,
            recipients=new,
            references=references_of(mail),
            answers_machine=answers_machine(mail),
            judged=owner.inboxes,
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


async def _owner(
    tx: Tx, login: str, key: _Key | None = None, recipients: Collection[str] = ()
) -> _Owner:
    """The active inbox behind a login. Raises `MessageRejected` where there is none."""
    found = await fetch_one(
        tx,
        _Owner,
        _OWNER,
        {
            "inbox_id": inbox_uuid(login.lower()),
            "message_id": key and key.message_id,
            "named": key and filing.id_of(key.message_id),
            "digest": key and key.digest,
            "saved_first": SAVED_FIRST,
            "recipients": [each.lower() for each in recipients],
        },
    )
    if found is None:
        log.info("submission.foreign_login")
        raise MessageRejected(
            "Message rejected: this login has no inbox here, so it may not send.",
            fix="Log in with the address of an inbox.",
        )
    return found


_OWNER = """
select inbox.inbox_id, inbox.organization_id, inbox.pod_id, inbox.account_id, address, domain,
    inbox_sync.state as mail_state, submission_id is not null as taken,
    coalesce(digest <> %(digest)s, submission_id is null and (
        exists (select from recipient where recipient.inbox_id = inbox.inbox_id
            and recipient.organization_id = inbox.organization_id
            and recipient.message_id = %(named)s)
        or exists (select from message where message.inbox_id = inbox.inbox_id
            and message.organization_id = inbox.organization_id and message.message_id = %(named)s
            and (direction = 'received' or message.created_at < now() - %(saved_first)s))
        or exists (select from send where send.inbox_id = inbox.inbox_id
            and send.organization_id = inbox.organization_id
            and send.message_id = %(message_id)s and send.state <> 'sent')
    )) as foreign,
    coalesce(repeats, 0) as repeats,
    case when submission_id is not null then array(select recipient.address from recipient
        where recipient.inbox_id = inbox.inbox_id
        and recipient.organization_id = inbox.organization_id
        and recipient.message_id = %(named)s) else '{}' end as noted,
    array(select other.address from inbox as other
        where other.address = any(%(recipients)s::text[]) and other.state = 'active') as inboxes
from inbox join inbox_sync using (inbox_id, organization_id)
left join submission on submission.inbox_id = inbox.inbox_id
    and submission.organization_id = inbox.organization_id
    and submission.message_id = %(message_id)s
where inbox.inbox_id = %(inbox_id)s and inbox.state = 'active'
"""
"""Whoever a mail was handed in for has a row in `recipient` for as long as the mail is shown, by whatever
door it left; a send has none before its outcome is recorded.
"""


async def _note_repeat(db: Database, owner: _Owner, key: _Key) -> bool:
    """Count that a mail came again; False when it did so too often by now."""
    async with db.transaction() as tx:
        cursor = await tx.execute(
            "update submission set repeats = repeats + 1 where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and message_id = %(message_id)s"
            " and repeats < %(most)s",
            {
                "inbox_id": owner.inbox_id,
                "organization_id": owner.organization_id,
                "message_id": key.message_id,
                "most": FREE_REPEATS,
            },
        )
    return cursor.rowcount == 1 or not owner.taken


async def _note(
    db: Database,
    owner: _Owner,
    key: _Key,
    blob_id: BlobId | None,
    charge: Charge,
    delay: timedelta,
) -> bool:
    """Write the row, which counts the mail; False when another question about it was first. Without a copy
    the row says no more than that it was counted.
    """
    async with db.transaction() as tx:
        with limits.counting():
            noted = await tx.execute(_NOTE, _row(owner, key, blob_id, charge, delay))
        if noted.rowcount == 0:
            return False
        await _expect(tx, owner, key.message_id, charge.recipients)
    if blob_id is not None:
        HANDED_IN.labels("taken").inc()
    return True


def _row(
    owner: _Owner, key: _Key, blob_id: BlobId | None, charge: Charge, delay: timedelta
) -> dict[str, object]:
    return {
        **charge.parameters,
        "submission_id": uuid7(),
        "organization_id": owner.organization_id,
        "inbox_id": owner.inbox_id,
        "account_id": owner.account_id,
        "message_id": key.message_id,
        "digest": key.digest,
        "blob_id": blob_id,
        "mail_state": owner.mail_state,
        "taken": owner.taken,
        "delay": delay,
    }


_NOTE = f"""
with noted as (
    insert into submission (submission_id, organization_id, inbox_id, account_id, message_id, blob_id,
        mail_state, state, due_at, recipients, counted_thread, counted_at, digest)
    values (%(submission_id)s, %(organization_id)s, %(inbox_id)s, %(account_id)s, %(message_id)s,
        coalesce(%(blob_id)s::text, ''), %(mail_state)s,
        case when %(blob_id)s::text is null then 'done' else 'pending' end,
        case when %(blob_id)s::text is not null then now() + %(delay)s end,
        cardinality(%(recipients)s::text[]), %(thread_id)s, now(), %(digest)s)
    on conflict (inbox_id, message_id) do update
    set recipients = coalesce(submission.recipients, 0) + excluded.recipients,
        repeats = submission.repeats + 1
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
        message_id=filing.id_of(message_id),
        addresses=list(recipients),
    )
