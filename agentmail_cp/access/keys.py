"""API keys: made, shown once, narrowed, revoked. Owns the table `api_key`."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from agentmail_cp import pages
from agentmail_cp.access import permissions as names
from agentmail_cp.access.reach import Principal, Reach
from agentmail_cp.db import Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Forbidden, Invalid, NotFound

LONGEST_NAME = 256
KEY_BYTES = 32


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret. `permissions` None means everything in its scope."""

    api_key_id: UUID
    organization_id: UUID
    pod_id: UUID | None
    inbox_id: UUID | None
    name: str
    prefix: str
    permissions: dict[str, bool] | None
    expires_at: datetime | None
    used_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewApiKey(msgspec.Struct, frozen=True):
    """A key just made, with the secret that is never shown again."""

    key: ApiKey
    secret: str


class ApiKeyPatch(msgspec.Struct, frozen=True):
    """What of a key may change."""

    name: str | UnsetType = UNSET
    permissions: dict[str, bool] | UnsetType | None = UNSET


COLUMNS = (
    "api_key_id, organization_id, pod_id, inbox_id, name, prefix, permissions,"
    " expires_at, used_at, created_at, updated_at"
)


def digest(secret: str) -> bytes:
    """What is stored of a key, and how one is found again."""
    return hashlib.sha256(secret.encode()).digest()


async def create_key(
    tx: Tx,
    organization_id: UUID,
    *,
    prefix: str,
    name: str,
    permissions: dict[str, bool] | None = None,
    expires_at: datetime | None = None,
    secret: str | None = None,
) -> NewApiKey:
    """Make a key. `secret` is given only where a known key is put back, as `make dev` does."""
    expires_at = expiry(expires_at)
    names.check(permissions)
    secret = secret or prefix + secrets.token_hex(KEY_BYTES)
    key = await fetch_only(
        tx,
        ApiKey,
        "insert into api_key"
        " (api_key_id, organization_id, name, prefix, hash, permissions, expires_at)"
        " values (%(api_key_id)s, %(organization_id)s, %(name)s, %(prefix)s, %(hash)s,"
        " %(permissions)s, %(expires_at)s)"
        f" returning {COLUMNS}",
        {
            "api_key_id": uuid7(),
            "organization_id": organization_id,
            "name": _check_name(name),
            "prefix": secret[: len(prefix) + 8],
            "hash": digest(secret),
            "permissions": None if permissions is None else Jsonb(permissions),
            "expires_at": expires_at,
        },
    )
    return NewApiKey(key, secret)


def grantable(caller: Principal, permissions: dict[str, bool] | None) -> dict[str, bool] | None:
    """What a caller may give away: never more than it has. Raises `Forbidden`."""
    if caller.permissions is None:
        return permissions
    wanted = None if permissions is None else {name for name, on in permissions.items() if on}
    if wanted is None or not wanted <= caller.permissions:
        raise Forbidden(
            "An API key cannot make one that may do more than itself.",
            fix="Leave out permissions your key does not have.",
            code="permission_escalation",
        )
    return permissions


def outlived(caller: Principal, expires_at: datetime | None) -> None:
    """Raise `Forbidden` when a new key would live longer than the caller's."""
    if caller.expires_at is None:
        return
    if expires_at is None or expires_at > caller.expires_at:
        raise Forbidden(
            "An API key cannot make one that lives longer than itself.",
            fix=f"Set expires_at to {caller.expires_at.isoformat()} or earlier.",
            code="permission_escalation",
        )


