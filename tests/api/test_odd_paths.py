"""Ids that hold what a path may not: they reach their route under both prefixes, however written."""

from __future__ import annotations

from email.message import EmailMessage
from urllib.parse import quote

import httpx
import pytest

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
    assert message["message_id"] == message_id
    return {**message, "id": inbox["id"]}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("message_id", IDS)
async def test_every_route_of_a_message_finds_it(
    service: Service, prefix: str, message_id: str
) -> None:
    """Mail from senders with unusual ids could be listed, and neither read nor answered."""
    message = await received(service, message_id)
    (attachment,) = message["attachments"]
    at = f"{prefix}/inboxes/{message['id']}/messages/{quote(message_id, safe='')}"

    async def ask(method: str, rest: str, body: Json | None = None) -> Json:
        answer = await service.client.request(method, at + rest, json=body)
        assert answer.status_code in {200, 204}, (method, rest, answer.text)
        return answer.json() if answer.content else {}

    assert (await ask("GET", ""))["message_id"] == message_id
    assert (await ask("GET", "/raw"))["message_id"] == message_id
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


@pytest.mark.parametrize(
    "message_id", [each for each in IDS if "?" not in each and "#" not in each]
)
async def test_an_id_written_as_it_is_finds_it_too(service: Service, message_id: str) -> None:
    """The Python SDK encodes nothing but what its HTTP client must."""
    message = await received(service, message_id)
    raw = message_id.replace("<", "%3C").replace(">", "%3E").replace("%2F", "%252F")
    at = f"/v0/inboxes/{message['inbox_id']}/messages/"
    answer = await service.client.get(httpx.URL(raw_path=(at + raw).encode()))
    assert answer.json()["message_id"] == message_id


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
