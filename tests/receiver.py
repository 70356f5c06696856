"""An HTTP server of the test's own that takes webhooks: it answers as it is told, and notes what it got."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Final, Self

import msgspec
from svix.webhooks import Webhook

from tests.fix_app import until

HANG: Final = b""
"""No answer until the receiver lets go, which it does not by itself: the connection stays open."""

ON_LOOPBACK: Final = "127.0.0.0/8"


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Got(msgspec.Struct, frozen=True):
    """A request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return msgspec.json.decode(self.body)

    def verify(self, secret: str) -> None:
        """Raise unless it was signed with this secret a moment ago."""
        Webhook(secret).verify(self.body, self.headers)


async def read_request(reader: asyncio.StreamReader) -> Got:
    """The next request of a connection. Raises `IncompleteReadError` at its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    fields = (line.partition(":") for line in head.split("\r\n")[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Got(head.split(" ")[1], headers, body)


class Receiver:
    """Answers each path as `answers` says, 200 otherwise."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answers: dict[str, bytes] = {}
        self.let_go = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str) -> list[Got]:
        return [each for each in self.got if each.path == path]

    async def until(self, count: int, path: str = "/hook") -> list[Got]:
        """Wait for so many requests."""

        async def look() -> list[Got]:
            return self.at(path)

        return await until(look, lambda got: len(got) >= count)

    async def open(self) -> None:
        """Listen, on the port it had before if there was one."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and end those there are."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            got = await read_request(reader)
            self.got.append(got)
            said = self.answers.get(got.path, answer(200, b"thanks"))
            if said == HANG:
                await self.let_go.wait()
                said = answer(200)
            writer.write(said)
            await writer.drain()

    @classmethod
    @contextlib.asynccontextmanager
    async def listening(cls) -> AsyncGenerator[Self]:
        """A receiver that is there while the context is open."""
        receiver = cls()
        await receiver.open()
        try:
            yield receiver
        finally:
            await receiver.close()
