"""A client of the WebSocket for tests: it subscribes, and hears one frame after the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fix_app import Json

PATIENCE = 10.0
"""Seconds until a frame must be there."""


class Listener:
    """One open socket. `cursor` is the last event it heard of, or where its last subscription began."""

    def __init__(self, connection: ClientConnection, cursor: str = "") -> None:
        self.connection = connection
        self.cursor = cursor

    async def say(self, frame: str | bytes | Json) -> None:
        await self.connection.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def hear(self) -> Json:
        """The next frame."""
        async with asyncio.timeout(PATIENCE):
            frame = await self.connection.recv()
        assert isinstance(frame, str), "not a text frame"
        return json.loads(frame)

    async def subscribe(self, **wanted: Any) -> Json:
        """Subscribe, and return what confirms it."""
        await self.say({"type": "subscribe", **wanted})
        told = await self.hear()
        assert told["type"] == "subscribed", told
        self.cursor = told["cursor"]
        return told

    async def event(self) -> Json:
        """The next event."""
        told = await self.hear()
        assert told["type"] == "event", told
        self.cursor = told["event_id"]
        return told

    async def subjects(self, count: int) -> list[str]:
        """The subjects of the next so many received mails."""
        return [(await self.event())["message"]["subject"] for _ in range(count)]

    async def refused(self, frame: str | bytes | Json) -> Json:
        """Say something wrong, and return what is said about it."""
        await self.say(frame)
        told = await self.hear()
        assert told["type"] == "error", told
        return told

    async def end(self) -> int:
        """The code the server closes with; what it says before is passed over."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await self.connection.recv()
        assert self.connection.close_code is not None
        return self.connection.close_code


@contextlib.asynccontextmanager
async def listening(url: str, key: str, **options: Any) -> AsyncGenerator[Listener]:
    """A socket at a service's HTTP address, with the key in the header."""
    headers = {"Authorization": f"Bearer {key}"}
    async with connect(
        url.replace("http", "ws", 1) + "/v0", additional_headers=headers, proxy=None, **options
    ) as connection:
        yield Listener(connection)


async def not_opened(url: str, **options: Any) -> tuple[int, dict[str, str], Json]:
    """Status, headers and body of the answer to an upgrade that is refused."""
    try:
        async with connect(url.replace("http", "ws", 1), proxy=None, **options):
            raise AssertionError("the socket was opened")
    except InvalidStatus as refused:
        answer = refused.response
        headers = {name.lower(): value for name, value in answer.headers.raw_items()}
        return answer.status_code, headers, json.loads(answer.body or b"{}")
