"""From what went wrong to an HTTP answer: one body that the SDKs and seed 001 both understand.

The flat fields (`name`, `message`, `code`, `fix`, `errors`) are what the official SDKs parse; `error` with
`type`, `message` and `details` is seed 001's. Nothing unexpected is shown to a caller: it gets a request
id to quote, and the log has the rest.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.openapi.datastructures import ResponseSpec

from agentmail_cp.errors import (
    AgentMailError,
    CannotDelete,
    Conflict,
    Forbidden,
    Gone,
    InboxPaused,
    Invalid,
    LimitExceeded,
    MessageRejected,
    NotFound,
    QueryRangeTooWide,
    RateLimited,
    Taken,
    TooLarge,
    TooSlow,
    Unauthorized,
    Unavailable,
    Unprocessable,
)
from agentmail_cp.mailserver import MailServerConfused, MailServerRejected, MailServerUnavailable
from agentmail_cp.web.paths import SOCKET

log = structlog.stdlib.get_logger(__name__)

STATUS: dict[type[AgentMailError], int] = {
    Invalid: 400,
    QueryRangeTooWide: 400,
    Unauthorized: 401,
    Forbidden: 403,
    InboxPaused: 403,
    LimitExceeded: 403,
    Taken: 403,
    MessageRejected: 403,
    NotFound: 404,
    TooSlow: 408,
    Conflict: 409,
    CannotDelete: 409,
    Gone: 410,
    TooLarge: 413,
    Unprocessable: 422,
    RateLimited: 429,
    Unavailable: 503,
}


class ErrorDetails(msgspec.Struct, omit_defaults=True):
    """Where a request is wrong, in seed 001's form."""

    field: str | None = None
    code: str | None = None


class ErrorSummary(msgspec.Struct, omit_defaults=True):
    """Seed 001's error object."""

    type: str
    message: str
    details: ErrorDetails = msgspec.field(default_factory=ErrorDetails)


class FieldError(msgspec.Struct):
    """One wrong field, in the SDKs' form."""

    code: str
    path: list[str]
    message: str


