"""API keys: made, shown once, narrowed, revoked. Owns the table `api_key`.

A key of an inbox has its pod in the row, too, so that everything within a pod is found by `pod_id`. Who
changes keys is looked up again in the same transaction: what the ring remembers of a caller may be out
of date, and a key that was just narrowed must not widen itself again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from agentmail_cp import pages
from agentmail_cp.access import delegation
from agentmail_cp.access.permissions import MAIL_CLIENT, canonical, granted_by
from agentmail_cp.access.reach import Principal, Reach, in_reach
from agentmail_cp.db import Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Forbidden, Invalid, NotFound, Unauthorized

LONGEST_NAME = 256
KEY_BYTES = 32
LATEST_END = datetime(3000, 1, 1, tzinfo=UTC)
"""When a key or an app password ends at the latest. Later times are not known to Stalwart (from 3001 on), nor
to psycopg in every time zone (the last hours of 9999); who writes one means never.
"""
SHOWN = 8
"""Characters of a secret behind its prefix that a key goes by."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret. `permissions` None means everything in its reach."""

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

    def __repr__(self) -> str:
        return f"NewApiKey(key={self.key!r})"


class ApiKeyPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What of a key may change. `expires_at` cannot: it is here to be compared."""

    name: str | UnsetType = UNSET
    permissions: dict[str, bool] | UnsetType | None = UNSET
    expires_at: datetime | UnsetType | None = UNSET


COLUMNS = (
    "api_key_id, organization_id, pod_id, inbox_id, name, prefix, permissions,"
    " expires_at, used_at, created_at, updated_at"
)


def digest(secret: str) -> bytes:
    """What is stored of a key, and how one is found again."""
    return hashlib.sha256(secret.encode()).digest()


def principal(key: ApiKey) -> Principal:
    """What a key amounts to."""
    return Principal(
        reach=Reach(key.organization_id, key.pod_id, key.inbox_id),
        api_key_id=key.api_key_id,
        permissions=granted_by(key.permissions),
        expires_at=key.expires_at,
    )


async def create_key(
    tx: Tx,
    reach: Reach,
    *,
    prefix: str,
    name: str,
    permissions: Mapping[str, bool] | None = None,
    expires_at: datetime | None = None,
    secret: str | None = None,
) -> NewApiKey:
    """Make a key for the operator. `secret` is given only where a known key is put back, as `make dev`
    does. Raises `Invalid`.
    """
    granted = canonical(permissions)
    secret = secret or prefix + secrets.token_hex(KEY_BYTES)
    key = await fetch_only(
        tx,
        ApiKey,
        "insert into api_key (api_key_id, organization_id, pod_id, inbox_id, name, prefix, hash,"
        " permissions, expires_at)"
        " values (%(api_key_id)s, %(organization_id)s, %(pod_id)s, %(inbox_id)s, %(name)s,"
        " %(prefix)s, %(hash)s, %(permissions)s, %(expires_at)s)"
        f" returning {COLUMNS}",
        msgspec.structs.asdict(reach)
        | {
            "api_key_id": uuid7(),
            "name": _check_name(name),
            "prefix": secret[: len(prefix) + SHOWN],
            "hash": digest(secret),
            "permissions": None if granted is None else Jsonb(granted),
            "expires_at": expiry(expires_at),
        },
    )
    return NewApiKey(key, secret)


async def issue_key(
    tx: Tx,
    caller: Principal,
    reach: Reach,
    *,
    prefix: str,
    name: str,
    permissions: Mapping[str, bool] | None,
    expires_at: datetime | None,
    entropy: bytes,
) -> NewApiKey:
    """Make a key for a caller, which ends with the caller's unless told when. `entropy` is 32 random
    bytes, `issued_before` wants the same. Raises `Invalid`, `Forbidden` and `NotFound` as `delegation`
    does, and `Unauthorized` when the caller's own key is gone meanwhile.
    """
    maker = await _maker(tx, caller)
    expires_at = expiry(expires_at) or maker.expires_at
    delegation.check_new(maker, reach, granted_by(canonical(permissions)), expires_at)
    return await create_key(
        tx,
        reach,
        prefix=prefix,
        name=name,
        permissions=permissions,
        expires_at=expires_at,
        secret=prefix + entropy.hex(),
    )


async def issued_before(
    tx: Tx, caller: Principal, reach: Reach, api_key_id: UUID, entropy: bytes
) -> NewApiKey:
    """A key made from this entropy, with its secret once more, for who could make it now. Raises as
    `issue_key`, and `NotFound` for one that is deleted.
    """
    maker = await _maker(tx, caller)
    key = await get_key(tx, reach, api_key_id)
    delegation.check_new(maker, reach, granted_by(key.permissions), key.expires_at)
    return NewApiKey(key, key.prefix[:-SHOWN] + entropy.hex())


async def require_mail_maker(tx: Tx, caller: Principal) -> None:
    """Raise unless the caller may make a mail login, even now: its holder can do all that a mail client
    can, and without end. Until the transaction ends, the caller's key stays as it is. Raises `Forbidden`,
    and `Unauthorized` when the key is gone meanwhile.
    """
    now = _live(await _own(tx, caller), "inbox_update")
    for each in sorted(MAIL_CLIENT):
        now.require(each)
    if now.expires_at is not None:
        raise Forbidden(
            "This API key expires, and a mail login it makes would not.",
            fix="Use a key without expires_at.",
            code="permission_escalation",
        )


async def _maker(tx: Tx, caller: Principal) -> Principal:
    """The caller, whose key cannot change until the transaction ends."""
    return _live(await _own(tx, caller), "api_key_create")


async def _own(tx: Tx, caller: Principal) -> ApiKey | None:
    """The caller's key as it is now, held."""
    return await fetch_one(
        tx,
        ApiKey,
        f"select {COLUMNS} from api_key where organization_id = %(organization_id)s"
        " and api_key_id = %(api_key_id)s for share",
        {"organization_id": caller.organization_id, "api_key_id": caller.api_key_id},
    )


