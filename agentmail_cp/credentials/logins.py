"""The mail password of each inbox: set by its own request, or brought to what was chosen for it.

Owns the table `mail_login`. An inbox without a row has the password it was made with. States of a row:
*due* (what is chosen changed, so Stalwart may have another password than it should), *leased* (somebody is
writing to Stalwart; nobody else writes meanwhile), settled. A change while somebody writes raises the row's
generation, and what was written then does not count: the row stays due. Whoever dies over a row leaves it to
the next, `settle` or another request. Nothing here is ever told a second time: a password follows from the
claim of the request that set it, and is told again only while it is the one that works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import LiteralString, NamedTuple
from uuid import UUID

import msgspec
import structlog

from agentmail_cp import access, idempotency
from agentmail_cp.access import Principal, Reach, in_reach
from agentmail_cp.credentials import mail_passwords
from agentmail_cp.credentials.passwords import new_password, password_hash
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.errors import Conflict, Unavailable
from agentmail_cp.idempotency import Claim
from agentmail_cp.mailserver import (
    AccountId,
    MailServer,
    MailServerError,
    MailServerUnavailable,
)

log = structlog.stdlib.get_logger(__name__)

LEASE = timedelta(seconds=12)
"""How long nobody else writes, and at most what a process that died over a batch delays."""

PATIENCE = 9.0
"""Seconds the mail server may take over a batch: less than the lease, so that nobody else is at it."""

BATCH = 500
"""Inboxes in one request to the mail server."""

AGAIN = timedelta(seconds=2)
"""After which a batch is tried again that the mail server did not take."""


class Mailbox(NamedTuple):
    """An inbox, and the account behind it."""

    reach: Reach
    account_id: AccountId

    @property
    def purpose(self) -> str:
        """What a claim's secret is for that becomes this inbox's password."""
        return f"mail password of {self.reach.inbox_id}"


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an inbox's mail password. `set_by` is the claim that set an own one; None while that
    is not certain.
    """

    kind: str
    set_by: UUID | None
    generation: int
    due_at: datetime | None
    lease_until: datetime | None

    @property
    def settled(self) -> bool:
        """Whether Stalwart has what the row says."""
        return self.due_at is None and self.lease_until is None


COLUMNS: LiteralString = "kind, set_by, generation, due_at, lease_until"


async def get(tx: Tx, reach: Reach) -> Login | None:
    """The row of an inbox; None while it has the password it was made with."""
    return await fetch_one(
        tx,
        Login,
        f"select {COLUMNS} from mail_login where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s",
        msgspec.structs.asdict(reach),
    )


async def works_as_made(tx: Tx, reach: Reach) -> bool:
    """Whether an inbox still has the password it was made with."""
    if await mail_passwords.holding(tx, reach) is not None:
        return False
    login = await get(tx, reach)
    return login is None


async def rotate(
    db: Database, server: MailServer, mailbox: Mailbox, caller: Principal, claim: Claim
) -> str:
    """Give an inbox a new mail password of its own and tell it. The former opens nothing any more.

    Raises `Conflict` where an API key is the mail password and while another request sets one, as
    `access.require_mail_maker`, and `Unavailable`: then either password may be the one that works.
    """
    async with db.transaction() as tx:
        await access.require_mail_maker(tx, caller)
        leases = await _begin_one(tx, mailbox)
    password = new_password(claim.secret(mailbox.purpose))
    try:
        await write(server, {mailbox.account_id: password_hash(password)})
    except MailServerError as error:
        async with db.transaction() as tx:
            await release(tx, mailbox.reach.organization_id, leases)
        raise failed(error) from error
    async with db.transaction() as tx:
        still_wanted = await finish(tx, mailbox.reach.organization_id, leases, claim.uuid())
        if still_wanted:
            await idempotency.complete(tx, claim, mailbox.reach.inbox_id, new=False)
    if not still_wanted:
        raise Conflict(
            "The mail password of this inbox was changed by another request meanwhile.",
            fix="Repeat the request after Retry-After seconds.",
            retry_after=1.0,
        )
    return password


async def told_before(tx: Tx, mailbox: Mailbox, claim: Claim) -> str | None:
    """The password that an earlier request with this claim set, as long as it is the one that works."""
    if await mail_passwords.holding(tx, mailbox.reach) is not None:
        return None
    login = await get(tx, mailbox.reach)
    if login is None or login.kind != "own" or login.set_by != claim.uuid() or not login.settled:
        return None
    return new_password(claim.secret(mailbox.purpose))


class Lease(msgspec.Struct, frozen=True):
    """The right to write one inbox's password; `generation` tells whether another is wanted meanwhile."""

    inbox_id: UUID
    lease_until: datetime
    generation: int


async def _begin_one(tx: Tx, mailbox: Mailbox) -> list[Lease]:
    reach = mailbox.reach
    leases = await begin(tx, reach, [mailbox])
    if not leases:
        raise Conflict(
            "Another request is setting the mail password of this inbox.",
            fix="Repeat the request after Retry-After seconds.",
            retry_after=1.0,
        )
    if await mail_passwords.holding(tx, reach) is not None:
        raise Conflict(
            "An API key is the mail password of this inbox.",
            fix="Take that choice back first: DELETE mail-password of the inbox, its pod or its"
            " organization.",
        )
    return leases


