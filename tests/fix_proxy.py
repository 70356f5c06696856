"""Things that stand between the service and what it needs, and spoil it: a TCP proxy and a bell relay.

Both listen on loopback and live in the test's event loop. Neither ever spoils anything by chance.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Self
from urllib.parse import urlsplit

HOST = "127.0.0.1"
CHUNK = 65_536


class Proxy:
    """Passes TCP on to the port `target` until told otherwise. `port` stays the same while it lives.

    `cut_request_after` and `cut_answer_after` are how many more bytes pass in that direction, over
    all connections, before the connection that carries the next one is cut; None cuts none.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._passing = asyncio.Event()
        self._passing.set()
        self.port = 0
        self.cut_request_after: int | None = None
        self.cut_answer_after: int | None = None

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._connected, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Cut every connection and take no new one, as a dead server does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        """Cut every connection with a reset."""
        for writer in self._open:
            writer.transport.abort()

    def stall(self) -> None:
        """Take connections and bytes, and pass nothing on."""
        self._passing.clear()

    async def heal(self) -> None:
        """Be an honest proxy again."""
        self.cut_request_after = self.cut_answer_after = None
        self._passing.set()
        if self._server is None:
            await self.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._passing.set()
        self.refuse()
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        both = (writer, there_writer)
        self._open.update(both)
        try:
            await asyncio.gather(
                self._pass_until_reset(reader, there_writer, "cut_request_after"),
                self._pass_until_reset(there_reader, writer, "cut_answer_after"),
                return_exceptions=True,
            )
        finally:
            for each in both:
                self._open.discard(each)
                each.transport.abort()

    async def _pass_until_reset(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: str
    ) -> None:
        """A reset goes on as a reset: a killed service must not look like a slow one."""
        try:
            await self._pass(reader, writer, budget)
        except OSError:
            writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: str
    ) -> None:
        while data := await reader.read(CHUNK):
            await self._passing.wait()
            left: int | None = getattr(self, budget)
            if left is not None:
                setattr(self, budget, max(0, left - len(data)))
                if left < len(data):
                    writer.write(data[:left])
                    await writer.drain()
                    self.cut()
                    return
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


class BellRelay:
    """Stands where Stalwart's webhook rings and passes each batch on `times` times: 0 loses it."""

    def __init__(self) -> None:
        self.times = 1
        self.target: int | None = None
        self.batches = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator[Self]:
        """Take bells while the context is open."""
        server = await asyncio.start_server(self._connected, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(_length(head))
            self.batches += 1
            for _ in range(self.times):
                await self._pass_on(_closing(head) + body)
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async def _pass_on(self, request: bytes) -> None:
        if self.target is None:
            return
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(HOST, self.target)
            writer.write(request)
            await writer.drain()
            await reader.read()
            writer.close()


def _length(head: bytes) -> int:
    fields = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    return next(int(value) for name, _, value in fields if name == b"content-length")


def _closing(head: bytes) -> bytes:
    """The same head, asking for one answer and the end of the connection."""
    lines = [
        line for line in head.rstrip().split(b"\r\n") if not line.lower().startswith(b"connec")
    ]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def port_of(url: str) -> int:
    """The port a URL names."""
    return urlsplit(url).port or 0


def through(url: str, proxy: Proxy) -> str:
    """The same URL by way of a proxy."""
    return url.replace(f":{port_of(url)}", f":{proxy.port}", 1)
