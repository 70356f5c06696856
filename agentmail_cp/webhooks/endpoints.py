"""Endpoints: their rows, and what a caller may ask for.

The secret and the values of `headers` never appear in a `repr`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from uuid import UUID

import msgspec

from agentmail_cp.access import Reach

COLUMNS = (
    "webhook_id, organization_id, pod_id, inbox_id, url, event_types, pod_ids, inbox_ids, headers,"
    " client_id, secret, previous_secret, previous_until, enabled, disabled_reason, disabled_at,"
    " failing_since, created_at, updated_at"
)


class DisabledReason(StrEnum):
    """Why an endpoint is not told of anything."""

    REQUESTED = "requested"
    """Its owner said so."""
    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """Nothing but failures for days."""
    DELETED = "deleted"
    """All inboxes and pods that its filter named were deleted."""


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint. `pod_id` and `inbox_id` are the scope it was made at, `pod_ids` and `inbox_ids` its
    filter. `previous_secret` signs as well until `previous_until`.
    """

    webhook_id: UUID
    organization_id: UUID
    pod_id: UUID | None
    inbox_id: UUID | None
    url: str
    event_types: list[str]
    pod_ids: list[UUID]
    inbox_ids: list[UUID]
    headers: dict[str, str]
    client_id: str | None
    secret: str
    previous_secret: str | None
    previous_until: datetime | None
    enabled: bool
    disabled_reason: DisabledReason | None
    disabled_at: datetime | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime

    @property
    def reach(self) -> Reach:
        """How far what it may be told of reaches."""
        return Reach(self.organization_id, self.pod_id, self.inbox_id)

    def __repr__(self) -> str:
        return f"Webhook(webhook_id={self.webhook_id}, enabled={self.enabled})"
