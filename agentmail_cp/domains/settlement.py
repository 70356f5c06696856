"""Telling the mail server what the rows say of a domain: that it has it now, how, or no longer.

Whoever changes a row writes `unsettled_since` with it; `tell` claims the row for a moment (`settling_until`),
brings the mail server to what it says, and takes note. Killed or without an answer in between, the loop
(`settle`) does it again: every call to the mail server may be repeated. A deleted claim lets go of its proof
only now, when the mail server has, and no inbox is being made on the name any more; so the name is never
installed for one organisation while another's is still there.

The mail server keeps what an organisation had on a name apart from what others have there. Within one
organisation, accounts of a pod that may not be on a name any more are retired before it is installed: their
mail stays readable, and none of the new pod's ever reaches them. What the mail server still has there for
domains of others above it is put away before the name, or a name above it, is installed for the next one, and
is no sub-domain (`subdomains`) of theirs any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

import msgspec
import structlog

from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.domains import dkim, keys, subdomains
from agentmail_cp.domains.domain import COLUMNS, UNSETTLED, Domain, below, get_own
from agentmail_cp.domains.keys import StoredKey
from agentmail_cp.domains.schedule import check_soon
from agentmail_cp.domains.subdomains import Leftover
from agentmail_cp.domains.use import subdomain
from agentmail_cp.mailserver import (
    AccountId,
    MailDomainSetup,
    MailServer,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    Refusal,
)

log = structlog.stdlib.get_logger(__name__)

LEASE: Final = timedelta(seconds=15)
"""How long one may tell the mail server of a domain before another tries."""

REFUSED: Final = timedelta(minutes=10)
"""When to try again what the mail server refused."""

SETTLED_AT_ONCE: Final = 16


class _Knowledge(msgspec.Struct, frozen=True):
    """What besides its row the mail server is told of a domain."""

    keys: Sequence[StoredKey]
    subdomains: Sequence[str]
    catch_all: str | None
    strangers: Sequence[AccountId]
    leftovers: Sequence[Leftover]


async def delete(tx: Tx, reach: Reach, domain: str) -> Domain:
    """End a claim; the mail server is told by whoever calls `tell` next. Inboxes on the domain stay
    readable, and neither send nor receive. Raises `NotFound`, and `Forbidden` for a pod when it belongs to
    all of them.
    """
    found = await get_own(tx, reach, domain)
    await end(tx, found)
    return found


async def end(tx: Tx, found: Domain) -> None:
    """End this claim, which the caller has locked, as `delete` does."""
    await tx.execute(
        "update domain set deleted_at = now(), updated_at = now(), catch_all_inbox_id = null,"
        f" unsettled_since = case when proved_at is not null then {UNSETTLED} end"
        " where organization_id = %(organization_id)s and domain_id = %(domain_id)s",
        _key(found),
    )
    held = await keys.of_domain(tx, found.organization_id, found.domain_id)
    selectors = [each.selector for each in held]
    await keys.erase_private(tx, found.organization_id, found.domain_id, selectors)


async def tell(
    db: Database, server: MailServer, sealing_key: bytes, *, organization_id: UUID, domain_id: UUID
) -> bool:
    """Bring the mail server to what a domain's row says; whether it has been brought there.

    Raises `MailServerUnavailable` when it is away, and `Unavailable` for the database; the loop goes on then.
    """
    async with db.transaction() as tx:
        domain = await _claim_one(tx, organization_id, domain_id)
    return domain is not None and await _tell(db, server, sealing_key, domain)


async def settle(db: Database, server: MailServer, sealing_key: bytes) -> int:
    """Tell the mail server what crashed requests, or its own absence, left untold; of how many domains.

    Raises `MailServerUnavailable` when it is away.
    """
    settled = 0
    while claimed := await _claim_unsettled(db):
        outcomes = await asyncio.gather(
            *(_settle(db, server, sealing_key, domain) for domain in claimed),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            settled += outcome
    return settled


async def _settle(db: Database, server: MailServer, sealing_key: bytes, domain: Domain) -> bool:
    told = await _tell(db, server, sealing_key, domain)
    if told and domain.installed_at is None and domain.deleted_at is None:
        # The check that proved it could not tell the mail server: only the next one verifies it.
        async with db.transaction() as tx:
            await check_soon(tx, domain)
    return told


async def _tell(db: Database, server: MailServer, sealing_key: bytes, domain: Domain) -> bool:
    async with db.reading() as tx:
        known = await _look_up(tx, domain)
    try:
        if domain.deleted_at is not None:
            await _disable(server, domain, known)
            return await _let_go(db, domain)
        await _install(server, domain, known, sealing_key)
    except (MailServerRejected, MailServerConfused, dkim.Unreadable) as error:
        log.error("domain.not_settled", domain_id=str(domain.domain_id), reason=str(error))
        await _rest(db, domain)
        return False
    except MailServerError:
        await _give_back(db, domain)
        raise
    return await _take_note(db, domain, known)


async def _install(
    server: MailServer, domain: Domain, known: _Knowledge, sealing_key: bytes
) -> None:
    for account_id in known.strangers:
        await _retire(server, account_id)
    for each in known.leftovers:
        await server.disable_domain(each.name, str(each.organization_id))
    await server.install_domain(
        MailDomainSetup(
            name=domain.name,
            owner=str(domain.organization_id),
            dkim=keys.for_server(known.keys, sealing_key),
            catch_all=known.catch_all,
            inbound=domain.inbound_enabled,
        )
    )
    for name in known.subdomains:
        await server.install_domain(subdomain(name, domain))


async def _disable(server: MailServer, domain: Domain, known: _Knowledge) -> None:
    for name in (*known.subdomains, domain.name):
        await server.disable_domain(name, str(domain.organization_id))


async def _retire(server: MailServer, account_id: AccountId) -> None:
    try:
        await server.retire_account(account_id)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_ACCOUNT:
            raise


async def _look_up(tx: Tx, domain: Domain) -> _Knowledge:
    first = domain.installed_at is None and domain.deleted_at is None
    return _Knowledge(
        keys=await keys.of_domain(tx, domain.organization_id, domain.domain_id),
        subdomains=await subdomains.names(tx, domain),
        catch_all=await _catch_all(tx, domain),
        strangers=await _strangers(tx, domain) if first else (),
        leftovers=await subdomains.leftovers(tx, domain) if first else (),
    )


class _Name(msgspec.Struct, frozen=True):
    name: str


class _Stranger(msgspec.Struct, frozen=True):
    account_id: AccountId


async def _strangers(tx: Tx, domain: Domain) -> list[AccountId]:
    """The accounts of other pods' inboxes that stand on the names of a pod's domain."""
    if domain.pod_id is None:
        return []
    names = {
        **_key(domain),
        "pod_id": domain.pod_id,
        "length": len(domain.name),
        "backwards": domain.name[::-1],
        "below": below(domain.name),
    }
    return [each.account_id for each in await fetch_all(tx, _Stranger, _STRANGERS, names)]


_STRANGERS: LiteralString = """
select account_id from inbox where account_id is not null and state in ('active', 'deleting')
    and (reverse(domain) = %(backwards)s or reverse(domain) like %(below)s)
    and organization_id = %(organization_id)s and pod_id <> %(pod_id)s
    -- The service's own domain may stand below: it is nobody's claim and nobody's sub-domain.
    and (exists (select from domain as claim where claim.organization_id = %(organization_id)s
            and claim.name = inbox.domain)
        or exists (select from subdomain where subdomain.organization_id = %(organization_id)s
            and subdomain.name = inbox.domain))
    and not exists (select from domain as other where other.proved_at is not null
        and other.organization_id = %(organization_id)s and length(other.name) > %(length)s
        and (inbox.domain = other.name or right(inbox.domain, length(other.name) + 1) = '.' || other.name))
