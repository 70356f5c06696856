"""What inboxes may do on a domain: whether one may be made there, send from it, and keep its feedback.

Reads the table `domain` and writes down which sub-domains are used (`subdomains`). The service's own domain
(the setting `domain`) has no row and is everybody's, also where somebody claims the name above it. A
sub-domain is used through the domain above it that has `subdomains_enabled`, unless it was proved by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import access, addresses
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.domains import subdomains
from agentmail_cp.domains.domain import COLUMNS, Domain, with_parents
from agentmail_cp.domains.records import hosts_of
from agentmail_cp.domains.subdomains import STOOD_ON
from agentmail_cp.errors import Forbidden, Invalid
from agentmail_cp.mailserver import MailDomainSetup
from agentmail_cp.settings import Settings

DEEPEST: Final = 3
"""Labels a sub-domain may have in front of its domain's: as far as the mail server signs for it."""


class MailDomain(msgspec.Struct, frozen=True):
    """A domain inboxes can be made on. On a shared one every address gets a random suffix. `domain_id` is
    None for the service's own. `below` is how the mail server is to treat a name that stands below that of
    the domain's row, which it has to be told of.
    """

    name: str
    shared: bool
    domain_id: UUID | None = None
    below: MailDomainSetup | None = None


def own_names(settings: Settings) -> set[str]:
    """The names of this service itself: its mail domain, its API's host, and the hosts that records name."""
    hosts = hosts_of(settings)
    names = {settings.domain, hosts.web or "", *hosts.mail, *hosts.sending}
    return {each.lower() for each in names if each}


async def for_inboxes(tx: Tx, reach: Reach, settings: Settings, name: str | None) -> MailDomain:
    """The domain that a new inbox of this reach is asked for on; without a name, the service's own.

    Raises `Forbidden` (code `domain_not_verified`) for one that is not verified for its pod.
    """
    own = settings.domain.lower()
    wanted = own if name is None else _normal(name, own)
    if wanted == own:
        return MailDomain(own, settings.domain_shared)
    candidates = with_parents(wanted)
    if own in candidates:
        raise _not_verified(wanted, own)
    pod_id = reach.pod_id or await access.default_pod(tx, reach.organization_id)
    proved = await _proved(tx, reach.organization_id, candidates)
    found = proved[0] if proved else None
    if found is None or not found.is_seen_by(Reach(reach.organization_id, pod_id)):
        raise _not_verified(wanted, own, elsewhere=found is not None and found.is_seen_by(reach))
    hosts = own_names(settings) & set(_nearer(wanted, found.name))
    if hosts or not _takes(found, wanted) or await _is_apart(tx, wanted, above=found.name):
        raise _not_verified(wanted, own)
    below = None if wanted == found.name else subdomain(wanted, found)
    return MailDomain(wanted, shared=False, domain_id=found.domain_id, below=below)


def subdomain(name: str, domain: Domain) -> MailDomainSetup:
    """How the mail server treats a name below a domain that inboxes stand on."""
    return MailDomainSetup(
        name=name,
        owner=str(domain.organization_id),
        parent=domain.name,
        inbound=domain.inbound_enabled,
    )


def _normal(name: str, own: str) -> str:
    try:
        return addresses.check_domain(name.strip().removesuffix("."), "domain")
    except Invalid as error:
        raise _not_verified(name, own) from error


def _takes(domain: Domain, name: str) -> bool:
    """Whether inboxes can be made at this name, which is the domain's or below it."""
    if not domain.works or domain.broken_since is not None:
        return False
    depth = name.count(".") - domain.name.count(".")
    if depth == 0:
        return True
    return domain.subdomains_enabled and domain.verified_at is not None and depth <= DEEPEST


def _not_verified(name: str, own: str, *, elsewhere: bool = False) -> Forbidden:
    fix = f"Add the domain and verify it, or leave domain out to use {own}."
    if elsewhere:
        fix = "It belongs to a pod: make the inbox there, with pod_id or at /v0/pods/{pod_id}/inboxes."
    return _unusable(f"The domain {name[:253]} is not verified here.", fix)


def _unusable(message: str, fix: str) -> Forbidden:
    return Forbidden(
        message, fix=fix, field="domain", detail="UNKNOWN_DOMAIN", code="domain_not_verified"
    )


async def _proved(tx: Tx, organization_id: UUID, names: Collection[str]) -> list[Domain]:
    """The organisation's domains of these names that it has proved, the longest name first."""
    return await fetch_all(
        tx,
        Domain,
        f"select {COLUMNS} from domain where organization_id = %(organization_id)s"
        " and name = any(%(names)s) and deleted_at is null and proved_at is not null"
        " order by length(name) desc",
        {"organization_id": organization_id, "names": list(names)},
    )


