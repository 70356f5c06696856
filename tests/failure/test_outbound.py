"""Requests to tenants' URLs: where they go, what they carry, and what stops them.

Names are resolved by the test; servers are real and on loopback. Addresses of the internet are never
dialled: a backend of the test takes the connection and says where it would have gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from typing import cast

import httpcore
import pytest
from httpcore._async import connection

from agentmail_cp.outbound import Outbound, OutboundError, Reason, Request, names
from agentmail_cp.settings import networks
from tests.fix_stalwart import StalwartServer

LOOPBACK = networks("127.0.0.0/8,::1/128")
PUBLIC = "93.184.216.34"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Names:
    """A resolver: each look-up of a name takes its next answer, the last for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): found for name, found in answers.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            raise OSError(host)
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Dialled(httpcore.AsyncNetworkBackend):
    """Notes each address, and connects to one local port instead."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.addresses: list[str] = []
        self.dead: set[str] = set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (the interface)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.addresses.append(host)
        if host in self.dead or not self.port:
            raise httpcore.ConnectError
        real = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())
        return await real.connect_tcp("127.0.0.1", self.port, timeout)


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[int]:
    """A server on loopback; its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.close()
        tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def saying(answer: bytes, heads: list[bytes] | None = None) -> Handler:
    """A server that answers so, and notes what it was asked."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        writer.write(answer)
        await writer.drain()

    return handle


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"


@contextlib.asynccontextmanager
async def outbound(
    names: Names | None = None,
    backend: httpcore.AsyncNetworkBackend | None = None,
    *,
    dev: bool = True,
) -> AsyncGenerator[Outbound]:
    made = Outbound(
        LOOPBACK if dev else (), resolve=names.resolve if names else None, backend=backend
    )
    try:
        yield made
    finally:
        await made.close()


async def got(
    client: Outbound, url: str, *, most: int = 1000, seconds: float = 5.0
) -> tuple[int, bytes]:
    async with client.open(Request(url=url, most=most, seconds=seconds)) as response:
        return response.status, b"".join([chunk async for chunk in response.chunks()])


async def refusal(client: Outbound, url: str, *, most: int = 1000, seconds: float = 5.0) -> Reason:
    with pytest.raises(OutboundError) as caught:
        await got(client, url, most=most, seconds=seconds)
    return caught.value.reason


async def test_a_name_is_fetched_by_its_address_and_keeps_its_name() -> None:
    heads: list[bytes] = []
    names = Names(files_test=[["127.0.0.1"]])
    async with serving(saying(OK, heads)) as port, outbound(names) as client:
        assert await got(client, f"http://Files.test:{port}/a?b=c") == (200, b"hello")
    (head,) = heads
    assert head.startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert f"\r\nHost: files.test:{port}\r\n".encode() in head
    assert b"\r\nUser-Agent: agentmail_cp/" in head
    assert b"cookie" not in head.lower()


async def test_without_the_operators_leave_loopback_is_closed() -> None:
    heads: list[bytes] = []
    names = Names(files_test=[["127.0.0.1"]])
    async with serving(saying(OK, heads)) as port, outbound(names, dev=False) as client:
        for host in ("files.test", "127.0.0.1", "[::ffff:127.0.0.1]", "127.0.0.1.", "nowhere.test"):
            assert await refusal(client, f"http://{host}:{port}/") is Reason.NOT_ALLOWED
    assert heads == []


async def test_a_refusal_does_not_tell_what_the_network_holds() -> None:
    """A name that is private and one that is nowhere look the same from outside."""
    names = Names(db_internal=[["10.0.0.5"]])
    async with outbound(names, Dialled(), dev=False) as client:
        texts: set[str] = set()
        for host in ("db.internal", "nowhere.internal", "169.254.169.254"):
            with pytest.raises(OutboundError) as caught:
                await got(client, f"http://{host}/")
            texts.add(str(caught.value))
    assert len(texts) == 1
    assert "10.0" not in texts.pop()


async def test_a_name_that_changes_its_mind_is_asked_once() -> None:
    """DNS rebinding: public when checked, private when connected to."""
    names = Names(evil_test=[[PUBLIC], ["127.0.0.1"]])
    async with serving(saying(OK)) as port:
        dialled = Dialled(port)
        async with outbound(names, dialled, dev=False) as client:
            assert await got(client, "http://evil.test/") == (200, b"hello")
            assert await refusal(client, "http://evil.test/") is Reason.NOT_ALLOWED
    assert dialled.addresses == [PUBLIC]
    assert names.asked == ["evil.test", "evil.test"]


@pytest.mark.parametrize(
    "bad", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fe80::1"]
)
@pytest.mark.parametrize("order", [1, -1])
async def test_one_private_address_among_public_ones_is_enough(bad: str, order: int) -> None:
    names = Names(mixed_test=[[PUBLIC, bad][::order]])
    dialled = Dialled()
    async with outbound(names, dialled, dev=False) as client:
        assert await refusal(client, "http://mixed.test/") is Reason.NOT_ALLOWED
    assert dialled.addresses == []


async def test_a_dead_address_is_passed_over_for_the_next() -> None:
    names = Names(two_test=[["2606:4700:4700::1111", PUBLIC]])
    async with serving(saying(OK)) as port:
        dialled = Dialled(port)
        dialled.dead.add("2606:4700:4700::1111")
        async with outbound(names, dialled, dev=False) as client:
            assert await got(client, "http://two.test/") == (200, b"hello")
        dialled.dead.add(PUBLIC)
        async with outbound(names, dialled, dev=False) as client:
            assert await refusal(client, "http://two.test/") is Reason.UNREACHABLE
    assert dialled.addresses[:2] == ["2606:4700:4700::1111", PUBLIC]


async def test_the_real_resolver_is_asked_where_none_is_given() -> None:
    async with serving(saying(OK)) as port, outbound() as client:
        assert await got(client, f"http://localhost:{port}/") == (200, b"hello")
        assert await refusal(client, f"http://name.invalid:{port}/") is Reason.NOT_ALLOWED


async def test_a_redirect_is_an_answer_not_an_order() -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    names = Names(files_test=[["127.0.0.1"]])
    async with serving(saying(answer)) as port, outbound(names) as client:
        assert await got(client, f"http://files.test:{port}/") == (302, b"")
    assert names.asked == ["files.test"]


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name itself, and reach what we must not."""
    heads: list[bytes] = []
    names = Names(files_test=[["127.0.0.1"]])
    async with serving(saying(OK, heads)) as proxy, serving(saying(OK)) as port:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        async with outbound(names) as client:
            assert await got(client, f"http://files.test:{port}/") == (200, b"hello")
    assert heads == []


