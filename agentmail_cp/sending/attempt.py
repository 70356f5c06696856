"""One attempt to send: the row first, then the mail server, then the record."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from uuid_utils.compat import uuid7

from agentmail_cp import drafts, idempotency, labels, limits, policy, sizes
from agentmail_cp.compose import Stamp, new_message_id
from agentmail_cp.db import Database, Tx, fetch_one
from agentmail_cp.drafts import Draft
from agentmail_cp.errors import (
    AgentMailError,
    Conflict,
    Forbidden,
    Invalid,
    MessageRejected,
    Unavailable,
)
from agentmail_cp.inboxes import Inbox
from agentmail_cp.limits import Charge, Exhausted, Limits
from agentmail_cp.mailserver import (
    Address,
    MailServer,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    OutgoingEmail,
    Refusal,
    Submitted,
)
from agentmail_cp.policy import Leaving
from agentmail_cp.sending.record import (
    COLUMNS,
    LEASE_MARGIN,
    Outcome,
    Send,
    as_mail,
    close,
    finish,
    no_answer,
    not_settled,
    recording,
    release,
)
from agentmail_cp.sending.settlement import claim, settle_one

log = structlog.stdlib.get_logger(__name__)

_rng = random.SystemRandom()
_REJECTIONS: dict[Refusal, type[AgentMailError]] = {
    Refusal.SENDER_NOT_ALLOWED: MessageRejected,
    Refusal.FORBIDDEN: MessageRejected,
    Refusal.OVER_QUOTA: Forbidden,
}
_MISTAKES = {
    Refusal.TOO_LARGE: ("body", "TOO_LARGE"),
    Refusal.TOO_MANY_RECIPIENTS: ("to", "TOO_MANY_RECIPIENTS"),
    Refusal.INVALID_MAIL: ("body", "INVALID_VALUE"),
}
"""What the caller can put right: field and code of `docs/guide/errors.md`."""


def stamp(inbox: Inbox) -> Stamp:
    """The stamp of a mail the inbox writes now."""
    return Stamp(
        sender=Address(inbox.address, inbox.display_name),
        message_id=new_message_id(inbox.domain, _rng),
        # Stalwart keeps whole seconds; order within one is told by document ids.
        date=datetime.now(UTC).replace(microsecond=0),
    )


async def send(
    db: Database,
    server: MailServer,
    *,
    inbox: Inbox,
    email: OutgoingEmail,
    fingerprint: bytes,
    key: str | None,
    patience: float,
    defaults: Limits,
    answers_machine: bool = False,
    draft: Draft | None = None,
) -> Outcome:
    """Hand a finished mail of an inbox in and record it. The package's table lists every failure.

    An attempt that takes up an earlier one goes by the earlier one's Message-ID. `fingerprint`
    (`compose.fingerprint`) tells a repeated request from another one under the same key; `patience` is
    the longest the mail server may take for a small mail, in seconds; it bounds how long a crashed
    attempt blocks its key. `defaults` are the limits of an organisation without its own, `answers_machine`
    says that the mail answers an automatic one. `draft` is what the mail was made of: taken for sending
    together with the send's row, and gone with its record; `Conflict` is raised when it is not any more
    what it says.
    """
    idempotency.check_key(key)
    patience += sizes.patience(sizes.size_of(email))
    attempt = _Attempt(
        inbox=inbox,
        fingerprint=fingerprint,
        key=key,
        email=email,
        patience=patience,
        draft=draft,
        defaults=defaults,
        answers_machine=answers_machine,
    )
    row = await _begin(db, server, attempt)
    if row.answer is not None:
        return Outcome(row.answer, replayed=True)
    email = msgspec.structs.replace(email, message_id=row.message_id)
    submitted = await _submit(db, server, row, email, patience)
    if submitted.refused_by_all:
        raise await _refuse(db, server, row, submitted)
    mail = await as_mail(email, submitted)
    async with recording(db, row) as tx:
        return Outcome(await finish(tx, row, inbox.place, mail, submitted), replayed=False)


async def repeated(
    db: Database, server: MailServer, *, inbox: Inbox, fingerprint: bytes, key: str | None
) -> Outcome | None:
    """The outcome of an earlier request like this one, found out first where it is open; None when
    nothing came of it. For whoever would need what may be gone by now: the draft that was sent, the message
    that was answered, the file behind a URL. Raises as `send`.
    """
    idempotency.check_key(key)
    request = _Request(inbox=inbox, fingerprint=fingerprint, key=key)
    while True:
        async with db.transaction() as tx:
            earlier = await _earlier(tx, request)
            if earlier is None or not (earlier.open or earlier.answer):
                return None
            if earlier.answer is not None:
                await _told(tx, earlier)
                return Outcome(earlier.answer, replayed=True)
        await _settle_first(db, server, earlier)


OWED_OR_DEAD = (
    "(owed_until > now() or (state in ('submitting', 'unknown') and lease_until <= now()))"
)
"""Which requests without a key are still without an answer."""


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    inbox: Inbox
    fingerprint: bytes
    key: str | None


class _Attempt(_Request, frozen=True, kw_only=True):
    email: OutgoingEmail
    patience: float
    draft: Draft | None
    defaults: Limits
    answers_machine: bool

    @property
    def leaving(self) -> Leaving:
        """What policy must know of the mail."""
        return Leaving(
            place=self.inbox.place,
            recipients=self.email.recipients,
            references=(*self.email.references, *self.email.in_reply_to),
            answers_machine=self.answers_machine,
        )

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.patience) + LEASE_MARGIN

    @property
    def labels(self) -> list[str]:
        """The mail's labels, whether or not its copy will have room for them."""
        return sorted(labels.decode_all(self.email.keywords))