async def begin(tx: Tx, reach: Reach, mailboxes: Sequence[Mailbox]) -> list[Lease]:
    """Be the only one who writes these inboxes' passwords, which are their own from now on. Inboxes at which
    somebody else is are left out. Whether an API key is chosen has to be asked after this.
    """
    return await fetch_all(
        tx,
        Lease,
        "insert into mail_login (inbox_id, organization_id, pod_id, kind, lease_until)"
        " select inbox_id, %(organization_id)s, pod_id, 'own', now() + %(lease)s"
        " from unnest(%(inbox_ids)s::uuid[], %(pod_ids)s::uuid[]) as wanted (inbox_id, pod_id)"
        " order by inbox_id"
        " on conflict (inbox_id) do update set lease_until = excluded.lease_until,"
        " set_by = null, generation = mail_login.generation + 1"
        " where mail_login.organization_id = excluded.organization_id"
        " and (mail_login.lease_until is null or mail_login.lease_until < now())"
        " returning inbox_id, lease_until, generation",
        {
            "organization_id": reach.organization_id,
            "inbox_ids": [each.reach.inbox_id for each in mailboxes],
            "pod_ids": [each.reach.pod_id for each in mailboxes],
            "lease": LEASE,
        },
    )


class _Inbox(msgspec.Struct, frozen=True):
    inbox_id: UUID


async def finish(tx: Tx, organization_id: UUID, leases: Sequence[Lease], set_by: UUID) -> set[UUID]:
    """Note that Stalwart has these inboxes' own passwords, and say which of them are still wanted."""
    done = await fetch_all(
        tx,
        _Inbox,
        "with held as (select inbox_id, raised from unnest(%(inbox_ids)s::uuid[],"
        " %(generations)s::bigint[]) as done (inbox_id, raised) join mail_login using (inbox_id)"
        " where mail_login.organization_id = %(organization_id)s"
        " order by inbox_id for update of mail_login)"
        " update mail_login set lease_until = null, kind = 'own', due_at = null, set_by = %(set_by)s"
        " from held where mail_login.organization_id = %(organization_id)s"
        " and mail_login.inbox_id = held.inbox_id and generation = held.raised"
        " and lease_until = %(lease_until)s returning mail_login.inbox_id",
        _parameters(organization_id, leases) | {"set_by": set_by},
    )
    wanted = {each.inbox_id for each in done}
    await release(tx, organization_id, [each for each in leases if each.inbox_id not in wanted])
    return wanted


async def release(tx: Tx, organization_id: UUID, leases: Sequence[Lease]) -> None:
    """Let others write these inboxes' passwords."""
    if leases:
        await tx.execute(
            "update mail_login set lease_until = null where organization_id = %(organization_id)s"
            " and inbox_id = any(%(inbox_ids)s) and lease_until = %(lease_until)s",
            _parameters(organization_id, leases),
        )


def _parameters(organization_id: UUID, leases: Sequence[Lease]) -> dict[str, object]:
    return {
        "organization_id": organization_id,
        "inbox_ids": [each.inbox_id for each in leases],
        "generations": [each.generation for each in leases],
        "lease_until": leases[0].lease_until,
    }


async def write(server: MailServer, passwords: Mapping[AccountId, str | None]) -> None:
    """Have the mail server set passwords while the lease lasts. An account that is gone needs none."""
    try:
        async with asyncio.timeout(PATIENCE):
            await server.set_passwords(passwords)
    except TimeoutError as error:
        raise MailServerUnavailable(
            "The mail server takes too long to set passwords.", reached=True
        ) from error


def failed(error: MailServerError) -> Exception:
    """What a caller is told of it."""
    if isinstance(error, MailServerUnavailable):
        return Unavailable(
            "The mail server is not answering; the password may not have been changed.",
            retry_after=error.retry_after,
            fix="Repeat the request with the same Idempotency-Key.",
        )
    return error


async def mark(tx: Tx, reach: Reach) -> None:
    """Have the mail passwords of a scope brought to what is chosen. Those of inboxes that are being made
    too: they may have been given what was chosen before.
    """
    await tx.execute(
        "insert into mail_login (inbox_id, organization_id, pod_id, kind, due_at)"
        " select inbox_id, organization_id, pod_id, 'own', now() from inbox"
        f" where organization_id = %(organization_id)s{in_reach(reach)}"
        # In one order, as `_SETTLE` does: so nobody waits for ever.
        " and state in ('creating', 'active') order by inbox_id"
        " on conflict (inbox_id) do update set due_at = now(), generation = mail_login.generation + 1"
        " where mail_login.organization_id = excluded.organization_id",
        msgspec.structs.asdict(reach),
    )


