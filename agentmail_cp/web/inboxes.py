"""Routes of inboxes, of all and of a pod: one set of handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from litestar import Controller, Request, Response, delete, get, patch, post
from litestar.di import Provide
from litestar.params import FromPath, JSONBody
from litestar.types import Dependencies

from agentmail_cp import access, bodies, domains, idempotency, inboxes, limits, pages, pauses
from agentmail_cp.access import Principal, Reach
from agentmail_cp.credentials.presets import Servers
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import Invalid
from agentmail_cp.idempotency import Claim, Made
from agentmail_cp.inboxes import Created, Inbox, InboxPatch, MailDomain, NewInbox
from agentmail_cp.settings import Settings
from agentmail_cp.web.auth import needs
from agentmail_cp.web.credentials import servers
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import Repeatable, answered, making
from agentmail_cp.web.inject import Asked, Caller, Config, Db, Server
from agentmail_cp.web.listing import listing
from agentmail_cp.web.paths import restore
from agentmail_cp.web.scopes import Within, called, everywhere, one_pod, within


class _Inboxes(Controller):
    """What can be done with inboxes in any scope. `{inbox_id}` is the address or the `inb_…` id."""

    tags = ("Inboxes",)

    @post(
        operation_id=called("inboxes", "create"),
        guards=[needs("inbox_create")],
        responses=making(bodies.Inbox),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        within: Within,
        caller: Caller,
        db: Db,
        server: Server,
        settings: Config,
        once: Repeatable,
        data: JSONBody[bodies.CreateInbox | None] = None,
    ) -> Response[bodies.Inbox]:
        """Make an inbox, or with a known client_id get the one that has it (200 instead of 201).

        Its mail password is told to keys without an end that may do all that a mail client can: every
        permission of messages, drafts and labels.
        """
        within.reach.require_pod()
        wanted = data or bodies.CreateInbox()
        async with db.reading() as tx:
            may = await limits.of(tx, settings, within.reach.organization_id)
            reach = await _where(tx, within.reach, _pod(wanted))
        async with once.held(db, "inbox", within.reach, wanted, private=True) as claim:
            if claim.made:
                created = await _made_before(db, reach, claim, claim.made)
            else:
                new = _new(wanted)
                created = await inboxes.known(
                    db, reach=reach, new=new, claim=claim
                ) or await inboxes.create(
                    db,
                    server,
                    reach=reach,
                    domain=await _domain(db, reach, settings, wanted.domain),
                    new=new,
                    limits=may,
                    claim=claim,
                )
        credentials = _credentials(created, servers(request, settings), caller)
        async with db.reading() as tx:
            (shown,) = await show(tx, [created.inbox], credentials)
        return answered(claim, shown, new=created.new)

    @get(
        operation_id=called("inboxes", "list"),
        guards=[needs("inbox_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token", "ascending", "pod_id", "environment"),
    )
    async def list(
        self,
        asked: Asked,
        within: Within,
        db: Db,
    ) -> bodies.ListInboxes:
        """List inboxes, newest first, those of one pod where `pod_id` or `environment` names it."""
        limit = pages.limit(asked.text("limit"))
        pod = one_of(asked.text("pod_id"), asked.text("environment"))
        async with db.reading() as tx:
            found, token = await inboxes.list_page(
                tx,
                await _where(tx, within.reach, pod),
                limit=limit,
                page_token=asked.text("page_token"),
                ascending=asked.flag("ascending"),
            )
            shown = await show(tx, found)
        return bodies.ListInboxes(len(shown), limit, shown, shown, token)

    @get(
        "/{inbox_id:str}",
        operation_id=called("inboxes", "get"),
        guards=[needs("inbox_read")],
        responses=ERRORS,
    )
    async def get(
        self,
        inbox_id: FromPath[str],
        within: Within,
        db: Db,
    ) -> bodies.Inbox:
        """Get one inbox."""
        async with db.reading() as tx:
            (shown,) = await show(tx, [await inboxes.get(tx, within.reach, restore(inbox_id))])
        return shown

    @patch(
        "/{inbox_id:str}",
        operation_id=called("inboxes", "update"),
        guards=[needs("inbox_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        inbox_id: FromPath[str],
        data: JSONBody[bodies.UpdateInbox],
        within: Within,
        db: Db,
        server: Server,
    ) -> bodies.Inbox:
        """Change display_name or metadata, which is merged (null removes), or pause the inbox and let it go
        on: `send_paused` stops sending, `status` paused receiving too.
        """
        wanted = InboxPatch(
            display_name=data.display_name,
            metadata=data.metadata,
            status=data.status,
            send_paused=data.send_paused,
        )
        changed = await inboxes.update(
            db, server, reach=within.reach, inbox=restore(inbox_id), patch=wanted
        )
        async with db.reading() as tx:
            (shown,) = await show(tx, [changed])
        return shown

    @delete(
        "/{inbox_id:str}",
        operation_id=called("inboxes", "delete"),
        guards=[needs("inbox_delete")],
        responses=ERRORS,
    )
    async def delete(
        self,
        inbox_id: FromPath[str],
        within: Within,
        db: Db,
        server: Server,
    ) -> None:
        """Delete an inbox. Its mail is retained, its address never given to anybody else."""
        within.reach.require_pod()
        await inboxes.delete(db, server, reach=within.reach, inbox=restore(inbox_id))


class Inboxes(_Inboxes):
    """All inboxes. One that is made lands in the pod named, in the key's, or in the default pod."""

    path = "/inboxes"
    dependencies: Dependencies | None = within(Provide(everywhere))


