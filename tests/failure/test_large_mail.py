"""A 25 MB attachment, out and in, through a service process beside a real Stalwart: that it arrives, what
memory it adds to the process, and that four at once are no trouble.

Numbers are peaks of resident memory (VmHWM), as an operator's container limit sees them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
import sys
import uuid
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import pytest_asyncio

from agentmail_cp import sizes
from agentmail_cp.settings import DEFAULT_MESSAGE_SIZE
from tests.failure.real import Ringing, Running, running, service
from tests.fix_app import Json, a_mail, until

pytestmark = [
    pytest.mark.stalwart,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

SIZE = 25_000_000
CONTENT = random.Random(4).randbytes(SIZE)
DIGEST = hashlib.sha256(CONTENT).hexdigest()

BASE64_MOST = 120
STREAM_MOST = 20
"""Megabytes that one attachment may add."""

T = TypeVar("T")


@pytest_asyncio.fixture
async def here(ringing: Ringing, database_url: str, tmp_path: Path) -> AsyncGenerator[Running]:
    """A service that may fetch from loopback, warm: what every process needs once is there."""
    process = service(
        tmp_path, ringing, database_url, outbound_allow="127.0.0.0/8", sweep_interval=2
    )
    async with process:
        found = await running(process, database_url)
        found.client.timeout = httpx.Timeout(60)
        yield found
        await found.close()


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def _forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


async def added(pid: int, work: Awaitable[T]) -> tuple[T, float]:
    """What some work gives, and by how many megabytes memory peaked above what it was before."""
    before = _status(pid, "VmRSS")
    _forget_peak(pid)
    result = await work
    return result, (_status(pid, "VmHWM") - before) / 1_000_000


async def an_inbox(here: Running) -> Json:
    """The server is shared with other tests, so names are."""
    return await here.inbox(username=f"large-{uuid.uuid4().hex[:12]}")


async def send(here: Running, inbox: Json, to: str, **attachment: str) -> Json:
    answer = await here.post(inbox, to=to, attachments=[{"filename": "large.bin", **attachment}])
    assert answer.status_code == 200, answer.text
    return answer.json()


async def arrived(here: Running, inbox: Json, count: int = 1) -> list[Json]:
    """The messages of an inbox once they are there, the newest first. How long Stalwart takes over mails as
    large as these is not what these tests are about, so it is asked for one after the other: a list asks for
    the attachments of all, and Stalwart reads on when nobody waits any more.
    """
    said = await until(
        lambda: here.rows(
            "select message_id from event join inbox using (inbox_id) where address = %(address)s"
            " and type = 'message.received' order by number desc",
            address=inbox["email"],
        ),
        lambda rows: len(rows) == count,
        seconds=120,
    )
    return [await whole(here, inbox, each["message_id"]) for each in said]


async def whole(here: Running, inbox: Json, message_id: str) -> Json:
    """A message with its attachments, as soon as the mail server answers in time."""
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{message_id}"
    answer = await until(
        lambda: here.client.get(path),
        lambda answer: answer.status_code == 200 and "attachments" in answer.json(),
        seconds=120,
        pause=2.0,
    )
    return answer.json()


async def link(here: Running, inbox: Json, message: Json, *, raw: bool = False) -> str:
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}"
    rest = "raw" if raw else f"attachments/{message['attachments'][0]['attachment_id']}"
    answer = await here.client.get(f"{path}/{rest}")
    assert answer.status_code == 200, answer.text
    return answer.json()["download_url"]


async def download(url: str) -> tuple[int, str]:
    """Size and digest of what a link leads to; not kept."""
    size, digest = 0, hashlib.sha256()
    async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
            digest.update(chunk)
        assert answer.headers["content-length"] == str(size)
    return size, digest.hexdigest()


@contextlib.asynccontextmanager
async def file_server(pause: float = 0.0) -> AsyncGenerator[str]:
    """A server with the large file; its URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n".encode())
            for start in range(0, SIZE, 500_000):
                writer.write(CONTENT[start : start + 500_000])
                await writer.drain()
                await asyncio.sleep(pause)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/files/large.bin"
    finally:
        server.close()


