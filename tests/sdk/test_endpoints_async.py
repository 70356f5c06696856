"""The same through the SDK's asynchronous client, which shares no request code with the other one."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncGenerator

import httpx
import pytest_asyncio
from agentmail import AgentMailEnvironment, AsyncAgentMail
from agentmail.attachments.types.send_attachment import SendAttachment
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest

from tests.fix_app import Service, until
from tests.sdk.mailbox import REPORT, only


@pytest_asyncio.fixture
async def client(anywhere: Service) -> AsyncGenerator[AsyncAgentMail]:
    """The asynchronous client of a service in either world."""
    async with httpx.AsyncClient(timeout=30) as http:
        yield AsyncAgentMail(
            api_key=anywhere.key,
            environment=AgentMailEnvironment(
                http=anywhere.url, websockets=anywhere.url.replace("http", "ws")
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
