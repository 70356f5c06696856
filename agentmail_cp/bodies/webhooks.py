"""Bodies of webhook endpoints and of their delivery logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import webhooks
from agentmail_cp.events import EventType

Headers = dict[str, str]


class CreateWebhook(msgspec.Struct, kw_only=True):
    """`POST …/webhooks`. Without `event_types` it is told of the seven standard ones. `headers` go with
    every delivery, and their values are never shown again.
    """

    url: str
    event_types: list[str] | None = None
    pod_ids: list[str] | None = None
    inbox_ids: list[str] | None = None
    client_id: str | None = None
    headers: Headers | None = None
    enabled: bool | None = None

    def __repr__(self) -> str:
        return f"CreateWebhook(client_id={self.client_id!r})"


class UpdateWebhook(msgspec.Struct, kw_only=True):
    """`PATCH …/webhooks/{webhook_id}`. No `event_types` leave them as they are; `pod_ids` and `inbox_ids`
    replace the filter, the other four change it.
    """

    url: str | UnsetType = UNSET
    event_types: list[str] | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    pod_ids: list[str] | UnsetType | None = UNSET
    inbox_ids: list[str] | UnsetType | None = UNSET
    add_pod_ids: list[str] | UnsetType | None = UNSET
    remove_pod_ids: list[str] | UnsetType | None = UNSET
    add_inbox_ids: list[str] | UnsetType | None = UNSET
    remove_inbox_ids: list[str] | UnsetType | None = UNSET

    @property
    def says_nothing(self) -> bool:
        return all(getattr(self, name) is UNSET for name in self.__struct_fields__)

    @property
    def only_disables(self) -> bool:
        """Whether it does nothing but end the deliveries."""
        others = (name for name in self.__struct_fields__ if name != "enabled")
        return self.enabled is False and all(getattr(self, name) is UNSET for name in others)

    def __repr__(self) -> str:
        return "UpdateWebhook()"


class Webhook(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An endpoint. `pod_id` and `inbox_id` say where it was made; of the organisation's, both are missing.
    `disabled_reason` and `disabled_at` are there while it is not enabled, `previous_secret_until` while
    the secret it had before signs as well.
    """

    webhook_id: UUID
    url: str
    secret: str
    enabled: bool
    event_types: list[EventType]
    created_at: datetime
    updated_at: datetime
    pod_ids: list[UUID] | None = None
    inbox_ids: list[str] | None = None
    pod_id: UUID | None = None
    inbox_id: str | None = None
    client_id: str | None = None
    disabled_reason: webhooks.DisabledReason | None = None
    disabled_at: datetime | None = None
    previous_secret_until: datetime | None = None

    def __repr__(self) -> str:
        return f"Webhook(webhook_id={self.webhook_id!r})"


class ListWebhooks(msgspec.Struct, omit_defaults=True):
    """One page of endpoints."""

    count: int
    limit: int
    webhooks: list[Webhook]
    next_page_token: str | None = None


class WebhookHeaders(msgspec.Struct):
    """The names of the headers that go with every delivery."""

    header_names: list[str]


class UpdateWebhookHeaders(msgspec.Struct, kw_only=True):
    """`PATCH …/webhooks/{webhook_id}/headers`: at least one of the two. Case does not tell names apart."""

    headers: Headers | None = None
    remove_headers: list[str] | None = None

    def __repr__(self) -> str:
        return "UpdateWebhookHeaders()"


class RotateWebhookSecret(msgspec.Struct, kw_only=True):
    """`POST …/webhooks/{webhook_id}/secret/rotate`. For how long the old secret signs as well: a day, if
    nothing is said, at most a week, and 0 for not at all.
    """

    overlap_seconds: int | None = None


