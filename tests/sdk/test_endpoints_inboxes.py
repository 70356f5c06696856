"""Inboxes, their search and events, API keys and the caller, through the official Python SDK."""

from __future__ import annotations

import uuid

import pytest
from agentmail.api_keys.types.api_key_permissions import ApiKeyPermissions
from agentmail.api_keys.types.bearer_api_key import BearerApiKey
from agentmail.api_keys.types.create_api_key_response import CreateApiKeyResponse
from agentmail.api_keys.types.create_bearer_api_key_request import CreateBearerApiKeyRequest
from agentmail.errors import NotFoundError, ValidationError
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest

from tests.sdk.mailbox import conversation, new_inbox
from tests.sdk.official import Sdk, until

NOBODY = "nobody@agents.test"


def test_create_get_update_delete(sdk: Sdk) -> None:
    """An agent could not have an address."""
    client = sdk.client
    name = f"ada-{uuid.uuid4().hex[:8]}"
    made = client.inboxes.create(
        request=CreateInboxRequest(
            username=name, display_name="Ada", client_id="ada-1", metadata={"team": "blue"}
        )
    )
    assert made.email == made.inbox_id == f"{name}@agents.test"
    again = client.inboxes.create(request=CreateInboxRequest(client_id="ada-1"))
    assert again.inbox_id == client.inboxes.get(made.inbox_id).inbox_id == made.inbox_id
    assert client.inboxes.update(made.inbox_id, display_name="Countess").display_name == "Countess"
    changed = client.inboxes.update(made.inbox_id, metadata={"team": None, "floor": 3})
    assert changed.metadata == {"floor": 3}
    client.inboxes.delete(made.inbox_id)
    with pytest.raises(NotFoundError):
        client.inboxes.get(made.inbox_id)


def test_list_in_pages(sdk: Sdk) -> None:
    """A fleet of agents could not be counted."""
    made = [new_inbox(sdk).inbox_id for _ in range(3)]
    first = sdk.client.inboxes.list(limit=2)
    rest = sdk.client.inboxes.list(limit=2, page_token=first.next_page_token)
    assert [each.inbox_id for each in [*first.inboxes, *rest.inboxes]] == made[::-1]
    assert sdk.client.inboxes.list(limit=1, ascending=True).inboxes[0].inbox_id == made[0]


@pytest.mark.parametrize("scope", ["organization", "pod"])
def test_search(sdk: Sdk, scope: str) -> None:
    """An agent that knows a name would have to list everything."""
    quince, other = new_inbox(sdk, "quince"), new_inbox(sdk, "other")

    def found(q: str) -> list[str]:
        if scope == "pod":
            page = sdk.client.pods.inboxes.search(quince.pod_id, q=q, limit=10)
        else:
            page = sdk.client.inboxes.search(q=q, limit=10)
        return [each.inbox_id for each in page.inboxes]

    assert found("quin") == [quince.inbox_id], "a word's beginning"
    assert found(other.email) == [other.inbox_id], "a whole address"
    assert found("uince") == []
    with pytest.raises(ValidationError):
        found("q")


def test_search_in_a_pod_that_is_not_there(sdk: Sdk) -> None:
    """A typing error would look like an empty pod."""
    with pytest.raises(NotFoundError):
        sdk.client.pods.inboxes.search(str(uuid.uuid4()), q="ada")


def test_events(sdk: Sdk) -> None:
    """Who labelled what could not be followed."""
    at = conversation(sdk)
    client = sdk.client
    client.inboxes.messages.update(at.inbox_id, at.message_id, add_labels=["lead"])
    client.inboxes.messages.update(at.inbox_id, at.message_id, remove_labels=["lead"])

    def mine() -> list[tuple[str, str]]:
        page = client.inboxes.events.list(at.inbox_id, limit=50)
        return [(str(each.event_type), each.label) for each in page.events if each.label == "lead"]

    seen = until(mine, lambda seen: len(seen) == 2)
    assert seen == [("label.removed", "lead"), ("label.added", "lead")]
    first = client.inboxes.events.list(at.inbox_id, limit=1, ascending=True)
    rest = client.inboxes.events.list(at.inbox_id, ascending=True, page_token=first.next_page_token)
    assert first.events[0].message_id == at.message_id
    assert first.events[0].event_id not in {each.event_id for each in rest.events}
    assert client.inboxes.messages.get(at.inbox_id, at.message_id).labels == ["received", "unread"]


def test_an_inbox_that_is_not_there(sdk: Sdk) -> None:
    """Code that catches NotFoundError would miss it."""
    calls = [
        lambda: sdk.client.inboxes.get(NOBODY),
        lambda: sdk.client.inboxes.update(NOBODY, display_name="X"),
        lambda: sdk.client.inboxes.delete(NOBODY),
        lambda: sdk.client.inboxes.events.list(NOBODY),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


def test_what_does_not_fit_is_a_validation_error(sdk: Sdk) -> None:
    """Code that catches ValidationError would miss it."""
    inbox = new_inbox(sdk)
    with pytest.raises(ValidationError):
        sdk.client.inboxes.create(request=CreateInboxRequest(username="Not Allowed"))
    with pytest.raises(ValidationError):
        sdk.client.inboxes.update(inbox.inbox_id)
    with pytest.raises(ValidationError):
        sdk.client.inboxes.update(inbox.inbox_id, metadata={})


def test_api_keys(sdk: Sdk) -> None:
    """Keys could not be handed out, changed or taken back from code."""
    client = sdk.client
    made = client.api_keys.create(
        request=CreateBearerApiKeyRequest(
            name="ci", permissions=ApiKeyPermissions(message_read=True)
        )
    )
    assert isinstance(made, CreateApiKeyResponse)
    assert {each.name for each in client.api_keys.list().api_keys} == {"sdk", "ci"}
    renamed = client.api_keys.update(made.api_key_id, name="build")
    assert isinstance(renamed, BearerApiKey)
    assert (renamed.name, client.api_keys.get(made.api_key_id).name) == ("build", "build")
    client.api_keys.delete(made.api_key_id)
    with pytest.raises(NotFoundError):
        client.api_keys.get(made.api_key_id)


def test_auth_me(sdk: Sdk) -> None:
    """A program could not tell whether its key works."""
    assert sdk.client.auth.me().scope_type == "organization"
