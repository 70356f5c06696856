"""Inboxes: the life of an email address and the mail account behind it.

Owns the table `inbox` and the rows of `inbox_sync` (which intake moves forward). States:
`creating` (address reserved, account being made) → `active` → `deleting` (already gone for callers, the
account being retired) → `deleted` (mail retained) → `erased` (mail destroyed). Only `active` inboxes exist
for callers. An address belongs to its inbox for ever: it never changes and is never issued again; only
a `creating` row that nobody finished is taken back, account and all, by `settle`. `lease_until` also
tells who may finish a row: whoever takes it over sets another one. No password is stored:
a new one is handed out once, and Stalwart keeps its hash.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString
from uuid import NAMESPACE_DNS, UUID, uuid5

import msgspec
import structlog
from msgspec import UNSET, UnsetType
from psycopg.types.json import Jsonb

from agentmail_cp import messages, pages, usernames
from agentmail_cp.access import default_pod
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one, fetch_only
from agentmail_cp.errors import Conflict, Forbidden, Invalid, NotFound, Taken, Unavailable
from agentmail_cp.mailserver import (
    Account,
    AccountId,
    MailServer,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    NewAccount,
    Refusal,
)
from agentmail_cp.messages import Place

log = structlog.stdlib.get_logger(__name__)

NAMESPACE = uuid5(NAMESPACE_DNS, "inbox.agentmail-cp")
PREFIX = "inb_"
LEASE = timedelta(seconds=10)
PATIENCE = 8.0
"""Seconds the mail server may take to make an account: less than the lease, so that nobody else is at it."""

SECOND_LOOK = 1.0
"""Seconds between two looks for an account that is not there: a mail server that was frozen may, when it
wakes, still make it."""

SETTLED_AT_ONCE = 16
LONGEST_DISPLAY_NAME = 256
MOST_METADATA = 256
LONGEST_METADATA = 256
PASSWORD_BYTES = 24
RANDOM_TRIES = 8
TOKEN = re.compile(r"[A-Za-z0-9\-._~]{1,256}")
"""What a caller's own ids look like: client_id here, Idempotency-Key in `sending`."""

_rng = random.SystemRandom()

Metadata = dict[str, str | int | float | bool]
MetadataPatch = dict[str, str | int | float | bool | None]


class Inbox(msgspec.Struct, frozen=True, kw_only=True):
    """An inbox as callers know it, plus the mail account behind it."""

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
    created_at: datetime
    updated_at: datetime

    @property
    def place(self) -> Place:
        return Place(self.inbox_id, self.organization_id, self.pod_id, self.domain)

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


class MailDomain(msgspec.Struct, frozen=True):
    """A domain inboxes can be made on. On a shared one every address gets a random suffix."""

    name: str
    shared: bool


class Created(msgspec.Struct, frozen=True):
    """An inbox and, only when this call made it, its mail password."""

    inbox: Inbox
    password: str | None


class InboxPatch(msgspec.Struct, frozen=True, kw_only=True):
    """A change to an inbox: a metadata key set to null is removed, metadata null clears all."""

    display_name: str | UnsetType | None = UNSET
    metadata: MetadataPatch | UnsetType | None = UNSET


_COLUMNS = (
    "inbox_id, organization_id, pod_id, address, username, domain, display_name, client_id, metadata,"
    " state, account_id, lease_until, created_at, updated_at"
)


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


