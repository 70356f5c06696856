"""The HTTP examples of seed 001, an older description of this API, as they stand there.

Replaced are the host, the key, the domains (`example.com` and `agentmail.to`), ids and page tokens by
ours, and what stands for base64 by base64. Its Python is not HTTP: release 2.0.18 spells those calls
otherwise (`tests/sdk`).
"""

from __future__ import annotations

import re
from typing import Any, cast

import httpx
import msgspec
import pytest

from agentmail_cp.settings import Settings
from tests import tenants
from tests.api.faults import fault, without_key
from tests.fix_app import DOMAIN, Json, Service, own_labels, until
from tests.limiting import limit

OUTSIDE = "elsewhere.test"

CREATE_INBOX = """
{
  "username": "my-agent",           // Optional: custom username
  "domain": "agentmail.to",         // Optional: defaults to agentmail.to
  "display_name": "My Agent",       // Optional: friendly name
  "client_id": "unique-id"          // Optional: for idempotency
}
"""
INBOX = """
{
  "pod_id": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
  "inbox_id": "my-agent@agentmail.to",
  "display_name": "My Agent",
  "created_at": "2024-01-10T08:15:00Z",
  "updated_at": "2024-01-10T08:15:00Z",
  "client_id": "unique-id"
}
"""
LIST_INBOXES = """
{
  "count": 2,
  "inboxes": [],
  "limit": 10,
  "next_page_token": "eyJwYWdlIjoyMQ=="
}
"""
SEND_MESSAGE = """
{
  "to": ["recipient@example.com"],          // Required: string or array
  "cc": ["cc@example.com"],                 // Optional: string or array
  "bcc": ["bcc@example.com"],               // Optional: string or array
  "reply_to": "reply@example.com",          // Optional: string or array
  "subject": "Email subject",               // Optional: string
  "text": "Plain text body",                 // Optional: string
  "html": "<p>HTML body</p>",               // Optional: string
  "labels": ["sent", "important"],          // Optional: array
  "attachments": [{                         // Optional: array of objects
    "filename": "document.pdf",
    "content": "base64-encoded-content",
    "content_type": "application/pdf"
  }],
  "headers": {                              // Optional: custom headers
    "X-Custom-Header": "value"
  }
}
"""
SENT = """
{
  "message_id": "msg_123abc",
  "thread_id": "thd_789ghi"
}
"""
THREAD = """
{
  "thread_id": "thd_789ghi",
  "inbox_id": "support@example.com",
  "subject": "Question about my account",
  "participants": ["jane@example.com", "support@example.com"],
  "labels": ["customer-support"],
  "message_count": 3,
  "last_message_at": "2023-10-27T14:30:00Z",
  "created_at": "2023-10-27T10:00:00Z",
  "updated_at": "2023-10-27T14:30:00Z"
}
"""
ERROR = """
{
  "error": {
    "type": "validation_error",
    "message": "Invalid email address",
    "details": {
      "field": "to",
      "code": "INVALID_EMAIL"
    }
  }
}
"""


CREATE_WEBHOOK = """
{
  "url": "https://your-domain.com/webhook",
  "client_id": "webhook-identifier",
  "enabled": true,
  "event_types": ["message.received"],      // Optional: defaults to all events
  "inbox_ids": ["inbox1@domain.com"]        // Optional: filter by specific inboxes
}
"""

RATE_LIMITED = """
{
  "error": {
    "type": "rate_limit_exceeded",
    "message": "Too many requests",
    "details": {}
  }
}
"""
"""The format of every error, for the code 429 - Too Many Requests (rate limited)."""


def read(example: str) -> Any:
    """An example's JSON; its comments are for people."""
    return msgspec.json.decode(re.sub(r"\s//.*$", "", example, flags=re.MULTILINE))


def ours(example: str, service: Service) -> Any:
    """The body of a request, with our domains, a username of our own and real base64."""
    text = example.replace("agentmail.to", DOMAIN).replace("example.com", OUTSIDE)
    text = text.replace("my-agent", f"my-agent{service.suffix}")
    return read(text.replace("base64-encoded-content", "JVBERi0xLjcK"))


def like(answer: Any, example: Any, at: str = "$") -> None:
    """Hold an answer to an example: every field is there, with a value of the same type."""
    assert type(answer) is type(example), f"{at}: {answer!r} is no {type(example).__name__}"
    if isinstance(example, dict):
        for name, value in cast("Json", example).items():
            assert name in answer, f"{at}.{name} is missing"
            like(answer[name], value, f"{at}.{name}")
    if isinstance(example, list):
        for each in answer if example else ():
            like(each, example[0], f"{at}[]")
    if isinstance(example, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", example):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", answer), at


