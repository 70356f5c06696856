"""Routes of what mail clients log in with: an inbox's mail password, its app passwords, an API key chosen as
mail password, and the table of all logins.

Whoever makes a login is looked up again in the transaction that begins it (`access.require_mail_maker`): what
the ring remembers of a key may be out of date, and a login would outlive it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

from litestar import Controller, Request, Response, delete, get, post, put
from litestar.di import Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody
from litestar.response import Stream
from litestar.types import Dependencies

from agentmail_cp import access, bodies, credentials, idempotency
from agentmail_cp.access import MAIL_CLIENT, ApiKey, Principal
from agentmail_cp.credentials import Mailbox, MailPassword, app_passwords, export, presets
from agentmail_cp.credentials.app_passwords import Wish
from agentmail_cp.db import Tx
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.inboxes import Inbox
from agentmail_cp.settings import Settings
from agentmail_cp.web.auth import bearer, needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import REPLAYED, Repeatable, answered
from agentmail_cp.web.inject import Caller, Config, Db, Server
from agentmail_cp.web.links import asked_at
from agentmail_cp.web.scopes import Within, called, everywhere, hold, one_inbox, one_pod, within

MAKING_LOGINS = [needs("inbox_update"), *(needs(each) for each in sorted(MAIL_CLIENT))]
"""The guards of whatever makes a mail login: its holder can do all of this."""

TABLE = ResponseSpec(
    bytes, media_type="text/csv", generate_examples=False, description="CSV (RFC 4180)."
)
NEVER_STORED = {"Cache-Control": "no-store"}


class InboxCredentials(Controller):
    """The mail login of one inbox."""

    tags = ("Credentials",)
    path = "/inboxes/{inbox_id:str}/credentials"
    dependencies: Dependencies | None = within(Provide(one_inbox))

    @get(
        "/profile.mobileconfig",
        operation_id="inboxes.credentials.profile",
        guards=[needs("inbox_read")],
        responses=ERRORS,
        media_type="application/x-apple-aspen-config",
    )
    async def profile(
        self, request: Request[Any, Any, Any], within: Within, settings: Config
    ) -> bytes:
        """Get a configuration profile for Apple Mail, without a password: whoever installs it is asked."""
        inbox = within.one
        return presets.profile(servers(request, settings), inbox.address, inbox.display_name)

    @post(
        "/rotate",
        operation_id="inboxes.credentials.rotate",
        guards=MAKING_LOGINS,
        responses=ERRORS,
        status_code=200,
    )
    async def rotate(
        self,
        request: Request[Any, Any, Any],
        within: Within,
        caller: Caller,
        db: Db,
        server: Server,
        settings: Config,
        once: Repeatable,
    ) -> Response[bodies.Credentials]:
        """Give the inbox a new mail password of its own, and tell it, this once. The former opens nothing any
        more; app passwords stay. Repeated under its Idempotency-Key, the answer has the password only while
        it still works.
        """
        mailbox = mailbox_of(within.one)
        async with once.held(db, "credentials", within.reach, "rotate", private=True) as claim:
            if claim.made:
                async with db.reading() as tx:
                    password = await credentials.told_before(tx, mailbox, claim)
            else:
                password = await credentials.rotate(db, server, mailbox, caller, claim)
        shown = bodies.credentials(servers(request, settings), within.one.address, password, "own")
        return answered(claim, shown, new=False)

    @get(operation_id="inboxes.credentials.get", guards=[needs("inbox_read")], responses=ERRORS)
    async def get(
        self,
        request: Request[Any, Any, Any],
        within: Within,
        caller: Caller,
        db: Db,
        settings: Config,
    ) -> bodies.InboxCredentials:
        """Get hosts, ports, user name and presets for mail clients, never a password."""
        inbox = within.one
        async with db.reading() as tx:
            chosen = await credentials.holding(tx, inbox.reach)
            login = await credentials.logins.get(tx, inbox.reach)
            key = await _key(tx, caller, chosen)
        kind: bodies.PasswordKind = "none" if login and login.kind == "none" else "own"
        return bodies.inbox_credentials(
            servers(request, settings),
            inbox.address,
            "api_key" if chosen else kind,
            pending=login is not None and login.due_at is not None,
            key=key,
        )


class InboxAppPasswords(Controller):
    """App passwords of one inbox."""

    tags = ("Credentials",)
    path = "/inboxes/{inbox_id:str}/app-passwords"
    dependencies: Dependencies | None = within(Provide(one_inbox))

    @post(
        operation_id="inboxes.app_passwords.create",
        guards=MAKING_LOGINS,
        responses=ERRORS,
    )
    async def create(
        self,
        within: Within,
        data: JSONBody[bodies.CreateAppPassword],
        caller: Caller,
        db: Db,
        server: Server,
        once: Repeatable,
    ) -> Response[bodies.CreatedAppPassword]:
        """Make one more password for mail clients, with a name, for reading or sending or both, with an end
        or for some addresses only. It is told this once.
        """
        inbox = within.one
        mailbox = mailbox_of(inbox)
        wish = Wish(
            name=data.name,
            access=data.access,
            expires_at=data.expires_at,
            allowed_ips=data.allowed_ips or (),
        )
        async with once.held(db, "app_password", within.reach, data, private=True) as claim:
            if claim.made:
                app_password_id = UUID(claim.made.resource_id)
                again = app_passwords.created_before(db, server, mailbox, app_password_id, claim)
                told = await idempotency.replay(again)
            else:
                told = await app_passwords.create(
                    db, server, mailbox, wish, caller=caller, claim=claim
                )
        shown = bodies.created_app_password(told.app_password, told.secret, inbox.address)
        return answered(claim, shown)

    @get(operation_id="inboxes.app_passwords.list", guards=[needs("inbox_read")], responses=ERRORS)
    async def list(self, within: Within, db: Db, server: Server) -> bodies.ListAppPasswords:
        """List the app passwords of an inbox, without their secrets."""
        found = await app_passwords.list_all(db, server, mailbox_of(within.one))
        return bodies.ListAppPasswords(len(found), [bodies.app_password(each) for each in found])

    @get(
        "/{app_password_id:uuid}",
        operation_id="inboxes.app_passwords.get",
        guards=[needs("inbox_read")],
        responses=ERRORS,
    )
    async def get(
        self, within: Within, app_password_id: FromPath[UUID], db: Db, server: Server
    ) -> bodies.AppPassword:
        """Get one app password, without its secret."""
        found = await app_passwords.get(db, server, mailbox_of(within.one), app_password_id)
        return bodies.app_password(found)

    @delete(
        "/{app_password_id:uuid}",
        operation_id="inboxes.app_passwords.delete",
        guards=[needs("inbox_update")],
        responses=ERRORS,
    )
    async def delete(
        self, within: Within, app_password_id: FromPath[UUID], db: Db, server: Server
    ) -> None:
        """Revoke an app password: it opens nothing any more."""
        await app_passwords.revoke(db, server, mailbox_of(within.one), app_password_id)


class _MailPassword(Controller):
    """What can be done with the choice of an API key in any scope."""

    tags = ("Credentials",)

    @get(
        operation_id=called("mail-password", "get"), guards=[needs("inbox_read")], responses=ERRORS
    )
    async def get(self, within: Within, caller: Caller, db: Db) -> bodies.MailPassword:
        """Get the API key that is the mail password here: the scope's own choice, or the next wider one."""
        async with db.reading() as tx:
            chosen = await credentials.holding(tx, within.reach)
            if chosen is None:
                raise NotFound(
                    "No API key is chosen as mail password here.",
                    fix="Each inbox has a password of its own; PUT chooses a key.",
                )
            key = await _key(tx, caller, chosen)
            pending = await credentials.logins.pending(tx, within.reach)
        return bodies.mail_password(chosen, key, pending=pending)

    @put(
        operation_id=called("mail-password", "set"),
        guards=MAKING_LOGINS,
        responses=ERRORS,
    )
    async def set(
        self,
        request: Request[Any, Any, Any],
        within: Within,
        caller: Caller,
        db: Db,
        server: Server,
        data: JSONBody[bodies.SetMailPassword | None] = None,
    ) -> bodies.MailPassword:
        """Make an API key the mail password of all inboxes of the scope, new ones too, in the place of their
        own. It needs message_read and message_send. Revoking it revokes the login.
        """
        named = data.api_key if data else None
        secret = bearer(request.scope) if named is None else named
        async with db.transaction() as tx:
            await access.require_mail_maker(tx, caller)
            await hold(tx, within.reach)
            chosen, key = await credentials.choose(tx, within.reach, secret)
        await credentials.apply_now(db, server, within.reach.organization_id)
        async with db.reading() as tx:
            pending = await credentials.logins.pending(tx, within.reach)
        return bodies.mail_password(chosen, key, pending=pending)

    @delete(
        operation_id=called("mail-password", "delete"),
        guards=MAKING_LOGINS,
        responses=ERRORS,
    )
    async def delete(self, within: Within, caller: Caller, db: Db, server: Server) -> None:
        """Take the choice of this scope back. Its inboxes have the password of the next wider choice, or
        none until theirs is rotated.
        """
        async with db.transaction() as tx:
            await access.require_mail_maker(tx, caller)
            await credentials.withdraw(tx, within.reach)
        await credentials.apply_now(db, server, within.reach.organization_id)