def check_client_id(client_id: str) -> None:
    """Raise `Invalid` unless it is 1 to 256 of A-Z a-z 0-9 - . _ ~."""
    if not TOKEN.fullmatch(client_id):
        raise Invalid(
            "client_id",
            "client_id does not fit.",
            fix="Use 1 to 256 characters out of A-Z a-z 0-9 - . _ ~",
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


def new_password() -> str:
    """A mail password of 192 random bits."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def password_hash(password: str) -> str:
    """`{SSHA512}` as Stalwart 0.16 takes it. The secret is random, so a slow hash would guard nothing."""
    salt = secrets.token_bytes(16)
    digest = hashlib.sha512(password.encode() + salt).digest()
    return "{SSHA512}" + base64.b64encode(digest + salt).decode()


class _Reservation(msgspec.Struct, frozen=True):
    inbox: Inbox
    taken_over: bool


async def create(
    db: Database,
    server: MailServer,
    *,
    organization_id: UUID,
    domain: MailDomain,
    new: NewInbox,
) -> Created:
    """Make an inbox; with a known `client_id`, give back the one that has it.

    The address is reserved in PostgreSQL before Stalwart is asked, so a crash leaves a `creating` row
    that `settle` takes back. Raises `Taken`, `Conflict`, `Forbidden`, `Unavailable`.
    """
    check_new(new)
    existing = await _existing(db, organization_id, new.client_id)
    if existing is not None:
        return Created(existing, None)
    try:
        reservation = await _reserve_some(db, organization_id, domain, new)
    except Conflict:
        # Another request with this client_id was a moment faster: its inbox is the answer.
        existing = await _existing(db, organization_id, new.client_id)
        if existing is None:
            raise
        return Created(existing, None)
    if reservation.inbox.state == "active":
        return Created(reservation.inbox, None)
    password = new_password()
    account = await _make_account(db, server, reservation, password)
    async with db.transaction() as tx:
        inbox = await _activate(tx, reservation.inbox, account)
        if inbox is None:
            await _leave_to_settle(tx, reservation.inbox)
    if inbox is None:
        raise Conflict("Making this inbox took too long and was undone.", fix="Try again.")
    return Created(inbox, password)


async def _existing(db: Database, organization_id: UUID, client_id: str | None) -> Inbox | None:
    """The inbox that has this client_id, waited for while another request is making it."""
    if client_id is None:
        return None
    deadline = asyncio.get_running_loop().time() + LEASE.total_seconds()
    while asyncio.get_running_loop().time() < deadline:
        async with db.reading() as tx:
            found = await _by_client_id(tx, organization_id, client_id)
        if found is None or found.state == "active":
            return found
        if await _stale(db, found):
            return None
        await asyncio.sleep(0.05)
    return None


async def _stale(db: Database, inbox: Inbox) -> bool:
    async with db.reading() as tx:
        row = await (
            await tx.execute(
                "select lease_until < now() as stale from inbox where inbox_id = %(inbox_id)s"
                " and organization_id = %(organization_id)s",
                {"inbox_id": inbox.inbox_id, "organization_id": inbox.organization_id},
            )
        ).fetchone()
    return row is None or bool(row["stale"])


async def _by_client_id(tx: Tx, organization_id: UUID, client_id: str) -> Inbox | None:
    return await fetch_one(
        tx,
        Inbox,
        f"select {_COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and client_id = %(client_id)s and state in ('creating', 'active')",
        {"organization_id": organization_id, "client_id": client_id},
    )


async def _reserve_some(
    db: Database, organization_id: UUID, domain: MailDomain, new: NewInbox
) -> _Reservation:
    """Reserve the address asked for, or a free random one."""
    certain = new.username is not None and not domain.shared
    for _ in range(1 if certain else RANDOM_TRIES):
        username = new.username or usernames.random_username(_rng)
        if domain.shared:
            username = usernames.shared_username(username, _rng)
        async with db.transaction() as tx:
            reservation = await _reserve(tx, organization_id, username, domain.name, new)
            if reservation is None and certain:
                await _ensure_nobody_makes(tx, organization_id, username, domain.name)
        if reservation is not None:
            return reservation
    raise Taken(
        f"{new.username}@{domain.name} is taken." if certain else "No free address was found.",
        fix="Choose another username, or leave it out to get a random one.",
    )


async def _reserve(
    tx: Tx, organization_id: UUID, username: str, domain: str, new: NewInbox
) -> _Reservation | None:
    address = f"{username}@{domain}"
    parameters: dict[str, Any] = {
        "inbox_id": inbox_uuid(address),
        "organization_id": organization_id,
        "pod_id": await default_pod(tx, organization_id),
        "address": address,
        "username": username,
        "domain": domain,
        "display_name": new.display_name,
        "client_id": new.client_id,
        "metadata": Jsonb(merge_metadata({}, new.metadata)),
        "lease": LEASE,
    }
    inbox = await fetch_one(tx, Inbox, _RESERVE, parameters)
    if inbox is not None:
        return _Reservation(inbox, taken_over=False)
    inbox = await fetch_one(tx, Inbox, _TAKE_OVER, parameters)
    if inbox is not None:
        return _Reservation(inbox, taken_over=True)
    if new.client_id is not None:
        winner = await _by_client_id(tx, organization_id, new.client_id)
        if winner is not None and winner.state == "active":
            return _Reservation(winner, taken_over=False)
        if winner is not None:
            raise _being_made(winner)
    return None


async def _ensure_nobody_makes(tx: Tx, organization_id: UUID, username: str, domain: str) -> None:
    """An address this organisation's own request is making, or left half made, is not taken yet."""
    half_made = await fetch_one(
        tx,
        Inbox,
        f"select {_COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and address = %(address)s and state = 'creating'",
        {"organization_id": organization_id, "address": f"{username}@{domain}"},
    )
    if half_made is not None:
        raise _being_made(half_made)


def _being_made(inbox: Inbox) -> Conflict:
    remaining = LEASE if inbox.lease_until is None else inbox.lease_until - datetime.now(UTC)
    return Conflict(
        "Another request is making this inbox, or did not finish making it.",
        fix="Repeat the request after Retry-After seconds.",
        retry_after=max(1.0, remaining.total_seconds()),
    )


_RESERVE = f"""
insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, display_name,
    client_id, metadata, state, lease_until)
values (%(inbox_id)s, %(organization_id)s, %(pod_id)s, %(address)s, %(username)s, %(domain)s,
    %(display_name)s, %(client_id)s, %(metadata)s, 'creating', now() + %(lease)s)
on conflict do nothing
returning {_COLUMNS}
"""

_TAKE_OVER = f"""
update inbox set lease_until = now() + %(lease)s, display_name = %(display_name)s,
    client_id = %(client_id)s, metadata = %(metadata)s, pod_id = %(pod_id)s
where inbox_id = (
    select inbox_id from inbox
    where (address = %(address)s or client_id = %(client_id)s)
      and organization_id = %(organization_id)s and state = 'creating' and lease_until < now()
      and not exists (select from inbox as other where other.client_id = %(client_id)s
        and other.organization_id = %(organization_id)s and other.inbox_id <> inbox.inbox_id
        and other.state in ('creating', 'active'))
    order by inbox_id limit 1 for update)
returning {_COLUMNS}
"""


async def _make_account(
    db: Database, server: MailServer, reservation: _Reservation, password: str
) -> Account:
    inbox = reservation.inbox
    hashed = password_hash(password)
    try:
        async with asyncio.timeout(PATIENCE):
            return await server.create_account(
                NewAccount(inbox.address, inbox.display_name, hashed)
            )
    except MailServerRejected as error:
        if error.code is Refusal.ADDRESS_TAKEN and reservation.taken_over:
            return await _adopt(db, server, inbox, hashed)
        await _give_back(db, inbox)
        raise _refused(inbox, error) from error
    except MailServerUnavailable as error:
        if not error.reached:
            await _give_back(db, inbox)
        raise Unavailable(
            "The mail server is not answering; no inbox was made.", retry_after=error.retry_after
        ) from error
    except TimeoutError as error:
        raise Unavailable("The mail server is not answering; no inbox was made.") from error


async def _adopt(db: Database, server: MailServer, inbox: Inbox, hashed: str) -> Account:
    """Finish what a crashed request began: its account is there, only its password is lost."""
    account = await server.find_account(inbox.address)
    if account is None or not await _is_half_made(server, account):
        await _give_back(db, inbox)
        raise Taken(f"{inbox.address} is taken.", fix="Choose another username.")
    await server.set_password(account.account_id, hashed)
    return account


async def _is_half_made(server: MailServer, account: Account) -> bool:
    """Whether nobody can have used this account: one with mail may be somebody's whose row is not in
    this database, as after a restored backup, and is left alone.
    """
    return account.ours and not (await server.listing(account.account_id)).document_ids


def _refused(inbox: Inbox, error: MailServerRejected) -> Exception:
    if error.code is Refusal.ADDRESS_TAKEN:
        return Taken(f"{inbox.address} is taken.", fix="Choose another username.")
    if error.code is Refusal.UNKNOWN_DOMAIN:
        return Forbidden(
            f"The mail server does not know the domain {inbox.domain}.",
            fix="Run `agentmail-cp stalwart apply`, or choose another domain.",
            code="domain_not_verified",
        )
    return error


async def _give_back(db: Database, inbox: Inbox) -> None:
    """Free the address, unless somebody else took the row over."""
    async with db.transaction() as tx:
        await tx.execute(
            "delete from inbox where inbox_id = %(inbox_id)s and state = 'creating'"
            " and organization_id = %(organization_id)s and lease_until = %(lease_until)s",
            {
                "inbox_id": inbox.inbox_id,
                "organization_id": inbox.organization_id,
                "lease_until": inbox.lease_until,
            },
        )


async def _leave_to_settle(tx: Tx, inbox: Inbox) -> None:
    """The row was taken back before the account was made: note the account, so that it goes too."""
    await tx.execute(
        "insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, state,"
        " lease_until) values (%(inbox_id)s, %(organization_id)s, %(pod_id)s, %(address)s,"
        " %(username)s, %(domain)s, 'creating', now()) on conflict do nothing",
        {
            "inbox_id": inbox.inbox_id,
            "organization_id": inbox.organization_id,
            "pod_id": inbox.pod_id,
            "address": inbox.address,
            "username": inbox.username,
            "domain": inbox.domain,
        },
    )


async def _activate(tx: Tx, inbox: Inbox, account: Account) -> Inbox | None:
    """Show a made inbox to callers; None when somebody else took the row over."""
    parameters = {
        "inbox_id": inbox.inbox_id,
        "organization_id": inbox.organization_id,
        "pod_id": inbox.pod_id,
        "account_id": account.account_id,
        "state": account.state,
        "lease_until": inbox.lease_until,
    }
    active = await fetch_one(
        tx,
        Inbox,
        "update inbox set state = 'active', account_id = %(account_id)s, lease_until = null,"
        " updated_at = now() where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and state = 'creating'"
        " and lease_until = %(lease_until)s"
        f" returning {_COLUMNS}",
        parameters,
    )
    if active is None:
        return None
    await tx.execute(
        "insert into inbox_sync (inbox_id, organization_id, pod_id, account_id, state, synced_at)"
        " values (%(inbox_id)s, %(organization_id)s, %(pod_id)s, %(account_id)s, %(state)s, now())",
        parameters,
    )
    return active


async def get(tx: Tx, organization_id: UUID, inbox: str, *, lock: bool = False) -> Inbox:
    """The active inbox that goes by this address or `inb_…` id; `NotFound` otherwise."""
    query: LiteralString = (
        f"select {_COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and state = 'active'"
    )
    if lock:
        query += " for update"
    parameters = {"organization_id": organization_id, "inbox_id": _parse(inbox)}
    found = await fetch_one(tx, Inbox, query, parameters)
    if found is None:
        raise NotFound(
            "There is no such inbox.", fix="List your inboxes to see which addresses exist."
        )
    return found


def _parse(inbox: str) -> UUID:
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
        f"select {_COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and state in ('active', 'deleting', 'deleted')",
        {"organization_id": organization_id, "inbox_id": inbox_id},
    )
    if found is None:
        raise NotFound("There is no such inbox.")
    return found


