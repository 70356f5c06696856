"""Page tokens and page sizes.

A token is the sort key of the last item shown, so pages stay right while items come and go. It is bound
to a scope (the list it came from, with its filters) by a checksum, which catches damage and mix-ups. It
is no secret and no proof: a forged one moves the reader inside what the query shows anyway.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, LiteralString, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from agentmail_cp.errors import Invalid

AnyKey = tuple[datetime | int | str | UUID, ...]
Key = TypeVar("Key", bound=AnyKey)
Row = TypeVar("Row")

BigInt = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A number PostgreSQL can compare with a bigint."""

Text = Annotated[str, Meta(pattern=r"^[^\x00]*$")]
"""A text PostgreSQL can compare with."""

DEFAULT_LIMIT = 50
MAX_LIMIT = 100

_CHECKSUM_BYTES = 6
_MAX_TOKEN = 4096


def encode(scope: str, key: AnyKey) -> str:
    """The token that continues after `key`. Times are aware and kept to the microsecond."""
    body = msgspec.msgpack.encode(key)
    return urlsafe_b64encode(_checksum(scope, body) + body).rstrip(b"=").decode()


def decode(scope: str, token: str, shape: type[Key]) -> Key:
    """The key inside a token made by `encode` with the same scope.

    `shape` is the key's type, for example `tuple[datetime, int]`. Raises `Invalid` INVALID_PAGE_TOKEN
    for a token that is damaged, from elsewhere, or holds something else.
    """
    raw = _unpack(token)
    body = raw[_CHECKSUM_BYTES:]
    if raw[:_CHECKSUM_BYTES] != _checksum(scope, body):
        raise _refused()
    try:
        return msgspec.msgpack.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _refused() from None


def cut(
    scope: str, rows: list[Row], size: int, key: Callable[[Row], AnyKey]
) -> tuple[list[Row], str | None]:
    """The rows of a page, and the token of the next when there is one.

    `rows` are those of the page and one more, if there is one; `key` is what `decode` will give back.
    """
    if len(rows) <= size:
        return rows, None
    return rows[:size], encode(scope, key(rows[size - 1]))


def by_time(
    scope: str,
    token: str | None,
    columns: tuple[LiteralString, LiteralString],
    *,
    limit: int,
    ascending: bool,
) -> tuple[LiteralString, dict[str, Any]]:
    """The end of a query for a page, and its parameters: where a token goes on, in which order, and one
    row more than the page holds. `columns` are a time and a uuid that tells rows of one time apart.
    """
    time, ident = columns
    beyond: LiteralString = ">" if ascending else "<"
    order: LiteralString = "asc" if ascending else "desc"
    query: LiteralString = ""
    parameters: dict[str, Any] = {"limit": limit + 1}
    if token:
        last_time, last_id = decode(scope, token, tuple[datetime, UUID])
        parameters |= {"last_time": last_time, "last_id": last_id}
        query = f" and ({time}, {ident}) {beyond} (%(last_time)s, %(last_id)s::uuid)"
    query += f" order by {time} {order}, {ident} {order} limit %(limit)s"
    return query, parameters


def limit(
    value: int | str | None, *, default: int = DEFAULT_LIMIT, maximum: int = MAX_LIMIT
) -> int:
    """How many items a page holds: `default` when unsaid, never more than `maximum`.

    Raises `Invalid` INVALID_LIMIT for anything but a positive whole number.
    """
    if value is None:
        return default
    try:
        wanted = int(value)
    except ValueError:
        wanted = 0
    if wanted < 1:
        raise Invalid(
            "limit",
            "limit is not a positive whole number.",
            fix=f"Use 1 to {maximum}, or leave it out for {default}.",
            detail="INVALID_LIMIT",
        )
    return min(wanted, maximum)


def _unpack(token: str) -> bytes:
    if len(token) > _MAX_TOKEN:
        raise _refused()
    try:
        raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        raise _refused() from None
    if urlsafe_b64encode(raw).rstrip(b"=").decode() != token.rstrip("="):
        raise _refused()
    return raw


def _checksum(scope: str, body: bytes) -> bytes:
    return sha256(scope.encode() + b"\0" + body).digest()[:_CHECKSUM_BYTES]


def _refused() -> Invalid:
    return Invalid(
        "page_token",
        "This page token does not belong to this list.",
        fix="Use next_page_token of the previous answer unchanged with the same filters, or leave "
        "page_token out to start over.",
        detail="INVALID_PAGE_TOKEN",
    )
