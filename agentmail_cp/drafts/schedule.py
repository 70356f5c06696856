"""A draft's way out: its schedule, and what its row goes through while it is sent.

`begin_sending`, `ended` and `sent` run inside the transactions that write the row in `send`, so a draft is
`sending` exactly while that row is open. Never talks to the mail server.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID

from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.drafts.draft import COLUMNS, Draft
from agentmail_cp.errors import Invalid
from agentmail_cp.filing import Place

EARLY = timedelta(seconds=60)
"""How far in the past `send_at` may lie: clocks differ, and requests take time."""

LATEST = timedelta(days=366)

FIRING = timedelta(seconds=30)
"""How long a scheduler has a due draft to itself."""

CLEARING = timedelta(seconds=5)
"""How long whoever sent a draft has its document to itself."""

LONGEST_BACKOFF = timedelta(minutes=5)
LONGEST_REASON = 500
FIRED_AT_ONCE = 16


def check_send_at(send_at: datetime, now: datetime) -> datetime:
    """The moment in UTC; one without an offset is UTC already. Raises `Invalid` TIME_OUT_OF_RANGE."""
    try:
        moment = send_at.replace(tzinfo=send_at.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        moment = None
    if moment is None or not now - EARLY <= moment <= now + LATEST:
        raise Invalid(
            "send_at",
            "send_at is not in the future, or over a year away.",
            fix="Use a time to come, like 2026-11-21T08:15:00Z, or null to take the schedule away.",
            detail="TIME_OUT_OF_RANGE",
        )
    return moment


async def claim_due(db: Database) -> list[Draft]:
    """Take scheduled drafts whose time has come, so that one process alone tries to send them."""
    async with db.transaction() as tx:
        return await fetch_all(
            tx,
            Draft,
            "with due (inbox, id) as (select inbox_id, draft_id from draft where state = 'draft'"
            " and send_status = 'scheduled' and fire_at <= now()"
            " order by fire_at limit %(most)s for update skip locked)"
            " update draft set fire_at = now() + %(firing)s from due"
            " where inbox_id = due.inbox and draft_id = due.id"
            f" returning {COLUMNS}",
            {"firing": FIRING, "most": FIRED_AT_ONCE},
        )


async def begin_sending(tx: Tx, draft: Draft) -> bool:
    """Take a draft for sending; False when it is not any more what `draft` says: changed, taken by
    somebody else, scheduled anew or gone.
    """
    cursor = await tx.execute(
        "update draft set state = 'sending', taken = document_id"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'draft' and document_id = %(document_id)s"
        " and send_at is not distinct from %(send_at)s"
        " and send_status is not distinct from %(send_status)s",
        {
            **draft.key,
            "document_id": draft.document_id,
            "send_at": draft.send_at,
            "send_status": draft.send_status,
        },
    )
    return cursor.rowcount == 1


async def ended(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, draft_id: UUID, refused: bool
) -> None:
    """The send came to nothing: the draft is a draft again. A scheduled one that was refused has failed;
    otherwise its time has still come.
    """
    key = {"organization_id": organization_id, "inbox_id": inbox_id, "draft_id": draft_id}
    await tx.execute(
        "delete from draft where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'sending' and document_id is null",
        key,
    )
    await tx.execute(
        "update draft set state = 'draft', taken = null, updated_at = now(),"
        " fire_at = case when send_status = 'scheduled' then greatest(send_at, now()) end"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'sending'",
        key,
    )
    if refused:
        await _fail(tx, key, "The mail server refused the message.")


async def sent(tx: Tx, *, organization_id: UUID, inbox_id: UUID, draft_id: UUID) -> None:
    """The send is recorded: for callers the draft is gone. A version that a mail client saved meanwhile
    stays a draft.
    """
    await tx.execute(
        "update draft set state = case when document_id is null or document_id = taken"
        " then 'sent' else 'draft' end, lease_until = now() + %(lease)s, send_at = null,"
        " send_status = null, send_error = null, fire_at = null, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'sending'",
        {
            "lease": CLEARING,
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "draft_id": draft_id,
        },
    )


async def unschedule(tx: Tx, draft: Draft) -> None:
    """Take the schedule of this version away, as somebody else changed or deleted it."""
    await tx.execute(
        "update draft set send_at = null, send_status = null, send_error = null, fire_at = null,"
        " labels = array_remove(labels, 'scheduled'), updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'draft' and document_id = %(document_id)s"
        " and send_at = %(send_at)s",
        {**draft.key, "document_id": draft.document_id, "send_at": draft.send_at},
    )


async def unschedule_all(tx: Tx, place: Place) -> None:
    """Take every schedule of an inbox away: it is deleted."""
    await tx.execute(
        "update draft set send_at = null, send_status = null, send_error = null, fire_at = null,"
        " labels = array_remove(labels, 'scheduled')"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and send_at is not null",
        {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
    )


async def fail(tx: Tx, draft: Draft, reason: str) -> None:
    """Give a scheduled draft up until it gets a new time. `reason` is told to callers."""
    await _fail(tx, {**draft.key, "send_at": draft.send_at}, reason)


async def _fail(tx: Tx, key: Mapping[str, object], reason: str) -> None:
    await tx.execute(
        "update draft set send_status = 'failed', send_error = %(reason)s, fire_at = null,"
        " labels = array_remove(labels, 'scheduled'), updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s and state = 'draft' and send_at is not null"
        " and send_at = coalesce(%(send_at)s::timestamptz, send_at)",
        {"send_at": None, **key, "reason": reason[:LONGEST_REASON]},
    )


async def postpone(tx: Tx, draft: Draft) -> None:
    """Try a scheduled draft again later, each time later: the mail server is away."""
    wait = min(timedelta(seconds=2 ** min(draft.attempts, 10)), LONGEST_BACKOFF)
    await tx.execute(
        "update draft set fire_at = now() + %(wait)s, attempts = attempts + 1"
        f" where {_STILL_SCHEDULED}",
        {"wait": wait, "send_at": draft.send_at, **draft.key},
    )


async def hold_back(tx: Tx, draft: Draft, until: datetime, reason: str) -> None:
    """Try a scheduled draft again when a limit lets it go, and say meanwhile which one it is."""
    await tx.execute(
        "update draft set fire_at = %(until)s, attempts = 0, send_error = %(reason)s"
        f" where {_STILL_SCHEDULED}",
        {
            "until": until,
            "reason": reason[:LONGEST_REASON],
            "send_at": draft.send_at,
            **draft.key,
        },
    )


_STILL_SCHEDULED: LiteralString = (
    "inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
    " and draft_id = %(draft_id)s and state = 'draft' and send_status = 'scheduled'"
    " and send_at = %(send_at)s"
)
