"""How a request's body is read: into one buffer, decoded from there, and let go.

A mail with a 25 MB attachment is 35 MB of JSON. It is received into one buffer of its announced size,
base64 is decoded from inside that buffer without becoming text first, in slices between which others are
served, and the buffer is gone before the handler runs. Such a request takes 85 MB at its peak.
`LargeRequests` bounds how many of them are in memory at once. Whatever is not JSON is one kind of
mistake, and the caller's.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, cast

import msgspec
from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import InternalServerException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from litestar.types.empty import Empty

from agentmail_cp.compose import ensure_few_attachments
from agentmail_cp.errors import Invalid, TooLarge, TooSlow

LARGE: Final = 1_000_000
"""Bytes from which a request counts as large."""

PATIENCE: Final = 120.0
"""Seconds in which a large body must have arrived, because others may be waiting for its place."""

_ATTACHMENTS: Final = frozenset({"attachments", "add_attachments"})
_SLICE: Final = 1 << 20
_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_LINE_BREAKS: Final = b" \t\r\n"


class JsonRequest(Request[Any, Any, Any]):
    """A request whose `json` raises `Invalid` MALFORMED_JSON for a body that cannot be read.

    msgspec complains of cut-off text and lone surrogates with a `DecodeError`, of invalid UTF-8 in an
    unread field with a `UnicodeDecodeError`, and of deep nesting with a `RecursionError`.
    """

    async def body(self) -> bytes:
        """The body. Litestar's own reader keeps every chunk, joins them, and keeps the result."""
        if self._body is Empty:
            try:
                self._body = cast("bytes", await self._received())
            except RequestEntityTooLarge:
                raise self._too_large() from None
            except InternalServerException:
                # Nobody is there to read this.
                raise Invalid("body", "The body broke off.", detail="MALFORMED_JSON") from None
        return self._body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; nothing of it is kept."""
        try:
            async for chunk in self.stream():
                yield chunk
        except RequestEntityTooLarge:
            raise self._too_large() from None
        except InternalServerException:
            raise Invalid("body", "The body broke off.", detail="MALFORMED_JSON") from None

    async def take_body(self) -> bytes:
        """The body, which lives no longer than its caller keeps it."""
        body = await self.body()
        self._body = b""
        return body

    async def json(self) -> Any:
        if self._json is Empty:
            body = await self.body()
            self._body = b""
            try:
                if len(body) > LARGE:
                    # In a thread, where other requests are answered between slices of base64; and not
                    # kept, as this object lives until the next garbage collection.
                    return await asyncio.to_thread(decode, body)
                self._json = decode(body)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise Invalid(
                    "body",
                    "The body is not valid JSON.",
                    fix="Send a JSON object in UTF-8 with Content-Type: application/json.",
                    detail="MALFORMED_JSON",
                ) from None
        return self._json

    def _too_large(self) -> TooLarge:
        limit = self.route_handler.resolve_request_max_body_size()
        return TooLarge(
            f"This request is larger than {limit} bytes.",
            fix="Send smaller attachments, or give them by url: then they do not count here.",
            field="body",
            detail="TOO_LARGE",
        )

    async def _received(self) -> bytes | bytearray:
        announced = self.content_length
        if announced is not None and announced <= LARGE:
            return b"".join([chunk async for chunk in self.stream()])
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._into_one_buffer()
        except TimeoutError:
            raise TooSlow(
                f"The body did not arrive within {PATIENCE:.0f} seconds.",
                fix="Send less, or try again over a faster connection.",
            ) from None

    async def _into_one_buffer(self) -> bytearray:
        # Untouched memory costs nothing: this grows with what arrives.
        limit = self.route_handler.resolve_request_max_body_size() or 0
        buffer = bytearray(min(self.content_length or 0, limit))
        size = 0
        async for chunk in self.stream():
            buffer[size : size + len(chunk)] = chunk
            size += len(chunk)
        del buffer[size:]
        return buffer


class LargeRequests(ASGIMiddleware):
    """Lets `at_once` large requests in, from their first byte to their answer; others wait outside."""

    scopes = (ScopeType.HTTP,)
    # Stalwart's own questions about a large message must not wait for the request that sends it.
    exclude_opt_key = "open"

    def __init__(self, at_once: int) -> None:
        self._places = asyncio.Semaphore(at_once)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        if not _is_large(scope):
            await next_app(scope, receive, send)
            return
        async with self._places:
            await next_app(scope, receive, send)


def _is_large(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) > LARGE if value.isdigit() else True
        if name == b"transfer-encoding":
            return True
    return False


def decode(body: bytes | bytearray) -> Any:
    """JSON as plain objects, but that the `content` of attachments is bytes already.

    Raises what msgspec does, and `Invalid` for content that is not base64 and for too many attachments.
    """
    if b'attachments"' not in body:
        return msgspec.json.decode(body or b"null")
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return msgspec.json.decode(body)
    return {
        name: _attachments(raw, name) if name in _ATTACHMENTS else msgspec.json.decode(raw)
        for name, raw in fields.items()
    }


def _attachments(raw: msgspec.Raw, place: str) -> Any:
    try:
        found = msgspec.json.decode(raw, type=list[dict[str, msgspec.Raw]])
    except msgspec.ValidationError:
        # Something else than a list of objects: what it should be is said where bodies are checked.
        return msgspec.json.decode(raw)
    ensure_few_attachments(len(found), place)
    return [dict(_fields(fields, f"{place}.{at}")) for at, fields in enumerate(found)]


def _fields(fields: dict[str, msgspec.Raw], place: str) -> Iterator[tuple[str, Any]]:
    for name, raw in fields.items():
        is_base64 = name == "content" and bytes(memoryview(raw)[:1]) == b'"'
        yield name, _base64(raw, f"{place}.content") if is_base64 else msgspec.json.decode(raw)


def _base64(raw: msgspec.Raw, field: str) -> bytes:
    try:
        return b"".join(_slices(memoryview(raw)[1:-1]))
    except binascii.Error:
        pass
    try:
        return b"".join(_lenient(msgspec.json.decode(raw, type=str).encode("ascii")))
    except (binascii.Error, UnicodeEncodeError):
        raise Invalid(
            field,
            "content is not base64.",
            fix="Encode the bytes as base64; a data: prefix does not belong to it.",
        ) from None


def _slices(text: memoryview) -> Iterator[bytes]:
    """Plain base64, some at a time. Raises `binascii.Error`."""
    for start in range(0, len(text), _SLICE):
        yield _decoded(text[start : start + _SLICE], last=start + _SLICE >= len(text))


def _lenient(text: bytes) -> Iterator[bytes]:
    """Base64 with line breaks (RFC 2045), in the URL-safe alphabet, or without its padding.

    In slices, since this is the way of large files too. Raises `binascii.Error`.
    """
    rest = b""
    for start in range(0, len(text), _SLICE):
        rest += text[start : start + _SLICE].translate(_URL_SAFE, _LINE_BREAKS)
        if start + _SLICE < len(text):
            whole = len(rest) // 4 * 4
            yield _decoded(rest[:whole], last=False)
            rest = rest[whole:]
    yield _decoded(rest + b"=" * (-len(rest) % 4), last=True)


def _decoded(text: bytes | memoryview, *, last: bool) -> bytes:
    if not last and text[-1:] == b"=":
        raise binascii.Error("padding in the middle")
    return binascii.a2b_base64(text, strict_mode=True)
