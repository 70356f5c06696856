"""Mail that a client hands in over SMTP: that it shows up as sent, in its thread, exactly once.

Stalwart saves no copy of such a mail, mail clients save their own a moment later, scripts save none. So
when Stalwart asks about the mail (`take`), its bytes are put aside and a row is written before the client
hears that it was sent. After a while (`settle`) either the client's copy is in Sent, or ours is put there.
If the client's comes later still, ours is removed; the message in the index stays, and points to the other
copy from then on.

Owns the table `submission`. A row is `pending` until the mail is in the index, then `imported` (by our
copy, `document_id`) or `done` (by the client's); an imported one becomes done when the client's copy comes.
`due_at` is when to look next, and tells attempts apart: who took a row with another one no longer decides
about it. Our copies carry the keyword `$sent`; while a row is pending nobody but `settle` records one.
Until the mail is filed its Message-ID is kept free: a mail to oneself is received first. Rows are
forgotten a day after the mail; from then on a copy that shows up is a message of its own.
Never sends, refuses or changes a mail, but for giving it a Message-ID.

What can fail, and what happens then:

========================================  ==============================================================
failure                                   then
========================================  ==============================================================
we, PostgreSQL or JMAP away when asked    the client is told to try again (4xx); nothing shows up
crash before the row was written          as above; the upload is thrown away by Stalwart
crash, or no answer, after the row        as above, but the mail shows up as sent when it is due: the
                                          client's next try has the same Message-ID, and no second row
refused by Stalwart after our answer      the same: its queue is full (452) or cannot be written (451)
the client tries again, mail queued       one row; its recipients may get two mails, as ever in SMTP
the same Message-ID handed in twice       one row
crash while a row is looked at            taken up again after its lease; what is in Sent is looked at
crash after our copy was put into Sent    it is found by its keyword, recorded then, not put there again
our copy put there twice, unknowingly     intake sees the other one, and all but one are removed
client's copy comes while ours is put     both found, ours is removed
client's copy comes after ours            intake moves the message to it, then ours is removed
crash before ours is removed              the row is still due: removed then
the message deleted meanwhile             not put there again
mail server away when due                 tried again every second
inbox deleted meanwhile                   done
nobody looked for a day                   Stalwart has thrown the upload away: lost, and logged as an error
========================================  ==============================================================
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter
from uuid_utils.compat import uuid7

from agentmail_cp import filing, messages
from agentmail_cp.compose import new_message_id
from agentmail_cp.copies import Copies
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.errors import Unavailable
from agentmail_cp.inboxes import inbox_uuid
from agentmail_cp.labels import SEEN, SENT_KEYWORD
from agentmail_cp.mailserver import (
    AccountId,
    BlobId,
    DocumentId,
    Folder,
    Mail,
    MailServer,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    Refusal,
    Relabel,
)
from agentmail_cp.messages import Place

log = structlog.stdlib.get_logger(__name__)

WATCHED = timedelta(hours=24)
"""How long after a mail was handed in its client may still come with a copy."""

LEASE = timedelta(seconds=30)
"""How long a worker may take for one row before another takes it up."""

AT_ONCE = 16
"""Rows one look takes."""

PATIENCE = 25.0
"""Seconds a question may take: less than Stalwart waits (stalwart-config/hook.toml), so that no row is
written of which the client does not hear."""

LOOK = 0.5
"""Seconds between two looks for rows that are due."""

AGAIN = timedelta(seconds=1)
"""When to look again at a row that has to wait for something."""

VISIBLE = frozenset({"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"})
"""Headers that name recipients."""

HANDED_IN = Counter(
    "agentmail_submissions",
    "Mails handed in over SMTP, by what was done: taken, or once due kept, imported, replaced, lost.",
    ["outcome"],
)

_rng = random.SystemRandom()
_ID = re.compile(r"\s*<([^<>\r\n]+)>")
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"]+@[^\s<>()\[\],;:\"]+")
_BARE_ID = re.compile(r"\s*([^<>\s()\"]+)\s*")

State = Literal["pending", "imported", "done"]


class HandedIn(msgspec.Struct, frozen=True, kw_only=True):
    """A mail as its client handed it in. `login` is the address of the account, `recipients` is the SMTP
    envelope. `headers` are raw values with their line ends, `body` is all that follows.
    """

    login: str
    recipients: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, *names: str) -> list[str]:
        """The values of all headers with one of these names (lower case), in order."""
        return [value for name, value in self.headers if name.lower() in names]


class GivenId(msgspec.Struct, frozen=True):
    """The Message-ID a mail must get, without brackets. `replaces`: it has one that is none."""

    message_id: str
    replaces: bool


def message_id_of(mail: HandedIn) -> str | None:
    """The Message-ID without brackets, as Stalwart reads it; None when there is none to find it by."""
    for value in mail.values("message-id")[:1]:
        found = _ID.match(value) or _BARE_ID.fullmatch(value)
        if found and filing.usable(found[1]):
            return found[1]
    return None


def hidden_recipients(mail: HandedIn) -> tuple[str, ...]:
    """Whom the envelope names and no header does: blind copies (RFC 5322 section 3.6.3)."""
    # Not taken apart: what matters is who could be read there, in however broken a header.
    named = set(_ADDRESS.findall(" ".join(mail.values(*VISIBLE)).lower()))
    return tuple(dict.fromkeys(to for to in mail.recipients if to.lower() not in named))


def copy_of(mail: HandedIn, given: GivenId | None, now: datetime) -> bytes:
    """What belongs into Sent: the mail as it was handed in, with the Message-ID and Date it is sent
    with, and with a Bcc header for the blind copies, which the mail that is sent never has.
    """
    added: list[str] = []
    if given is not None:
        added.append(f"Message-ID: <{given.message_id}>\r\n")
    if not mail.values("date"):
        added.append(f"Date: {format_datetime(now)}\r\n")
    if hidden := ",\r\n ".join(hidden_recipients(mail)):
        added.append(f"Bcc: {hidden}\r\n")
    kept = [
        f"{name}:{value}"
        for name, value in mail.headers
        if not (given is not None and name.lower() == "message-id")
    ]
    head = "".join(added + kept)
    return f"{head}\r\n".encode("utf-8", "replace") + mail.body


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
    blob_id = await server.upload(owner.account_id, raw, "message/rfc822")
    async with db.reading() as tx:
        await _insert(tx, owner, message_id, blob_id, delay)
    HANDED_IN.labels("taken").inc()
    return given


async def _owner(tx: Tx, login: str, message_id: str | None) -> _Owner | None:
    """The active inbox behind a login, and whether it has handed in this Message-ID before."""
    return await fetch_one(
        tx,
        _Owner,
        "select inbox_id, inbox.organization_id, inbox.account_id, domain,"
        " inbox_sync.state as mail_state, exists (select from submission"
        " where submission.inbox_id = inbox.inbox_id and message_id = %(message_id)s) as taken"
        " from inbox join inbox_sync using (inbox_id)"
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


class _Copy(msgspec.Struct, frozen=True):
    message_id: str
    document_id: DocumentId | None


async def copies(tx: Tx, place: Place, present: Sequence[Mail]) -> Copies:
    """Which of these mails' Message-IDs were handed in over SMTP, and our copy of each, if there is one:
    what `messages.record` must know of them.
    """
    ids = {mail.message_id for mail in present if filing.usable(mail.message_id)}
    if not ids:
        return {}
    rows = await fetch_all(
        tx,
        _Copy,
        "select message_id, document_id from submission where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and message_id = any(%(message_ids)s)",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "message_ids": list(ids),
        },
    )
    return {row.message_id: row.document_id for row in rows}


async def note(tx: Tx, place: Place, present: Iterable[Mail], known: Copies) -> None:
    """Have a look at submissions of which another copy than ours was just seen in Sent. `known` is what
    `copies` said. The caller holds the inbox's lock.
    """
    odd = {name for mail in present if (name := mail.message_id) and _is_odd(mail, known)}
    if not odd:
        return
    await tx.execute(
        "update submission set due_at = now() where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and message_id = any(%(message_ids)s)"
        " and state <> 'pending'",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "message_ids": list(odd),
        },
    )


def _is_odd(mail: Mail, known: Copies) -> bool:
    if mail.message_id is None or mail.message_id not in known or Folder.SENT not in mail.folders:
        return False
    ours = known[mail.message_id]
    return mail.document_id != ours and (ours is not None or SENT_KEYWORD in mail.keywords)


class _Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A row this worker looks at. `pod_id` and `domain` are its inbox's."""

    submission_id: UUID
    organization_id: UUID
    inbox_id: UUID
    account_id: AccountId
    message_id: str
    blob_id: BlobId
    mail_state: MailState | None
    state: State
    document_id: DocumentId | None
    due_at: datetime
    created_at: datetime
    pod_id: UUID
    domain: str

    @property
    def place(self) -> Place:
        return Place(self.inbox_id, self.organization_id, self.pod_id, self.domain)

    @property
    def old(self) -> bool:
        return self.created_at < datetime.now(UTC) - WATCHED


