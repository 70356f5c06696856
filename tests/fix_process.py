"""The service as a real process, to be killed: `agentmail-cp serve` or `worker` with its settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx

from tests import fix_parallel
from tests.hatchery import Hatched, Order, hatchery

HOST = "127.0.0.1"
START_TIMEOUT = 20.0
COMMAND = "from agentmail_cp.cli import main; main()"


def free_port() -> int:
    """A port nobody listens on, below those the system hands out for outgoing connections.

    Processes of one run look in different places: a port is free until its service listens.
    """
    first = 18_000 + fix_parallel.number() % 14 * 1_000
    for turn in range(1_000):
        port = first + (os.getpid() + turn) % 1_000
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class ServiceProcess:
    """One process of the service. `settings` are fields of `Settings` in lower case, `program` is the
    Python that is run with the arguments.

    Every start appends to the same log. `async with` starts it and stops it with SIGTERM, and before that
    awaits what was put into `closing`, also after a failure: what is left open fails another test.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object],
        *arguments: str,
        port: int = 0,
        program: str = COMMAND,
    ) -> None:
        self.log_path = folder / "service.log"
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.closing = contextlib.AsyncExitStack()
        self._program = program
        self._arguments = arguments or ("serve",)
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "AGENTMAIL_CP_PORT": str(self.port),
            **{
                f"AGENTMAIL_CP_{k.upper()}": str(v).lower() if isinstance(v, bool) else str(v)
                for k, v in settings.items()
            },
        }
        self._process: Hatched | None = None

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start it without waiting."""
        self._process = hatchery().start(
            Order(self._program, self._arguments, self._environment, str(self.log_path))
        )

    async def start(self) -> None:
        """Start it and, if it serves, wait until it is healthy."""
        self.launch()
        if self._arguments[0] == "serve":
            await self.until_status(200)

    async def until_status(self, status: int, *, seconds: float = START_TIMEOUT) -> float:
        """Wait until /health answers so; returns the seconds that took."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with httpx.AsyncClient(base_url=self.url, timeout=5) as client:
            while loop.time() < started + seconds:
                assert self.running, f"the service ended: {self.log[-2000:]}"
                try:
                    if (await client.get("/health")).status_code == status:
                        return loop.time() - started
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)
        raise AssertionError(f"/health did not answer {status} in {seconds} s: {self.log[-2000:]}")

    def kill(self) -> None:
        """End it as kill -9 does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    async def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(process.wait, 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError("SIGTERM did not end the service in 15 s") from None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.closing.aclose()
        finally:
            await self.terminate()
