"""A Stalwart that delivers to a remote mail server: both in a network namespace of the tests' own.

Stalwart delivers to no loopback address. So it runs where another address exists and nothing else can be
reached (`namespace.py`); its ports appear on loopback here under the same numbers, and what it calls
there (webhook and hook) comes out at the front door. Where namespaces can't be made, tests are skipped
and say so. Every recipient at `REMOTE` gets the fate that a test has told; see `Remote`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
import pytest_asyncio
from aiosmtpd.smtp import SMTP, Envelope, Session

from agentmail_cp.dev.stalwart import HOST, LocalStalwart
from agentmail_cp.stalwart import mtahook, setup
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from tests.fix_app import Service, serving_on_stalwart
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_stalwart import (
    BELL_SECRET,
    DOMAIN,
    StalwartServer,
    needs_stalwart,
    private_folder,
)
from tests.namespace import ADDRESS, Namespace, NoNamespace

if TYPE_CHECKING:
    import socket

REMOTE: Final = "remote.test"
CHUNK: Final = 65_536
NO_NAMESPACE: Final = "REMOTE DELIVERY NOT CHECKED: no network namespace can be made here"


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Taken(msgspec.Struct, frozen=True):
    """A mail the remote server took."""

    sender: str
    recipients: tuple[str, ...]
    raw: bytes
    mail_options: tuple[str, ...]


class Remote:
    """The remote mail server. `refusals` are what a recipient is answered, one at each attempt; when none
    is left it is taken. `taken` is what it took, in order.
    """

    def __init__(self) -> None:
        self.refusals: dict[str, Iterator[str]] = {}
        self.taken: list[Taken] = []

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: object
    ) -> str:
        refusal = next(self.refusals.get(address.lower(), iter(())), None)
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802 -- aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        raw = envelope.original_content or b""
        sender = envelope.mail_from or ""
        options = tuple(envelope.mail_options)
        self.taken.append(Taken(sender, tuple(envelope.rcpt_tos), raw, options))
        return "250 2.0.0 Taken"

    @contextlib.asynccontextmanager
    async def listening(self, door: socket.socket) -> AsyncGenerator[None]:
        """Take mail at a socket while the context is open."""
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(self, hostname=f"mx.{REMOTE}", loop=loop), sock=door
        )
        try:
            yield
        finally:
            server.close()


class InNamespace(LocalStalwart):
    """A Stalwart inside a namespace, whose ports are on loopback outside too."""

    def __init__(self, namespace: Namespace, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._namespace = namespace
        self._gates: list[asyncio.Server] = []

    def _command(self, binary: Path, environment: Mapping[str, str]) -> list[str | Path]:
        return [*self._namespace.inside(*super()._command(binary, environment))]

    async def _launch(self, binary: Path, extra: Mapping[str, str] | None = None) -> None:
        await self._close_gates()
        for port in msgspec.structs.asdict(self.ports).values():
            self._gates.append(await asyncio.start_server(self._way_in(port), HOST, port))
        await super()._launch(binary, extra)

    async def stop(self) -> None:
        await self._close_gates()
        await super().stop()

    async def _close_gates(self) -> None:
        for gate in self._gates:
            gate.close()
        self._gates.clear()

    def _way_in(self, port: int) -> Connected:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = self._namespace.connect(port)
            except OSError:
                writer.transport.abort()
                return
            await joined((reader, writer), await asyncio.open_connection(sock=there))

        return connected


async def joined(one: Stream, other: Stream) -> None:
    """Pass bytes on in both directions until one side has enough, or the tests end."""
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await asyncio.gather(_pass(one[0], other[1]), _pass(other[0], one[1]))
    one[1].transport.abort()
    other[1].transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


@contextlib.asynccontextmanager
async def way_out(namespace: Namespace, port: int) -> AsyncGenerator[str]:
    """A URL inside the namespace that leads to a port on loopback outside."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await joined((reader, writer), await asyncio.open_connection(HOST, port))

    door = namespace.listen()
    server = await asyncio.start_server(connected, sock=door)
    try:
        yield f"http://{HOST}:{door.getsockname()[1]}"
    finally:
        server.close()


