"""Bodies of inboxes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import inboxes
from agentmail_cp.bodies.credentials import Credentials


class CreateInbox(msgspec.Struct, kw_only=True):
    """`POST /v0/inboxes`. Everything may be left out. `pod_id` is the id or client_id of a pod, and so is
    `environment`, seed 003's word for it.
    """

    username: str | None = None
    domain: str | None = None
    display_name: str | None = None
    client_id: str | None = None
    metadata: dict[str, str | int | float | bool | None] | None = None
    status: Literal["active", "paused"] | None = None
    pod_id: str | None = None
    environment: str | None = None


class UpdateInbox(msgspec.Struct, kw_only=True):
    """`PATCH /v0/inboxes/{inbox_id}`. `status` active ends every pause but that of a broken domain."""

    display_name: str | UnsetType | None = UNSET
    metadata: dict[str, str | int | float | bool | None] | UnsetType | None = UNSET
    status: Literal["active", "paused"] | UnsetType = UNSET
    send_paused: bool | UnsetType = UNSET


class Inbox(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An inbox. `inbox_id`, `email` and `email_address` are the address; `id` is its `inb_…` form.
    `send_paused` says that it may not send now, and `send_paused_reason` why; `status` is there only while
    it is `paused`, which stops receiving too.
    """

    inbox_id: str
    email: str
    email_address: str
    id: str
    pod_id: UUID
    username: str
    domain: str
    created_at: datetime
    updated_at: datetime
    send_paused: bool | None = None
    send_paused_reason: str | None = None
    status: Literal["paused"] | None = None
    display_name: str | None = None
    client_id: str | None = None
    metadata: dict[str, Any] | None = None
    credentials: Credentials | None = None


class ListInboxes(msgspec.Struct, omit_defaults=True):
    """One page of inboxes; `data` is seed 003's name for them."""

    count: int
    limit: int
    inboxes: list[Inbox]
    data: list[Inbox]
    next_page_token: str | None = None


def inbox(
    found: inboxes.Inbox, credentials: Credentials | None = None, *, broken: str | None
) -> Inbox:
    """An inbox as callers see it. `broken` is what is wrong with its domain."""
    pause = found.pause(broken)
    return Inbox(
        inbox_id=found.address,
        email=found.address,
        email_address=found.address,
        id=inboxes.public_id(found.inbox_id),
        pod_id=found.pod_id,
        username=found.username,
        domain=found.domain,
        created_at=found.created_at,
        updated_at=found.updated_at,
        send_paused=pause is not None,
        send_paused_reason=pause and pause.reason,
        status="paused" if found.status == "paused" else None,
        display_name=found.display_name,
        client_id=found.client_id,
        metadata=found.metadata or None,
        credentials=credentials,
    )
