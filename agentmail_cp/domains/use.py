"""What inboxes may do on a domain: whether one may be made there, send from it, and keep its feedback.

Reads the table `domain`, and writes nothing. The service's own domain (the setting `domain`) has no row and
is everybody's. A sub-domain is used through the domain above it that has `subdomains_enabled`, unless
somebody else has proved the sub-domain itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import access, addresses
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.domains.domain import COLUMNS, Domain, with_parents
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


async def for_inboxes(tx: Tx, reach: Reach, settings: Settings, name: str | None) -> MailDomain:
    """The domain that a new inbox of this reach is asked for on; without a name, the service's own.

    Raises `Forbidden` (code `domain_not_verified`) for one that is not verified for its pod.
    """
    own = settings.domain.lower()
    wanted = own if name is None else _normal(name)
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
    if not _takes(found, wanted) or await _is_others(
        tx, found.organization_id, wanted, above=found.name
    ):
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


def _normal(name: str) -> str:
    try:
        return addresses.check_domain(name.strip().removesuffix("."), "domain")
    except Invalid:
        return name.lower()


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


async def _is_others(tx: Tx, organization_id: UUID, name: str, *, above: str) -> bool:
    """Whether another organisation has proved a name, or one between it and this one above it."""
    cursor = await tx.execute(
        _LONGER_PROVED,
        {
            "organization_id": organization_id,
            "names": [each for each in with_parents(name) if len(each) > len(above)],
        },
    )
    return await cursor.fetchone() is not None


_LONGER_PROVED: LiteralString = (
    "select 1 from domain where organization_id <> %(organization_id)s and name = any(%(names)s)"
    " and proved_at is not null limit 1"
)


async def hold(tx: Tx, organization_id: UUID, mail_domain: MailDomain) -> None:
    """Keep a domain from being deleted until this transaction ends, and one below it from being proved by
    others, for whoever makes an inbox there.

    Raises `Forbidden` (code `domain_not_verified`) when either happened a moment ago.
    """
    if mail_domain.domain_id is None:
        return
    cursor = await tx.execute(
        "select 1 from domain where organization_id = %(organization_id)s"
        " and domain_id = %(domain_id)s and deleted_at is null and installed_at is not null for share",
        {"organization_id": organization_id, "domain_id": mail_domain.domain_id},
    )
    if cursor.rowcount == 0:
        raise _unusable(
            f"The domain {mail_domain.name} was deleted.",
            "Add it again and verify it, or use another domain.",
        )
    above = mail_domain.below.parent if mail_domain.below else None
    if above and await _is_others(tx, organization_id, mail_domain.name, above=above):
        raise _unusable(
            f"The domain {mail_domain.name} is another organization's now.", "Use another domain."
        )


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
        " installed, broken_since is not null as broken from domain"
        " where organization_id = %(organization_id)s and name = any(%(names)s)"
        " order by deleted_at is null and installed_at is not null desc, deleted_at is null desc,"
        " length(name) desc, created_at desc limit 1",
        {"organization_id": organization_id, "names": with_parents(name)},
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
    name: str
    feedback_enabled: bool


async def keeps_feedback(tx: Tx, names: Collection[str]) -> dict[str, bool]:
    """Whether bounce and complaint mails are messages on these mail domains, too; without those that are the
    service's own.
    """
    above = {name: with_parents(name) for name in names}
    rows = await fetch_all(
        tx,
        _Feedback,
        _FEEDBACK,
        {"names": sorted({each for parents in above.values() for each in parents})},
    )
    kept = {row.name: row.feedback_enabled for row in rows}
    return {
        name: next(kept[each] for each in parents if each in kept)
        for name, parents in above.items()
        if not kept.keys().isdisjoint(parents)
    }


_FEEDBACK: LiteralString = (
    "select name, feedback_enabled from domain"
    " where name = any(%(names)s) and proved_at is not null"
)
