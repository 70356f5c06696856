"""What a domain's row means: its public status, its names, and who sees it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from agentmail_cp.access import Reach
from agentmail_cp.domains import Domain, DomainStatus, check_name, with_parents
from agentmail_cp.errors import Forbidden, Invalid

NOW = datetime(2026, 11, 21, 8, 15, tzinfo=UTC)
ORGANIZATION, POD = UUID(int=1), UUID(int=2)


def a_domain(**fields: Any) -> Domain:
    """A row as it is when a domain was added, but for these fields."""
    added: dict[str, Any] = {
        **dict.fromkeys(Domain.__struct_fields__),
        "domain_id": uuid4(),
        "organization_id": ORGANIZATION,
        "name": "acme.test",
        "feedback_enabled": True,
        "inbound_enabled": True,
        "subdomains_enabled": False,
        "tracking_enabled": False,
        "findings": {},
        "checking": False,
        "failures": 0,
        "check_due_at": NOW,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Domain(**{**added, **fields})


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, DomainStatus.PENDING),
        ({"checking": True}, DomainStatus.VERIFYING),
        ({"checking": True, "reason": "MX: wrong"}, DomainStatus.VERIFYING),
        ({"reason": "MX: wrong"}, DomainStatus.INVALID),
        ({"verified_at": NOW}, DomainStatus.VERIFIED),
        # A console would flicker every few hours.
        ({"verified_at": NOW, "checking": True}, DomainStatus.VERIFIED),
        ({"verified_at": NOW, "reason": "MX: wrong"}, DomainStatus.VERIFIED),
        ({"verified_at": NOW, "broken_since": NOW, "reason": "MX: wrong"}, DomainStatus.INVALID),
        ({"proved_at": NOW, "installed_at": NOW}, DomainStatus.PENDING),
    ],
)
def test_status(fields: dict[str, Any], status: DomainStatus) -> None:
    """A person acts on it: INVALID sends them to their DNS, PENDING lets them wait."""
    assert a_domain(**fields).status is status


def test_a_domain_works_while_the_mail_server_has_it() -> None:
    assert not a_domain(proved_at=NOW).works
    assert a_domain(proved_at=NOW, installed_at=NOW).works
    assert not a_domain(proved_at=NOW, installed_at=NOW, deleted_at=NOW).works


@pytest.mark.parametrize("pod_id", [None, POD])
def test_who_sees_a_domain(pod_id: UUID | None) -> None:
    """A pod would see, and take addresses on, the domain of another customer."""
    domain = a_domain(pod_id=pod_id)
    assert domain.is_seen_by(Reach(ORGANIZATION))
    assert domain.is_seen_by(Reach(ORGANIZATION, POD))
    assert domain.is_seen_by(Reach(ORGANIZATION, UUID(int=3))) is (pod_id is None)
    assert not domain.is_seen_by(Reach(ORGANIZATION, POD, UUID(int=4)))
    assert not domain.is_seen_by(Reach(UUID(int=5)))


def test_the_names_above_end_before_the_top_level() -> None:
    """Nobody has a top-level domain, and asking for its sub-domains would be asking for everybody's."""
    assert with_parents("a.b.acme.test") == ["a.b.acme.test", "b.acme.test", "acme.test"]
    assert with_parents("acme.test") == ["acme.test"]
    assert with_parents("test") == []


def test_what_may_be_claimed_beside_the_servers_own_names() -> None:
    """Who runs a server below their own name wants to send from that name."""
    own = ["Agents.Acme.Test", "127.0.0.1"]
    assert check_name("ACME.test.", own) == "acme.test"
    assert check_name("agents2.acme.test", own) == "agents2.acme.test"
    for name in ("agents.acme.test", "x.agents.acme.test"):
        with pytest.raises(Forbidden):
            check_name(name, own)
    for name in ("127.0.0.1", "acme.42", f"{'abcdefghi.' * 20}test"):
        with pytest.raises(Invalid):
            check_name(name, own)
