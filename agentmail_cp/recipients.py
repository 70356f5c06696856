"""The recipients of sent messages, and where a message stands at each of them.

Owns the table `recipient`: one row for each recipient of a message, by the address it was handed in for, in
lower case. Rows are written when a mail is handed in, go with their message, and are moved on by `outcomes`
alone, which knows what the states mean. `due_at` is when to ask the mail server about a recipient, and tells
those who ask apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.mailserver import DocumentId

Status = Literal["queued", "delayed", "unknown", "delivered", "bounced", "complained", "rejected"]

FIRST_LOOK: Final = timedelta(seconds=30)
"""When the mail server is first asked about a recipient of which it has said nothing."""


class Recipient(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message stands at one recipient. `code` is an enhanced status code (RFC 3463) or an SMTP
    reply code, `diagnostic` what the mail server said.
    """

    address: str
    status: Status
    code: str | None = None
    diagnostic: str | None = None
    updated_at: datetime


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient that a message is handed in for, or that something became of."""

    message_id: str
    address: str
    status: Status
    code: str | None = None
    diagnostic: str | None = None


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient of which nothing is known for a while. `sender` is the inbox's address; `gone_at` is
    since when the mail is known to have left the queue.
    """

    organization_id: UUID
    inbox_id: UUID
    pod_id: UUID
    domain: str
    sender: str
    message_id: str
    address: str
    due_at: datetime
    gone_at: datetime | None
    created_at: datetime


async def add(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, standings: Sequence[Standing]
) -> frozenset[str]:
    """Write the recipients of a mail that is handed in; returns the addresses that were not there."""
    rows = await (
        await tx.execute(
            "insert into recipient (organization_id, inbox_id, message_id, address, status, code,"
            " diagnostic, due_at) select %(organization_id)s, %(inbox_id)s, message_id, address,"
            " status, code, diagnostic, case when status = 'queued' then now() + %(pause)s end"
            f" from {_UNNEST} on conflict do nothing returning address",
            _columns(organization_id, inbox_id, standings) | {"pause": FIRST_LOOK},
        )
    ).fetchall()
    return frozenset(row["address"] for row in rows)


_UNNEST: Final = (
    "unnest(%(message_ids)s::text[], %(addresses)s::text[], %(statuses)s::text[], %(codes)s::text[],"
    " %(diagnostics)s::text[]) as standing (message_id, address, status, code, diagnostic)"
)


def _columns(
    organization_id: UUID, inbox_id: UUID, standings: Iterable[Standing]
) -> dict[str, Any]:
    by_key = {(each.message_id, each.address): each for each in standings}
    return {
        "organization_id": organization_id,
        "inbox_id": inbox_id,
        "message_ids": [each.message_id for each in by_key.values()],
        "addresses": [each.address for each in by_key.values()],
        "statuses": [each.status for each in by_key.values()],
        "codes": [each.code for each in by_key.values()],
        "diagnostics": [each.diagnostic for each in by_key.values()],
    }


async def move(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, standings: Sequence[Standing]
) -> None:
    """Say where recipients stand now. Nobody asks about them again, but for those that are delayed. The
    caller holds the inbox's lock.
    """
    if standings:
        await tx.execute(
            "update recipient set status = standing.status, code = standing.code,"
            " diagnostic = standing.diagnostic, updated_at = now(),"
            " due_at = case when standing.status = 'delayed' then due_at end"
            f" from {_UNNEST} where recipient.inbox_id = %(inbox_id)s"
            " and recipient.organization_id = %(organization_id)s"
            " and recipient.message_id = standing.message_id"
            " and recipient.address = standing.address",
            _columns(organization_id, inbox_id, standings),
        )


async def of_messages(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, message_ids: Collection[str]
) -> list[Standing]:
    """Every recipient of these messages."""
    return await fetch_all(
        tx,
        Standing,
        "select message_id, address, status, code, diagnostic from recipient"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and message_id = any(%(message_ids)s) order by message_id, address",
        {
            "inbox_id": inbox_id,
            "organization_id": organization_id,
            "message_ids": list(message_ids),
        },
    )


async def of(tx: Tx, *, organization_id: UUID, inbox_id: UUID, message_id: str) -> list[Recipient]:
    """Where a message stands at each of its recipients, by address; nothing for one that was received, or
    sent before this was kept.
    """
    return await fetch_all(
        tx,
        Recipient,
        "select address, status, code, diagnostic, updated_at from recipient"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and message_id = %(message_id)s order by address",
        {"inbox_id": inbox_id, "organization_id": organization_id, "message_id": message_id},
    )


