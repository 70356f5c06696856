"""Routes of messages: list, get, change labels."""

from __future__ import annotations

from litestar import Controller, get, patch
from litestar.params import FromPath, JSONBody

from agentmail_cp import filing, inboxes, labels, messages, pages
from agentmail_cp.access import Principal
from agentmail_cp.db import Tx
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.inboxes import Inbox
from agentmail_cp.messages import MessageFilter
from agentmail_cp.web import bodies
from agentmail_cp.web.auth import needs
from agentmail_cp.web.contents import attachments_of, read
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Db, Server
from agentmail_cp.web.listing import LIST_FILTERS, Query, listing, masks
from agentmail_cp.web.paths import message_id_candidates, restore


class Messages(Controller):
    """Messages of one inbox."""

    path = "/inboxes/{inbox_id:str}/messages"
    tags = ("Messages",)

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
