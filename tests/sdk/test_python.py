"""The official Python SDK 2.0.18, unmodified, against the service behind a real port.

A first day with it, told as an agent's author would live it; `test_endpoints_*.py` go through every call.
"""

from __future__ import annotations

from importlib.metadata import version

import httpx
import pydantic
import pytest
from agentmail.api_keys.types.create_api_key_response import CreateApiKeyResponse
from agentmail.api_keys.types.create_bearer_api_key_request import CreateBearerApiKeyRequest
from agentmail.core.api_error import ApiError
from agentmail.errors import (
    ConflictError,
    NotFoundError,
    ValidationError,
)
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest
from agentmail.inboxes.types.inbox import Inbox
from agentmail.messages.errors.message_rejected_error import MessageRejectedError

from tests.sdk.official import Sdk, hold, until


def test_the_sdk_is_the_release_the_contract_names() -> None:
    """Another release may have other calls."""
    assert version("agentmail") == "2.0.18"


def test_a_missing_field_is_noticed(sandbox_sdk: Sdk) -> None:
    """The SDK takes it for None without a word; the tests here must not."""
    inbox = sandbox_sdk.client.inboxes.create().inbox_id
    with httpx.Client(headers={"Authorization": f"Bearer {sandbox_sdk.live.api_key}"}) as http:
        answer = http.get(f"{sandbox_sdk.live.base_url}/v0/inboxes/{inbox}").json()
    hold(httpx.Response(200, json=answer), Inbox)
    required = [name for name, field in Inbox.model_fields.items() if field.is_required()]
    assert len(required) == 5
    for name in required:
        damaged = [
            {key: answer[key] for key in answer if key != name},
            {**answer, name: None},
            {**answer, name: 1.5},
        ]
        for each in damaged:
            with pytest.raises(pydantic.ValidationError):
                hold(httpx.Response(200, json=each), Inbox)


def test_quick_start(sdk: Sdk) -> None:
    """The acceptance of the whole: an agent's first day, through the official SDK."""
    client = sdk.client
    me = client.auth.me()
    assert me.scope_type == "organization"

    alice = client.inboxes.create(
        request=CreateInboxRequest(client_id="alice-1", display_name="Alice", metadata={"n": 1})
    )
    again = client.inboxes.create(request=CreateInboxRequest(client_id="alice-1"))
    assert again.inbox_id == alice.inbox_id
    bob = client.inboxes.create()
    assert bob.inbox_id != alice.inbox_id

    sent = client.inboxes.messages.send(
        alice.inbox_id,
        to=bob.email,
        subject="Hello from Alice",
        text="Hi Bob",
        html="<p>Hi Bob</p>",
        labels=["greeting"],
        headers={"X-Trace": "42"},
    )

    listed = until(
        lambda: client.inboxes.messages.list(bob.inbox_id, labels=["unread"]),
        lambda page: page.count == 1,
    )
    (item,) = listed.messages
    assert item.message_id == sent.message_id
    assert item.from_ == f"Alice <{alice.email}>"
    assert item.labels == ["received", "unread"]

    message = client.inboxes.messages.get(bob.inbox_id, item.message_id)
    assert (message.text or "").strip() == "Hi Bob"
    assert message.headers is not None
    assert message.headers["X-Trace"] == "42"

    updated = client.inboxes.messages.update(
        bob.inbox_id, item.message_id, remove_labels=["unread"], add_labels=None
    )
    assert updated.labels == ["received"]
    assert client.inboxes.messages.list(bob.inbox_id, labels=["unread"]).count == 0

    threads = client.inboxes.threads.list(bob.inbox_id)
    (thread_item,) = threads.threads
    thread = client.inboxes.threads.get(bob.inbox_id, thread_item.thread_id)
    assert thread.message_count == 1
    assert thread.messages[0].message_id == item.message_id
    assert client.threads.get(sent.thread_id).inbox_id == alice.inbox_id
    assert client.threads.list().count == 2

    changed = client.inboxes.update(alice.inbox_id, metadata={"n": None, "m": True})
    assert changed.metadata == {"m": True}
    assert client.inboxes.list(limit=1).next_page_token
    client.inboxes.delete(bob.inbox_id)
    with pytest.raises(NotFoundError):
        client.inboxes.get(bob.inbox_id)


def test_api_keys(sandbox_sdk: Sdk) -> None:
    """Keys could not be handed out from code."""
    client = sandbox_sdk.client
    made = client.api_keys.create(request=CreateBearerApiKeyRequest(name="ci"))
    assert isinstance(made, CreateApiKeyResponse)
    assert made.api_key.startswith("inai_")
    keys = client.api_keys.list()
    assert {each.name for each in keys.api_keys} == {"sdk", "ci"}
    client.api_keys.delete(made.api_key_id)
    assert client.api_keys.list().count == 1


def test_errors_are_typed(sandbox_sdk: Sdk) -> None:
    """Code that catches the SDK's errors would not catch ours."""
    client = sandbox_sdk.client
    inbox = client.inboxes.create()
    with pytest.raises(NotFoundError) as missing:
        client.inboxes.get("nobody@agents.test")
    assert missing.value.body.name == "NotFoundError"
    with pytest.raises(NotFoundError):
        client.inboxes.messages.get(inbox.inbox_id, "<none@elsewhere.test>")
    with pytest.raises(NotFoundError):
        client.threads.get("00000000-0000-0000-0000-000000000000")
    with pytest.raises(ValidationError) as wrong:
        client.inboxes.create(request=CreateInboxRequest(username="Not Allowed"))
    assert wrong.value.body.name == "ValidationError"
    assert wrong.value.body.errors
    with pytest.raises(ApiError) as damaged:
        client.inboxes.messages.list(inbox.inbox_id, page_token="damaged")
    assert damaged.value.status_code == 400, "the SDK has no type for this one"
    with pytest.raises(MessageRejectedError) as refused:
        client.inboxes.messages.send(inbox.inbox_id, to="nobody@agents.test", text="Hi")
    assert refused.value.body.name == "MessageRejectedError"


def test_a_key_used_for_another_mail_is_a_conflict(sandbox_sdk: Sdk) -> None:
    """A second mail under a used Idempotency-Key would vanish without a word."""
    client = sandbox_sdk.client
    inbox = client.inboxes.create()
    first = client.inboxes.messages.send(
        inbox.inbox_id, to="ada@elsewhere.test", text="One", idempotency_key="k-1"
    )
    again = client.inboxes.messages.send(
        inbox.inbox_id, to="ada@elsewhere.test", text="One", idempotency_key="k-1"
    )
    assert again.message_id == first.message_id
    with pytest.raises(ConflictError):
        client.inboxes.messages.send(
            inbox.inbox_id,
            to="ada@elsewhere.test",
            text="Two",
            idempotency_key="k-1",
            request_options={"max_retries": 0},
        )


def test_ids_the_sdk_does_not_encode_arrive(sandbox_sdk: Sdk) -> None:
    """The SDK puts ids into paths as they are; an address with a plus must still be one."""
    client = sandbox_sdk.client
    made = client.inboxes.create(request=CreateInboxRequest(username="a.b-c_d"))
    assert client.inboxes.get(made.inbox_id).email == "a.b-c_d@agents.test"
    with pytest.raises(NotFoundError):
        client.inboxes.get("plus+tag@agents.test")