class InboxMailPassword(_MailPassword):
    """The API key that is one inbox's mail password."""

    path = "/inboxes/{inbox_id:str}/mail-password"
    dependencies: Dependencies | None = within(Provide(one_inbox))


class PodMailPassword(_MailPassword):
    """The API key that is the mail password of a pod's inboxes."""

    path = "/pods/{pod_id:str}/mail-password"
    dependencies: Dependencies | None = within(Provide(one_pod))


class OrganizationMailPassword(_MailPassword):
    """The API key that is the mail password of all inboxes the caller's key reaches."""

    path = "/mail-password"
    dependencies: Dependencies | None = within(Provide(everywhere))


class _Export(Controller):
    """The table of the mail logins of a scope."""

    tags = ("Credentials",)

    @get(
        operation_id=called("inboxes", "credentials.export"),
        guards=[needs("inbox_read")],
        responses={200: TABLE, **ERRORS},
    )
    async def get(
        self, request: Request[Any, Any, Any], within: Within, db: Db, settings: Config
    ) -> Stream:
        """Get the mail logins of all inboxes as CSV. `password` is empty: only hashes are kept."""
        return _table(export.lines(db, within.reach, _named(request, settings)))

    @post(
        operation_id=called("inboxes", "credentials.rotate_all"),
        guards=MAKING_LOGINS,
        responses={200: TABLE, **ERRORS},
        status_code=200,
    )
    async def rotate(
        self,
        request: Request[Any, Any, Any],
        within: Within,
        data: JSONBody[bodies.ExportCredentials],
        caller: Caller,
        db: Db,
        server: Server,
        settings: Config,
        once: Repeatable,
    ) -> Stream:
        """Give every inbox a new mail password, and tell them all as CSV, this once. Those whose password is
        an API key keep it. Send an Idempotency-Key: after an answer that did not come whole, the same request
        goes on and tells all of them; without one they would have to be set anew.
        """
        if not data.rotate:
            raise Invalid(
                "rotate",
                "rotate is not true.",
                fix='Send {"rotate": true}, or GET the table without passwords.',
            )
        async with once.held(db, "credentials", within.reach, data, private=True) as claim:
            if not claim.made:
                await export.rotate(db, server, within.reach, caller, claim)
        rows = export.lines(db, within.reach, _named(request, settings), claim)
        return _table(rows, **(REPLAYED if claim.made else {}))


