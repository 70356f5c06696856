"""The service behind a real HTTP port, for clients that cannot be put into our event loop: the official
SDKs and schemathesis. It runs in a thread of its own, on the sandbox or on a real Stalwart.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import pytest
import uvicorn

from agentmail_cp import access
from agentmail_cp.db import Database
from agentmail_cp.dev.hearing import hear
from agentmail_cp.mailserver import MailServer
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.settings import Settings
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from agentmail_cp.throttle import WINDOW
from agentmail_cp.web import wire
from tests.fix_app import DOMAIN, settings_for
from tests.fix_front_door import FrontDoor
from tests.fix_proxy import port_of
from tests.fix_stalwart import BELL_SECRET, StalwartServer
from tests.wiring import Application, application

HOST = "127.0.0.1"
PATIENCE = 15.0
"""Seconds a server may take to start or to stop."""

BESIDE_RECEIVERS: Mapping[str, Any] = {"outbound_allow": "127.0.0.0/8"}
"""Webhooks may lead to this machine, as with `make dev`."""

MailServerMaker = Callable[[], AbstractAsyncContextManager[tuple[MailServer, int]]]
"""Opens a mail server and says at which port it takes mail from outside."""


class Live(msgspec.Struct, frozen=True):
    """Where a running service is and the key of its only organisation; `smtp_port` is where mail from
    outside goes in.
    """

    base_url: str
    api_key: str
    smtp_port: int

    @property
    def websocket_url(self) -> str:
        return self.base_url.replace("http", "ws", 1)


class _Runner:
    """One service in one thread."""

    def __init__(
        self, settings: Settings, mail_server: MailServerMaker, request_window: float
    ) -> None:
        self._settings = settings
        self._request_window = request_window
        self._mail_server = mail_server
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unwanted = False
        self._failed: BaseException | None = None
        self._http: uvicorn.Server | None = None
        self._live: Live | None = None
        self._thread = threading.Thread(target=self._run, name="service under test")

    def start(self) -> Live:
        self._thread.start()
        assert self._ready.wait(PATIENCE), "the service did not start"
        if self._live is None:
            raise RuntimeError("The service did not start.") from self._failed
        return self._live

    def stop(self) -> None:
        """End it, however far it has come: left running, it would do the work of the tests to come."""
        self._unwanted = True
        if self._http is not None:
            self._http.should_exit = True
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            doing = self._cut_off()
            self._thread.join(PATIENCE)
            raise AssertionError(f"the service did not stop in {PATIENCE} s: {doing}")

    def _cut_off(self) -> str:
        """Cancel everything it does; what that was."""
        assert self._loop is not None
        tasks, stacks = asyncio.all_tasks(self._loop), io.StringIO()
        for task in tasks:
            task.print_stack(file=stacks)
            self._loop.call_soon_threadsafe(task.cancel)
        return stacks.getvalue()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 -- told to the test in `start`
            self._failed = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._mail_server() as (server, smtp_port):
            app = application(self._settings, server=server, request_window=self._request_window)
            _let_ring(app, server)
            async with app.lifespan():
                # Before anything listens: what fails then leaves nothing open.
                key = await _make_key(app)
                self._http = uvicorn.Server(_listening(app))
                self._http.should_exit = self._unwanted
                serving = asyncio.create_task(self._http.serve())
                port = await _started(self._http, serving)
                self._live = Live(f"http://{HOST}:{port}", key, smtp_port)
                self._ready.set()
                await serving


def _listening(app: Application) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=HOST,
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        **wire.OPTIONS,
    )


async def _started(http: uvicorn.Server, serving: asyncio.Task[None]) -> int:
    """The port of a server that answers from now on."""
    while not http.started:
        if serving.done():
            await serving
            raise RuntimeError("The service stopped while it started.")
        await asyncio.sleep(0.01)
    return http.servers[0].sockets[0].getsockname()[1]


def _let_ring(app: Application, server: MailServer) -> None:
    if isinstance(server, MailSandbox):
        hear(server, app.state["doorbell"], app.state["resources"].db)


async def _make_key(app: Application) -> str:
    db: Database = app.state["resources"].db
    async with db.transaction() as tx:
        organization = await access.create_organization(tx, "SDK")
        made = await access.create_key(
            tx, access.Reach(organization.organization_id), prefix="inai_", name="sdk"
        )
    return made.secret


@contextlib.contextmanager
def running(
    database_url: str,
    mail_server: MailServerMaker,
    *,
    request_window: float = WINDOW,
    **changes: object,
) -> Generator[Live]:
    """A service on a free port, stopped at the end."""
    runner = _Runner(settings_for(database_url, **changes), mail_server, request_window)
    try:
        yield runner.start()
    finally:
        runner.stop()


@contextlib.asynccontextmanager
async def on_sandbox() -> AsyncGenerator[tuple[MailServer, int]]:
    """A fresh sandbox."""
    sandbox = MailSandbox(DOMAIN)
    async with sandbox.listening() as door:
        yield sandbox, door.port


@contextlib.contextmanager
def running_on_stalwart(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor
) -> Generator[Live]:
    """A service on the run's Stalwart, which calls at the front door."""

    @contextlib.asynccontextmanager
    async def mail_server() -> AsyncGenerator[tuple[MailServer, int]]:
        server = StalwartMailServer(JmapClient(stalwart.url, bearer(stalwart.key)))
        yield server, stalwart.process.ports.smtp
        await server.close()

    with (
        running(
            database_url, mail_server, stalwart_webhook_secret=BELL_SECRET, **BESIDE_RECEIVERS
        ) as live,
        front_door.leading_to(port_of(live.base_url)),
    ):
        yield live


@pytest.fixture
def live_on_stalwart(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor
) -> Generator[Live]:
    """The service on the run's Stalwart, behind a port."""
    with running_on_stalwart(database_url, stalwart, front_door) as found:
        yield found


@pytest.fixture(
    params=[
        pytest.param("live", id="sandbox"),
        pytest.param("live_on_stalwart", id="stalwart", marks=pytest.mark.stalwart),
    ]
)
def live_anywhere(request: pytest.FixtureRequest) -> Live:
    """The service behind a port in both worlds, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def live(database_url: str) -> Generator[Live]:
    """The service on the sandbox, behind a port."""
    with running(database_url, on_sandbox, **BESIDE_RECEIVERS) as found:
        yield found
