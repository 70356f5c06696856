"""Webhooks at each of their three scopes, every call of the official Python SDK."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import pytest
from agentmail.core.api_error import ApiError
from agentmail.errors import NotFoundError, ValidationError

from agentmail_cp.events import DEFAULT_TYPES
from tests.sdk.mailbox import only
from tests.sdk.official import Sdk
from tests.sdk.tenants import NO_ID, NOBODY, SCOPES, Calls, calls_at, holding, new_tenant

URL = "https://hooks.test/mail"
SILENT = ["domain.verified"]
"""A type that nothing causes here, so that nothing is delivered."""


@pytest.mark.parametrize("scope", SCOPES)
def test_create_get_list_update_delete(sdk: Sdk, scope: str) -> None:
    """An agent could not be told of its mail."""
    tenant = new_tenant(sdk)
    webhooks = calls_at(scope, "webhooks", sdk.client, tenant)
    made = webhooks.create(url=URL, event_types=SILENT, headers={"X-Token": "canary"})
    assert (made.url, made.event_types, made.enabled) == (URL, SILENT, True)
    assert len(base64.b64decode(made.secret.removeprefix("whsec_"), validate=True)) == 32
    assert made.pod_id == (None if scope == "organization" else tenant.pod_id)
    assert made.inbox_id == (tenant.inbox_id if scope == "inbox" else None)
    assert webhooks.get(made.webhook_id) == made
    second = webhooks.create(url=URL, event_types=SILENT)
    assert only(webhooks.list(limit=1).webhooks) == second
    token = webhooks.list(limit=1).next_page_token
    assert made in webhooks.list(limit=50, page_token=token).webhooks
    assert webhooks.list(limit=50, ascending=True).webhooks[-1] == second
    changed = webhooks.update(made.webhook_id, event_types=["message.bounced", *SILENT])
    assert changed.event_types == ["message.bounced", *SILENT]
    disabled = webhooks.update(made.webhook_id, enabled=False, event_types=[])
    assert (disabled.enabled, disabled.event_types) == (False, changed.event_types)
    assert webhooks.update(made.webhook_id, enabled=True).secret == made.secret
    webhooks.delete(made.webhook_id)
    with pytest.raises(NotFoundError):
        webhooks.get(made.webhook_id)
    webhooks.delete(second.webhook_id)


@pytest.mark.parametrize("scope", SCOPES)
def test_headers(sdk: Sdk, scope: str) -> None:
    """A receiver that wants a token could not be used, or whoever looks would see it."""
    webhooks = calls_at(scope, "webhooks", sdk.client, new_tenant(sdk))
    hook = webhooks.create(url=URL, event_types=SILENT, headers={"X-Token": "canary"})
    assert webhooks.get_headers(hook.webhook_id).header_names == ["X-Token"]
    webhooks.update_headers(
        hook.webhook_id, headers={"X-Team": "canary"}, remove_headers=["x-token"]
    )
    assert webhooks.get_headers(hook.webhook_id).header_names == ["X-Team"]
    with pytest.raises(ValidationError):
        webhooks.update_headers(hook.webhook_id, headers={"A": "b"}, remove_headers=["a"])
    with pytest.raises(ValidationError):
        webhooks.update_headers(hook.webhook_id)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_client_id_makes_one(sdk: Sdk, scope: str) -> None:
    """Every start of a program would make another one."""
    webhooks = calls_at(scope, "webhooks", sdk.client, new_tenant(sdk))
    name = f"hook-{uuid.uuid4().hex[:8]}"
    made = webhooks.create(url=URL, event_types=SILENT, client_id=name)
    again = webhooks.create(url=f"{URL}/2", event_types=SILENT, client_id=name)
    assert again == made
    assert only([each for each in webhooks.list().webhooks if each.client_id == name]) == made


def test_filters(sdk: Sdk) -> None:
    """An agent would be told of the mail of all others."""
    tenant, other = new_tenant(sdk), new_tenant(sdk, "other")
    webhooks = sdk.client.webhooks
    made = webhooks.create(url=URL, event_types=["domain.verified"], inbox_ids=[tenant.inbox_id])
    assert made.inbox_ids == [tenant.inbox_id]
    more = webhooks.update(
        made.webhook_id, add_inbox_ids=[other.inbox_id], add_pod_ids=[tenant.pod_id]
    )
    assert more.inbox_ids == [tenant.inbox_id, other.inbox_id]
    assert more.pod_ids == [tenant.pod_id]
    less = webhooks.update(
        made.webhook_id,
        remove_inbox_ids=[tenant.inbox_id, other.inbox_id],
        add_pod_ids=[other.pod_id],
        remove_pod_ids=[tenant.pod_id],
    )
    assert (less.inbox_ids, less.pod_ids) == (None, [other.pod_id])
    pods = sdk.client.pods.webhooks
    held = pods.create(
        tenant.pod_id, url=URL, event_types=["domain.verified"], inbox_ids=[tenant.inbox_id]
    )
    assert held.inbox_ids == [tenant.inbox_id]
    with pytest.raises(NotFoundError):
        pods.update(tenant.pod_id, held.webhook_id, add_inbox_ids=[other.inbox_id])


@pytest.mark.parametrize("scope", SCOPES)
def test_mistakes_are_typed(sdk: Sdk, scope: str) -> None:
    """Code that catches the SDK's errors would not catch ours."""
    tenant = new_tenant(sdk)
    webhooks = calls_at(scope, "webhooks", sdk.client, tenant)
    calls: Calls = [
        lambda: webhooks.create(url="nowhere", event_types=SILENT),
        lambda: webhooks.create(url="http://169.254.169.254/", event_types=SILENT),
        lambda: webhooks.create(url=URL, event_types=[]),
        lambda: webhooks.create(url=URL, event_types=["message.opened"]),
        lambda: webhooks.create(url=URL, event_types=SILENT, client_id="a@b"),
    ]
    for call in calls:
        with pytest.raises(ValidationError):
            call()
    missing: Calls = [
        lambda: webhooks.get(NO_ID),
        lambda: webhooks.update(NO_ID, enabled=True),
        lambda: webhooks.delete(NO_ID),
        lambda: webhooks.get_headers(NO_ID),
        lambda: webhooks.update_headers(NO_ID, headers={"A": "b"}),
    ]
    for call in missing:
        with pytest.raises(NotFoundError):
            call()
    blind = holding(sdk, scope, tenant, "webhook_create", "message_read")
    with pytest.raises(ApiError) as refused:
        calls_at(scope, "webhooks", blind, tenant).create(
            url=URL, event_types=["message.received.spam"]
        )
    assert refused.value.status_code == 403
    assert "label_spam_read is forbidden" in str(refused.value.body)


