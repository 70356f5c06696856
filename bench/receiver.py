"""A receiver of webhooks in a process of its own, so that it takes no time from who delivers.

`python -m bench.receiver PORT`. It answers 200 at once, `/hang…` never. `GET /taken` gives what it took
since it was last asked: path, id and the moment on the clock that all processes share.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast

import msgspec
import uvloop

Taken = tuple[str, str, float]

_taken: list[Taken] = []


class Answering(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (request := self._request()) is not None:
            self._answer(*request)

    def _request(self) -> tuple[str, dict[str, str]] | None:
        """Path and headers of the next whole request."""
        head, ended, rest = self._read.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines[1:])
        }
        length = int(headers.get("content-length", "0"))
        if not ended or len(rest) < length:
            return None
        self._read = rest[length:]
        return lines[0].split(" ")[1], headers

    def _answer(self, path: str, headers: dict[str, str]) -> None:
        body = b""
        if path == "/taken":
            body = msgspec.json.encode(_taken)
            _taken.clear()
        else:
            _taken.append((path, headers["svix-id"], time.monotonic()))
        if self._transport is not None and not path.startswith("/hang"):
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )


async def serve(port: int) -> None:
    """Take webhooks until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
