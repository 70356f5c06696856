"""Routes of what only the hosted service has: calendars, Agent Drive, app sign-ins, Agent Armor and Labs.

Each is one line of a table, answered in one of three ways: an empty list (nothing of the kind exists
here), 404 (so this one does not either) or 403 (it cannot be made here). The official SDKs know all
three, so a program that looks around keeps running. An inbox or pod in the path is looked up first:
a wrong one is 404 as everywhere. Nothing is read from a body or stored. The routes stand in no OpenAPI
description, because a client generated from it should not offer calls that never work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler, route

from agentmail_cp import access, inboxes, pages
from agentmail_cp.access import Principal
from agentmail_cp.db import Tx
from agentmail_cp.errors import Forbidden, NotFound
from agentmail_cp.web.inject import Asked, Caller, Db
from agentmail_cp.web.listing import Query
from agentmail_cp.web.paths import restore

Method = Literal["GET", "POST", "PATCH", "DELETE"]
Answer = Callable[[Query], dict[str, Any]]


class Refusal(msgspec.Struct, frozen=True):
    """What requests with these methods to one path are answered with, successfully or by an error."""

    path: str
    methods: tuple[Method, ...]
    answer: Answer


def none_of(name: str) -> Answer:
    """An empty page, under the name the SDKs look for."""

    def answer(asked: Query) -> dict[str, Any]:
        return {"count": 0, "limit": pages.limit(asked.text("limit")), name: []}

    return answer


def missing(kind: str) -> Answer:
    """404: there are no such things here."""

    def answer(_asked: Query) -> dict[str, Any]:
        raise NotFound(f"There is no such {kind}.", fix=_fix(kind))

    return answer


def forbidden(what: str) -> Answer:
    """403: this server does not do that."""

    def answer(_asked: Query) -> dict[str, Any]:
        raise Forbidden(f"This server has no {what}.", fix=_fix(what))

    return answer


def _fix(what: str) -> str:
    return f"Do without the {what}: it is part of the hosted service only."


def _no_polling(_asked: Query) -> dict[str, Any]:
    raise Forbidden(
        "This server has no polling webhooks.",
        fix="Read the log of events: GET /v0/events?after=…&wait=… needs no public URL either.",
    )


def _labs(_asked: Query) -> dict[str, Any]:
    return {"enabled": False, "available": False}


INBOX: Final = "/inboxes/{inbox_id:str}"
POD: Final = "/pods/{pod_id:str}"
ARMOR: Final = f"{INBOX}/messages/{{message_id:str}}/agent-armor"
EVENTS: Final = f"{INBOX}/calendar/events"
FILES: Final = f"{INBOX}/files"

_POLLING: Final[tuple[tuple[str, Method, Answer], ...]] = (
    ("", "GET", none_of("polling_webhooks")),
    ("", "POST", _no_polling),
    ("/{webhook_id:str}", "GET", missing("polling webhook")),
    ("/{webhook_id:str}", "DELETE", missing("polling webhook")),
)

REFUSALS: Final = (
    Refusal("/accounts", ("GET",), none_of("accounts")),
    Refusal("/accounts/{account_id:str}", ("GET",), missing("account")),
    Refusal("/accounts/{account_id:str}/update", ("PATCH",), missing("account")),
    Refusal(f"{INBOX}/accounts", ("GET",), none_of("accounts")),
    Refusal(f"{INBOX}/accounts/{{account_id:str}}", ("GET",), missing("account")),
    Refusal(f"{POD}/accounts", ("GET",), none_of("accounts")),
    Refusal(f"{POD}/accounts/{{account_id:str}}", ("GET",), missing("account")),
    Refusal("/apps", ("GET",), none_of("apps")),
    Refusal("/apps/search", ("GET",), none_of("apps")),
    Refusal("/apps/{app_id:str}", ("GET",), missing("app")),
    Refusal("/apps/{app_id:str}/accounts", ("GET",), none_of("accounts")),
    Refusal("/apps/{app_id:str}/connect", ("POST",), missing("app")),
    Refusal(f"{INBOX}/authorize", ("POST",), missing("app")),
    Refusal("/providers", ("GET",), none_of("providers")),
    Refusal("/providers/search", ("GET",), none_of("providers")),
    Refusal("/providers/{provider_id:str}", ("GET",), missing("provider")),
    Refusal("/providers/{provider_id:str}/accounts", ("GET",), none_of("accounts")),
    Refusal("/providers/{provider_id:str}/connect", ("POST",), forbidden("app sign-in")),
    Refusal(f"{INBOX}/calendar", ("GET", "PATCH"), forbidden("calendar")),
    Refusal(f"{INBOX}/calendar/agenda", ("GET",), forbidden("calendar")),
    Refusal(EVENTS, ("GET", "POST"), forbidden("calendar")),
    Refusal(f"{EVENTS}/{{event_id:str}}", ("GET", "PATCH", "DELETE"), forbidden("calendar")),
    Refusal(f"{EVENTS}/{{event_id:str}}/instances", ("GET",), forbidden("calendar")),
    Refusal(f"{EVENTS}/{{event_id:str}}/respond", ("POST",), forbidden("calendar")),
    Refusal(FILES, ("GET", "POST"), forbidden("file storage")),
    Refusal(f"{FILES}/{{file_id:str}}", ("GET", "DELETE"), forbidden("file storage")),
    Refusal(f"{FILES}/{{file_id:str}}/complete", ("POST",), forbidden("file storage")),
    # 404, which the SDKs have a type for on these two; 403 they do not.
    Refusal(f"{ARMOR}/feedback", ("POST",), missing("security scan")),
    Refusal(f"{ARMOR}/release", ("POST",), missing("security scan")),
    Refusal("/organizations/labs", ("GET",), _labs),
    Refusal("/organizations/labs", ("POST",), forbidden("Labs")),
    *(
        Refusal(f"{scope}/webhooks/polling{tail}", (method,), answer)
        for scope in ("", POD, INBOX)
        for tail, method, answer in _POLLING
    ),
    # Once public keys were made here; the words are no id of an API key.
    Refusal("/api-keys/public-keys", ("GET", "POST", "PATCH", "DELETE"), missing("public key")),
)


def _handler(refusal: Refusal) -> HTTPRouteHandler:
    async def refuse(
        request: Request[Any, Any, Any], asked: Asked, caller: Caller, db: Db
    ) -> Response[dict[str, Any]]:
        async with db.reading() as tx:
            await _look_up(tx, caller, request.path_params)
        return Response(refusal.answer(asked))

    return route(
        refusal.path, http_method=list(refusal.methods), status_code=200, include_in_schema=False
    )(refuse)


async def _look_up(tx: Tx, caller: Principal, named: dict[str, Any]) -> None:
    """Raises `NotFound` for an inbox or pod in the path that does not exist."""
    if "inbox_id" in named:
        await inboxes.get(tx, caller.reach, restore(named["inbox_id"]))
    if "pod_id" in named:
        await access.find_pod(tx, caller.reach, restore(named["pod_id"]))


REFUSED: Final = tuple(_handler(refusal) for refusal in REFUSALS)
