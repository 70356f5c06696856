"""Idempotency keys of requests that make something: repeated under the same key, it is made once.

Owns the table `idempotency_key`. A *claim* is the right to make what a request asks for. States of a row:
*running* until its lease is over (another request with the key is told to wait), then free to be claimed
by the same request again; *done* (what was made has its name in the row) for 24 hours; forgotten. A
claim and what is made of it are written in one transaction, or, where the mail server has a part in it,
the claim is done in the transaction that shows the thing to callers. So a crash leaves both or neither.

No body, answer or secret is stored. A repeated request is answered by reading what was made anew. What
is random about it (an id, a name) comes from the row's seed, and a secret from the seed and the caller's
own API key: the same attempt made again comes to the same result, and the database alone tells nobody.
Sends keep their keys in their own table; a key used for one is taken for the other too.
"""

from __future__ import annotations

import hmac
import random
import re
import secrets
from collections.abc import Awaitable
from datetime import timedelta
from hashlib import sha256
from typing import TypeVar
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_one
from agentmail_cp.errors import Conflict, Invalid, NotFound

T = TypeVar("T")

_TOKEN = re.compile(r"[A-Za-z0-9\-._~]{1,256}")
"""What a caller's own ids look like: Idempotency-Key here, client_id of what has one."""

REMEMBERED = timedelta(hours=24)
"""How long a key is remembered once what it was used for is done."""

LEASE = timedelta(seconds=30)
"""How long a request may prepare what it makes; while the mail server is asked, the lease is the thing's."""

SEED_BYTES = 32


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request that makes something of a `kind`. `fingerprint` tells a repetition from another request
    (`compose.fingerprint`), `bearer` is the secret of the caller's API key, and of what is `private` the
    answer holds a secret.
    """

    organization_id: UUID
    api_key_id: UUID
    bearer: str
    key: str | None
    kind: str
    fingerprint: bytes
    private: bool = False

    def __repr__(self) -> str:
        return f"Request(kind={self.kind!r})"


class Made(msgspec.Struct, frozen=True):
    """What an earlier request with the key came to: the id of a thing, whether it was new or known by its
    client_id, and by which API key.
    """

    resource_id: str
    new: bool
    api_key_id: UUID


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right of one request to make what it asks for, or, with `made`, to be told what there is.

    Without a key (`unclaimed`) it stands for nothing, and everything derived from it is random.
    """

    organization_id: UUID | None
    key: str | None
    bearer: str
    seed: bytes
    attempt: int = 1
    made: Made | None = None

    def __repr__(self) -> str:
        return f"Claim(attempt={self.attempt}, made={self.made})"

    @property
    def repeatable(self) -> bool:
        """Whether a later request may take up what this one leaves."""
        return self.key is not None

    def uuid(self) -> UUID:
        """The id of what is made."""
        return UUID(bytes=self._derived("id")[:16], version=4)

    def rng(self) -> random.Random:
        """Choices whose outcome is no secret, the same for every attempt."""
        return random.Random(self._derived("choices"))  # noqa: S311 - an address is no secret

    def secret(self, purpose: str) -> bytes:
        """32 bytes that only who holds the caller's API key can derive again."""
        return hmac.digest(self.bearer.encode(), self.seed + purpose.encode(), "sha256")

    def _derived(self, purpose: str) -> bytes:
        return sha256(self.seed + purpose.encode()).digest()


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    api_key_id: UUID
    fingerprint: bytes
    seed: bytes
    attempt: int
    resource_id: str | None
    is_new: bool | None
    forgotten: bool
    remaining: float


def check_key(key: str | None) -> None:
    """Raise `Invalid` unless the key is absent or 1 to 256 of A-Z a-z 0-9 - . _ ~."""
    if key is not None:
        _check("Idempotency-Key", key, "This Idempotency-Key does not fit.")


def check_client_id(client_id: str) -> None:
    """Raise `Invalid` unless it is 1 to 256 of A-Z a-z 0-9 - . _ ~, and can stand in a path."""
    _check("client_id", client_id, "client_id does not fit.")
    if client_id in {".", ".."}:
        raise Invalid(
            "client_id", f"{client_id} means another place in a path.", fix="Add a letter."
        )


def _check(field: str, token: str, message: str) -> None:
    if not _TOKEN.fullmatch(token):
        raise Invalid(field, message, fix="Use 1 to 256 characters out of A-Z a-z 0-9 - . _ ~")