def told(answer: httpx.Response, status: int, example: str) -> Json:
    """The body of an answer that looks like the example."""
    assert answer.status_code == status, answer.text
    like(answer.json(), read(example))
    return answer.json()


async def create(service: Service) -> Json:
    """The example's inbox."""
    body = ours(CREATE_INBOX, service)
    return told(await service.client.post("/v0/inboxes", json=body), 201, INBOX)


async def send(service: Service, inbox: Json) -> Json:
    """The example's message."""
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    answer = await service.client.post(path, json=ours(SEND_MESSAGE, service))
    return told(answer, 200, SENT)


async def test_create_inbox(anywhere: Service) -> None:
    made = await create(anywhere)
    assert made["inbox_id"] == f"my-agent{anywhere.suffix}@{DOMAIN}"
    assert made["display_name"] == "My Agent"
    again = await anywhere.client.post("/v0/inboxes", json=ours(CREATE_INBOX, anywhere))
    assert told(again, 200, INBOX)["inbox_id"] == made["inbox_id"], "client_id is for idempotency"


async def test_list_inboxes(anywhere: Service) -> None:
    inboxes = [await create(anywhere), *[await anywhere.inbox() for _ in range(10)]]
    first = told(await anywhere.client.get("/v0/inboxes?limit=10"), 200, LIST_INBOXES)
    assert (first["count"], first["limit"]) == (10, 10)
    token = first["next_page_token"]
    path = f"/v0/inboxes?limit=10&page_token={token}"
    rest = (await anywhere.client.get(path)).json()
    found = [each["inbox_id"] for each in first["inboxes"] + rest["inboxes"]]
    assert sorted(found) == sorted(each["inbox_id"] for each in inboxes)
    assert "next_page_token" not in rest


async def test_get_inbox(anywhere: Service) -> None:
    made = await create(anywhere)
    told(await anywhere.client.get(f"/v0/inboxes/{made['inbox_id']}"), 200, INBOX)


async def test_send_message(anywhere: Service) -> None:
    inbox = await create(anywhere)
    sent = await send(anywhere, inbox)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{sent['message_id']}"
    message = (await anywhere.client.get(path)).json()
    assert message["to"] == [f"recipient@{OUTSIDE}"]
    assert message["cc"] == [f"cc@{OUTSIDE}"]
    assert message["bcc"] == [f"bcc@{OUTSIDE}"]
    assert message["reply_to"] == [f"reply@{OUTSIDE}"]
    assert message["subject"] == "Email subject"
    assert message["text"].strip() == "Plain text body"
    assert "<p>HTML body</p>" in message["html"]
    assert own_labels(message) == ["important", "sent"]
    assert message["headers"]["X-Custom-Header"] == "value"
    (attachment,) = message["attachments"]
    assert attachment["filename"] == "document.pdf"
    assert attachment["content_type"] == "application/pdf"
    assert attachment["size"] == len(b"%PDF-1.7\n")


@pytest.mark.parametrize("field", ["to", "cc", "bcc", "reply_to"])
async def test_addresses_are_a_string_or_an_array(anywhere: Service, field: str) -> None:
    inbox = await create(anywhere)
    body = {**ours(SEND_MESSAGE, anywhere), field: f"one@{OUTSIDE}"}
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    told(await anywhere.client.post(path, json=body), 200, SENT)


async def test_list_and_get_messages(anywhere: Service) -> None:
    inbox = await create(anywhere)
    sent = [await send(anywhere, inbox) for _ in range(3)]
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    first = (await anywhere.client.get(f"{path}?limit=2")).json()
    token = first["next_page_token"]
    rest = (await anywhere.client.get(f"{path}?limit=10&page_token={token}")).json()
    found = [each["message_id"] for each in first["messages"] + rest["messages"]]
    ids = [each["message_id"] for each in reversed(sent)]
    # A real server may have told by now that nobody is there.
    assert [each for each in found if each in ids] == ids
    message = await anywhere.client.get(f"{path}/{ids[0]}")
    assert message.status_code == 200


async def test_list_and_get_threads(anywhere: Service) -> None:
    inbox = await create(anywhere)
    sent = await send(anywhere, inbox)
    path = f"/v0/inboxes/{inbox['inbox_id']}/threads"
    listed = await anywhere.client.get(f"{path}?limit=10")
    (item,) = listed.json()["threads"]
    assert item["thread_id"] == sent["thread_id"]
    thread = told(await anywhere.client.get(f"{path}/{sent['thread_id']}"), 200, THREAD)
    assert thread["message_count"] == 1
    people = [inbox["inbox_id"], f"recipient@{OUTSIDE}", f"cc@{OUTSIDE}"]
    assert [address for address in people if address not in str(thread["participants"])] == []


