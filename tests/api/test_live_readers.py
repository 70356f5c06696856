"""What a reader that is slow, silent or gone costs: nothing that grows, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar, cast
from uuid import uuid4

import msgspec
import pytest
import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send
from websockets.asyncio.client import connect

from agentmail_cp import events
from agentmail_cp.events import EventType, NewEvent
from agentmail_cp.web import wire
from tests import tenants
from tests.fix_app import Json, Service, until
from tests.fix_front_door import HOST, Http, Porch
from tests.sockets import Listener, listening

T = TypeVar("T")


class Puppet:
    """A client in uvicorn's place, which takes frames only when it is let."""

    def __init__(self, app: ASGIApp, key: str, send: Send | None = None) -> None:
        self.taking = asyncio.Event()
        self.most: int | None = None
        """Frames after which it takes no more for now."""
        self.taken: list[Json] = []
        self.waiting = 0
        """Frames that are not taken yet."""
        self.closed: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._said = asyncio.Queue[Json]()
        self._said.put_nowait({"type": "websocket.connect"})
        scope: Any = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": "/v0",
            "raw_path": b"/v0",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"here"), (b"authorization", f"Bearer {key}".encode())],
            "client": (HOST, 1),
            "server": (HOST, 80),
            "subprotocols": [],
            "state": {},
            "extensions": {"websocket.http.response": {}},
        }
        receive = cast("Receive", self._said.get)
        self.running = asyncio.ensure_future(app(scope, receive, send or self._send))

    def say(self, text: str) -> None:
        self._said.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1001})

    async def _send(self, message: Any) -> None:
        if message["type"] == "websocket.close":
            self.closed.set_result(message)
        elif message["type"] == "websocket.send":
            self.waiting += 1
            await self.taking.wait()
            self.waiting -= 1
            self.taken.append(msgspec.json.decode(message["text"]))
            if len(self.taken) == self.most:
                self.taking.clear()


async def happen(service: Service, inbox: Json, count: int) -> None:
    """So many mails have been sent, as far as the log is concerned."""
    new = NewEvent(
        type=EventType.MESSAGE_SENT, thread_id=uuid4(), message_id="<a@b.test>", document_id=1
    )
    async with service.db.transaction() as tx:
        await events.append(
            tx,
            organization_id=service.organization_id,
            inbox_id=await tenants.uuid_of(service.db, inbox),
            events=[new] * count,
        )


async def test_a_reader_with_a_thousand_unread_events_is_let_go(
    sandbox_service: Service, porch: Porch
) -> None:
    """A client that hangs would hold the events of a day in memory."""
    assert porch.app is not None
    inbox = await sandbox_service.inbox("alice")
    puppet = Puppet(porch.app, sandbox_service.key)
    puppet.taking.set()
    puppet.say('{"type": "subscribe"}')
    await until(seeing(lambda: puppet.taken), bool)
    puppet.taking.clear()
    async with listening(sandbox_service.url, sandbox_service.key) as other:
        await other.subscribe()
        await happen(sandbox_service, inbox, 1_200)
        closed = await asyncio.wait_for(puppet.closed, 10)
        assert closed["code"] == 1013
        await puppet.running
        # Nobody else waited, and nothing is lost to who comes back.
        ids = [(await other.event())["event_id"] for _ in range(1_200)]
        assert len(set(ids)) == 1_200
        async with listening(sandbox_service.url, sandbox_service.key) as again:
            await again.subscribe(after=puppet.taken[0]["cursor"])
            assert [(await again.event())["event_id"] for _ in range(1_200)] == ids


async def test_a_slow_reader_that_resumes_is_not_let_go(
    sandbox_service: Service, porch: Porch
) -> None:
    """Whoever comes back after a long time could never catch up."""
    assert porch.app is not None
    inbox = await sandbox_service.inbox("alice")
    await happen(sandbox_service, inbox, 1_500)
    puppet = Puppet(porch.app, sandbox_service.key)
    puppet.say('{"type": "subscribe", "after": "start"}')
    await happen(sandbox_service, inbox, 1_500)
    puppet.taking.set()
    await until(seeing(lambda: len(puppet.taken)), lambda seen: seen == 3_001)
    assert not puppet.closed.done()
    puppet.leave()
    await puppet.running
    assert len({each["event_id"] for each in puppet.taken[1:]}) == 3_000


