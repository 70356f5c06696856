"""Routes that tell where to download an attachment or a raw message, and what they share.

Threads and drafts have attachment routes of their own, which answer through `attachment_of`.
"""

from __future__ import annotations

from collections.abc import Iterable

from litestar import Controller, get
from litestar.params import FromPath

from agentmail_cp import bodies, inboxes, messages
from agentmail_cp.access import Principal
from agentmail_cp.contents import COUNTED_DECODED
from agentmail_cp.db import Database
from agentmail_cp.errors import NotFound
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import Attachment, DocumentId, MailServer, MailServerRejected, Refusal
from agentmail_cp.web import inject
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Caller, Db, Server
from agentmail_cp.web.links import Links
from agentmail_cp.web.listing import visible_to
from agentmail_cp.web.paths import message_id_candidates, restore


async def attachment_of(
    server: MailServer,
    links: Links,
    inbox: Inbox,
    document_ids: Iterable[DocumentId],
    attachment_id: str,
) -> bodies.AttachmentResponse:
    """The attachment with this id among those of some mails, with a link. Raises `NotFound`."""
    found = await server.attachments({inbox.account: list(document_ids)})
    for document_id, attached in found.get(inbox.account, {}).items():
        for each in attached:
            named = bodies.attachment_id(inbox.inbox_id, document_id, each.part_id)
            if str(named) == attachment_id.lower():
                return await _linked(server, links, inbox, document_id, each)
    raise NotFound("There is no such attachment.")


async def _linked(
    server: MailServer, links: Links, inbox: Inbox, document_id: DocumentId, attachment: Attachment
) -> bodies.AttachmentResponse:
    url, expires_at = links.make(inbox, document_id, attachment.part_id)
    return bodies.attachment_response(
        inbox.inbox_id,
        document_id,
        attachment,
        size=await _size(server, inbox, attachment),
        download_url=url,
        expires_at=expires_at,
    )


async def _size(server: MailServer, inbox: Inbox, attachment: Attachment) -> int:
    if not attachment.content_type.startswith(COUNTED_DECODED):
        return attachment.size
    try:
        return await server.blob_size(inbox.account, attachment.blob_id)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_BLOB:
            raise
        raise NotFound("There is no such attachment.") from error


class Files(Controller):
    """What a message holds that is too large for a body."""

    path = "/inboxes/{inbox_id:str}/messages/{message_id:str}"
    tags = ("Messages",)

    @get(
        "/attachments/{attachment_id:str}",
        operation_id="messages.get_attachment",
        guards=[needs("message_read")],
        responses=ERRORS,
    )
    async def attachment(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        attachment_id: FromPath[str],
        caller: Caller,
        db: Db,
        server: Server,
        links: inject.Links,
    ) -> bodies.AttachmentResponse:
        """Get an attachment: what it is, and a link from which anybody can download it for an hour."""
        inbox, row = await _message(db, caller, inbox_id, message_id)
        return await attachment_of(server, links, inbox, [row.document_id], attachment_id)

    @get(
        "/raw",
        operation_id="messages.get_raw",
        guards=[needs("message_read")],
        responses=ERRORS,
    )
    async def raw(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        caller: Caller,
        db: Db,
        links: inject.Links,
    ) -> bodies.RawMessageResponse:
        """Get a link from which anybody can download the message as it was sent, for an hour."""
        inbox, row = await _message(db, caller, inbox_id, message_id)
        url, expires_at = links.make(inbox, row.document_id, None)
        return bodies.RawMessageResponse(
            message_id=row.message_id, size=row.size, download_url=url, expires_at=expires_at
        )


async def _message(
    db: Database, caller: Principal, inbox_id: str, message_id: str
) -> tuple[Inbox, messages.Message]:
    """The message a path names, hidden or not, as far as the key may read it."""
    async with db.reading() as tx:
        inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
        row = await messages.get(
            tx,
            organization_id=caller.organization_id,
            inbox_id=inbox.inbox_id,
            candidates=message_id_candidates(restore(message_id)),
            masks=visible_to(caller),
        )
    return inbox, row
