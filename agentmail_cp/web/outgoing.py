"""From the body of a request to the mail it asks for: addresses parsed, attachments uploaded."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from agentmail_cp import addresses, labels
from agentmail_cp.compose import SendMessage
from agentmail_cp.errors import Invalid
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import MailServer, OutgoingAttachment
from agentmail_cp.web import bodies

DEFAULT_TYPE = "application/octet-stream"
MAX_PART_FIELD = 255
"""Characters in a filename or media type of an attachment."""

CONTENT_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]*/[A-Za-z0-9][\w.+-]*(?:\s*;[\x20-\x7e]*)?", re.ASCII)
CONTENT_ID = re.compile(r"[!-;=?-~]{1,255}")


async def outgoing(server: MailServer, inbox: Inbox, data: bodies.Outgoing) -> SendMessage:
    """The mail a request asks for, with its attachments uploaded."""
    if data.track_opens:
        raise Invalid("track_opens", "Opens cannot be tracked here.", fix="Leave it out.")
    attachments = await uploaded(server, inbox, data.attachments, "attachments")
    return SendMessage(
        to=addresses.parse_list(data.to, "to"),
        cc=addresses.parse_list(data.cc, "cc"),
        bcc=addresses.parse_list(data.bcc, "bcc"),
        reply_to=addresses.parse_list(data.reply_to, "reply_to"),
        subject=(data.subject or "") if isinstance(data, bodies.SendMessage) else "",
        text=data.text,
        html=data.html,
        headers=data.headers or {},
        labels=labels.for_send(data.labels),
        attachments=attachments,
    )


async def uploaded(
    server: MailServer, inbox: Inbox, given: Sequence[bodies.SendAttachment] | None, field: str
) -> tuple[OutgoingAttachment, ...]:
    """The attachments of a request, as blobs of the inbox's account. `field` is where they stand."""
    found = [
        await _upload(server, inbox, each, f"{field}.{index}")
        for index, each in enumerate(given or ())
    ]
    return tuple(found)


async def _upload(
    server: MailServer, inbox: Inbox, given: bodies.SendAttachment, field: str
) -> OutgoingAttachment:
    if given.url is not None:
        raise Invalid(
            f"{field}.url",
            "Attachments are not fetched from URLs here.",
            fix="Send the bytes as base64 in content.",
        )
    content_type = _content_type(given.content_type or DEFAULT_TYPE, f"{field}.content_type")
    filename = _filename(given.filename, f"{field}.filename")
    content_id = _content_id(given.content_id, f"{field}.content_id")
    blob_id = await server.upload(
        inbox.account, _decoded(given.content, f"{field}.content"), content_type
    )
    return OutgoingAttachment(
        blob_id=blob_id,
        content_type=content_type,
        filename=filename,
        content_id=content_id,
        inline=given.content_disposition == "inline",
    )


def _content_type(text: str, field: str) -> str:
    """`type/subtype`, parameters allowed (RFC 2045 section 5.1)."""
    if len(text) > MAX_PART_FIELD or not CONTENT_TYPE.fullmatch(addresses.one_line(text, field)):
        raise Invalid(field, "This is not a media type.", fix="Write it like application/pdf.")
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


def _decoded(content: str | None, field: str) -> bytes:
    if content is None:
        raise Invalid(
            field, "An attachment needs content.", fix="Give it as base64.", detail="REQUIRED"
        )
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(field, "content is not base64.", fix="Encode the bytes as base64.") from None