async def begin(tx: Tx, request: Request) -> Claim:
    """Claim a request's key, or find out what was made with it. Another transaction that holds the key is
    waited for.

    Raises `Invalid` for a bad key, and `Conflict` when the key was used for another request, when the
    first one is still running, and when its answer holds a secret that this API key cannot be told.
    """
    check_key(request.key)
    if request.key is None:
        return unclaimed()
    while True:
        if claim := await _insert(tx, request):
            await _ensure_no_send(tx, request)
            return claim
        row = await _locked(tx, request)
        if row is not None and not row.forgotten:
            return await _repeated(tx, request, row)
        await _forget(tx, request)


def unclaimed() -> Claim:
    """What stands for a request without a key."""
    seed = secrets.token_bytes(SEED_BYTES)
    return Claim(organization_id=None, key=None, bearer="", seed=seed)


def _claim(request: Request, seed: bytes, *, attempt: int = 1, made: Made | None = None) -> Claim:
    return Claim(
        organization_id=request.organization_id,
        key=request.key,
        bearer=request.bearer,
        seed=seed,
        attempt=attempt,
        made=made,
    )


async def _insert(tx: Tx, request: Request) -> Claim | None:
    """A new claim; None when the key has a row."""
    seed = secrets.token_bytes(SEED_BYTES)
    cursor = await tx.execute(
        "insert into idempotency_key (organization_id, key, api_key_id, kind, fingerprint, seed,"
        " lease_until, remembered_until) values (%(organization_id)s, %(key)s, %(api_key_id)s,"
        " %(kind)s, %(fingerprint)s, %(seed)s, now() + %(lease)s, now() + %(remembered)s)"
        " on conflict do nothing",
        {
            "organization_id": request.organization_id,
            "key": request.key,
            "api_key_id": request.api_key_id,
            "kind": request.kind,
            "fingerprint": request.fingerprint,
            "seed": seed,
            "lease": LEASE,
            "remembered": REMEMBERED,
        },
    )
    return _claim(request, seed) if cursor.rowcount else None


async def _locked(tx: Tx, request: Request) -> _Row | None:
    return await fetch_one(
        tx,
        _Row,
        "select api_key_id, fingerprint, seed, attempt, resource_id, is_new,"
        " remembered_until <= now() as forgotten,"
        " extract(epoch from lease_until - now())::float8 as remaining from idempotency_key"
        " where organization_id = %(organization_id)s and key = %(key)s for update",
        {"organization_id": request.organization_id, "key": request.key},
    )


async def _forget(tx: Tx, request: Request) -> None:
    """The key is free again: the purge was not here yet."""
    await tx.execute(
        "delete from idempotency_key where organization_id = %(organization_id)s"
        " and key = %(key)s and remembered_until <= now()",
        {"organization_id": request.organization_id, "key": request.key},
    )


async def _repeated(tx: Tx, request: Request, row: _Row) -> Claim:
    """What a request finds whose key has a row."""
    if row.fingerprint != request.fingerprint:
        raise used_otherwise()
    if request.private and row.api_key_id != request.api_key_id:
        raise Conflict(
            "This Idempotency-Key was used with another API key, and the answer holds a secret that"
            " is told to that API key only.",
            fix="Repeat the request with the API key of the first one, or use a new Idempotency-Key.",
        )
    if row.resource_id is not None:
        made = Made(row.resource_id, bool(row.is_new), row.api_key_id)
        return _claim(request, row.seed, attempt=row.attempt, made=made)
    if row.remaining > 0:
        raise Conflict(
            "The first request with this Idempotency-Key is still running.",
            fix="Wait for its answer, or repeat the request after Retry-After seconds.",
            retry_after=max(1.0, row.remaining),
        )
    return await _take_over(tx, request, row)


async def _take_over(tx: Tx, request: Request, row: _Row) -> Claim:
    """The attempt that held the claim is dead."""
    await tx.execute(
        "update idempotency_key set attempt = attempt + 1, api_key_id = %(api_key_id)s,"
        " lease_until = now() + %(lease)s, remembered_until = now() + %(remembered)s"
        " where organization_id = %(organization_id)s and key = %(key)s",
        {
            "organization_id": request.organization_id,
            "key": request.key,
            "api_key_id": request.api_key_id,
            "lease": LEASE,
            "remembered": REMEMBERED,
        },
    )
    return _claim(request, row.seed, attempt=row.attempt + 1)


