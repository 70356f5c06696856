"""Why an outbound request came to nothing, in words a tenant may read."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """What stopped a request."""

    INVALID_URL = "invalid_url"
    NOT_ALLOWED = "not_allowed"
    """The name has no address, or one that must not be reached: which of them would tell a stranger what
    exists in the operator's network."""
    UNREACHABLE = "unreachable"
    TLS = "tls"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    BROKEN = "broken"
    BUSY = "busy"
    """We could not even ask, as we do too much else: nothing was tried, and nobody else is to blame."""


class OutboundError(Exception):
    """A request was not made or not answered. `text` names no address and nothing of the operator's."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.text = text