class PodExport(_Export):
    """The table of the mail logins of a pod."""

    path = "/pods/{pod_id:str}/inboxes/credentials/export"
    dependencies: Dependencies | None = within(Provide(one_pod))


class Export(_Export):
    """The table of all mail logins the caller's key reaches."""

    path = "/inboxes/credentials/export"
    dependencies: Dependencies | None = within(Provide(everywhere))


ROUTES = (
    InboxCredentials,
    InboxAppPasswords,
    InboxMailPassword,
    PodMailPassword,
    OrganizationMailPassword,
    PodExport,
    Export,
)


def servers(request: Request[Any, Any, Any], settings: Settings) -> presets.Servers:
    """Where mail clients connect; where the settings name no host, it is the one that was asked."""
    return presets.servers(settings, asked_at(request).hostname or "")


def mailbox_of(inbox: Inbox) -> Mailbox:
    """An inbox as `credentials` knows it."""
    return Mailbox(inbox.reach, inbox.account)


async def _key(tx: Tx, caller: Principal, chosen: MailPassword | None) -> ApiKey | None:
    """The chosen key, for callers who reach as far as it does."""
    if chosen is None:
        return None
    try:
        return await access.get_key(tx, caller.reach, chosen.api_key_id)
    except NotFound:
        return None


def _named(request: Request[Any, Any, Any], settings: Settings) -> export.Servers:
    found = servers(request, settings)
    return export.Servers(found.imap.host, found.imap.port, found.smtp.host, found.smtp.port)


def _table(rows: AsyncGenerator[bytes], **headers: str) -> Stream:
    return Stream(
        rows,
        media_type="text/csv",
        headers={
            "Content-Disposition": 'attachment; filename="credentials.csv"',
            **NEVER_STORED,
            **headers,
        },
    )
