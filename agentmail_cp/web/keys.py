"""Routes of API keys and of the caller itself."""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from agentmail_cp import access, pages
from agentmail_cp.access import ApiKeyPatch
from agentmail_cp.web import bodies
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Asked, Caller, Config, Db
from agentmail_cp.web.listing import listing


class ApiKeys(Controller):
    """API keys of the caller's organisation."""

    path = "/api-keys"
    tags = ("API keys",)

    @post(operation_id="api_keys.create", guards=[needs("api_key_create")], responses=ERRORS)
    async def create(
        self,
        caller: Caller,
        db: Db,
        settings: Config,
        data: JSONBody[bodies.CreateApiKey | None] = None,
    ) -> bodies.CreatedApiKey:
        """Make a key. It may do no more, and live no longer, than the caller's."""
        new = data or bodies.CreateApiKey()
        expires_at = access.expiry(new.expires_at)
        access.outlived(caller, expires_at)
        async with db.transaction() as tx:
            made = await access.create_key(
                tx,
                caller.organization_id,
                prefix=settings.key_prefix,
                name=new.name or "API key",
                permissions=access.grantable(caller, new.permissions),
                expires_at=expires_at,
            )
        return bodies.created_api_key(made)

    @get(
        operation_id="api_keys.list",
        guards=[needs("api_key_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token"),
    )
    async def list(
        self,
        asked: Asked,
        caller: Caller,
        db: Db,
    ) -> bodies.ListApiKeys:
        """List keys, newest first."""
        async with db.reading() as tx:
            found, token = await access.list_keys(
                tx,
                caller.organization_id,
                limit=pages.limit(asked.text("limit")),
                page_token=asked.text("page_token"),
            )
        return bodies.ListApiKeys(len(found), [bodies.api_key(each) for each in found], token)

    @get(
        "/{api_key_id:uuid}",
        operation_id="api_keys.get",
        guards=[needs("api_key_read")],
        responses=ERRORS,
    )
    async def get(
        self,
        api_key_id: FromPath[UUID],
        caller: Caller,
        db: Db,
    ) -> bodies.ApiKey:
        """Get one key, without its secret."""
        async with db.reading() as tx:
            return bodies.api_key(await access.get_key(tx, caller.organization_id, api_key_id))

    @patch(
        "/{api_key_id:uuid}",
        operation_id="api_keys.update",
        guards=[needs("api_key_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        api_key_id: FromPath[UUID],
        data: JSONBody[bodies.UpdateApiKey],
        caller: Caller,
        db: Db,
    ) -> bodies.ApiKey:
        """Change a key's name or permissions."""
        wanted = ApiKeyPatch(data.name, data.permissions)
        async with db.transaction() as tx:
            return bodies.api_key(await access.update_key(tx, caller, api_key_id, wanted))

    @delete(
        "/{api_key_id:uuid}",
        operation_id="api_keys.delete",
        guards=[needs("api_key_delete")],
        responses=ERRORS,
    )
    async def delete(
        self,
        api_key_id: FromPath[UUID],
        caller: Caller,
        db: Db,
    ) -> None:
        """Revoke a key. It stops working within two seconds on every replica."""
        async with db.transaction() as tx:
            await access.delete_key(tx, caller.organization_id, api_key_id)


@get("/auth/me", operation_id="auth.me", tags=["API keys"], responses=ERRORS)
async def auth_me(caller: Caller) -> bodies.Identity:
    """Whose key this is and how far it reaches."""
    return bodies.Identity(
        scope_type="organization",
        scope_id=str(caller.organization_id),
        organization_id=caller.organization_id,
        api_key_id=caller.api_key_id,
    )