async def pending(tx: Tx, reach: Reach) -> bool:
    """Whether some inbox of a scope may still have another password than it should."""
    cursor = await tx.execute(
        "select 1 from mail_login join inbox using (inbox_id)"
        " where mail_login.organization_id = %(organization_id)s"
        " and inbox.organization_id = %(organization_id)s and inbox.state = 'active'"
        f"{_in(reach)} and due_at is not null limit 1",
        msgspec.structs.asdict(reach),
    )
    return cursor.rowcount > 0


def _in(reach: Reach) -> LiteralString:
    if reach.inbox_id is not None:
        return " and mail_login.inbox_id = %(inbox_id)s"
    return "" if reach.pod_id is None else " and mail_login.pod_id = %(pod_id)s"


async def forget(tx: Tx, reach: Reach) -> None:
    """Let go of the rows of an inbox or pod that is gone."""
    await tx.execute(
        f"delete from mail_login where organization_id = %(organization_id)s{in_reach(reach)}",
        msgspec.structs.asdict(reach),
    )


class _Due(msgspec.Struct, frozen=True, kw_only=True):
    """A row that was claimed, and what is chosen for its inbox."""

    inbox_id: UUID
    organization_id: UUID
    account_id: AccountId
    generation: int
    lease_until: datetime
    hash: str | None


_CLAIM: LiteralString = """
with due as (
    select mail_login.inbox_id from mail_login
    join inbox using (organization_id, inbox_id)
    where due_at <= now() and (mail_login.lease_until is null or mail_login.lease_until < now())
      and inbox.state = 'active'
      and (%(organization_id)s::uuid is null or organization_id = %(organization_id)s)
    order by mail_login.inbox_id limit %(most)s for update of mail_login skip locked
)
update mail_login set lease_until = now() + %(lease)s, generation = generation + 1
from due where mail_login.inbox_id = due.inbox_id
returning mail_login.inbox_id
"""

_CHOSEN: LiteralString = """
select login.inbox_id, login.organization_id, inbox.account_id, login.generation, login.lease_until,
    chosen.hash
from mail_login as login
join inbox using (organization_id, inbox_id)
left join lateral (
    select hash from mail_password
    where mail_password.organization_id = login.organization_id
      and (mail_password.pod_id is null or mail_password.pod_id = login.pod_id)
      and (mail_password.inbox_id is null or mail_password.inbox_id = login.inbox_id)
    order by mail_password.inbox_id nulls last, mail_password.pod_id nulls last limit 1
) as chosen on true
where login.inbox_id = any(%(inbox_ids)s)
order by login.inbox_id
"""

_SETTLE: LiteralString = """
with held as (
    select inbox_id, raised, found
    from unnest(%(inbox_ids)s::uuid[], %(generations)s::bigint[], %(kinds)s::text[])
        as done (inbox_id, raised, found)
    join mail_login using (inbox_id) order by inbox_id for update of mail_login
)
update mail_login set lease_until = null,
    kind = case when generation = held.raised then held.found else kind end,
    set_by = case when generation = held.raised then null else set_by end,
    due_at = case when generation = held.raised then null else due_at end
from held
where mail_login.inbox_id = held.inbox_id and lease_until = %(lease_until)s
"""

_POSTPONE: LiteralString = """
with held as (
    select inbox_id from mail_login where inbox_id = any(%(inbox_ids)s)
    order by inbox_id for update
)
update mail_login set lease_until = null, due_at = now() + %(again)s
from held where mail_login.inbox_id = held.inbox_id and lease_until = %(lease_until)s
"""


class _Claimed(msgspec.Struct, frozen=True):
    inbox_id: UUID


async def apply(
    db: Database, server: MailServer, *, organization_id: UUID | None = None, patience: float
) -> bool:
    """Bring due passwords of an organisation, or of all, to the mail server, for about `patience` seconds.
    False when it did not take them: they stay due.
    """
    ends = asyncio.get_running_loop().time() + patience
    while asyncio.get_running_loop().time() < ends:
        due = await _claim(db, organization_id)
        if not due:
            return True
        if not await _write(db, server, due):
            return False
    return True


async def _claim(db: Database, organization_id: UUID | None) -> list[_Due]:
    async with db.transaction() as tx:
        claimed = await fetch_all(
            tx,
            _Claimed,
            _CLAIM,
            {"organization_id": organization_id, "lease": LEASE, "most": BATCH},
        )
        if not claimed:
            return []
        return await fetch_all(
            tx, _Due, _CHOSEN, {"inbox_ids": [each.inbox_id for each in claimed]}
        )


async def _write(db: Database, server: MailServer, due: Sequence[_Due]) -> bool:
    """Write a batch; False when it has to wait."""
    held = {"inbox_ids": [each.inbox_id for each in due], "lease_until": due[0].lease_until}
    try:
        await write(server, {each.account_id: each.hash for each in due})
    except MailServerError as error:
        log.warning("mail_login.waiting", reason=type(error).__name__, inboxes=len(due))
        async with db.transaction() as tx:
            await tx.execute(_POSTPONE, {**held, "again": AGAIN})
        return False
    async with db.transaction() as tx:
        await tx.execute(
            _SETTLE,
            {
                **held,
                "generations": [each.generation for each in due],
                "kinds": ["none" if each.hash is None else "api_key" for each in due],
            },
        )
    return True
