"""Mail logins of many inboxes as a table for a spreadsheet (seed 004's columns), and new passwords for all.

No password is stored, so the table has none, but for the request that sets new ones: they follow from the
claim on its Idempotency-Key. Nothing is told before all are set. Whoever dies half-way leaves some inboxes
with passwords nobody was told; the same request under the same key goes on where it stopped and tells them
all, and one under another key sets all anew.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import UTC, datetime
from typing import LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import access, idempotency
from agentmail_cp.access import Principal, Reach
from agentmail_cp.credentials import logins
from agentmail_cp.credentials.logins import LEASE, Lease, Mailbox
from agentmail_cp.credentials.passwords import new_password, password_hash
from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.errors import Conflict
from agentmail_cp.idempotency import Claim
from agentmail_cp.mailserver import AccountId, MailServer, MailServerError

COLUMNS = ("email", "imap_host", "imap_port", "smtp_host", "smtp_port", "username", "password")

PAGE = 500
"""Inboxes read, or set anew, at a time."""

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula at the beginning of a cell (OWASP: CSV injection)."""

TRIES = 50
PAUSE = 0.1
"""Seconds between two tries for inboxes whose password somebody else is setting."""


class Servers(msgspec.Struct, frozen=True):
    """Where mail clients connect, as the table says it."""

    imap_host: str
    imap_port: int
    smtp_host: str
    smtp_port: int


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    inbox_id: UUID
    organization_id: UUID
    pod_id: UUID
    account_id: AccountId
    address: str
    created_at: datetime
    is_set: bool
    """Whether its password is the claim's and works."""

    chosen: bool
    """Whether an API key is its password."""

    @property
    def mailbox(self) -> Mailbox:
        return Mailbox(Reach(self.organization_id, self.pod_id, self.inbox_id), self.account_id)


_PAGE: LiteralString = (
    "select inbox.inbox_id, inbox.organization_id, inbox.pod_id, account_id, address, created_at,"
    " coalesce(login.kind = 'own' and login.set_by = %(set_by)s and login.due_at is null"
    " and login.lease_until is null, false) as is_set,"
    " exists (select from mail_password as chosen"
    "  where chosen.organization_id = %(organization_id)s"
    "  and (chosen.pod_id is null or chosen.pod_id = inbox.pod_id)"
    "  and (chosen.inbox_id is null or chosen.inbox_id = inbox.inbox_id)) as chosen"
    " from inbox left join mail_login as login on login.inbox_id = inbox.inbox_id"
    " and login.organization_id = %(organization_id)s"
    " where inbox.organization_id = %(organization_id)s and state = 'active'"
    " and (created_at, inbox.inbox_id) < (%(created_at)s, %(after)s)"
)
_ORDER: LiteralString = " order by created_at desc, inbox.inbox_id desc limit %(most)s"


async def lines(
    db: Database, reach: Reach, servers: Servers, claim: Claim | None = None
) -> AsyncGenerator[bytes]:
    """The table as CSV (RFC 4180), newest inbox first, a page at a time. With a claim, passwords it has set
    and that still work are told.
    """
    yield _csv([COLUMNS])
    async for page in _pages(db, reach, claim):
        yield _csv([_cells(row, servers, claim) for row in page])


async def rotate(
    db: Database, server: MailServer, reach: Reach, caller: Principal, claim: Claim
) -> None:
    """Give every inbox in reach that has a password of its own a new one. Raises `Conflict` while others keep
    setting one of them, as `access.require_mail_maker`, and `Unavailable`; asked again under the same claim,
    it goes on.
    """
    async with db.transaction() as tx:
        await access.require_mail_maker(tx, caller)
    async for page in _pages(db, reach, claim):
        wanted = [row for row in page if not row.is_set and not row.chosen]
        for _ in range(TRIES):
            wanted = await _set(db, server, reach, wanted, claim)
            if not wanted:
                break
            await asyncio.sleep(PAUSE)
        else:
            raise Conflict(
                f"Other requests are setting the mail password of {wanted[0].address}.",
                fix="Repeat the request with the same Idempotency-Key.",
                retry_after=LEASE.total_seconds(),
            )
    async with db.transaction() as tx:
        await idempotency.complete(tx, claim, "credentials", new=False)


