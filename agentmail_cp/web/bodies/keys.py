"""Bodies of API keys and of who is calling."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import access


class CreateApiKey(msgspec.Struct, kw_only=True):
    """`POST /v0/api-keys`. Without `permissions` the key may do everything in its scope."""

    name: str | None = None
    permissions: dict[str, bool] | None = None
    expires_at: datetime | None = None


class UpdateApiKey(msgspec.Struct, kw_only=True):
    """`PATCH /v0/api-keys/{api_key_id}`."""

    name: str | UnsetType = UNSET
    permissions: dict[str, bool] | UnsetType | None = UNSET


class ApiKey(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An API key without its secret."""

    api_key_id: UUID
    prefix: str
    name: str
    created_at: datetime
    updated_at: datetime
    type: str | None = None
    permissions: dict[str, bool] | None = None
    used_at: datetime | None = None
    expires_at: datetime | None = None


class CreatedApiKey(ApiKey, omit_defaults=True, kw_only=True):
    """A new API key. `api_key` is the secret, shown here and never again."""

    api_key: str


class ListApiKeys(msgspec.Struct, omit_defaults=True):
    """One page of API keys."""

    count: int
    api_keys: list[ApiKey]
    next_page_token: str | None = None


class Identity(msgspec.Struct, omit_defaults=True):
    """Whose key this is and how far it reaches."""

    scope_type: str
    scope_id: str
    organization_id: UUID
    api_key_id: UUID


def api_key(key: access.ApiKey) -> ApiKey:
    """A key as callers see it."""
    return ApiKey(**_key_shown(key))


def created_api_key(made: access.NewApiKey) -> CreatedApiKey:
    """A new key with its secret."""
    return CreatedApiKey(**_key_shown(made.key), api_key=made.secret)


def _key_shown(key: access.ApiKey) -> Mapping[str, Any]:
    return {
        "api_key_id": key.api_key_id,
        "prefix": key.prefix,
        "name": key.name,
        "created_at": key.created_at,
        "updated_at": key.updated_at,
        "type": "bearer",
        "permissions": key.permissions,
        "used_at": key.used_at,
        "expires_at": key.expires_at,
    }