async def addresses_of(tx: Tx, organization_id: UUID, inbox_ids: Iterable[UUID]) -> dict[UUID, str]:
    """The addresses of these inboxes, whatever their state."""
    rows = await (
        await tx.execute(
            "select inbox_id, address from inbox where organization_id = %(organization_id)s"
            " and inbox_id = any(%(inbox_ids)s)",
            {"organization_id": organization_id, "inbox_ids": list(inbox_ids)},
        )
    ).fetchall()
    return {row["inbox_id"]: row["address"] for row in rows}


async def list_page(
    tx: Tx, *, organization_id: UUID, limit: int, page_token: str | None, ascending: bool = False
) -> tuple[list[Inbox], str | None]:
    """One page of active inboxes by time of creation, and the token of the next page."""
    scope = f"inboxes/{organization_id}/{ascending}"
    query = (
        f"select {_COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and state = 'active'"
    )
    parameters: dict[str, Any] = {"organization_id": organization_id, "limit": limit + 1}
    if page_token:
        created_at, inbox_id = pages.decode(scope, page_token, tuple[datetime, UUID])
        parameters |= {"created_at": created_at, "inbox_id": inbox_id}
        query += (
            " and (created_at, inbox_id) > (%(created_at)s, %(inbox_id)s::uuid)"
            if ascending
            else " and (created_at, inbox_id) < (%(created_at)s, %(inbox_id)s::uuid)"
        )
    query += (
        " order by created_at, inbox_id limit %(limit)s"
        if ascending
        else " order by created_at desc, inbox_id desc limit %(limit)s"
    )
    rows = await fetch_all(tx, Inbox, query, parameters)
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], pages.encode(scope, (last.created_at, last.inbox_id))


