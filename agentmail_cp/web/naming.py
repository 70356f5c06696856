"""What the routes of domains do beside asking `domains`: look around in DNS, make keys, tell the mail server,
and put a domain's records beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import bodies, domains, idempotency, inboxes
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx
from agentmail_cp.domains import (
    Domain,
    DomainPatch,
    Hosts,
    NewDomain,
    Record,
    Resolver,
    dkim,
    keys,
)
from agentmail_cp.errors import Invalid, NotFound, Unprocessable
from agentmail_cp.idempotency import Claim
from agentmail_cp.limits import Limits
from agentmail_cp.mailserver import MailServer, MailServerUnavailable
from agentmail_cp.settings import Settings
from agentmail_cp.stalwart.wanted import OWN_DOMAIN


class Naming(msgspec.Struct, frozen=True):
    """The operator's side of domains: whom to ask in DNS, which hosts records lead to, the names of the
    service itself, and the key that DKIM keys are stored under.
    """

    resolver: Resolver
    hosts: Hosts
    own: frozenset[str]
    sealing_key: bytes

    def __repr__(self) -> str:
        return f"Naming(own={sorted(self.own)})"


def naming(settings: Settings) -> Naming:
    """The same, as the settings say."""
    return Naming(
        resolver=Resolver(settings.name_servers, settings.outbound_networks),
        hosts=domains.hosts_of(settings),
        own=frozenset(domains.own_names(settings) | {OWN_DOMAIN}),
        sealing_key=dkim.sealing_key(settings),
    )


async def add(
    db: Database,
    names: Naming,
    scope: Reach,
    data: bodies.CreateDomain,
    may: Limits,
    claim: Claim,
) -> bodies.Domain:
    """Add a domain with new DKIM keys. Raises `Invalid`, `Taken`, `LimitExceeded`, and `Unprocessable` where
    its mail goes to a known provider.
    """
    new = _new(names, data)
    provider, pairs = await asyncio.gather(_other_provider(names, new, data), dkim.new_pairs())
    if provider is not None:
        raise _conflicting(new.name, provider)
    async with db.transaction() as tx:
        made = await domains.create(tx, scope, new, most=may.domains_per_organization)
        await keys.add(tx, made.organization_id, made.domain_id, pairs, names.sealing_key)
        await idempotency.complete(tx, claim, made.domain_id)
        return await shown(tx, names, made)


async def _other_provider(names: Naming, new: NewDomain, data: bodies.CreateDomain) -> str | None:
    """Who would lose the domain's mail, unless the caller wants that or does not want the mail."""
    if data.allow_conflicting_provider or not new.inbound_enabled:
        return None
    return await domains.conflicting(names.resolver, new.name)


def _new(names: Naming, data: bodies.CreateDomain) -> NewDomain:
    flags = {
        "feedback_enabled": data.feedback_enabled,
        "inbound_enabled": data.inbound_enabled,
        "subdomains_enabled": data.subdomains_enabled,
        "tracking_enabled": data.tracking_enabled,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    return NewDomain(name=domains.check_name(data.domain, names.own), **given)


def _conflicting(name: str, provider: str) -> Unprocessable:
    return Unprocessable(
        f"Mail for {name} goes to {provider}. With our MX records in place of theirs its mailboxes there"
        " would get no more mail.",
        fix="Use a sub-domain, such as agents."
        + name
        + ", or inbound_enabled false to send only; or send"
        " allow_conflicting_provider true to add it all the same.",
        field="domain",
        detail="CONFLICTING_PROVIDER",
    )


async def patch_of(tx: Tx, reach: Reach, domain: str, data: bodies.UpdateDomain) -> DomainPatch:
    """What a caller wants changed; null leaves a flag as it is. The inbox that is to catch all is held, so
    that it is not deleted meanwhile.
    """
    return DomainPatch(
        feedback_enabled=_flag(data.feedback_enabled),
        inbound_enabled=_flag(data.inbound_enabled),
        subdomains_enabled=_flag(data.subdomains_enabled),
        tracking_enabled=_flag(data.tracking_enabled),
        catch_all_inbox_id=await _catch_all(tx, reach, domain, data.catch_all),
    )


def _flag(value: bool | UnsetType | None) -> bool | UnsetType:  # noqa: FBT001
    return UNSET if value is None else value


async def _catch_all(
    tx: Tx, reach: Reach, domain: str, address: str | UnsetType | None
) -> UUID | UnsetType | None:
    if address is None or address is UNSET:
        return address
    found = await domains.get(tx, reach, domain)
    try:
        inbox = await inboxes.get(tx, reach, address, lock=True)
    except NotFound:
        inbox = None
    if inbox is None or inbox.domain != found.name or found.pod_id not in (None, inbox.pod_id):
        raise Invalid(
            "catch_all",
            f"There is no inbox {address[:254]} on {found.name}.",
            fix=f"Name an inbox on {found.name} itself, or null.",
            detail="NOT_ON_DOMAIN",
        )
    return inbox.inbox_id


async def records_of(tx: Tx, names: Naming, domain: Domain) -> tuple[Record, ...]:
    """Every record a domain needs now."""
    held = await keys.of_domain(tx, domain.organization_id, domain.domain_id)
    return domains.wanted_of(domain, held, names.hosts)


async def shown(tx: Tx, names: Naming, domain: Domain) -> bodies.Domain:
    """A domain as callers see it."""
    records = await records_of(tx, names, domain)
    catching = await inboxes.get_each(
        tx, domain.organization_id, [each for each in [domain.catch_all_inbox_id] if each]
    )
    addresses = [inbox.address for inbox in catching.values()]
    return bodies.domain(domain, records, addresses[0] if addresses else None)


async def get_shown(db: Database, names: Naming, reach: Reach, domain: str) -> bodies.Domain:
    """The domain in sight that goes by this id or name, as callers see it."""
    async with db.reading() as tx:
        return await shown(tx, names, await domains.get(tx, reach, domain))


async def tell(db: Database, server: MailServer, names: Naming, domain: Domain) -> None:
    """Have the mail server do at once what a row says; while it is away a loop goes on trying."""
    with contextlib.suppress(MailServerUnavailable):
        await domains.tell(
            db,
            server,
            names.sealing_key,
            organization_id=domain.organization_id,
            domain_id=domain.domain_id,
        )
