"""Each step of a row that is worked on, as one statement that holds only while the row is still ours.

A step returns None, or does nothing, when somebody else took the row meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from agentmail_cp import labels
from agentmail_cp.db import Tx, fetch_one
from agentmail_cp.drafts.content import draft_mail
from agentmail_cp.drafts.draft import COLUMNS, SCHEDULED, Draft, facts
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import AccountId, Address, DocumentId, Mail, OutgoingEmail

LOOKED_FOR = timedelta(seconds=10)
"""When a version that intake has not read yet is looked for: one that came and went between two readings
is in no list of changes."""

DOUBTED = timedelta(seconds=5)
"""When a version is looked for that may be gone: after intake had its time to read so."""


class Where(msgspec.Struct, frozen=True):
    """Whose draft it is: the inbox, its mail account, who its mail is from, and how many bytes a mail of
    it may hold.
    """

    place: Place
    account_id: AccountId
    sender: Address
    largest: int


class NewDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A draft to be made. Its mail goes by `message_id_of(draft_id, 1, …)`; ids of other messages are
    the API's, in brackets.
    """

    draft_id: UUID
    email: OutgoingEmail
    client_id: str | None = None
    in_reply_to: str | None = None
    forward_of: str | None = None
    reply_all: bool = False
    send_at: datetime | None = None


def _held(row: Draft) -> dict[str, Any]:
    """What names a row as long as nobody else took it."""
    return {**row.key, "lease_until": row.lease_until}


async def announce(tx: Tx, where: Where, new: NewDraft, lease: timedelta) -> Draft | None:
    """A row for a draft about to be stored; None when another has its client_id."""
    unstored = draft_mail(new.email, DocumentId(0), 0)
    return await fetch_one(
        tx,
        Draft,
        "insert into draft (inbox_id, draft_id, organization_id, pod_id, account_id, client_id, state,"
        " version, mail_state, lease_until, in_reply_to, forward_of, reply_all, send_at, send_status,"
        ' fire_at, labels, subject, "to", cc, bcc, reply_to, "references", preview, size,'
        " has_attachment)"
        " values (%(inbox_id)s, %(draft_id)s, %(organization_id)s, %(pod_id)s, %(account_id)s,"
        " %(client_id)s, 'storing', 1, (select state from inbox_sync where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s), now() + %(lease)s, %(in_reply_to)s,"
        " %(forward_of)s, %(reply_all)s, %(send_at)s, %(send_status)s, %(send_at)s, %(labels)s,"
        " %(subject)s, %(to)s, %(cc)s, %(bcc)s, %(reply_to)s, %(references)s, %(preview)s, %(size)s,"
        f" %(has_attachment)s) on conflict do nothing returning {COLUMNS}",
        {
            **facts(unstored, scheduled=new.send_at is not None),
            "inbox_id": where.place.inbox_id,
            "draft_id": new.draft_id,
            "organization_id": where.place.organization_id,
            "pod_id": where.place.pod_id,
            "account_id": where.account_id,
            "client_id": new.client_id,
            "lease": lease,
            "in_reply_to": new.in_reply_to,
            "forward_of": new.forward_of,
            "reply_all": new.reply_all,
            "send_at": new.send_at,
            "send_status": SCHEDULED if new.send_at else None,
        },
    )


async def made(tx: Tx, row: Draft, mail: Mail) -> Draft | None:
    """The draft is stored: from now on there is one."""
    custom = set(row.labels) - labels.SYSTEM_LABELS
    return await fetch_one(
        tx,
        Draft,
        "update draft set state = 'draft', document_id = %(document_id)s, size = %(size)s,"
        " kept_labels = %(kept_labels)s, preview = %(preview)s, lease_until = now() + %(look)s,"
        " created_at = now(), updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'storing' and lease_until = %(lease_until)s"
        f" returning {COLUMNS}",
        {**facts(mail, scheduled=False, kept=custom), **_held(row), "look": LOOKED_FOR},
    )


async def unmake(tx: Tx, row: Draft) -> None:
    """Nothing was stored."""
    await tx.execute(
        "delete from draft where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'storing' and lease_until = %(lease_until)s",
        _held(row),
    )


async def abandon(tx: Tx, row: Draft) -> None:
    """What may have been stored was promised to nobody: `settle` takes it back."""
    await tx.execute(
        "update draft set state = 'deleting', client_id = null, lease_until = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'storing' and lease_until = %(lease_until)s",
        _held(row),
    )


async def take(
    tx: Tx,
    current: Draft,
    *,
    change: bytes,
    send_at: datetime | None,
    lease: timedelta,
) -> Draft | None:
    """Take a draft for a change, after which it is to be sent at `send_at`."""
    return await fetch_one(
        tx,
        Draft,
        "update draft set state = 'updating', version = version + 1, taken = document_id,"
        " lease_until = now() + %(lease)s, change = %(change)s, next_send_at = %(next_send_at)s,"
        " mail_state = (select state from inbox_sync where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s)"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'draft' and document_id = %(document_id)s"
        " and send_at is not distinct from %(send_at)s"
        f" returning {COLUMNS}",
        {
            **current.key,
            "lease": lease,
            "change": change,
            "next_send_at": send_at,
            "document_id": current.document_id,
            "send_at": current.send_at,
        },
    )


