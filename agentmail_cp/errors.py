"""What can go wrong for a caller, in the words of the API, and never in those of HTTP or SQL.

Each error says what happened (`message`) and, where the caller can do something, what (`fix`).
`name` and `code` are the contract's (reference: AgentMail error codes). `web/errors.py` gives each its
status and body; nothing here knows about either.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar


class AgentMailError(Exception):
    """Something the caller asked for cannot be done. `field` is where the request is wrong, `detail` a code
    of `docs/guide/errors.md` for what is wrong there; an error that has the one has the other.
    """

    name: ClassVar[str] = "InternalError"
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        fix: str | None = None,
        field: str | None = None,
        detail: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.field = field
        self.detail = detail
        self.reason = code or self.code


class Invalid(AgentMailError):
    """A value does not fit."""

    name = "ValidationError"
    code = "validation_error"

    def __init__(
        self, field: str, message: str, *, fix: str | None = None, detail: str = "INVALID_VALUE"
    ) -> None:
        super().__init__(message, fix=fix, field=field, detail=detail)


class QueryRangeTooWide(Invalid):
    """More is asked about at once than is answered."""

    code = "query_range_too_wide"

    def __init__(
        self, field: str, message: str, *, fix: str | None = None, detail: str = "RANGE_TOO_WIDE"
    ) -> None:
        super().__init__(field, message, fix=fix, detail=detail)


class Unauthorized(AgentMailError):
    """There is no valid API key."""

    name = "UnauthorizedError"
    code = "unauthorized"


class Forbidden(AgentMailError):
    """The key is valid but may not do this."""

    name = "ForbiddenError"
    code = "forbidden"


class Taken(AgentMailError):
    """The address belongs to somebody, or once did."""

    name = "IsTakenError"
    code = "resource_taken"


class MessageRejected(AgentMailError):
    """A list or the mail server refuses the message; nothing was sent."""

    name = "MessageRejectedError"
    code = "message_rejected"


class NotFound(AgentMailError):
    """There is no such thing, or not for this key."""

    name = "NotFoundError"
    code = "not_found"


class LimitExceeded(Forbidden):
    """A limit stands in the way that does not heal with time."""

    name = "LimitExceededError"
    code = "limit_exceeded"


class InboxPaused(Forbidden):
    """The inbox may not send now: it is paused, or its domain is broken. Nothing was sent."""

    code = "inbox_paused"


class Gone(AgentMailError):
    """It was there, and its time is over. `oldest` is what is there instead: the id of an event."""

    name = "GoneError"
    code = "gone"

    def __init__(
        self,
        message: str,
        *,
        fix: str | None = None,
        code: str | None = None,
        oldest: str | None = None,
    ) -> None:
        super().__init__(message, fix=fix, code=code)
        self.oldest = oldest


class Conflict(AgentMailError):
    """The request contradicts another one. `retry_after` is in seconds, where waiting helps."""

    name = "ConflictError"
    code = "conflict"

    def __init__(
        self, message: str, *, fix: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, fix=fix)
        self.retry_after = retry_after


class CannotDelete(Conflict):
    """Something else has to go first."""

    code = "cannot_delete"


class RateLimited(AgentMailError):
    """A limit stands in the way until `retry_at`. `retry_after` is the same in seconds from now, where
    that is known without comparing two clocks.
    """

    name = "RateLimitError"
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        retry_at: datetime,
        retry_after: float | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message, fix=fix)
        self.retry_at = retry_at
        self.retry_after = retry_after


class Unprocessable(AgentMailError):
    """The request is well formed but makes no sense."""

    name = "UnprocessableError"
    code = "unprocessable"


class TooLarge(AgentMailError):
    """The request is larger than the limit."""

    name = "ValidationError"
    code = "validation_error"


class TooSlow(AgentMailError):
    """The request did not arrive in time."""

    name = "RequestTimeoutError"
    code = "request_timeout"


class Unavailable(AgentMailError):
    """Something this service needs is away. `retry_after` is in seconds."""

    name = "ServiceUnavailableError"
    code = "service_unavailable"

    def __init__(self, message: str, *, retry_after: float = 5.0, fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.retry_after = retry_after