def test_webhooks_of_what_is_not_there(sdk: Sdk) -> None:
    """A typing error would look like an empty list."""
    pods, inboxes = sdk.client.pods.webhooks, sdk.client.inboxes.webhooks
    calls: Calls = [
        lambda: pods.get(NO_ID, NO_ID),
        lambda: pods.delete(NO_ID, NO_ID),
        lambda: inboxes.get(NOBODY, NO_ID),
        lambda: inboxes.delete(NOBODY, NO_ID),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


def test_seed_001(sdk: Sdk) -> None:
    """The user's own document: no types, `enabled` at creation, and PUT."""
    tenant = new_tenant(sdk)
    name = f"webhook-{uuid.uuid4().hex[:8]}"
    made = sdk.plain(
        "POST",
        "/v0/webhooks",
        json={"url": URL, "client_id": name, "enabled": True, "inbox_ids": [tenant.inbox_id]},
    )
    assert made.json()["event_types"] == [each.value for each in DEFAULT_TYPES]
    path = f"/v0/webhooks/{made.json()['webhook_id']}"
    put = sdk.plain(
        "PUT", path, json={"url": f"{URL}/2", "event_types": ["domain.verified"], "client_id": name}
    )
    assert (put.json()["url"], put.json()["event_types"]) == (f"{URL}/2", ["domain.verified"])
    assert put.json()["inbox_ids"] == [tenant.inbox_id]
    # The way some integrations move theirs.
    assert sdk.plain("PATCH", path, json={"url": URL}).json()["url"] == URL


def test_polling_webhooks_are_none(sdk: Sdk) -> None:
    """A program that looks around would stop; the log of events does what they do."""
    tenant = new_tenant(sdk)
    for polling, where in (
        (sdk.client.webhooks.polling, {}),
        (sdk.client.pods.webhooks.polling, {"pod_id": tenant.pod_id}),
        (sdk.client.inboxes.webhooks.polling, {"inbox_id": tenant.inbox_id}),
    ):
        calls: Any = polling
        assert calls.list(**where).polling_webhooks == []
        with pytest.raises(ApiError) as refused:
            calls.create(**where, client_id="laptop", event_types=["message.received"])
        assert refused.value.status_code == 403
        assert "/v0/events" in str(refused.value.body)
        for call in (calls.get, calls.delete):
            with pytest.raises(NotFoundError):
                call(**where, webhook_id="laptop")
