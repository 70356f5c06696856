"""PURE: what a caller may say of an endpoint: its URL, its headers, and how long a list may be.

A URL is judged here as far as it can be without a network: names are resolved, and their addresses judged,
when something is delivered (`outbound`). Values of headers are secrets, so no error repeats one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from agentmail_cp.errors import Invalid
from agentmail_cp.outbound import Network, OutboundError, permitted, target_of

MOST_URL: Final = 2048
"""Characters."""
MOST_HEADERS: Final = 20
MOST_HEADER_NAME: Final = 76
MOST_HEADER_VALUE: Final = 1024
MOST_NAMED: Final = 10
"""Inboxes, and pods, that one filter may name: the contract's."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The name of a header (RFC 9110 section 5.6.2)."""
_VALUE = re.compile(r"[\x20-\x7e\t]*")
_RESERVED: Final = frozenset(
    {
        *("accept-encoding", "connection", "content-encoding", "content-length", "content-type"),
        *("expect", "host", "keep-alive", "trailer", "transfer-encoding", "upgrade"),
    }
)
_RESERVED_PREFIXES: Final = ("svix-", "webhook-", "proxy-")
_LOCAL = re.compile(r"(?:.*\.)?localhost")
"""Names that never leave the machine (RFC 6761 section 6.3)."""


def check_url(url: str, allowed: Sequence[Network]) -> str:
    """The URL, if it may be an endpoint's; `allowed` is what the operator opened beyond the internet.

    Raises `Invalid` TOO_LONG, INVALID_URL, URL_NOT_ALLOWED.
    """
    if len(url) > MOST_URL:
        raise Invalid(
            "url",
            f"url has {len(url)} characters.",
            fix=f"Use at most {MOST_URL}.",
            detail="TOO_LONG",
        )
    if "#" in url:
        raise _no_url("It holds a fragment, which is never sent.")
    try:
        target = target_of(url)
    except OutboundError as error:
        raise _no_url(error.text) from None
    address = target.address or ("127.0.0.1" if _LOCAL.fullmatch(target.host) else None)
    if address is not None and not permitted(str(address), allowed):
        raise Invalid(
            "url",
            "Nothing is delivered to this address: it is not one of the public internet.",
            fix="Use a public address or a name, or ask the operator of this server to allow it.",
            detail="URL_NOT_ALLOWED",
        )
    return url


def _no_url(why: str) -> Invalid:
    return Invalid(
        "url",
        f"Nothing can be delivered to this URL. {why}",
        fix="Write it like https://example.com/hooks/mail.",
        detail="INVALID_URL",
    )


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers, if they can go with every delivery. Raises `Invalid` INVALID_HEADER_NAME,
    RESERVED_HEADER, HEADER_TOO_LONG, HEADER_INJECTION, TOO_MANY_HEADERS, DUPLICATE.
    """
    if len(headers) > MOST_HEADERS:
        raise Invalid(
            "headers",
            f"There are {len(headers)} headers.",
            fix=f"Use at most {MOST_HEADERS}.",
            detail="TOO_MANY_HEADERS",
        )
    for name, value in headers.items():
        _check_name(name)
        _check_value(f"headers.{name}", value)
    if len({name.lower() for name in headers}) < len(headers):
        raise _twice("headers", "A header is named twice; upper and lower case are the same.")
    return {name: value.strip() for name, value in headers.items()}


def _check_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise Invalid(
            "headers",
            f"{name[:MOST_HEADER_NAME]!r} cannot be the name of a header.",
            fix="Use letters, digits and hyphens, like X-Token.",
            detail="INVALID_HEADER_NAME",
        )
    if len(name) > MOST_HEADER_NAME:
        raise _too_long("headers")
    lower = name.lower()
    if lower in _RESERVED or lower.startswith(_RESERVED_PREFIXES):
        raise Invalid(
            f"headers.{name}",
            f"The header {name} is set by this server.",
            fix="Leave it out.",
            detail="RESERVED_HEADER",
        )


def _check_value(field: str, value: str) -> None:
    if len(value) > MOST_HEADER_VALUE:
        raise _too_long(field)
    if not _VALUE.fullmatch(value):
        raise Invalid(
            field,
            "The value of this header holds a line break, a control character or one beyond ASCII.",
            fix="Use printable ASCII, as base64 or percent-encoded where needed.",
            detail="HEADER_INJECTION",
        )


def _too_long(field: str) -> Invalid:
    return Invalid(
        field,
        "This header is too long.",
        fix=f"Use at most {MOST_HEADER_NAME} characters in its name,"
        f" {MOST_HEADER_VALUE} in its value.",
        detail="HEADER_TOO_LONG",
    )


def changed_headers(
    current: Mapping[str, str], given: Mapping[str, str], remove: Iterable[str]
) -> dict[str, str]:
    """The headers after a change; case does not tell names apart. Raises as `check_headers`, and `Invalid`
    REQUIRED when nothing is said, DUPLICATE for one that is to be set and removed.
    """
    gone = {name.lower() for name in remove}
    if not given and not gone:
        raise Invalid(
            "headers",
            "Nothing to update.",
            fix="Give headers or remove_headers.",
            detail="REQUIRED",
        )
    new = check_headers(given)
    named = {name.lower() for name in new}
    if named & gone:
        raise _twice("remove_headers", "A header is to be set and to be removed.")
    kept = {name: value for name, value in current.items() if name.lower() not in named | gone}
    return check_headers(kept | new)


def changed_names(
    field: str, current: Sequence[UUID], add: Sequence[UUID], remove: Sequence[UUID]
) -> list[UUID]:
    """What a filter names after a change. Raises `Invalid` TOO_MANY, and DUPLICATE for what is to be added
    and removed.
    """
    if set(add) & set(remove):
        raise _twice(f"remove_{field}", "An id is to be added and to be removed.")
    return check_names(field, [each for each in (*current, *add) if each not in remove])


def check_names(field: str, named: Iterable[UUID]) -> list[UUID]:
    """What a filter names, each once. Raises `Invalid` TOO_MANY."""
    found = list(dict.fromkeys(named))
    check_count(field, found)
    return found


def check_count(field: str, named: Sequence[object]) -> None:
    """Raise `Invalid` TOO_MANY for more than a filter may name."""
    if len(named) > MOST_NAMED:
        raise Invalid(
            field,
            f"{field} would have {len(named)} entries.",
            fix=f"Name at most {MOST_NAMED}, or make another webhook for the others.",
            detail="TOO_MANY",
        )


def _twice(field: str, message: str) -> Invalid:
    return Invalid(field, message, fix="Name each once.", detail="DUPLICATE")