async def test_mail_within_the_server_is_in_the_thread_of_its_inbox(anywhere: Service) -> None:
    """The example's participants: somebody wrote to support, and is named."""
    support, jane = await anywhere.inbox("support"), await anywhere.inbox("jane")
    await anywhere.send(jane, to=support["inbox_id"], subject="Question about my account")
    path = f"/v0/inboxes/{support['inbox_id']}/threads"

    async def threads() -> list[Json]:
        return (await anywhere.client.get(path)).json()["threads"]

    (item,) = await until(threads, lambda seen: len(seen) == 1)
    thread = told(await anywhere.client.get(f"{path}/{item['thread_id']}"), 200, THREAD)
    assert thread["participants"] == [jane["inbox_id"], support["inbox_id"]]


async def test_webhooks(anywhere: Service) -> None:
    """Create, list, update with PUT, delete; without types it is told of the standard ones."""
    inbox, client = await create(anywhere), anywhere.client
    wanted = read(CREATE_WEBHOOK.replace("inbox1@domain.com", inbox["inbox_id"]))
    made = await client.post("/v0/webhooks", json=wanted)
    assert made.status_code == 201, made.text
    like(made.json(), wanted)
    assert made.json()["inbox_ids"] == [inbox["inbox_id"]]
    assert (await client.get("/v0/webhooks")).json()["webhooks"] == [made.json()]
    path = f"/v0/webhooks/{made.json()['webhook_id']}"
    put = await client.put(path, json={**wanted, "enabled": False})
    assert put.status_code == 200, put.text
    assert put.json()["enabled"] is False
    assert (await client.delete(path)).status_code == 204
    del wanted["event_types"]
    again = await client.post("/v0/webhooks", json=wanted)
    assert "message.bounced" in again.json()["event_types"]


async def test_error_responses(anywhere: Service) -> None:
    """The format every error has, with the documented code of each mistake."""
    inbox = await create(anywhere)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    answer = await anywhere.client.post(path, json={"to": "not an address", "text": "Hi"})
    error = told(answer, 400, ERROR)["error"]
    assert error["type"] == "validation_error"
    assert error["message"]
    assert error["details"] == {"field": "to", "code": "INVALID_EMAIL"}


async def test_common_error_codes(anywhere: Service) -> None:
    """400 and 404 in the examples' form, and 401 for a key that is none."""
    body = fault(await anywhere.client.get("/v0/inboxes?limit=nine"), 400, "validation_error")
    assert body["error"]["details"] == {"field": "limit", "code": "INVALID_LIMIT"}
    fault(await anywhere.client.get(f"/v0/inboxes/nobody@{DOMAIN}"), 404, "not_found")
    wrong = await without_key(
        anywhere.client, "GET", "/v0/inboxes", Authorization="Bearer YOUR_API_KEY"
    )
    fault(wrong, 401, "unknown_api_key")


def test_the_limits_it_names_are_the_defaults() -> None:
    """API requests: 1000/minute per API key. Email sending: 10,000/day (upgradeable)."""
    settings = Settings(database_url="postgresql://nowhere")
    assert (settings.requests_per_minute, settings.sends_per_day) == (1000, 10_000)


def rate_limited(answer: httpx.Response) -> None:
    """429 in the format of every error, and when to try again."""
    error = told(answer, 429, RATE_LIMITED)["error"]
    assert error["type"] == "rate_limit_exceeded"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["retry_at"]


async def test_requests_over_the_limit_of_a_key(anywhere: Service) -> None:
    """The other keys of the organisation go on."""
    organization_id = await tenants.organization(anywhere.db)
    await limit(anywhere.db, organization_id, requests_per_minute=2)
    fast, slow = [
        tenants.client(anywhere, await tenants.key(anywhere.db, organization_id)) for _ in range(2)
    ]
    for _ in range(2):
        assert (await fast.get("/v0/inboxes")).status_code == 200
    rate_limited(await fast.get("/v0/inboxes"))
    assert (await slow.get("/v0/inboxes")).status_code == 200


async def test_mail_over_the_limit_of_a_day(anywhere: Service) -> None:
    """Upgradeable: with a higher limit it goes on."""
    inbox = await anywhere.inbox()
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    body = {"to": inbox["inbox_id"], "text": "Message body"}
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=1)
    told(await anywhere.client.post(path, json=body), 200, SENT)
    rate_limited(await anywhere.client.post(path, json=body))
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=2)
    told(await anywhere.client.post(path, json=body), 200, SENT)
