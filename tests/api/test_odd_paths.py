"""Ids that hold what a path may not: they reach their route under both prefixes, however written."""

from __future__ import annotations

from email import message_from_bytes
from email.message import EmailMessage
from urllib.parse import quote

import pytest

from agentmail_cp import filing
from tests.api.faults import fault
from tests.fix_app import Json, Service, a_mail, until

IDS = [
    "<a/b@elsewhere.test>",
    "<a/raw@elsewhere.test>",
    "<x/attachments/y@elsewhere.test>",
    "<what?@elsewhere.test>",
    "<50%2Foff@elsewhere.test>",
    "<100%@elsewhere.test>",
    "<a+b=c#d@elsewhere.test>",
    "</@elsewhere.test>",
    "<a/../b@elsewhere.test>",
    "<a/./b@elsewhere.test>",
]
PREFIXES = ["/v0", "/api/v1"]
NO_KIND = ["no-uuid", "%2F", "a%2Fb", "%00", "%F0%28", "%", "%C3%BC", "0" * 300]


async def received(service: Service, message_id: str) -> Json:
    """A new inbox and the message with this id that it received."""
    inbox = await service.inbox()
    mail: EmailMessage = a_mail(inbox["email"])
    mail.add_attachment(b"bytes", maintype="application", subtype="pdf", filename="a.pdf")
    source = mail.as_bytes().replace(b"To:", f"Message-ID: {message_id}\r\nTo:".encode(), 1)
    await service.deliver(source, inbox["email"])
    (message,) = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)
    assert message["message_id"] == filing.id_of(message_id[1:-1])
    return {**message, "id": inbox["id"]}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("message_id", IDS)
async def test_every_route_of_a_message_finds_it(
    service: Service, prefix: str, message_id: str
) -> None:
    """Mail from senders with unusual ids could be listed, and neither read nor answered. Whoever knows the
    Message-ID, as from another mail's In-Reply-To, finds it by that.
    """
    message = await received(service, message_id)
    (attachment,) = message["attachments"]
    at = f"{prefix}/inboxes/{message['id']}/messages/{quote(message_id, safe='')}"

    async def ask(method: str, rest: str, body: Json | None = None) -> Json:
        answer = await service.client.request(method, at + rest, json=body)
        assert answer.status_code in {200, 204}, (method, rest, answer.text)
        return answer.json() if answer.content else {}

    assert (await ask("GET", ""))["message_id"] == message["message_id"]
    assert (await ask("GET", "/raw"))["message_id"] == message["message_id"]
    shown = await ask("GET", f"/attachments/{attachment['attachment_id']}")
    assert shown["filename"] == "a.pdf"
    assert "seen" in (await ask("PATCH", "", {"add_labels": ["seen"]}))["labels"]
    for rest in ("/reply", "/reply-all"):
        sent = await ask("POST", rest, {"text": "Thanks"})
        assert sent["thread_id"] == message["thread_id"]
    sent = await ask("POST", "/forward", {"to": "bob@elsewhere.test"})
    assert sent["thread_id"] == message["thread_id"]
    fault(await service.client.post(f"{at}/agent-armor/release", json={}), 404, "not_found")
    await ask("DELETE", "")
    fault(await service.client.get(at), 404, "not_found")


@pytest.mark.parametrize("message_id", IDS)
async def test_an_id_written_as_it_is_finds_it_too(service: Service, message_id: str) -> None:
    """The Python SDK puts ids into paths as they are listed. An agent would meet a mail for ever that it can
    neither read nor mark as read, or do that to another mail than it means.
    """
    message = await received(service, message_id)
    at = f"/v0/inboxes/{message['inbox_id']}/messages/{message['message_id']}"
    answer = await service.client.get(at)
    assert answer.json()["message_id"] == message["message_id"]
    answer = await service.client.patch(at, json={"remove_labels": ["unread"]})
    assert answer.status_code == 200, answer.text
    assert await service.messages(message, labels="unread") == []


@pytest.mark.parametrize("message_id", ["<order?7@elsewhere.test>", "<a/../b@elsewhere.test>"])
async def test_the_world_knows_it_by_its_message_id(service: Service, message_id: str) -> None:
    """An answer that names another id would begin a new conversation at whoever gets it."""
    message = await received(service, message_id)
    at = f"/v0/inboxes/{message['inbox_id']}"
    answer = await service.client.post(
        f"{at}/messages/{message['message_id']}/reply", json={"text": "Thanks"}
    )
    reply = answer.json()
    draft = await service.client.post(
        f"{at}/drafts", json={"in_reply_to": message["message_id"], "text": "And this"}
    )
    answer = await service.client.post(f"{at}/drafts/{draft.json()['draft_id']}/send", json={})
    for sent in (reply, answer.json()):
        told = await service.client.get(f"{at}/messages/{sent['message_id']}/raw")
        raw = (await service.client.get(told.json()["download_url"])).content
        assert message_from_bytes(raw)["In-Reply-To"] == message_id
        assert sent["thread_id"] == message["thread_id"]
    await service.deliver(a_mail(message["inbox_id"], In_Reply_To=message_id), message["inbox_id"])
    found = await until(lambda: service.messages(message), lambda seen: len(seen) == 4)
    assert {each["thread_id"] for each in found} == {message["thread_id"]}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("odd", NO_KIND)
async def test_ids_of_no_kind_are_not_there(service: Service, prefix: str, odd: str) -> None:
    """A wrong id is the caller's mistake, never a crash."""
    inbox = await service.inbox()
    at = f"{prefix}/inboxes/{inbox['id']}"
    paths = [
        f"{at}/threads/{odd}",
        f"{at}/threads/{odd}/attachments/{odd}",
        f"{at}/drafts/{odd}",
        f"{at}/drafts/{odd}/attachments/{odd}",
        f"{at}/messages/{odd}",
        f"{at}/messages/{odd}/raw",
        f"{prefix}/inboxes/{odd}",
        f"{prefix}/threads/{odd}",
        f"{prefix}/drafts/{odd}",
        f"{prefix}/pods/{odd}/threads",
    ]
    for path in paths:
        request = service.client.build_request("GET", service.client.base_url)
        request.url = request.url.copy_with(raw_path=path.encode())
        fault(await service.client.send(request), 404, "not_found")


async def test_both_prefixes_have_the_same_routes(service: Service) -> None:
    """A program of seed 003's would find half of the API."""
    inbox = await service.inbox()
    paths = [
        "/inboxes",
        f"/inboxes/{inbox['id']}",
        f"/inboxes/{inbox['id']}/threads",
        f"/inboxes/{inbox['id']}/drafts",
        f"/inboxes/{inbox['id']}/messages",
        f"/inboxes/{inbox['id']}/events",
        "/threads",
        "/drafts",
        "/auth/me",
        "/apps",
    ]
    for path in paths:
        home, alias = [await service.client.get(prefix + path) for prefix in PREFIXES]
        assert home.status_code == alias.status_code == 200, path
        assert home.json() == alias.json()
