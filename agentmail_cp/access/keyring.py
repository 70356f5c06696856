"""From a secret to who is calling, without asking the database each time.

What is remembered of a key is `KEY_LIFE_IN_CACHE` old at most, counted from before it was read. So a key
that is deleted or changed on one replica is what it is now on all others within that time, which leaves
room for the request itself within the two seconds promised. Keys that do not exist are not remembered.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from time import monotonic

import msgspec

from agentmail_cp.access.keys import COLUMNS, ApiKey, digest, principal
from agentmail_cp.access.reach import Principal
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.errors import Unauthorized

KEY_LIFE_IN_CACHE = 1.5
"""Seconds."""

MOST_KEYS_IN_CACHE = 10_000
USED_AT_RESOLUTION = timedelta(minutes=1)


class _Remembered(msgspec.Struct, frozen=True):
    until: float
    caller: Principal


class Keyring:
    """Turns a secret into a `Principal`, remembering each live key for `KEY_LIFE_IN_CACHE`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[bytes, _Remembered] = {}

    async def authenticate(self, secret: str) -> Principal:
        """The principal of a live key; raises `Unauthorized` with the contract's code."""
        hashed = digest(secret)
        known = self._known.get(hashed)
        if known is not None and known.until > monotonic():
            caller = known.caller
        else:
            caller = await self._look_up(hashed)
        caller.check_live()
        return caller

    async def look_again(self, hashes: Collection[bytes]) -> dict[bytes, Principal]:
        """What these keys amount to now, without those that are gone: for callers that stay connected. Asks
        the database once. Raises `Unavailable`.
        """
        async with self._db.reading() as tx:
            keys = await find_each(tx, hashes)
        return {each.hash: principal(each) for each in keys}

    async def _look_up(self, hashed: bytes) -> Principal:
        asked_at = monotonic()
        async with self._db.reading() as tx:
            key = await find_by_hash(tx, hashed)
        if key is None:
            self._known.pop(hashed, None)
            raise Unauthorized(
                "This API key is not known.",
                fix="Check the key, or make a new one with `agentmail-cp keys create`.",
                code="unknown_api_key",
            )
        if len(self._known) >= MOST_KEYS_IN_CACHE:
            self._known.clear()
        caller = principal(key)
        self._known[hashed] = _Remembered(asked_at + KEY_LIFE_IN_CACHE, caller)
        return caller


class _Found(ApiKey, frozen=True, kw_only=True):
    hash: bytes


async def find_each(tx: Tx, hashes: Collection[bytes]) -> list[_Found]:
    return await fetch_all(
        tx,
        _Found,
        f"select hash, {COLUMNS} from api_key where hash = any(%(hashes)s)",
        {"hashes": list(hashes)},
    )


async def find_by_hash(tx: Tx, hashed: bytes) -> ApiKey | None:
    key = await fetch_one(
        tx, ApiKey, f"select {COLUMNS} from api_key where hash = %(hash)s", {"hash": hashed}
    )
    if key is None:
        return None
    if key.used_at is None or key.used_at < datetime.now(UTC) - USED_AT_RESOLUTION:
        await _note_use(tx, key)
    return key


async def _note_use(tx: Tx, key: ApiKey) -> None:
    """Passes over a row that is locked: no request waits for one that changes its key."""
    await tx.execute(
        "update api_key set used_at = now() where organization_id = %(organization_id)s"
        " and api_key_id = (select api_key_id from api_key"
        " where organization_id = %(organization_id)s and api_key_id = %(api_key_id)s"
        " and used_at is not distinct from %(used_at)s for update skip locked)",
        {
            "organization_id": key.organization_id,
            "api_key_id": key.api_key_id,
            "used_at": key.used_at,
        },
    )
