"""A Stalwart of our own in one folder, for `make dev` and for tests.

Owns in that folder: `config.json` and `data` (the store), `ports.json` (chosen once, chosen again when
one is taken), `key` (our API key), `pid` and `log`. Its administrator's password is new at each start.
A folder is in one of two states: unfinished (no `key`: the first start was interrupted, so nobody
has used it, and the next start begins anew) or made. Everything listens on 127.0.0.1 only, with one
exception nothing can be done about: recovery mode, which sets the ports, listens on all interfaces
for about a second, behind a random password.

The process outlives Ctrl-C (it has a session of its own) and ends with `stop`; one that outlived its
owner is stopped by the next `start`. Mail is as durable as Stalwart makes it: safe from kill -9; its
stores write to disk without waiting, so a power failure may cost the last moments.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from agentmail_cp.dev.errors import DevError
from agentmail_cp.dev.processes import works_in
from agentmail_cp.mailserver import MailServerConfused, MailServerError
from agentmail_cp.stalwart import setup
from agentmail_cp.stalwart.jmap import JmapClient, LoginRefused, basic, bearer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from agentmail_cp.stalwart.setup import Doorbell, Hook

ADMIN: Final = "recovery"
HOST: Final = "127.0.0.1"
STORES: Final = ("RocksDb", "Sqlite")
"""In order of preference; a binary may have been built with one of them only."""

OUR_PORTS: Final = range(20_000, 32_000)
"""Below the ports systems hand out for port 0 and for outgoing connections."""

TRIES: Final = 3
START_TIMEOUT: Final = 30.0
STOP_TIMEOUT: Final = 10.0
OLDEST: Final = (0, 16)


class Ports(msgspec.Struct, frozen=True):
    """TCP ports on 127.0.0.1. `smtp` takes mail from outside, the two submissions from clients."""

    http: int
    smtp: int
    submission: int
    submissions: int
    imaps: int


class _Stopped(Exception):
    """The process ended by itself. The message is the last line of its log."""


class _PortTaken(_Stopped):
    """Another program took our port in the moment before we did."""


class LocalStalwart:
    """A server process and its folder; `async with` starts and stops it.

    After `start`: `url` and `key` for the adapter, `ports` for mail clients. Certificates are
    self-signed. `doorbell` is where it rings and `hook` where it asks, None for nowhere. `dns` is the
    address and UDP port of a DNS server: with one it checks SPF, DKIM, DMARC and ARC of mail from outside.
    """

    def __init__(
        self,
        folder: Path,
        *,
        domain: str,
        doorbell: Doorbell | None = None,
        hook: Hook | None = None,
        dns: tuple[str, int] | None = None,
    ) -> None:
        self._folder = folder.absolute()
        self._wanted = setup.Wanted(domain=domain, doorbell=doorbell, hook=hook, dev=True, dns=dns)
        # Hexadecimal: Stalwart takes a password that begins with "_" for a hash (BSDi crypt).
        self._password = secrets.token_hex(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: Ports | None = None

    @classmethod
    def wanting(cls, folder: Path, wanted: setup.Wanted) -> Self:
        """One that is brought to this state, on ports of its own."""
        server = cls(folder, domain=wanted.domain)
        server._wanted = wanted
        return server

    @property
    def ports(self) -> Ports:
        """Raises DevError before the first start."""
        if self._ports is None:
            raise DevError("Stalwart has not been started.")
        return self._ports

    @property
    def url(self) -> str:
        """Base URL of its HTTP listener."""
        return f"http://{HOST}:{self.ports.http}"

    @property
    def key(self) -> str:
        """Our API key."""
        return setup.read_key(self._folder / "key") or ""

    @property
    def admin(self) -> str:
        """`user:password` of an administrator, as the setting `stalwart_admin` wants it."""
        return f"{ADMIN}:{self._password}"

    @property
    def wanted(self) -> setup.Wanted:
        """The state it is brought to."""
        return msgspec.structs.replace(self._wanted, own=self._own_server())

    @property
    def pid(self) -> int:
        """Process id; 0 when it does not run."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start it, making it first if the folder is new. Raises DevError."""
        binary = self._binary()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await _stop_leftover(self._folder)
        try:
            await self._bring_up(binary)
        except _Stopped as error:
            await self.stop()
            raise DevError(
                f"Stalwart in {self._folder} did not start: {error} "
                "Delete that folder to start afresh."
            ) from None
        except (MailServerError, setup.SetupError) as error:
            await self.stop()
            raise DevError(f"Stalwart in {self._folder} could not be set up: {error}") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop it in good order; may be repeated."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
        (self._folder / "pid").unlink(missing_ok=True)

    async def kill(self) -> None:
        """End it as kill -9 does; `start` brings it back."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    def pause(self) -> None:
        """Freeze it: connections are accepted by the kernel, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _bring_up(self, binary: Path) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                if not self.key:
                    await self._make(binary)
                elif self._choose_ports():
                    await self._prepare(binary)
                await self._launch(binary)
                return await self._finish(binary)
            except _PortTaken:
                await self.stop()
                if not tries_left:
                    raise
        return None

    def _binary(self) -> Path:
        return _binary_on_path()

    def _command(self, binary: Path, environment: Mapping[str, str]) -> list[str | Path]:
        """What is run with this environment; a container also needs to be told its names."""
        del environment
        return [binary, "--config", self._folder / "config.json"]

    async def _make(self, binary: Path) -> None:
        for store in STORES:
            self._clear()
            self._choose_ports()
            config = {"@type": store, "path": str(self._folder / "data")}
            (self._folder / "config.json").write_bytes(msgspec.json.encode(config))
            try:
                await self._prepare(binary)
            except _PortTaken:
                raise
            except _Stopped:
                if store == STORES[-1]:
                    raise
            else:
                return

    def _clear(self) -> None:
        """Remove what an interrupted first start left."""
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        for left in self._folder.glob("data*"):
            left.unlink()

    async def _prepare(self, binary: Path) -> None:
        """Set names and ports in recovery mode, before anything listens on them."""
        recovery = {
            "STALWART_RECOVERY_MODE": "1",
            "STALWART_RECOVERY_MODE_PORT": str(self.ports.http),
        }
        await self._launch(binary, recovery)
        await self._apply()
        await self.stop()

    async def _finish(self, binary: Path) -> None:
        """Apply what needs a started server, and make the key."""
        report = await self._apply()
        if report.restart:
            await self.stop()
            await self._launch(binary)
        if not await self._key_works():
            client = self._client(basic(ADMIN, self._password))
            try:
                await setup.make_key(client, self._folder / "key")
            finally:
                await client.close()

    async def _apply(self) -> setup.Report:
        client = self._client(basic(ADMIN, self._password))
        try:
            return await setup.apply(client, self.wanted, check=False)
        finally:
            await client.close()

    async def _key_works(self) -> bool:
        if not self.key:
            return False
        client = self._client(bearer(self.key))
        try:
            await setup.status(client)
        except (LoginRefused, setup.SetupError):
            return False
        finally:
            await client.close()
        return True

    def _own_server(self) -> setup.OwnServer:
        binds = {
            name: (f"{HOST}:{port}",) for name, port in msgspec.structs.asdict(self.ports).items()
        }
        return setup.OwnServer(hostname=f"mail.{self._wanted.domain}", **binds)

    def _client(self, authorization: str) -> JmapClient:
        return JmapClient(self.url, authorization, connections=4)

    def _choose_ports(self) -> bool:
        """Take the remembered ports, or new ones if any of those is taken; True for new ones."""
        path = self._folder / "ports.json"
        remembered = _read_ports(path)
        if remembered is not None and all(
            _is_free(port) for port in msgspec.structs.asdict(remembered).values()
        ):
            self._ports = remembered
            return False
        self._ports = _free_ports()
        path.write_bytes(msgspec.json.encode(self._ports))
        return True

    async def _launch(self, binary: Path, extra: Mapping[str, str] | None = None) -> None:
        self._process = self._spawn(binary, extra or {})
        (self._folder / "pid").write_text(str(self._process.pid), encoding="ascii")
        await self._wait_until_ready(self._process)

    def _spawn(self, binary: Path, extra: Mapping[str, str]) -> subprocess.Popen[bytes]:
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ},
            "STALWART_RECOVERY_ADMIN": self.admin,
            "STALWART_PUBLIC_URL": self.url,
            **extra,
        }
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                self._command(binary, environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment,
                # Ctrl-C goes to the terminal's whole group; the mail server must outlive the API.
                start_new_session=True,
            )

    async def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        client = self._client(basic(ADMIN, self._password))
        try:
            while process.poll() is None:
                if await _answers(client):
                    return
                if time.monotonic() > deadline:
                    raise _Stopped("it did not answer in 30 s.")
                await asyncio.sleep(0.01)
        finally:
            await client.close()
        raise _Stopped(self._last_words())

    def _last_words(self) -> str:
        lines = (self._folder / "log").read_text("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message.")


