"""Who is calling: from the Authorization header to a `Principal`, before anything else is looked at.

A WebSocket may say its key in the query as well, as browsers and the Node SDK do; no other route reads one
there, and `hide_key` keeps it out of whatever logs a URL. Every route is closed unless it says
`opt={"open": True}`. Permissions are guards built from their names.
"""

from __future__ import annotations

from typing import Any, Final, cast
from urllib.parse import parse_qs

import msgspec
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from agentmail_cp.access import Keyring, Principal, digest
from agentmail_cp.errors import Unauthorized

OPEN = {"open": True}
"""`opt` of the few routes that need no key."""

_IN_QUERY: Final = "api_key"

_FIX = "Send the header `Authorization: Bearer <your API key>`."


class Authentication(ASGIMiddleware):
    """Puts the `Principal` of the request's API key into `scope["user"]`, and what is stored of the key into
    `scope["auth"]`, for callers that stay connected.
    """

    scopes = (ScopeType.HTTP, ScopeType.WEBSOCKET)
    exclude_opt_key = "open"

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        secret = scope["state"].pop(_IN_QUERY, None) or bearer(scope)
        scope["user"] = await self._keyring.authenticate(secret)
        scope["auth"] = digest(secret)
        await next_app(scope, receive, send)


def hide_key(scope: Scope) -> None:
    """Take the query of a WebSocket away, and keep the `api_key` it names for `Authentication`.

    Both SDKs send the key of their client in the header, too; the one in the query is meant for this socket.
    """
    query = parse_qs(scope["query_string"].decode("latin-1"))
    scope["query_string"] = b""
    if given := query.get("api_key"):
        scope["state"][_IN_QUERY] = given[0]


def bearer(scope: Scope) -> str:
    """The API key of a request; raises `Unauthorized` when there is none."""
    headers = [value for name, value in scope["headers"] if name == b"authorization"]
    if not headers:
        raise Unauthorized("This request has no API key.", fix=_FIX, code="missing_authorization")
    scheme, _, secret = headers[0].decode("latin-1").strip().partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthorized(
            "The Authorization header is not a Bearer token.", fix=_FIX, code="invalid_token_type"
        )
    return secret.strip()


async def provide_caller(scope: Scope) -> Principal:
    """The dependency `caller`."""
    return cast("Principal", scope["user"])


class Needs(msgspec.Struct, frozen=True):
    """A guard that lets only keys with a permission pass, or with another one that includes it."""

    permission: str
    or_else: str | None = None

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
    ) -> None:
        caller = cast("Principal", connection.user)
        if self.or_else is None or not caller.may(self.or_else):
            caller.require(self.permission)

    @property
    def text(self) -> str:
        """What it asks for, as the description of the API puts it."""
        names = (self.permission, self.or_else)
        return " or ".join(f"`{each}`" for each in names if each is not None)


needs = Needs
"""How it stands in the `guards` of a handler."""
