"""From the body of a request to the mail it asks for: addresses parsed, attachments uploaded.

An attachment comes as base64 or by URL. Everything that can be checked without moving bytes is checked
first, for all attachments; then they go to the mail server one after the other, from a URL in a stream.
`Room` counts along, so nothing larger than a message may be is fetched or stored. All of them together
have one deadline: a large request keeps others waiting.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from agentmail_cp import addresses, bodies, downloads, labels
from agentmail_cp.compose import (
    CONTENT_ID,
    MEDIA_TYPE,
    SendMessage,
    ensure_few_attachments,
    ensure_few_headers,
)
from agentmail_cp.errors import AgentMailError, Invalid, MessageRejected, Unavailable
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import BlobId, MailServer, OutgoingAttachment
from agentmail_cp.outbound import Outbound, OutboundError, Reason, Request, Response
from agentmail_cp.sizes import Room, patience, too_large

MAX_PART_FIELD: Final = 255
"""Characters in a filename or media type of an attachment."""

CONTENT_TYPE = re.compile(rf"{MEDIA_TYPE.pattern}(?:\s*;[\x20-\x7e]*)?", MEDIA_TYPE.flags)


class Uploads(msgspec.Struct, frozen=True):
    """What it takes to get attachments into the mail server. `largest` is the largest message in bytes;
    `seconds` is the time all attachments of one request may take, beside what the mail server needs for
    bytes that came with it.
    """

    server: MailServer
    outbound: Outbound
    largest: int
    seconds: float


class _Part(msgspec.Struct, frozen=True):
    """An attachment that was checked as far as it can be before its bytes are moved."""

    given: bodies.SendAttachment
    field: str
    content_type: str | None
    filename: str | None
    content_id: str | None


def ensure_few(data: bodies.Outgoing) -> None:
    """Raise `Invalid` for more of anything than a mail may have. To be asked first of all: to compare a
    million addresses with those of an earlier request holds the process as long as reading them does.
    """
    addresses.ensure_few(data.to, "to")
    addresses.ensure_few(data.cc, "cc")
    addresses.ensure_few(data.bcc, "bcc")
    addresses.ensure_few(data.reply_to, "reply_to")
    labels.for_send(data.labels)
    ensure_few_headers(len(data.headers or ()))
    ensure_few_attachments(len(data.attachments or ()), "attachments")


async def outgoing(uploads: Uploads, inbox: Inbox, data: bodies.Outgoing) -> SendMessage:
    """The mail a request asks for, with its attachments uploaded.

    Raises `Invalid` for what does not fit, `MessageRejected` for a URL that cannot be fetched, and
    `Unavailable` when the mail server takes too long to take an attachment.
    """
    if data.track_opens:
        raise Invalid(
            "track_opens",
            "Opens cannot be tracked here.",
            fix="Leave it out.",
            detail="NOT_OFFERED",
        )
    room = Room(uploads.largest)
    room.take_text(data.text, "text")
    room.take_text(data.html, "html")
    message = SendMessage(
        to=addresses.parse_list(data.to, "to"),
        cc=addresses.parse_list(data.cc, "cc"),
        bcc=addresses.parse_list(data.bcc, "bcc"),
        reply_to=addresses.parse_list(data.reply_to, "reply_to"),
        subject=(data.subject or "") if isinstance(data, bodies.SendMessage) else "",
        text=data.text,
        html=data.html,
        headers=data.headers or {},
        labels=labels.for_send(data.labels),
    )
    attachments = await upload(uploads, inbox, data.attachments or (), room)
    return msgspec.structs.replace(message, attachments=attachments)


async def upload(
    uploads: Uploads,
    inbox: Inbox,
    given: Sequence[bodies.SendAttachment],
    room: Room,
    field: str = "attachments",
) -> tuple[OutgoingAttachment, ...]:
    """Put attachments into the mail server; `room` is what may still come, `field` where they stand.
    Raises as `outgoing`.
    """
    parts = [_checked(each, f"{field}.{index}") for index, each in enumerate(given)]
    left = room.left
    for part in parts:
        if part.given.content is not None:
            room.take(len(part.given.content), f"{part.field}.content")
    seconds = uploads.seconds + patience(left - room.left)
    deadline = asyncio.get_running_loop().time() + seconds
    return tuple([await _upload(uploads, inbox, part, room, deadline) for part in parts])


async def _upload(
    uploads: Uploads, inbox: Inbox, part: _Part, room: Room, deadline: float
) -> OutgoingAttachment:
    content = part.given.content
    if content is None:
        return await _fetched(uploads, inbox, part, room, deadline)
    content_type = part.content_type or downloads.OCTETS
    try:
        async with asyncio.timeout_at(deadline):
            blob_id = await uploads.server.upload(inbox.account, content, content_type)
    except TimeoutError as error:
        raise Unavailable(
            "The mail server took too long to take the attachments; nothing was done.",
            fix="Repeat the request after Retry-After seconds, with fewer or smaller attachments.",
        ) from error
    # What holds the request may live until the next garbage collection; its megabytes need not.
    part.given.content = None
    return _attachment(part, blob_id, content_type, part.filename, len(content))


async def _fetched(
    uploads: Uploads, inbox: Inbox, part: _Part, room: Room, deadline: float
) -> OutgoingAttachment:
    url, field = part.given.url or "", f"{part.field}.url"
    seconds = max(0.0, deadline - asyncio.get_running_loop().time())
    owner = str(inbox.organization_id)
    try:
        async with uploads.outbound.open(
            Request(url=url, most=room.left, seconds=seconds, owner=owner)
        ) as response:
            _ensure_plain(response, field)
            content_type = part.content_type or _told_type(response)
            counted = _Counted(response.chunks(), room, field)
            blob_id = await uploads.server.upload(inbox.account, counted.chunks(), content_type)
    except OutboundError as error:
        raise _not_fetched(error, field, room) from error
    filename = part.filename or _url_name(url)
    return _attachment(part, blob_id, content_type, filename, counted.size)


class _Counted:
    """Passes chunks on, takes room for them and knows their sum."""

    def __init__(self, source: AsyncGenerator[bytes], room: Room, field: str) -> None:
        self.size = 0
        self._source = source
        self._room = room
        self._field = field

    async def chunks(self) -> AsyncGenerator[bytes]:
        async for chunk in self._source:
            self._room.take(len(chunk), self._field)
            self.size += len(chunk)
            yield chunk


def _attachment(
    part: _Part, blob_id: BlobId, content_type: str, filename: str | None, size: int
) -> OutgoingAttachment:
    return OutgoingAttachment(
        blob_id=blob_id,
        content_type=content_type,
        filename=filename,
        content_id=part.content_id,
        inline=part.given.content_disposition == "inline",
        size=size,
    )


def _checked(given: bodies.SendAttachment, field: str) -> _Part:
    if given.content is not None and given.url is not None:
        raise Invalid(
            f"{field}.url",
            "An attachment has either content or a url, not both.",
            fix="Leave one of them out.",
        )
    if given.content is None and given.url is None:
        raise Invalid(
            f"{field}.content",
            "An attachment needs content or a url.",
            fix="Give content, as base64, or url, from which it is fetched.",
            detail="REQUIRED",
        )
    return _Part(
        given=given,
        field=field,
        content_type=_content_type(given.content_type, f"{field}.content_type"),
        filename=_filename(given.filename, f"{field}.filename"),
        content_id=_content_id(given.content_id, f"{field}.content_id"),
    )


def _ensure_plain(response: Response, field: str) -> None:
    if 300 <= response.status < 400:  # noqa: PLR2004
        raise _rejected(
            f"It answered HTTP {response.status}, a redirect, and redirects are not followed.",
            field,
            fix="Give the URL it leads to.",
        )
    if not response.ok:
        raise _rejected(f"It answered HTTP {response.status}.", field)
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _rejected("It answered compressed, which was not asked for.", field)


def _not_fetched(error: OutboundError, field: str, room: Room) -> AgentMailError:
    if error.reason is Reason.TOO_LARGE:
        return too_large(room.limit, field)
    if error.reason is Reason.BUSY:
        return Unavailable(f"{field} could not be fetched. {error.text}")
    return _rejected(error.text, field)


def _rejected(
    text: str, field: str, fix: str = "Check the URL, or send the bytes as base64 in content."
) -> MessageRejected:
    what = f"Message rejected: {field} cannot be fetched. {text}"
    return MessageRejected(what, fix=fix, field=field, detail="NOT_FETCHED")


def _told_type(response: Response) -> str:
    """The media type a server tells, where it is one."""
    told = response.headers.get("content-type", "").strip()
    return (
        told if len(told) <= MAX_PART_FIELD and CONTENT_TYPE.fullmatch(told) else downloads.OCTETS
    )


def _url_name(url: str) -> str | None:
    """The file name in a URL, where it has one."""
    last = unquote(urlsplit(url).path.rpartition("/")[2])
    return downloads.file_name(last) or None


def _content_type(text: str | None, field: str) -> str | None:
    """`type/subtype`, parameters allowed (RFC 2045 section 5.1)."""
    if not text:
        return None
    if len(text) > MAX_PART_FIELD or not CONTENT_TYPE.fullmatch(addresses.one_line(text, field)):
        raise Invalid(
            field, "This is no media type of a file.", fix="Write it like application/pdf."
        )
    return text


def _filename(text: str | None, field: str) -> str | None:
    if text is not None and len(addresses.one_line(text, field)) > MAX_PART_FIELD:
        raise Invalid(
            field, "This filename is too long.", fix=f"Use at most {MAX_PART_FIELD} characters."
        )
    return text


def _content_id(text: str | None, field: str) -> str | None:
    """An id without brackets, as `cid:` names it (RFC 2392)."""
    if not text:
        return None
    bare = addresses.one_line(text, field).strip().removeprefix("<").removesuffix(">")
    if not CONTENT_ID.fullmatch(bare):
        raise Invalid(
            field, "This is not a content id.", fix="Use letters, digits and @ . - _, like logo."
        )
    return bare
