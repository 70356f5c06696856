"""Routes of threads, per inbox, per pod and over all that the key reaches: one set of handlers.

Outside an inbox, `include_deleted=true` also shows the retained mail of deleted inboxes (seed 003), which
can be read but not changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from litestar import Controller, delete, get, patch
from litestar.di import Provide
from litestar.openapi.spec import Operation
from litestar.params import FromPath, JSONBody
from litestar.types import Dependencies

from agentmail_cp import bodies, edits, inboxes, messages, pages, threads
from agentmail_cp.access import Principal
from agentmail_cp.contents import attachments_of, read, readable
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import NotFound, Unprocessable
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import AccountId, DocumentId, MailServer
from agentmail_cp.messages import Message
from agentmail_cp.sizes import mail_limit
from agentmail_cp.threads import Thread, ThreadFilter
from agentmail_cp.web.attachments import attachment_of
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Config, Db, Links, Server
from agentmail_cp.web.listing import (
    INCLUDES,
    LIST_FILTERS,
    Query,
    listing,
    masks,
    sees_all,
    visible_to,
)
from agentmail_cp.web.messages import label_change
from agentmail_cp.web.paths import restore
from agentmail_cp.web.scopes import Scope, Within, called, everywhere, one_inbox, one_pod, within

FILTERS = (*LIST_FILTERS, "senders", "recipients", "subject")
MOST_MESSAGES = 100
"""Messages on a page of a thread; also one more than a thread may have to be labelled."""


def _taking(*names: str) -> type[Operation]:
    """`listing`, and outside an inbox `include_deleted` as well."""

    @dataclass
    class Taking(Operation):
        def __post_init__(self) -> None:
            beyond = not (self.operation_id or "").startswith("inboxes.")
            whole = listing(*names, *(("include_deleted",) if beyond else ()))
            self.parameters = whole(parameters=self.parameters).parameters

    return Taking


class _Threads(Controller):
    """What can be done with threads in any scope."""

    tags = ("Threads",)

    @get(
        operation_id=called("threads", "list"),
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=_taking(*FILTERS),
    )
    async def list(
        self, within: Within, asked: Asked, caller: Caller, db: Db, server: Server
    ) -> bodies.ListThreads:
        """List threads, latest activity first."""
        limit = pages.limit(asked.text("limit"))
        where = _filter(asked, caller)
        async with db.reading() as tx:
            rows, token = await threads.list_page(
                tx,
                organization_id=caller.organization_id,
                inbox_id=within.inbox_id,
                pod_id=within.pod_id,
                where=where,
                include_deleted=asked.flag("include_deleted"),
                limit=limit,
                page_token=asked.text("page_token"),
            )
            theirs = await inboxes.get_each(
                tx, caller.organization_id, {row.inbox_id for row in rows}
            )
            rows = [row for row in await shown_to(tx, caller, rows) if where.fits(row)]
        have = await attachments_by_thread(db, server, caller, theirs, rows, where.masks)
        shown = [
            bodies.thread_item(row, theirs[row.inbox_id].address, have.get(row.thread_id))
            for row in rows
        ]
        return bodies.ListThreads(len(shown), limit, shown, shown, token)

    @get(
        "/{thread_id:str}/attachments/{attachment_id:str}",
        operation_id=called("threads", "get_attachment"),
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=_taking(),
    )
    async def attachment(
        self,
        within: Within,
        thread_id: FromPath[str],
        attachment_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
        links: Links,
    ) -> bodies.AttachmentResponse:
        """Get an attachment of any message of a thread, with a link to download it for an hour."""
        inbox, row = await _find(db, within, caller, asked, thread_id)
        async with db.reading() as tx:
            document_ids = await messages.documents_of_thread(
                tx,
                organization_id=caller.organization_id,
                thread_id=row.thread_id,
                masks=visible_to(caller),
            )
        return await attachment_of(server, links, inbox, document_ids, attachment_id)

    @get(
        "/{thread_id:str}",
        operation_id=called("threads", "get"),
        guards=[needs("message_read")],
        responses=ERRORS,
        operation_class=_taking("limit", "page_token", *INCLUDES),
    )
    async def get(
        self,
        within: Within,
        thread_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
        settings: Config,
    ) -> bodies.Thread:
        """Get a thread with its newest messages, oldest of them first; the next page has older ones.
        A page is shorter where its bodies would be larger than a message may be.
        """
        inbox, row = await _find(db, within, caller, asked, thread_id)
        visible = masks(asked, caller, ())
        limit = pages.limit(asked.text("limit"), default=MOST_MESSAGES, maximum=MOST_MESSAGES)
        page = partial(_page, db, row, visible, asked.text("page_token"))
        rows, token = await page(limit)
        # Strangers decide how much a thread holds: a page takes no more memory than a message may.
        most = mail_limit(settings.max_message_size)
        fitting = await readable(server, inbox, rows, most)
        if fitting < len(rows):
            rows, token = await page(fitting)
        shown, have = await asyncio.gather(
            read(db, server, inbox, rows),
            attachments_by_thread(db, server, caller, {inbox.inbox_id: inbox}, [row], visible),
        )
        return bodies.thread(
            row,
            inbox.address,
            shown,
            attached=have.get(row.thread_id),
            limit=limit,
            next_page_token=token,
        )

    @patch(
        "/{thread_id:str}",
        operation_id=called("threads", "update"),
        guards=[needs("message_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        within: Within,
        thread_id: FromPath[str],
        data: JSONBody[bodies.UpdateThread],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.UpdateThreadResponse:
        """Add and remove labels of all messages of a thread, as far as the key may read them; the label
        trash throws it away.
        """
        change = label_change(data)
        inbox, row = await _find(db, within, caller, asked, thread_id, active=True)
        rows = await _messages(db, row, visible_to(caller))
        if len(rows) >= MOST_MESSAGES:
            raise Unprocessable(
                f"This thread has {row.message_count} messages.",
                fix=f"Only threads of fewer than {MOST_MESSAGES} can be labelled at once; label "
                "the messages instead.",
                detail="TOO_MANY",
            )
        await edits.update_labels(
            db,
            server,
            account_id=inbox.account,
            place=inbox.place,
            rows=rows,
            change=change,
            all_or_none=False,
        )
        async with db.reading() as tx:
            now = await threads.get(
                tx, organization_id=caller.organization_id, thread_id=row.thread_id
            )
            shown = await shown_to(tx, caller, [now])
        return bodies.UpdateThreadResponse(now.thread_id, shown[0].labels if shown else [])

    @delete(
        "/{thread_id:str}",
        operation_id=called("threads", "delete"),
        guards=[needs("message_delete")],
        responses=ERRORS,
    )
    async def delete(
        self,
        within: Within,
        thread_id: FromPath[str],
        asked: Asked,
        caller: Caller,
        db: Db,
        server: Server,
    ) -> None:
        """Delete all messages of a thread for good, as far as the key may read them. To throw it away, add
        the label trash.
        """
        inbox, row = await _find(db, within, caller, asked, thread_id, active=True)
        async with db.reading() as tx:
            document_ids = await messages.documents_of_thread(
                tx,
                organization_id=caller.organization_id,
                thread_id=row.thread_id,
                masks=visible_to(caller),
            )
        await edits.destroy(
            db, server, account_id=inbox.account, place=inbox.place, document_ids=document_ids
        )


class InboxThreads(_Threads):
    """Threads of one inbox."""

    path = "/inboxes/{inbox_id:str}/threads"
    dependencies: Dependencies | None = within(Provide(one_inbox))


class PodThreads(_Threads):
    """Threads of all inboxes of a pod. `{pod_id}` is its id or its client_id."""

    path = "/pods/{pod_id:str}/threads"
    dependencies: Dependencies | None = within(Provide(one_pod))


class Threads(_Threads):
    """Threads of all inboxes that the key reaches."""

    path = "/threads"
    dependencies: Dependencies | None = within(Provide(everywhere))


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


async def _find(
    db: Database,
    within: Scope,
    caller: Principal,
    asked: Query,
    thread_id: str,
    *,
    active: bool = False,
) -> tuple[Inbox, Thread]:
    """The thread a path names and its inbox, hidden or not, as far as the key may read it."""
    async with db.reading() as tx:
        found = await threads.get(
            tx,
            organization_id=caller.organization_id,
            thread_id=_uuid(restore(thread_id)),
            inbox_id=within.inbox_id,
            pod_id=within.pod_id,
            masks=visible_to(caller),
        )
        inbox = within.inbox or await inboxes.get_for_reading(
            tx, caller.organization_id, found.inbox_id
        )
        shown = await shown_to(tx, caller, [found])
    if not shown:
        raise _no_thread()
    if inbox.state != "active" and (active or not asked.flag("include_deleted")):
        raise _no_thread()
    return inbox, shown[0]


async def shown_to(tx: Tx, caller: Principal, rows: Sequence[Thread]) -> list[Thread]:
    """Threads as a caller may know them: nothing in them tells of messages hidden from its key."""
    if sees_all(caller):
        return list(rows)
    return await threads.narrowed(tx, caller.organization_id, rows, visible_to(caller))


async def _page(
    db: Database, row: Thread, visible: Sequence[int], page_token: str | None, limit: int
) -> tuple[Sequence[Message], str | None]:
    async with db.reading() as tx:
        return await messages.page_of_thread(
            tx,
            organization_id=row.organization_id,
            thread_id=row.thread_id,
            masks=visible,
            limit=limit,
            page_token=page_token,
        )


async def _messages(db: Database, row: Thread, masks: Sequence[int]) -> list[Message]:
    async with db.reading() as tx:
        return await messages.of_thread(
            tx,
            organization_id=row.organization_id,
            thread_id=row.thread_id,
            masks=masks,
            limit=MOST_MESSAGES,
        )


async def attachments_by_thread(
    db: Database,
    server: MailServer,
    caller: Principal,
    theirs: Mapping[UUID, Inbox],
    rows: Sequence[Thread],
    visible: Sequence[int],
) -> dict[UUID, list[bodies.AttachmentItem]]:
    """What the visible messages of each of these threads have attached, oldest first."""
    having = [row.thread_id for row in rows if row.has_attachment]
    if not having:
        return {}
    async with db.reading() as tx:
        found = await messages.with_attachments(
            tx, organization_id=caller.organization_id, threads=having, masks=visible
        )
    wanted: dict[AccountId, list[DocumentId]] = {}
    for each in found:
        # An inbox may be erased between one look and the next.
        if (account_id := theirs[each.inbox_id].account_id) is not None:
            wanted.setdefault(account_id, []).append(each.document_id)
    have = await attachments_of(server, wanted)
    shown: dict[UUID, list[bodies.AttachmentItem]] = {}
    for each in found:
        account_id = theirs[each.inbox_id].account_id
        attached = have.get(account_id, {}).get(each.document_id, ()) if account_id else ()
        items = bodies.attachment_items(each.inbox_id, each.document_id, attached)
        shown.setdefault(each.thread_id, []).extend(items or ())
    return shown


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _no_thread() from None


def _no_thread() -> NotFound:
    return NotFound("There is no such thread.")
