"""Who is told: endpoints that take webhooks, and a client of the WebSocket that comes back.

Endpoints check every signature with the official library. Both only note what they got; `verdict` judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, Final, Self

import msgspec
from svix.webhooks import WebhookVerificationError
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.receiver import Got, answer, read_request

HOST: Final = "127.0.0.1"
TOLD: Final = [
    "message.received",
    "message.sent",
    "message.delivered",
    "message.bounced",
    "message.rejected",
]
"""What they subscribe to."""


class Endpoint:
    """A receiver of webhooks. `failing` is the share of requests it answers with 500."""

    def __init__(self, *, seed: int = 0, failing: float = 0.0) -> None:
        self.got: Counter[str] = Counter()
        self.refused = 0
        self.forged = 0
        self.secret = ""
        self.port = 0
        self._choose = random.Random(seed)
        self._failing = failing

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook"

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator[Self]:
        """Take requests while the context is open."""
        server = await asyncio.start_server(self._connected, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                got = await read_request(reader)
                status = 500 if self._choose.random() < self._failing else 204
                self._note(got, taken=status == 204)
                writer.write(answer(status))
                await writer.drain()
        writer.close()

    def _note(self, got: Got, *, taken: bool) -> None:
        try:
            got.verify(self.secret)
        except WebhookVerificationError:
            self.forged += 1
            return
        if taken:
            self.got[got.event["event_id"]] += 1
        else:
            self.refused += 1


class Listener:
    """A WebSocket client that goes on from the last event it saw whenever it is cut off."""

    def __init__(self, url: str, key: str) -> None:
        self.heard: list[str] = []
        self.connections = 0
        self._url = url.replace("http", "ws", 1) + "/v0"
        self._key = key

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                await self._listen()
            await asyncio.sleep(0.1)

    async def _listen(self) -> None:
        async with connect(
            self._url, additional_headers={"Authorization": f"Bearer {self._key}"}, open_timeout=5
        ) as socket:
            self.connections += 1
            after = self.heard[-1] if self.heard else "start"
            await socket.send(
                msgspec.json.encode({"type": "subscribe", "event_types": TOLD, "after": after}),
                text=True,
            )
            async for frame in socket:
                self._note(msgspec.json.decode(frame))

    def _note(self, told: dict[str, Any]) -> None:
        assert told["type"] != "error", told
        if told["type"] == "event":
            self.heard.append(told["event_id"])
