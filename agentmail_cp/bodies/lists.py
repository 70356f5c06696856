"""Bodies of allow and block lists."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from agentmail_cp import lists


class CreateListEntry(msgspec.Struct, kw_only=True):
    """`POST …/lists/{direction}/{type}`: a full address or a bare domain."""

    entry: str
    reason: str | None = None


class ListEntry(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An entry of a list. `pod_id` and `inbox_id` are there for lists of a pod or an inbox only."""

    entry: str
    organization_id: UUID
    direction: lists.Direction
    list_type: lists.ListType
    entry_type: lists.EntryType
    created_at: datetime
    read_only: bool
    reason: str | None = None
    pod_id: UUID | None = None
    inbox_id: str | None = None


class ListListEntries(msgspec.Struct, omit_defaults=True):
    """One page of a list."""

    count: int
    limit: int
    entries: list[ListEntry]
    next_page_token: str | None = None


def list_entry(entry: lists.Entry, address: str | None) -> ListEntry:
    """An entry as callers see it; `address` is its inbox's."""
    return ListEntry(
        entry=entry.entry,
        organization_id=entry.organization_id,
        direction=entry.direction,
        list_type=entry.list_type,
        entry_type=entry.entry_type,
        created_at=entry.created_at,
        read_only=entry.read_only,
        reason=entry.reason or entry.origin,
        pod_id=entry.pod_id,
        inbox_id=address,
    )