class ErrorBody(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The body of every answer that is not a success."""

    name: str
    message: str
    code: str
    error: ErrorSummary
    fix: str | None = None
    errors: list[FieldError] | None = None
    request_id: str | None = None
    retry_at: datetime | None = None
    oldest: str | None = None


ERRORS: dict[int, ResponseSpec] = {
    status: ResponseSpec(ErrorBody, generate_examples=False, description=description)
    for status, description in {
        400: "The request does not fit; `errors` says where.",
        401: "There is no valid API key.",
        403: "Not allowed, taken, over a limit for good, or refused by a list or the mail server.",
        404: "There is no such thing, or not for this key.",
        408: "The body took too long to arrive.",
        409: "The request contradicts another one; `Retry-After` says when trying again helps.",
        413: "The request is too large.",
        422: "The request is well formed but makes no sense.",
        429: "A limit is reached; `Retry-After` and `retry_at` say when to try again.",
        503: "The database or the mail server is away; `Retry-After` says when to try again.",
    }.items()
}


GONE: dict[int, ResponseSpec] = {
    410: ResponseSpec(
        ErrorBody,
        generate_examples=False,
        description="Events behind the cursor have expired; `oldest` is the first that is left.",
    )
}
"""What a reader of the log may be answered besides."""


def answer(
    request: Request[Any, Any, Any], error: AgentMailError, headers: dict[str, str] | None = None
) -> Response[ErrorBody]:
    """The answer for one of our own errors."""
    status, told = status_and_headers(error)
    return Response(
        body(error, _request_id(request)), status_code=status, headers={**(headers or {}), **told}
    )


def status_and_headers(error: AgentMailError) -> tuple[int, dict[str, str]]:
    """What the answer to an error has beside its body."""
    headers: dict[str, str] = {}
    retry_after: float | None = getattr(error, "retry_after", None)
    if isinstance(error, RateLimited) and retry_after is None:
        retry_after = (error.retry_at - datetime.now(UTC)).total_seconds()
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return STATUS.get(type(error), 500), headers


def _request_id(request: Request[Any, Any, Any]) -> str | None:
    return cast("dict[str, str | None]", request.scope["state"]).get("request_id")


def _operation(request: Request[Any, Any, Any]) -> dict[str, str | None]:
    """What was asked for, as a log may hold it: addresses stand in paths, and words in queries."""
    return {"method": request.method, "route": request.scope.get("path_template")}


def body(error: AgentMailError, request_id: str | None = None) -> ErrorBody:
    """Both forms of an error in one body."""
    details = ErrorDetails(field=error.field, code=error.detail)
    errors = None
    if isinstance(error, Invalid):
        path = (error.field or "").split(".")
        errors = [FieldError(error.detail or "", path, error.message)]
    return ErrorBody(
        name=error.name,
        message=error.message,
        code=error.reason,
        fix=error.fix,
        errors=errors,
        error=ErrorSummary(error.reason, error.message, details),
        request_id=request_id,
        retry_at=error.retry_at if isinstance(error, RateLimited) else None,
        oldest=error.oldest if isinstance(error, Gone) else None,
    )


def _own(request: Request[Any, Any, Any], error: AgentMailError) -> Response[ErrorBody]:
    return answer(request, error)


def _mail_server(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    if isinstance(error, MailServerUnavailable):
        away = Unavailable("The mail server is not answering.", retry_after=error.retry_after)
        return answer(request, away)
    if isinstance(error, MailServerRejected):
        return answer(request, Unprocessable(f"The mail server refused: {error.text}"))
    log.error("mail_server.confused", reason=str(error), **_operation(request))
    return answer(
        request,
        Unavailable(
            "The mail server answered something this version does not understand.",
            fix="Ask the operator to run `agentmail-cp stalwart status`.",
        ),
    )


_EXPECTED = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?")
_MISSING = re.compile(r"missing required field `([^`]+)`")
_WHOLE = frozenset({"data", "body", "frame"})
"""Places that mean the whole of what was sent."""
_NO_TIME = "Invalid RFC3339 encoded datetime"
_ANY_KEY = "[...]"
"""How msgspec says: under one of the keys of an object."""

_WORDS = {
    "str": "text",
    "bytes": "base64 text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "an object",
    "datetime": "a time",
}
_LONGEST_REASON = 200
"""Characters of a complaint that are repeated to the caller; it may quote what was sent."""


def invalid(reason: str, place: str) -> Invalid:
    """What msgspec says of a field, as an `Invalid` in the API's words."""
    field = _field(place)
    if missing := _MISSING.search(reason):
        field = missing[1] if place in _WHOLE else f"{field}.{missing[1]}"
        return Invalid(field, f"{field} is missing.", fix=f"Add {field}.", detail="REQUIRED")
    what = f"A value in {field}" if _ANY_KEY in place else field
    if expected := _EXPECTED.search(reason):
        got = f", not {_words(expected[2])}" if expected[2] else ""
        wanted = _words(expected[1])
        return Invalid(
            field, f"{what} must be {wanted}{got}.", fix=f"Send {wanted}.", detail="INVALID_TYPE"
        )
    if reason.startswith(_NO_TIME):
        return Invalid(
            field,
            f"{what} is not a time.",
            fix="Use ISO 8601, like 2026-11-21T08:15:00Z.",
            detail="INVALID_TIME",
        )
    return Invalid(
        field,
        f"{field}: {reason[:_LONGEST_REASON]}.",
        fix=f"See /openapi.json for what {field} takes.",
        detail="INVALID_VALUE",
    )


def _field(place: str) -> str:
    """A field as callers write it: `attachments.0.content`, not `attachments[0].content`."""
    if place == "data":
        return "body"
    return re.sub(r"\[(\d+)\]", r".\1", place.replace(_ANY_KEY, ""))


def _words(kinds: str) -> str:
    return " or ".join(_WORDS.get(each, each) for each in kinds.split(" | "))


class _Complaint(msgspec.Struct):
    """One entry of what Litestar 2.25 says of a request that does not fit."""

    message: str
    key: str | None = None


# What Litestar 2.25 says of a required body that is not there.
_NO_BODY = "'data'"


def _validation(request: Request[Any, Any, Any], error: ValidationException) -> Response[ErrorBody]:
    try:
        first = msgspec.convert(error.extra, list[_Complaint])[0]
    except (msgspec.ValidationError, IndexError):
        return answer(request, invalid(str(error.detail), "body"))
    if first.message == _NO_BODY:
        return answer(
            request,
            Invalid("body", "The body is missing.", fix="Send a JSON object.", detail="REQUIRED"),
        )
    return answer(request, invalid(first.message, first.key or "body"))


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorBody]:
    if error.status_code >= 500:  # noqa: PLR2004
        return _unexpected(request, error)
    if isinstance(error, MethodNotAllowedException):
        if request.method == "GET" and request.scope["path"].rstrip("/") == SOCKET:
            return _upgrade_required(request)
        return _method_not_allowed(request, error)
    if isinstance(error, NotFoundException):
        return answer(
            request, NotFound("There is no such path.", fix="See /openapi.json for all paths.")
        )
    return answer(request, invalid(str(error.detail), "request"))


def _method_not_allowed(
    request: Request[Any, Any, Any], error: HTTPException
) -> Response[ErrorBody]:
    message = f"This path does not take {request.method}."
    return Response(
        ErrorBody(
            name="MethodNotAllowedError",
            message=message,
            code="method_not_allowed",
            fix="See /openapi.json for the methods of each path.",
            error=ErrorSummary("method_not_allowed", message),
            request_id=_request_id(request),
        ),
        status_code=405,
        headers=dict(error.headers or {}),
    )


def _upgrade_required(request: Request[Any, Any, Any]) -> Response[ErrorBody]:
    """For whoever asks for the WebSocket without one (RFC 9110 section 15.5.22)."""
    message = "This path is a WebSocket."
    return Response(
        ErrorBody(
            name="UpgradeRequiredError",
            message=message,
            code="upgrade_required",
            fix="Connect with a WebSocket client; a proxy in between must let `Upgrade` through.",
            error=ErrorSummary("upgrade_required", message),
            request_id=_request_id(request),
        ),
        status_code=426,
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    request_id = _request_id(request)
    log.error("request.failed", exc_info=error, **_operation(request))
    message = "Something went wrong here."
    return Response(
        ErrorBody(
            name="InternalError",
            message=message,
            code="internal_error",
            fix=f"Try again; if it stays, quote request {request_id} to the operator.",
            error=ErrorSummary("internal_error", message),
            request_id=request_id,
        ),
        status_code=500,
    )


HANDLERS: dict[int | type[Exception], Any] = {
    AgentMailError: _own,
    MailServerUnavailable: _mail_server,
    MailServerRejected: _mail_server,
    MailServerConfused: _mail_server,
    ValidationException: _validation,
    HTTPException: _http,
    Exception: _unexpected,
}