async def test_cookies_are_not_kept() -> None:
    heads: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    async with serving(saying(answer, heads)) as port, outbound() as client:
        for _ in range(2):
            await got(client, f"http://127.0.0.1:{port}/")
    assert len(heads) == 2
    assert b"cookie" not in heads[1].lower()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_larger_than_wanted_is_cut_off(*, announced: bool) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        length = b"Content-Length: 99999999999\r\n" if announced else b"Connection: close\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            sent += 65_536

    async with serving(endless) as port, outbound() as client:
        url = f"http://127.0.0.1:{port}/"
        assert await refusal(client, url, most=1_000_000) is Reason.TOO_LARGE
        async with client.open(Request(url=url, most=2048, seconds=5)) as response:
            assert await response.beginning() == bytes(2048)
    assert sent < 50_000_000


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def slow_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: b\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def endless_hints(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("handler", [silent, slow_headers, slow_body, endless_hints])
async def test_whoever_dawdles_is_left(handler: Handler) -> None:
    """However a server drips, the whole takes no longer than it may."""
    loop = asyncio.get_running_loop()
    async with serving(handler) as port, outbound() as client:
        started = loop.time()
        url = f"http://127.0.0.1:{port}/"
        assert await refusal(client, url, seconds=0.3) is Reason.TIMEOUT
    assert loop.time() - started < 2


async def test_a_name_server_that_dawdles_is_left() -> None:
    async def never(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    client = Outbound(resolve=never)
    assert await refusal(client, "http://files.test/", seconds=0.2) is Reason.TIMEOUT
    await client.close()


async def endless_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b"a" * 65_536)
        await writer.drain()


async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.com ESMTP\r\n")
    await writer.drain()


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhel")
    await writer.drain()


@pytest.mark.parametrize("handler", [endless_header, nonsense, cut])
async def test_what_is_not_a_whole_answer_is_none(handler: Handler) -> None:
    async with serving(handler) as port, outbound() as client:
        assert await refusal(client, f"http://127.0.0.1:{port}/") is Reason.BROKEN


async def test_nobody_listening_is_unreachable() -> None:
    async with serving(silent) as port:
        pass
    async with outbound() as client:
        assert await refusal(client, f"http://127.0.0.1:{port}/") is Reason.UNREACHABLE


async def test_tls_asks_for_the_name_not_the_address() -> None:
    hellos: list[bytes] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hellos.append(await reader.read(65_536))

    names = Names(files_test=[["127.0.0.1"]])
    async with serving(note) as port, outbound(names) as client:
        assert await refusal(client, f"https://files.test:{port}/") is not Reason.NOT_ALLOWED
    assert b"files.test" in hellos[0]


async def test_certificates_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes 40 ms, in which nothing else goes on: 25 requests a second would be the end."""

    def read_again() -> None:
        raise AssertionError

    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()

    names = Names(files_test=[["127.0.0.1"]])
    async with serving(plain) as port, outbound(names) as client:
        monkeypatch.setattr(connection, "default_ssl_context", read_again)
        assert await refusal(client, f"https://files.test:{port}/") is Reason.TLS


async def test_a_name_is_looked_up_once_for_all_who_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name whose servers never answer would hold every thread there is, and stop everybody else's."""
    asked: list[str] = []
    answered = threading.Event()

    def look_up(host: str, _port: int) -> list[str]:
        asked.append(host)
        if host == "slow.test":
            answered.wait(5)
        return ["127.0.0.1"]

    monkeypatch.setattr(names, "look_up", look_up)
    async with serving(saying(OK)) as port:
        client = Outbound(LOOPBACK, resolvers=2)
        waiting = [
            asyncio.create_task(got(client, f"http://slow.test:{port}/{number}"))
            for number in range(5)
        ]
        assert await got(client, f"http://files.test:{port}/") == (200, b"hello")
        waiting.pop().cancel()
        answered.set()
        assert await asyncio.gather(*waiting) == [(200, b"hello")] * 4
        await client.close()
    assert sorted(asked) == ["files.test", "slow.test"]


async def test_names_nobody_answers_for_are_in_the_way_of_their_owner_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One tenant's dead names held every thread there is. Another's good name waited for one, and was then
    said to have no address on the internet.
    """
    monkeypatch.setattr(names, "QUEUE", 0.5)
    answered = threading.Event()
    asked: list[str] = []

    def look_up(host: str, _port: int) -> list[str]:
        asked.append(host)
        if host != "files.test":
            answered.wait(30)
        return ["127.0.0.1"]

    monkeypatch.setattr(names, "look_up", look_up)

    async def ask(port: int, host: str, owner: str) -> Reason | int:
        request = Request(url=f"http://{host}:{port}/", most=1000, seconds=30.0, owner=owner)
        try:
            async with client.open(request) as response:
                return response.status
        except OutboundError as error:
            return error.reason

    async with serving(saying(OK)) as port:
        client = Outbound(LOOPBACK, resolvers=4)
        dead = [asyncio.create_task(ask(port, f"dead{n}.test", "one")) for n in range(4)]
        assert await ask(port, "files.test", "another") == 200
        # Its own have to wait, are not said to be at fault, and take no thread once nobody waits for them.
        waiting, busy = set(dead), list[Reason | int]()
        while len(waiting) > 1:
            ended, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            busy += [task.result() for task in ended]
        assert busy == [Reason.BUSY] * 3
        answered.set()
        assert await ask(port, "files.test", "one") == 200
        await asyncio.wait(dead)
        await client.close()
    assert len([host for host in asked if host != "files.test"]) == 1


async def test_a_request_may_wait_longer_for_its_first_word() -> None:
    """Receivers of webhooks have fifteen seconds; who sends a file says something meanwhile."""

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        writer.write(OK)

    async with serving(late) as port, outbound() as client:
        url = f"http://127.0.0.1:{port}/"
        for idle, patient in ((0.05, False), (5.0, True)):
            request = Request(url=url, most=10, seconds=5, idle=idle)
            with contextlib.nullcontext() if patient else pytest.raises(OutboundError):
                async with client.open(request) as response:
                    assert response.status == 200


@pytest.mark.stalwart
async def test_a_certificate_of_nobody_is_refused(stalwart: StalwartServer) -> None:
    """The server's own certificate is signed by itself."""
    names = Names(files_test=[["127.0.0.1"]])
    async with outbound(names) as client:
        url = f"https://files.test:{stalwart.process.ports.imaps}/"
        assert await refusal(client, url) is Reason.TLS


async def test_a_post_carries_headers_and_body_and_reads_a_little() -> None:
    """What webhooks will need: own headers but no framing of their own, and a bounded answer."""
    heads: list[bytes] = []
    bodies: list[bytes] = []

    async def hook(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        bodies.append(await reader.readexactly(4))
        writer.write(b"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n" + b"a" * 5000)
        await writer.drain()

    async with serving(hook) as port, outbound() as client:
        request = Request(
            url=f"http://127.0.0.1:{port}/hook",
            method="POST",
            headers=(
                ("svix-id", "msg_1"),
                ("Host", "evil.test"),
                ("Transfer-Encoding", "chunked"),
                ("User-Agent", "own"),
            ),
            content=b'{"}"',
            most=2048,
            seconds=5,
        )
        async with client.open(request) as response:
            assert (response.status, response.ok) == (500, False)
            assert await response.beginning() == b"a" * 2048
    head = heads[0].lower()
    assert b"\r\nsvix-id: msg_1\r\n" in head
    assert f"\r\nhost: 127.0.0.1:{port}\r\n".encode() in head
    assert b"evil" not in head
    assert b"transfer-encoding" not in head
    assert b"\r\nuser-agent: own\r\n" in head
    assert b"\r\ncontent-length: 4\r\n" in head
    assert bodies == [b'{"}"']


async def test_a_header_cannot_bring_another_along() -> None:
    async with serving(saying(OK)) as port, outbound() as client:
        request = Request(
            url=f"http://127.0.0.1:{port}/",
            headers=(("X-A", "b\r\nX-Evil: c"),),
            most=10,
            seconds=5,
        )
        with pytest.raises(OutboundError) as caught:
            async with client.open(request):
                pass
    assert caught.value.reason is Reason.BROKEN
