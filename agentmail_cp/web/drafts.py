"""Routes of drafts: of an inbox, where they are made, changed and sent; of a pod and of all that the key
reaches, where they can be looked at.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec
from litestar import Controller, Response, delete, get, patch, post
from litestar.di import Provide
from litestar.params import FromPath, JSONBody
from litestar.types import Dependencies

from agentmail_cp import bodies, drafts, inboxes, pages
from agentmail_cp.contents import attachments_of
from agentmail_cp.drafts import DraftFilter
from agentmail_cp.errors import NotFound
from agentmail_cp.mailserver import AccountId, DocumentId
from agentmail_cp.web.attachments import attachment_of
from agentmail_cp.web.auth import needs
from agentmail_cp.web.drafting import Drafting, provide_desk
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import IdempotencyKey, Repeatable, making
from agentmail_cp.web.inject import Asked, Caller, Db, Links, Server
from agentmail_cp.web.listing import listing
from agentmail_cp.web.scopes import Within, called, everywhere, one_inbox, one_pod
from agentmail_cp.web.sends import Sent, response

FILTERS = ("limit", "page_token", "labels", "before", "after", "ascending")


class _Drafts(Controller):
    """What can be done with drafts in any scope."""

    tags = ("Drafts",)

    @get(
        operation_id=called("drafts", "list"),
        guards=[needs("draft_read")],
        responses=ERRORS,
        operation_class=listing(*FILTERS),
    )
    async def list(
        self, within: Within, asked: Asked, caller: Caller, db: Db, server: Server
    ) -> bodies.ListDrafts:
        """List drafts without their bodies, last changed first."""
        limit = pages.limit(asked.text("limit"))
        where = DraftFilter(
            labels=tuple(each.lower() for each in asked.texts("labels")),
            before=asked.time("before"),
            after=asked.time("after"),
            ascending=asked.flag("ascending"),
        )
        async with db.reading() as tx:
            rows, token = await drafts.list_page(
                tx,
                organization_id=caller.organization_id,
                inbox_id=within.inbox_id,
                pod_id=within.pod_id,
                where=where,
                limit=limit,
                page_token=asked.text("page_token"),
            )
            theirs = await inboxes.get_each(
                tx, caller.organization_id, {row.inbox_id for row in rows}
            )
        having: defaultdict[AccountId, list[DocumentId]] = defaultdict(list)
        for row in rows:
            if row.has_attachment and row.document_id is not None:
                having[row.account_id].append(row.document_id)
        have = await attachments_of(server, having)
        shown = [
            bodies.draft_item(
                row,
                theirs[row.inbox_id].address,
                have.get(row.account_id, {}).get(row.document_id, ()) if row.document_id else (),
            )
            for row in rows
        ]
        return bodies.ListDrafts(len(shown), limit, shown, shown, token)

    @get(
        "/{draft_id:str}/attachments/{attachment_id:str}",
        operation_id=called("drafts", "get_attachment"),
        guards=[needs("draft_read")],
        responses=ERRORS,
    )
    async def attachment(
        self,
        within: Within,
        draft_id: FromPath[str],
        attachment_id: FromPath[str],
        desk: Drafting,
        links: Links,
    ) -> bodies.AttachmentResponse:
        """Get an attachment of a draft, with a link to download it for an hour."""
        inbox, row, content = await desk.whole(
            draft_id, inbox_id=within.inbox_id, pod_id=within.pod_id
        )
        named = drafts.attachment_ids(row.draft_id, content.attachments)
        for own, each in zip(named, content.attachments, strict=True):
            if str(own) == attachment_id.lower():
                document_id = content.document_id
                stored_as = bodies.attachment_id(inbox.inbox_id, document_id, each.part_id)
                found = await attachment_of(
                    desk.server, links, inbox, [document_id], str(stored_as)
                )
                return msgspec.structs.replace(found, attachment_id=own)
        raise NotFound("There is no such attachment.")

    @get(
        "/{draft_id:str}",
        operation_id=called("drafts", "get"),
        guards=[needs("draft_read")],
        responses=ERRORS,
    )
    async def get(self, within: Within, draft_id: FromPath[str], desk: Drafting) -> bodies.Draft:
        """Get a whole draft. One that was sent is not there any more."""
        inbox, row, content = await desk.whole(
            draft_id, inbox_id=within.inbox_id, pod_id=within.pod_id
        )
        return bodies.draft(row, inbox.address, content)


class InboxDrafts(_Drafts):
    """Drafts of one inbox. They are in its folder Drafts as well, where mail clients show them."""

    path = "/inboxes/{inbox_id:str}/drafts"
    dependencies: Dependencies | None = {  # noqa: RUF012
        "within": Provide(one_inbox),
        "desk": Provide(provide_desk),
    }

    @post(
        operation_id=called("drafts", "create"),
        guards=[needs("draft_create")],
        responses=making(bodies.Draft),
    )
    async def create(
        self,
        inbox_id: FromPath[str],
        desk: Drafting,
        once: Repeatable,
        data: JSONBody[bodies.CreateDraft | None] = None,
    ) -> Response[bodies.Draft]:
        """Make a draft, or with a known client_id get the one that has it (200 instead of 201)."""
        return await desk.create(inbox_id, data or bodies.CreateDraft(), once)

    @patch(
        "/{draft_id:str}",
        operation_id=called("drafts", "update"),
        guards=[needs("draft_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        inbox_id: FromPath[str],
        draft_id: FromPath[str],
        data: JSONBody[bodies.UpdateDraft],
        desk: Drafting,
    ) -> bodies.Draft:
        """Change what a draft says, its labels, or when it is to be sent: all of it or nothing."""
        return await desk.update(inbox_id, draft_id, data)

    @delete(
        "/{draft_id:str}",
        operation_id=called("drafts", "delete"),
        guards=[needs("draft_delete")],
        responses=ERRORS,
    )
    async def delete(
        self, inbox_id: FromPath[str], draft_id: FromPath[str], desk: Drafting
    ) -> None:
        """Delete a draft for good, and its schedule with it."""
        await desk.delete(inbox_id, draft_id)

    @post(
        "/{draft_id:str}/send",
        operation_id=called("drafts", "send"),
        status_code=200,
        guards=[needs("draft_send")],
        responses=ERRORS,
    )
    async def send(
        self,
        inbox_id: FromPath[str],
        draft_id: FromPath[str],
        desk: Drafting,
        data: JSONBody[bodies.SendDraft | None] = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Sent:
        """Send a draft: it becomes a message and is no draft any more. It is never sent twice."""
        outcome = await desk.send(inbox_id, draft_id, data or bodies.SendDraft(), idempotency_key)
        return response(outcome)


class PodDrafts(_Drafts):
    """Drafts of all inboxes of a pod."""

    path = "/pods/{pod_id:str}/drafts"
    dependencies: Dependencies | None = {  # noqa: RUF012
        "within": Provide(one_pod),
        "desk": Provide(provide_desk),
    }


class Drafts(_Drafts):
    """Drafts of all inboxes that the key reaches."""

    path = "/drafts"
    dependencies: Dependencies | None = {  # noqa: RUF012
        "within": Provide(everywhere),
        "desk": Provide(provide_desk),
    }
