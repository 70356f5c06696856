"""Routes of search: messages, threads and inboxes.

`search` stands where an id could: a thread or message whose id is this word is not to be had by it.
"""

from __future__ import annotations

from litestar import Controller, get
from litestar.di import Provide
from litestar.params import FromPath
from litestar.types import Dependencies
from msgspec.structs import replace

from agentmail_cp import bodies, inboxes, pages, search
from agentmail_cp.contents import attached
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inboxes import show
from agentmail_cp.web.inject import Asked, Caller, Db, Server
from agentmail_cp.web.listing import Query, listing
from agentmail_cp.web.paths import restore
from agentmail_cp.web.scopes import Within, called, everywhere, one_inbox, one_pod, within
from agentmail_cp.web.threads import attachments_by_thread, shown_to

NARROWED = ("q", "limit", "page_token", "before", "after")

VISIBLE = (0,)
"""Masks of what a search may find: nothing hidden."""


@get(
    "/inboxes/{inbox_id:str}/messages/search",
    operation_id="inboxes.messages.search",
    guards=[needs("message_read")],
    responses=ERRORS,
    operation_class=listing(*NARROWED),
    tags=("Messages",),
)
async def search_messages(
    inbox_id: FromPath[str], asked: Asked, caller: Caller, db: Db, server: Server
) -> bodies.SearchMessages:
    """Search messages by the words in their addresses, subject and body, best match first.

    Each word must be somewhere in the message: in subject, addresses and names also as a part of a word.
    Spam, trash, blocked and unauthenticated messages are never found. Mail that arrived in the last
    moments is found by subject and addresses at once, by its body a little later.
    """
    limit = pages.limit(asked.text("limit"))
    query = _query(asked)
    async with db.reading() as tx:
        inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
    found = await search.messages(
        db, server, inbox=inbox, query=query, limit=limit, page_token=asked.text("page_token")
    )
    have = await attached(server, inbox, [hit.message for hit in found.hits])
    shown = [
        bodies.found_message(hit, inbox.address, have.get(hit.message.document_id, ()))
        for hit in found.hits
    ]
    return bodies.SearchMessages(len(shown), limit, shown, found.complete, found.token)


class _ThreadSearch(Controller):
    """Search of threads in any scope."""

    tags = ("Threads",)

    @get(
        operation_id=called("threads", "search"),
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=listing(*NARROWED),
    )
    async def search(
        self, within: Within, asked: Asked, caller: Caller, db: Db, server: Server
    ) -> bodies.SearchThreads:
        """Search threads: those with a message that holds each of the words, best match first.

        As searching messages; `before` and `after` are about the thread's latest activity.
        """
        limit = pages.limit(asked.text("limit"))
        found = await search.threads(
            db,
            server,
            scope=search.Scope(caller.organization_id, within.inbox_id, within.pod_id),
            inbox=within.inbox,
            query=_query(asked),
            limit=limit,
            page_token=asked.text("page_token"),
        )
        rows = [hit.thread for hit in found.hits]
        async with db.reading() as tx:
            theirs = await inboxes.get_each(
                tx, caller.organization_id, {row.inbox_id for row in rows}
            )
            known = {each.thread_id: each for each in await shown_to(tx, caller, rows)}
        have = await attachments_by_thread(db, server, caller, theirs, rows, VISIBLE)
        shown = [
            bodies.found_thread(
                replace(hit, thread=known[hit.thread.thread_id]),
                theirs[hit.thread.inbox_id].address,
                have.get(hit.thread.thread_id),
            )
            for hit in found.hits
            if hit.thread.thread_id in known
        ]
        return bodies.SearchThreads(len(shown), limit, shown, found.complete, found.token)


class InboxThreadSearch(_ThreadSearch):
    """Search of one inbox's threads."""

    path = "/inboxes/{inbox_id:str}/threads/search"
    dependencies: Dependencies | None = within(Provide(one_inbox))


class PodThreadSearch(_ThreadSearch):
    """Search of the threads of a pod's inboxes."""

    path = "/pods/{pod_id:str}/threads/search"
    dependencies: Dependencies | None = within(Provide(one_pod))


class ThreadSearch(_ThreadSearch):
    """Search of all threads that the key reaches."""

    path = "/threads/search"
    dependencies: Dependencies | None = within(Provide(everywhere))


class _InboxSearch(Controller):
    """Search of inboxes in any scope."""

    tags = ("Inboxes",)

    @get(
        operation_id=called("inboxes", "search"),
        guards=[needs("inbox_read")],
        responses=ERRORS,
        operation_class=listing("q", "limit", "page_token"),
    )
    async def search(self, within: Within, asked: Asked, db: Db) -> bodies.SearchInboxes:
        """Search inboxes by the beginnings of words in address and display name.

        An exact address comes first, then the newest. A page may be empty and have a `next_page_token`.
        """
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            found, token = await inboxes.search(
                tx,
                within.reach,
                q=asked.text("q"),
                limit=limit,
                page_token=asked.text("page_token"),
            )
            shown = await show(tx, found)
        return bodies.SearchInboxes(len(shown), limit, shown, token)


class InboxSearch(_InboxSearch):
    """Search of all inboxes."""

    path = "/inboxes/search"
    dependencies: Dependencies | None = within(Provide(everywhere))


class PodInboxSearch(_InboxSearch):
    """Search of a pod's inboxes."""

    path = "/pods/{pod_id:str}/inboxes/search"
    dependencies: Dependencies | None = within(Provide(one_pod))


def _query(asked: Query) -> search.Query:
    return search.parse(asked.text("q"), asked.time("before"), asked.time("after"))


ROUTES = (
    search_messages,
    InboxThreadSearch,
    PodThreadSearch,
    ThreadSearch,
    InboxSearch,
    PodInboxSearch,
)
