"""The row of a send, what it says of the outcome, and how an outcome is recorded.

Owns the table `send`. Threads, index row, event and answer are written in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec
from psycopg.types.json import Jsonb

from agentmail_cp import drafts, extract, limits, messages, outcomes, threads
from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.errors import Unavailable
from agentmail_cp.labels import SEEN
from agentmail_cp.limits import Counted
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    Mail,
    MailServerError,
    MailServerUnavailable,
    MailState,
    OutgoingEmail,
    Submitted,
    Verdict,
)
from agentmail_cp.messages import Place

KEPT = timedelta(days=3)
"""How long a finished row is kept."""
LEASE_MARGIN = timedelta(seconds=3)
SETTLING = timedelta(seconds=30)
"""The lease of whoever finds out what became of a send."""
OWED = timedelta(minutes=10)
"""How long a repeated request without a key gets the outcome its first attempt could not be told."""
State = Literal["submitting", "unknown", "sent", "refused", "abandoned"]
COLUMNS = (
    "send_id, organization_id, inbox_id, account_id, idempotency_key, fingerprint, message_id,"
    " draft_id, labels, mail_state, state, lease_until, document_id, answer, created_at,"
    " updated_at, recipients, counted_thread, counted_at"
)


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
    draft_id: UUID | None
    labels: list[str]
    mail_state: MailState | None
    state: State
    lease_until: datetime
    document_id: DocumentId | None
    answer: Answer | None
    created_at: datetime
    updated_at: datetime
    recipients: int | None
    counted_thread: UUID | None
    counted_at: datetime | None

    @property
    def open(self) -> bool:
        return self.state in ("submitting", "unknown")

    @property
    def counted(self) -> Counted | None:
        """What the limits know of it; None of one that an earlier release began."""
        if self.counted_at is None:
            return None
        return Counted(
            organization_id=self.organization_id,
            inbox_id=self.inbox_id,
            send_id=self.send_id,
            recipients=self.recipients or 0,
            thread_id=self.counted_thread,
            counted_at=self.counted_at,
        )


def no_answer(error: MailServerError) -> Unavailable:
    reached = not isinstance(error, MailServerUnavailable) or error.reached
    retry_after = error.retry_after if isinstance(error, MailServerUnavailable) else 5.0
    return Unavailable(
        "The mail server did not answer; the message may or may not have been sent."
        if reached
        else "The mail server is not answering; nothing was sent.",
        fix="Repeat the request with the same Idempotency-Key: it is never sent twice.",
        retry_after=retry_after,
    )


def not_settled(error: MailServerError) -> Unavailable:
    return Unavailable(
        "The mail server did not answer; it is not known yet whether the message was sent.",
        fix="Repeat the request with the same Idempotency-Key: it is never sent twice.",
        retry_after=getattr(error, "retry_after", 5.0),
    )


@contextlib.asynccontextmanager
async def recording(db: Database, row: Send) -> AsyncGenerator[Tx]:
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


async def close(db: Database, row: Send, state: State) -> None:
    """Decide about a row, unless somebody else took it meanwhile."""
    async with recording(db, row) as tx:
        closed = await tx.execute(
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
        if closed.rowcount == 1 and state in {"abandoned", "refused"}:
            await _came_to_nothing(tx, row, refused=state == "refused")


async def _came_to_nothing(tx: Tx, row: Send, *, refused: bool) -> None:
    """Nothing left: it counts for nothing, and the draft is a draft again."""
    # In this order: whoever begins a send locks the counts, then the draft.
    if row.counted is not None:
        await limits.give_back(tx, row.counted)
    if row.draft_id:
        await drafts.ended(tx, **_draft_of(row), refused=refused)


def _draft_of(row: Send) -> dict[str, Any]:
    return {
        "organization_id": row.organization_id,
        "inbox_id": row.inbox_id,
        "draft_id": row.draft_id,
    }


async def release(db: Database, row: Send) -> None:
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


async def as_mail(email: OutgoingEmail, submitted: Submitted) -> Mail:
    """What the index needs of a mail just sent, without asking for it back."""
    text = email.text
    if text is None and email.html is not None:
        text = await asyncio.to_thread(extract.text_of, email.html)
    return Mail(
        document_id=submitted.document_id,
        folders=frozenset({Folder.SENT}),
        keywords=(email.keywords - submitted.no_room) | {SEEN},
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
        has_attachment=bool(email.attachments),
        preview=extract.preview(text or ""),
    )


async def finish(tx: Tx, row: Send, place: Place, mail: Mail, submitted: Submitted) -> Answer:
    """Record a mail that was handed in: index, thread, recipients, event and answer, all at once."""
    if not await messages.lock(tx, place.organization_id, place.inbox_id):
        return await answer_without_copy(tx, row, submitted.verdicts)
    # Nothing is held back from it: its Message-ID is our own, so no other send's.
    kept = {mail.document_id: frozenset(row.labels)}
    filed = (await messages.record(tx, place, present=[mail], kept=kept))[mail.document_id]
    await outcomes.sent(tx, place, filed, mail.document_id, submitted.verdicts)
    answer = Answer(
        message_id=filed.message_id,
        thread_id=filed.thread_id,
        rejected=refused(submitted.verdicts),
    )
    await store_answer(tx, row, mail.document_id, answer)
    return answer


def refused(verdicts: tuple[Verdict, ...]) -> list[Refused]:
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


class _Intent(msgspec.Struct, frozen=True):
    addresses: list[str]


async def is_under_way(
    tx: Tx, inbox_id: UUID, message_id: str, recipients: Collection[str]
) -> bool:
    """Whether the inbox is sending this mail (Message-ID without brackets) to these addresses right now. Once
    nobody waits for its answer any more it is not: whether it left is being found out by then.
    """
    found = await fetch_all(
        tx,
        _Intent,
        "select coalesce(addresses, '{}') as addresses from send where inbox_id = %(inbox_id)s"
        " and message_id = %(message_id)s and state = 'submitting' and lease_until > now()",
        {"inbox_id": inbox_id, "message_id": message_id},
    )
    return any(covers(each.addresses, recipients) for each in found)


def covers(intended: Collection[str], envelope: Collection[str]) -> bool:
    """Whether an envelope may be what became of the recipients that were meant. The mail server leaves out
    those it refuses, and puts mailboxes in the place of their aliases: nobody is added otherwise. Pure.
    """
    meant, found = set(intended), {each.lower() for each in envelope}
    return found <= meant or bool(meant - found)


async def store_answer(tx: Tx, row: Send, document_id: DocumentId | None, answer: Answer) -> None:
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
    if row.draft_id:
        await drafts.sent(tx, **_draft_of(row))


async def forget_old(tx: Tx) -> int:
    """Remove finished rows older than `KEPT`; returns how many."""
    cursor = await tx.execute(
        "delete from send where created_at < now() - %(kept)s"
        " and state in ('sent', 'refused', 'abandoned')",
        {"kept": KEPT},
    )
    return cursor.rowcount


async def answer_without_copy(tx: Tx, row: Send, verdicts: tuple[Verdict, ...]) -> Answer:
    """The mail left, but its copy or its whole inbox was deleted before it could be recorded."""
    thread_id = threads.named_after(row.inbox_id, row.message_id)
    answer = Answer(f"<{row.message_id}>", thread_id, refused(verdicts))
    await store_answer(tx, row, None, answer)
    return answer
