"""A domain with its records, as events tell of it and as callers are shown it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from agentmail_cp.domains.domain import Domain, DomainStatus
from agentmail_cp.domains.judging import Finding
from agentmail_cp.domains.keys import StoredKey
from agentmail_cp.domains.records import Claimed, Hosts, Record, wanted

SHOWN_TYPES: Final = frozenset({"TXT", "CNAME", "MX"})
"""Types of records that the contract has; others are in the zone file only."""


def wanted_of(domain: Domain, held: Sequence[StoredKey], hosts: Hosts) -> tuple[Record, ...]:
    """The records a domain needs now, with these keys."""
    claimed = Claimed(
        name=domain.name,
        token=domain.token,
        inbound_enabled=domain.inbound_enabled,
        subdomains_enabled=domain.subdomains_enabled,
    )
    return wanted(claimed, [key.public for key in held], hosts)


def finding(domain: Domain, record: Record) -> Finding:
    """What the last check found of a record."""
    return msgspec.convert(domain.findings.get(record.key, {"status": "MISSING"}), Finding)


def described(
    domain: Domain, records: Sequence[Record], *, status: DomainStatus | None = None
) -> Mapping[str, Any]:
    """The contract's `Domain`, ready for JSON."""
    facts: dict[str, Any] = {
        "domain_id": str(domain.domain_id),
        "domain": domain.name,
        "status": (status or domain.status).value,
        "feedback_enabled": domain.feedback_enabled,
        "inbound_enabled": domain.inbound_enabled,
        "subdomains_enabled": domain.subdomains_enabled,
        "tracking_enabled": domain.tracking_enabled,
        "records": [
            _record(record, domain.findings.get(record.key, {}))
            for record in records
            if record.type in SHOWN_TYPES
        ],
        "created_at": domain.created_at,
        "updated_at": domain.updated_at,
    }
    if domain.pod_id is not None:
        facts["pod_id"] = domain.pod_id
    return msgspec.to_builtins(facts)


def _record(record: Record, finding: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": record.type,
        "name": record.name,
        "value": record.value,
        "status": finding.get("status") or "MISSING",
        "required": record.required,
    }
    if record.priority is not None:
        shown["priority"] = record.priority
    return shown
