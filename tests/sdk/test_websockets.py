"""The official Python SDK 2.0.18, unmodified, over the WebSocket: both of its clients, in both worlds."""

from __future__ import annotations

import warnings

import pytest
from agentmail import AgentMailEnvironment, AsyncAgentMail
from agentmail.core.api_error import ApiError
from agentmail.events.types.message_received_event import MessageReceivedEvent
from agentmail.events.types.message_sent_event import MessageSentEvent
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest
from agentmail.websockets.types import Error, Subscribe, Subscribed
from websockets.exceptions import InvalidStatus

from tests.fix_app import Service, a_mail
from tests.sdk.endpoints import World, endpoint_of, note
from tests.sdk.official import Sdk

with warnings.catch_warnings():
    # agentmail 2.0.18 imports what websockets 14 calls old.
    warnings.simplefilter("ignore", DeprecationWarning)
    import agentmail.websockets.client

    assert agentmail.websockets.client

SWITCHED = 101


@pytest.mark.parametrize("world", ["sandbox", pytest.param("stalwart", marks=pytest.mark.stalwart)])
def test_the_client_hears_of_mail(world: World, request: pytest.FixtureRequest) -> None:
    """An agent on a laptop could not use us in place of the hosted service."""
    sdk: Sdk = request.getfixturevalue(f"{world}_sdk")
    inbox = sdk.client.inboxes.create(request=CreateInboxRequest())
    with sdk.client.websockets.connect() as socket:
        note(world, endpoint_of("GET", "/v0"), SWITCHED)
        socket.send_subscribe(Subscribe(inbox_ids=[inbox.inbox_id]))
        subscribed = socket.recv()
        assert isinstance(subscribed, Subscribed)
        assert subscribed.inbox_ids == [inbox.inbox_id]
        socket.send_subscribe(Subscribe(event_types=["message.opened"]))
        refused = socket.recv()
        assert isinstance(refused, Error)
        assert refused.name == "ValidationError"
        sdk.deliver(a_mail(inbox.email, "Hello"))
        event = next(iter(socket))
        assert isinstance(event, MessageReceivedEvent)
        assert (event.message.subject, event.thread.message_count) == ("Hello", 1)
        sdk.client.inboxes.messages.send(inbox.inbox_id, to="a@elsewhere.test", text="Hi")
        sent = socket.recv()
        assert isinstance(sent, MessageSentEvent)
        assert sent.send.recipients == ["a@elsewhere.test"]


def test_a_key_of_its_own_and_a_bad_key(sandbox_sdk: Sdk) -> None:
    """A program would wait for mail with a key that is not valid."""
    nobody = sandbox_sdk.holding("inai_wrong")
    with nobody.websockets.connect(api_key=sandbox_sdk.live.api_key) as socket:
        socket.send_subscribe(Subscribe())
        assert isinstance(socket.recv(), Subscribed)
    # With websockets 14 and later the synchronous client does not know the error of its library.
    with pytest.raises(InvalidStatus) as refused, nobody.websockets.connect():
        pass
    assert refused.value.response.status_code == 401


async def test_the_asynchronous_client_hears_of_mail(sandbox_service: Service) -> None:
    """The same, through the older half of the `websockets` library."""
    service = sandbox_service
    inbox = await service.inbox("alice")
    async with client_of(service, service.key).websockets.connect() as socket:
        await socket.send_subscribe(Subscribe(event_types=["message.received"]))
        assert isinstance(await socket.recv(), Subscribed)
        await service.deliver(a_mail(inbox["email"], "Hello"))
        event = await anext(aiter(socket))
        assert isinstance(event, MessageReceivedEvent)
        assert event.message.subject == "Hello"
    with pytest.raises(ApiError) as refused:
        async with client_of(service, "inai_wrong").websockets.connect():
            pass
    assert refused.value.status_code == 401


def client_of(service: Service, key: str) -> AsyncAgentMail:
    websockets = service.url.replace("http", "ws", 1)
    environment = AgentMailEnvironment(http=service.url, websockets=websockets)
    return AsyncAgentMail(api_key=key, environment=environment)