async def _begin(db: Database, server: MailServer, attempt: _Attempt) -> Send:
    """The row of this attempt: new, an earlier one with its answer, or one to be tried again. Raises as
    `policy.may_send`, unless there is an earlier one that may have left.
    """
    begun = await _begin_new(db, attempt)
    while begun is None:
        # What is left may be taken by others between the question and the count: ask again.
        with contextlib.suppress(Exhausted):
            async with db.transaction() as tx:
                earlier = await _earlier(tx, attempt)
                if earlier is not None and earlier.state == "sent":
                    await _told(tx, earlier)
                    return earlier
                if earlier is None or not earlier.open:
                    begun = await _write(tx, attempt, earlier)
            if begun is None and earlier is not None:
                await _settle_first(db, server, earlier)
    return begun


async def _begin_new(db: Database, attempt: _Attempt) -> Send | None:
    """A new row, as nearly every attempt needs one: a single statement, committed by itself. None when
    there may be an earlier attempt; a mail that has left is not judged again.
    """
    with contextlib.suppress(Exhausted, *policy.REFUSALS):
        if attempt.draft is None:
            async with db.reading() as tx:
                return await _write(tx, attempt, None)
        async with db.transaction() as tx:
            return await _write(tx, attempt, None)
    return None


async def _write(tx: Tx, attempt: _Attempt, earlier: Send | None) -> Send | None:
    """The row of a mail that may be sent, counted, and its draft taken: a new one, or the one of an earlier
    attempt that came to nothing. None when it repeats another one (see `_earlier`).
    """
    charge = await policy.may_send(tx, attempt.leaving, attempt.defaults)
    with limits.counting():
        if earlier is None:
            begun = await _insert(tx, attempt, charge)
        else:
            begun = await _reopen(tx, earlier, attempt, charge)
    await _take_draft(tx, attempt, begun)
    return begun


async def _take_draft(tx: Tx, attempt: _Attempt, begun: Send | None) -> None:
    """Take the draft in the transaction that begins its send: both, or neither."""
    if attempt.draft is None or begun is None or await drafts.begin_sending(tx, attempt.draft):
        return
    raise Conflict(
        "The draft was changed, or is being sent by another request.",
        fix="Get the draft again, and send what it says now.",
        retry_after=1.0,
    )


