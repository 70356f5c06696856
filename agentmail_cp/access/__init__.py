"""Who is calling: organisations, their pods, and API keys.

Owns the tables `organization`, `pod` and `api_key`. A key is at least 256 random bits behind a settable
prefix, shown once and stored as its SHA-256 (a slow hash guards weak secrets; these are not weak). It
reaches an organisation, a pod or an inbox, may do what its permissions say, and is live until it is
deleted or `expires_at` passes. A key never gives away more than it has: `delegation` decides. `Keyring`
remembers live keys for a moment, which is how long a revoked one may still work. This package never
decides about single inboxes.
"""

from __future__ import annotations

from agentmail_cp.access.erasure import erase_organization
from agentmail_cp.access.keyring import Keyring
from agentmail_cp.access.keys import (
    KEY_BYTES,
    LATEST_END,
    ApiKey,
    ApiKeyPatch,
    NewApiKey,
    create_key,
    delete_key,
    digest,
    expiry,
    find_key,
    get_key,
    issue_key,
    issued_before,
    list_keys,
    principal,
    require_mail_maker,
    revoke_within,
    update_key,
)
from agentmail_cp.access.organizations import (
    HIDDEN,
    Organization,
    create_organization,
    get_organization,
    list_organizations,
    on_unauthenticated,
    only_organization,
    set_on_unauthenticated,
)
from agentmail_cp.access.permissions import MAIL_CLIENT, PERMISSIONS
from agentmail_cp.access.pods import default_pod, find_pod, hold_pod
from agentmail_cp.access.reach import Principal, Reach, in_reach

__all__ = [
    "HIDDEN",
    "KEY_BYTES",
    "LATEST_END",
    "MAIL_CLIENT",
    "PERMISSIONS",
    "ApiKey",
    "ApiKeyPatch",
    "Keyring",
    "NewApiKey",
    "Organization",
    "Principal",
    "Reach",
    "create_key",
    "create_organization",
    "default_pod",
    "delete_key",
    "digest",
    "erase_organization",
    "expiry",
    "find_key",
    "find_pod",
    "get_key",
    "get_organization",
    "hold_pod",
    "in_reach",
    "issue_key",
    "issued_before",
    "list_keys",
    "list_organizations",
    "on_unauthenticated",
    "only_organization",
    "principal",
    "require_mail_maker",
    "revoke_within",
    "set_on_unauthenticated",
    "update_key",
]
