"""Checks of what DNS says: records of domains, the name of the address that mail leaves from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

import dns.reversename
import msgspec

from agentmail_cp.doctor.checking import Finding, failed, ok, skipped, warning
from agentmail_cp.doctor.patient import Patient
from agentmail_cp.domains import Domain, checking, keys, surveying
from agentmail_cp.domains.answers import Question
from agentmail_cp.domains.checking import findings_of
from agentmail_cp.domains.judging import Finding as Seen
from agentmail_cp.domains.judging import Site
from agentmail_cp.domains.keys import StoredKey
from agentmail_cp.domains.presenting import wanted_of
from agentmail_cp.domains.records import Claimed, Hosts, Record, hosts_of, wanted
from agentmail_cp.domains.resolving import Resolver
from agentmail_cp.domains.verdicts import worked_by
from agentmail_cp.settings import Settings

LOOKED_AT: Final = 25
"""Domains that are looked up in one examination; their own checks go on all the time."""

SHOWN: Final = 5

NOWHERE: Final = frozenset({"test", "example", "invalid", "localhost", "internal", "local"})
"""Ends of names that are in nobody's DNS (RFC 6761, RFC 6762)."""


class Trouble(msgspec.Struct, frozen=True):
    """Something about a domain that is not as it should be; without one, the domain is only not known."""

    domain: str
    reason: str
    known: bool = True


async def domains(patient: Patient) -> Finding:
    """DNS has the records that customers' domains work by, and those of the domain inboxes get without
    naming one.

    Each customer's domain is checked by itself all the time, and its owner is told in the API; here the
    operator sees those that are broken, and up to 25 in all looked up now. A record that a domain never had,
    as its owner only now asked for sub-domains, is no fault. The service's own domain
    (AGENTMAIL_CP_DOMAIN) is the operator's to publish: MX to AGENTMAIL_CP_MAIL_HOST, SPF with
    AGENTMAIL_CP_SENDING_HOST, DMARC.
    """
    async with patient.db.reading() as tx:
        counted = await surveying.census(tx)
        rows = await surveying.worst(tx, limit=LOOKED_AT)
        held = [await keys.of_domain(tx, each.organization_id, each.domain_id) for each in rows]
    hosts, name = hosts_of(patient.settings), patient.settings.domain.lower()
    sites = [
        (each.name, _worked_by(each, own, hosts)) for each, own in zip(rows, held, strict=True)
    ]
    if not _is_nowhere(name, patient):
        sites.append((name, own_records(patient.settings)))
    resolver = _resolver(patient)
    found = await asyncio.gather(
        *(checking.examine(resolver, records, Site(name, hosts)) for name, records in sites)
    )
    troubles = [
        trouble
        for (name, records), seen in zip(sites, found, strict=True)
        for trouble in troubles_of(name, records, seen)
    ]
    return judge_domains(len(sites), counted.working, troubles)


def _worked_by(domain: Domain, held: Sequence[StoredKey], hosts: Hosts) -> Sequence[Record]:
    verified = domain.verified_at is not None
    return worked_by(wanted_of(domain, held, hosts), findings_of(domain), verified=verified)


def own_records(settings: Settings) -> tuple[Record, ...]:
    """What the service's own domain needs in DNS; it is claimed by nobody, and Stalwart has its DKIM keys."""
    claimed = Claimed(settings.domain.lower(), token="")
    return tuple(each for each in wanted(claimed, (), hosts_of(settings)) if each.key != "token")


def troubles_of(name: str, records: Sequence[Record], seen: Mapping[str, Seen]) -> list[Trouble]:
    """What of the records a domain must have is wrong; one that DNS did not answer for is not known."""
    return [
        Trouble(name, f"{record.type} {record.name}: {_reason(seen[record.key])}", known=known)
        for record in records
        if record.required and seen[record.key].status != "VALID"
        for known in (seen[record.key].status is not None,)
    ]


def _reason(seen: Seen) -> str:
    return seen.reason or (seen.status or "no answer").lower()


def judge_domains(looked_at: int, working: int, troubles: Sequence[Trouble]) -> Finding:
    """What it means that so many were looked at, and this was found."""
    wrong = [each for each in troubles if each.known]
    if wrong:
        shown = [f"{each.domain}: {each.reason}" for each in wrong[:SHOWN]]
        more = [f"and {len(wrong) - SHOWN} more"] * (len(wrong) > SHOWN)
        names = ", ".join(dict.fromkeys(each.domain for each in wrong))
        return failed(
            "\n".join([f"{len(wrong)} records are wrong", *shown, *more]),
            f"Correct them in the DNS of {names}; a customer's domain is its owner's to correct.",
        )
    if troubles:
        first = troubles[0]
        return warning(
            f"{len(troubles)} records could not be looked up; {first.domain}: {first.reason}",
            "Look at AGENTMAIL_CP_DNS_SERVERS and at the network to DNS (port 53, UDP and TCP).",
        )
    if not looked_at:
        return skipped("no domain is in use, and the service's own is in nobody's DNS")
    return ok(f"{looked_at} looked up, {working} of customers in use")


