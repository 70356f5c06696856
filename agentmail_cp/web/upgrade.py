"""What comes before a WebSocket: whoever may not have one is told so over HTTP, as for any other request.

ASGI's own refusal would be a bare 403 for whatever is wrong. The SDKs look for 401, and wait after a 429.
"""

from __future__ import annotations

import contextlib

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from agentmail_cp.errors import AgentMailError, NotFound
from agentmail_cp.web import errors
from agentmail_cp.web.paths import SOCKET

log = structlog.stdlib.get_logger(__name__)


class Upgrade(ASGIMiddleware):
    """Answers what goes wrong before a WebSocket is accepted."""

    scopes = (ScopeType.WEBSOCKET,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        try:
            await next_app(scope, receive, send)
        except AgentMailError as error:
            await refuse(scope, send, error)
        except Exception as error:
            # Litestar would close without a word in the log.
            log.error("websocket.not_opened", exc_info=error)
            await refuse(scope, send, AgentMailError("Something went wrong here."))


def nowhere() -> NotFound:
    """There is one WebSocket only."""
    return NotFound("There is no WebSocket at this path.", fix=f"Connect to {SOCKET}.")


async def refuse(scope: Scope, send: Send, error: AgentMailError) -> None:
    """Answer a request for a WebSocket with an error (ASGI extension `websocket.http.response`)."""
    status, headers = errors.status_and_headers(error)
    body = msgspec.json.encode(errors.body(error, scope["state"].get("request_id")))
    told = {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
    start: Message = {
        "type": "websocket.http.response.start",
        "status": status,
        "headers": [(name.lower().encode(), value.encode()) for name, value in told.items()],
    }
    # A client that is gone needs no answer.
    with contextlib.suppress(OSError):
        await send(start)
        await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
