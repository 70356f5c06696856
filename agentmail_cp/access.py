"""Who is calling: organisations, their pods, and API keys.

Owns the tables `organization`, `pod` and `api_key`. A key is at least 256 random bits behind a settable
prefix, shown once and stored as its SHA-256 (a slow hash guards weak secrets; these are not weak). A key
is live until it is deleted or `expires_at` passes. `Keyring` remembers live keys for two seconds, which
is therefore how long a deleted key may still work. This module never decides about single inboxes.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from agentmail_cp import pages
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Forbidden, Invalid, NotFound, Unauthorized

PERMISSIONS = frozenset(
    f"{noun}_{verb}"
    for noun, verbs in {
        "inbox": "read create update delete",
        "message": "read reply send update delete",
        "label": "spam_read blocked_read unauthenticated_read trash_read",
        "draft": "read create update delete send",
        "webhook": "read create update delete",
        "domain": "read create update delete",
        "list_entry": "read create delete",
        "metrics": "read",
        "api_key": "read create update delete",
        "pod": "read create update delete",
    }.items()
    for verb in verbs.split()
)
"""The contract's permission names that mean something here; others are kept but grant nothing."""

LONGEST_NAME = 256
MOST_PERMISSIONS = 256
_PERMISSION_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
KEY_BYTES = 32
KEY_LIFE_IN_CACHE = 2.0
MOST_KEYS_IN_CACHE = 10_000
USED_AT_RESOLUTION = timedelta(minutes=1)


class Organization(msgspec.Struct, frozen=True):
    """A tenant: whatever it owns is invisible to every other."""

    organization_id: UUID
    name: str
    created_at: datetime
    updated_at: datetime


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


class Reach(msgspec.Struct, frozen=True):
    """How far somebody reaches: a whole organisation, one pod of it, or one inbox of that pod. What lies
    beyond is not there for them.
    """

    organization_id: UUID
    pod_id: UUID | None = None
    inbox_id: UUID | None = None

    @property
    def whole(self) -> bool:
        """Whether this is the whole organisation."""
        return self.pod_id is None and self.inbox_id is None

    def require_organization(self) -> None:
        """Raise `Forbidden` unless this is the whole organisation."""
        if not self.whole:
            raise Forbidden(
                "This API key is for one pod or inbox only.", fix="Use a key of the organization."
            )

    def require_pod(self) -> None:
        """Raise `Forbidden` when this is a single inbox."""
        if self.inbox_id is not None:
            raise Forbidden(
                "This API key is for one inbox only.",
                fix="Use a key of the pod or of the organization.",
            )


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request comes from, and what they may do."""

    reach: Reach
    api_key_id: UUID
    permissions: frozenset[str] | None
    expires_at: datetime | None

    @property
    def organization_id(self) -> UUID:
        return self.reach.organization_id

    def may(self, permission: str) -> bool:
        return self.permissions is None or permission in self.permissions

    def require(self, permission: str) -> None:
        """Raise `Forbidden` (code `missing_permission`) unless the key has the permission."""
        if not self.may(permission):
            raise Forbidden(
                f"This API key does not have the permission {permission}.",
                fix=f"Use a key with {permission}, or one without a permission list.",
                code="missing_permission",
            )


class ApiKeyPatch(msgspec.Struct, frozen=True):
    """What of a key may change."""

    name: str | UnsetType = UNSET
    permissions: dict[str, bool] | UnsetType | None = UNSET


_KEY_COLUMNS = (
    "api_key_id, organization_id, pod_id, inbox_id, name, prefix, permissions,"
    " expires_at, used_at, created_at, updated_at"
)


async def create_organization(tx: Tx, name: str) -> Organization:
    """Make an organisation with its default pod."""
    organization = await fetch_only(
        tx,
        Organization,
        "insert into organization (organization_id, name) values (%(id)s, %(name)s)"
        " returning organization_id, name, created_at, updated_at",
        {"id": uuid7(), "name": name},
    )
    await tx.execute(
        "insert into pod (pod_id, organization_id, name, is_default)"
        " values (%(pod_id)s, %(organization_id)s, 'Default Pod', true)",
        {"pod_id": uuid7(), "organization_id": organization.organization_id},
    )
    return organization


async def list_organizations(tx: Tx) -> list[Organization]:
    """Every organisation, for the operator's command line."""
    return await fetch_all(
        tx,
        Organization,
        "select organization_id, name, created_at, updated_at from organization"
        " order by created_at",
        {},
    )


async def only_organization(tx: Tx, wanted: UUID | None) -> UUID:
    """The organisation named, or the only one there is; `NotFound` or `Invalid` otherwise."""
    known = [each.organization_id for each in await list_organizations(tx)]
    if wanted is None and len(known) > 1:
        raise Invalid("org", "There are several organizations.", fix="Name one with --org.")
    if not known or (wanted is not None and wanted not in known):
        raise NotFound(
            "There is no such organization.", fix="Make one with `agentmail-cp org create NAME`."
        )
    return wanted or known[0]


