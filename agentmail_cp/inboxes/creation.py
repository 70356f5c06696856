"""Making an inbox, and taking back a half-made one: one protocol between PostgreSQL and the mail server.

The address is reserved first (`creating`, with a lease), then the account is made, then the inbox is
activated. Whoever holds the lease may finish; when it has run out, the same caller may take the row over
or `settlement` takes it back. An account that is not ours, or that holds mail, is never touched.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog
from psycopg.types.json import Jsonb

from agentmail_cp import credentials, domains, idempotency, usernames
from agentmail_cp.access import Reach, default_pod
from agentmail_cp.credentials import MailPassword, new_password, password_hash
from agentmail_cp.db import Database, Tx, fetch_one
from agentmail_cp.domains import MailDomain
from agentmail_cp.errors import Conflict, Forbidden, Taken, Unavailable
from agentmail_cp.idempotency import Claim, Made
from agentmail_cp.inboxes.changing import begin_paused
from agentmail_cp.inboxes.inbox import (
    COLUMNS,
    LEASE,
    Created,
    Inbox,
    NewInbox,
    check_new,
    get,
    inbox_uuid,
    merge_metadata,
    public_id,
)
from agentmail_cp.inboxes.quota import obstacle
from agentmail_cp.limits import Limits
from agentmail_cp.mailserver import (
    Account,
    MailServer,
    MailServerRejected,
    MailServerUnavailable,
    NewAccount,
    Refusal,
)

log = structlog.stdlib.get_logger(__name__)

PATIENCE = 8.0
"""Seconds the mail server may take to make an account: less than the lease, so that nobody else is at it."""

SECOND_LOOK = 1.0
"""Seconds between two looks for an account that is not there: a mail server that was frozen may, when it
wakes, still make it."""

RANDOM_TRIES = 8

MAIL_LOGIN = "mail password"
"""What a claim's secret is for."""


class _Reservation(msgspec.Struct, frozen=True):
    """The place of a new inbox, and the API key chosen as its mail password, if one is."""

    inbox: Inbox
    taken_over: bool
    chosen: MailPassword | None = None


async def create(
    db: Database,
    server: MailServer,
    *,
    reach: Reach,
    domain: MailDomain,
    new: NewInbox,
    limits: Limits,
    claim: Claim | None = None,
) -> Created:
    """Make an inbox in the pod that is reached, or in the default pod where all are; with a known
    `client_id`, give back the one that has it, unless it is beyond reach. `claim` is on the
    Idempotency-Key it was asked for with: whoever holds it comes to the same address and password.

    The address is reserved in PostgreSQL before Stalwart is asked, so a crash leaves a `creating` row
    that `settle` takes back. Raises `Taken`, `Conflict`, `Forbidden`, `LimitExceeded`, `NotFound` for a
    pod that is gone, and `Unavailable`.
    """
    check_new(new)
    claim = claim or idempotency.unclaimed()
    reserved = await _known_or_reserved(db, reach, domain, new, limits, claim)
    if isinstance(reserved, Inbox):
        return await _answer_known(db, reserved, claim)
    password = new_password(claim.secret(MAIL_LOGIN)) if reserved.chosen is None else None
    account = await _make_account(db, server, reserved, domain, password)
    async with db.transaction() as tx:
        inbox = await _activate(tx, reserved.inbox, account)
        if inbox is None:
            await _leave_to_settle(tx, reserved.inbox)
        else:
            await idempotency.complete(tx, claim, inbox.inbox_id)
    if inbox is None:
        raise Conflict("Making this inbox took too long and was undone.", fix="Try again.")
    if inbox.pausing_until is not None:
        await begin_paused(db, server, inbox)
    return Created(inbox, password, by_key=reserved.chosen is not None)


async def known(db: Database, *, reach: Reach, new: NewInbox, claim: Claim) -> Created | None:
    """The inbox that has the `client_id` asked for already, whatever became of its domain since; None where
    there is none, or none is named. Raises `Invalid`, and `Conflict` for one beyond reach.
    """
    check_new(new)
    existing = await _existing(db, reach, new.client_id)
    return None if existing is None else await _answer_known(db, existing, claim)


async def _answer_known(db: Database, inbox: Inbox, claim: Claim) -> Created:
    if claim.repeatable:
        async with db.transaction() as tx:
            await idempotency.complete(tx, claim, inbox.inbox_id, new=False)
    return Created(inbox, None, new=False)


