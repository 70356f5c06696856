"""Attachments going out: as base64 or by URL, and every way in which that cannot be."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import AsyncGenerator

import httpx
import msgspec
import pytest
import pytest_asyncio

from agentmail_cp.outbound import names
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.web import requests
from tests.api.faults import mistake
from tests.fix_app import Json, Service, serving, until
from tests.fix_front_door import Porch

PDF = bytes(range(256)) * 40
CONTENT = base64.b64encode(PDF).decode()


class Site:
    """A web site on loopback whose every path answers the same."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.answer = b""
        self.pause = 0.0
        self.asked = 0

    def says(self, status: str, body: bytes = PDF, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.answer = "\r\n".join([*lines, "", ""]).encode() + body


@pytest_asyncio.fixture
async def site() -> AsyncGenerator[Site]:
    """A site, for URLs of attachments."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            here.asked += 1
            await asyncio.sleep(here.pause)
            writer.write(here.answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    here = Site(server.sockets[0].getsockname()[1])
    here.says("200 OK", Content_Type="application/pdf")
    yield here
    server.close()


@pytest_asyncio.fixture
async def fetching(
    database_url: str, sandbox_server: tuple[MailSandbox, int], porch: Porch
) -> AsyncGenerator[Service]:
    """A service on the sandbox that may fetch from loopback, with small limits."""
    sandbox, port = sandbox_server
    async with serving(
        database_url,
        sandbox,
        smtp_port=port,
        porch=porch,
        outbound_allow="127.0.0.0/8",
        outbound_timeout=0.5,
        max_message_size=100_000,
    ) as running:
        yield running


async def attempt(service: Service, inbox: Json, *attachments: Json, **fields: object) -> Json:
    """What a send with these attachments answers, its status among it."""
    body = {"to": inbox["email"], "text": "Hi", "attachments": list(attachments), **fields}
    answer = await service.client.post(f"/v0/inboxes/{inbox['inbox_id']}/messages/send", json=body)
    return {"status": answer.status_code, **answer.json()}


async def got(service: Service, inbox: Json) -> Json:
    """The one message an inbox has received."""
    (item,) = await until(
        lambda: service.messages(inbox, labels="received"), lambda seen: len(seen) == 1
    )
    return item


async def content_of(service: Service, inbox: Json, message: Json, index: int = 0) -> bytes:
    attachment_id = message["attachments"][index]["attachment_id"]
    told = await service.client.get(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}"
        f"/attachments/{attachment_id}"
    )
    async with httpx.AsyncClient() as client:
        return (await client.get(told.json()["download_url"])).content


async def test_base64_in_any_dress_arrives(anywhere: Service) -> None:
    inbox = await anywhere.inbox("alice")
    sent = await attempt(
        anywhere,
        inbox,
        {"content": base64.encodebytes(PDF).decode(), "filename": "a.bin"},
        {"content": base64.urlsafe_b64encode(PDF).decode().rstrip("="), "filename": "b.bin"},
        {"content": "", "filename": "empty.txt", "content_type": "text/plain"},
    )
    assert sent["status"] == 200, sent
    message = await got(anywhere, inbox)
    assert [each["filename"] for each in message["attachments"]] == ["a.bin", "b.bin", "empty.txt"]
    assert await content_of(anywhere, inbox, message) == PDF
    assert await content_of(anywhere, inbox, message, 1) == PDF
    assert await content_of(anywhere, inbox, message, 2) == b""


async def test_an_attachment_by_url_arrives_with_name_and_type(
    fetching: Service, site: Site
) -> None:
    inbox = await fetching.inbox("alice")
    sent = await attempt(fetching, inbox, {"url": f"{site.url}/a/Report%20%C3%BC.pdf?sig=1"})
    assert sent["status"] == 200, sent
    message = await got(fetching, inbox)
    (attachment,) = message["attachments"]
    assert attachment["filename"] == "Report ü.pdf"
    assert attachment["content_type"] == "application/pdf"
    assert attachment["size"] == len(PDF)
    assert await content_of(fetching, inbox, message) == PDF


async def test_what_the_caller_says_of_a_url_comes_first(fetching: Service, site: Site) -> None:
    inbox = await fetching.inbox("alice")
    sent = await attempt(
        fetching,
        inbox,
        {"url": f"{site.url}/x.bin", "filename": "own.png", "content_type": "image/png"},
        {"url": f"{site.url}/"},
    )
    assert sent["status"] == 200, sent
    first, second = (await got(fetching, inbox))["attachments"]
    assert (first["filename"], first["content_type"]) == ("own.png", "image/png")
    assert second["content_type"] == "application/pdf"


@pytest.mark.parametrize(
    ("attachment", "field", "code"),
    [
        ({"content": CONTENT, "url": "http://a.test/"}, "attachments.0.url", "INVALID_VALUE"),
        ({"filename": "x"}, "attachments.0.content", "REQUIRED"),
        ({"content": "%%%"}, "attachments.0.content", "INVALID_VALUE"),
        ({"content": 5}, "attachments.0.content", "INVALID_TYPE"),
        ({"url": 5}, "attachments.0.url", "INVALID_TYPE"),
        ({"content": CONTENT, "content_type": "x"}, "attachments.0.content_type", "INVALID_VALUE"),
        (
            {"content": CONTENT, "content_type": "Multipart/mixed; boundary=x"},
            "attachments.0.content_type",
            "INVALID_VALUE",
        ),
    ],
)
async def test_an_attachment_that_does_not_fit_says_where(
    service: Service, attachment: Json, field: str, code: str
) -> None:
    inbox = await service.inbox("alice")
    answer = await attempt(service, inbox, attachment)
    assert answer["status"] == 400
    assert answer["error"]["details"] == {"field": field, "code": code}
    assert answer["fix"]
    assert await service.messages(inbox) == []


async def test_nothing_is_fetched_for_a_request_that_does_not_fit(
    fetching: Service, site: Site
) -> None:
    inbox = await fetching.inbox("alice")
    bad = {"content": CONTENT, "content_id": "a b"}
    assert (await attempt(fetching, inbox, {"url": site.url}, bad))["status"] == 400
    assert (await attempt(fetching, inbox, {"url": site.url}, to="nobody"))["status"] == 400
    assert site.asked == 0


@pytest.mark.parametrize("name", ['"attachments"', '"\\u0061ttachments"'])
async def test_a_hundred_attachments_are_enough(fetching: Service, site: Site, name: str) -> None:
    """Four requests of 60,000 files of one byte would keep everybody else's large mail out."""
    inbox = await fetching.inbox("alice")
    few, many = [{"content": "YQ=="}] * 100, [{"url": site.url}] * 101
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    for path in ("messages/send", "drafts"):
        for attachments, status in ((few, {200, 201}), (many, {400})):
            body = f'{{"to": "{inbox["email"]}", {name}: {json.dumps(attachments)}}}'
            answer = await fetching.client.post(f"{at}/{path}", content=body)
            assert answer.status_code in status, answer.text
        mistake(answer, "attachments", "TOO_MANY_ATTACHMENTS")
    assert site.asked == 0


async def test_a_draft_gets_no_more_attachments_than_a_mail_takes(
    fetching: Service, site: Site
) -> None:
    """What is added fifty at a time would be as many in the end."""
    inbox = await fetching.inbox("alice")
    at = f"/v0/inboxes/{inbox['inbox_id']}/drafts"
    first = [{"content": "YQ==", "filename": f"{number}.txt"} for number in range(60)]
    made = (await fetching.client.post(at, json={"attachments": first})).json()
    at, more = f"{at}/{made['draft_id']}", [{"url": site.url}] * 41
    for added in (more, [{"url": site.url}] * 101):
        answer = await fetching.client.patch(at, json={"add_attachments": added})
        mistake(answer, "add_attachments", "TOO_MANY_ATTACHMENTS")
    assert site.asked == 0

    site.says("200 OK", b"b")
    gone = made["attachments"][0]["attachment_id"]
    answer = await fetching.client.patch(
        at, json={"remove_attachments": gone, "add_attachments": more}
    )
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["attachments"]) == 100