async def update(tx: Tx, organization_id: UUID, inbox: str, patch: InboxPatch) -> Inbox:
    """Change display_name or metadata."""
    if patch.display_name is UNSET and patch.metadata is UNSET:
        raise Invalid(
            "display_name",
            "Nothing to update.",
            fix="Give display_name or metadata.",
            detail="REQUIRED",
        )
    if patch.metadata == {}:
        raise Invalid(
            "metadata",
            "metadata is empty.",
            fix="Give the keys to change, or null to clear all.",
        )
    current = await get(tx, organization_id, inbox, lock=True)
    metadata = current.metadata
    if patch.metadata is not UNSET:
        check_metadata(patch.metadata or {})
        metadata = merge_metadata(metadata, patch.metadata)
    name = current.display_name if patch.display_name is UNSET else patch.display_name
    check_display_name(name)
    return await fetch_only(
        tx,
        Inbox,
        "update inbox set display_name = %(display_name)s, metadata = %(metadata)s,"
        " updated_at = now() where inbox_id = %(inbox_id)s"
        f" and organization_id = %(organization_id)s returning {_COLUMNS}",
        {
            "display_name": name,
            "metadata": Jsonb(metadata),
            "inbox_id": current.inbox_id,
            "organization_id": organization_id,
        },
    )


