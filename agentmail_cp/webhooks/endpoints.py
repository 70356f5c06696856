"""Endpoints: their rows, and the rules by which callers make, change and delete them.

The secret and the values of `headers` never appear in a `repr`. Whether the caller may be told of the event
types that an endpoint names, the edge has asked; inboxes and pods are ids here that were looked up there.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, LiteralString
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from agentmail_cp import pages
from agentmail_cp.access import Reach, in_reach
from agentmail_cp.db import Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Conflict, Invalid, LimitExceeded, NotFound
from agentmail_cp.events import EventType
from agentmail_cp.idempotency import check_client_id
from agentmail_cp.webhooks import checks
from agentmail_cp.webhooks.signing import SECRET_PREFIX

SECRET_BYTES: Final = 32
DEFAULT_OVERLAP: Final = timedelta(hours=24)
LONGEST_OVERLAP: Final = timedelta(days=7)

COLUMNS: LiteralString = (
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
    event_types: list[EventType]
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


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, its URL and headers checked."""

    url: str
    event_types: Sequence[EventType]
    pod_ids: Sequence[UUID] = ()
    inbox_ids: Sequence[UUID] = ()
    headers: Mapping[str, str] = {}
    client_id: str | None = None
    enabled: bool = True

    def __repr__(self) -> str:
        return f"NewWebhook(client_id={self.client_id!r})"


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """How a filter is to change: `put` in place of what it names, or some added and removed."""

    put: Sequence[UUID] | None = None
    add: Sequence[UUID] = ()
    remove: Sequence[UUID] = ()

    def of(self, field: str, current: Sequence[UUID]) -> list[UUID]:
        """What it names then. Raises `Invalid` as `checks.changed_names`."""
        base = current if self.put is None else self.put
        return checks.changed_names(field, base, self.add, self.remove)


class WebhookPatch(msgspec.Struct, frozen=True, kw_only=True):
    """What of an endpoint may change, its URL checked. No event types leave it those it has."""

    url: str | UnsetType = UNSET
    event_types: Sequence[EventType] = ()
    enabled: bool | UnsetType = UNSET
    pods: Names = Names()
    inboxes: Names = Names()

    def __repr__(self) -> str:
        return f"WebhookPatch(enabled={self.enabled})"


class Made(msgspec.Struct, frozen=True):
    """An endpoint, and whether this call made it."""

    webhook: Webhook
    new: bool


def new_secret() -> str:
    """What the deliveries of an endpoint are signed with: `whsec_` and the base64 of 32 random bytes."""
    return SECRET_PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


async def create(tx: Tx, scope: Reach, new: NewWebhook, *, most: int) -> Made:
    """Make an endpoint at a scope; with a `client_id` known there, give back the one that has it.

    Raises `Invalid`, and `LimitExceeded` where the organisation has `most` of them (0: no limit).
    """
    if new.client_id is not None:
        check_client_id(new.client_id)
    pod_ids = checks.check_names("pod_ids", new.pod_ids)
    inbox_ids = checks.check_names("inbox_ids", new.inbox_ids)
    if most:
        await _take_turn(tx, scope.organization_id)
    known = await _by_client_id(tx, scope, new.client_id)
    if known is not None:
        return Made(known, new=False)
    if most:
        await _ensure_room(tx, scope.organization_id, most)
    made = await _insert(tx, scope, new, pod_ids, inbox_ids)
    if made is not None:
        return Made(made, new=True)
    winner = await _by_client_id(tx, scope, new.client_id)
    if winner is None:
        raise Conflict("This webhook was made and deleted a moment ago.", fix="Try again.")
    return Made(winner, new=False)


def _scope_id(scope: Reach) -> UUID:
    return scope.inbox_id or scope.pod_id or scope.organization_id


async def _by_client_id(tx: Tx, scope: Reach, client_id: str | None) -> Webhook | None:
    if client_id is None:
        return None
    return await fetch_one(
        tx,
        Webhook,
        f"select {COLUMNS} from webhook where organization_id = %(organization_id)s"
        " and scope_id = %(scope_id)s and client_id = %(client_id)s",
        {
            "organization_id": scope.organization_id,
            "scope_id": _scope_id(scope),
            "client_id": client_id,
        },
    )


