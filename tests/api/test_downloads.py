"""Downloads: an agent follows a link without a key and gets exactly the bytes, or a reason why not."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import httpx
import pytest

from agentmail_cp import downloads
from agentmail_cp.mailserver import MailServerUnavailable
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.web import downloads as web_downloads
from tests.fix_app import Json, Service, a_mail, until

PDF = bytes(range(256)) * 700
NAME = 'Überweisung "1".pdf'


async def received(service: Service, mail: EmailMessage | bytes, inbox: Json) -> Json:
    """Deliver a mail from outside; the message as `get` shows it."""
    await service.deliver(mail, inbox["email"])
    (item,) = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)
    answer = await service.client.get(path(inbox, item))
    assert answer.status_code == 200, answer.text
    return answer.json()


def with_pdf(to: str, content: bytes = PDF, name: str = NAME) -> EmailMessage:
    mail = a_mail(to)
    mail.add_attachment(content, maintype="application", subtype="pdf", filename=name)
    return mail


def path(inbox: Json, message: Json, rest: str = "") -> str:
    return f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}{rest}"


async def linked(service: Service, inbox: Json, message: Json, index: int = 0) -> Json:
    """The answer that holds the link of an attachment."""
    attachment = message["attachments"][index]
    answer = await service.client.get(
        path(inbox, message, f"/attachments/{attachment['attachment_id']}")
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
def stranger() -> httpx.AsyncClient:
    """A client without a key."""
    return httpx.AsyncClient(timeout=20)


async def test_an_attachment_is_downloaded_by_its_link_alone(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    inbox = await anywhere.inbox("alice")
    message = await received(anywhere, with_pdf(inbox["email"]), inbox)
    told = await linked(anywhere, inbox, message)
    assert told["size"] == len(PDF)
    assert told["filename"] == NAME
    assert told["content_type"] == "application/pdf"
    assert told["content_disposition"] == "attachment"
    assert told["expires_at"].endswith("Z")
    left = datetime.fromisoformat(told["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert told["download_url"].startswith(anywhere.url)
    async with stranger as client:
        answer = await client.get(told["download_url"])
        head = await client.head(told["download_url"])
    assert answer.status_code == head.status_code == 200
    assert answer.content == PDF
    assert answer.headers["content-length"] == head.headers["content-length"] == str(len(PDF))
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "private"
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith("attachment; filename=")
    assert "filename*=UTF-8''%C3%9Cberweisung" in disposition


async def test_the_raw_message_is_downloaded_as_it_came(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    inbox = await anywhere.inbox("alice")
    mail = with_pdf(inbox["email"]).as_bytes()
    message = await received(anywhere, mail, inbox)
    told = (await anywhere.client.get(path(inbox, message, "/raw"))).json()
    assert told["message_id"] == message["message_id"]
    assert told["size"] == message["size"]
    async with stranger as client:
        answer = await client.get(told["download_url"])
    assert answer.status_code == 200
    assert len(answer.content) == told["size"]
    assert answer.headers["content-type"] == "message/rfc822"
    assert answer.headers["content-disposition"] == 'attachment; filename="message.eml"'
    body = mail.partition(b"\n\n")[2].strip()
    assert answer.content.replace(b"\r\n", b"\n").strip().endswith(body)


ODD = (
    b"From: ada@elsewhere.test\r\nSubject: odd\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/mixed; boundary="x"\r\n\r\n'
    b"--x\r\nContent-Type: text/plain\r\n\r\nHello\r\n"
    b'--x\r\nContent-Type: text/plain; charset=iso-8859-1; name="latin.txt"\r\n'
    b"Content-Disposition: attachment\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"caf=E9 =E0 la cr=E8me\r\n"
    b"--x\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename=p.html\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n"
    + base64.b64encode("<script>grüß</script>".encode("utf-16"))
    + b"\r\n--x--\r\n"
)


async def test_a_text_in_another_charset_arrives_byte_for_byte(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    """Its size after decoding differs; a length that is off makes clients drop the file."""
    inbox = await anywhere.inbox("alice")
    await anywhere.deliver(ODD, inbox["email"])
    (item,) = await until(lambda: anywhere.messages(inbox), lambda seen: len(seen) == 1)
    wanted = ["café à la crème".encode("latin-1"), "<script>grüß</script>".encode("utf-16")]
    async with stranger as client:
        for index, content in enumerate(wanted):
            told = await linked(anywhere, inbox, item, index)
            answer = await client.get(told["download_url"])
            assert answer.content == content
            assert told["size"] == len(content)
            name = f'attachment; filename="{told["filename"]}"'
            assert answer.headers["content-disposition"] == name


async def test_a_download_goes_on_where_it_broke_off(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    inbox = await anywhere.inbox("alice")
    message = await received(anywhere, with_pdf(inbox["email"]), inbox)
    url = (await linked(anywhere, inbox, message))["download_url"]
    size = len(PDF)
    async with stranger as client:
        whole = await client.get(url)
        tag = whole.headers["etag"]
        for asked, start, stop in (
            ("bytes=0-0", 0, 1),
            ("bytes=100000-", 100_000, size),
            ("bytes=-5", size - 5, size),
        ):
            part = await client.get(url, headers={"Range": asked, "If-Range": tag})
            assert part.status_code == 206
            assert part.content == PDF[start:stop]
            assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
            assert part.headers["content-length"] == str(stop - start)
        behind = await client.get(url, headers={"Range": f"bytes={size}-"})
        other = await client.get(url, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
    assert (behind.status_code, behind.content) == (416, b"")
    assert behind.headers["content-range"] == f"bytes */{size}"
    assert (other.status_code, len(other.content)) == (200, size)


async def test_an_empty_attachment_is_an_empty_file(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    inbox = await anywhere.inbox("alice")
    message = await received(anywhere, with_pdf(inbox["email"], b""), inbox)
    told = await linked(anywhere, inbox, message)
    async with stranger as client:
        answer = await client.get(told["download_url"])
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_link_of_mail_that_is_gone_leads_nowhere(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    """In the trash mail is still there; destroyed it is not, whatever a link once promised."""
    inbox = await anywhere.inbox("alice")
    message = await received(anywhere, with_pdf(inbox["email"]), inbox)
    urls = [
        (await linked(anywhere, inbox, message))["download_url"],
        (await anywhere.client.get(path(inbox, message, "/raw"))).json()["download_url"],
    ]
    trashed = await anywhere.client.patch(path(inbox, message), json={"add_labels": ["trash"]})
    assert trashed.status_code == 200
    account = await anywhere.server.find_account(inbox["email"])
    assert account is not None
    async with stranger as client:
        for url in urls:
            assert (await client.get(url)).status_code == 200
        listing = await anywhere.server.listing(account.account_id)
        await anywhere.server.destroy_mail(account.account_id, listing.document_ids)
        for url in urls:
            answer = await client.get(url)
            assert answer.status_code == 404
            assert answer.json()["message"] == "What this link led to was deleted."


async def test_a_deleted_inbox_takes_its_links_along(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    inbox = await anywhere.inbox("alice")
    message = await received(anywhere, with_pdf(inbox["email"]), inbox)
    url = (await linked(anywhere, inbox, message))["download_url"]
    assert (await anywhere.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")).status_code < 300
    async with stranger as client:
        assert (await client.get(url)).status_code == 404


async def test_forged_and_expired_links_say_so(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = await service.inbox("alice")
    message = await received(service, with_pdf(inbox["email"]), inbox)
    url = (await linked(service, inbox, message))["download_url"]
    assert url.startswith("http://api.test/v0/downloads/")
    service.client.headers.pop("Authorization")
    token = url.rpartition("/")[2]
    forged = await service.client.get(url.replace(token, token[:-30] + "A" * 30))
    assert forged.status_code == 403
    assert "no download link" in forged.json()["message"]
    monkeypatch.setattr(downloads, "LIFETIME", timedelta(0))
    service.client.headers["Authorization"] = f"Bearer {service.key}"
    expired = await service.client.get((await linked(service, inbox, message))["download_url"])
    assert expired.status_code == 410
    assert expired.json()["code"] == "gone"
    assert "new link" in expired.json()["fix"]
    refused = await service.client.post(url)
    assert refused.status_code == 405
    assert {"GET", "HEAD"} <= set(refused.headers["allow"].split(", "))


@pytest.mark.parametrize("attachment_id", ["0b6e1b1e-0000-5000-8000-000000000000", "x", "%2e%2e"])
async def test_an_unknown_attachment_is_not_found(service: Service, attachment_id: str) -> None:
    inbox = await service.inbox("alice")
    message = await received(service, with_pdf(inbox["email"]), inbox)
    answer = await service.client.get(path(inbox, message, f"/attachments/{attachment_id}"))
    assert answer.status_code == 404


async def test_another_organisation_gets_no_link(service: Service) -> None:
    inbox = await service.inbox("alice")
    message = await received(service, with_pdf(inbox["email"]), inbox)
    attachment_id = message["attachments"][0]["attachment_id"]
    service.client.headers["Authorization"] = "Bearer inai_nobody"
    for rest in ("/raw", f"/attachments/{attachment_id}"):
        assert (await service.client.get(path(inbox, message, rest))).status_code == 401


async def test_a_link_names_nothing_a_stranger_could_use(service: Service) -> None:
    inbox = await service.inbox("alice")
    message = await received(service, with_pdf(inbox["email"]), inbox)
    url = (await linked(service, inbox, message))["download_url"]
    token = url.rpartition("/")[2]
    told = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert not re.search(rb"alice|agents|part-|mail-|inai_", told)


async def test_whoever_leaves_gives_the_connection_back(anywhere: Service) -> None:
    """Otherwise sixteen cancelled downloads would close the door for everybody."""
    inbox = await anywhere.inbox("alice")
    big = bytes(1_000_000) * 4
    message = await received(anywhere, with_pdf(inbox["email"], big), inbox)
    url = (await linked(anywhere, inbox, message))["download_url"]
    for _ in range(20):
        async with httpx.AsyncClient(timeout=20) as client, client.stream("GET", url) as answer:
            assert answer.status_code == 200
            await anext(answer.aiter_raw(1000))
    async with httpx.AsyncClient(timeout=20) as client:
        async with asyncio.timeout(10):
            assert len((await client.get(url)).content) == len(big)


async def test_slow_downloads_keep_nobody_from_sending(anywhere: Service) -> None:
    """Twenty readers that take nothing hold no connection that a send or a list needs."""
    inbox = await anywhere.inbox("alice")
    big = bytes(1_000_000) * 4
    message = await received(anywhere, with_pdf(inbox["email"], big), inbox)
    url = (await linked(anywhere, inbox, message))["download_url"]
    target = httpx.URL(url)
    slow = [await asyncio.open_connection(target.host, target.port) for _ in range(20)]
    try:
        for _, writer in slow:
            writer.write(f"GET {target.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.sleep(0.3)
        async with asyncio.timeout(5):
            for _ in range(3):
                content = base64.b64encode(PDF).decode()
                await anywhere.send(
                    inbox, to=[inbox["email"]], text="x", attachments=[{"content": content}]
                )
                assert (await anywhere.client.get(path(inbox, message))).status_code == 200
    finally:
        for _, writer in slow:
            writer.transport.abort()


async def test_a_reader_that_takes_nothing_is_left(
    sandbox_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold a connection to the mail server, and a whole file in that one's memory, for ever."""
    closed = asyncio.Event()

    async def endless(*_: object, **__: object) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(65_536)
        finally:
            closed.set()

    async def huge(*_: object) -> int:
        return 10**9

    inbox = await sandbox_service.inbox("alice")
    message = await received(sandbox_service, with_pdf(inbox["email"]), inbox)
    url = httpx.URL((await linked(sandbox_service, inbox, message))["download_url"])
    monkeypatch.setattr(MailSandbox, "download", endless)
    monkeypatch.setattr(MailSandbox, "blob_size", huge)
    monkeypatch.setattr(web_downloads, "PATIENCE", 0.2)
    _, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write(f"GET {url.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(10):
            await closed.wait()
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("after", [0, 100_000])
async def test_a_mail_server_that_breaks_off_is_never_a_whole_file(
    sandbox_service: Service, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Before the first byte it is an honest 503; after it, the client sees that bytes are missing."""

    async def broken(*_: object, **__: object) -> AsyncIterator[bytes]:
        if after:
            yield bytes(after)
        raise MailServerUnavailable("gone", reached=True)

    inbox = await sandbox_service.inbox("alice")
    message = await received(sandbox_service, with_pdf(inbox["email"]), inbox)
    url = (await linked(sandbox_service, inbox, message))["download_url"]
    monkeypatch.setattr(MailSandbox, "download", broken)
    async with httpx.AsyncClient() as client:
        if after:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(url)
        else:
            answer = await client.get(url)
            assert answer.status_code == 503
            assert "retry-after" in answer.headers


async def test_retained_mail_of_a_deleted_inbox_is_downloaded_by_who_asks_for_it(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    """Old links end with the inbox; whoever may read what is retained gets a new one."""
    inbox = await anywhere.inbox("alice")
    message = await received(anywhere, with_pdf(inbox["email"]), inbox)
    attachment_id = message["attachments"][0]["attachment_id"]
    assert (await anywhere.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")).status_code < 300
    route = f"/v0/threads/{message['thread_id']}/attachments/{attachment_id}"
    assert (await anywhere.client.get(route)).status_code == 404
    told = await anywhere.client.get(route, params={"include_deleted": "true"})
    assert told.status_code == 200, told.text
    async with stranger as client:
        answer = await client.get(told.json()["download_url"])
    assert (answer.status_code, answer.content) == (200, PDF)


async def test_the_attachment_of_a_thread_and_of_a_draft_are_the_same_kind_of_link(
    anywhere: Service, stranger: httpx.AsyncClient
) -> None:
    inbox = await anywhere.inbox("alice")
    message = await received(anywhere, with_pdf(inbox["email"]), inbox)
    base = f"/v0/inboxes/{inbox['inbox_id']}"
    made = await anywhere.client.post(
        f"{base}/drafts",
        json={"subject": "x", "attachments": [{"content": base64.b64encode(PDF).decode()}]},
    )
    assert made.status_code < 300, made.text
    draft = made.json()
    holders = (
        (f"threads/{message['thread_id']}", message),
        (f"drafts/{draft['draft_id']}", draft),
    )
    routes = [
        f"{base}/{where}/attachments/{holder['attachments'][0]['attachment_id']}"
        for where, holder in holders
    ]
    async with stranger as client:
        for route in routes:
            told = await anywhere.client.get(route)
            assert told.status_code == 200, told.text
            assert (await client.get(told.json()["download_url"])).content == PDF
