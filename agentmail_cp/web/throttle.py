"""Where requests per key are counted: after authentication, before anything is read of the request.

Every answer to a key that has a limit says how much of it is left, errors included.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import (
    ASGIApp,
    HTTPResponseStartEvent,
    Receive,
    Scope,
    Send,
    WebSocketResponseStartEvent,
)

from agentmail_cp.access import Principal
from agentmail_cp.throttle import Allowance, Throttle

_STATE: Final = "allowance"

_RETRIED: Final = frozenset({408, 409, 500, 502, 503, 504})
"""What the official SDKs try again besides 429."""


class RequestLimit(ASGIMiddleware):
    """Counts a request, and refuses it with `RateLimited` when its key has made too many. A WebSocket counts
    once, when it is opened.
    """

    scopes = (ScopeType.HTTP, ScopeType.WEBSOCKET)
    exclude_opt_key = "open"

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        caller = cast("Principal", scope["user"])
        allowance = await self._throttle.admit(caller.organization_id, caller.api_key_id)
        if allowance is not None:
            scope["state"][_STATE] = allowance
            allowance.require()
        await next_app(scope, receive, send)


def headers(
    state: dict[str, Any], answer: HTTPResponseStartEvent | WebSocketResponseStartEvent
) -> list[tuple[bytes, bytes]]:
    """What the answer to a counted request says of the limit. An answer that says nothing of when to try
    again also leaves out `X-RateLimit-Reset` where SDKs would try again: they would wait for that moment
    (agentmail 2.0, `_retry_timeout`), although nothing changes then.
    """
    allowance: Allowance | None = state.get(_STATE)
    if allowance is None:
        return []
    told = [
        (b"x-ratelimit-limit", b"%d" % allowance.limit),
        (b"x-ratelimit-remaining", b"%d" % allowance.remaining),
    ]
    if answer["status"] not in _RETRIED or any(n == b"retry-after" for n, _ in answer["headers"]):
        told.append((b"x-ratelimit-reset", b"%d" % math.ceil(allowance.resets_at.timestamp())))
    return told