class Tally(msgspec.Struct, frozen=True):
    """How many recipients stand like this."""

    status: Status
    code: str | None
    count: int


async def tally(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, lately: timedelta, since: datetime | None
) -> list[Tally]:
    """Where the recipients stand to whom an inbox wrote lately, and after `since`. Those who were refused
    when the mail was handed in are left out.
    """
    return await fetch_all(
        tx,
        Tally,
        "select status, code, count(*) as count from recipient where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s"
        " and created_at > greatest(now() - %(lately)s, coalesce(%(since)s, '-infinity'::timestamptz))"
        " and status <> 'rejected' group by status, code",
        {
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "lately": lately,
            "since": since,
        },
    )


async def claim(tx: Tx, *, lease: timedelta, most: int) -> list[Waiting]:
    """Take recipients whose time has come to be asked about; nobody else does until the lease is over."""
    return await fetch_all(tx, Waiting, _CLAIM, {"lease": lease, "most": most})


_CLAIM = """
with picked as (
    select inbox_id, message_id, address from recipient where due_at <= now()
    order by due_at limit %(most)s for update skip locked
)
update recipient set due_at = now() + %(lease)s, looks = least(looks + 1, 30)
from picked, inbox
where recipient.inbox_id = picked.inbox_id and recipient.message_id = picked.message_id
    and recipient.address = picked.address and inbox.inbox_id = picked.inbox_id
returning recipient.organization_id, recipient.inbox_id, inbox.pod_id, inbox.domain,
    inbox.address as sender, recipient.message_id, recipient.address, recipient.due_at,
    recipient.gone_at, recipient.created_at
"""

LONGEST_PAUSE: Final = timedelta(hours=1)


async def ask_again(
    tx: Tx, waiting: Sequence[Waiting], *, gone: bool, pause: timedelta | None = None
) -> None:
    """Ask about these again: after a pause, or after one that is twice as long each time. `gone` says that
    their mails have left the queue. Those that somebody else moved on or asks about by now stay as they are.
    """
    await tx.execute(
        "update recipient set due_at = now() + coalesce(%(pause)s::interval, least(%(longest)s,"
        " %(first)s * power(2, looks))), gone_at = case when %(gone)s then coalesce(gone_at, now()) end"
        " from unnest(%(organizations)s::uuid[], %(inboxes)s::uuid[], %(message_ids)s::text[],"
        " %(addresses)s::text[], %(dues)s::timestamptz[])"
        " as asked (organization_id, inbox_id, message_id, address, due_at)"
        " where recipient.inbox_id = asked.inbox_id"
        " and recipient.organization_id = asked.organization_id"
        " and recipient.message_id = asked.message_id and recipient.address = asked.address"
        " and recipient.due_at = asked.due_at",
        {
            "pause": pause,
            "first": FIRST_LOOK,
            "longest": LONGEST_PAUSE,
            "gone": gone,
            "organizations": [each.organization_id for each in waiting],
            "inboxes": [each.inbox_id for each in waiting],
            "message_ids": [each.message_id for each in waiting],
            "addresses": [each.address for each in waiting],
            "dues": [each.due_at for each in waiting],
        },
    )


async def give_up(tx: Tx, *, organization_id: UUID, inbox_id: UUID) -> None:
    """Ask no more about the mail of an inbox that is deleted."""
    await tx.execute(
        "update recipient set status = 'unknown', due_at = null, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and due_at is not null",
        {"inbox_id": inbox_id, "organization_id": organization_id},
    )


async def forget(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, message_ids: Collection[str]
) -> None:
    """Forget the recipients of messages that never came to be."""
    await tx.execute(
        "delete from recipient where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and message_id = any(%(message_ids)s)",
        {
            "inbox_id": inbox_id,
            "organization_id": organization_id,
            "message_ids": list(message_ids),
        },
    )


async def remove(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, document_ids: Collection[DocumentId]
) -> None:
    """Forget the recipients of the sent messages among these documents, which are about to be removed."""
    await tx.execute(
        "delete from recipient where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and message_id = any(array("
        " select message_id from message where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and document_id = any(%(document_ids)s)"
        " and direction = 'sent'))",
        {
            "inbox_id": inbox_id,
            "organization_id": organization_id,
            "document_ids": list(document_ids),
        },
    )


async def erase(tx: Tx, *, organization_id: UUID, inbox_id: UUID) -> None:
    """Forget the recipients of everything an inbox sent."""
    await tx.execute(
        "delete from recipient where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s",
        {"inbox_id": inbox_id, "organization_id": organization_id},
    )