async def _take_turn(tx: Tx, organization_id: UUID) -> None:
    """One at a time, so that many at once do not all see the last place free."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended('webhook/' || %(id)s, 0))",
        {"id": str(organization_id)},
    )


async def _ensure_room(tx: Tx, organization_id: UUID, most: int) -> None:
    row = await (
        await tx.execute(
            "select count(*) as webhooks from webhook where organization_id = %(organization_id)s",
            {"organization_id": organization_id},
        )
    ).fetchone()
    if row is not None and row["webhooks"] >= most:
        raise LimitExceeded(
            f"This organization has as many webhooks as it may have: {most}.",
            fix="Delete a webhook, or let one be told of several inboxes or pods.",
        )


async def _insert(
    tx: Tx, scope: Reach, new: NewWebhook, pod_ids: list[UUID], inbox_ids: list[UUID]
) -> Webhook | None:
    return await fetch_one(
        tx,
        Webhook,
        "insert into webhook (webhook_id, organization_id, scope_id, pod_id, inbox_id, url,"
        " event_types, pod_ids, inbox_ids, headers, client_id, secret, enabled, disabled_reason,"
        " disabled_at) values (%(webhook_id)s, %(organization_id)s, %(scope_id)s, %(pod_id)s,"
        " %(inbox_id)s, %(url)s, %(event_types)s, %(pod_ids)s, %(inbox_ids)s, %(headers)s,"
        " %(client_id)s, %(secret)s, %(enabled)s,"
        " case when %(enabled)s then null else 'requested' end,"
        " case when %(enabled)s then null else now() end)"
        " on conflict (organization_id, scope_id, client_id) where client_id is not null do nothing"
        f" returning {COLUMNS}",
        msgspec.structs.asdict(scope)
        | {
            "webhook_id": uuid7(),
            "scope_id": _scope_id(scope),
            "url": new.url,
            "event_types": list(new.event_types),
            "pod_ids": pod_ids,
            "inbox_ids": inbox_ids,
            "headers": Jsonb(dict(new.headers)),
            "client_id": new.client_id,
            "secret": new_secret(),
            "enabled": new.enabled,
        },
    )


async def get(tx: Tx, reach: Reach, webhook_id: UUID, *, lock: bool = False) -> Webhook:
    """The endpoint with this id whose scope is within reach; `NotFound` otherwise."""
    query: LiteralString = (
        f"select {COLUMNS} from webhook where organization_id = %(organization_id)s"
        f" and webhook_id = %(webhook_id)s{in_reach(reach)}"
    )
    if lock:
        query += " for no key update"
    found = await fetch_one(
        tx, Webhook, query, msgspec.structs.asdict(reach) | {"webhook_id": webhook_id}
    )
    if found is None:
        raise NotFound("There is no such webhook.", fix="List your webhooks to see which exist.")
    return found


async def list_page(
    tx: Tx, reach: Reach, *, limit: int, page_token: str | None, ascending: bool = False
) -> tuple[list[Webhook], str | None]:
    """One page of the endpoints whose scope is within reach by time of creation, and the next token."""
    scope = f"webhooks/{_scope_id(reach)}/{ascending}"
    page, parameters = pages.by_time(
        scope, page_token, ("created_at", "webhook_id"), limit=limit, ascending=ascending
    )
    rows = await fetch_all(
        tx,
        Webhook,
        f"select {COLUMNS} from webhook where organization_id = %(organization_id)s"
        f"{in_reach(reach)}{page}",
        msgspec.structs.asdict(reach) | parameters,
    )
    return pages.cut(scope, rows, limit, lambda last: (last.created_at, last.webhook_id))


def patched(current: Webhook, patch: WebhookPatch) -> Webhook:
    """The endpoint after a change. Enabled again, it has no past; disabled already, it keeps its reason.
    Raises `Invalid` as `_filter`. Pure.
    """
    pod_ids, inbox_ids = _filter(current, patch)
    enabled = current.enabled if patch.enabled is UNSET else patch.enabled
    moved = patch.url is not UNSET and patch.url != current.url
    return msgspec.structs.replace(
        current,
        url=current.url if patch.url is UNSET else patch.url,
        event_types=list(patch.event_types) or current.event_types,
        pod_ids=pod_ids,
        inbox_ids=inbox_ids,
        enabled=enabled,
        disabled_reason=_reason(current, enabled=enabled),
        failing_since=None if moved or enabled != current.enabled else current.failing_since,
    )


def _filter(current: Webhook, patch: WebhookPatch) -> tuple[list[UUID], list[UUID]]:
    """The pods and inboxes a filter names after a change. Adding only adds: without a filter everything is
    told already (contract of 2.0.18). Nor does removing add anything: an empty filter would let everything
    pass, so that has to be said. Raises `Invalid`, also as `Names.of`.
    """
    pod_ids = patch.pods.of("pod_ids", current.pod_ids)
    inbox_ids = patch.inboxes.of("inbox_ids", current.inbox_ids)
    if patch.pods.put is not None or patch.inboxes.put is not None:
        return pod_ids, inbox_ids
    if not current.pod_ids and not current.inbox_ids:
        return [], []
    if not pod_ids and not inbox_ids:
        raise Invalid(
            "remove_inbox_ids" if current.inbox_ids else "remove_pod_ids",
            "Nothing would be left of the filter, and without one everything is delivered.",
            fix='Disable or delete the webhook, or say {"inbox_ids": null, "pod_ids": null}.',
        )
    return pod_ids, inbox_ids


def _reason(current: Webhook, *, enabled: bool) -> DisabledReason | None:
    if enabled:
        return None
    return current.disabled_reason or DisabledReason.REQUESTED


async def update(tx: Tx, changed: Webhook) -> Webhook:
    """Write what `patched` made of an endpoint that the caller holds (`get` with `lock`)."""
    return await fetch_only(
        tx,
        Webhook,
        "update webhook set url = %(url)s, event_types = %(event_types)s, pod_ids = %(pod_ids)s,"
        " inbox_ids = %(inbox_ids)s, enabled = %(enabled)s, disabled_reason = %(disabled_reason)s,"
        " disabled_at = case when not %(enabled)s then coalesce(disabled_at, now()) end,"
        " failing_since = %(failing_since)s, updated_at = now()"
        " where organization_id = %(organization_id)s and webhook_id = %(webhook_id)s"
        f" returning {COLUMNS}",
        _key(changed)
        | {
            "url": changed.url,
            "event_types": changed.event_types,
            "pod_ids": changed.pod_ids,
            "inbox_ids": changed.inbox_ids,
            "enabled": changed.enabled,
            "disabled_reason": changed.disabled_reason,
            "failing_since": changed.failing_since,
        },
    )


async def set_headers(tx: Tx, webhook: Webhook, headers: Mapping[str, str]) -> None:
    """Replace the headers of an endpoint that the caller holds; they are checked."""
    await tx.execute(
        "update webhook set headers = %(headers)s, updated_at = now()"
        " where organization_id = %(organization_id)s and webhook_id = %(webhook_id)s",
        _key(webhook) | {"headers": Jsonb(dict(headers))},
    )


async def rotate(tx: Tx, webhook: Webhook, overlap: timedelta) -> Webhook:
    """Give an endpoint that the caller holds a new secret; the one it had signs as well for `overlap`, and
    the one before that no longer. Raises `Invalid`.
    """
    if not timedelta() <= overlap <= LONGEST_OVERLAP:
        raise Invalid(
            "overlap_seconds",
            "overlap_seconds does not fit.",
            fix=f"Use 0 to {int(LONGEST_OVERLAP.total_seconds())}, or leave it out for a day.",
        )
    return await fetch_only(
        tx,
        Webhook,
        "update webhook set secret = %(secret)s,"
        " previous_secret = case when %(overlap)s > interval '0' then secret end,"
        " previous_until = case when %(overlap)s > interval '0' then now() + %(overlap)s end,"
        " updated_at = now()"
        " where organization_id = %(organization_id)s and webhook_id = %(webhook_id)s"
        f" returning {COLUMNS}",
        _key(webhook) | {"secret": new_secret(), "overlap": overlap},
    )


def _key(webhook: Webhook) -> dict[str, Any]:
    return {"organization_id": webhook.organization_id, "webhook_id": webhook.webhook_id}


async def delete(tx: Tx, reach: Reach, webhook_id: UUID) -> None:
    """Delete an endpoint within reach. What was still to be delivered is not, and its log is forgotten with
    other old rows. Raises `NotFound`.
    """
    found = await get(tx, reach, webhook_id, lock=True)
    await tx.execute(
        "delete from webhook where organization_id = %(organization_id)s"
        " and webhook_id = %(webhook_id)s",
        _key(found),
    )


async def erase(tx: Tx, gone: Reach) -> None:
    """Delete the endpoints of an inbox or pod that is deleted, and take it out of the filters of others.
    A filter that named nothing else stays, as it would let everything pass, and its endpoint is disabled.
    """
    await tx.execute(
        "delete from webhook where organization_id = %(organization_id)s"
        " and (pod_id is not null or inbox_id is not null)" + in_reach(gone),
        msgspec.structs.asdict(gone),
    )
    await tx.execute(
        _FORGET,
        {
            "organization_id": gone.organization_id,
            "gone": gone.inbox_id or gone.pod_id,
        },
    )


_FORGET = """
update webhook set
    inbox_ids = case when named.last then inbox_ids else array_remove(inbox_ids, %(gone)s) end,
    pod_ids = case when named.last then pod_ids else array_remove(pod_ids, %(gone)s) end,
    enabled = enabled and not named.last,
    disabled_reason = case when enabled and named.last then 'deleted' else disabled_reason end,
    disabled_at = case when enabled and named.last then now() else disabled_at end,
    updated_at = now()
from (
    select webhook_id, cardinality(inbox_ids) + cardinality(pod_ids) = 1 as last from webhook
    where organization_id = %(organization_id)s
        and (%(gone)s = any(inbox_ids) or %(gone)s = any(pod_ids))
    order by webhook_id
    for no key update
) as named
where webhook.organization_id = %(organization_id)s and webhook.webhook_id = named.webhook_id
"""
