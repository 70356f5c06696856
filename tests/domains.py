"""Domains of the organisation under test, without a DNS server to prove them in."""

from __future__ import annotations

from typing import TypedDict, Unpack

from agentmail_cp import domains, events
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx
from agentmail_cp.domains import Domain, DomainStatus, NewDomain, dkim, keys
from agentmail_cp.events import EventType
from tests.fix_app import Service, until


class Flags(TypedDict, total=False):
    """What of a domain is other than usual."""

    inbound_enabled: bool
    subdomains_enabled: bool
    feedback_enabled: bool


def a_name(service: Service, stem: str = "acme") -> str:
    """A domain name that no other test has on the run's Stalwart."""
    return f"{stem}{service.suffix}.test"


async def claimed_domain(
    service: Service, name: str, *, scope: Reach | None = None, **flags: Unpack[Flags]
) -> Domain:
    """A domain that was added and not proved; it belongs to all of the service's organisation unless another
    scope is named.
    """
    scope = scope or Reach(service.organization_id)
    pairs = await _pairs()
    async with service.db.transaction() as tx:
        made = await domains.create(tx, scope, NewDomain(name=name, **flags), most=0)
        sealing_key = dkim.sealing_key(service.settings)
        await keys.add(tx, made.organization_id, made.domain_id, pairs, sealing_key)
    return made


async def verified_domain(
    service: Service, name: str, *, scope: Reach | None = None, **flags: Unpack[Flags]
) -> Domain:
    """A domain that inboxes can be made on, known to the mail server."""
    return await verify(service, await claimed_domain(service, name, scope=scope, **flags))


async def prove(service: Service, domain: Domain) -> None:
    """Let a claimed domain's records have been seen; the mail server has not been told of it yet."""
    selectors = [pair.selector for pair in await _pairs()]
    async with service.db.transaction() as tx:
        assert await domains.prove(tx, domain), f"{domain.name} is another organization's"
        await keys.activate(tx, domain.organization_id, domain.domain_id, selectors)


async def verify(service: Service, domain: Domain) -> Domain:
    """A claimed domain as it is once its records were seen."""
    await prove(service, domain)
    await settled(service, domain)
    async with service.db.transaction() as tx:
        await _set_verified(tx, domain)
    return await look(service, domain)


async def settled(service: Service, domain: Domain) -> Domain:
    """A domain once the mail server has what its row says: told by us, or by the service's own loop."""
    await domains.tell(
        service.db,
        service.server,
        dkim.sealing_key(service.settings),
        organization_id=domain.organization_id,
        domain_id=domain.domain_id,
    )
    return await until(lambda: look(service, domain), lambda seen: seen.unsettled_since is None)


async def look(service: Service, domain: Domain) -> Domain:
    """A domain as it is now."""
    async with service.db.reading() as tx:
        return await domains.get(tx, Reach(domain.organization_id), str(domain.domain_id))


async def _set_verified(tx: Tx, domain: Domain) -> None:
    await tx.execute(
        "update domain set verified_at = now(), checked_at = now(),"
        " check_due_at = now() + interval '1 day'"
        " where organization_id = %(organization_id)s and domain_id = %(domain_id)s",
        {"organization_id": domain.organization_id, "domain_id": domain.domain_id},
    )


_made: list[dkim.Pair] = []


async def _pairs() -> list[dkim.Pair]:
    """Keys that all domains of a test process share, as RSA keys take long to make."""
    if not _made:
        _made.extend(await dkim.new_pairs())
    return _made


async def announce(service: Service, domain: Domain) -> None:
    """Say that a domain is verified, as the check does that finds it so."""
    hosts = domains.hosts_of(service.settings)
    async with service.db.transaction() as tx:
        held = await keys.of_domain(tx, domain.organization_id, domain.domain_id)
        records = domains.wanted_of(domain, held, hosts)
        await events.append_of_scope(
            tx,
            organization_id=domain.organization_id,
            pod_id=domain.pod_id,
            type=EventType.DOMAIN_VERIFIED,
            facts=domains.described(domain, records, status=DomainStatus.VERIFIED),
        )
