"""The three ways a mail server fails, and why it refuses."""

from __future__ import annotations

from enum import StrEnum


class MailServerError(Exception):
    """The mail server did not do what it was asked."""


class MailServerUnavailable(MailServerError):
    """The mail server is away, overloaded or did not answer in time; the same request may work later.

    `reached` is True when the request may have been carried out although no answer came back, so a
    write must be looked up before it is repeated. `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, retry_after: float = 5.0, reached: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reached = reached


class MailServerRejected(MailServerError):
    """The mail server understood and refused; the same request will never work.

    `code` is one of the port's own words (see `Refusal`), `text` the server's sentence.
    """

    def __init__(self, code: Refusal, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class MailServerConfused(MailServerError):
    """The mail server answered something this version does not understand: alarm, do not retry."""


class Refusal(StrEnum):
    """Why a mail server refused."""

    ADDRESS_TAKEN = "address_taken"
    UNKNOWN_DOMAIN = "unknown_domain"
    DOMAIN_TAKEN = "domain_taken"
    """The server has this domain, and not for us."""
    NO_KEY = "no_key"
    """A DKIM key was named without its private half, and the server does not have it."""
    NO_ACCOUNT = "no_account"
    NO_MAIL = "no_mail"
    NO_BLOB = "no_blob"
    INVALID_MAIL = "invalid_mail"
    TOO_LARGE = "too_large"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    SENDER_NOT_ALLOWED = "sender_not_allowed"
    OVER_QUOTA = "over_quota"
    FORBIDDEN = "forbidden"
    STATE_LOST = "state_lost"
    """The state passed to `changes` is too old or unknown: read the account from scratch."""