def seeing(look: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    async def looking() -> T:
        return look()

    return looking


async def test_who_subscribes_again_is_told_nothing_too_early(
    sandbox_service: Service, porch: Porch
) -> None:
    """The last event a client has would not be where all its subscriptions can go on from."""
    assert porch.app is not None
    one, two = await sandbox_service.inbox("one"), await sandbox_service.inbox("two")
    for _ in range(5):
        await happen(sandbox_service, one, 1)
        await happen(sandbox_service, two, 1)
    puppet = Puppet(porch.app, sandbox_service.key)
    puppet.most = 1
    puppet.taking.set()
    for inbox in (one, two):
        puppet.say(f'{{"type": "subscribe", "after": "start", "inbox_ids": ["{inbox["email"]}"]}}')
        # The second comes while the first event of the first is on its way.
        await until(seeing(lambda: puppet.waiting), lambda seen: seen > 0)
    await until(seeing(lambda: puppet.waiting), lambda seen: seen == 2)
    puppet.taking.set()
    await until(seeing(lambda: len(puppet.taken)), lambda seen: seen == 12)
    async with sandbox_service.db.reading() as tx:
        rows = await (
            await tx.execute(
                "select event_id::text from event where organization_id = %s order by position",
                [sandbox_service.organization_id],
            )
        ).fetchall()
    kinds = [each["type"] for each in puppet.taken[:3]]
    assert kinds == ["subscribed", "event", "subscribed"]
    assert [each["event_id"] for each in puppet.taken if "event_id" in each] == [
        each["event_id"] for each in rows
    ]
    puppet.leave()
    await puppet.running


class Flood:
    """An application that sends more than anybody takes, to whoever connects."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        try:
            for _ in range(self.frames):
                await send({"type": "websocket.send", "text": "x" * 1_000_000, "bytes": None})
        finally:
            self.ended.set()


@contextlib.asynccontextmanager
async def served(app: ASGIApp, **options: Any) -> AsyncGenerator[tuple[uvicorn.Server, int]]:
    """An application behind our protocol, on a port of its own."""
    settings: Any = {**wire.OPTIONS, **options}
    config = uvicorn.Config(
        app, host=HOST, port=0, lifespan="off", log_config=None, access_log=False, **settings
    )
    server = Http(config)
    task = asyncio.create_task(server.serve())
    await until(seeing(lambda: server.started), bool)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@contextlib.asynccontextmanager
async def deaf(port: int) -> AsyncGenerator[None]:
    """A client that opens a socket and never reads."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (HOST, port))
        await loop.sock_sendall(
            client,
            b"GET /v0 HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        yield


@pytest.mark.parametrize(
    ("frames", "options"),
    [
        # The application is done, but what it sent is not taken.
        (1, {"ws_ping_interval": 60.0}),
        # The application waits for room, and no pong comes.
        (1_000, {"ws_ping_interval": 0.1, "ws_ping_timeout": 0.1}),
    ],
    ids=["done", "waiting"],
)
async def test_a_peer_that_takes_nothing_is_gone_after_a_while(
    monkeypatch: pytest.MonkeyPatch, frames: int, options: dict[str, float]
) -> None:
    """Sockets of clients that vanished would hold their memory until the process ends."""
    monkeypatch.setattr(wire, "LINGER", 0.1)
    app = Flood(frames)
    async with served(app, **options) as (server, port), deaf(port):
        await asyncio.wait_for(app.ended.wait(), 10)
        await until(seeing(lambda: len(server.server_state.connections)), lambda seen: seen == 0)


async def test_a_restart_does_not_wait_for_who_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One such client would make every restart as long as the longest patience."""
    monkeypatch.setattr(wire, "LINGER_AT_STOP", 0.1)
    app = Flood(1_000)
    async with contextlib.AsyncExitStack() as stack:
        server, port = await stack.enter_async_context(served(app))
        await stack.enter_async_context(deaf(port))
        await until(seeing(lambda: len(server.server_state.connections)), lambda seen: seen == 1)
        server.should_exit = True
        await asyncio.wait_for(app.ended.wait(), 4)


async def test_who_leaves_before_the_socket_is_open_is_no_error(
    sandbox_service: Service, porch: Porch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restart of many clients would fill the log with tracebacks."""
    assert porch.app is not None

    async def gone(_message: object) -> None:
        raise OSError

    for key in (sandbox_service.key, "wrong"):
        puppet = Puppet(porch.app, key, send=gone)
        await puppet.running
    assert "websocket" not in capsys.readouterr().out


async def test_no_log_ever_has_the_key(
    sandbox_service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads a log could read everybody's mail."""
    caplog.set_level(logging.DEBUG, logger="uvicorn.error")
    url = f"{sandbox_service.url.replace('http', 'ws', 1)}/v0?api_key={sandbox_service.key}"
    async with connect(url, proxy=None) as connection:
        await Listener(connection).subscribe()
    assert '"WebSocket /v0" [accepted]' in caplog.text
    assert sandbox_service.key not in caplog.text
    assert "subscribe" not in caplog.text
