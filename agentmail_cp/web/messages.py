"""Routes of messages: send, list, get, change labels."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from typing import Annotated

from litestar import Controller, Response, get, patch, post
from litestar.params import FromPath, HeaderParameter, JSONBody

from agentmail_cp import addresses, filing, inboxes, labels, messages, pages, sending
from agentmail_cp.access import Principal
from agentmail_cp.compose import SendMessage, fingerprint
from agentmail_cp.db import Tx
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import (
    DocumentId,
    MailContent,
    MailServer,
    MailServerUnavailable,
    OutgoingAttachment,
)
from agentmail_cp.messages import MessageFilter
from agentmail_cp.web import bodies
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Config, Db, Server
from agentmail_cp.web.listing import LIST_FILTERS, Query, listing, masks
from agentmail_cp.web.paths import message_id_candidates, restore

SMALL = 16_384
DEFAULT_TYPE = "application/octet-stream"
MAX_PART_FIELD = 255
"""Characters in a filename or media type of an attachment."""

CONTENT_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]*/[A-Za-z0-9][\w.+-]*(?:\s*;[\x20-\x7e]*)?", re.ASCII)
CONTENT_ID = re.compile(r"[!-;=?-~]{1,255}")
IdempotencyKey = Annotated[str | None, HeaderParameter(name="Idempotency-Key")]


def _send_operation(_handler: object, _method: object, path: Sequence[object]) -> str:
    """One handler, two paths: the SDKs' `…/messages/send` and seed 001's `…/messages`."""
    return "messages.send" if "send" in path else "messages.create"


class Messages(Controller):
    """Messages of one inbox."""

    path = "/inboxes/{inbox_id:str}/messages"
    tags = ("Messages",)

    @post(
        ["/send", "/"],
        operation_id=_send_operation,
        status_code=200,
        guards=[needs("message_send")],
        responses=ERRORS,
    )
    async def send(
        self,
        inbox_id: FromPath[str],
        data: JSONBody[bodies.SendMessage],
        caller: Caller,
        db: Db,
        server: Server,
        settings: Config,
        idempotency_key: IdempotencyKey = None,
    ) -> Response[bodies.SendMessageResponse]:
        """Send a mail. The same Idempotency-Key never sends twice within 24 hours."""
        sending.check_idempotency_key(idempotency_key)
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.organization_id, restore(inbox_id))
        outcome = await sending.send(
            db,
            server,
            inbox=inbox,
            message=await outgoing(server, inbox, data),
            fingerprint=fingerprint(str(inbox.inbox_id), "messages.send", data),
            key=idempotency_key,
            patience=settings.stalwart_timeout + settings.stalwart_connect_timeout,
        )
        replayed = {"Idempotent-Replayed": "true"} if outcome.replayed else {}
        return Response(bodies.sent(outcome.answer), headers=replayed)

    @get(
        operation_id="messages.list",
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=listing(*LIST_FILTERS, "from", "to", "subject"),
    )
    async def list(
        self,
        inbox_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.ListMessages:
        """List messages without their bodies, newest first."""
        limit = pages.limit(asked.text("limit"))
        wanted = asked.texts("labels")
        where = MessageFilter(
            labels=tuple(each.lower() for each in wanted),
            masks=masks(asked, caller, wanted),
            before=asked.time("before"),
            after=asked.time("after"),
            sender=asked.texts("from"),
            to=asked.texts("to"),
            subject=asked.texts("subject"),
            ascending=asked.flag("ascending"),
        )
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.organization_id, restore(inbox_id))
            rows, token = await messages.list_page(
                tx,
                organization_id=caller.organization_id,
                inbox_id=inbox.inbox_id,
                where=where,
                limit=limit,
                page_token=asked.text("page_token"),
            )
        contents = await attachments_of(server, inbox, rows)
        shown = [
            bodies.message_item(row, inbox.address, contents.get(row.document_id)) for row in rows
        ]
        return bodies.ListMessages(len(shown), limit, shown, token)

    @get(
        "/{message_id:str}",
        operation_id="messages.get",
        guards=[needs("message_read")],
        responses=ERRORS,
    )
    async def get(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.Message:
        """Get a whole message."""
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.organization_id, restore(inbox_id))
            row = await _find(tx, caller, asked, inbox, message_id)
        whole = await read(server, inbox, [row])
        if not whole:
            raise NotFound("There is no such message.")
        return whole[0]

    @patch(
        "/{message_id:str}",
        operation_id="messages.update",
        guards=[needs("message_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        data: JSONBody[bodies.UpdateMessage],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.UpdateMessageResponse:
        """Add and remove labels; a label in both lists is removed."""
        change = labels.change(data.add_labels, data.remove_labels)
        if change.empty:
            raise Invalid(
                "add_labels",
                "There is no label to change.",
                fix="Give add_labels or remove_labels.",
                detail="REQUIRED",
            )
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.organization_id, restore(inbox_id))
            row = await _find(tx, caller, asked, inbox, message_id)
        shown = await messages.update_labels(
            db, server, account_id=inbox.account, place=inbox.place, message=row, change=change
        )
        return bodies.UpdateMessageResponse(row.message_id, list(shown))


async def _find(
    tx: Tx, caller: Principal, asked: Query, inbox: Inbox, message_id: str
) -> messages.Message:
    """The message a path names, hidden or not, as far as the key may read it."""
    return await messages.get(
        tx,
        organization_id=caller.organization_id,
        inbox_id=inbox.inbox_id,
        candidates=message_id_candidates(restore(message_id)),
        masks=masks(asked, caller, tuple(filing.HIDING)),
    )


async def outgoing(server: MailServer, inbox: Inbox, data: bodies.SendMessage) -> SendMessage:
    """The mail a request asks for, with its attachments uploaded."""
    if data.track_opens:
        raise Invalid("track_opens", "Opens cannot be tracked here.", fix="Leave it out.")
    attachments = [
        await _upload(server, inbox, each, f"attachments.{index}")
        for index, each in enumerate(data.attachments or ())
    ]
    return SendMessage(
        to=addresses.parse_list(data.to, "to"),
        cc=addresses.parse_list(data.cc, "cc"),
        bcc=addresses.parse_list(data.bcc, "bcc"),
        reply_to=addresses.parse_list(data.reply_to, "reply_to"),
        subject=data.subject or "",
        text=data.text,
        html=data.html,
        headers=data.headers or {},
        labels=labels.for_send(data.labels),
        attachments=tuple(attachments),
    )


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


async def attachments_of(
    server: MailServer, inbox: Inbox, rows: Sequence[messages.Message]
) -> dict[DocumentId, MailContent]:
    """What messages with attachments hold; nothing while the mail server is away."""
    having = [row.document_id for row in rows if row.has_attachment]
    if not having:
        return {}
    try:
        return dict(await server.read(inbox.account, having))
    except MailServerUnavailable:
        return {}


async def read(
    server: MailServer, inbox: Inbox, rows: Sequence[messages.Message]
) -> list[bodies.Message]:
    """Whole messages; those that are gone are left out."""
    contents = await server.read(inbox.account, [row.document_id for row in rows])
    there = [(row, contents[row.document_id]) for row in rows if row.document_id in contents]

    def shown() -> list[bodies.Message]:
        return [bodies.message(row, inbox.address, content) for row, content in there]

    # Reading a small message takes less time than handing it to a thread.
    if sum(row.size for row, _ in there) <= SMALL:
        return shown()
    return await asyncio.to_thread(shown)
