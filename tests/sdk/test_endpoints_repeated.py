"""Requests that make something, sent twice by the official Python SDK as its users would."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from agentmail.api_keys.types.create_api_key_response import CreateApiKeyResponse
from agentmail.api_keys.types.create_bearer_api_key_request import CreateBearerApiKeyRequest
from agentmail.core.api_error import ApiError
from agentmail.errors import ConflictError
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest

from tests.sdk.mailbox import new_inbox
from tests.sdk.official import Sdk


def keyed(key: str = "k") -> Any:
    """How the SDK is told a header in a call that has no argument for it; without its own tries."""
    return {"additional_headers": {"Idempotency-Key": key}, "max_retries": 0}


def test_an_inbox(sdk: Sdk) -> None:
    """A client that gave up too early would have two, and the password of one."""
    wanted = CreateInboxRequest(
        username=f"ada-{uuid.uuid4().hex[:8]}", metadata={"floor": 3, "share": 0.5}
    )
    made, again = (
        sdk.client.inboxes.create(request=wanted, request_options=keyed()) for _ in range(2)
    )
    assert again == made
    assert again.model_extra
    assert again.model_extra["credentials"]["password"]
    with pytest.raises(ApiError) as refused:
        sdk.client.inboxes.create(request=CreateInboxRequest(), request_options=keyed())
    assert refused.value.status_code == 409


def test_an_api_key(sdk: Sdk) -> None:
    """The secret of the first answer would be lost, and the key stay."""
    wanted = CreateBearerApiKeyRequest(name="worker")
    made, again = (
        sdk.client.api_keys.create(request=wanted, request_options=keyed()) for _ in range(2)
    )
    assert again == made
    assert isinstance(made, CreateApiKeyResponse)
    other = sdk.holding(made.api_key)
    assert other.auth.me().api_key_id == made.api_key_id
    with pytest.raises(ConflictError):
        other.api_keys.create(request=wanted, request_options=keyed())


def test_a_pod_and_an_inbox_in_it(sdk: Sdk) -> None:
    """A customer's environment would be there twice."""
    pod, same = (sdk.client.pods.create(name="A", request_options=keyed("a")) for _ in range(2))
    assert pod.pod_id == same.pod_id
    made, again = (
        sdk.client.pods.inboxes.create(pod.pod_id, request_options=keyed("b")) for _ in range(2)
    )
    assert made == again


def test_a_draft_and_a_list_entry(sdk: Sdk) -> None:
    """A person would find the draft twice, and send both."""
    inbox = new_inbox(sdk)
    draft, same = (
        sdk.client.inboxes.drafts.create(
            inbox.inbox_id, to=[inbox.email], text="Hi", request_options=keyed("a")
        )
        for _ in range(2)
    )
    assert draft.draft_id == same.draft_id
    assert sdk.client.inboxes.drafts.list(inbox.inbox_id).count == 1
    entry, known = (
        sdk.client.inboxes.lists.create(
            inbox.inbox_id, "send", "block", entry="spam.test", request_options=keyed("b")
        )
        for _ in range(2)
    )
    assert entry == known
