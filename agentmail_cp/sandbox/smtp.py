"""The sandbox's SMTP door for incoming mail, as on port 25. No logins, no TLS, no relaying."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from aiosmtpd.smtp import SMTP, Envelope, Session

from agentmail_cp.sandbox import mime

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LINE = 1_000_000
"""Longer than RFC 5321 allows: Stalwart takes mail with over-long lines, so must its stand-in."""


class Deliveries(Protocol):
    """What the door asks of the server behind it."""

    def refusal(self, recipient: str) -> str | None:
        """The SMTP reply with which this recipient is refused, or None."""
        ...

    def receive(
        self, raw: bytes, *, mail_from: str, recipients: list[str], helo: str, peer: str
    ) -> None:
        """Take in one mail."""
        ...


class _Handler:
    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    async def handle_RCPT(  # noqa: N802  (aiosmtpd's name)
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        refusal = self._deliveries.refusal(address)
        if refusal is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802  (aiosmtpd's name)
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        content = envelope.original_content or b""
        if not mime.has_headers(content):
            return "550 5.7.7 Failed to parse message."
        self._deliveries.receive(
            content,
            mail_from=(envelope.mail_from or "").strip("<>"),
            recipients=envelope.rcpt_tos,
            helo=str(session.host_name or "unknown"),
            peer=str(session.peer[0]) if session.peer else "127.0.0.1",
        )
        return "250 2.0.0 Message queued."


class _Session(SMTP):
    line_length_limit = MAX_LINE

    def disconnect(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Door:
    """A listener. `port` is the real one after `start`, also when it was 0."""

    def __init__(self, deliveries: Deliveries, *, hostname: str, max_size: int) -> None:
        self._deliveries = deliveries
        self._hostname = hostname
        self._max_size = max_size
        self._sessions: list[_Session] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError when the port is in use."""
        logging.getLogger("mail.log").setLevel(logging.ERROR)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._factory(loop), host, port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _factory(self, loop: asyncio.AbstractEventLoop) -> Callable[[], _Session]:
        def connected() -> _Session:
            session = _Session(
                _Handler(self._deliveries),
                data_size_limit=self._max_size,
                enable_SMTPUTF8=True,
                hostname=self._hostname,
                loop=loop,
            )
            self._sessions.append(session)
            return session

        return connected

    async def stop(self) -> None:
        """Stop listening and hang up on everybody."""
        if self._server is None:
            return
        self._server.close()
        for session in self._sessions:
            session.disconnect()
        self._sessions.clear()
        await self._server.wait_closed()
        self._server = None
