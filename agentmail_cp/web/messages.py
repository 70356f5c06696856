"""Routes of messages: list, get, change labels, delete, and the first three of many at once."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Controller, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from agentmail_cp import bodies, edits, inboxes, labels, messages, pages, recipients
from agentmail_cp.access import Principal
from agentmail_cp.contents import attached, read
from agentmail_cp.db import Tx
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.inboxes import Inbox
from agentmail_cp.messages import MessageFilter
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Db, Server
from agentmail_cp.web.listing import LIST_FILTERS, Query, listing, masks, visible_to
from agentmail_cp.web.paths import message_id_candidates, restore

MOST_GOT = 500
MOST_UPDATED = 50
"""Messages one request may name."""


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
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
            rows, token = await messages.list_page(
                tx,
                organization_id=caller.organization_id,
                inbox_id=inbox.inbox_id,
                where=_filter(asked, caller),
                limit=limit,
                page_token=asked.text("page_token"),
            )
        have = await attached(server, inbox, rows)
        shown = [
            bodies.message_item(row, inbox.address, have.get(row.document_id, ())) for row in rows
        ]
        return bodies.ListMessages(len(shown), limit, shown, shown, token)

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
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.Message:
        """Get a whole message."""
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
            row = await _find(tx, caller, inbox, message_id)
            standings = await _standings(tx, row)
        for message in await read(db, server, inbox, [row]):
            message.deliveries = [bodies.message_delivery(each) for each in standings] or None
            return message
        raise NotFound("There is no such message.")

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
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.UpdateMessageResponse:
        """Add and remove labels; a label in both lists is removed."""
        change = label_change(data)
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
            row = await _find(tx, caller, inbox, message_id)
        shown = await edits.update_labels(
            db, server, account_id=inbox.account, place=inbox.place, rows=[row], change=change
        )
        return bodies.UpdateMessageResponse(row.message_id, [*shown[row.document_id]])

    @delete(
        "/{message_id:str}",
        operation_id="messages.delete",
        guards=[needs("message_delete")],
        responses=ERRORS,
    )
    async def delete(
        self,
        inbox_id: FromPath[str],
        message_id: FromPath[str],
        caller: Caller,
        db: Db,
        server: Server,
    ) -> None:
        """Delete a message for good. To throw it away, add the label trash."""
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
            row = await _find(tx, caller, inbox, message_id)
        await edits.destroy(
            db,
            server,
            account_id=inbox.account,
            place=inbox.place,
            document_ids=[row.document_id],
        )

    @post(
        "/batch-get",
        operation_id="messages.batch_get",
        guards=[needs("message_read")],
        responses=ERRORS,
        status_code=200,
    )
    async def batch_get(
        self,
        inbox_id: FromPath[str],
        data: JSONBody[bodies.BatchGetMessages],
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.BatchGetMessagesResponse:
        """Get many messages without their bodies, in the order asked; what is not there is left out."""
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
            found = await _find_many(tx, caller, inbox, data.message_ids, MOST_GOT)
        rows = [row for row in found if row]
        have = await attached(server, inbox, rows)
        shown = [
            bodies.message_item(row, inbox.address, have.get(row.document_id, ())) for row in rows
        ]
        return bodies.BatchGetMessagesResponse(len(data.message_ids), len(shown), shown)

    @post(
        "/batch-update",
        operation_id="messages.batch_update",
        guards=[needs("message_update")],
        responses=ERRORS,
        status_code=200,
    )
    async def batch_update(
        self,
        inbox_id: FromPath[str],
        data: JSONBody[bodies.BatchUpdateMessages],
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.BatchUpdateMessagesResponse:
        """Add and remove labels of many messages: of all, or, if one is not there, of none."""
        change = label_change(data)
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
            found = await _find_many(tx, caller, inbox, data.message_ids, MOST_UPDATED)
        rows = [row for row in found if row]
        if len(rows) < len(found):
            raise NotFound(
                f"There is no message {data.message_ids[found.index(None)][:200]}.",
                fix="Leave it out; none of the messages was changed.",
            )
        shown = await edits.update_labels(
            db, server, account_id=inbox.account, place=inbox.place, rows=rows, change=change
        )
        updates = [
            bodies.UpdateMessageResponse(row.message_id, [*shown[row.document_id]]) for row in rows
        ]
        return bodies.BatchUpdateMessagesResponse(len(rows), len(updates), updates)


def label_change(data: bodies.UpdateMessage | bodies.UpdateThread) -> labels.Change:
    """The change of labels a body asks for; raises `Invalid` when it asks for none."""
    change = labels.change(data.add_labels, data.remove_labels)
    if change.empty:
        raise Invalid(
            "add_labels",
            "There is no label to change.",
            fix="Give add_labels or remove_labels.",
            detail="REQUIRED",
        )
    return change


def _filter(asked: Query, caller: Principal) -> MessageFilter:
    wanted = asked.texts("labels")
    return MessageFilter(
        labels=tuple(each.lower() for each in wanted),
        masks=masks(asked, caller, wanted),
        before=asked.time("before"),
        after=asked.time("after"),
        sender=asked.texts("from"),
        to=asked.texts("to"),
        subject=asked.texts("subject"),
        ascending=asked.flag("ascending"),
    )


async def _find(tx: Tx, caller: Principal, inbox: Inbox, message_id: str) -> messages.Message:
    """The message a path names, hidden or not, as far as the key may read it."""
    return await messages.get(
        tx,
        organization_id=caller.organization_id,
        inbox_id=inbox.inbox_id,
        candidates=message_id_candidates(restore(message_id)),
        masks=visible_to(caller),
    )


async def _standings(tx: Tx, row: messages.Message) -> list[recipients.Recipient]:
    """Where a message that was sent stands at its recipients."""
    if row.direction == "received":
        return []
    return await recipients.of(
        tx,
        organization_id=row.organization_id,
        inbox_id=row.inbox_id,
        message_id=row.message_id,
    )


async def _find_many(
    tx: Tx, caller: Principal, inbox: Inbox, ids: Sequence[str], most: int
) -> Sequence[messages.Message | None]:
    """The messages a body names as `_find` finds one, None for each that is not there."""
    if not 1 <= len(ids) <= most:
        raise Invalid(
            "message_ids",
            f"There are {len(ids)} ids in this request.",
            fix=f"Give 1 to {most}.",
            detail="TOO_MANY" if ids else "REQUIRED",
        )
    found = await messages.get_many(
        tx,
        organization_id=caller.organization_id,
        inbox_id=inbox.inbox_id,
        wanted=[message_id_candidates(each) for each in ids],
        masks=visible_to(caller),
    )
    named = [row.message_id if row else each for row, each in zip(found, ids, strict=True)]
    if len(set(named)) < len(named):
        raise Invalid(
            "message_ids",
            "A message is named more than once.",
            fix="Give each id once.",
            detail="DUPLICATE",
        )
    return found
