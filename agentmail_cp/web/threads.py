"""Routes of threads, per inbox and over the whole organisation.

Over the organisation, `include_deleted=true` also shows the retained mail of deleted inboxes (seed 003).
"""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, get
from litestar.params import FromPath

from agentmail_cp import inboxes, messages, pages, threads
from agentmail_cp.access import Principal
from agentmail_cp.db import Database
from agentmail_cp.errors import NotFound
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import MailServer
from agentmail_cp.threads import Thread, ThreadFilter
from agentmail_cp.web import bodies
from agentmail_cp.web.auth import needs
from agentmail_cp.web.contents import read
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Db, Server
from agentmail_cp.web.listing import INCLUDES, LIST_FILTERS, Query, listing, masks
from agentmail_cp.web.paths import restore

FILTERS = (*LIST_FILTERS, "senders", "recipients", "subject")
MOST_MESSAGES = 100
"""Messages a thread is shown with; the newest."""


class InboxThreads(Controller):
    """Threads of one inbox."""

    path = "/inboxes/{inbox_id:str}/threads"
    tags = ("Threads",)

    @get(
        operation_id="inboxes.threads.list",
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=listing(*FILTERS),
    )
    async def list(
        self,
        inbox_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
    ) -> bodies.ListThreads:
        """List threads, latest activity first."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.organization_id, restore(inbox_id))
            rows, token = await threads.list_page(
                tx,
                organization_id=caller.organization_id,
                inbox_id=inbox.inbox_id,
                where=_filter(asked, caller),
                limit=limit,
                page_token=asked.text("page_token"),
            )
        shown = [bodies.thread_item(row, inbox.address) for row in rows]
        return bodies.ListThreads(len(shown), limit, shown, shown, token)

    @get(
        "/{thread_id:str}",
        operation_id="inboxes.threads.get",
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=listing("limit", *INCLUDES),
    )
    async def get(
        self,
        inbox_id: FromPath[str],
        thread_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.Thread:
        """Get a thread with its messages, oldest first."""
        async with db.reading() as tx:
            inbox = await inboxes.get(tx, caller.organization_id, restore(inbox_id))
            row = await threads.get(
                tx,
                organization_id=caller.organization_id,
                inbox_id=inbox.inbox_id,
                thread_id=_uuid(restore(thread_id)),
            )
        return await _whole(db, server, caller, asked, inbox, row)


class Threads(Controller):
    """Threads of all the organisation's inboxes."""

    path = "/threads"
    tags = ("Threads",)

    @get(
        operation_id="threads.list",
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=listing(*FILTERS, "include_deleted"),
    )
    async def list(
        self,
        asked: Asked,
        caller: Caller,
        db: Db,
    ) -> bodies.ListThreads:
        """List threads of all inboxes, latest activity first."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            rows, token = await threads.list_page(
                tx,
                organization_id=caller.organization_id,
                inbox_id=None,
                where=_filter(asked, caller),
                include_deleted=asked.flag("include_deleted"),
                limit=limit,
                page_token=asked.text("page_token"),
            )
            at = await inboxes.addresses_of(
                tx, caller.organization_id, {row.inbox_id for row in rows}
            )
        shown = [bodies.thread_item(row, at[row.inbox_id]) for row in rows]
        return bodies.ListThreads(len(shown), limit, shown, shown, token)

    @get(
        "/{thread_id:str}",
        operation_id="threads.get",
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=listing("limit", *INCLUDES, "include_deleted"),
    )
    async def get(
        self,
        thread_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.Thread:
        """Get a thread with its messages, oldest first."""
        async with db.reading() as tx:
            row = await threads.get(
                tx,
                organization_id=caller.organization_id,
                thread_id=_uuid(restore(thread_id)),
            )
            inbox = await inboxes.get_for_reading(tx, caller.organization_id, row.inbox_id)
        if inbox.state != "active" and not asked.flag("include_deleted"):
            raise NotFound("There is no such thread.")
        return await _whole(db, server, caller, asked, inbox, row)


async def _whole(
    db: Database,
    server: MailServer,
    caller: Principal,
    asked: Query,
    inbox: Inbox,
    row: Thread,
) -> bodies.Thread:
    async with db.reading() as tx:
        rows = await messages.list_of_thread(
            tx,
            organization_id=caller.organization_id,
            thread_id=row.thread_id,
            masks=masks(asked, caller, ()),
            limit=pages.limit(asked.text("limit"), default=MOST_MESSAGES, maximum=MOST_MESSAGES),
        )
    return bodies.thread(row, inbox.address, await read(server, inbox, rows))


def _filter(asked: Query, caller: Principal) -> ThreadFilter:
    wanted = asked.texts("labels")
    return ThreadFilter(
        labels=tuple(each.lower() for each in wanted),
        masks=masks(asked, caller, wanted),
        before=asked.time("before"),
        after=asked.time("after"),
        senders=asked.texts("senders"),
        recipients=asked.texts("recipients"),
        subject=asked.texts("subject"),
        ascending=asked.flag("ascending"),
    )


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("There is no such thread.") from None
