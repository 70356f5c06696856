"""What endpoint tests of many tenants share: a pod with an inbox, and keys and calls for each scope."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from agentmail import AgentMail
from agentmail.api_keys.types.api_key_permissions import ApiKeyPermissions
from agentmail.api_keys.types.create_api_key_response import CreateApiKeyResponse
from agentmail.api_keys.types.create_bearer_api_key_request import CreateBearerApiKeyRequest
from agentmail.inboxes.types.inbox import Inbox
from agentmail.pods.types.pod import Pod

from tests.sdk.mailbox import Scope
from tests.sdk.official import Sdk

SCOPES = ("organization", "pod", "inbox")
NO_ID = str(uuid.UUID(int=0))
NOBODY = "nobody@agents.test"


class Tenant(msgspec.Struct, frozen=True):
    """A pod of its own and the inbox in it."""

    pod: Pod
    inbox: Inbox

    @property
    def inbox_id(self) -> str:
        return self.inbox.inbox_id

    @property
    def pod_id(self) -> str:
        return self.pod.pod_id


def new_tenant(sdk: Sdk, name: str = "acme") -> Tenant:
    """A tenant whose names are not taken, as the real server is shared."""
    unique = f"{name}-{uuid.uuid4().hex[:8]}"
    pod = sdk.client.pods.create(name=name.capitalize(), client_id=unique)
    return Tenant(pod, sdk.client.pods.inboxes.create(pod.pod_id, username=unique))


def calls_at(scope: str, kind: str, client: AgentMail, of: Tenant) -> Scope:
    """The calls of a kind (`lists`, `metrics`, `api_keys`) at a scope, with its id already given."""
    root: Any = client
    inboxes, pods = getattr(client.inboxes, kind), getattr(client.pods, kind)
    return {
        "organization": Scope(getattr(root, kind), ()),
        "pod": Scope(pods, (of.pod_id,)),
        "inbox": Scope(inboxes, (of.inbox_id,)),
    }[scope]


def new_key(
    sdk: Sdk, scope: str, of: Tenant, *permissions: str, client: AgentMail | None = None
) -> CreateApiKeyResponse:
    """A key for a scope, with these permissions only if some are named."""
    granted = ApiKeyPermissions(**dict.fromkeys(permissions, True)) if permissions else None
    made = calls_at(scope, "api_keys", client or sdk.client, of).create(
        request=CreateBearerApiKeyRequest(name=scope, permissions=granted)
    )
    assert isinstance(made, CreateApiKeyResponse)
    return made


def holding(sdk: Sdk, scope: str, of: Tenant, *permissions: str) -> AgentMail:
    """A client with a new key for a scope."""
    return sdk.holding(new_key(sdk, scope, of, *permissions).api_key)


Calls = list[Callable[[], object]]
