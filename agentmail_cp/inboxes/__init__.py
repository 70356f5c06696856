"""Inboxes: the life of an email address and the mail account behind it.

Owns the table `inbox` and the rows of `inbox_sync` (which intake moves forward). States:
`creating` (address reserved, account being made) → `active` → `deleting` (already gone for callers, the
account being retired) → `deleted` (mail retained) → `erased` (mail destroyed). Only `active` inboxes exist
for callers. An address belongs to its inbox for ever: it never changes and is never issued again; only
a `creating` row that nobody finished is taken back, account and all, by `settle`. `lease_until` also
tells who may finish a row: whoever takes it over sets another one. No password is stored: a new one is told
to who asked for the inbox, and Stalwart keeps its hash. Asked for with an Idempotency-Key, address and
password follow from the claim on it, so that another attempt comes to the same.
"""

from __future__ import annotations

from agentmail_cp.domains import MailDomain
from agentmail_cp.inboxes.changing import settle_pauses, update
from agentmail_cp.inboxes.creation import create, known, made_before
from agentmail_cp.inboxes.deletion import delete, erase, erase_retained
from agentmail_cp.inboxes.finding import search
from agentmail_cp.inboxes.inbox import (
    LEASE,
    LONGEST_DISPLAY_NAME,
    LONGEST_METADATA,
    MOST_METADATA,
    NAMESPACE,
    PREFIX,
    Created,
    Inbox,
    InboxPatch,
    Metadata,
    MetadataPatch,
    NewInbox,
    check_display_name,
    check_metadata,
    check_new,
    get,
    get_each,
    get_for_reading,
    get_of_all,
    inbox_uuid,
    list_page,
    merge_metadata,
    parse_id,
    public_id,
)
from agentmail_cp.inboxes.quota import count
from agentmail_cp.inboxes.settlement import settle

__all__ = [
    "LEASE",
    "LONGEST_DISPLAY_NAME",
    "LONGEST_METADATA",
    "MOST_METADATA",
    "NAMESPACE",
    "PREFIX",
    "Created",
    "Inbox",
    "InboxPatch",
    "MailDomain",
    "Metadata",
    "MetadataPatch",
    "NewInbox",
    "check_display_name",
    "check_metadata",
    "check_new",
    "count",
    "create",
    "delete",
    "erase",
    "erase_retained",
    "get",
    "get_each",
    "get_for_reading",
    "get_of_all",
    "inbox_uuid",
    "known",
    "list_page",
    "made_before",
    "merge_metadata",
    "parse_id",
    "public_id",
    "search",
    "settle",
    "settle_pauses",
    "update",
]
