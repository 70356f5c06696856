"""App passwords of an inbox: named, for reading or sending or both, with an end or for some addresses only.

They live in Stalwart, which makes their secrets. Owns the table `app_password`, which knows one only while
it comes into being: *minting* (with a lease; whatever Stalwart made of it may be there, and nobody was told
its secret) → *told* (for a day, so that a request repeated under its Idempotency-Key is answered as before:
the secret is sealed with a key that only the caller's API key and the claim yield together) → forgotten. Of
a request that died while minting, the next with its key, or `settle`, removes what Stalwart made.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_network
from typing import Any
from uuid import UUID

import msgspec
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentmail_cp import access, idempotency
from agentmail_cp.access import Principal, Reach, in_reach
from agentmail_cp.credentials.logins import Mailbox
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.errors import Invalid, LimitExceeded, NotFound, Unavailable
from agentmail_cp.idempotency import REMEMBERED, Claim
from agentmail_cp.mailserver import (
    LONGEST_NAME,
    MOST_APP_PASSWORDS,
    WIDEST_NETWORK,
    Access,
    AccountId,
    AppPassword,
    MailServer,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    NewAppPassword,
    Refusal,
)

log = structlog.stdlib.get_logger(__name__)

LEASE = timedelta(seconds=30)
MOST_NETWORKS = 32
NOWHERE = IPv4Address(0)
NONCE_BYTES = 12
PURPOSE = "app password"


class Told(msgspec.Struct, frozen=True):
    """An app password and, this once, its secret."""

    app_password: AppPassword
    secret: str

    def __repr__(self) -> str:
        return f"Told(app_password={self.app_password!r})"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for."""

    name: str
    access: Access = Access.BOTH
    expires_at: datetime | None = None
    allowed_ips: Sequence[str] = ()


async def create(
    db: Database,
    server: MailServer,
    mailbox: Mailbox,
    wish: Wish,
    *,
    caller: Principal,
    claim: Claim,
) -> Told:
    """Make an app password and tell its secret. Raises `Invalid`, `LimitExceeded`, `NotFound`, `Conflict`,
    as `access.require_mail_maker`, and `Unavailable`; then nothing stays behind for long.
    """
    new = _checked(wish, claim.uuid())
    async with db.transaction() as tx:
        await access.require_mail_maker(tx, caller)
        await _begin(tx, mailbox.reach, new.app_password_id)
    try:
        if claim.attempt > 1:
            await server.destroy_app_passwords(mailbox.account_id, [new.app_password_id])
        secret = await server.create_app_password(mailbox.account_id, new)
    except MailServerError as error:
        if not (isinstance(error, MailServerUnavailable) and error.reached):
            async with db.transaction() as tx:
                await _forget(tx, mailbox.reach, new.app_password_id)
        raise _failed(error) from error
    async with db.transaction() as tx:
        await _remember(tx, mailbox.reach, new.app_password_id, secret, claim)
        await idempotency.complete(tx, claim, new.app_password_id)
    now = datetime.now(UTC).replace(microsecond=0)
    return Told(AppPassword(**msgspec.structs.asdict(new), created_at=now), secret)


async def created_before(
    db: Database, server: MailServer, mailbox: Mailbox, app_password_id: UUID, claim: Claim
) -> Told:
    """An app password made under this claim, with its secret once more. `NotFound` when it is revoked."""
    found = await get(db, server, mailbox, app_password_id)
    async with db.reading() as tx:
        row = await fetch_one(
            tx,
            _Sealed,
            "select sealed from app_password where organization_id = %(organization_id)s"
            " and inbox_id = %(inbox_id)s and app_password_id = %(app_password_id)s"
            " and state = 'told'",
            _named(mailbox.reach, app_password_id),
        )
    if row is None or row.sealed is None:
        raise _no_app_password()
    return Told(found, _open(claim, app_password_id, row.sealed))


