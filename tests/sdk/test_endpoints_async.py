"""The same through the SDK's asynchronous client, which shares no request code with the other one."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncGenerator

import httpx
import pytest
import pytest_asyncio
from agentmail import AgentMailEnvironment, AsyncAgentMail
from agentmail.api_keys.types.create_api_key_response import CreateApiKeyResponse
from agentmail.api_keys.types.create_bearer_api_key_request import CreateBearerApiKeyRequest
from agentmail.attachments.types.send_attachment import SendAttachment
from agentmail.errors import NotFoundError
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest
from agentmail.messages.errors.message_rejected_error import MessageRejectedError

from tests.fix_app import Service, until
from tests.sdk.mailbox import REPORT, only


@pytest_asyncio.fixture
async def http() -> AsyncGenerator[httpx.AsyncClient]:
    """Connections for clients with any key."""
    async with httpx.AsyncClient(timeout=30) as connections:
        yield connections


@pytest.fixture
def client(anywhere: Service, http: httpx.AsyncClient) -> AsyncAgentMail:
    """The asynchronous client of a service in either world."""
    return connect(anywhere, anywhere.key, http)


def connect(service: Service, key: str, http: httpx.AsyncClient) -> AsyncAgentMail:
    return AsyncAgentMail(
        api_key=key,
        environment=AgentMailEnvironment(
            http=service.url, websockets=service.url.replace("http", "ws")
        ),
        httpx_client=http,
    )


async def new_inbox(client: AsyncAgentMail) -> str:
    username = f"agent-{uuid.uuid4().hex[:8]}"
    made = await client.inboxes.create(request=CreateInboxRequest(username=username))
    return made.inbox_id


async def test_a_conversation(client: AsyncAgentMail) -> None:
    """An asynchronous agent could not hold one."""
    alice, bob = await asyncio.gather(new_inbox(client), new_inbox(client))
    messages = client.inboxes.messages
    file = SendAttachment(filename="r.pdf", content=base64.b64encode(REPORT).decode())
    sent = await messages.send(alice, to=bob, subject="Figures", text="Here", attachments=[file])
    page = await until(lambda: messages.list(bob, labels=["unread"]), lambda page: page.count == 1)
    item = only(page.messages)
    assert item.message_id == sent.message_id
    link = await messages.get_attachment(bob, item.message_id, only(item.attachments).attachment_id)
    async with httpx.AsyncClient() as http:
        assert (await http.get(link.download_url)).content == REPORT
    await messages.update(bob, item.message_id, remove_labels=["unread"])
    await messages.reply(bob, item.message_id, text="Thanks")

    async def answered() -> list[str]:
        thread = await client.inboxes.threads.get(alice, sent.thread_id)
        return [(each.text or "").strip() for each in thread.messages]

    assert await until(answered, lambda seen: len(seen) == 2) == ["Here", "Thanks"]


async def test_a_draft(client: AsyncAgentMail) -> None:
    """An asynchronous agent could not prepare a mail."""
    alice, bob = await asyncio.gather(new_inbox(client), new_inbox(client))
    draft = await client.inboxes.drafts.create(alice, to=[bob], subject="Offer", text="Ten")
    listed = await client.drafts.list()
    assert only(listed.drafts).draft_id == draft.draft_id
    sent = await client.inboxes.drafts.send(alice, draft.draft_id)
    message = await client.inboxes.messages.get(alice, sent.message_id)
    assert message.subject == "Offer"


async def test_a_tenant(client: AsyncAgentMail, anywhere: Service, http: httpx.AsyncClient) -> None:
    """An asynchronous platform could not keep its customers apart."""
    name = f"acme-{uuid.uuid4().hex[:8]}"
    pod = await client.pods.create(name="Acme", client_id=name)
    desk, outside = await asyncio.gather(
        client.pods.inboxes.create(pod.pod_id, username=name), new_inbox(client)
    )
    made = await client.inboxes.api_keys.create(
        desk.inbox_id, request=CreateBearerApiKeyRequest(name="agent")
    )
    assert isinstance(made, CreateApiKeyResponse)
    agent = connect(anywhere, made.api_key, http)
    me = await agent.auth.me()
    assert (me.scope_type, me.scope_id, me.pod_id) == ("inbox", desk.inbox_id, pod.pod_id)
    with pytest.raises(NotFoundError):
        await agent.inboxes.get(outside)
    await client.pods.lists.create(pod.pod_id, "send", "block", entry=outside)
    with pytest.raises(MessageRejectedError):
        await agent.inboxes.messages.send(desk.inbox_id, to=outside, text="Hi")
    await agent.inboxes.messages.send(desk.inbox_id, to=desk.inbox_id, text="Hi")
    sent = await agent.metrics.query_events(event_types=["message.sent"])
    assert only(sent["message.sent"]).count == 1
    usage = await client.pods.metrics.query_usage(pod.pod_id, descending=True, limit=1)
    assert only(usage["inbox_count"]).value == 1
    assert (await client.organizations.get()).inbox_count == 2


async def test_twenty_calls_at_once(client: AsyncAgentMail) -> None:
    """Calls that run together would get each other's answers."""
    alice = await new_inbox(client)
    sent = await asyncio.gather(
        *(
            client.inboxes.messages.send(alice, to=alice, subject=f"Mail {n}", text=f"Text {n}")
            for n in range(20)
        )
    )
    got = await asyncio.gather(
        *(client.inboxes.messages.get(alice, each.message_id) for each in sent)
    )
    assert [each.subject for each in got] == [f"Mail {n}" for n in range(20)]