class WebhookDelivery(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One event for one endpoint. `event_id` is what its receiver sees as `svix-id`. `attempt_count` is how
    often it was tried, `status_code` or `error` what came of the last attempt, `next_attempt_at` when the
    next is.
    """

    delivery_id: UUID
    webhook_id: UUID
    event_id: UUID
    event_type: EventType
    state: webhooks.State
    attempt_count: int
    created_at: datetime
    updated_at: datetime
    test: bool = False
    status_code: int | None = None
    error: str | None = None
    next_attempt_at: datetime | None = None


class WebhookAttempt(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One attempt: the status of the endpoint and the beginning of its answer, or why there was none.
    `message` says in a sentence what `error` means.
    """

    at: datetime
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    message: str | None = None
    response: str = ""


class WebhookDeliveryAttempts(WebhookDelivery, omit_defaults=True, kw_only=True):
    """One delivery with all its attempts, oldest first."""

    attempts: list[WebhookAttempt]


class ListWebhookDeliveries(msgspec.Struct, omit_defaults=True):
    """One page of deliveries."""

    count: int
    limit: int
    deliveries: list[WebhookDelivery]
    next_page_token: str | None = None


class ReplayWebhook(msgspec.Struct, kw_only=True):
    """`POST …/webhooks/{webhook_id}/replay`: every event since then that the endpoint wants. `after` is
    `next_after` of the answer before; `only_failed` leaves out what was delivered.
    """

    since: datetime
    until: datetime | None = None
    after: str | None = None
    only_failed: bool = False


class ReplayedWebhook(msgspec.Struct, omit_defaults=True, kw_only=True):
    """How many events are delivered again; with `next_after` there may be more."""

    webhook_id: UUID
    count: int
    next_after: UUID | None = None


class SendWebhookTest(msgspec.Struct, kw_only=True):
    """`POST …/webhooks/{webhook_id}/test`. One of the endpoint's own types; else its first one."""

    event_type: str | None = None


def webhook(found: webhooks.Webhook, addresses: Mapping[UUID, str]) -> Webhook:
    """An endpoint as callers see it; `addresses` are those of the inboxes it names."""
    overlap = found.previous_until
    return Webhook(
        webhook_id=found.webhook_id,
        url=found.url,
        secret=found.secret,
        enabled=found.enabled,
        event_types=found.event_types,
        created_at=found.created_at,
        updated_at=found.updated_at,
        pod_ids=found.pod_ids or None,
        inbox_ids=[addresses[each] for each in found.inbox_ids if each in addresses] or None,
        pod_id=found.pod_id,
        inbox_id=addresses.get(found.inbox_id) if found.inbox_id else None,
        client_id=found.client_id,
        disabled_reason=found.disabled_reason,
        disabled_at=found.disabled_at,
        previous_secret_until=overlap if overlap and overlap > datetime.now(UTC) else None,
    )


def replayed(found: webhooks.Webhook, done: webhooks.Replayed) -> ReplayedWebhook:
    """What came of a replay."""
    return ReplayedWebhook(webhook_id=found.webhook_id, count=done.count, next_after=done.next)


def delivery(found: webhooks.Delivery) -> WebhookDelivery:
    """A delivery as callers see it."""
    return WebhookDelivery(**_delivery(found))


def delivery_attempts(
    found: webhooks.Delivery, attempts: Sequence[webhooks.Attempt]
) -> WebhookDeliveryAttempts:
    """The same with its attempts."""
    tried = [
        WebhookAttempt(
            at=each.at,
            duration_ms=each.duration_ms,
            status_code=each.status,
            error=each.error,
            message=webhooks.Failure(each.error).text if each.error else None,
            response=each.response,
        )
        for each in attempts
    ]
    return WebhookDeliveryAttempts(**_delivery(found), attempts=tried)


def _delivery(found: webhooks.Delivery) -> dict[str, Any]:
    return {
        "delivery_id": found.delivery_id,
        "webhook_id": found.webhook_id,
        "event_id": found.event_id or found.delivery_id,
        "event_type": found.event_type,
        "state": found.state,
        "attempt_count": found.attempts,
        "created_at": found.created_at,
        "updated_at": found.updated_at,
        "test": found.event_id is None,
        "status_code": found.status,
        "error": found.error,
        "next_attempt_at": found.due_at if found.state == "pending" else None,
    }
