"""Pods, what is in them, the organisation and the caller, every call of the official Python SDK."""

from __future__ import annotations

import uuid

import pytest
from agentmail.core.api_error import ApiError
from agentmail.core.request_options import RequestOptions
from agentmail.errors import NotFoundError, ValidationError

from tests.sdk.mailbox import new_inbox, only
from tests.sdk.official import Sdk
from tests.sdk.tenants import NO_ID, NOBODY, SCOPES, Calls, holding, new_key, new_tenant

AT_ONCE = RequestOptions(max_retries=0)


def test_create_get_list_delete(sdk: Sdk) -> None:
    """A customer could not be kept apart from others."""
    pods = sdk.client.pods
    made = pods.create(name="Acme", client_id="acme-1")
    assert (made.name, made.client_id) == ("Acme", "acme-1")
    assert pods.create(name="Other", client_id="acme-1") == made
    assert pods.get(made.pod_id) == pods.get("acme-1") == made
    nameless = pods.create()
    assert nameless.pod_id != made.pod_id
    first = pods.list(limit=2)
    rest = pods.list(limit=2, page_token=first.next_page_token)
    assert [each.pod_id for each in first.pods] == [nameless.pod_id, made.pod_id]
    default = only(rest.pods)
    assert rest.next_page_token is None
    assert only(pods.list(limit=1, ascending=True).pods) == default
    pods.delete(made.pod_id)
    with pytest.raises(NotFoundError):
        pods.get(made.pod_id)


def test_a_pod_with_something_in_it_stays(sdk: Sdk) -> None:
    """A customer's mailboxes would be gone by a slip; code that catches the error must know it."""
    tenant = new_tenant(sdk)
    with pytest.raises(ApiError) as refused:
        sdk.client.pods.delete(tenant.pod_id, request_options=AT_ONCE)
    assert refused.value.status_code == 409
    assert refused.value.body["code"] == "cannot_delete"
    sdk.client.pods.inboxes.delete(tenant.pod_id, tenant.inbox_id)
    sdk.client.pods.delete(tenant.pod_id)


def test_the_inboxes_of_a_pod(sdk: Sdk) -> None:
    """An agent could not have an address of its customer's."""
    tenant, pods = new_tenant(sdk), sdk.client.pods
    inboxes = pods.inboxes
    name = f"ada-{uuid.uuid4().hex[:8]}"
    made = inboxes.create(
        tenant.pod_id,
        username=name,
        domain="agents.test",
        display_name="Ada",
        client_id=name,
        metadata={"team": "blue"},
    )
    assert (made.email, made.pod_id, made.metadata) == (
        f"{name}@agents.test",
        tenant.pod_id,
        {"team": "blue"},
    )
    assert inboxes.create(tenant.pod_id, client_id=name).inbox_id == made.inbox_id
    assert inboxes.get(tenant.pod_id, made.inbox_id).display_name == "Ada"
    changed = inboxes.update(tenant.pod_id, made.inbox_id, metadata={"team": None, "floor": 3})
    assert changed.metadata == {"floor": 3}
    assert inboxes.update(tenant.pod_id, made.inbox_id, display_name="A").display_name == "A"
    first = inboxes.list(tenant.pod_id, limit=1)
    rest = inboxes.list(tenant.pod_id, limit=1, page_token=first.next_page_token)
    shown = [only(page.inboxes).inbox_id for page in (first, rest)]
    assert shown == [made.inbox_id, tenant.inbox_id]
    oldest = only(inboxes.list(tenant.pod_id, limit=1, ascending=True).inboxes)
    assert oldest.inbox_id == tenant.inbox_id
    assert only(inboxes.search(tenant.pod_id, q=name).inboxes).inbox_id == made.inbox_id
    inboxes.delete(tenant.pod_id, made.inbox_id)
    with pytest.raises(NotFoundError):
        inboxes.get(tenant.pod_id, made.inbox_id)


def test_another_pods_inbox_is_not_there(sdk: Sdk) -> None:
    """One customer would read, change and delete another's mailboxes."""
    one, other = new_tenant(sdk, "one"), new_tenant(sdk, "other")
    inboxes = sdk.client.pods.inboxes
    calls: Calls = [
        lambda: inboxes.get(one.pod_id, other.inbox_id),
        lambda: inboxes.update(one.pod_id, other.inbox_id, display_name="X"),
        lambda: inboxes.delete(one.pod_id, other.inbox_id),
        lambda: inboxes.get(one.pod_id, NOBODY),
        lambda: inboxes.list(NO_ID),
        lambda: sdk.client.pods.get(NO_ID),
        lambda: sdk.client.pods.delete(NO_ID),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(ApiError) as refused:
        inboxes.create(NO_ID)
    assert refused.value.status_code == 404, "the SDK has no type for this one"
    assert only(inboxes.list(one.pod_id).inboxes).inbox_id == one.inbox_id


def test_mistakes_are_typed(sdk: Sdk) -> None:
    """Code that catches the SDK's errors would not catch ours."""
    tenant, inboxes = new_tenant(sdk), sdk.client.pods.inboxes
    with pytest.raises(ValidationError):
        sdk.client.pods.create(client_id="not a client id")
    with pytest.raises(ValidationError):
        inboxes.create(tenant.pod_id, username="Not Allowed")
    with pytest.raises(ApiError) as nothing:
        inboxes.update(tenant.pod_id, tenant.inbox_id)
    assert nothing.value.status_code == 400, "the SDK has no type for this one"
    inboxes.create(tenant.pod_id, client_id="once")
    with pytest.raises(ApiError) as taken:
        inboxes.create(new_tenant(sdk).pod_id, client_id="once", request_options=AT_ONCE)
    assert taken.value.status_code == 409, "nor for this one"


def test_the_organization(sdk: Sdk) -> None:
    """A program could not see how many inboxes it has, and may have."""
    tenant = new_tenant(sdk)
    new_inbox(sdk)
    found = sdk.client.organizations.get()
    assert (found.inbox_count, found.domain_count) == (2, 0)
    for scope in ("pod", "inbox"):
        with pytest.raises(ApiError) as refused:
            holding(sdk, scope, tenant).organizations.get()
        assert refused.value.status_code == 403


@pytest.mark.parametrize("scope", SCOPES)
def test_who_is_calling(sdk: Sdk, scope: str) -> None:
    """A program could not tell how far the key reaches that it was given."""
    tenant = new_tenant(sdk)
    organization = sdk.client.organizations.get().organization_id
    key = new_key(sdk, scope, tenant)
    me = sdk.holding(key.api_key).auth.me()
    ids = {"organization": organization, "pod": tenant.pod_id, "inbox": tenant.inbox_id}
    assert (me.scope_type, me.scope_id) == (scope, ids[scope])
    assert (me.organization_id, me.api_key_id) == (organization, key.api_key_id)
    assert me.pod_id == (None if scope == "organization" else tenant.pod_id)
    assert me.inbox_id == (tenant.inbox_id if scope == "inbox" else None)