async def _ensure_no_send(tx: Tx, request: Request) -> None:
    """A key names one request, whatever it is for. Sends forget their keys by the same rule."""
    cursor = await tx.execute(
        "select 1 from send where organization_id = %(organization_id)s"
        " and idempotency_key = %(key)s and (state in ('submitting', 'unknown')"
        " or updated_at > now() - %(remembered)s)",
        {
            "organization_id": request.organization_id,
            "key": request.key,
            "remembered": REMEMBERED,
        },
    )
    if cursor.rowcount:
        raise used_otherwise()


def used_otherwise() -> Conflict:
    return Conflict(
        "This Idempotency-Key was used for another request: with another body, path or endpoint.",
        fix="Use a new key for a new request.",
    )


async def ensure_unclaimed(tx: Tx, organization_id: UUID, key: str) -> None:
    """Raise `Conflict` when the key was used to make something, for whoever has keys of their own."""
    cursor = await tx.execute(
        "select 1 from idempotency_key where organization_id = %(organization_id)s"
        " and key = %(key)s and remembered_until > now()",
        {"organization_id": organization_id, "key": key},
    )
    if cursor.rowcount:
        raise used_otherwise()


async def extend(tx: Tx, claim: Claim, lease: timedelta) -> None:
    """Let the claim's lease end with that of what is being made. Raises `Conflict` as `complete`."""
    if claim.key is None:
        return
    cursor = await tx.execute(
        "update idempotency_key set lease_until = now() + %(lease)s"
        " where organization_id = %(organization_id)s and key = %(key)s"
        " and attempt = %(attempt)s and completed_at is null",
        {**_held(claim), "lease": lease},
    )
    _ensure_held(cursor.rowcount)


async def complete(tx: Tx, claim: Claim, resource_id: object, *, new: bool = True) -> None:
    """Note what was made, or found by its client_id, in the transaction that shows it to callers.

    Raises `Conflict` when a later request took the claim over: then nothing may be shown.
    """
    if claim.key is None:
        return
    cursor = await tx.execute(
        "update idempotency_key set resource_id = %(resource_id)s, is_new = %(new)s,"
        " completed_at = now(), lease_until = now(), remembered_until = now() + %(remembered)s"
        " where organization_id = %(organization_id)s and key = %(key)s"
        " and attempt = %(attempt)s and completed_at is null",
        {
            **_held(claim),
            "resource_id": str(resource_id),
            "new": new,
            "remembered": REMEMBERED,
        },
    )
    _ensure_held(cursor.rowcount)


def _held(claim: Claim) -> dict[str, object]:
    return {
        "organization_id": claim.organization_id,
        "key": claim.key,
        "attempt": claim.attempt,
    }


def _ensure_held(rows: int) -> None:
    if rows == 0:
        raise Conflict(
            "This request took too long; a later one with the same Idempotency-Key went on.",
            fix="Repeat the request after Retry-After seconds.",
            retry_after=1.0,
        )


async def abandon(tx: Tx, claim: Claim) -> None:
    """Nothing came of the attempt, and nothing of it is left: the key is free again."""
    await tx.execute(
        "delete from idempotency_key where organization_id = %(organization_id)s and key = %(key)s"
        " and attempt = %(attempt)s and completed_at is null",
        _held(claim),
    )


async def leave(tx: Tx, claim: Claim) -> None:
    """The attempt is over, and something of it may be left: the same request may take it up now."""
    await tx.execute(
        "update idempotency_key set lease_until = now()"
        " where organization_id = %(organization_id)s and key = %(key)s"
        " and attempt = %(attempt)s and completed_at is null",
        _held(claim),
    )


async def replay(reading: Awaitable[T]) -> T:
    """What an earlier request made, read anew. `NotFound` when it is gone, or not for this key."""
    try:
        return await reading
    except NotFound as error:
        raise NotFound(
            "What was made with this Idempotency-Key is not there any more.",
            fix="It was deleted or, if it was a draft, sent. Use a new key to make another one.",
        ) from error


async def forget_old(tx: Tx) -> int:
    """Remove the rows of keys that are free again; returns how many."""
    cursor = await tx.execute("delete from idempotency_key where remembered_until <= now()")
    return cursor.rowcount
