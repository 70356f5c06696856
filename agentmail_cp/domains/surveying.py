"""The domains of all organisations together, for the operator: how many there are, whose they are, and those
that most need a look.
"""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all, fetch_only
from agentmail_cp.domains.domain import COLUMNS, Domain


class Census(msgspec.Struct, frozen=True):
    """How many domains the mail server takes and sends mail of, and how many of them are broken."""

    working: int
    broken: int


async def census(tx: Tx) -> Census:
    """Count the domains of all organisations."""
    return await fetch_only(tx, Census, _COUNT, {})


async def worst(tx: Tx, *, limit: int) -> list[Domain]:
    """Domains of all organisations that work: those that are broken, then those that were seen longest ago.

    Whether they are verified at the moment is not asked: one that waits for another record works as well.
    """
    return await fetch_all(tx, Domain, _WORST, {"limit": limit})


async def list_all(tx: Tx, *, after: Domain | None, limit: int) -> list[Domain]:
    """A page of the domains of all organisations, by name, after this one."""
    last = (after.name, after.domain_id) if after else ("", UUID(int=0))
    names = {"name": last[0], "domain_id": last[1], "limit": limit}
    return await fetch_all(tx, Domain, _LIST, names)


_COUNT: LiteralString = (
    "select count(*) as working, count(broken_since) as broken from domain"
    " where installed_at is not null and deleted_at is null"
)

_LIST: LiteralString = (
    f"select {COLUMNS} from domain where deleted_at is null"
    " and (name, domain_id) > (%(name)s, %(domain_id)s) order by name, domain_id limit %(limit)s"
)

_WORST: LiteralString = (
    f"select {COLUMNS} from domain where installed_at is not null and deleted_at is null"
    " order by broken_since nulls last, checked_at nulls first limit %(limit)s"
)