async def _settle_first(db: Database, server: MailServer, earlier: Send) -> None:
    claims = await claim(db, earlier.send_id)
    if not claims and earlier.state == "unknown":
        raise Unavailable(
            "It is being found out whether the message was sent.",
            fix="Repeat the request with the same Idempotency-Key: it is never sent twice.",
            retry_after=2.0,
        )
    if not claims:
        remaining = (earlier.lease_until - datetime.now(UTC)).total_seconds()
        raise Conflict(
            "The first request with this Idempotency-Key is still running.",
            fix="Wait for its answer, or repeat the request after Retry-After seconds.",
            retry_after=max(1.0, remaining),
        )
    try:
        await settle_one(db, server, claims[0])
    except MailServerError as error:
        await release(db, claims[0].row)
        raise not_settled(error) from error


async def _earlier(tx: Tx, attempt: _Request) -> Send | None:
    """The row this attempt repeats: by key, or, without one, an unanswered twin of the same request.

    The twin rule is for clients that repeat a request by themselves after a 503, as the SDKs do: until
    one of them was told the outcome, it is owed, whoever found it out.
    """
    if attempt.key is None:
        return await fetch_one(
            tx,
            Send,
            f"select {COLUMNS} from send where organization_id = %(organization_id)s"
            " and inbox_id = %(inbox_id)s and fingerprint = %(fingerprint)s"
            f" and idempotency_key is null and {OWED_OR_DEAD} order by created_at limit 1 for update",
            {
                "organization_id": attempt.inbox.organization_id,
                "inbox_id": attempt.inbox.inbox_id,
                "fingerprint": attempt.fingerprint,
            },
        )
    row = await _keyed(tx, attempt.inbox, attempt.key)
    if row is None:
        await idempotency.ensure_unclaimed(tx, attempt.inbox.organization_id, attempt.key)
        return None
    if _forgotten(row):
        await _forget_key(tx, row)
        return None
    _ensure_same(row, attempt.fingerprint)
    return row


async def _keyed(tx: Tx, inbox: Inbox, key: str) -> Send | None:
    return await fetch_one(
        tx,
        Send,
        f"select {COLUMNS} from send where organization_id = %(organization_id)s"
        " and idempotency_key = %(key)s for update",
        {"organization_id": inbox.organization_id, "key": key},
    )


def _forgotten(row: Send) -> bool:
    return not row.open and row.updated_at < datetime.now(UTC) - idempotency.REMEMBERED


def _ensure_same(row: Send, fingerprint: bytes) -> None:
    if row.fingerprint != fingerprint:
        raise idempotency.used_otherwise()


async def _told(tx: Tx, row: Send) -> None:
    """The outcome is about to be told; the next request like it is another mail."""
    await tx.execute(
        "update send set owed_until = null where send_id = %(send_id)s"
        " and organization_id = %(organization_id)s and owed_until is not null",
        {"send_id": row.send_id, "organization_id": row.organization_id},
    )


async def _forget_key(tx: Tx, row: Send) -> None:
    await tx.execute(
        "update send set idempotency_key = null where send_id = %(send_id)s"
        " and organization_id = %(organization_id)s",
        {"send_id": row.send_id, "organization_id": row.organization_id},
    )


