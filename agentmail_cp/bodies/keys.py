"""Bodies of API keys and of who is calling."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import access
from agentmail_cp.access import Principal


class CreateApiKey(msgspec.Struct, kw_only=True):
    """A new API key. Without `permissions` it may do everything in its scope; `public_key` is refused."""

    name: str | None = None
    permissions: dict[str, bool] | None = None
    expires_at: datetime | None = None
    public_key: Any = None


class UpdateApiKey(msgspec.Struct, kw_only=True):
    """A change to an API key. `permissions` null frees it; another `expires_at` than its own is refused."""

    name: str | UnsetType = UNSET
    permissions: dict[str, bool] | UnsetType | None = UNSET
    expires_at: datetime | UnsetType | None = UNSET


class ApiKey(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An API key without its secret. Of an organisation's key, `pod_id` and `inbox_id` are missing, of a
    pod's `inbox_id`, which is an address.
    """

    api_key_id: UUID
    prefix: str
    name: str
    created_at: datetime
    updated_at: datetime
    type: str | None = None
    pod_id: UUID | None = None
    inbox_id: str | None = None
    permissions: dict[str, bool] | None = None
    used_at: datetime | None = None
    expires_at: datetime | None = None


class CreatedApiKey(ApiKey, omit_defaults=True, kw_only=True):
    """A new API key. `api_key` is the secret, shown here and never again."""

    api_key: str

    def __repr__(self) -> str:
        return f"CreatedApiKey(api_key_id={self.api_key_id!r})"


class ListApiKeys(msgspec.Struct, omit_defaults=True):
    """One page of API keys."""

    count: int
    api_keys: list[ApiKey]
    next_page_token: str | None = None


class Identity(msgspec.Struct, omit_defaults=True):
    """Whose key this is and how far it reaches. `scope_id` is the id of what `scope_type` says: an
    organisation's, a pod's, or an inbox's address.
    """

    scope_type: Literal["organization", "pod", "inbox"]
    scope_id: str
    organization_id: UUID
    api_key_id: UUID
    pod_id: UUID | None = None
    inbox_id: str | None = None


def api_key(key: access.ApiKey, address: str | None) -> ApiKey:
    """A key as callers see it; `address` is its inbox's."""
    return ApiKey(**_key_shown(key, address))


def created_api_key(made: access.NewApiKey, address: str | None) -> CreatedApiKey:
    """A new key with its secret."""
    return CreatedApiKey(**_key_shown(made.key, address), api_key=made.secret)


def identity(caller: Principal, address: str | None) -> Identity:
    """Who is calling; `address` is that of the inbox the key is for."""
    reach = caller.reach
    scope = "inbox" if address else "pod" if reach.pod_id else "organization"
    return Identity(
        scope_type=scope,
        scope_id=address or str(reach.pod_id or reach.organization_id),
        organization_id=reach.organization_id,
        api_key_id=caller.api_key_id,
        pod_id=reach.pod_id,
        inbox_id=address,
    )


def _key_shown(key: access.ApiKey, address: str | None) -> Mapping[str, Any]:
    return {
        "pod_id": key.pod_id,
        "inbox_id": address,
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
