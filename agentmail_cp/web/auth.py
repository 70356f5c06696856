"""Who is calling: from the Authorization header to a `Principal`, before anything else is looked at.

Every route is closed unless it says `opt={"open": True}`. Permissions are guards built from their names.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers.base import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from agentmail_cp.access import Keyring, Principal
from agentmail_cp.errors import Unauthorized

OPEN = {"open": True}
"""`opt` of the few routes that need no key."""

_FIX = "Send the header `Authorization: Bearer <your API key>`."


class Authentication(ASGIMiddleware):
    """Puts the `Principal` of the request's API key into `scope["user"]`."""

    scopes = (ScopeType.HTTP,)
    exclude_opt_key = "open"

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["user"] = await self._keyring.authenticate(bearer(scope))
        await next_app(scope, receive, send)


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
