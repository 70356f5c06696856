"""The one route without a key that hands out mail: whoever holds a link may download what it names.

A link is checked (signature, time), its inbox and its mail are looked up again, and then the bytes are
passed on as they come from the mail server, never whole in memory. Nothing is sent before the first
byte is there, so what is gone or away gets an honest status. A client that leaves, or takes nothing for
`PATIENCE`, costs its connection to the mail server no longer. Answers are always attachments, in a
sandbox without any rights: what strangers wrote must not run on this origin.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog
from litestar import HttpMethod, Request, route
from litestar.params import FromPath
from litestar.types import ASGIApp, HTTPResponseStartEvent, Receive, Scope, Send

from agentmail_cp import downloads, inboxes
from agentmail_cp.db import Database
from agentmail_cp.downloads import ExpiredLink, ForgedLink, Link, Span, Unsatisfiable
from agentmail_cp.errors import Forbidden, Gone, NotFound
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import (
    Attachment,
    BlobId,
    MailServer,
    MailServerError,
    MailServerRejected,
    Refusal,
)
from agentmail_cp.web.auth import OPEN
from agentmail_cp.web.inject import Db, Server

log = structlog.stdlib.get_logger(__name__)

PATIENCE: Final = 60.0
"""Seconds in which a client must take one more chunk."""

_GONE: Final = frozenset({Refusal.NO_ACCOUNT, Refusal.NO_BLOB, Refusal.NO_MAIL})
_ASK_AGAIN = "Ask for the attachment or the raw message again: each answer has a new link."
_SAFE: Final = (
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "sandbox; default-src 'none'"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
)


class File(msgspec.Struct, frozen=True):
    """What a link leads to at this moment. `size` in bytes."""

    blob_id: BlobId
    size: int
    content_type: str
    disposition: str


@route(
    "/downloads/{token:str}",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    opt=OPEN,
    include_in_schema=False,
)
async def download(
    token: FromPath[str], request: Request[Any, Any, Any], db: Db, server: Server
) -> ASGIApp:
    """Download what a link names: one range at a time, as links are followed by any kind of client."""
    link = _verified(token, request.app.state["link_key"])
    inbox = await _inbox(db, link)
    with _found():
        file = await _file(server, inbox, link)
    status, span, headers = _head(request, link, file)

    async def answer(_scope: Scope, receive: Receive, send: Send) -> None:
        if request.method == "HEAD" or span.length == 0:
            await send(_start(status, headers))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        chunks = server.download(inbox.account, file.blob_id, start=span.start, stop=span.stop)
        try:
            with _found():
                first = await anext(chunks, b"")
            await send(_start(status, headers))
            await _pass_on(_Body(first, chunks), receive, send)
        finally:
            await _close(chunks)

    return answer


def _verified(token: str, key: bytes) -> Link:
    try:
        return downloads.verify(token, key, datetime.now(UTC))
    except ForgedLink:
        raise Forbidden("This is no download link of ours.", fix=_ASK_AGAIN) from None
    except ExpiredLink:
        raise Gone("This download link has expired.", fix=_ASK_AGAIN) from None


async def _inbox(db: Database, link: Link) -> Inbox:
    async with db.reading() as tx:
        inbox = await inboxes.get_for_reading(tx, link.organization_id, link.inbox_id)
    if inbox.state != "active" and not link.retained:
        raise NotFound("There is no such inbox any more.")
    return inbox


@contextlib.contextmanager
def _found() -> Generator[None]:
    try:
        yield
    except MailServerRejected as error:
        if error.code not in _GONE:
            raise
        raise NotFound("What this link led to was deleted.") from error


async def _file(server: MailServer, inbox: Inbox, link: Link) -> File:
    if link.part_id is None:
        blob_id = await server.raw_blob(inbox.account, link.document_id)
        content_type = "message/rfc822"
        disposition = downloads.content_disposition(None, fallback="message.eml")
    else:
        attachment = await _attachment(server, inbox, link)
        blob_id = attachment.blob_id
        content_type = downloads.media_type(attachment.content_type)
        disposition = downloads.content_disposition(attachment.filename)
    size = await server.blob_size(inbox.account, blob_id)
    return File(blob_id, size, content_type, disposition)


async def _attachment(server: MailServer, inbox: Inbox, link: Link) -> Attachment:
    found = await server.attachments({inbox.account: [link.document_id]})
    for attachment in found.get(inbox.account, {}).get(link.document_id, ()):
        if attachment.part_id == link.part_id:
            return attachment
    raise NotFound("What this link led to was deleted.")


def _head(
    request: Request[Any, Any, Any], link: Link, file: File
) -> tuple[int, Span, dict[str, str]]:
    """Status, which bytes are given, and every header."""
    tag = downloads.entity_tag(link)
    headers = {
        **dict(_SAFE),
        "accept-ranges": "bytes",
        "cache-control": "private",
        "content-disposition": file.disposition,
        "content-type": file.content_type,
        "etag": tag,
    }
    wanted = request.headers.get("range") if request.method == "GET" else None
    if request.headers.get("if-range", tag) != tag:
        wanted = None
    try:
        span = downloads.parse_range(wanted, file.size)
    except Unsatisfiable:
        headers |= {"content-range": f"bytes */{file.size}", "content-length": "0"}
        return 416, Span(0, 0, file.size), headers
    if span is None:
        return 200, Span(0, file.size, file.size), headers | {"content-length": str(file.size)}
    headers |= {"content-range": span.content_range, "content-length": str(span.length)}
    return 206, span, headers


def _start(status: int, headers: dict[str, str]) -> HTTPResponseStartEvent:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}


class _Body(msgspec.Struct, frozen=True):
    """The rest of an answer whose first bytes are already here."""

    first: bytes
    rest: AsyncIterator[bytes]


async def _pass_on(body: _Body, receive: Receive, send: Send) -> None:
    """Send everything, until the client leaves. What goes wrong now can only be shown by stopping."""
    sending = asyncio.ensure_future(_send_all(body, send))
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    except (MailServerError, TimeoutError) as error:
        log.warning("download.cut", reason=type(error).__name__)
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)


async def _send_all(body: _Body, send: Send) -> None:
    await _send_chunk(body.first, send)
    async for chunk in body.rest:
        await _send_chunk(chunk, send)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_chunk(chunk: bytes, send: Send) -> None:
    async with asyncio.timeout(PATIENCE):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _close(chunks: AsyncIterator[bytes]) -> None:
    """Give the connection to the mail server back at once, not when somebody tidies up."""
    if isinstance(chunks, AsyncGenerator):
        await chunks.aclose()
