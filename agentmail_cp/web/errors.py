"""From what went wrong to an HTTP answer: one body that the SDKs and seed 001 both understand.

The flat fields (`name`, `message`, `code`, `fix`, `errors`) are what the official SDKs parse; `error` with
`type`, `message` and `details` is seed 001's. Nothing unexpected is shown to a caller: it gets a request
id to quote, and the log has the rest.
"""

from __future__ import annotations

import math
import re
from typing import Any, cast

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.openapi.datastructures import ResponseSpec

from agentmail_cp.errors import (
    AgentMailError,
    Conflict,
    Forbidden,
    Invalid,
    MessageRejected,
    NotFound,
    Taken,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unprocessable,
)
from agentmail_cp.mailserver import MailServerConfused, MailServerRejected, MailServerUnavailable

log = structlog.stdlib.get_logger(__name__)

STATUS: dict[type[AgentMailError], int] = {
    Invalid: 400,
    Unauthorized: 401,
    Forbidden: 403,
    Taken: 403,
    MessageRejected: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    Unprocessable: 422,
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


ERRORS: dict[int, ResponseSpec] = {
    status: ResponseSpec(ErrorBody, generate_examples=False, description=description)
    for status, description in {
        400: "The request does not fit; `errors` says where.",
        401: "There is no valid API key.",
        403: "Not allowed, taken, or refused by the mail server.",
        404: "There is no such thing, or not for this key.",
        409: "The request contradicts another one.",
        413: "The request is too large.",
        422: "The request is well formed but makes no sense.",
        503: "The database or the mail server is away; `Retry-After` says when to try again.",
    }.items()
}


def answer(
    request: Request[Any, Any, Any], error: AgentMailError, headers: dict[str, str] | None = None
) -> Response[ErrorBody]:
    """The answer for one of our own errors."""
    headers = dict(headers or {})
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        body(error, _request_id(request)),
        status_code=STATUS[type(error)],
        headers=headers,
    )


def _request_id(request: Request[Any, Any, Any]) -> str | None:
    return cast("dict[str, str | None]", request.scope["state"]).get("request_id")


def body(error: AgentMailError, request_id: str | None = None) -> ErrorBody:
    """Both forms of an error in one body."""
    details = ErrorDetails(field=error.field, code=getattr(error, "detail", None))
    errors = None
    if isinstance(error, Invalid):
        errors = [FieldError(error.detail, (error.field or "").split("."), error.message)]
    return ErrorBody(
        name=error.name,
        message=error.message,
        code=error.reason,
        fix=error.fix,
        errors=errors,
        error=ErrorSummary(error.reason, error.message, details),
        request_id=request_id,
    )


def _own(request: Request[Any, Any, Any], error: AgentMailError) -> Response[ErrorBody]:
    return answer(request, error)


def _mail_server(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    if isinstance(error, MailServerUnavailable):
        away = Unavailable("The mail server is not answering.", retry_after=error.retry_after)
        return answer(request, away)
    if isinstance(error, MailServerRejected):
        return answer(request, Unprocessable(f"The mail server refused: {error.text}"))
    log.error("mail_server.confused", reason=str(error))
    return answer(
        request,
        Unavailable(
            "The mail server answered something this version does not understand.",
            fix="Ask the operator to run `agentmail-cp stalwart status`.",
        ),
    )


_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")


def invalid(error: msgspec.ValidationError | str) -> Invalid:
    """A msgspec complaint as an `Invalid` that names the field."""
    text = str(error)
    place = _PLACE.search(text)
    field = _field(place.group(1)) if place else "body"
    reason = _PLACE.sub("", text)
    missing = re.search(r"missing required field `(\w+)`", reason)
    if missing:
        field = ".".join(each for each in (field if place else "", missing.group(1)) if each)
        return Invalid(field, f"{field} is missing.", fix="Add it.", detail="REQUIRED")
    return Invalid(field, f"{field}: {reason}.", fix=_fix(reason), detail="INVALID_TYPE")


def _field(place: str) -> str:
    return place.replace("[", ".").replace("]", "").strip(".") or "body"


def _fix(reason: str) -> str | None:
    expected = re.search(r"Expected `([^`]+)`", reason)
    return f"Send {expected.group(1)}." if expected else None


class _Complaint(msgspec.Struct):
    """One entry of what Litestar 2.25 says of a request that does not fit."""

    message: str
    key: str | None = None


def _validation(request: Request[Any, Any, Any], error: ValidationException) -> Response[ErrorBody]:
    try:
        first = msgspec.convert(error.extra, list[_Complaint])[0]
    except (msgspec.ValidationError, IndexError):
        return answer(request, Invalid("body", str(error.detail), detail="INVALID_VALUE"))
    field = first.key or "body"
    if field in ("data", "body"):
        return answer(request, invalid(first.message))
    return answer(request, Invalid(field, f"{field}: {first.message}.", detail="INVALID_VALUE"))


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorBody]:
    if error.status_code >= 500:  # noqa: PLR2004
        return _unexpected(request, error)
    if isinstance(error, MethodNotAllowedException):
        return _plain(405, "MethodNotAllowedError", "method_not_allowed", str(error.detail), error)
    if isinstance(error, NotFoundException):
        return answer(
            request, NotFound("There is no such path.", fix="See /openapi.json for all paths.")
        )
    if error.status_code == 413:  # noqa: PLR2004
        return answer(request, TooLarge("This request is larger than the server takes."))
    if isinstance(error, ClientException) and error.status_code == 400:  # noqa: PLR2004
        return answer(request, _malformed(error))
    return _plain(error.status_code, "ClientError", "client_error", str(error.detail), error)


def _malformed(error: ClientException) -> Invalid:
    detail = str(error.detail)
    if "JSON" in detail or "decod" in detail or "malformed" in detail:
        return Invalid(
            "body",
            "The body is not valid JSON.",
            fix="Send a JSON object with Content-Type: application/json.",
            detail="MALFORMED_JSON",
        )
    return invalid(detail)


def _plain(
    status: int, name: str, code: str, message: str, error: HTTPException
) -> Response[ErrorBody]:
    summary = ErrorSummary(code, message)
    return Response(
        ErrorBody(name=name, message=message, code=code, error=summary),
        status_code=status,
        headers=dict(error.headers or {}),
    )


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    request_id = _request_id(request)
    log.error("request.failed", exc_info=error)
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