def expiry(expires_at: datetime | None) -> datetime | None:
    """When a new key ends, in UTC; a time without an offset is taken as UTC. Raises `Invalid`
    TIME_OUT_OF_RANGE.
    """
    moment = _utc(expires_at)
    if moment is None or datetime.now(UTC) < moment <= LATEST_END:
        return moment
    raise Invalid(
        "expires_at",
        f"expires_at is not in the future, or after the beginning of {LATEST_END.year}.",
        fix=f"Give a time to come before {LATEST_END.year}, or leave it out.",
        detail="TIME_OUT_OF_RANGE",
    )


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    try:
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _check_name(name: str) -> str:
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise Invalid(
            "name",
            "This name does not fit.",
            fix=f"Use at most {LONGEST_NAME} printable characters on one line.",
        )
    return name


async def list_keys(
    tx: Tx, reach: Reach, *, limit: int, page_token: str | None, ascending: bool = False
) -> tuple[list[ApiKey], str | None]:
    """One page of the keys that reach no further, by time of creation, and the token of the next."""
    scope = f"api-keys/{reach.inbox_id or reach.pod_id or reach.organization_id}/{ascending}"
    page, parameters = pages.by_time(
        scope, page_token, ("created_at", "api_key_id"), limit=limit, ascending=ascending
    )
    rows = await fetch_all(
        tx,
        ApiKey,
        f"select {COLUMNS} from api_key where organization_id = %(organization_id)s"
        f"{in_reach(reach)}{page}",
        msgspec.structs.asdict(reach) | parameters,
    )
    return pages.cut(scope, rows, limit, lambda last: (last.created_at, last.api_key_id))


async def get_key(tx: Tx, reach: Reach, api_key_id: UUID) -> ApiKey:
    """One key that reaches no further, or `NotFound`."""
    key = await fetch_one(
        tx,
        ApiKey,
        f"select {COLUMNS} from api_key where organization_id = %(organization_id)s"
        f" and api_key_id = %(api_key_id)s{in_reach(reach)}",
        msgspec.structs.asdict(reach) | {"api_key_id": api_key_id},
    )
    if key is None:
        raise _no_key()
    return key


async def find_key(tx: Tx, organization_id: UUID, secret: str) -> ApiKey | None:
    """The organisation's key with this secret."""
    return await fetch_one(
        tx,
        ApiKey,
        f"select {COLUMNS} from api_key where organization_id = %(organization_id)s"
        " and hash = %(hash)s",
        {"organization_id": organization_id, "hash": digest(secret)},
    )


