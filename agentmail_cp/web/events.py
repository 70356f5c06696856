"""Routes of an inbox's events: what was labelled, by whom ever."""

from __future__ import annotations

from litestar import get
from litestar.params import FromPath

from agentmail_cp import bodies, events, inboxes, pages
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Db
from agentmail_cp.web.listing import listing, sees_all, visible_to
from agentmail_cp.web.paths import restore


@get(
    "/inboxes/{inbox_id:str}/events",
    operation_id="inboxes.events.list",
    tags=["Inboxes"],
    guards=[needs("message_read")],
    responses=ERRORS,
    operation_class=listing("limit", "page_token", "ascending"),
)
async def list_events(
    inbox_id: FromPath[str], asked: Asked, caller: Caller, db: Db
) -> bodies.ListInboxEvents:
    """List the changes of labels in an inbox, newest first, whoever made them.

    A key that may not read all hidden messages is shown those of messages it may read, and of none that
    are gone.
    """
    limit = pages.limit(asked.text("limit"))
    async with db.reading() as tx:
        inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
        rows, token = await events.list_labels(
            tx,
            organization_id=caller.organization_id,
            inbox_id=inbox.inbox_id,
            masks=None if sees_all(caller) else visible_to(caller),
            limit=limit,
            page_token=asked.text("page_token"),
            ascending=asked.flag("ascending"),
        )
    shown = [bodies.inbox_event(row, inbox.address) for row in rows]
    return bodies.ListInboxEvents(len(shown), limit, shown, token)
