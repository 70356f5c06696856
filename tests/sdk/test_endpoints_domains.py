"""Domains of the organisation and of a pod, every call of the official Python SDK."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from agentmail.core.api_error import ApiError
from agentmail.core.request_options import RequestOptions
from agentmail.errors import NotFoundError, ValidationError
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest

from tests.sdk.mailbox import only
from tests.sdk.official import Sdk
from tests.sdk.tenants import NO_ID, new_tenant

AT_ONCE = RequestOptions(max_retries=0)


def a_name() -> str:
    return f"acme-{uuid.uuid4().hex[:8]}.test"


@pytest.fixture(params=["organization", "pod"])
def at(request: pytest.FixtureRequest, sdk: Sdk) -> tuple[Any, tuple[str, ...]]:
    """The calls of a scope, and what comes first in each."""
    if request.param == "organization":
        return sdk.client.domains, ()
    return sdk.client.pods.domains, (new_tenant(sdk).pod_id,)


def test_add_get_list_change_verify_delete(at: tuple[Any, tuple[str, ...]]) -> None:
    """A customer could not write from a name of its own."""
    domains, scope = at
    name = a_name()
    made = domains.create(*scope, domain=name.upper(), inbound_enabled=False)
    assert (made.domain, made.status, made.inbound_enabled) == (name, "PENDING", False)
    assert made.pod_id == (scope[0] if scope else None)
    assert {record.status for record in made.records} == {"MISSING"}
    assert domains.get(*scope, made.domain_id) == domains.get(*scope, name) == made
    other = domains.create(*scope, domain=a_name(), inbound_enabled=False)
    first = domains.list(*scope, limit=1)
    assert only(first.domains).domain_id == other.domain_id
    rest = domains.list(*scope, limit=1, page_token=first.next_page_token)
    assert only(rest.domains).domain_id == made.domain_id
    assert domains.list(*scope, ascending=True, limit=100).count >= 2
    changed = domains.update(*scope, name, subdomains_enabled=True, feedback_enabled=False)
    assert (changed.subdomains_enabled, changed.feedback_enabled) == (True, False)
    zone = b"".join(domains.get_zone_file(*scope, name)).decode()
    assert all(record.name.removesuffix(f".{name}") in zone for record in made.records[1:])
    domains.verify(*scope, made.domain_id)
    for each in (made, other):
        domains.delete(*scope, each.domain_id)
        with pytest.raises(NotFoundError):
            domains.get(*scope, each.domain_id)


def test_what_is_no_domain_is_not_there(at: tuple[Any, tuple[str, ...]]) -> None:
    """Code that catches the SDK's errors must know them."""
    domains, scope = at
    calls: list[Callable[[], object]] = [
        lambda: domains.get(*scope, NO_ID),
        lambda: domains.update(*scope, NO_ID, feedback_enabled=True),
        lambda: domains.verify(*scope, NO_ID),
        lambda: domains.delete(*scope, NO_ID),
        lambda: b"".join(domains.get_zone_file(*scope, NO_ID)),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(ValidationError):
        domains.create(*scope, domain="acme")
    with pytest.raises(ValidationError):
        domains.create(*scope, domain=a_name(), tracking_enabled=True)


def test_a_domain_is_added_once(sdk: Sdk) -> None:
    """Two rows of one name would ask for two proofs."""
    name = a_name()
    sdk.client.domains.create(domain=name, allow_conflicting_provider=True)
    with pytest.raises(ApiError) as refused:
        sdk.client.domains.create(domain=name, inbound_enabled=False, request_options=AT_ONCE)
    assert (refused.value.status_code, refused.value.body["code"]) == (403, "resource_taken")
    assert sdk.client.domains.get_setup_link(name).supported is False


def test_no_inbox_is_made_on_a_domain_before_it_is_verified(sdk: Sdk) -> None:
    """It would take mail that is for others."""
    name = a_name()
    sdk.client.domains.create(domain=name, inbound_enabled=False)
    with pytest.raises(ApiError) as refused:
        sdk.client.inboxes.create(request=CreateInboxRequest(username="ada", domain=name))
    assert (refused.value.status_code, refused.value.body["code"]) == (403, "domain_not_verified")