async def update_key(
    tx: Tx, caller: Principal, reach: Reach, api_key_id: UUID, patch: ApiKeyPatch
) -> ApiKey:
    """Change name or permissions of a key that reaches no further. Raises `Invalid`, `NotFound`,
    `Forbidden` as `delegation` does, and `Unauthorized` when the caller's own key is gone meanwhile.
    """
    changer, key = await _lock(tx, caller, reach, api_key_id, "api_key_update")
    delegation.check_touch(changer, principal(key))
    _check_patch(key, patch)
    now = key.permissions
    if patch.permissions is not UNSET:
        now = canonical(patch.permissions)
        delegation.check_change(changer, principal(key), granted_by(now))
    return await fetch_only(
        tx,
        ApiKey,
        "update api_key set name = %(name)s, permissions = %(permissions)s, updated_at = now()"
        " where organization_id = %(organization_id)s and api_key_id = %(api_key_id)s"
        f" returning {COLUMNS}",
        {
            "organization_id": key.organization_id,
            "api_key_id": key.api_key_id,
            "name": key.name if patch.name is UNSET else _check_name(patch.name),
            "permissions": None if now is None else Jsonb(now),
        },
    )


def _check_patch(key: ApiKey, patch: ApiKeyPatch) -> None:
    if patch.expires_at is not UNSET and _utc(patch.expires_at) != key.expires_at:
        raise Invalid(
            "expires_at",
            "expires_at of a key cannot be changed.",
            fix="Leave it out, or make a new key and delete this one.",
        )
    if patch.name is UNSET and patch.permissions is UNSET:
        raise Invalid(
            "name", "Nothing to update.", fix="Give name or permissions.", detail="REQUIRED"
        )


async def delete_key(tx: Tx, caller: Principal, reach: Reach, api_key_id: UUID) -> None:
    """Revoke a key that reaches no further, perhaps the caller's own. Raises as `update_key` does."""
    remover, key = await _lock(tx, caller, reach, api_key_id, "api_key_delete")
    delegation.check_touch(remover, principal(key))
    await tx.execute(
        "delete from api_key"
        " where organization_id = %(organization_id)s and api_key_id = %(api_key_id)s",
        {"organization_id": key.organization_id, "api_key_id": key.api_key_id},
    )


async def revoke_within(tx: Tx, reach: Reach) -> None:
    """Revoke every key that reaches no further: the inbox or pod is gone."""
    await tx.execute(
        "with gone as (select api_key_id from api_key"
        f" where organization_id = %(organization_id)s{in_reach(reach)}"
        # In the order of `_lock`: its two keys may be among these.
        " order by api_key_id for update)"
        " delete from api_key using gone where api_key.organization_id = %(organization_id)s"
        " and api_key.api_key_id = gone.api_key_id",
        msgspec.structs.asdict(reach),
    )


async def _lock(
    tx: Tx, caller: Principal, reach: Reach, api_key_id: UUID, permission: str
) -> tuple[Principal, ApiKey]:
    """The caller as it is now, and the key it is about; both stay so until the transaction ends."""
    rows = await fetch_all(
        tx,
        ApiKey,
        f"select {COLUMNS} from api_key where organization_id = %(organization_id)s"
        # In one order, so that two keys at work on each other do not wait for ever.
        " and api_key_id = any(%(api_key_ids)s) order by api_key_id for update",
        {
            "organization_id": caller.organization_id,
            "api_key_ids": [caller.api_key_id, api_key_id],
        },
    )
    found = {row.api_key_id: row for row in rows}
    now = _live(found.get(caller.api_key_id), permission)
    key = found.get(api_key_id)
    if key is None or not reach.covers(principal(key).reach):
        raise _no_key()
    return now, key


def _live(key: ApiKey | None, permission: str) -> Principal:
    """The caller of a change, who may have lost the key or the permission a moment ago."""
    if key is None:
        raise Unauthorized("This API key was deleted.", code="unknown_api_key")
    now = principal(key)
    now.check_live()
    now.require(permission)
    return now


def _no_key() -> NotFound:
    return NotFound("There is no such API key.", fix="List your API keys to see which there are.")