class _Copies(msgspec.Struct, frozen=True):
    """The copies in Sent: the client's, and ours. `elsewhere`: the index shows another than ours."""

    theirs: list[Mail]
    ours: list[Mail]
    elsewhere: bool
    shown: bool

    @property
    def saved_by_client(self) -> bool:
        return self.elsewhere or bool(self.theirs)


class _LeaseLost(Exception):
    """Another worker took the row up."""


async def settle(db: Database, server: MailServer) -> int:
    """Look at every submission that is due; returns how many were.

    One that cannot be settled waits; raises `MailServerUnavailable` when none can.
    """
    looked_at = 0
    while claims := await _claim(db):
        outcomes = await asyncio.gather(
            *(_settle_claimed(db, server, row) for row in claims), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        looked_at += len(claims)
    return looked_at


async def _claim(db: Database) -> list[_Claimed]:
    """Take rows that are due, so that one process alone looks at them."""
    async with db.transaction() as tx:
        return await fetch_all(tx, _Claimed, _CLAIM, {"lease": LEASE, "most": AT_ONCE})


_CLAIM = """
with picked as (
    select submission_id from submission where due_at <= now()
    order by due_at limit %(most)s for update skip locked
)
update submission set due_at = now() + %(lease)s
from picked, inbox
where submission.submission_id = picked.submission_id and inbox.inbox_id = submission.inbox_id
returning submission.submission_id, submission.organization_id, submission.inbox_id,
    submission.account_id, message_id, blob_id, mail_state, submission.state, document_id, due_at,
    submission.created_at, inbox.pod_id, inbox.domain
"""


async def _settle_claimed(db: Database, server: MailServer, row: _Claimed) -> None:
    try:
        await _settle_one(db, server, row)
    except MailServerUnavailable:
        await _close(db, row, row.state, again=True)
        raise
    except MailServerRejected as error:
        await _refused(db, row, error)
    except MailServerConfused as error:
        log.error("submission.not_settled", submission_id=str(row.submission_id), reason=str(error))
    except _LeaseLost:
        log.warning("submission.lease_lost", submission_id=str(row.submission_id))


async def _settle_one(db: Database, server: MailServer, row: _Claimed) -> None:
    found = await _look(db, server, row)
    if row.state == "pending" and not found.saved_by_client:
        await _file(db, server, row, found.ours)
    elif row.state == "imported" and found.shown:
        await _keep(db, server, row, found)
    elif found.saved_by_client:
        await _give_way(db, server, row, found)
    else:
        await _close(db, row, row.state)


async def _look(db: Database, server: MailServer, row: _Claimed) -> _Copies:
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


def _is_ours(mail: Mail, row: _Claimed) -> bool:
    return mail.document_id == row.document_id or SENT_KEYWORD in mail.keywords


async def _indexed(tx: Tx, row: _Claimed) -> set[DocumentId | None]:
    """The documents the index shows of this mail as sent."""
    rows = await (
        await tx.execute(
            "select document_id from message where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and direction = 'sent'"
            " and (message_id = %(message_id)s or document_id = %(document_id)s)",
            {
                "inbox_id": row.inbox_id,
                "organization_id": row.organization_id,
                "message_id": f"<{row.message_id}>",
                "document_id": row.document_id,
            },
        )
    ).fetchall()
    return {found["document_id"] for found in rows}


async def _file(db: Database, server: MailServer, row: _Claimed, ours: Sequence[Mail]) -> None:
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
            await _set(tx, row, "done")
            return
        filed = await messages.record(
            tx, row.place, present=mails, copies={row.message_id: document_id}
        )
        # Not filed: the client's copy came at this moment. Two of ours: one has to go.
        again = document_id not in filed or len(ours) > 1
        await _set(tx, row, "imported", document_id, again=again)
    HANDED_IN.labels("imported").inc()


async def _keep(db: Database, server: MailServer, row: _Claimed, found: _Copies) -> None:
    """Ours is shown. Where the client's has come, intake moves the message to it, then we look again."""
    extra = [mail.document_id for mail in found.ours if mail.document_id != row.document_id]
    if extra:
        await server.destroy_mail(row.account_id, extra)
    await _close(db, row, "imported", again=bool(found.theirs))


async def _give_way(db: Database, server: MailServer, row: _Claimed, found: _Copies) -> None:
    """The client saved its own copy: ours goes, and what was done to it is done to the other."""
    keywords = frozenset[str]().union(*(mail.keywords for mail in found.ours)) - {SENT_KEYWORD}
    if row.state == "imported" and keywords:
        changes = [Relabel(mail.document_id, add=keywords) for mail in found.theirs[:1]]
        await _relabel(server, row, changes)
    if found.ours:
        await server.destroy_mail(row.account_id, [mail.document_id for mail in found.ours])
    await _close(db, row, "done")
    HANDED_IN.labels("replaced" if found.ours else "kept").inc()


async def _relabel(server: MailServer, row: _Claimed, changes: Sequence[Relabel]) -> None:
    try:
        await server.relabel(row.account_id, changes)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_MAIL:
            raise


_FOR_GOOD = {Refusal.NO_BLOB, Refusal.INVALID_MAIL, Refusal.TOO_LARGE}


async def _refused(db: Database, row: _Claimed, error: MailServerRejected) -> None:
    """The mail server does not take our copy."""
    if error.code is Refusal.NO_ACCOUNT:
        await _close(db, row, "done")
        return
    name = str(row.submission_id)
    if error.code not in _FOR_GOOD and not row.old:
        log.warning("submission.refused", submission_id=name, reason=error.code.value)
        return
    log.error("submission.lost", submission_id=name, reason=error.code.value)
    HANDED_IN.labels("lost").inc()
    await _close(db, row, "done")


async def _close(db: Database, row: _Claimed, state: State, *, again: bool = False) -> None:
    """Decide about a row, unless somebody else was told to look at it meanwhile."""
    try:
        async with db.transaction() as tx:
            await _set(tx, row, state, again=again)
    except _LeaseLost:
        log.info("submission.looked_at_again", submission_id=str(row.submission_id))


async def _set(
    tx: Tx,
    row: _Claimed,
    state: State,
    document_id: DocumentId | None = None,
    *,
    again: bool = False,
) -> None:
    """`document_id` None: as it is."""
    cursor = await tx.execute(
        "update submission set state = %(state)s, document_id = case when %(state)s <> 'done'"
        " then coalesce(%(document_id)s, document_id) end,"
        " due_at = case when %(again)s then now() + %(pause)s end, updated_at = now()"
        " where submission_id = %(submission_id)s and organization_id = %(organization_id)s"
        " and due_at = %(due_at)s",
        {
            "state": state,
            "document_id": document_id,
            "again": again,
            "pause": AGAIN,
            "submission_id": row.submission_id,
            "organization_id": row.organization_id,
            "due_at": row.due_at,
        },
    )
    if cursor.rowcount == 0:
        raise _LeaseLost


async def forget_old(tx: Tx) -> int:
    """Remove rows of which no copy is expected any more; returns how many."""
    cursor = await tx.execute(
        "delete from submission where created_at < now() - %(watched)s and state <> 'pending'",
        {"watched": WATCHED},
    )
    return cursor.rowcount
