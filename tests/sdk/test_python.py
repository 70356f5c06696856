"""The official Python SDK 2.0.18, unmodified, against the service behind a real port.

Its models are lenient: a missing required field becomes None without a word. So each answer is also held
to the models as strictly as pydantic can.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from importlib.metadata import version
from typing import Any, TypeVar

import httpx
import pydantic
import pytest
from agentmail import AgentMail, AgentMailEnvironment
from agentmail.api_keys.types.bearer_api_key import BearerApiKey
from agentmail.api_keys.types.create_api_key_response import CreateApiKeyResponse
from agentmail.api_keys.types.create_bearer_api_key_request import CreateBearerApiKeyRequest
from agentmail.api_keys.types.list_api_keys_response import ListApiKeysResponse
from agentmail.auth.types.identity import Identity
from agentmail.core.api_error import ApiError
from agentmail.errors import (
    ConflictError,
    NotFoundError,
    ValidationError,
)
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest
from agentmail.inboxes.types.inbox import Inbox
from agentmail.inboxes.types.list_inboxes_response import ListInboxesResponse
from agentmail.messages.errors.message_rejected_error import MessageRejectedError
from agentmail.messages.types.list_messages_response import ListMessagesResponse
from agentmail.messages.types.message import Message
from agentmail.messages.types.send_message_response import SendMessageResponse
from agentmail.messages.types.update_message_response import UpdateMessageResponse
from agentmail.threads.types.list_threads_response import ListThreadsResponse
from agentmail.threads.types.thread import Thread

from tests.fix_front_door import FrontDoor
from tests.fix_sdk import Live, running_on_stalwart
from tests.fix_stalwart import StalwartServer

T = TypeVar("T")
PATIENCE = 10.0
"""Seconds until mail must be there."""


class Raw:
    """The raw JSON of each answer the SDK got, by operation, to be validated again."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str, Any]] = []

    def keep(self, response: httpx.Response) -> None:
        response.read()
        if response.status_code < 300 and response.content:
            request = response.request
            self.answers.append((request.method, request.url.path, response.json()))


class Sdk:
    """The SDK's client and what it received."""

    def __init__(self, client: AgentMail, raw: Raw) -> None:
        self.client = client
        self.raw = raw

    def last(self, model: type[pydantic.BaseModel]) -> None:
        """Hold the last answer to a model: every required field, of the right type."""
        model.model_validate(self.raw.answers[-1][2])


def connect(live: Live) -> Generator[Sdk]:
    raw = Raw()
    with httpx.Client(timeout=30, event_hooks={"response": [raw.keep]}) as http:
        client = AgentMail(
            api_key=live.api_key,
            environment=AgentMailEnvironment(http=live.base_url, websockets=live.websocket_url),
            httpx_client=http,
        )
        yield Sdk(client, raw)


@pytest.fixture
def sandbox_sdk(live: Live) -> Generator[Sdk]:
    """The SDK against the service on the sandbox."""
    yield from connect(live)


@pytest.fixture
def stalwart_sdk(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor
) -> Generator[Sdk]:
    """The SDK against the service on a real Stalwart."""
    with running_on_stalwart(database_url, stalwart, front_door) as live:
        yield from connect(live)


@pytest.fixture(params=["sandbox", pytest.param("stalwart", marks=pytest.mark.stalwart)])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Both, one after the other."""
    return request.getfixturevalue(f"{request.param}_sdk")


def until(look: Callable[[], T], holds: Callable[[T], bool]) -> T:
    """Look again until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds(seen := look()):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s; last seen: {seen!r}"
        time.sleep(0.05)
    return seen


def test_the_sdk_is_the_release_the_contract_names() -> None:
    """Another release may have other calls."""
    assert version("agentmail") == "2.0.18"


def test_a_missing_field_is_noticed(sandbox_sdk: Sdk) -> None:
    """The SDK takes it for None without a word; the tests here must not."""
    sandbox_sdk.client.inboxes.create()
    answer = sandbox_sdk.raw.answers[-1][2]
    for name, field in Inbox.model_fields.items():
        if field.is_required():
            with pytest.raises(pydantic.ValidationError):
                Inbox.model_validate({key: answer[key] for key in answer if key != name})


def test_quick_start(sdk: Sdk) -> None:
    """The acceptance of the whole: an agent's first day, through the official SDK."""
    client = sdk.client
    me = client.auth.me()
    sdk.last(Identity)
    assert me.scope_type == "organization"

    alice = client.inboxes.create(
        request=CreateInboxRequest(client_id="alice-1", display_name="Alice", metadata={"n": 1})
    )
    sdk.last(Inbox)
    again = client.inboxes.create(request=CreateInboxRequest(client_id="alice-1"))
    sdk.last(Inbox)
    assert again.inbox_id == alice.inbox_id
    bob = client.inboxes.create()
    sdk.last(Inbox)
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
    sdk.last(SendMessageResponse)

    listed = until(
        lambda: client.inboxes.messages.list(bob.inbox_id, labels=["unread"]),
        lambda page: page.count == 1,
    )
    sdk.last(ListMessagesResponse)
    (item,) = listed.messages
    assert item.message_id == sent.message_id
    assert item.from_ == f"Alice <{alice.email}>"
    assert item.labels == ["received", "unread"]

    message = client.inboxes.messages.get(bob.inbox_id, item.message_id)
    sdk.last(Message)
    assert (message.text or "").strip() == "Hi Bob"
    assert message.headers is not None
    assert message.headers["X-Trace"] == "42"

    updated = client.inboxes.messages.update(
        bob.inbox_id, item.message_id, remove_labels=["unread"], add_labels=None
    )
    sdk.last(UpdateMessageResponse)
    assert updated.labels == ["received"]
    assert client.inboxes.messages.list(bob.inbox_id, labels=["unread"]).count == 0

    threads = client.inboxes.threads.list(bob.inbox_id)
    sdk.last(ListThreadsResponse)
    (thread_item,) = threads.threads
    thread = client.inboxes.threads.get(bob.inbox_id, thread_item.thread_id)
    sdk.last(Thread)
    assert thread.message_count == 1
    assert thread.messages[0].message_id == item.message_id
    assert client.threads.get(sent.thread_id).inbox_id == alice.inbox_id
    sdk.last(Thread)
    assert client.threads.list().count == 2
    sdk.last(ListThreadsResponse)

    changed = client.inboxes.update(alice.inbox_id, metadata={"n": None, "m": True})
    sdk.last(Inbox)
    assert changed.metadata == {"m": True}
    assert client.inboxes.list(limit=1).next_page_token
    sdk.last(ListInboxesResponse)
    client.inboxes.delete(bob.inbox_id)
    with pytest.raises(NotFoundError):
        client.inboxes.get(bob.inbox_id)


def test_api_keys(sandbox_sdk: Sdk) -> None:
    """Keys could not be handed out from code."""
    client = sandbox_sdk.client
    made = client.api_keys.create(request=CreateBearerApiKeyRequest(name="ci"))
    sandbox_sdk.last(CreateApiKeyResponse)
    assert isinstance(made, CreateApiKeyResponse)
    assert made.api_key.startswith("inai_")
    keys = client.api_keys.list()
    sandbox_sdk.last(ListApiKeysResponse)
    for each in sandbox_sdk.raw.answers[-1][2]["api_keys"]:
        BearerApiKey.model_validate(each)
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
