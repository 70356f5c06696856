"""Pauses: why an inbox may not send, whoever asks.

Owns of the table `inbox` what says so: `send_paused` with its reason, set by a person or, after too many
bounces or complaints, by `stop_sending`; `status` `paused`, which stops receiving as well (`inboxes` tells
the mail server); and `bounces_from`. A broken domain pauses its inboxes too: that is derived, never stored,
and ends with the domain's trouble. Whichever it is, one sentence says why, the same in the API and at every
other door.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

import msgspec

from agentmail_cp import domains
from agentmail_cp.db import Tx, fetch_one
from agentmail_cp.errors import InboxPaused
from agentmail_cp.filing import Place

Status = Literal["active", "paused"]

BY_STATUS: Final = "Its status is paused."
BY_REQUEST: Final = "It was paused by request."

LONGEST_REASON: Final = 300
"""Characters of a reason that are told."""


class Pause(msgspec.Struct, frozen=True):
    """Why an inbox may not send, as a sentence, and what ends that."""

    reason: str
    fix: str


def pause(status: Status, sending: str | None, broken: str | None) -> Pause | None:
    """What stands in the way of sending, that which stops most first. `sending` is why `send_paused` is set,
    None where it is not; `broken` is what is wrong with the inbox's domain. Pure.
    """
    if status == "paused":
        return Pause(BY_STATUS, "Set its status to active.")
    if broken is not None:
        return Pause(
            broken[:LONGEST_REASON],
            "Mend the DNS records of the domain; sending goes on by itself once they are seen.",
        )
    if sending is not None:
        return Pause(sending, "Set its send_paused to false.")
    return None


class _Stored(msgspec.Struct, frozen=True):
    status: Status
    sending: str | None
    claims: bool


async def ensure_none(tx: Tx, place: Place) -> None:
    """Raise `InboxPaused` where the inbox may not send now."""
    stored = await fetch_one(
        tx,
        _Stored,
        "select status, case when send_paused then coalesce(send_paused_reason, %(by_request)s) end"
        " as sending, exists (select from domain where domain.organization_id = inbox.organization_id)"
        " as claims from inbox where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "by_request": BY_REQUEST,
        },
    )
    if stored is None:
        return
    broken = None
    if stored.claims:
        broken = await domains.broken(tx, place.organization_id, place.domain)
    found = pause(stored.status, stored.sending, broken)
    if found is not None:
        raise InboxPaused(f"This inbox may not send now. {found.reason}", fix=found.fix)


async def broken_among(tx: Tx, organization_id: UUID, names: Iterable[str]) -> dict[str, str]:
    """What is wrong with these domains, by name; those that are in order are left out."""
    found = {name: await domains.broken(tx, organization_id, name) for name in sorted(set(names))}
    return {name: reason for name, reason in found.items() if reason is not None}


class Counting(msgspec.Struct, frozen=True):
    """Whether an inbox may send, and since when bounces and complaints about its mail count."""

    send_paused: bool
    bounces_from: datetime | None


async def counting(tx: Tx, place: Place) -> Counting | None:
    """What `outcomes` must know to judge an inbox; None when it is gone."""
    return await fetch_one(
        tx,
        Counting,
        "select send_paused, bounces_from from inbox where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and state = 'active'",
        {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
    )


async def stop_sending(tx: Tx, place: Place, reason: str) -> bool:
    """Pause an inbox for sending, as a person may end it; False when it was paused already."""
    cursor = await tx.execute(
        "update inbox set send_paused = true, send_paused_reason = %(reason)s, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and state = 'active' and not send_paused",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "reason": reason[:LONGEST_REASON],
        },
    )
    return cursor.rowcount == 1
