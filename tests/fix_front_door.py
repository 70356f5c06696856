"""The two fixed addresses of a test run, behind which services come and go.

`Porch` serves whichever application a test has put in, in the tests' own event loop: its URL is the
`public_url` of services under test. `FrontDoor` is what a shared Stalwart calls, webhook and hook alike;
it passes each request on to the port of the service that runs now, and lives in threads of its own,
because the tests' event loop stands still while a test without `async` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
from collections.abc import AsyncGenerator, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import pytest_asyncio
import uvicorn
from litestar.types import ASGIApp, Receive, Scope, Send

from agentmail_cp.web import wire

HOST = "127.0.0.1"
PATIENCE = 10.0
"""Seconds a service may take to answer Stalwart."""

ACCEPTED = b'{"action":"accept"}'
"""What a service without objections answers; said for nobody when no service runs."""


class FrontDoor(ThreadingHTTPServer):
    """Where Stalwart calls. `target` is the port of the service to ask, None when there is none."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Visit)
        self.target: int | None = None
        self.barred: str | None = None
        """The path at which nobody answers, as a firewall or a proxy may have it."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}"

    @contextlib.contextmanager
    def leading_to(self, port: int) -> Generator[None]:
        """Lead to the service on this port while the context is open."""
        self.target = port
        try:
            yield
        finally:
            self.target = None

    @contextlib.contextmanager
    def barring(self, path: str) -> Generator[None]:
        """Cut off whoever asks at this path while the context is open."""
        self.barred = path
        try:
            yield
        finally:
            self.barred = None

    @contextlib.contextmanager
    def closed(self) -> Generator[None]:
        """Answer for nobody while the context is open: what Stalwart says then is lost."""
        target, self.target = self.target, None
        try:
            yield
        finally:
            self.target = target


class _Visit(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._pass_on(b"")

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def _pass_on(self, body: bytes) -> None:
        assert isinstance(self.server, FrontDoor)
        if self.path == self.server.barred:
            self.close_connection = True
            return
        try:
            status, answer = self._asked(self.server.target, body)
        except OSError:
            status, answer = 503, b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _asked(self, target: int | None, body: bytes) -> tuple[int, bytes]:
        if target is None:
            return 200, ACCEPTED
        service = http.client.HTTPConnection(HOST, target, timeout=PATIENCE)
        with contextlib.closing(service):
            service.request(self.command, self.path, body, dict(self.headers))
            answer = service.getresponse()
            return answer.status, b"" if answer.status == 204 else answer.read()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- its name there
        pass


class Porch:
    """A real HTTP port of the tests' event loop, behind which `app` answers."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None, "nobody is at home: this request comes after its test"
        await self.app(scope, receive, send)

    @contextlib.contextmanager
    def serving(self, app: ASGIApp) -> Generator[None]:
        """Let an application answer while the context is open."""
        self.app = app
        try:
            yield
        finally:
            self.app = None


class Http(uvicorn.Server):
    """A server in the tests' own event loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Ctrl-C stays pytest's."""
        yield


@pytest.fixture(scope="session")
def front_door() -> Generator[FrontDoor]:
    """Where the run's Stalwart calls."""
    with FrontDoor() as door:
        thread = threading.Thread(target=door.serve_forever, name="front door", args=(0.05,))
        thread.start()
        yield door
        door.shutdown()
        thread.join()


@pytest_asyncio.fixture(scope="session")
async def porch() -> AsyncGenerator[Porch]:
    """A port for applications of the tests' own event loop."""
    keeper = Porch()
    config = uvicorn.Config(
        keeper,
        host=HOST,
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        **wire.OPTIONS,
    )
    server = Http(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "the porch did not open"
        await asyncio.sleep(0.01)
    keeper.port = server.servers[0].sockets[0].getsockname()[1]
    yield keeper
    server.should_exit = True
    await task