def expiry(expires_at: datetime | None) -> datetime | None:
    """When a new key ends, in UTC; a time without an offset is taken as UTC. Raises `Invalid`."""
    if expires_at is None:
        return None
    try:
        moment = expires_at.replace(tzinfo=expires_at.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        moment = datetime.min.replace(tzinfo=UTC)
    if moment <= datetime.now(UTC):
        raise Invalid(
            "expires_at",
            "expires_at is not a time in the future.",
            fix="Give a later time, or leave it out.",
        )
    return moment


def _check_name(name: str) -> str:
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise Invalid(
            "name",
            "This name does not fit.",
            fix=f"Use at most {LONGEST_NAME} printable characters on one line.",
        )
    return name


_FROM_THE_TOP = ("infinity", UUID(int=2**128 - 1))


async def list_keys(
    tx: Tx, organization_id: UUID, *, limit: int, page_token: str | None
) -> tuple[list[ApiKey], str | None]:
    """One page of keys, newest first, and the token of the next page."""
    scope = f"api-keys/{organization_id}"
    created_at, api_key_id = (
        pages.decode(scope, page_token, tuple[datetime, UUID]) if page_token else _FROM_THE_TOP
    )
    rows = await fetch_all(
        tx,
        ApiKey,
        f"select {COLUMNS} from api_key where organization_id = %(organization_id)s"
        " and (created_at, api_key_id) < (%(created_at)s::timestamptz, %(api_key_id)s::uuid)"
        " order by created_at desc, api_key_id desc limit %(limit)s",
        {
            "organization_id": organization_id,
            "created_at": created_at,
            "api_key_id": api_key_id,
            "limit": limit + 1,
        },
    )
    return pages.cut(scope, rows, limit, lambda last: (last.created_at, last.api_key_id))


async def get_key(tx: Tx, organization_id: UUID, api_key_id: UUID) -> ApiKey:
    """One key of an organisation, or `NotFound`."""
    key = await fetch_one(
        tx,
        ApiKey,
        f"select {COLUMNS} from api_key"
        " where organization_id = %(organization_id)s and api_key_id = %(api_key_id)s",
        {"organization_id": organization_id, "api_key_id": api_key_id},
    )
    if key is None:
        raise NotFound("There is no such API key.")
    return key


async def update_key(tx: Tx, caller: Principal, api_key_id: UUID, patch: ApiKeyPatch) -> ApiKey:
    """Change name or permissions. An unrestricted key is changed only by an unrestricted one."""
    if patch.name is UNSET and patch.permissions is UNSET:
        raise Invalid(
            "name", "Nothing to update.", fix="Give name or permissions.", detail="REQUIRED"
        )
    key = await get_key(tx, caller.organization_id, api_key_id)
    if caller.permissions is not None and key.permissions is None:
        raise Forbidden(
            "Only a key without a permission list can change this one.",
            code="unrestricted_key_required",
        )
    permissions = key.permissions
    if patch.permissions is not UNSET:
        names.check(patch.permissions)
        permissions = grantable(caller, patch.permissions)
    await tx.execute(
        "update api_key set name = %(name)s, permissions = %(permissions)s, updated_at = now()"
        " where organization_id = %(organization_id)s and api_key_id = %(api_key_id)s",
        {
            "organization_id": caller.organization_id,
            "api_key_id": api_key_id,
            "name": key.name if patch.name is UNSET else _check_name(patch.name),
            "permissions": None if permissions is None else Jsonb(permissions),
        },
    )
    return await get_key(tx, caller.organization_id, api_key_id)


async def delete_key(tx: Tx, organization_id: UUID, api_key_id: UUID) -> None:
    """Revoke a key; `NotFound` when there is none."""
    cursor = await tx.execute(
        "delete from api_key"
        " where organization_id = %(organization_id)s and api_key_id = %(api_key_id)s",
        {"organization_id": organization_id, "api_key_id": api_key_id},
    )
    if cursor.rowcount == 0:
        raise NotFound("There is no such API key.")


async def delete_keys_of_pod(tx: Tx, organization_id: UUID, pod_id: UUID) -> None:
    """Revoke every key of a pod and of its inboxes."""
    await tx.execute(
        "delete from api_key where organization_id = %(organization_id)s and pod_id = %(pod_id)s",
        {"organization_id": organization_id, "pod_id": pod_id},
    )


def principal(key: ApiKey) -> Principal:
    """What a key amounts to."""
    granted = key.permissions
    return Principal(
        reach=Reach(key.organization_id, key.pod_id, key.inbox_id),
        api_key_id=key.api_key_id,
        permissions=None if granted is None else frozenset(n for n, on in granted.items() if on),
        expires_at=key.expires_at,
    )
