"""From a secret to who is calling, without asking the database each time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from agentmail_cp.access.keys import COLUMNS, ApiKey, digest, principal
from agentmail_cp.access.reach import Principal
from agentmail_cp.db import Database, Tx, fetch_one
from agentmail_cp.errors import Unauthorized

KEY_LIFE_IN_CACHE = 2.0
MOST_KEYS_IN_CACHE = 10_000
USED_AT_RESOLUTION = timedelta(minutes=1)


class Keyring:
    """Turns a secret into a `Principal`, remembering each live key for two seconds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._known: dict[bytes, tuple[float, ApiKey]] = {}

    async def authenticate(self, secret: str) -> Principal:
        """The principal of a live key; raises `Unauthorized` with the contract's code."""
        key = await self._find(digest(secret))
        if key is None:
            raise Unauthorized(
                "This API key is not known.",
                fix="Check the key, or make a new one with `agentmail-cp keys create`.",
                code="unknown_api_key",
            )
        if key.expires_at is not None and key.expires_at <= datetime.now(UTC):
            raise Unauthorized("This API key has expired.", code="api_key_expired")
        return principal(key)

    async def _find(self, hashed: bytes) -> ApiKey | None:
        known = self._known.get(hashed)
        if known is not None and known[0] > monotonic():
            return known[1]
        async with self._db.reading() as tx:
            key = await _find_by_hash(tx, hashed)
        self._remember(hashed, key)
        return key

    def _remember(self, hashed: bytes, key: ApiKey | None) -> None:
        if len(self._known) >= MOST_KEYS_IN_CACHE:
            self._known.clear()
        if key is None:
            self._known.pop(hashed, None)
        else:
            self._known[hashed] = (monotonic() + KEY_LIFE_IN_CACHE, key)


async def _find_by_hash(tx: Tx, hashed: bytes) -> ApiKey | None:
    parameters: dict[str, Any] = {"hash": hashed}
    key = await fetch_one(
        tx, ApiKey, f"select {COLUMNS} from api_key where hash = %(hash)s", parameters
    )
    if key is None:
        return None
    if key.used_at is None or key.used_at < datetime.now(UTC) - USED_AT_RESOLUTION:
        await tx.execute("update api_key set used_at = now() where hash = %(hash)s", parameters)
    return key
