"""Sub-domains: the names below a domain that the mail server was told of because of it.

Owns the table `subdomain`. Whether a name stands below a claim is written down and never guessed from where
inboxes are: the service's own domain may stand below a claim, and so may one that was a claim of its own. A
row is written before the mail server is told, so that whatever is there is found when the domain is let go.
It belongs to the name above, not to one claim on it: adding that again brings its sub-domains back. Once a
claim nearer to the name has it, the row of the domain above is gone for good.
"""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.domains.domain import Domain, below

STOOD_ON: LiteralString = (
    "organization_id = %(organization_id)s and (name = %(name)s or name = any(array("
    "select above from subdomain where organization_id = %(organization_id)s and name = %(name)s)))"
)
"""The condition that keeps a query of domains to the claims of an organisation that a name stands on."""


class Leftover(msgspec.Struct, frozen=True):
    """A name that the mail server may still have for an organisation."""

    name: str
    organization_id: UUID


class _Name(msgspec.Struct, frozen=True):
    name: str


async def add(tx: Tx, organization_id: UUID, name: str, *, above: str) -> bool:
    """Take note that the mail server is going to be told of a name below a domain; whether that is news."""
    cursor = await tx.execute(
        "insert into subdomain (organization_id, above, name)"
        " values (%(organization_id)s, %(above)s, %(name)s) on conflict do nothing",
        {"organization_id": organization_id, "above": above, "name": name},
    )
    return cursor.rowcount == 1


async def names(tx: Tx, domain: Domain) -> list[str]:
    """The names below a domain that are its own, without those others have proved."""
    return [each.name for each in await fetch_all(tx, _Name, _NAMES, _of(domain))]


async def leftovers(tx: Tx, domain: Domain) -> list[Leftover]:
    """The names at or below a domain that the mail server may have for domains of others above it."""
    return await fetch_all(tx, Leftover, _LEFTOVERS, _of(domain))


async def give_way(tx: Tx, domain: Domain) -> None:
    """Let a domain that the mail server has now have its name, and those below it, instead of the domains
    above.
    """
    await tx.execute(_GIVE_WAY, _of(domain))


async def forget_empty(tx: Tx, domain: Domain) -> None:
    """Forget the names below a domain that was let go, but for those an inbox would come back on."""
    await tx.execute(_FORGET_EMPTY, _of(domain))


def _of(domain: Domain) -> dict[str, Any]:
    return {
        "organization_id": domain.organization_id,
        "domain_id": domain.domain_id,
        "name": domain.name,
        "length": len(domain.name),
        "backwards": domain.name[::-1],
        "below": below(domain.name),
    }


_NEARER: LiteralString = """
select from domain as nearer where nearer.proved_at is not null and nearer.domain_id <> %(domain_id)s
    and length(nearer.name) > %(length)s and (subdomain.name = nearer.name
        or right(subdomain.name, length(nearer.name) + 1) = '.' || nearer.name)
"""

_NAMES: LiteralString = f"""
select name from subdomain where organization_id = %(organization_id)s and above = %(name)s
    and not exists ({_NEARER})
order by name
"""

_LEFTOVERS: LiteralString = f"""
select distinct name, organization_id from subdomain where organization_id <> %(organization_id)s
    and (reverse(name) = %(backwards)s or reverse(name) like %(below)s)
    and not exists ({_NEARER})
order by name, organization_id
"""

_GIVE_WAY: LiteralString = """
with gone as (delete from subdomain
    where (reverse(name) = %(backwards)s or reverse(name) like %(below)s)
        and length(above) < %(length)s
        -- What organisations left there that have no domain above any more comes back to them with it.
        and (organization_id = %(organization_id)s or exists (select from domain as held
            where held.organization_id = subdomain.organization_id and held.name = subdomain.above
                and held.proved_at is not null))
    returning organization_id, name)
insert into subdomain (organization_id, above, name)
select organization_id, %(name)s, name from gone
where organization_id = %(organization_id)s and name <> %(name)s
on conflict do nothing
"""

_FORGET_EMPTY: LiteralString = """
delete from subdomain where organization_id = %(organization_id)s and above = %(name)s
    and not exists (select from inbox where inbox.organization_id = %(organization_id)s
        and inbox.domain = subdomain.name and reverse(inbox.domain) like %(below)s
        and inbox.state in ('creating', 'active', 'deleting'))
"""
