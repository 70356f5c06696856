"""How uvicorn keeps connections, and how it speaks WebSocket here: small buffers, pings, and an end for peers
that take nothing.

uvicorn 0.54 closes a connection politely: what is buffered for the peer is written first, however long that
takes. A peer that is gone, or that never reads, would so keep its socket and its buffer for good; here it has
`LINGER` seconds. At a restart uvicorn itself closes every socket with 1012, and too large a frame with 1009.
Nothing is compressed: a compressor costs more memory than all the rest of a socket
(`docs/adr/websocket.md` has the figures).
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from typing import Any, Final, TypedDict

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

LARGEST_FRAME: Final = 65_536
"""Bytes a client may send at once: room for the longest subscription."""

PING_INTERVAL: Final = 20.0
"""Seconds between two pings: less than what proxies and home routers wait."""

PING_PATIENCE: Final = 60.0
"""Seconds a pong may take. A client that is busy with mail it has been sent reads nothing meanwhile."""

KEEP_ALIVE: Final = 120
"""Seconds a connection may be idle between two requests: longer than any client keeps one (httpx and so the
Python SDK 5 s, Stalwart 90 s), or a request is lost that is sent just as we close.
"""

LINGER: Final = 10.0
"""Seconds a peer has to take what is left once its socket is over."""

LINGER_AT_STOP: Final = 2.0
"""The same while the process stops: less than the `timeout_graceful_shutdown` of all requests."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """One connection. Whatever ends it, its transport is gone some seconds later."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # Where the log is at DEBUG it would write down every header and frame, keys and mails included.
        self.conn.debug = False

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # Answered instead of opened: uvicorn 0.54 would log an error for each, which a scan could
            # fill the log with.
            self.handshake_complete = True

    def shutdown(self) -> None:
        super().shutdown()
        self._end_within(LINGER_AT_STOP)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._end_within(LINGER)

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._end_within(LINGER)

    def _end_within(self, seconds: float) -> None:
        if not self.disconnected:
            self.loop.call_later(seconds, self.transport.abort)


class Options(TypedDict):
    """What `uvicorn.Config` is told of connections and WebSockets."""

    timeout_keep_alive: int
    ws: type[SocketProtocol]
    ws_max_size: int
    ws_ping_interval: float
    ws_ping_timeout: float
    ws_per_message_deflate: bool


OPTIONS: Final[Options] = {
    "timeout_keep_alive": KEEP_ALIVE,
    "ws": SocketProtocol,
    "ws_max_size": LARGEST_FRAME,
    "ws_ping_interval": PING_INTERVAL,
    "ws_ping_timeout": PING_PATIENCE,
    "ws_per_message_deflate": False,
}


def allow_many() -> None:
    """Let this process hold as many open files as the system allows it: each socket is one, and a shell's
    usual limit is 1,024.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems name a limit they do not grant.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
