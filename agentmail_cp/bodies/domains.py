"""Bodies of domains, and of the DNS records they need.

The contract's `reason` is a sentence here, for a person to act on; what it would be on the hosted service, a
word for programs, stands beside it as `reason_code`. Records of types that the contract does not have (SRV,
for mail clients) are in the zone file only.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import domains
from agentmail_cp.domains import Record

RecordType = Literal["TXT", "CNAME", "MX"]


class CreateDomain(msgspec.Struct, kw_only=True):
    """`POST /v0/domains`. `allow_conflicting_provider` adds a domain whose mail goes to another provider."""

    domain: str
    allow_conflicting_provider: bool | None = None
    feedback_enabled: bool | None = None
    inbound_enabled: bool | None = None
    subdomains_enabled: bool | None = None
    tracking_enabled: bool | None = None


class UpdateDomain(msgspec.Struct, kw_only=True):
    """`PATCH /v0/domains/{domain_id}`. `catch_all` is the address of an inbox on this very domain that gets
    what is addressed to nobody; null refuses that.
    """

    feedback_enabled: bool | UnsetType | None = UNSET
    inbound_enabled: bool | UnsetType | None = UNSET
    subdomains_enabled: bool | UnsetType | None = UNSET
    tracking_enabled: bool | UnsetType | None = UNSET
    catch_all: str | UnsetType | None = UNSET


class VerificationRecord(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A DNS record to publish, and what the last check saw of it. `name` is fully qualified. Mail works
    without those that are not `required`; `purpose` says what each is for.
    """

    type: RecordType
    name: str
    value: str
    status: Literal["MISSING", "INVALID", "VALID"]
    required: bool
    purpose: str
    priority: int | None = None
    reason: str | None = None
    reason_code: str | None = None
    found: list[str] | None = None


class DomainItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A domain as lists show it: without its records. One without a `pod_id` is for every pod."""

    domain_id: UUID
    domain: str
    status: domains.DomainStatus
    feedback_enabled: bool
    inbound_enabled: bool
    subdomains_enabled: bool
    tracking_enabled: bool
    created_at: datetime
    updated_at: datetime
    pod_id: UUID | None = None


class Domain(DomainItem, omit_defaults=True, kw_only=True):
    """A domain with every record it needs. `catch_all` is an inbox; what it has no inbox for is refused
    without one.
    """

    records: list[VerificationRecord]
    catch_all: str | None
    checked_at: datetime | None
    verified_at: datetime | None
    reason: str | None = None


class ListDomains(msgspec.Struct, omit_defaults=True):
    """One page of domains."""

    count: int
    limit: int
    domains: list[DomainItem]
    next_page_token: str | None = None


class SetupLink(msgspec.Struct, omit_defaults=True):
    """Whether a DNS provider can be told by itself what to publish (Domain Connect); not here."""

    supported: bool


def domain_item(found: domains.Domain) -> DomainItem:
    """A domain as lists show it."""
    return DomainItem(
        domain_id=found.domain_id,
        domain=found.name,
        status=found.status,
        feedback_enabled=found.feedback_enabled,
        inbound_enabled=found.inbound_enabled,
        subdomains_enabled=found.subdomains_enabled,
        tracking_enabled=found.tracking_enabled,
        created_at=found.created_at,
        updated_at=found.updated_at,
        pod_id=found.pod_id,
    )


def domain(found: domains.Domain, records: Sequence[Record], catch_all: str | None) -> Domain:
    """A domain as callers see it."""
    return Domain(
        **msgspec.structs.asdict(domain_item(found)),
        records=[_record(found, each) for each in records if each.type in domains.SHOWN_TYPES],
        catch_all=catch_all,
        checked_at=found.checked_at,
        verified_at=found.verified_at,
        reason=found.reason,
    )


def _record(found: domains.Domain, record: Record) -> VerificationRecord:
    finding = domains.finding(found, record)
    return VerificationRecord(
        type=msgspec.convert(record.type, RecordType),
        name=record.name,
        value=record.value,
        status=finding.status or "MISSING",
        required=record.required,
        purpose=record.about,
        priority=record.priority,
        reason=finding.reason,
        reason_code=finding.kind,
        found=list(finding.found) or None,
    )
