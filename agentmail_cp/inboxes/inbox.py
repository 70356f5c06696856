"""What an inbox is: its fields, its ids, what a caller may ask for, and how one is looked up.

Owns the reading of the table `inbox`. Never talks to the mail server.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import NAMESPACE_DNS, UUID, uuid5

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import pages, pauses, usernames
from agentmail_cp.access import Reach, in_reach
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.idempotency import check_client_id
from agentmail_cp.mailserver import AccountId
from agentmail_cp.messages import Place
from agentmail_cp.pauses import BY_REQUEST, Pause, Status

NAMESPACE = uuid5(NAMESPACE_DNS, "inbox.agentmail-cp")
PREFIX = "inb_"
LEASE = timedelta(seconds=10)
LONGEST_DISPLAY_NAME = 256
MOST_METADATA = 256
LONGEST_METADATA = 256

Metadata = dict[str, str | int | float | bool]
MetadataPatch = dict[str, str | int | float | bool | None]

COLUMNS = (
    "inbox_id, organization_id, pod_id, address, username, domain, display_name, client_id, metadata,"
    " state, account_id, lease_until, status, pausing_until, send_paused, send_paused_reason,"
    " created_at, updated_at"
)


class Inbox(msgspec.Struct, frozen=True, kw_only=True):
    """An inbox as callers know it, plus the mail account behind it. `status`, `send_paused` and its reason
    are what was asked for (`pauses`); while `pausing_until` is set, the mail server may not know of it yet.
    """

    inbox_id: UUID
    organization_id: UUID
    pod_id: UUID
    address: str
    username: str
    domain: str
    display_name: str | None
    client_id: str | None
    metadata: Metadata
    state: str
    account_id: AccountId | None
    lease_until: datetime | None
    status: Status = "active"
    pausing_until: datetime | None = None
    send_paused: bool = False
    send_paused_reason: str | None = None
    created_at: datetime
    updated_at: datetime

    @property
    def place(self) -> Place:
        return Place(self.inbox_id, self.organization_id, self.pod_id, self.domain)

    @property
    def reach(self) -> Reach:
        """How far whoever is held to this inbox reaches."""
        return Reach(self.organization_id, self.pod_id, self.inbox_id)

    def pause(self, broken: str | None) -> Pause | None:
        """Why it may not send now; `broken` is what is wrong with its domain."""
        sending = (self.send_paused_reason or BY_REQUEST) if self.send_paused else None
        return pauses.pause(self.status, sending, broken)

    @property
    def account(self) -> AccountId:
        """The account of an active inbox."""
        if self.account_id is None:
            raise NotFound("There is no such inbox.")
        return self.account_id


class NewInbox(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for. Everything may be left out."""

    username: str | None = None
    domain: str | None = None
    display_name: str | None = None
    client_id: str | None = None
    metadata: MetadataPatch | None = None
    status: Status = "active"


class Created(msgspec.Struct, frozen=True):
    """An inbox and, only when this call made it and gave it one of its own, its mail password; `by_key`
    says that it was given none, because an API key is chosen as its mail password.
    """

    inbox: Inbox
    password: str | None
    new: bool = True
    by_key: bool = False

    def __repr__(self) -> str:
        return f"Created(inbox={self.inbox!r})"


class InboxPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A change to an inbox: a metadata key set to null is removed, metadata null clears all. Status `active`
    ends every pause, `send_paused` included where that is not given as well.
    """

    display_name: str | UnsetType | None = UNSET
    metadata: MetadataPatch | UnsetType | None = UNSET
    status: Status | UnsetType = UNSET
    send_paused: bool | UnsetType = UNSET

    @property
    def empty(self) -> bool:
        return all(getattr(self, name) is UNSET for name in self.__struct_fields__)

    @property
    def resumes(self) -> bool:
        """Whether sending is to go on."""
        if self.send_paused is UNSET:
            return self.status == "active"
        return not self.send_paused


def inbox_uuid(address: str) -> UUID:
    """The id of an address, the same whenever and wherever it is computed."""
    return uuid5(NAMESPACE, address)


def public_id(inbox_id: UUID) -> str:
    """The `inb_…` form of an inbox's id."""
    return PREFIX + inbox_id.hex


def check_new(new: NewInbox) -> None:
    """Raise `Invalid` for what can be judged without a database."""
    if new.username is not None:
        usernames.check(new.username)
    check_display_name(new.display_name)
    if new.client_id is not None:
        check_client_id(new.client_id)
    if new.metadata:
        check_metadata(new.metadata)


def check_display_name(name: str | None) -> None:
    """Raise `Invalid` unless the name can stand in a From header."""
    if name is None:
        return
    if len(name) > LONGEST_DISPLAY_NAME:
        raise Invalid(
            "display_name",
            f"display_name has {len(name)} characters.",
            fix=f"Use {LONGEST_DISPLAY_NAME} characters or fewer.",
            detail="TOO_LONG",
        )
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") for character in name):
        raise Invalid(
            "display_name",
            "display_name holds a control character.",
            fix="Remove line breaks and control characters.",
            detail="HEADER_INJECTION",
        )


