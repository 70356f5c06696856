"""The description of the API: what its operations say beside what Litestar reads off their handlers.

That is the permissions a key needs, read off the guards, and the headers of answers. Whoever writes a
client reads it before they have a key.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final, cast

from litestar import Router
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIResponse,
    Operation,
    Parameter,
    Reference,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.plugins import ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute

from agentmail_cp import __version__
from agentmail_cp.web.auth import OPEN, Needs

PATH: Final = "/openapi.json"

_NUMBER = Schema(type=OpenAPIType.INTEGER)
_HEADERS: Final = {
    "X-RateLimit-Limit": OpenAPIHeader(
        _NUMBER, description="Requests the key may make in a minute."
    ),
    "X-RateLimit-Remaining": OpenAPIHeader(_NUMBER, description="What is left of them."),
    "X-RateLimit-Reset": OpenAPIHeader(
        _NUMBER, description="When the key's minute ends, in Unix seconds."
    ),
    "Retry-After": OpenAPIHeader(_NUMBER, description="Seconds after which to try again."),
    "Idempotent-Replayed": OpenAPIHeader(
        Schema(type=OpenAPIType.STRING, enum=["true"]),
        description="This answer was given before, to the same Idempotency-Key.",
    ),
}
_RATE: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_OF_ERRORS: Final = {
    "409": ("Retry-After",),
    "429": ("Retry-After", *_RATE),
    "503": ("Retry-After",),
}


def config() -> OpenAPIConfig:
    """What holds for the description as a whole."""
    return OpenAPIConfig(
        title="agentmail_cp",
        version=__version__,
        description="Real email inboxes for AI agents, on a mail server people own. `/api/v1` leads to"
        " the same routes as `/v0`. Every answer to a key that has a limit on requests has the"
        " `X-RateLimit-…` headers, errors too. `GET /v0` is a WebSocket, which no OpenAPI describes:"
        " `docs/guide/websocket.md` does.",
        components=Components(
            headers={**_HEADERS},
            security_schemes={"apiKey": SecurityScheme(type="http", scheme="bearer")},
        ),
        security=[{"apiKey": []}],
        use_handler_docstrings=True,
        path=PATH,
        render_plugins=[JsonRenderPlugin(path="/")],
        openapi_router=Router(PATH, route_handlers=[], include_in_schema=False, opt=OPEN),
    )


class Descriptions(ReceiveRoutePlugin):
    """Completes the operation of each route that is registered, when the description is asked for."""

    def receive_route(self, route: BaseRoute) -> None:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                # A handler comes once for each of its paths. No class is made for each: that takes longer
                # than all else an application does when it starts.
                if not isinstance(handler.operation_class, partial):
                    made = partial(_operation, handler, handler.operation_class)
                    handler.operation_class = cast("type[Operation]", made)


def _operation(handler: HTTPRouteHandler, kind: type[Operation], **fields: Any) -> Operation:
    operation = kind(**fields)
    said = (operation.description, _permissions(handler))
    operation.description = "\n\n".join(each for each in said if each)
    _add_headers(operation)
    return operation


def _permissions(handler: HTTPRouteHandler) -> str | None:
    """The permissions that a handler's guards ask for, in a sentence."""
    guards = cast("list[object]", handler.resolve_guards())
    needed = [each.text for each in guards if isinstance(each, Needs)]
    if not needed:
        return None
    return f"Takes the permission{'s' * (len(needed) > 1)} {' and '.join(needed)}."


def _add_headers(operation: Operation) -> None:
    named = [each.name for each in operation.parameters or () if isinstance(each, Parameter)]
    done = (*_RATE, "Idempotent-Replayed") if "Idempotency-Key" in named else _RATE
    for status, answer in (operation.responses or {}).items():
        names = done if status.startswith("2") else _OF_ERRORS.get(status)
        if names and isinstance(answer, OpenAPIResponse):
            added = {each: Reference(f"#/components/headers/{each}") for each in names}
            answer.headers = {**(answer.headers or {}), **added}
