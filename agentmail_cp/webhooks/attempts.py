"""PURE: what came of one attempt to deliver, and what that means.

Any 2xx is a success. Everything else is a failure with a kind, a redirect among them: it would lead to where
nobody has signed up, past the check of its address. Of an answer no more than its beginning is kept, as
text, for the endpoint's owner to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import msgspec

from agentmail_cp.outbound import Reason

MOST_RESPONSE: Final = 2048
"""Bytes of an answer that are read, and characters that are kept."""


class Failure(StrEnum):
    """Why an attempt came to nothing."""

    REFUSED = "refused"
    REDIRECT = "redirect"
    GONE = "gone"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    NOT_ALLOWED = "not_allowed"
    INVALID_URL = "invalid_url"
    BROKEN = "broken"
    NOT_MADE = "not_made"
    NOT_KEPT = "not_kept"

    @property
    def text(self) -> str:
        """A sentence for the endpoint's owner; nothing of the operator's network is in it."""
        return _TEXTS[self]


_TEXTS: Final[Mapping[Failure, str]] = {
    Failure.REFUSED: "The endpoint did not answer with a 2xx status.",
    Failure.REDIRECT: "The endpoint answered with a redirect, which is not followed.",
    Failure.GONE: "The endpoint answered 410 Gone and was disabled.",
    Failure.TIMEOUT: "The endpoint did not answer in time.",
    Failure.UNREACHABLE: "The endpoint cannot be reached.",
    Failure.TLS: "The endpoint's TLS certificate is not valid for its name.",
    Failure.NOT_ALLOWED: "The endpoint has no address on the internet, or one that may not be reached"
    " from here.",
    Failure.INVALID_URL: "The endpoint's URL leads nowhere.",
    Failure.BROKEN: "The endpoint broke off, or does not speak HTTP.",
    Failure.NOT_MADE: "The event could not be put into words, which is not the endpoint's fault.",
    Failure.NOT_KEPT: "The event is not kept any longer.",
}

FINAL: Final = frozenset({Failure.GONE, Failure.NOT_KEPT})
"""After these a delivery is not tried again."""

OURS: Final = frozenset({Failure.NOT_MADE, Failure.NOT_KEPT})
"""These say nothing about the endpoint."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt: when it began, how long it took, the endpoint's status if there was one, why it failed if
    it did, the beginning of the answer, and the pause the endpoint asked for.
    """

    at: datetime
    duration: timedelta
    status: int | None = None
    failure: Failure | None = None
    response: str = ""
    asked: timedelta | None = None


def failure_of_status(status: int) -> Failure | None:
    """Why an answer with this status is a failure; None when it is none."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return None
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Failure.REDIRECT
    return Failure.GONE if status == HTTPStatus.GONE else Failure.REFUSED


def failure_of_reason(reason: Reason) -> Failure:
    """What a request that was not answered failed of."""
    return Failure.BROKEN if reason is Reason.TOO_LARGE else Failure(reason.value)


def as_text(beginning: bytes) -> str:
    """An answer's beginning, whatever it is, as text that a database takes."""
    return beginning.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")[
        :MOST_RESPONSE
    ]
