"""A thousand WebSockets: what they take in memory, and how soon one event has reached all of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from base64 import b64encode
from collections.abc import AsyncGenerator
from typing import Final, cast

import httpx

from bench.events import hand_in
from bench.measuring import Figure, Target, memory_of, new_inbox, percentiles

SOCKETS: Final = 1_000
AT_ONCE: Final = 20
MAILS: Final = 20
PATIENCE: Final = 20.0
SUBSCRIBE: Final = b'{"type":"subscribe"}'
SHORT: Final = 126
"""Lengths from here on stand in two or eight bytes of their own (RFC 6455 section 5.2)."""


class Client(asyncio.Protocol):
    """One socket, as bare as can be: a thousand share the core with what is measured. `frames` is how many
    have come, and `came` when the last of them began.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._buffer = bytearray()
        self._open = False
        self._transport: asyncio.Transport | None = None
        self.frames = 0
        self.came = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of it.
        self._transport = cast("asyncio.Transport", transport)
        nonce = b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET /v0?api_key={self._key} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions:"
            f" permessage-deflate\r\nSec-WebSocket-Key: {nonce}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open and b"\r\n\r\n" in self._buffer:
            head, _, rest = self._buffer.partition(b"\r\n\r\n")
            assert b" 101 " in head, head
            self._open, self._buffer = True, rest
            self._send(SUBSCRIBE)
        while self._open and self._take_frame():
            pass

    def _take_frame(self) -> bool:
        if len(self._buffer) < 2:
            return False
        size, start = self._buffer[1], 2
        if size >= SHORT:
            form, start = ("!H", 4) if size == SHORT else ("!Q", 10)
            if len(self._buffer) < start:
                return False
            (size,) = struct.unpack(form, self._buffer[2:start])
        if len(self._buffer) < start + size:
            return False
        self.frames += 1
        self.came = time.perf_counter()
        del self._buffer[: start + size]
        return True

    def _send(self, payload: bytes) -> None:
        assert self._transport is not None
        # A mask of zeros leaves the payload as it is.
        self._transport.write(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@contextlib.asynccontextmanager
async def connected(target: Target) -> AsyncGenerator[list[Client]]:
    """Clients that have subscribed to everything, each with its own connection."""
    key = target.api.headers["Authorization"].removeprefix("Bearer ")
    host, port = target.api.base_url.host, target.api.base_url.port or 80
    loop, clients = asyncio.get_running_loop(), list[Client]()
    try:
        while len(clients) < SOCKETS:
            made = [
                await loop.create_connection(lambda: Client(key), host, port)
                for _ in range(AT_ONCE)
            ]
            clients += [client for _, client in made]
            await until(clients[-AT_ONCE:], 1)
        yield clients
    finally:
        for each in clients:
            each.close()


async def until(clients: list[Client], frames: int) -> None:
    """Wait until each client has so many frames."""
    async with asyncio.timeout(PATIENCE):
        while any(each.frames < frames for each in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def sockets(target: Target) -> list[Figure]:
    """Memory of the sockets, then mails that go to all of them, one after the other."""
    address = await new_inbox(target)
    # What the first mail takes for good is not the sockets'.
    await asyncio.to_thread(hand_in, target.smtp_port, address)
    await _heard(target.api, address)
    before = memory_of(target.process)
    async with connected(target) as clients:
        await asyncio.sleep(1)
        added = memory_of(target.process) - before
        times = await _tell_all(target, address, clients)
        after = memory_of(target.process) - before
    figures = [
        Figure("one mail to each of the sockets", SOCKETS, None, *percentiles(times), added),
    ]
    print(figures[0].line, flush=True)
    print(f"{SOCKETS} sockets add {added:.1f} MB, and {after:.1f} MB after {MAILS} mails to each")
    return figures


async def _tell_all(target: Target, address: str, clients: list[Client]) -> list[float]:
    """Milliseconds from SMTP's 250 until each client has each mail."""
    times: list[float] = []
    for number in range(MAILS):
        accepted = await asyncio.to_thread(_accepted, target.smtp_port, address)
        await until(clients, number + 2)
        times += [(each.came - accepted) * 1000 for each in clients]
    return times


def _accepted(port: int, address: str) -> float:
    hand_in(port, address)
    return time.perf_counter()


async def _heard(api: httpx.AsyncClient, address: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while not (await api.get(f"/v0/inboxes/{address}/messages")).json()["count"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