async def delete(db: Database, server: MailServer, *, organization_id: UUID, inbox: str) -> None:
    """Delete an inbox: gone for callers at once, its mail retained, its address refused by SMTP.

    When the mail server is away the inbox stays as it was and `Unavailable` is raised; when only its
    answer is missing, the deletion stands and `settle` finishes it.
    """
    async with db.transaction() as tx:
        found = await _set_deleting(tx, await get(tx, organization_id, inbox))
    try:
        await _retire(server, found)
    except MailServerUnavailable as error:
        if error.reached:
            return
        async with db.transaction() as tx:
            await _undelete(tx, found)
        raise Unavailable(
            "The mail server is not answering; the inbox was not deleted.",
            retry_after=error.retry_after,
        ) from error
    async with db.transaction() as tx:
        await _set_deleted(tx, found)


async def _retire(server: MailServer, inbox: Inbox) -> None:
    try:
        await server.retire_account(inbox.account)
    except MailServerRejected as error:
        # Somebody destroyed the account behind our back: it takes no mail either.
        if error.code is not Refusal.NO_ACCOUNT:
            raise


async def _set_deleting(tx: Tx, inbox: Inbox) -> Inbox:
    deleting = await fetch_one(
        tx,
        Inbox,
        "update inbox set state = 'deleting', lease_until = now() + %(lease)s, deleted_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        f" and state = 'active' returning {_COLUMNS}",
        {
            "lease": LEASE,
            "inbox_id": inbox.inbox_id,
            "organization_id": inbox.organization_id,
        },
    )
    if deleting is None:
        raise NotFound("There is no such inbox.")
    return deleting


async def _undelete(tx: Tx, inbox: Inbox) -> None:
    await tx.execute(
        "update inbox set state = 'active', lease_until = null, deleted_at = null"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and state = 'deleting' and lease_until = %(lease_until)s",
        {
            "inbox_id": inbox.inbox_id,
            "organization_id": inbox.organization_id,
            "lease_until": inbox.lease_until,
        },
    )