async def list_all(db: Database, server: MailServer, mailbox: Mailbox) -> list[AppPassword]:
    """The app passwords of an inbox, the oldest first, without those that are still being made."""
    try:
        found = await server.app_passwords(mailbox.account_id)
    except MailServerError as error:
        raise _failed(error) from error
    async with db.reading() as tx:
        rows = await fetch_all(
            tx,
            _Named,
            "select app_password_id from app_password where organization_id = %(organization_id)s"
            " and inbox_id = %(inbox_id)s and state = 'minting'",
            msgspec.structs.asdict(mailbox.reach),
        )
    minting = {row.app_password_id for row in rows}
    shown = {each.app_password_id: each for each in found if each.app_password_id not in minting}
    return list(shown.values())


async def get(
    db: Database, server: MailServer, mailbox: Mailbox, app_password_id: UUID
) -> AppPassword:
    """One app password, or `NotFound`."""
    for each in await list_all(db, server, mailbox):
        if each.app_password_id == app_password_id:
            return each
    raise _no_app_password()


async def revoke(db: Database, server: MailServer, mailbox: Mailbox, app_password_id: UUID) -> None:
    """Let an app password open nothing any more. Raises `NotFound` and `Unavailable`."""
    await get(db, server, mailbox, app_password_id)
    try:
        await server.destroy_app_passwords(mailbox.account_id, [app_password_id])
    except MailServerError as error:
        raise _failed(error) from error
    async with db.transaction() as tx:
        await _forget(tx, mailbox.reach, app_password_id)


class _Sealed(msgspec.Struct, frozen=True):
    sealed: bytes | None


class _Named(msgspec.Struct, frozen=True):
    app_password_id: UUID


class _Abandoned(msgspec.Struct, frozen=True, kw_only=True):
    app_password_id: UUID
    organization_id: UUID
    pod_id: UUID
    inbox_id: UUID
    account_id: AccountId | None

    @property
    def reach(self) -> Reach:
        return Reach(self.organization_id, self.pod_id, self.inbox_id)


_ABANDONED = """
with due as (
    select app_password_id from app_password where state = 'minting' and lease_until < now()
    order by lease_until limit 50 for update skip locked
)
update app_password set lease_until = now() + %(lease)s from due, inbox
where app_password.app_password_id = due.app_password_id
  and inbox.inbox_id = app_password.inbox_id
  and inbox.organization_id = app_password.organization_id
returning app_password.app_password_id, app_password.organization_id, app_password.pod_id,
    app_password.inbox_id, inbox.account_id
"""


async def settle(db: Database, server: MailServer) -> int:
    """Remove what requests that died left half made. Returns how many."""
    async with db.transaction() as tx:
        abandoned = await fetch_all(tx, _Abandoned, _ABANDONED, {"lease": LEASE})
    for each in abandoned:
        if each.account_id is not None:
            await server.destroy_app_passwords(each.account_id, [each.app_password_id])
        async with db.transaction() as tx:
            await _forget(tx, each.reach, each.app_password_id)
    return len(abandoned)


async def forget(tx: Tx, reach: Reach) -> None:
    """Let go of the rows of an inbox or pod that is gone, and its account with it."""
    await tx.execute(
        f"delete from app_password where organization_id = %(organization_id)s{in_reach(reach)}",
        msgspec.structs.asdict(reach),
    )


async def forget_old(tx: Tx) -> int:
    """Remove rows of app passwords that nobody can be told again; returns how many."""
    cursor = await tx.execute(
        "delete from app_password where state = 'told' and remembered_until <= now()"
    )
    return cursor.rowcount


def _checked(wish: Wish, app_password_id: UUID) -> NewAppPassword:
    if not 1 <= len(wish.name) <= LONGEST_NAME or not wish.name.isprintable():
        raise Invalid(
            "name",
            "This name does not fit.",
            fix=f"Use 1 to {LONGEST_NAME} printable characters on one line.",
        )
    return NewAppPassword(
        app_password_id=app_password_id,
        name=wish.name,
        access=wish.access,
        expires_at=_whole(access.expiry(wish.expires_at)),
        allowed_ips=_networks(wish.allowed_ips),
    )


def _whole(moment: datetime | None) -> datetime | None:
    """Stalwart counts seconds."""
    return moment and moment.replace(microsecond=0)