async def default_pod(tx: Tx, organization_id: UUID) -> UUID:
    """The pod that holds what is made without naming one."""
    row = await (
        await tx.execute(
            "select pod_id from pod where organization_id = %(organization_id)s and is_default",
            {"organization_id": organization_id},
        )
    ).fetchone()
    if row is None:
        raise NotFound("There is no such organization.")
    return row["pod_id"]


async def find_pod(tx: Tx, reach: Reach, pod: str) -> UUID:
    """The id of the pod within reach that goes by this id or client_id; `NotFound` otherwise, and
    `Forbidden` for whoever reaches a single inbox.
    """
    reach.require_pod()
    row = await (
        await tx.execute(
            "select pod_id from pod where organization_id = %(organization_id)s"
            " and (pod_id = %(pod_id)s or client_id = %(client_id)s)",
            {
                "organization_id": reach.organization_id,
                "pod_id": _as_uuid(pod),
                "client_id": pod,
            },
        )
    ).fetchone()
    if row is None or reach.pod_id not in (None, row["pod_id"]):
        raise NotFound("There is no such pod.")
    return row["pod_id"]


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


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
    _check_permissions(permissions)
    secret = secret or prefix + secrets.token_hex(KEY_BYTES)
    key = await fetch_only(
        tx,
        ApiKey,
        "insert into api_key"
        " (api_key_id, organization_id, name, prefix, hash, permissions, expires_at)"
        " values (%(api_key_id)s, %(organization_id)s, %(name)s, %(prefix)s, %(hash)s,"
        " %(permissions)s, %(expires_at)s)"
        f" returning {_KEY_COLUMNS}",
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


def _check_permissions(permissions: Mapping[str, bool] | None) -> None:
    """Unknown names are kept for clients that know more than we do, but not just anything."""
    if len(permissions or {}) > MOST_PERMISSIONS:
        raise Invalid(
            "permissions",
            f"There are over {MOST_PERMISSIONS} permissions.",
            fix="Name only those that exist.",
        )
    if not all(_PERMISSION_NAME.fullmatch(each) for each in permissions or ()):
        raise Invalid(
            "permissions",
            "This is not the name of a permission.",
            fix="Use names like message_read.",
        )


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
        f"select {_KEY_COLUMNS} from api_key where organization_id = %(organization_id)s"
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
        f"select {_KEY_COLUMNS} from api_key"
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
        _check_permissions(patch.permissions)
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


class Keyring:
    """Turns a secret into a `Principal`, remembering each live key for two seconds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[bytes, tuple[float, ApiKey]] = {}

    async def authenticate(self, secret: str) -> Principal:
        """The principal of a live key; raises `Unauthorized` with the contract's code."""
        key = await self._find(digest(secret))
        if key is None:
            raise Unauthorized(
                "This API key is not known.",
                fix="Check the key, or make a new one with `agentmail-cp keys create`.",
                code="unknown_api_key",
            )
        if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
            raise Unauthorized("This API key has expired.", code="api_key_expired")
        return principal(key)

    async def _find(self, hashed: bytes) -> ApiKey | None:
        known = self._known.get(hashed)
        if known is not None and known[0] > monotonic():
            return known[1]
        async with self._db.reading() as tx:
            key = await _find_by_hash(tx, hashed)
        self._remember(hashed, key)
        return key

    def _remember(self, hashed: bytes, key: ApiKey | None) -> None:
        if len(self._known) >= MOST_KEYS_IN_CACHE:
            self._known.clear()
        if key is None:
            self._known.pop(hashed, None)
        else:
            self._known[hashed] = (monotonic() + KEY_LIFE_IN_CACHE, key)


def principal(key: ApiKey) -> Principal:
    """What a key amounts to."""
    granted = key.permissions
    return Principal(
        reach=Reach(key.organization_id, key.pod_id, key.inbox_id),
        api_key_id=key.api_key_id,
        permissions=None if granted is None else frozenset(n for n, on in granted.items() if on),
        expires_at=key.expires_at,
    )


async def _find_by_hash(tx: Tx, hashed: bytes) -> ApiKey | None:
    parameters: dict[str, Any] = {"hash": hashed}
    key = await fetch_one(
        tx, ApiKey, f"select {_KEY_COLUMNS} from api_key where hash = %(hash)s", parameters
    )
    if key is None:
        return None
    if key.used_at is None or key.used_at < datetime.now(UTC) - USED_AT_RESOLUTION:
        await tx.execute("update api_key set used_at = now() where hash = %(hash)s", parameters)
    return key