def check_metadata(metadata: Mapping[str, object]) -> None:
    """Raise `Invalid` for a key or text value over 256 characters, or for more than 256 keys."""
    if len(metadata) > MOST_METADATA:
        raise Invalid(
            "metadata",
            f"metadata has {len(metadata)} keys.",
            fix=f"Use at most {MOST_METADATA}; null removes a key.",
            detail="TOO_MANY",
        )
    for key, value in metadata.items():
        if not 1 <= len(key) <= LONGEST_METADATA or "\x00" in key:
            raise Invalid(
                "metadata",
                "A key of metadata does not fit.",
                fix=f"Use 1 to {LONGEST_METADATA} characters and no NUL.",
            )
        if isinstance(value, str) and (len(value) > LONGEST_METADATA or "\x00" in value):
            raise Invalid(
                f"metadata.{key}",
                "This value of metadata does not fit.",
                fix=f"Use at most {LONGEST_METADATA} characters and no NUL.",
                detail="TOO_LONG",
            )


def merge_metadata(current: Metadata, patch: MetadataPatch | None) -> Metadata:
    """Seed 002: given keys are set, null removes one, null for everything clears all. Pure."""
    if patch is None:
        return {}
    merged = {key: value for key, value in current.items() if key not in patch}
    merged |= {key: value for key, value in patch.items() if value is not None}
    check_metadata(merged)
    return merged


async def get(tx: Tx, reach: Reach, inbox: str, *, lock: bool = False) -> Inbox:
    """The active inbox within reach that goes by this address or `inb_…` id; `NotFound` otherwise."""
    query: LiteralString = (
        f"select {COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and state = 'active'"
    )
    if lock:
        query += " for update"
    parameters = {"organization_id": reach.organization_id, "inbox_id": parse_id(inbox)}
    found = await fetch_one(tx, Inbox, query, parameters)
    if found is None or not reach.covers(found.reach):
        raise NotFound(
            "There is no such inbox.", fix="List your inboxes to see which addresses exist."
        )
    return found


def parse_id(inbox: str) -> UUID:
    if not inbox.startswith(PREFIX) or "@" in inbox:
        return inbox_uuid(inbox.lower())
    try:
        return UUID(hex=inbox.removeprefix(PREFIX))
    except ValueError:
        return inbox_uuid(inbox)


async def get_for_reading(tx: Tx, organization_id: UUID, inbox_id: UUID) -> Inbox:
    """An inbox whose mail can still be read: active, or deleted with its mail retained."""
    found = await fetch_one(
        tx,
        Inbox,
        f"select {COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and state in ('active', 'deleting', 'deleted')",
        {"organization_id": organization_id, "inbox_id": inbox_id},
    )
    if found is None:
        raise NotFound("There is no such inbox.")
    return found


async def get_each(tx: Tx, organization_id: UUID, inbox_ids: Iterable[UUID]) -> dict[UUID, Inbox]:
    """These inboxes, whatever their state."""
    found = await fetch_all(
        tx,
        Inbox,
        f"select {COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and inbox_id = any(%(inbox_ids)s)",
        {"organization_id": organization_id, "inbox_ids": list(inbox_ids)},
    )
    return {inbox.inbox_id: inbox for inbox in found}


async def get_of_all(tx: Tx, wanted: Collection[tuple[UUID, UUID]]) -> dict[UUID, Inbox]:
    """These inboxes, by organisation and id, whatever their state."""
    found = await fetch_all(
        tx,
        Inbox,
        f"select {COLUMNS} from unnest(%(organizations)s::uuid[], %(inboxes)s::uuid[])"
        " as wanted (organization_id, inbox_id) join inbox using (organization_id, inbox_id)",
        {
            "organizations": [organization_id for organization_id, _ in wanted],
            "inboxes": [inbox_id for _, inbox_id in wanted],
        },
    )
    return {inbox.inbox_id: inbox for inbox in found}


async def list_page(
    tx: Tx, reach: Reach, *, limit: int, page_token: str | None, ascending: bool = False
) -> tuple[list[Inbox], str | None]:
    """One page of the active inboxes within reach by time of creation, and the token of the next."""
    scope = f"inboxes/{reach.inbox_id or reach.pod_id or reach.organization_id}/{ascending}"
    page, parameters = pages.by_time(
        scope, page_token, ("created_at", "inbox_id"), limit=limit, ascending=ascending
    )
    rows = await fetch_all(
        tx,
        Inbox,
        f"select {COLUMNS} from inbox where organization_id = %(organization_id)s"
        f" and state = 'active'{in_reach(reach)}{page}",
        msgspec.structs.asdict(reach) | parameters,
    )
    return pages.cut(scope, rows, limit, lambda last: (last.created_at, last.inbox_id))