async def written(
    tx: Tx, row: Draft, mail: Mail, kept: Collection[str], *, told: bool = True
) -> Draft | None:
    """The change was carried out, and its schedule is in force. `kept` are labels the draft has whatever
    its keywords; `told` is whether the caller of the change hears of it.

    None also when a mail client changed the draft meanwhile.
    """
    scheduled = row.next_send_at is not None
    return await fetch_one(
        tx,
        Draft,
        "update draft set state = 'draft', document_id = %(document_id)s, taken = null,"
        " lease_until = now() + %(look)s,"
        " change = case when %(told)s then null else change end,"
        " labels = %(labels)s, kept_labels = %(kept_labels)s, subject = %(subject)s,"
        ' "to" = %(to)s, cc = %(cc)s, bcc = %(bcc)s, reply_to = %(reply_to)s,'
        ' "references" = %(references)s, preview = %(preview)s, size = %(size)s,'
        " has_attachment = %(has_attachment)s, send_at = next_send_at, fire_at = next_send_at,"
        " next_send_at = null, send_status = %(send_status)s, send_error = null, attempts = 0,"
        " updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'updating' and lease_until = %(lease_until)s"
        f" and (document_id is null or document_id = taken) returning {COLUMNS}",
        {
            **facts(mail, scheduled=scheduled, kept=kept),
            **_held(row),
            "send_status": SCHEDULED if scheduled else None,
            "told": told,
            "look": LOOKED_FOR,
        },
    )


async def release(tx: Tx, row: Draft) -> None:
    """The change came to nothing. What became of the draft meanwhile stands: one that is gone is gone."""
    await tx.execute(
        "delete from draft where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'updating' and lease_until = %(lease_until)s"
        " and document_id is null",
        _held(row),
    )
    await tx.execute(
        "update draft set state = 'draft', taken = null, lease_until = now() + %(look)s,"
        " change = null, next_send_at = null"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'updating' and lease_until = %(lease_until)s",
        {**_held(row), "look": DOUBTED},
    )


async def expire(tx: Tx, row: Draft) -> None:
    """Nobody works on the row any more, and what became of it is open: `settle` finds out."""
    await tx.execute(
        "update draft set lease_until = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and lease_until = %(lease_until)s",
        _held(row),
    )


async def told(tx: Tx, row: Draft) -> None:
    """The outcome of a change is about to be told; the next request like it is another change."""
    await tx.execute(
        "update draft set change = null where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and draft_id = %(draft_id)s"
        " and state = 'draft'",
        row.key,
    )


async def reschedule(tx: Tx, row: Draft, send_at: datetime | None) -> Draft | None:
    """Give a draft another time to be sent at, or none."""
    custom = [each for each in row.labels if each != SCHEDULED]
    return await fetch_one(
        tx,
        Draft,
        "update draft set send_at = %(send_at)s, fire_at = %(send_at)s, attempts = 0,"
        " send_status = %(send_status)s, send_error = null, labels = %(labels)s, change = null,"
        " updated_at = now() where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and draft_id = %(draft_id)s"
        f" and state = 'draft' and document_id = %(document_id)s returning {COLUMNS}",
        {
            **row.key,
            "send_at": send_at,
            "send_status": SCHEDULED if send_at else None,
            "labels": sorted({*custom, SCHEDULED}) if send_at else custom,
            "document_id": row.document_id,
        },
    )


async def set_deleting(tx: Tx, current: Draft, lease: timedelta) -> Draft | None:
    """Take a draft away from callers and from the scheduler."""
    return await fetch_one(
        tx,
        Draft,
        "update draft set state = 'deleting', taken = document_id, lease_until = now() + %(lease)s"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        f" and draft_id = %(draft_id)s and state = 'draft' returning {COLUMNS}",
        {**current.key, "lease": lease},
    )


async def undelete(tx: Tx, row: Draft) -> None:
    """The mail server was not asked: everything is as it was."""
    await tx.execute(
        "update draft set state = 'draft', taken = null, lease_until = now() + %(look)s"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'deleting' and lease_until = %(lease_until)s",
        {**_held(row), "look": LOOKED_FOR},
    )


async def forget(tx: Tx, row: Draft) -> None:
    """The document of a deleted or sent draft is gone. That it was sent under a `client_id` is remembered,
    and nothing of what it said.
    """
    await tx.execute(
        "delete from draft where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and (state = 'deleting'"
        " or (state = 'sent' and client_id is null)) and lease_until = %(lease_until)s",
        _held(row),
    )
    await tx.execute(
        "update draft set document_id = null, taken = null, lease_until = null, mail_state = null,"
        " change = null, in_reply_to = null, forward_of = null, labels = '{}', kept_labels = '{}',"
        """ subject = null, "to" = '{}', cc = '{}', bcc = '{}', reply_to = '{}', "references" = '{}',"""
        " preview = '', size = 0, has_attachment = false"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'sent' and lease_until = %(lease_until)s",
        _held(row),
    )


async def doubt(tx: Tx, row: Draft) -> None:
    """The mail server says that the version in force is gone, and intake has not read so yet."""
    await tx.execute(
        "update draft set lease_until = now() + %(look)s"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'draft' and document_id = %(document_id)s",
        {**row.key, "document_id": row.document_id, "look": DOUBTED},
    )


async def looked(tx: Tx, row: Draft, *, there: bool) -> None:
    """The version in force was looked for."""
    await tx.execute(
        "update draft set lease_until = null"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'draft' and lease_until = %(lease_until)s"
        if there
        else "delete from draft"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'draft' and lease_until = %(lease_until)s"
        " and document_id = %(document_id)s",
        {**_held(row), "document_id": row.document_id},
    )
