"""Routes of API keys, per inbox, per pod and over all that the caller's key reaches: one set of handlers.

A list shows the keys of its scope and of narrower ones: that of a pod those of its inboxes, too. A key that
reaches further than the path or the caller's own key is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import Provide
from litestar.params import FromPath, JSONBody
from litestar.types import Dependencies

from agentmail_cp import access, bodies, credentials, idempotency, inboxes, pages
from agentmail_cp.access import ApiKey, ApiKeyPatch
from agentmail_cp.db import Tx
from agentmail_cp.errors import Invalid
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import Repeatable, answered
from agentmail_cp.web.inject import Asked, Caller, Config, Db, Server
from agentmail_cp.web.listing import Query, listing
from agentmail_cp.web.scopes import (
    Scope,
    Within,
    called,
    everywhere,
    hold,
    one_inbox,
    one_pod,
    within,
)

BEARER, PUBLIC = "bearer", "public_key"


class _ApiKeys(Controller):
    """What can be done with API keys in any scope."""

    tags = ("API keys",)

    @post(
        operation_id=called("api-keys", "create"),
        guards=[needs("api_key_create")],
        responses=ERRORS,
    )
    async def create(
        self,
        within: Within,
        caller: Caller,
        db: Db,
        settings: Config,
        once: Repeatable,
        data: JSONBody[bodies.CreateApiKey | None] = None,
    ) -> Response[bodies.CreatedApiKey]:
        """Make a key for this scope. It may do no more, and live no longer, than the caller's."""
        new = data or bodies.CreateApiKey()
        _refuse_public_key(new)
        async with db.transaction() as tx:
            claim = await once.claim(tx, "api_key", within.reach, new, private=True)
            entropy = claim.secret("API key")
            if claim.made:
                api_key_id = UUID(claim.made.resource_id)
                again = access.issued_before(tx, caller, within.reach, api_key_id, entropy)
                made = await idempotency.replay(again)
            else:
                await hold(tx, within.reach)
                made = await access.issue_key(
                    tx,
                    caller,
                    within.reach,
                    prefix=settings.key_prefix,
                    name=new.name or "API key",
                    permissions=new.permissions,
                    expires_at=new.expires_at,
                    entropy=entropy,
                )
                await idempotency.complete(tx, claim, made.key.api_key_id)
        address = within.inbox.address if within.inbox else None
        return answered(claim, bodies.created_api_key(made, address))

    @get(
        operation_id=called("api-keys", "list"),
        guards=[needs("api_key_read")],
        responses=ERRORS,
        operation_class=listing("type", "limit", "page_token", "ascending"),
    )
    async def list(self, within: Within, asked: Asked, db: Db) -> bodies.ListApiKeys:
        """List the keys of this scope and of narrower ones, newest first."""
        limit = pages.limit(asked.text("limit"))
        if _type(asked) == PUBLIC:
            return bodies.ListApiKeys(0, [])
        async with db.reading() as tx:
            found, token = await access.list_keys(
                tx,
                within.reach,
                limit=limit,
                page_token=asked.text("page_token"),
                ascending=asked.flag("ascending"),
            )
            shown = await _shown(tx, within, found)
        return bodies.ListApiKeys(len(shown), shown, token)

    @get(
        "/{api_key_id:uuid}",
        operation_id=called("api-keys", "get"),
        guards=[needs("api_key_read")],
        responses=ERRORS,
    )
    async def get(self, within: Within, api_key_id: FromPath[UUID], db: Db) -> bodies.ApiKey:
        """Get one key, without its secret."""
        async with db.reading() as tx:
            found = await access.get_key(tx, within.reach, api_key_id)
            return (await _shown(tx, within, [found]))[0]

    @patch(
        "/{api_key_id:uuid}",
        operation_id=called("api-keys", "update"),
        guards=[needs("api_key_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        within: Within,
        api_key_id: FromPath[UUID],
        data: JSONBody[bodies.UpdateApiKey],
        caller: Caller,
        db: Db,
        server: Server,
    ) -> bodies.ApiKey:
        """Change a key's name or permissions, within two seconds on every replica."""
        wanted = ApiKeyPatch(
            name=data.name, permissions=data.permissions, expires_at=data.expires_at
        )
        async with db.transaction() as tx:
            changed = await access.update_key(tx, caller, within.reach, api_key_id, wanted)
            due = await credentials.key_changed(tx, caller.organization_id, api_key_id)
            (shown,) = await _shown(tx, within, [changed])
        if due:
            await credentials.apply_now(db, server, caller.organization_id)
        return shown

    @delete(
        "/{api_key_id:uuid}",
        operation_id=called("api-keys", "delete"),
        guards=[needs("api_key_delete")],
        responses=ERRORS,
    )
    async def delete(
        self, within: Within, api_key_id: FromPath[UUID], caller: Caller, db: Db, server: Server
    ) -> None:
        """Revoke a key: at once as a mail password, and within two seconds on every replica."""
        async with db.transaction() as tx:
            await access.delete_key(tx, caller, within.reach, api_key_id)
            due = await credentials.key_changed(tx, caller.organization_id, api_key_id)
        if due:
            await credentials.apply_now(db, server, caller.organization_id)


class InboxApiKeys(_ApiKeys):
    """API keys of one inbox."""

    path = "/inboxes/{inbox_id:str}/api-keys"
    dependencies: Dependencies | None = within(Provide(one_inbox))


class PodApiKeys(_ApiKeys):
    """API keys of a pod and of its inboxes."""

    path = "/pods/{pod_id:str}/api-keys"
    dependencies: Dependencies | None = within(Provide(one_pod))


class ApiKeys(_ApiKeys):
    """API keys of all that the caller's key reaches. A new one reaches as far as the caller's."""

    path = "/api-keys"
    dependencies: Dependencies | None = within(Provide(everywhere))


@get("/auth/me", operation_id="auth.me", tags=["API keys"], responses=ERRORS)
async def auth_me(caller: Caller, db: Db) -> bodies.Identity:
    """Whose key this is and how far it reaches."""
    inbox = (await everywhere(caller, db)).inbox
    return bodies.identity(caller, inbox.address if inbox else None)


def _refuse_public_key(new: bodies.CreateApiKey) -> None:
    if new.public_key is not None:
        raise Invalid(
            "public_key",
            "This server has no public keys.",
            fix="Leave public_key out: the answer holds a secret key.",
        )


def _type(asked: Query) -> str:
    wanted = asked.text("type") or BEARER
    if wanted not in {BEARER, PUBLIC}:
        raise Invalid(
            "type", "There are no API keys of this type.", fix=f"Use {BEARER}, or leave it out."
        )
    return wanted


async def _shown(tx: Tx, within: Scope, keys: Sequence[ApiKey]) -> list[bodies.ApiKey]:
    of = {key.inbox_id for key in keys if key.inbox_id}
    theirs = await inboxes.get_each(tx, within.reach.organization_id, of) if of else {}
    return [
        bodies.api_key(key, theirs[key.inbox_id].address if key.inbox_id else None) for key in keys
    ]