class FarStalwart(StalwartServer):
    """A Stalwart with somewhere to deliver to."""

    def __init__(self, process: LocalStalwart, remote: Remote) -> None:
        super().__init__(process)
        self.remote = remote

    async def send_everything_to(self, port: int) -> None:
        """Mail for other domains goes to the remote server, and is tried again soon: every second, for
        four; delays are told after one.
        """
        relay = {
            "@type": "Relay",
            "name": "remote",
            "address": ADDRESS,
            "port": port,
            "protocol": "smtp",
            "implicitTls": False,
            "allowInvalidCerts": True,
            "authSecret": {"@type": "None"},
        }
        await self.change("x:MtaRoute/set", {"create": {"new": relay}})
        route = {"route/else": "'remote'"}
        await self.change("x:MtaOutboundStrategy/set", {"update": {"singleton": route}})
        schedule = await self.id_of("MtaDeliverySchedule", name="remote")
        patch = {
            "retry": _every(1_000),
            "notify": _every(1_000),
            "expiry": {"@type": "Ttl", "expire": 4_000},
        }
        await self.change("x:MtaDeliverySchedule/set", {"update": {schedule: patch}})
        await self.change("x:Action/set", {"create": {"new": {"@type": "ReloadSettings"}}})

    async def change(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One `/set` that must do all it is told."""
        answer = await self.call(name, arguments)
        for refused in ("notCreated", "notUpdated", "notDestroyed"):
            assert not answer.get(refused), answer
        return answer


def _every(milliseconds: int) -> dict[str, Any]:
    return {"@type": "Custom", "intervals": {"0": {"duration": milliseconds}}}


class FarService(msgspec.Struct, frozen=True):
    """A service, the remote server its mail goes to, and the door at which its Stalwart calls."""

    service: Service
    remote: Remote
    front_door: FrontDoor

    def recipient(self, *refusals: str, always: str | None = None) -> str:
        """A fresh address at the remote server, which is refused so: at each attempt, or always."""
        address = f"{uuid.uuid4().hex[:12]}@{REMOTE}"
        self.remote.refusals[address] = repeat(always) if always else iter(refusals)
        return address


@pytest_asyncio.fixture(scope="session")
async def far_stalwart(
    tmp_path_factory: pytest.TempPathFactory, front_door: FrontDoor
) -> AsyncGenerator[FarStalwart]:
    """One such server for the run. It rings and asks at the front door, as `stalwart` does."""
    needs_stalwart()
    try:
        namespace = Namespace().__enter__()
    except NoNamespace as reason:
        pytest.skip(f"{NO_NAMESPACE} ({reason})")
    with contextlib.ExitStack() as spaces:
        spaces.push(namespace)
        async with (
            way_out(namespace, front_door.server_port) as url,
            InNamespace(
                namespace,
                private_folder(tmp_path_factory),
                domain=DOMAIN,
                doorbell=setup.Doorbell(url + DOORBELL_PATH, BELL_SECRET, throttle=20),
                hook=mtahook.hook_at(url, BELL_SECRET),
            ) as process,
        ):
            door = namespace.listen(ADDRESS)
            server = FarStalwart(process, Remote())
            async with server.remote.listening(door):
                await server.send_everything_to(door.getsockname()[1])
                yield server
                await server.jmap.close()


@pytest_asyncio.fixture
async def far_service(
    database_url: str, far_stalwart: FarStalwart, front_door: FrontDoor, porch: Porch
) -> AsyncGenerator[FarService]:
    """The service on that Stalwart."""
    async with serving_on_stalwart(database_url, far_stalwart, front_door, porch) as service:
        yield FarService(service, far_stalwart.remote, front_door)