def is_made(folder: Path) -> bool:
    """Whether the folder holds a server somebody may have used; see the module's states."""
    return setup.read_key(folder / "key") is not None


def _binary_on_path() -> Path:
    """The binary on PATH. Raises DevError when there is none, or one too old."""
    found = shutil.which("stalwart")
    if found is None:
        raise DevError("There is no `stalwart` on PATH; install Stalwart 0.16 to use one here.")
    asked = subprocess.run([found, "-V"], capture_output=True, text=True, check=False)
    version = asked.stdout.strip().removeprefix("v")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        raise DevError(
            f"{found} is {version or 'no Stalwart of this kind'}; Stalwart 0.16 is needed."
        )
    return Path(found)


async def _answers(client: JmapClient) -> bool:
    """Whether our server is up; nobody else knows the password."""
    try:
        await client.get_json("/api/account", dict[str, object])
    except LoginRefused:
        raise _PortTaken("another program has taken its port.") from None
    except MailServerConfused as error:
        raise _PortTaken(f"another program has taken its port ({error}).") from None
    except MailServerError:
        return False
    return True


async def _stop_leftover(folder: Path) -> None:
    """Stop the server of this folder whose owner was killed; two must never share a store."""
    pid = _leftover(folder)
    if pid is None:
        return
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    while _leftover(folder) == pid:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.02)


def _leftover(folder: Path) -> int | None:
    """Process id of this folder's server, if one runs."""
    try:
        pid = int((folder / "pid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return pid if works_in(pid, folder) else None


def _read_ports(path: Path) -> Ports | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ports)
    except (OSError, msgspec.MsgspecError):
        return None


def _free_ports() -> Ports:
    """Five different free ports."""
    candidates = iter(secrets.SystemRandom().sample(OUR_PORTS, len(OUR_PORTS)))
    free = (port for port in candidates if _is_free(port))
    return Ports(*(next(free) for _ in Ports.__struct_fields__))


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        # As Stalwart does: connections of the last run that linger are no obstacle.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError:
            return False
    return True