async def _set(
    db: Database, server: MailServer, reach: Reach, rows: Sequence[_Row], claim: Claim
) -> list[_Row]:
    """Set new passwords; returns the inboxes at which somebody else is."""
    if not rows:
        return []
    async with db.transaction() as tx:
        await idempotency.extend(tx, claim, idempotency.LEASE)
        leases = await logins.begin(tx, reach, [row.mailbox for row in rows])
        held = {lease.inbox_id for lease in leases}
        chosen = await _chosen(tx, reach, held)
        await logins.release(
            tx, reach.organization_id, [each for each in leases if each.inbox_id in chosen]
        )
    mine = [row for row in rows if row.inbox_id in held - chosen]
    if mine:
        leases = [each for each in leases if each.inbox_id not in chosen]
        await _write(db, server, reach, mine, leases, claim)
    return [row for row in rows if row.inbox_id not in held]


async def _write(
    db: Database,
    server: MailServer,
    reach: Reach,
    rows: Sequence[_Row],
    leases: Sequence[Lease],
    claim: Claim,
) -> None:
    try:
        await logins.write(
            server, {row.account_id: password_hash(_password(row, claim)) for row in rows}
        )
    except MailServerError as error:
        async with db.transaction() as tx:
            await logins.release(tx, reach.organization_id, leases)
        raise logins.failed(error) from error
    async with db.transaction() as tx:
        await logins.finish(tx, reach.organization_id, leases, claim.uuid())


class _Chosen(msgspec.Struct, frozen=True):
    inbox_id: UUID


async def _chosen(tx: Tx, reach: Reach, inbox_ids: Iterable[UUID]) -> set[UUID]:
    """Those of these inboxes whose password is an API key by now."""
    found = await fetch_all(
        tx,
        _Chosen,
        "select inbox_id from inbox where organization_id = %(organization_id)s"
        " and inbox_id = any(%(inbox_ids)s) and exists (select from mail_password as chosen"
        " where chosen.organization_id = %(organization_id)s"
        " and (chosen.pod_id is null or chosen.pod_id = inbox.pod_id)"
        " and (chosen.inbox_id is null or chosen.inbox_id = inbox.inbox_id))",
        {"organization_id": reach.organization_id, "inbox_ids": list(inbox_ids)},
    )
    return {each.inbox_id for each in found}


async def _pages(db: Database, reach: Reach, claim: Claim | None) -> AsyncGenerator[list[_Row]]:
    """All active inboxes in reach, newest first. Whatever a page is used for, no transaction is open."""
    parameters = msgspec.structs.asdict(reach) | {
        "set_by": claim and claim.uuid(),
        "created_at": datetime.max.replace(tzinfo=UTC),
        "after": UUID(int=2**128 - 1),
        "most": PAGE,
    }
    while True:
        async with db.reading() as tx:
            page = await fetch_all(tx, _Row, f"{_PAGE}{_reached(reach)}{_ORDER}", parameters)
        if page:
            yield page
        if len(page) < PAGE:
            return
        parameters |= {"created_at": page[-1].created_at, "after": page[-1].inbox_id}


def _reached(reach: Reach) -> LiteralString:
    if reach.inbox_id is not None:
        return " and inbox.inbox_id = %(inbox_id)s"
    return "" if reach.pod_id is None else " and inbox.pod_id = %(pod_id)s"


def _cells(row: _Row, servers: Servers, claim: Claim | None) -> tuple[object, ...]:
    told = claim is not None and row.is_set and not row.chosen
    return (
        row.address,
        servers.imap_host,
        servers.imap_port,
        servers.smtp_host,
        servers.smtp_port,
        row.address,
        _password(row, claim) if claim is not None and told else "",
    )


def _password(row: _Row, claim: Claim) -> str:
    return new_password(claim.secret(row.mailbox.purpose))


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([map(harmless, row) for row in rows])
    return text.getvalue().encode()


def harmless(cell: object) -> str:
    """A cell that no spreadsheet computes."""
    text = str(cell)
    return f"'{text}" if text.startswith(FORMULAS) else text
