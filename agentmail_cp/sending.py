"""Sending: one mail, handed in effectively once.

Owns the table `send`: one row per send, written before the mail server is asked, without a body.
`submitting` → `sent` | `refused` | `abandoned`; `unknown` when no answer came or whoever submitted it
is gone. A row whose `lease_until`
has passed in `submitting` or `unknown` is settled before anything is sent again: `find_own` looks for the
copy by its Message-ID, never in a search index. `lease_until` also tells attempts apart: who took a row
with another one no longer decides about it. Threads, index row and event are written together when the
outcome is known. Nothing is ever handed in from here without a row.

What can fail, what the caller gets, and what happens next:

=====================================  ==========================  =====================================
failure                                answer                      next
=====================================  ==========================  =====================================
bad input                              400 / 422                   nothing was written
same key, other body, inbox, endpoint  409 `conflict`              nothing was written
same key, first attempt still running  409, `Retry-After`          the first attempt answers
refused for every recipient            403 `message_rejected`      copy destroyed; `refused`; key is free
refused for some recipients            200, `rejected` names them  `sent`
refused as a whole (size, sender …)    400 / 403                   nothing stored; `refused`; key is free
Stalwart away before the request       503, `Retry-After`          `abandoned`; nothing sent; key is free
no answer to the request               503, `Retry-After`          `unknown`; settled on the next try with
                                                                   the same key or body, else by the job,
                                                                   and such a try gets that outcome
answer not understood                  503, `Retry-After`          `unknown`, as above
PostgreSQL away before the request     503, `Retry-After`          nothing was written, nothing sent
PostgreSQL away after the request      503, `Retry-After`          `submitting`, settled after its lease
crash before the request               connection lost             lease ends: no copy → `abandoned`
crash after the copy was stored        connection lost             lease ends: copy destroyed, `abandoned`
crash after the mail was handed in     connection lost             lease ends: recorded, `sent`, event
crash after a refusal for all          connection lost             lease ends: copy destroyed, `refused`
crash after recording                  connection lost             same key: the recorded answer
=====================================  ==========================  =====================================
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec
import structlog
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from agentmail_cp import extract, messages, threads
from agentmail_cp.compose import SendMessage, compose_send, new_message_id
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.errors import (
    AgentMailError,
    Conflict,
    Forbidden,
    Invalid,
    MessageRejected,
    Unavailable,
)
from agentmail_cp.inboxes import TOKEN, Inbox
from agentmail_cp.labels import SEEN
from agentmail_cp.mailserver import (
    AccountId,
    Address,
    DocumentId,
    Folder,
    FoundMail,
    Mail,
    MailServer,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    OutgoingEmail,
    Refusal,
    Relabel,
    Submitted,
    Verdict,
)
from agentmail_cp.messages import Place

log = structlog.stdlib.get_logger(__name__)

REMEMBERED = timedelta(hours=24)
"""How long an Idempotency-Key is remembered."""

KEPT = timedelta(days=3)
"""How long a finished row is kept."""

LEASE_MARGIN = timedelta(seconds=3)

SETTLING = timedelta(seconds=30)
"""The lease of whoever finds out what became of a send."""

SECOND_LOOK = 1.0
"""Seconds between two looks for a mail that was not handed in: a mail server that was frozen may, when
it wakes, still carry out a request nobody waits for any more."""

OWED = timedelta(minutes=10)
"""How long a repeated request without a key gets the outcome its first attempt could not be told."""

SETTLED_AT_ONCE = 16

_rng = random.SystemRandom()

State = Literal["submitting", "unknown", "sent", "refused", "abandoned"]


class Refused(msgspec.Struct, frozen=True):
    """A recipient the mail server did not take, and its SMTP reply."""

    address: str
    reason: str


class Answer(msgspec.Struct, frozen=True):
    """What the caller of a send gets, now and when it repeats the request."""

    message_id: str
    thread_id: UUID
    rejected: list[Refused]


class Outcome(msgspec.Struct, frozen=True):
    """An answer, and whether it was given before."""

    answer: Answer
    replayed: bool


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    send_id: UUID
    organization_id: UUID
    inbox_id: UUID
    account_id: AccountId
    idempotency_key: str | None
    fingerprint: bytes
    message_id: str
    mail_state: MailState | None
    state: State
    lease_until: datetime
    document_id: DocumentId | None
    answer: Answer | None
    created_at: datetime

    @property
    def live(self) -> bool:
        return self.state == "submitting" and self.lease_until > datetime.now(UTC)

    @property
    def open(self) -> bool:
        return self.state in ("submitting", "unknown")


_COLUMNS = (
    "send_id, organization_id, inbox_id, account_id, idempotency_key, fingerprint, message_id,"
    " mail_state, state, lease_until, document_id, answer, created_at"
)


def check_idempotency_key(key: str | None) -> None:
    """Raise `Invalid` unless the key is absent or 1 to 256 of A-Z a-z 0-9 - . _ ~."""
    if key is None:
        return
    if not TOKEN.fullmatch(key):
        raise Invalid(
            "Idempotency-Key",
            "This Idempotency-Key does not fit.",
            fix="Use 1 to 256 characters out of A-Z a-z 0-9 - . _ ~",
        )


async def send(
    db: Database,
    server: MailServer,
    *,
    inbox: Inbox,
    message: SendMessage,
    fingerprint: bytes,
    key: str | None,
    patience: float,
) -> Outcome:
    """Send a mail from an inbox and record it. The module's table lists every failure.

    `fingerprint` (`compose.fingerprint`) tells a repeated request from another one under the same key;
    `patience` is the longest the mail server may take, in seconds; it bounds how long a crashed attempt
    blocks its key.
    """
    check_idempotency_key(key)
    email = compose_send(
        message,
        sender=Address(inbox.address, inbox.display_name),
        message_id=new_message_id(inbox.domain, _rng),
        # Stalwart keeps whole seconds; order within one is told by document ids.
        now=datetime.now(UTC).replace(microsecond=0),
    )
    row = await _begin(
        db,
        server,
        _Attempt(inbox, email, fingerprint, key, patience),
    )
    if row.answer is not None:
        return Outcome(row.answer, replayed=True)
    email = msgspec.structs.replace(email, message_id=row.message_id)
    submitted = await _submit(db, server, row, email, patience)
    if submitted.refused_by_all:
        raise await _refuse(db, server, row, submitted)
    mail = await _as_mail(email, submitted)
    async with _recording(db, row) as tx:
        return Outcome(await _finish(tx, row, inbox.place, mail, submitted), replayed=False)


class _Attempt(msgspec.Struct, frozen=True):
    inbox: Inbox
    email: OutgoingEmail
    fingerprint: bytes
    key: str | None
    patience: float

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.patience) + LEASE_MARGIN


async def _begin(db: Database, server: MailServer, attempt: _Attempt) -> Send:
    """The row of this attempt: new, an earlier one with its answer, or one to be tried again."""
    while True:
        async with db.transaction() as tx:
            earlier = await _earlier(tx, attempt)
            if earlier is None:
                begun = await _insert(tx, attempt)
            elif earlier.state == "sent":
                await _told(tx, earlier)
                return earlier
            elif earlier.open:
                begun = None
            else:
                begun = await _reopen(tx, earlier, attempt)
        if begun is not None:
            return begun
        if earlier is not None:
            await _settle_first(db, server, earlier)


async def _settle_first(db: Database, server: MailServer, earlier: Send) -> None:
    claims = await _claim(db, earlier.send_id)
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
        await _release(db, claims[0].row)
        raise _not_settled(error) from error


async def _earlier(tx: Tx, attempt: _Attempt) -> Send | None:
    """The row this attempt repeats: by key, or, without one, an unanswered twin of the same request.

    The twin rule is for clients that repeat a request by themselves after a 503, as the SDKs do: until
    one of them was told the outcome, it is owed, whoever found it out.
    """
    if attempt.key is None:
        return await fetch_one(
            tx,
            Send,
            f"select {_COLUMNS} from send where organization_id = %(organization_id)s"
            " and inbox_id = %(inbox_id)s and fingerprint = %(fingerprint)s"
            " and idempotency_key is null and (owed_until > now()"
            " or (state in ('submitting', 'unknown') and lease_until <= now()))"
            " order by created_at limit 1 for update",
            {
                "organization_id": attempt.inbox.organization_id,
                "inbox_id": attempt.inbox.inbox_id,
                "fingerprint": attempt.fingerprint,
            },
        )
    row = await fetch_one(
        tx,
        Send,
        f"select {_COLUMNS} from send where organization_id = %(organization_id)s"
        " and idempotency_key = %(key)s for update",
        {"organization_id": attempt.inbox.organization_id, "key": attempt.key},
    )
    if row is None:
        return None
    if not row.open and row.created_at < datetime.now(UTC) - REMEMBERED:
        await _forget_key(tx, row)
        return None
    if row.fingerprint != attempt.fingerprint:
        raise Conflict(
            "This Idempotency-Key was used with another body, inbox or endpoint.",
            fix="Use a new key for a new message.",
        )
    return row


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


async def _insert(tx: Tx, attempt: _Attempt) -> Send | None:
    """A new row, or None when a concurrent request with the same key was first."""
    return await fetch_one(
        tx,
        Send,
        "insert into send (send_id, organization_id, inbox_id, account_id, idempotency_key,"
        " fingerprint, message_id, mail_state, state, lease_until)"
        " values (%(send_id)s, %(organization_id)s, %(inbox_id)s, %(account_id)s, %(key)s,"
        " %(fingerprint)s, %(message_id)s, (select state from inbox_sync"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s),"
        " 'submitting', now() + %(lease)s)"
        f" on conflict do nothing returning {_COLUMNS}",
        {
            "send_id": uuid7(),
            "organization_id": attempt.inbox.organization_id,
            "inbox_id": attempt.inbox.inbox_id,
            "account_id": attempt.inbox.account,
            "key": attempt.key,
            "fingerprint": attempt.fingerprint,
            "message_id": attempt.email.message_id,
            "lease": attempt.lease,
        },
    )


async def _reopen(tx: Tx, row: Send, attempt: _Attempt) -> Send | None:
    """Try a send again that is known not to have left."""
    return await fetch_one(
        tx,
        Send,
        "update send set state = 'submitting', lease_until = now() + %(lease)s, updated_at = now(),"
        " owed_until = null, mail_state = (select state from inbox_sync where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s)"
        " where send_id = %(send_id)s and organization_id = %(organization_id)s"
        f" returning {_COLUMNS}",
        {
            "send_id": row.send_id,
            "organization_id": row.organization_id,
            "inbox_id": row.inbox_id,
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
        await _close(db, row, "unknown")
        raise _no_answer(MailServerUnavailable("No answer in time.", reached=True)) from error
    except MailServerRejected as error:
        await _close(db, row, "refused")
        raise _rejection(error) from error
    except MailServerUnavailable as error:
        await _close(db, row, "unknown" if error.reached else "abandoned")
        raise _no_answer(error) from error
    except MailServerConfused as error:
        await _close(db, row, "unknown")
        raise _no_answer(error) from error


def _no_answer(error: MailServerError) -> Unavailable:
    reached = not isinstance(error, MailServerUnavailable) or error.reached
    retry_after = error.retry_after if isinstance(error, MailServerUnavailable) else 5.0
    return Unavailable(
        "The mail server did not answer; the message may or may not have been sent."
        if reached
        else "The mail server is not answering; nothing was sent.",
        fix="Repeat the request with the same Idempotency-Key: it is never sent twice.",
        retry_after=retry_after,
    )


def _not_settled(error: MailServerError) -> Unavailable:
    return Unavailable(
        "The mail server did not answer; it is not known yet whether the message was sent.",
        fix="Repeat the request with the same Idempotency-Key: it is never sent twice.",
        retry_after=getattr(error, "retry_after", 5.0),
    )


_REJECTIONS: dict[Refusal, type[AgentMailError]] = {
    Refusal.SENDER_NOT_ALLOWED: MessageRejected,
    Refusal.FORBIDDEN: MessageRejected,
    Refusal.OVER_QUOTA: Forbidden,
}


def _rejection(error: MailServerRejected) -> AgentMailError:
    kind = _REJECTIONS.get(error.code)
    if kind is not None:
        return kind(f"Message rejected: {error.text}")
    if error.code in (Refusal.TOO_LARGE, Refusal.TOO_MANY_RECIPIENTS, Refusal.INVALID_MAIL):
        field = "to" if error.code is Refusal.TOO_MANY_RECIPIENTS else "body"
        return Invalid(field, f"Message rejected: {error.text}", detail=error.code.upper())
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
        await _close(db, row, "refused")
    reasons = "; ".join(f"{each.address}: {each.reply}" for each in submitted.verdicts)
    return MessageRejected(
        f"Message rejected: {reasons}", fix="Check the addresses; nothing was sent."
    )


@contextlib.asynccontextmanager
async def _recording(db: Database, row: Send) -> AsyncGenerator[Tx]:
    """A transaction after the mail server was asked. If PostgreSQL is away, nobody may try this send
    again before its lease is over: `Unavailable` then says to wait for that long.
    """
    try:
        async with db.transaction() as tx:
            yield tx
    except Unavailable as error:
        remaining = (row.lease_until - datetime.now(UTC)).total_seconds()
        raise Unavailable(
            "The database is not answering; the message may or may not have been sent.",
            fix="Repeat the request after Retry-After seconds: it is never sent twice.",
            retry_after=max(error.retry_after, remaining + 1.0),
        ) from error


async def _close(db: Database, row: Send, state: State) -> None:
    """Decide about a row, unless somebody else took it meanwhile."""
    async with _recording(db, row) as tx:
        await tx.execute(
            "update send set state = %(state)s, updated_at = now(),"
            " lease_until = least(lease_until, now()),"
            " owed_until = case when %(state)s = 'unknown' then now() + %(owed)s else owed_until end"
            " where send_id = %(send_id)s and organization_id = %(organization_id)s"
            " and state in ('submitting', 'unknown') and lease_until = %(lease_until)s",
            {
                "state": state,
                "owed": OWED,
                "send_id": row.send_id,
                "organization_id": row.organization_id,
                "lease_until": row.lease_until,
            },
        )


async def _release(db: Database, row: Send) -> None:
    """Give a claim back: the mail server could not be asked."""
    async with db.transaction() as tx:
        await tx.execute(
            "update send set lease_until = now() where send_id = %(send_id)s"
            " and organization_id = %(organization_id)s and lease_until = %(lease_until)s",
            {
                "send_id": row.send_id,
                "organization_id": row.organization_id,
                "lease_until": row.lease_until,
            },
        )


async def _as_mail(email: OutgoingEmail, submitted: Submitted) -> Mail:
    """What the index needs of a mail just sent, without asking for it back."""
    text = email.text
    if text is None and email.html is not None:
        text = await asyncio.to_thread(extract.text_of, email.html)
    return Mail(
        document_id=submitted.document_id,
        folders=frozenset({Folder.SENT}),
        keywords=email.keywords | {SEEN},
        received_at=email.date,
        sent_at=email.date,
        message_id=email.message_id,
        in_reply_to=email.in_reply_to,
        references=email.references,
        subject=email.subject,
        sender=email.sender,
        to=email.to,
        cc=email.cc,
        bcc=email.bcc,
        reply_to=email.reply_to,
        size=submitted.size,
        has_attachment=any(not each.inline for each in email.attachments),
        preview=extract.preview(text or ""),
    )


async def _finish(tx: Tx, row: Send, place: Place, mail: Mail, submitted: Submitted) -> Answer:
    """Record a mail that was handed in: index, thread, event and answer, all at once."""
    if not await messages.lock(tx, place.organization_id, place.inbox_id):
        return await _answer_without_copy(tx, row, submitted.verdicts)
    held = await live_message_ids(tx, place) - {row.message_id}
    filed = (await messages.record(tx, place, present=[mail], held=held))[mail.document_id]
    answer = Answer(
        message_id=filed.message_id,
        thread_id=filed.thread_id,
        rejected=_refused(submitted.verdicts),
    )
    await _store_answer(tx, row, mail.document_id, answer)
    return answer


def _refused(verdicts: tuple[Verdict, ...]) -> list[Refused]:
    return [Refused(each.address, each.reply) for each in verdicts if not each.accepted]


async def live_message_ids(tx: Tx, place: Place) -> frozenset[str]:
    """Message-IDs of the inbox's sends whose outcome is not recorded yet, and of those just taken back:
    what intake read a moment ago may still show their copies.
    """
    rows = await (
        await tx.execute(
            "select message_id from send where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and state <> 'sent'"
            " and (state in ('submitting', 'unknown') or updated_at > now() - interval '1 min')",
            {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
        )
    ).fetchall()
    return frozenset(row["message_id"] for row in rows)


class _Claimed(msgspec.Struct, frozen=True):
    row: Send
    place: Place


async def _claim(db: Database, send_id: UUID | None = None) -> list[_Claimed]:
    """Take open rows whose lease is over, so that one process alone settles them."""
    async with db.transaction() as tx:
        rows = await fetch_all(
            tx,
            Send,
            "update send set state = 'unknown', lease_until = now() + %(lease)s,"
            " owed_until = coalesce(owed_until, now() + %(owed)s) where send_id in ("
            " select send_id from send where state in ('submitting', 'unknown')"
            " and lease_until <= now() and send_id = coalesce(%(send_id)s::uuid, send_id)"
            " order by lease_until limit %(most)s for update skip locked)"
            f" returning {_COLUMNS}",
            {"lease": SETTLING, "owed": OWED, "send_id": send_id, "most": SETTLED_AT_ONCE},
        )
        return [_Claimed(row, await _place(tx, row)) for row in rows]


async def _place(tx: Tx, row: Send) -> Place:
    places = await fetch_all(
        tx,
        Place,
        "select inbox_id, organization_id, pod_id, domain from inbox"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        {"inbox_id": row.inbox_id, "organization_id": row.organization_id},
    )
    return places[0]


async def settle_one(db: Database, server: MailServer, claimed: _Claimed) -> None:
    """Find out what became of one send, and record it. Repeating has no effect."""
    row = claimed.row
    found = await _find_surely(server, row)
    if found is None:
        await _close(db, row, "abandoned")
        return
    if found.submitted is None or found.submitted.refused_by_all:
        await server.destroy_mail(row.account_id, [found.document_id])
        await _close(db, row, "abandoned" if found.submitted is None else "refused")
        return
    mails = await _filed(server, row, found.document_id)
    async with db.transaction() as tx:
        for mail in mails:
            await _finish(tx, row, claimed.place, mail, found.submitted)
        if not mails:
            await _answer_without_copy(tx, row, found.submitted.verdicts)


async def _filed(server: MailServer, row: Send, document_id: DocumentId) -> tuple[Mail, ...]:
    """The copy of a mail that was handed in; moved to Sent where the mail server did not get to it."""
    mails = await server.fetch(row.account_id, [document_id])
    if not any(Folder.DRAFTS in mail.folders for mail in mails):
        return mails
    move = Relabel(document_id, remove=frozenset({"$draft"}), move_to=Folder.SENT)
    await server.relabel(row.account_id, [move])
    return await server.fetch(row.account_id, [document_id])


async def _answer_without_copy(tx: Tx, row: Send, verdicts: tuple[Verdict, ...]) -> Answer:
    """The mail left, but its copy or its whole inbox was deleted before it could be recorded."""
    thread_id = threads.named_after(row.inbox_id, row.message_id)
    answer = Answer(f"<{row.message_id}>", thread_id, _refused(verdicts))
    await _store_answer(tx, row, None, answer)
    return answer


async def _store_answer(tx: Tx, row: Send, document_id: DocumentId | None, answer: Answer) -> None:
    await tx.execute(
        "update send set state = 'sent', document_id = %(document_id)s, answer = %(answer)s,"
        " updated_at = now() where send_id = %(send_id)s and organization_id = %(organization_id)s",
        {
            "document_id": document_id,
            "answer": Jsonb(answer),
            "send_id": row.send_id,
            "organization_id": row.organization_id,
        },
    )


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
    while claims := await _claim(db):
        outcomes = await asyncio.gather(
            *(_settle_claimed(db, server, claimed) for claimed in claims), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            settled += outcome
    return settled


async def _settle_claimed(db: Database, server: MailServer, claimed: _Claimed) -> bool:
    row = claimed.row
    try:
        await settle_one(db, server, claimed)
    except MailServerUnavailable:
        await _release(db, row)
        raise
    except (MailServerRejected, MailServerConfused) as error:
        log.error("send.not_settled", send_id=str(row.send_id), reason=str(error))
        return False
    log.info("send.settled", send_id=str(row.send_id))
    return True


async def forget_old(tx: Tx) -> int:
    """Remove finished rows older than `KEPT`; returns how many."""
    cursor = await tx.execute(
        "delete from send where created_at < now() - %(kept)s"
        " and state in ('sent', 'refused', 'abandoned')",
        {"kept": KEPT},
    )
    return cursor.rowcount