async def _insert(tx: Tx, attempt: _Attempt, charge: Charge) -> Send | None:
    """A new row, or None when this attempt repeats another one (see `_earlier`)."""
    return await fetch_one(
        tx,
        Send,
        "with begun as ("
        "insert into send (send_id, organization_id, inbox_id, account_id, idempotency_key,"
        " fingerprint, message_id, draft_id, labels, mail_state, state, lease_until, recipients,"
        " counted_thread, counted_at, addresses)"
        " select %(send_id)s, %(organization_id)s, %(inbox_id)s, %(account_id)s, %(key)s,"
        " %(fingerprint)s, %(message_id)s, %(draft_id)s, %(labels)s, (select state from inbox_sync"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s),"
        " 'submitting', now() + %(lease)s, cardinality(%(recipients)s::text[]), %(thread_id)s, now(),"
        " %(recipients)s where %(key)s::text is not null or not exists"
        " (select from send where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and fingerprint = %(fingerprint)s"
        f" and idempotency_key is null and {OWED_OR_DEAD})"
        f" on conflict do nothing returning {COLUMNS}), {limits.COUNTING} select {COLUMNS} from begun",
        {
            **charge.parameters,
            "send_id": uuid7(),
            "organization_id": attempt.inbox.organization_id,
            "inbox_id": attempt.inbox.inbox_id,
            "account_id": attempt.inbox.account,
            "key": attempt.key,
            "fingerprint": attempt.fingerprint,
            "message_id": attempt.email.message_id,
            "draft_id": attempt.draft.draft_id if attempt.draft else None,
            "labels": attempt.labels,
            "lease": attempt.lease,
        },
    )


async def _reopen(tx: Tx, row: Send, attempt: _Attempt, charge: Charge) -> Send | None:
    """Try a send again that is known not to have left."""
    return await fetch_one(
        tx,
        Send,
        "with begun as ("
        "update send set state = 'submitting', lease_until = now() + %(lease)s, updated_at = now(),"
        " owed_until = null, labels = %(labels)s, mail_state = (select state from inbox_sync"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s),"
        " recipients = cardinality(%(recipients)s::text[]), counted_thread = %(thread_id)s,"
        " counted_at = now(), addresses = %(recipients)s where send_id = %(send_id)s"
        " and organization_id = %(organization_id)s"
        f" returning {COLUMNS}), {limits.COUNTING} select {COLUMNS} from begun",
        {
            **charge.parameters,
            "send_id": row.send_id,
            "organization_id": row.organization_id,
            "inbox_id": row.inbox_id,
            "labels": attempt.labels,
            "lease": attempt.lease,
        },
    )


async def _submit(
    db: Database, server: MailServer, row: Send, email: OutgoingEmail, patience: float
) -> Submitted:
    try:
        # The mail server's own limits are for each request; the lease is for all of them.
        async with asyncio.timeout(patience):
            return await server.submit(row.account_id, email)
    except TimeoutError as error:
        await close(db, row, "unknown")
        raise no_answer(MailServerUnavailable("No answer in time.", reached=True)) from error
    except MailServerRejected as error:
        await close(db, row, "refused")
        raise _rejection(error) from error
    except MailServerUnavailable as error:
        await close(db, row, "unknown" if error.reached else "abandoned")
        raise no_answer(error) from error
    except MailServerConfused as error:
        await close(db, row, "unknown")
        raise no_answer(error) from error


def _rejection(error: MailServerRejected) -> AgentMailError:
    kind = _REJECTIONS.get(error.code)
    if kind is not None:
        return kind(f"Message rejected: {error.text}")
    if error.code in _MISTAKES:
        field, detail = _MISTAKES[error.code]
        return Invalid(field, f"Message rejected: {error.text}", detail=detail)
    return MessageRejected(f"Message rejected: {error.text}")


async def _refuse(
    db: Database, server: MailServer, row: Send, submitted: Submitted
) -> MessageRejected:
    """Take back the copy of a mail nobody accepts. If that fails, `settle` does it later."""
    try:
        await server.destroy_mail(row.account_id, [submitted.document_id])
    except MailServerError:
        log.warning("send.copy_left", send_id=str(row.send_id))
    else:
        await close(db, row, "refused")
    reasons = "; ".join(f"{each.address}: {each.reply}" for each in submitted.verdicts)
    return MessageRejected(
        f"Message rejected: {reasons}", fix="Check the addresses; nothing was sent."
    )
