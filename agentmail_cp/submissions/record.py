"""The row of a submission: taken by one worker at a time, and what intake must know of it.

Owns the table `submission`; who decides about a row is `taking` and `settlement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter

from agentmail_cp import filing
from agentmail_cp.copies import Copies
from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.labels import SENT_KEYWORD
from agentmail_cp.mailserver import AccountId, BlobId, DocumentId, Folder, Mail, MailState
from agentmail_cp.messages import Place

log = structlog.stdlib.get_logger(__name__)

WATCHED = timedelta(hours=24)
"""How long after a mail was handed in its client may still come with a copy."""

LEASE = timedelta(seconds=30)
"""How long a worker may take for one row before another takes it up."""

AT_ONCE = 16
"""Rows one look takes."""

AGAIN = timedelta(seconds=1)
"""When to look again at a row that has to wait for something."""

HANDED_IN = Counter(
    "agentmail_submissions",
    "Mails handed in over SMTP, by what was done: taken, or once due kept, imported, replaced, lost.",
    ["outcome"],
)

State = Literal["pending", "imported", "done"]


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
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


class LeaseLost(Exception):
    """Another worker took the row up."""


async def claim(db: Database) -> list[Claimed]:
    """Take rows that are due, so that one process alone looks at them."""
    async with db.transaction() as tx:
        return await fetch_all(tx, Claimed, _CLAIM, {"lease": LEASE, "most": AT_ONCE})


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


async def close(db: Database, row: Claimed, state: State, *, again: bool = False) -> None:
    """Decide about a row, unless somebody else was told to look at it meanwhile."""
    try:
        async with db.transaction() as tx:
            await set_state(tx, row, state, again=again)
    except LeaseLost:
        log.info("submission.looked_at_again", submission_id=str(row.submission_id))


async def set_state(
    tx: Tx,
    row: Claimed,
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
        raise LeaseLost


class _Copy(msgspec.Struct, frozen=True):
    message_id: str
    document_id: DocumentId | None


async def copies(tx: Tx, place: Place, present: Sequence[Mail]) -> Copies:
    """Which of these mails, and of those they answer, were handed in over SMTP, by Message-ID, and our copy
    of each, if there is one: what `messages.record` must know of them.
    """
    ids = {mail.message_id for mail in present if filing.usable(mail.message_id)}
    ids.update(parent for mail in present for parent in filing.parents(mail))
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
        # Not at once: a request that has just looked up our copy is about to read it.
        "update submission set due_at = now() + %(pause)s where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and message_id = any(%(message_ids)s)"
        " and state <> 'pending'",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "message_ids": list(odd),
            "pause": AGAIN,
        },
    )


def _is_odd(mail: Mail, known: Copies) -> bool:
    if mail.message_id is None or mail.message_id not in known or Folder.SENT not in mail.folders:
        return False
    ours = known[mail.message_id]
    return mail.document_id != ours and (ours is not None or SENT_KEYWORD in mail.keywords)


async def forget_old(tx: Tx) -> int:
    """Remove rows of which no copy is expected any more; returns how many."""
    cursor = await tx.execute(
        "delete from submission where created_at < now() - %(watched)s and state <> 'pending'",
        {"watched": WATCHED},
    )
    return cursor.rowcount
