"""API keys at each of their three scopes, every call of the official Python SDK."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from agentmail.api_keys.types.api_key_permissions import ApiKeyPermissions
from agentmail.api_keys.types.bearer_api_key import BearerApiKey
from agentmail.api_keys.types.create_api_key_response import CreateApiKeyResponse
from agentmail.api_keys.types.create_bearer_api_key_request import CreateBearerApiKeyRequest
from agentmail.core.api_error import ApiError
from agentmail.errors import NotFoundError, ValidationError

from tests.sdk.mailbox import only
from tests.sdk.official import Sdk
from tests.sdk.tenants import NO_ID, NOBODY, SCOPES, Calls, calls_at, holding, new_key, new_tenant


@pytest.mark.parametrize("scope", SCOPES)
def test_create_list_update_delete(sdk: Sdk, scope: str) -> None:
    """A key for a customer or an agent could not be handed out, or taken back."""
    tenant = new_tenant(sdk)
    keys = calls_at(scope, "api_keys", sdk.client, tenant)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    made = keys.create(
        request=CreateBearerApiKeyRequest(
            name="ci", permissions=ApiKeyPermissions(message_read=True), expires_at=end
        )
    )
    assert isinstance(made, CreateApiKeyResponse)
    assert made.api_key.startswith(made.prefix)
    assert (made.name, made.expires_at) == ("ci", end)
    assert made.pod_id == (None if scope == "organization" else tenant.pod_id)
    assert made.inbox_id == (tenant.inbox_id if scope == "inbox" else None)
    assert made.permissions == ApiKeyPermissions(message_read=True)
    new = [each for each in keys.list().api_keys if each.name != "sdk"]
    assert [(each.type, each.name, each.used_at) for each in new] == [("bearer", "ci", None)]
    changed = keys.update(
        made.api_key_id, name="build", permissions=ApiKeyPermissions(metrics_read=True)
    )
    assert isinstance(changed, BearerApiKey)
    assert (changed.name, changed.prefix) == ("build", made.prefix)
    assert changed.permissions == ApiKeyPermissions(metrics_read=True)
    keys.delete(made.api_key_id)
    assert not [each for each in keys.list().api_keys if each.name == "build"]
    with pytest.raises(NotFoundError):
        sdk.client.api_keys.get(made.api_key_id)


def test_a_list_shows_what_is_narrower_too(sdk: Sdk) -> None:
    """Whoever looks for a key that leaked would have to ask every inbox."""
    tenant = new_tenant(sdk)
    made = {scope: new_key(sdk, scope, tenant).api_key_id for scope in SCOPES}

    def shown(scope: str) -> set[str]:
        page = calls_at(scope, "api_keys", sdk.client, tenant).list()
        return {each.name for each in page.api_keys}

    assert [shown(scope) for scope in SCOPES] == [
        {"sdk", *SCOPES},
        {"pod", "inbox"},
        {"inbox"},
    ]
    first = sdk.client.api_keys.list(limit=1, ascending=True)
    rest = sdk.client.api_keys.list(limit=9, ascending=True, page_token=first.next_page_token)
    assert [each.name for each in [*first.api_keys, *rest.api_keys]] == ["sdk", *SCOPES]
    assert sdk.client.api_keys.list(type="public_key").count == 0
    assert sdk.client.api_keys.get(made["inbox"]).name == "inbox"


@pytest.mark.parametrize("scope", ["pod", "inbox"])
def test_a_key_reaches_its_scope_and_nothing_else(sdk: Sdk, scope: str) -> None:
    """An agent that was talked into it would read another customer's mail."""
    own, stranger = new_tenant(sdk), new_tenant(sdk, "stranger")
    client = holding(sdk, scope, own)
    assert only(client.inboxes.list().inboxes).inbox_id == own.inbox_id
    assert client.inboxes.get(own.inbox_id).pod_id == own.pod_id
    theirs = new_key(sdk, scope, stranger)
    calls: Calls = [
        lambda: client.inboxes.get(stranger.inbox_id),
        lambda: client.inboxes.messages.list(stranger.inbox_id),
        lambda: client.inboxes.messages.send(stranger.inbox_id, to=NOBODY, text="x"),
        lambda: client.inboxes.drafts.list(stranger.inbox_id),
        lambda: client.inboxes.threads.list(stranger.inbox_id),
        lambda: client.inboxes.api_keys.list(stranger.inbox_id),
        lambda: client.api_keys.get(theirs.api_key_id),
        lambda: client.api_keys.update(theirs.api_key_id, name="mine"),
        lambda: client.api_keys.delete(theirs.api_key_id),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()
    assert sdk.client.api_keys.get(theirs.api_key_id).name == scope


def test_an_inbox_key_knows_no_pods(sdk: Sdk) -> None:
    """It is told so, as the contract says, and not that its own pod is missing."""
    tenant = new_tenant(sdk)
    client = holding(sdk, "inbox", tenant)
    calls: Calls = [
        lambda: client.pods.get(tenant.pod_id),
        client.pods.create,
        lambda: client.pods.inboxes.list(tenant.pod_id),
        lambda: client.pods.api_keys.list(tenant.pod_id),
        client.inboxes.create,
        lambda: client.inboxes.delete(tenant.inbox_id),
    ]
    for call in calls:
        with pytest.raises(ApiError) as refused:
            call()
        assert refused.value.status_code == 403
        assert body_of(refused.value)["name"] == "ForbiddenError"
    assert sdk.client.inboxes.get(tenant.inbox_id).inbox_id == tenant.inbox_id


def body_of(error: ApiError) -> dict[str, object]:
    body: object = error.body
    if not isinstance(body, dict):
        return vars(body)
    return body  # pyright: ignore[reportUnknownVariableType]


def test_a_key_makes_none_that_may_do_more_or_live_longer(sdk: Sdk) -> None:
    """Whoever got hold of a small key would make themselves a large one."""
    tenant = new_tenant(sdk)
    client = holding(sdk, "organization", tenant, "api_key_create", "message_read")
    for request in (
        CreateBearerApiKeyRequest(name="all"),
        CreateBearerApiKeyRequest(name="more", permissions=ApiKeyPermissions(message_send=True)),
    ):
        with pytest.raises(ApiError) as refused:
            client.api_keys.create(request=request)
        assert refused.value.status_code == 403
        assert body_of(refused.value)["code"] == "permission_escalation"
    less = client.api_keys.create(
        request=CreateBearerApiKeyRequest(permissions=ApiKeyPermissions(message_read=True))
    )
    assert isinstance(less, CreateApiKeyResponse)
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    day = sdk.client.api_keys.create(request=CreateBearerApiKeyRequest(expires_at=end))
    assert isinstance(day, CreateApiKeyResponse)
    same = sdk.holding(day.api_key).api_keys.create(request=CreateBearerApiKeyRequest(name="same"))
    assert isinstance(same, CreateApiKeyResponse)
    assert same.expires_at == end, "inherited, as the SDK says"


def test_a_key_without_the_permission_is_told_so(sdk: Sdk) -> None:
    """It would look like a mistake of the program."""
    tenant = new_tenant(sdk)
    client = holding(sdk, "inbox", tenant, "message_read")
    assert client.inboxes.messages.list(tenant.inbox_id).count == 0
    calls: Calls = [
        lambda: client.inboxes.get(tenant.inbox_id),
        lambda: client.inboxes.drafts.list(tenant.inbox_id),
        lambda: client.inboxes.metrics.query_usage(tenant.inbox_id),
        lambda: client.inboxes.lists.list(tenant.inbox_id, "send", "block"),
        lambda: client.inboxes.api_keys.list(tenant.inbox_id),
    ]
    for call in calls:
        with pytest.raises(ApiError) as refused:
            call()
        assert refused.value.status_code == 403
        assert body_of(refused.value)["code"] == "missing_permission"


def test_mistakes_are_typed(sdk: Sdk) -> None:
    """Code that catches the SDK's errors would not catch ours."""
    tenant, client = new_tenant(sdk), sdk.client
    calls: Calls = [
        lambda: client.api_keys.get(NO_ID),
        lambda: client.api_keys.update(NO_ID, name="x"),
        lambda: client.api_keys.delete(NO_ID),
        lambda: client.pods.api_keys.list(NO_ID),
        lambda: client.pods.api_keys.update(tenant.pod_id, NO_ID, name="x"),
        lambda: client.pods.api_keys.delete(tenant.pod_id, NO_ID),
        lambda: client.inboxes.api_keys.list(NOBODY),
        lambda: client.inboxes.api_keys.update(tenant.inbox_id, NO_ID, name="x"),
        lambda: client.inboxes.api_keys.delete(tenant.inbox_id, NO_ID),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()
    past = datetime.now(UTC) - timedelta(days=1)
    for scope in SCOPES:
        keys = calls_at(scope, "api_keys", client, tenant)
        with pytest.raises(ValidationError):
            keys.create(request=CreateBearerApiKeyRequest(expires_at=past))
