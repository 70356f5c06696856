"""How a request's body is read: whatever is not JSON is one kind of mistake, and the caller's."""

from __future__ import annotations

from typing import Any

from litestar import Request
from litestar.exceptions import SerializationException

from agentmail_cp.errors import Invalid


class JsonRequest(Request[Any, Any, Any]):
    """A request whose `json` raises `Invalid` MALFORMED_JSON for a body that cannot be read.

    msgspec complains of cut-off text and lone surrogates with a `DecodeError`, of invalid UTF-8 in an
    unread field with a `UnicodeDecodeError`, and of deep nesting with a `RecursionError`.
    """

    async def json(self) -> Any:
        try:
            return await super().json()
        except (SerializationException, UnicodeDecodeError, RecursionError):
            raise Invalid(
                "body",
                "The body is not valid JSON.",
                fix="Send a JSON object in UTF-8 with Content-Type: application/json.",
                detail="MALFORMED_JSON",
            ) from None