async def _set_deleted(tx: Tx, inbox: Inbox) -> None:
    parameters = {"inbox_id": inbox.inbox_id, "organization_id": inbox.organization_id}
    cursor = await tx.execute(
        "update inbox set state = 'deleted', lease_until = null, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and state = 'deleting'",
        parameters,
    )
    if cursor.rowcount == 1:
        await tx.execute(
            "delete from inbox_sync where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s",
            parameters,
        )


async def settle(db: Database, server: MailServer) -> int:
    """Finish or take back what crashed requests left: returns how many inboxes were settled.

    A `creating` inbox was never shown to anybody: its account, if ours and empty, is destroyed and its
    address is free again. A `deleting` inbox was promised to be gone: its account is retired. One the
    mail server refuses waits for a later round; raises `MailServerUnavailable` when it is away.
    """
    settled = 0
    while claimed := await _claim_unsettled(db):
        outcomes = await asyncio.gather(
            *(_settle_claimed(db, server, inbox) for inbox in claimed), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            settled += outcome
    return settled


async def _settle_claimed(db: Database, server: MailServer, inbox: Inbox) -> bool:
    try:
        await (_take_back if inbox.state == "creating" else _finish_deleting)(db, server, inbox)
    except (MailServerRejected, MailServerConfused) as error:
        log.error("inbox.not_settled", inbox_id=str(inbox.inbox_id), reason=str(error))
        return False
    log.info("inbox.settled", state=inbox.state, inbox_id=str(inbox.inbox_id))
    return True


async def _claim_unsettled(db: Database) -> list[Inbox]:
    async with db.transaction() as tx:
        return await fetch_all(
            tx,
            Inbox,
            "update inbox set lease_until = now() + %(lease)s where inbox_id in ("
            " select inbox_id from inbox where state in ('creating', 'deleting')"
            " and lease_until < now() order by lease_until limit %(most)s for update skip locked)"
            f" returning {_COLUMNS}",
            {"lease": LEASE, "most": SETTLED_AT_ONCE},
        )


async def _take_back(db: Database, server: MailServer, inbox: Inbox) -> None:
    account = await server.find_account(inbox.address)
    if account is None:
        await asyncio.sleep(SECOND_LOOK)
        account = await server.find_account(inbox.address)
    if account is not None and await _is_half_made(server, account):
        await server.destroy_account(account.account_id)
    elif account is not None:
        log.warning("inbox.account_not_ours", inbox_id=str(inbox.inbox_id))
    await _give_back(db, inbox)


async def _finish_deleting(db: Database, server: MailServer, inbox: Inbox) -> None:
    await _retire(server, inbox)
    async with db.transaction() as tx:
        await _set_deleted(tx, inbox)


async def erase(db: Database, server: MailServer, *, organization_id: UUID, address: str) -> None:
    """Destroy the retained mail of a deleted inbox. The address stays taken."""
    inbox_id = inbox_uuid(address.lower())
    async with db.transaction() as tx:
        inbox = await get_for_reading(tx, organization_id, inbox_id)
    if inbox.state != "deleted":
        raise Conflict(f"{inbox.address} is not deleted.", fix="Delete the inbox first.")
    await server.destroy_account(inbox.account)
    async with db.transaction() as tx:
        await _set_erased(tx, inbox)


async def _set_erased(tx: Tx, inbox: Inbox) -> None:
    await messages.erase(tx, inbox.place)
    await tx.execute(
        "update inbox set state = 'erased', display_name = null, metadata = '{}', client_id = null,"
        " updated_at = now() where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s",
        {"inbox_id": inbox.inbox_id, "organization_id": inbox.organization_id},
    )


async def erase_retained(db: Database, server: MailServer, *, days: int) -> int:
    """Erase every inbox that was deleted longer ago than this; returns how many."""
    async with db.transaction() as tx:
        expired = await fetch_all(
            tx,
            Inbox,
            f"select {_COLUMNS} from inbox where state = 'deleted'"
            " and deleted_at < now() - make_interval(days => %(days)s)"
            " order by deleted_at limit 1000",
            {"days": days},
        )
    for inbox in expired:
        await erase(db, server, organization_id=inbox.organization_id, address=inbox.address)
    return len(expired)