def _networks(given: Sequence[str]) -> tuple[str, ...]:
    """Addresses and CIDRs as Stalwart reads them."""
    if len(given) > MOST_NETWORKS:
        raise Invalid(
            "allowed_ips",
            f"There are over {MOST_NETWORKS} addresses.",
            fix="Name networks: 192.0.2.0/24.",
            detail="TOO_MANY",
        )
    return tuple(dict.fromkeys(_network(each) for each in given))


def _network(given: str) -> str:
    try:
        network = ip_network(given, strict=False)
    except ValueError:
        network = None
    # A zone, like %eth0, means something on one machine only.
    if network is None or "%" in given:
        raise Invalid(
            "allowed_ips",
            "This is no IP address and no network.",
            fix="Use addresses like 192.0.2.7 or networks like 192.0.2.0/24 and 2001:db8::/32.",
        )
    if network.prefixlen < WIDEST_NETWORK:
        raise Invalid(
            "allowed_ips",
            f"The network {network} is too wide.",
            fix=f"Name networks of /{WIDEST_NETWORK} or longer prefixes; leave allowed_ips out for anywhere.",
        )
    if network.network_address == NOWHERE:
        raise Invalid(
            "allowed_ips",
            f"Nobody has an address like {NOWHERE}.",
            fix="Name the addresses clients come from; leave allowed_ips out for anywhere.",
        )
    alone = network.prefixlen == network.max_prefixlen
    return str(network.network_address if alone else network)


async def _begin(tx: Tx, reach: Reach, app_password_id: UUID) -> None:
    """A row that an earlier attempt of the same claim left is taken up."""
    await tx.execute(
        "insert into app_password (app_password_id, organization_id, pod_id, inbox_id, state,"
        " lease_until) values (%(app_password_id)s, %(organization_id)s, %(pod_id)s, %(inbox_id)s,"
        " 'minting', now() + %(lease)s) on conflict (app_password_id) do update"
        " set lease_until = excluded.lease_until"
        " where app_password.organization_id = excluded.organization_id",
        {**_named(reach, app_password_id), "lease": LEASE},
    )


async def _remember(tx: Tx, reach: Reach, app_password_id: UUID, secret: str, claim: Claim) -> None:
    if not claim.repeatable:
        await _forget(tx, reach, app_password_id)
        return
    await tx.execute(
        "update app_password set state = 'told', lease_until = null, sealed = %(sealed)s,"
        " remembered_until = now() + %(remembered)s"
        " where organization_id = %(organization_id)s and inbox_id = %(inbox_id)s"
        " and app_password_id = %(app_password_id)s",
        {
            **_named(reach, app_password_id),
            "sealed": _seal(claim, app_password_id, secret),
            "remembered": REMEMBERED,
        },
    )


async def _forget(tx: Tx, reach: Reach, app_password_id: UUID) -> None:
    await tx.execute(
        "delete from app_password where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and app_password_id = %(app_password_id)s",
        _named(reach, app_password_id),
    )


def _named(reach: Reach, app_password_id: UUID) -> dict[str, Any]:
    return msgspec.structs.asdict(reach) | {"app_password_id": app_password_id}


def _seal(claim: Claim, app_password_id: UUID, secret: str) -> bytes:
    nonce = secrets.token_bytes(NONCE_BYTES)
    key = AESGCM(claim.secret(PURPOSE))
    return nonce + key.encrypt(nonce, secret.encode(), app_password_id.bytes)


def _open(claim: Claim, app_password_id: UUID, sealed: bytes) -> str:
    nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    return AESGCM(claim.secret(PURPOSE)).decrypt(nonce, text, app_password_id.bytes).decode()


def _failed(error: MailServerError) -> Exception:
    if isinstance(error, MailServerUnavailable):
        return Unavailable("The mail server is not answering.", retry_after=error.retry_after)
    if isinstance(error, MailServerRejected) and error.code is Refusal.OVER_QUOTA:
        return LimitExceeded(
            f"This inbox has as many app passwords as it may have: {MOST_APP_PASSWORDS}.",
            fix="Revoke one that is not used any more.",
        )
    if isinstance(error, MailServerRejected) and error.code is Refusal.NO_ACCOUNT:
        return NotFound("There is no such inbox.")
    return error


def _no_app_password() -> NotFound:
    return NotFound(
        "There is no such app password.", fix="List the app passwords of the inbox to see them."
    )
