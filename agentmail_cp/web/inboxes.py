"""Routes of inboxes."""

from __future__ import annotations

from typing import Any

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from agentmail_cp import inboxes, pages
from agentmail_cp.errors import Forbidden
from agentmail_cp.inboxes import InboxPatch, MailDomain, NewInbox
from agentmail_cp.settings import Settings
from agentmail_cp.web import bodies
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Config, Db, Server
from agentmail_cp.web.listing import listing
from agentmail_cp.web.paths import restore


class Inboxes(Controller):
    """Inboxes of the caller's organisation. `{inbox_id}` is the address or the `inb_…` id."""

    path = "/inboxes"
    tags = ("Inboxes",)

    @post(operation_id="inboxes.create", guards=[needs("inbox_create")], responses=ERRORS)
    async def create(
        self,
        request: Request[Any, Any, Any],
        caller: Caller,
        db: Db,
        server: Server,
        settings: Config,
        data: JSONBody[bodies.CreateInbox | None] = None,
    ) -> Response[bodies.Inbox]:
        """Make an inbox, or with a known client_id get the one that has it (200 instead of 201)."""
        caller.reach.require_pod()
        wanted = data or bodies.CreateInbox()
        created = await inboxes.create(
            db,
            server,
            organization_id=caller.organization_id,
            domain=domain(settings, wanted.domain),
            new=NewInbox(
                username=wanted.username,
                display_name=wanted.display_name,
                client_id=wanted.client_id,
                metadata=wanted.metadata,
            ),
        )
        credentials = bodies.credentials(created, settings, request.base_url.hostname or "")
        return Response(
            bodies.inbox(created.inbox, credentials),
            status_code=201 if created.password else 200,
        )

    @get(
        operation_id="inboxes.list",
        guards=[needs("inbox_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token", "ascending"),
    )
    async def list(
        self,
        asked: Asked,
        caller: Caller,
        db: Db,
    ) -> bodies.ListInboxes:
        """List inboxes, newest first."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            found, token = await inboxes.list_page(
                tx,
                caller.reach,
                limit=limit,
                page_token=asked.text("page_token"),
                ascending=asked.flag("ascending"),
            )
        shown = [bodies.inbox(each) for each in found]
        return bodies.ListInboxes(len(shown), limit, shown, shown, token)

    @get(
        "/{inbox_id:str}",
        operation_id="inboxes.get",
        guards=[needs("inbox_read")],
        responses=ERRORS,
    )
    async def get(
        self,
        inbox_id: FromPath[str],
        caller: Caller,
        db: Db,
    ) -> bodies.Inbox:
        """Get one inbox."""
        async with db.reading() as tx:
            return bodies.inbox(await inboxes.get(tx, caller.reach, restore(inbox_id)))

    @patch(
        "/{inbox_id:str}",
        operation_id="inboxes.update",
        guards=[needs("inbox_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        inbox_id: FromPath[str],
        data: JSONBody[bodies.UpdateInbox],
        caller: Caller,
        db: Db,
    ) -> bodies.Inbox:
        """Change display_name or metadata. Metadata is merged; null removes."""
        wanted = InboxPatch(display_name=data.display_name, metadata=data.metadata)
        async with db.transaction() as tx:
            return bodies.inbox(await inboxes.update(tx, caller.reach, restore(inbox_id), wanted))

    @delete(
        "/{inbox_id:str}",
        operation_id="inboxes.delete",
        guards=[needs("inbox_delete")],
        responses=ERRORS,
    )
    async def delete(
        self,
        inbox_id: FromPath[str],
        caller: Caller,
        db: Db,
        server: Server,
    ) -> None:
        """Delete an inbox. Its mail is retained, its address never given to anybody else."""
        caller.reach.require_pod()
        await inboxes.delete(db, server, reach=caller.reach, inbox=restore(inbox_id))


def domain(settings: Settings, name: str | None) -> MailDomain:
    """The mail domain a new inbox is asked for on; `Forbidden` for one this server does not hold."""
    if name is None or name.lower() == settings.domain.lower():
        return MailDomain(settings.domain.lower(), settings.domain_shared)
    raise Forbidden(
        f"The domain {name[:253]} is not verified here.",
        fix=f"Leave domain out to use {settings.domain}.",
        field="domain",
        detail="UNKNOWN_DOMAIN",
        code="domain_not_verified",
    )
