"""What a domain is: the rows of claims on a name, their public status, and how one is looked up.

Owns the reading of the table `domain`. A claim is made unproved; `proved_at` is set when its token was seen
in DNS and nobody else has proved the name; `installed_at` when the mail server knows it: from then on it
works; `verified_at` when everything it needs was seen, until more is wanted; `broken_since` while one that
works lacks what it worked by; `deleted_at` ends it. A domain belongs to one pod, or to all pods of its
organisation: their keys see and use it then, and only keys of the organisation change it. A key of one inbox
sees no domains.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import addresses, pages
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.errors import Forbidden, Invalid, NotFound

COLUMNS: LiteralString = (
    "domain_id, organization_id, pod_id, name, token, feedback_enabled, inbound_enabled,"
    " subdomains_enabled, tracking_enabled, catch_all_inbox_id, findings, reason, checked_at,"
    " check_due_at, coalesce(checking_until > now(), false) as checking, failures, failing_since,"
    " proved_at, installed_at, verified_at, broken_since, unsettled_since, created_at, updated_at, deleted_at"
)

UNSETTLED: LiteralString = "greatest(clock_timestamp(), unsettled_since + interval '1 microsecond')"
"""What `unsettled_since` becomes with a change that the mail server is to be told of: always later than it
was. The time a transaction began may be earlier than what a later one has written, and was told.
"""


class DomainStatus(StrEnum):
    """The contract's statuses that exist here."""

    PENDING = "PENDING"
    """Nothing wrong was seen, and not yet everything that is needed."""
    INVALID = "INVALID"
    """A check found something that somebody has to mend."""
    VERIFYING = "VERIFYING"
    """A check is running."""
    VERIFIED = "VERIFIED"


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """A claim of an organisation on a domain name. `findings` is what the last check found, by the key of
    the wanted record. `checking` tells whether a check was running when the row was read.
    """

    domain_id: UUID
    organization_id: UUID
    pod_id: UUID | None
    name: str
    token: str
    feedback_enabled: bool
    inbound_enabled: bool
    subdomains_enabled: bool
    tracking_enabled: bool
    catch_all_inbox_id: UUID | None
    findings: dict[str, Any]
    reason: str | None
    checked_at: datetime | None
    check_due_at: datetime
    checking: bool
    failures: int
    failing_since: datetime | None
    proved_at: datetime | None
    installed_at: datetime | None
    verified_at: datetime | None
    broken_since: datetime | None
    unsettled_since: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None

    @property
    def status(self) -> DomainStatus:
        """What callers are told. A verified domain stays so while it is checked again."""
        if self.verified_at is not None and self.broken_since is None:
            return DomainStatus.VERIFIED
        if self.checking:
            return DomainStatus.VERIFYING
        return DomainStatus.PENDING if self.reason is None else DomainStatus.INVALID

    @property
    def works(self) -> bool:
        """Whether the mail server takes and sends mail of it."""
        return self.installed_at is not None and self.deleted_at is None

    def is_seen_by(self, reach: Reach) -> bool:
        """Whether it is there for whoever reaches so far."""
        return (
            reach.organization_id == self.organization_id
            and reach.inbox_id is None
            and (reach.pod_id is None or self.pod_id in (None, reach.pod_id))
        )


def with_parents(name: str) -> list[str]:
    """A domain name and those above it, the longest first, without top-level domains. Pure."""
    labels = name.split(".")
    return [".".join(labels[start:]) for start in range(len(labels) - 1)]


def below(name: str) -> str:
    """The pattern that the reversed names below a domain are like. Pure."""
    return f"{name[::-1]}.".replace("_", "\\_") + "%"


def in_sight(reach: Reach) -> LiteralString:
    """The condition that keeps a query of domains to those that are there for a pod, beside that on their
    organisation.
    """
    return "" if reach.pod_id is None else " and (pod_id = %(pod_id)s or pod_id is null)"


async def get(tx: Tx, reach: Reach, domain: str, *, lock: bool = False) -> Domain:
    """The domain in sight that goes by this id or name; `NotFound` otherwise."""
    reach.require_pod()
    query: LiteralString = (
        f"select {COLUMNS} from domain where organization_id = %(organization_id)s"
        " and (domain_id = %(domain_id)s or name = %(name)s) and deleted_at is null"
    )
    if lock:
        query += " for no key update"
    found = await fetch_one(
        tx,
        Domain,
        query,
        {
            "organization_id": reach.organization_id,
            "domain_id": _as_uuid(domain),
            "name": _as_name(domain),
        },
    )
    if found is None or not found.is_seen_by(reach):
        raise NotFound("There is no such domain.", fix="List your domains to see which were added.")
    return found


async def get_own(tx: Tx, reach: Reach, domain: str) -> Domain:
    """The same, locked, for whoever changes it: `Forbidden` for a pod when it belongs to all pods."""
    found = await get(tx, reach, domain, lock=True)
    if reach.pod_id is not None and found.pod_id is None:
        raise Forbidden(
            f"{found.name} belongs to all pods of the organization.",
            fix="Use a key of the organization, at /v0/domains.",
        )
    return found


async def list_page(
    tx: Tx, reach: Reach, *, limit: int, page_token: str | None, ascending: bool = False
) -> tuple[list[Domain], str | None]:
    """One page of the domains in sight by time of creation, and the token of the next."""
    reach.require_pod()
    scope = f"domains/{reach.pod_id or reach.organization_id}/{ascending}"
    page, parameters = pages.by_time(
        scope, page_token, ("created_at", "domain_id"), limit=limit, ascending=ascending
    )
    rows = await fetch_all(
        tx,
        Domain,
        f"select {COLUMNS} from domain where organization_id = %(organization_id)s"
        f" and deleted_at is null{in_sight(reach)}{page}",
        msgspec.structs.asdict(reach) | parameters,
    )
    return pages.cut(scope, rows, limit, lambda last: (last.created_at, last.domain_id))


async def count(tx: Tx, organization_id: UUID, pod_id: UUID | None = None) -> int:
    """How many domains an organisation has, or how many belong to one of its pods alone."""
    query: LiteralString = (
        "select count(*) as domains from domain where organization_id = %(organization_id)s"
        " and deleted_at is null"
    )
    if pod_id is not None:
        query += " and pod_id = %(pod_id)s"
    cursor = await tx.execute(query, {"organization_id": organization_id, "pod_id": pod_id})
    row = await cursor.fetchone()
    return row["domains"] if row else 0


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _as_name(text: str) -> str | None:
    """How a domain that a caller names would be stored; None when it is no domain name."""
    try:
        return addresses.check_domain(text.strip().removesuffix("."), "domain_id")
    except Invalid:
        return None