async def _is_apart(tx: Tx, name: str, *, above: str) -> bool:
    """Whether a name, or one between it and this one above it, was proved by itself: by others, or here and
    is being let go of.
    """
    cursor = await tx.execute(_NEARER_PROVED, {"names": _nearer(name, above)})
    return await cursor.fetchone() is not None


def _nearer(name: str, above: str) -> list[str]:
    """A name, and those between it and one above it."""
    return [each for each in with_parents(name) if len(each) > len(above)]


_NEARER_PROVED: LiteralString = (
    "select 1 from domain where name = any(%(names)s) and proved_at is not null limit 1"
)


async def hold(tx: Tx, organization_id: UUID, mail_domain: MailDomain) -> None:
    """Keep a domain from being deleted until this transaction ends, and one below it from being proved by
    others, for whoever makes an inbox there; of one below it the mail server may be told afterwards.

    Raises `Forbidden` (code `domain_not_verified`) when either happened a moment ago, and for a name below
    that still has inboxes of a pod the domain is not for.
    """
    if mail_domain.domain_id is None:
        return
    held = await fetch_one(
        tx,
        _Held,
        "select pod_id from domain where organization_id = %(organization_id)s"
        " and domain_id = %(domain_id)s and deleted_at is null and installed_at is not null for share",
        {"organization_id": organization_id, "domain_id": mail_domain.domain_id},
    )
    if held is None:
        raise _unusable(
            f"The domain {mail_domain.name} was deleted.",
            "Add it again and verify it, or use another domain.",
        )
    if mail_domain.below is not None:
        await _hold_below(tx, organization_id, held.pod_id, mail_domain.below)


class _Held(msgspec.Struct, frozen=True):
    pod_id: UUID | None


async def _hold_below(
    tx: Tx, organization_id: UUID, pod_id: UUID | None, below: MailDomainSetup
) -> None:
    above = below.parent or ""
    if await _is_apart(tx, below.name, above=above):
        raise _unusable(
            f"The domain {below.name} was proved by itself, here or by another organization.",
            "Try again in a moment, or use another domain.",
        )
    new = await subdomains.add(tx, organization_id, below.name, above=above)
    # Those that were there when the domain was installed have been retired.
    if (
        new
        and pod_id is not None
        and await _has_other_pods(tx, organization_id, pod_id, below.name)
    ):
        raise _unusable(
            f"Inboxes of another pod stand on {below.name}.",
            f"Add {below.name} as a domain of its own and verify it, or use another name.",
        )


async def _has_other_pods(tx: Tx, organization_id: UUID, pod_id: UUID, name: str) -> bool:
    cursor = await tx.execute(
        "select 1 from inbox where organization_id = %(organization_id)s and pod_id <> %(pod_id)s"
        " and reverse(domain) = %(backwards)s and state in ('creating', 'active', 'deleting') limit 1",
        {"organization_id": organization_id, "pod_id": pod_id, "backwards": name[::-1]},
    )
    return await cursor.fetchone() is not None


class _Standing(msgspec.Struct, frozen=True):
    name: str
    reason: str | None
    deleted: bool
    installed: bool
    broken: bool


async def broken(tx: Tx, organization_id: UUID, name: str) -> str | None:
    """Why inboxes at this name may not send now, as a sentence; None when their domain is in order."""
    found = await fetch_one(
        tx,
        _Standing,
        "select name, reason, deleted_at is not null as deleted, installed_at is not null as"
        f" installed, broken_since is not null as broken from domain where {STOOD_ON}"
        " order by deleted_at is null and installed_at is not null desc, deleted_at is null desc,"
        " length(name) desc, created_at desc limit 1",
        {"organization_id": organization_id, "name": name},
    )
    if found is None:
        return None
    if found.deleted:
        return f"The domain {found.name} was deleted."
    if not found.installed:
        return f"The domain {found.name} is not verified."
    if found.broken:
        return f"The domain {found.name} is broken. {found.reason or ''}".strip()
    return None


class _Feedback(msgspec.Struct, frozen=True):
    feedback_enabled: bool


async def keeps_feedback(tx: Tx, organization_id: UUID, name: str) -> bool | None:
    """Whether bounce and complaint mails are messages, too, for inboxes at this name; None where that is not
    for the organisation to say, as on the service's own domain.
    """
    found = await fetch_one(
        tx,
        _Feedback,
        f"select feedback_enabled from domain where {STOOD_ON} and proved_at is not null"
        " order by length(name) desc limit 1",
        {"organization_id": organization_id, "name": name},
    )
    return found.feedback_enabled if found else None