async def reverse_dns(patient: Patient) -> Finding:
    """The addresses that mail leaves from have a name (PTR), and that name leads back to them.

    Large providers refuse mail from an address whose name does not lead back to it (RFC 8601 calls it
    iprev). Whoever rents out the address sets its PTR record; it should be the name Stalwart greets with.
    The addresses looked at are those of AGENTMAIL_CP_SENDING_HOST: where mail leaves by another one,
    behind NAT or through a relay, look there.
    """
    resolver, hosts = _resolver(patient), hosts_of(patient.settings).sending
    named = [host for host in hosts if not _is_nowhere(host, patient)]
    if not named:
        return skipped(f"{', '.join(hosts)} is in nobody's DNS")
    addresses = await asyncio.gather(*(_addresses(resolver, host) for host in named))
    lost = [host for host, found in zip(named, addresses, strict=True) if not found]
    public = [
        (host, each)
        for host, found in zip(named, addresses, strict=True)
        for each in found
        if ip_address(each).is_global
    ]
    if not lost and not public:
        return skipped(f"{', '.join(named)} has no address that the internet can reach")
    troubles = await asyncio.gather(*(_name_of(resolver, each, host) for host, each in public))
    told = [*(f"{host} has no address in DNS" for host in lost), *filter(None, troubles)]
    if told:
        return warning(
            "; ".join(told),
            "Have the PTR record of each address set to the host's name, by whoever rents it out.",
        )
    return ok(f"{', '.join(named)}: every address has its name")


async def _name_of(resolver: Resolver, address: str, host: str) -> str | None:
    """What is wrong with the name of an address, None for nothing."""
    question = dns.reversename.from_address(address).to_text(omit_final_dot=True).lower()
    answer = await resolver.resolve(Question(question, "PTR"))
    if answer.problem:
        return f"{address}: {answer.problem}"
    if not answer.values:
        return f"{address} of {host} has no name"
    name = answer.values[0]
    if host in {*answer.values, address} and await _leads_back(resolver, answer.values, address):
        return None
    if await _leads_back(resolver, (name,), address):
        return f"{address} is called {name}, and not {host}"
    return f"{address} is called {name}, which does not lead back to it"


async def _leads_back(resolver: Resolver, names: Sequence[str], address: str) -> bool:
    found = await asyncio.gather(*(_addresses(resolver, name) for name in names))
    return any(address in each for each in found)


async def _addresses(resolver: Resolver, host: str) -> list[str]:
    with suppress(ValueError):
        return [str(ip_address(host))]
    answers = await asyncio.gather(
        *(resolver.resolve(Question(host, kind)) for kind in ("A", "AAAA"))
    )
    return [address for answer in answers for address in answer.values]


async def port_25(patient: Patient) -> Finding:
    """Whether mail may leave: how to try it. Nothing is tried here, as it would mean knocking at
    strangers' doors.

    Mail leaves on port 25, which many hosts of machines keep closed until asked. Where Stalwart runs, try
    a provider of your choice: `nc -vz -w 5 gmail-smtp-in.l.google.com 25`. If it does not answer, have
    whoever runs the network open port 25 for outgoing connections, or send through a relay (Stalwart:
    x:MtaRoute). Once mail is on its way, the events message.bounced and `agentmail_outcomes_total` tell.
    """
    host = hosts_of(patient.settings).sending[0]
    return skipped(
        f"not tried: it needs a stranger's server. On {host}: nc -vz -w 5 gmail-smtp-in.l.google.com 25"
    )


def _resolver(patient: Patient) -> Resolver:
    return Resolver(patient.settings.name_servers, patient.settings.outbound_networks)


def _is_nowhere(name: str, patient: Patient) -> bool:
    """Whether a name is in nobody's DNS; with resolvers of the operator's own, any may be in theirs. An
    address is, unless the internet can reach it.
    """
    with suppress(ValueError):
        return not ip_address(name).is_global
    end = name.rpartition(".")[2]
    return end in NOWHERE and not patient.settings.name_servers