async def test_attachments_that_take_too_long_give_their_place_up(fetching: Service) -> None:
    """A mail server that answers late, a hundred times, would keep everybody else's large mail out."""
    assert isinstance(fetching.server, MailSandbox)
    inbox = await fetching.inbox("alice")

    async def hang() -> None:
        await asyncio.Event().wait()

    fetching.server.before["upload"] = hang
    async with asyncio.timeout(20):
        answer = await attempt(fetching, inbox, {"content": CONTENT})
    del fetching.server.before["upload"]
    assert (answer["status"], answer["code"]) == (503, "service_unavailable")
    assert await fetching.messages(inbox) == []
    assert (await attempt(fetching, inbox, {"content": CONTENT}))["status"] == 200


async def test_a_url_that_could_not_even_be_asked_for_is_asked_for_again(
    fetching: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender would be told that their link is bad, because of the links they sent before."""
    inbox = await fetching.inbox("alice")
    go_on = threading.Event()

    def look_up(host: str, port: int) -> list[str]:
        del host, port
        go_on.wait(20)
        return ["127.0.0.1"]

    monkeypatch.setattr(names, "look_up", look_up)
    monkeypatch.setattr(names, "QUEUE", 0.05)
    urls = [f"http://n{number}.test/" for number in range(9)]
    await asyncio.gather(*(attempt(fetching, inbox, {"url": url}) for url in urls[:8]))
    answer = await attempt(fetching, inbox, {"url": urls[8]})
    go_on.set()
    assert (answer["status"], answer["code"]) == (503, "service_unavailable")
    assert "attachments.0.url" in answer["message"]
    assert await fetching.messages(inbox) == []


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        ("404 Not Found", {}, "HTTP 404"),
        ("500 Oops", {}, "HTTP 500"),
        ("302 Found", {"Location": "http://127.0.0.1/"}, "redirects are not followed"),
        ("200 OK", {"Content_Encoding": "gzip"}, "compressed"),
    ],
)
async def test_a_url_that_answers_otherwise_rejects_the_message(
    fetching: Service, site: Site, status: str, headers: dict[str, str], words: str
) -> None:
    site.says(status, PDF, **headers)
    inbox = await fetching.inbox("alice")
    answer = await attempt(fetching, inbox, {"content": CONTENT}, {"url": f"{site.url}/a"})
    assert (answer["status"], answer["code"]) == (403, "message_rejected")
    assert words in answer["message"]
    assert answer["error"]["details"] == {"field": "attachments.1.url", "code": "NOT_FETCHED"}
    assert await fetching.messages(inbox) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://a.test/x", "Only http and https"),
        ("http://user:secret@a.test/", "user name"),
        ("http://2130706433/", "host is not a name"),
        ("http://10.0.0.1/", "may not be fetched"),
        ("http://169.254.169.254/latest/meta-data/", "may not be fetched"),
        ("http://name.invalid/", "may not be fetched"),
        ("", "Only http and https"),
    ],
)
async def test_a_url_that_must_not_be_fetched_rejects_the_message(
    service: Service, url: str, words: str
) -> None:
    inbox = await service.inbox("alice")
    answer = await attempt(service, inbox, {"url": url})
    assert (answer["status"], answer["code"]) == (403, "message_rejected")
    assert words in answer["message"]
    assert "secret" not in answer["message"]


async def test_loopback_is_closed_unless_the_operator_opens_it(
    service: Service, site: Site
) -> None:
    inbox = await service.inbox("alice")
    answer = await attempt(service, inbox, {"url": f"{site.url}/a"})
    assert (answer["status"], site.asked) == (403, 0)


async def test_a_url_that_takes_too_long_rejects_the_message(fetching: Service, site: Site) -> None:
    site.pause = 5
    inbox = await fetching.inbox("alice")
    answer = await attempt(fetching, inbox, {"url": f"{site.url}/a"})
    assert answer["status"] == 403
    assert "in time" in answer["message"]


async def test_too_large_is_the_same_answer_for_every_kind(fetching: Service, site: Site) -> None:
    """The limit is named, and counts text, HTML and all attachments together."""
    inbox = await fetching.inbox("alice")
    site.says("200 OK", bytes(60_000))
    half = {"content": base64.b64encode(bytes(60_000)).decode()}
    by_url = {"url": f"{site.url}/a"}
    for attachments, fields in (
        ([half, half], {}),
        ([half, by_url], {}),
        ([by_url, by_url], {}),
        ([half], {"text": "x" * 50_000}),
        ([], {"html": "x" * 100_001}),
    ):
        answer = await attempt(fetching, inbox, *attachments, **fields)
        assert answer["status"] == 400, answer
        assert answer["error"]["details"]["code"] == "TOO_LARGE"
        assert "100000 bytes" in answer["message"]
        assert answer["fix"]
    assert (await attempt(fetching, inbox, by_url, text="x" * 39_000))["status"] == 200


async def test_a_forward_counts_what_it_brings_along(fetching: Service) -> None:
    inbox = await fetching.inbox("alice")
    half = {"content": base64.b64encode(bytes(60_000)).decode()}
    assert (await attempt(fetching, inbox, half))["status"] == 200
    message = await got(fetching, inbox)
    answer = await fetching.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}/forward",
        json={"to": inbox["email"], "attachments": [half]},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["code"] == "TOO_LARGE"


async def test_a_request_beyond_the_limit_is_413_and_names_it(fetching: Service) -> None:
    """Over a real connection: the answer must reach a client that is still sending."""
    inbox = await fetching.inbox("alice")
    body = b'{"text": "' + b"x" * 6_000_000 + b'"}'
    async with httpx.AsyncClient(
        base_url=fetching.url, headers={"Authorization": f"Bearer {fetching.key}"}
    ) as client:
        answer = await client.post(f"/v0/inboxes/{inbox['inbox_id']}/messages/send", content=body)
    assert answer.status_code == 413
    assert "1133336 bytes" in answer.json()["message"]


async def test_the_same_key_with_another_attachment_is_another_request(
    fetching: Service,
) -> None:
    """Attachments count by what they are, not by how they are written."""
    inbox = await fetching.inbox("alice")
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/send"

    async def ask(content: str) -> httpx.Response:
        body = {"to": inbox["email"], "attachments": [{"content": content}]}
        headers = {"Idempotency-Key": "k"}
        return await fetching.client.post(path, json=body, headers=headers)

    first, again = await ask(CONTENT), await ask(base64.encodebytes(PDF).decode())
    assert first.status_code == again.status_code == 200
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (await ask(base64.b64encode(PDF + b"x").decode())).status_code == 409


@pytest.mark.parametrize("framing", ["Content-Length: 1100000", "Transfer-Encoding: chunked"])
async def test_a_large_body_that_does_not_come_is_not_waited_for(
    fetching: Service, monkeypatch: pytest.MonkeyPatch, framing: str
) -> None:
    """Its place is one of few: whoever stalls would keep everybody's large mail out."""
    monkeypatch.setattr(requests, "PATIENCE", 0.3)
    inbox = await fetching.inbox("alice")
    url = httpx.URL(fetching.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        head = (
            f"POST /v0/inboxes/{inbox['inbox_id']}/messages/send HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {fetching.key}\r\nContent-Type: application/json\r\n"
            f"{framing}\r\n\r\n"
        )
        writer.write(head.encode() + b'2\r\n{"\r\n')
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 408 ")
    finally:
        writer.close()


async def test_large_requests_wait_for_each_other_and_small_ones_for_none(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, large_requests=1) as service:
        inbox = await service.inbox("alice")
        under_way = most = 0

        async def count(*_: object) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.1)
            under_way -= 1

        sandbox.before["upload"] = count
        large = {"content": base64.b64encode(bytes(1_000_000)).decode()}
        answers = await asyncio.gather(*(attempt(service, inbox, large) for _ in range(3)))
        assert [each["status"] for each in answers] == [200, 200, 200]
        assert most == 1
        small = {"content": CONTENT}
        await asyncio.gather(*(attempt(service, inbox, each) for each in (large, small, small)))
        assert most == 3


async def test_a_body_in_chunks_is_read_like_any_other(fetching: Service) -> None:
    inbox = await fetching.inbox("alice")
    whole = msgspec.json.encode({"to": inbox["email"], "attachments": [{"content": CONTENT}]})

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(whole), 1000):
            yield whole[start : start + 1000]

    answer = await fetching.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/send", content=pieces()
    )
    assert answer.status_code == 200, answer.text
    message = await got(fetching, inbox)
    assert await content_of(fetching, inbox, message) == PDF