order by account_id
"""


async def _catch_all(tx: Tx, domain: Domain) -> str | None:
    found = await fetch_one(
        tx,
        _Name,
        "select address as name from inbox where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and state = 'active'",
        {"organization_id": domain.organization_id, "inbox_id": domain.catch_all_inbox_id},
    )
    return found.name if found else None


async def _claim_one(tx: Tx, organization_id: UUID, domain_id: UUID) -> Domain | None:
    return await fetch_one(
        tx,
        Domain,
        "update domain set settling_until = now() + %(lease)s"
        " where organization_id = %(organization_id)s and domain_id = %(domain_id)s"
        " and unsettled_since is not null and proved_at is not null"
        f" and coalesce(settling_until < now(), true) returning {COLUMNS}",
        {"organization_id": organization_id, "domain_id": domain_id, "lease": LEASE},
    )


async def _claim_unsettled(db: Database) -> list[Domain]:
    async with db.transaction() as tx:
        return await fetch_all(
            tx,
            Domain,
            "update domain set settling_until = now() + %(lease)s where domain_id = any(array("
            "select domain_id from domain where unsettled_since is not null"
            " and proved_at is not null and coalesce(settling_until < now(), true)"
            " order by unsettled_since limit %(most)s for update skip locked))"
            f" returning {COLUMNS}",
            {"lease": LEASE, "most": SETTLED_AT_ONCE},
        )


async def _take_note(db: Database, domain: Domain, known: _Knowledge) -> bool:
    """The mail server has what the row said; if it says something else by now, it is told again."""
    async with db.transaction() as tx:
        cursor = await tx.execute(
            "update domain set installed_at = coalesce(installed_at, now()), settling_until = null,"
            " unsettled_since = case when unsettled_since > %(unsettled_since)s"
            " then unsettled_since end where organization_id = %(organization_id)s"
            " and domain_id = %(domain_id)s and deleted_at is null",
            {**_key(domain), "unsettled_since": domain.unsettled_since},
        )
        if domain.installed_at is None:
            await subdomains.give_way(tx, domain)
        told = [each.selector for each in known.keys if each.stage == "active"]
        await keys.erase_private(tx, domain.organization_id, domain.domain_id, told)
    return cursor.rowcount == 1


async def _let_go(db: Database, domain: Domain) -> bool:
    """The name is free, unless an inbox is still being made on it: then a little later."""
    async with db.transaction() as tx:
        cursor = await tx.execute(_LET_GO, {**_key(domain), "name": domain.name})
        free = cursor.rowcount == 1
        if free:
            await subdomains.forget_empty(tx, domain)
    return free


_LET_GO: LiteralString = """
update domain set proved_at = null, installed_at = null, unsettled_since = null, settling_until = null
where organization_id = %(organization_id)s and domain_id = %(domain_id)s
    and deleted_at is not null and not exists (select from inbox
        where inbox.organization_id = %(organization_id)s and inbox.state = 'creating'
            and (inbox.domain = %(name)s or exists (select from subdomain
                where subdomain.organization_id = %(organization_id)s
                    and subdomain.above = %(name)s and subdomain.name = inbox.domain)))
"""


async def _give_back(db: Database, domain: Domain) -> None:
    await _hold(db, domain, timedelta(0))


async def _rest(db: Database, domain: Domain) -> None:
    await _hold(db, domain, REFUSED)


async def _hold(db: Database, domain: Domain, rest: timedelta) -> None:
    async with db.transaction() as tx:
        await tx.execute(
            "update domain set settling_until = now() + %(rest)s"
            " where organization_id = %(organization_id)s and domain_id = %(domain_id)s",
            {**_key(domain), "rest": rest},
        )


def _key(domain: Domain) -> dict[str, Any]:
    return {"organization_id": domain.organization_id, "domain_id": domain.domain_id}