class PodInboxes(_Inboxes):
    """Inboxes of one pod."""

    path = "/pods/{pod_id:str}/inboxes"
    dependencies: Dependencies | None = within(Provide(one_pod))


async def show(
    tx: Tx, found: Sequence[Inbox], credentials: bodies.Credentials | None = None
) -> list[bodies.Inbox]:
    """Inboxes of one organisation as callers see them."""
    if not found:
        return []
    names = [each.domain for each in found]
    broken = await pauses.broken_among(tx, found[0].organization_id, names)
    return [bodies.inbox(each, credentials, broken=broken.get(each.domain)) for each in found]


def one_of(pod_id: str | None, environment: str | None) -> str | None:
    """The pod that is named by either of its words. Raises `Invalid` where they name two."""
    if pod_id is not None and environment is not None and pod_id != environment:
        raise Invalid(
            "environment",
            "pod_id and environment name different pods.",
            fix="Give one of them: an environment is a pod.",
        )
    return environment if pod_id is None else pod_id


def _pod(wanted: bodies.CreateInbox) -> str | None:
    return one_of(wanted.pod_id, wanted.environment)


async def _where(tx: Tx, reach: Reach, pod: str | None) -> Reach:
    """Where a new inbox goes: to the pod that is named, as long as that is within reach."""
    if pod is None:
        return reach
    return Reach(reach.organization_id, await access.find_pod(tx, reach, pod))


def _new(wanted: bodies.CreateInbox) -> NewInbox:
    return NewInbox(
        username=wanted.username,
        display_name=wanted.display_name,
        client_id=wanted.client_id,
        metadata=wanted.metadata,
        status=wanted.status or "active",
    )


def _credentials(created: Created, found: Servers, caller: Principal) -> bodies.Credentials | None:
    """What a mail client needs, where this answer is the one that may tell it."""
    if not caller.outranks_mail_passwords or not created.new:
        return None
    if created.password is None and not created.by_key:
        return None
    kind: bodies.PasswordKind = "api_key" if created.by_key else "own"
    return bodies.credentials(found, created.inbox.address, created.password, kind)


async def _made_before(db: Database, reach: Reach, claim: Claim, made: Made) -> Created:
    async with db.reading() as tx:
        return await idempotency.replay(inboxes.made_before(tx, reach, claim, made))


async def _domain(db: Database, reach: Reach, settings: Settings, name: str | None) -> MailDomain:
    async with db.reading() as tx:
        return await domains.for_inboxes(tx, reach, settings, name)