async def made_before(tx: Tx, reach: Reach, claim: Claim, made: Made) -> Created:
    """What an earlier request with the claim's key came to, as it is now; `NotFound` when it is deleted."""
    inbox = await get(tx, reach, public_id(UUID(made.resource_id)))
    # A password that was changed since would be taken for one that works.
    tell = made.new and await credentials.works_as_made(tx, inbox.reach)
    password = new_password(claim.secret(MAIL_LOGIN)) if tell else None
    by_key = await credentials.holding(tx, inbox.reach) is not None
    return Created(inbox, password, new=made.new, by_key=by_key)


async def _known_or_reserved(
    db: Database, reach: Reach, domain: MailDomain, new: NewInbox, limits: Limits, claim: Claim
) -> Inbox | _Reservation:
    """The inbox that has this client_id already, or the place of a new one."""
    existing = await _existing(db, reach, new.client_id)
    if existing is not None:
        return existing
    try:
        reservation = await _reserve_some(db, reach, domain, new, limits, claim)
    except Conflict:
        # Another request with this client_id was a moment faster: its inbox is the answer.
        existing = await _existing(db, reach, new.client_id)
        if existing is None:
            raise
        return existing
    return reservation.inbox if reservation.inbox.state == "active" else reservation


async def _existing(db: Database, reach: Reach, client_id: str | None) -> Inbox | None:
    """The inbox that has this client_id, waited for while another request is making it."""
    if client_id is None:
        return None
    deadline = asyncio.get_running_loop().time() + LEASE.total_seconds()
    while asyncio.get_running_loop().time() < deadline:
        async with db.reading() as tx:
            found = await _by_client_id(tx, reach, client_id)
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


async def _by_client_id(tx: Tx, reach: Reach, client_id: str) -> Inbox | None:
    """The inbox of the organisation that has this client_id. Of one beyond reach nothing is told but that
    the client_id is in use, which is for the organisation to know once: `Conflict`.
    """
    found = await fetch_one(
        tx,
        Inbox,
        f"select {COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and client_id = %(client_id)s and state in ('creating', 'active')",
        {"organization_id": reach.organization_id, "client_id": client_id},
    )
    if found is not None and not reach.covers(found.reach):
        raise Conflict("This client_id is in use in another pod.", fix="Use another client_id.")
    return found


async def _reserve_some(
    db: Database, reach: Reach, domain: MailDomain, new: NewInbox, limits: Limits, claim: Claim
) -> _Reservation:
    """Reserve the address asked for, or a free random one."""
    certain = new.username is not None and not domain.shared
    rng = claim.rng()
    for _ in range(1 if certain else RANDOM_TRIES):
        username = new.username or usernames.random_username(rng)
        if domain.shared:
            username = usernames.shared_username(username, rng)
        async with db.transaction() as tx:
            await domains.hold(tx, reach.organization_id, domain)
            reservation = await _reserve(tx, reach, f"{username}@{domain.name}", new, limits)
            if reservation is not None:
                await idempotency.extend(tx, claim, LEASE)
                reservation = await _with_password(tx, reservation)
            elif certain or claim.repeatable:
                # A name that is no chance may be what an earlier attempt left half made.
                await _ensure_nobody_makes(tx, reach, f"{username}@{domain.name}")
        if reservation is not None:
            return reservation
    raise Taken(
        f"{new.username}@{domain.name} is taken." if certain else "No free address was found.",
        fix="Choose another username, or leave it out to get a random one.",
    )


async def _with_password(tx: Tx, reservation: _Reservation) -> _Reservation:
    chosen = await credentials.of_new_inbox(tx, reservation.inbox.reach)
    return msgspec.structs.replace(reservation, chosen=chosen)