async def test_memory_added_by_25_megabytes(here: Running) -> None:
    """A container sized for small mail must not be killed by the first large one."""
    alice, bob = await an_inbox(here), await an_inbox(here)
    await send(here, alice, bob["email"], content=base64.b64encode(b"small").decode())
    (warm,) = await arrived(here, bob)
    await download(await link(here, bob, warm))
    pid = here.process.pid
    figures: dict[str, float] = {}
    async with file_server() as url:
        _, figures["url"] = await added(pid, send(here, alice, bob["email"], url=url))
    large, _ = await arrived(here, bob, 2)
    file, figures["download"] = await added(pid, download(await link(here, bob, large)))
    raw, figures["raw"] = await added(pid, download(await link(here, bob, large, raw=True)))
    assert file == (SIZE, DIGEST)
    assert raw[0] > SIZE * 4 / 3
    content = base64.b64encode(CONTENT).decode()
    _, figures["base64"] = await added(pid, send(here, alice, bob["email"], content=content))
    assert figures["base64"] <= BASE64_MOST, figures
    assert max(figures["url"], figures["download"], figures["raw"]) <= STREAM_MOST, figures


async def test_four_at_once_all_arrive(here: Running) -> None:
    """Two as base64, two by URL, then four downloads: each whole, and others are answered meanwhile."""
    alice, bob = await an_inbox(here), await an_inbox(here)
    content = base64.b64encode(CONTENT).decode()
    pid = here.process.pid
    async with file_server() as url:
        forms = [{"content": content}, {"url": url}] * 2
        sending = asyncio.gather(*(send(here, alice, bob["email"], **form) for form in forms))
        others = asyncio.ensure_future(keep_listing(here, alice))
        _, sent = await added(pid, sending)
        assert not others.done()
        others.cancel()
    assert sent <= 2 * BASE64_MOST + 2 * STREAM_MOST
    received = await arrived(here, bob, 4)
    links = [await link(here, bob, each) for each in received]
    files, downloaded = await added(pid, asyncio.gather(*map(download, links)))
    assert files == [(SIZE, DIGEST)] * 4
    assert downloaded <= 4 * STREAM_MOST


async def keep_listing(here: Running, inbox: Json) -> None:
    """What everybody else does meanwhile; fails when that is not answered."""
    while True:
        await here.messages(inbox)
        await asyncio.sleep(0.1)


async def test_a_large_mail_from_outside_comes_in(here: Running, ringing: Ringing) -> None:
    """What we let out we also take: SMTP's SIZE follows the same setting."""
    bob = await an_inbox(here)
    mail = a_mail(bob["email"], "Large")
    mail.add_attachment(CONTENT, maintype="application", subtype="zip", filename="large.zip")

    def deliver() -> int:
        with ringing.mx() as smtp:
            smtp.ehlo()
            smtp.send_message(mail)
            return int(smtp.esmtp_features["size"])

    assert await asyncio.to_thread(deliver) == sizes.mail_limit(DEFAULT_MESSAGE_SIZE)
    (message,) = await arrived(here, bob)
    assert message["attachments"][0]["size"] == SIZE
    assert await download(await link(here, bob, message)) == (SIZE, DIGEST)


async def test_a_slow_source_and_a_slow_reader_are_served(here: Running) -> None:
    """Stalwart's answer must come soon, but neither the one who gives nor the one who takes a file."""
    alice, bob = await an_inbox(here), await an_inbox(here)
    async with file_server(pause=0.1) as url:
        await send(here, alice, bob["email"], url=url)
    (message,) = await arrived(here, bob)
    size = 0
    url = await link(here, bob, message)
    async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", url) as answer:
        async for chunk in answer.aiter_bytes(SIZE // 8):
            size += len(chunk)
            await asyncio.sleep(0.6)
    assert size == SIZE
