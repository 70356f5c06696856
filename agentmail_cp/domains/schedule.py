"""The schedule: when a domain is checked next, and which worker checks it.

Owns `check_due_at` and `checking_until`. A domain is due when its time has come or somebody asks; whoever
claims it has it until the claim runs out, and gives it back with the time of the next check. A check that was
asked for while one is under way is still made.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.domains.domain import COLUMNS, Domain

CHANNEL: Final = "agentmail_domain_due"
LEASE: Final = timedelta(seconds=45)
"""How long a check may take, the mail server included."""
SPACING: Final = timedelta(seconds=5)
"""Time between two checks of a domain, however often they are asked for."""
SHARE: Final = 4
"""Checks of one organisation under way, over all processes: its name servers may be as slow as they like."""
AHEAD: Final = 1_000
"""Domains that are due and looked at for whose turn it is."""


class Claim(msgspec.Struct, frozen=True):
    """A domain that this worker checks, and until when it is its own."""

    domain_id: UUID
    organization_id: UUID
    until: datetime


async def check_soon(tx: Tx, domain: Domain) -> None:
    """Let a domain be checked as soon as a worker is free; asking again before that changes nothing."""
    await tx.execute(
        "update domain set check_due_at = least(check_due_at,"
        " greatest(now(), coalesce(checked_at + %(spacing)s, now())))"
        " where organization_id = %(organization_id)s and domain_id = %(domain_id)s"
        " and deleted_at is null",
        {
            "organization_id": domain.organization_id,
            "domain_id": domain.domain_id,
            "spacing": SPACING,
        },
    )
    await tx.execute("select pg_notify(%(channel)s, '')", {"channel": CHANNEL})


async def claim_due(tx: Tx, most: int) -> list[Claim]:
    """Take domains whose check is due, the longest overdue first, and of no organisation so many that the
    name servers of its choice could hold up everybody's.
    """
    parameters = {"lease": LEASE, "most": most, "share": SHARE, "ahead": AHEAD}
    return await fetch_all(tx, Claim, _CLAIM, parameters)


_DUE: LiteralString = (
    "select domain_id, organization_id, check_due_at from domain where deleted_at is null"
    " and check_due_at <= now() and coalesce(checking_until <= now(), true)"
    " order by check_due_at limit %(ahead)s"
)

_TURNS: LiteralString = (
    "select domain_id, row_number() over (partition by organization_id order by check_due_at)"
    " + (select count(*) from domain as busy where busy.organization_id = due.organization_id"
    f" and busy.checking_until > now()) as place from ({_DUE}) as due"
)

_CLAIM: LiteralString = (
    # Due again when the claim runs out, so that what is asked for meanwhile can be told from it.
    "update domain set checking_until = now() + %(lease)s, check_due_at = now() + %(lease)s"
    " where domain_id = any(array(select domain_id from domain"
    f" where domain_id in (select domain_id from ({_TURNS}) as turn where place <= %(share)s)"
    " and coalesce(checking_until <= now(), true)"
    " order by check_due_at limit %(most)s for update skip locked))"
    " returning domain_id, organization_id, checking_until as until"
)


async def claimed(tx: Tx, claim: Claim, *, lock: bool = False) -> Domain | None:
    """The domain of a claim, if it is still this worker's."""
    query: LiteralString = (
        f"select {COLUMNS} from domain where organization_id = %(organization_id)s"
        " and domain_id = %(domain_id)s and checking_until = %(until)s and deleted_at is null"
    )
    if lock:
        query += " for no key update"
    return await fetch_one(tx, Domain, query, msgspec.structs.asdict(claim))


async def give_back(tx: Tx, claim: Claim, rest: timedelta) -> None:
    """Give the domain back. A check that was asked for while this one was under way is still to be made."""
    await tx.execute(
        "update domain set checking_until = null, check_due_at = case"
        " when check_due_at < checking_until then now() + least(%(spacing)s, %(rest)s)"
        " else now() + %(rest)s end where organization_id = %(organization_id)s"
        " and domain_id = %(domain_id)s and checking_until = %(until)s",
        {**msgspec.structs.asdict(claim), "spacing": SPACING, "rest": rest},
    )