async def _reserve(
    tx: Tx, reach: Reach, address: str, new: NewInbox, limits: Limits
) -> _Reservation | None:
    organization_id = reach.organization_id
    pod_id = reach.pod_id or await default_pod(tx, organization_id)
    full = await obstacle(tx, organization_id, pod_id, limits)
    parameters = _row(organization_id, pod_id, address, new)
    inbox = None if full else await fetch_one(tx, Inbox, _RESERVE, parameters)
    if inbox is not None:
        return _Reservation(inbox, taken_over=False)
    inbox = await fetch_one(tx, Inbox, _TAKE_OVER, parameters)
    if inbox is not None:
        return _Reservation(inbox, taken_over=True)
    if new.client_id is not None:
        winner = await _by_client_id(tx, reach, new.client_id)
        if winner is not None and winner.state == "active":
            return _Reservation(winner, taken_over=False)
        if winner is not None:
            raise _being_made(winner)
    if full is not None:
        await _ensure_nobody_makes(tx, reach, address)
        raise full
    return None


def _row(organization_id: UUID, pod_id: UUID, address: str, new: NewInbox) -> dict[str, Any]:
    username, _, domain = address.rpartition("@")
    return {
        "inbox_id": inbox_uuid(address),
        "organization_id": organization_id,
        "pod_id": pod_id,
        "address": address,
        "username": username,
        "domain": domain,
        "display_name": new.display_name,
        "client_id": new.client_id,
        "metadata": Jsonb(merge_metadata({}, new.metadata)),
        "status": new.status,
        "lease": LEASE,
    }


async def _ensure_nobody_makes(tx: Tx, reach: Reach, address: str) -> None:
    """An address this organisation's own request is making, or left half made, is not taken yet."""
    half_made = await fetch_one(
        tx,
        Inbox,
        f"select {COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and address = %(address)s and state = 'creating'",
        {"organization_id": reach.organization_id, "address": address},
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
    client_id, metadata, status, state, lease_until)
values (%(inbox_id)s, %(organization_id)s, %(pod_id)s, %(address)s, %(username)s, %(domain)s,
    %(display_name)s, %(client_id)s, %(metadata)s, %(status)s, 'creating', now() + %(lease)s)
on conflict do nothing
returning {COLUMNS}
"""


_TAKE_OVER = f"""
update inbox set lease_until = now() + %(lease)s, display_name = %(display_name)s,
    client_id = %(client_id)s, metadata = %(metadata)s, status = %(status)s
where inbox_id = (
    select inbox_id from inbox
    where (address = %(address)s or client_id = %(client_id)s)
      and organization_id = %(organization_id)s and pod_id = %(pod_id)s
      and state = 'creating' and lease_until < now()
      and not exists (select from inbox as other where other.client_id = %(client_id)s
        and other.organization_id = %(organization_id)s and other.inbox_id <> inbox.inbox_id
        and other.state in ('creating', 'active'))
    order by inbox_id limit 1 for update)
  and organization_id = %(organization_id)s
returning {COLUMNS}
"""


async def _make_account(
    db: Database,
    server: MailServer,
    reservation: _Reservation,
    domain: MailDomain,
    password: str | None,
) -> Account:
    inbox = reservation.inbox
    hashed = _hash(reservation, password)
    try:
        async with asyncio.timeout(PATIENCE):
            if domain.below is not None:
                await server.install_domain(domain.below)
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


def _hash(reservation: _Reservation, password: str | None) -> str | None:
    if password is not None:
        return password_hash(password)
    return reservation.chosen and reservation.chosen.hash


async def _adopt(db: Database, server: MailServer, inbox: Inbox, hashed: str | None) -> Account:
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
            fix="Verify the domain, or leave it out. If it is the server's own, its operator can mend that"
            " with `agentmail-cp stalwart apply`.",
            field="domain",
            detail="UNKNOWN_DOMAIN",
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
        "lease": LEASE,
    }
    active = await fetch_one(
        tx,
        Inbox,
        "update inbox set state = 'active', account_id = %(account_id)s, lease_until = null,"
        " pausing_until = case when status = 'paused' then now() + %(lease)s end,"
        " updated_at = now() where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and state = 'creating'"
        " and lease_until = %(lease_until)s"
        f" returning {COLUMNS}",
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


async def take_back(db: Database, server: MailServer, inbox: Inbox) -> None:
    account = await server.find_account(inbox.address)
    if account is None:
        await asyncio.sleep(SECOND_LOOK)
        account = await server.find_account(inbox.address)
    if account is not None and await _is_half_made(server, account):
        await server.destroy_account(account.account_id)
    elif account is not None:
        log.warning("inbox.account_not_ours", inbox_id=str(inbox.inbox_id))
    await _give_back(db, inbox)
