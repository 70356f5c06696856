"""API keys in the database: only their hash, dead when they should be, never stronger than their maker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from agentmail_cp import access
from agentmail_cp.access import ApiKeyPatch, Keyring, NewApiKey, keyring
from agentmail_cp.db import Database
from agentmail_cp.errors import Forbidden, Invalid, NotFound, Unauthorized


async def an_organization(db: Database) -> UUID:
    async with db.transaction() as tx:
        return (await access.create_organization(tx, "Test")).organization_id


async def a_key(
    db: Database,
    organization_id: UUID,
    *,
    permissions: dict[str, bool] | None = None,
    expires_at: datetime | None = None,
) -> NewApiKey:
    async with db.transaction() as tx:
        return await access.create_key(
            tx,
            organization_id,
            prefix="inai_",
            name="test",
            permissions=permissions,
            expires_at=expires_at,
        )


async def test_the_secret_is_in_no_column(database: Database) -> None:
    """Who reads the database or a backup must not be able to log in."""
    made = await a_key(database, await an_organization(database))
    random_part = made.secret.removeprefix("inai_")
    assert len(bytes.fromhex(random_part)) == 32
    async with database.reading() as tx:
        row = await (await tx.execute("select api_key::text as row, hash from api_key")).fetchone()
    assert row is not None
    assert random_part not in row["row"]
    assert random_part[:9] not in row["row"], "only eight characters are kept, for display"
    assert bytes(row["hash"]) == access.digest(made.secret)


async def test_a_key_is_known_by_its_secret_alone(database: Database) -> None:
    organization_id = await an_organization(database)
    made = await a_key(database, organization_id)
    ring = Keyring(database)
    found = await ring.authenticate(made.secret)
    assert (found.organization_id, found.api_key_id) == (organization_id, made.key.api_key_id)
    for wrong in ("", "inai_", made.secret[:-1], made.secret + "0", made.secret.upper()):
        with pytest.raises(Unauthorized) as caught:
            await ring.authenticate(wrong)
        assert caught.value.reason == "unknown_api_key"


async def test_a_deleted_key_works_two_seconds_at_most(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    organization_id = await an_organization(database)
    made = await a_key(database, organization_id)
    ring = Keyring(database)
    now = 1000.0
    monkeypatch.setattr(keyring, "monotonic", lambda: now)
    await ring.authenticate(made.secret)
    async with database.transaction() as tx:
        await access.delete_key(tx, organization_id, made.key.api_key_id)
    now = 1002.0
    with pytest.raises(Unauthorized):
        await ring.authenticate(made.secret)


async def test_a_key_expires_although_it_is_remembered(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    made = await a_key(database, await an_organization(database), expires_at=soon)
    ring = Keyring(database)
    await ring.authenticate(made.secret)
    later = soon + timedelta(seconds=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # noqa: ARG003 - the real one's parameter
            return later

    monkeypatch.setattr(keyring, "datetime", Later)
    with pytest.raises(Unauthorized) as caught:
        await ring.authenticate(made.secret)
    assert caught.value.reason == "api_key_expired"


async def test_a_key_cannot_be_born_expired(database: Database) -> None:
    organization_id = await an_organization(database)
    with pytest.raises(Invalid) as caught:
        await a_key(database, organization_id, expires_at=datetime.now(UTC))
    assert caught.value.field == "expires_at"


async def test_use_is_noted_once_a_minute_at_most(database: Database) -> None:
    """A write for every request would cost more than the request."""
    organization_id = await an_organization(database)
    made = await a_key(database, organization_id)
    await Keyring(database).authenticate(made.secret)
    first = await used_at(database, organization_id, made)
    await Keyring(database).authenticate(made.secret)
    assert first is not None
    assert await used_at(database, organization_id, made) == first


async def used_at(db: Database, organization_id: UUID, made: NewApiKey) -> datetime | None:
    async with db.reading() as tx:
        return (await access.get_key(tx, organization_id, made.key.api_key_id)).used_at


async def test_a_key_is_out_of_reach_for_another_organization(database: Database) -> None:
    mine, theirs = await an_organization(database), await an_organization(database)
    made = await a_key(database, mine)
    stranger = access.principal((await a_key(database, theirs)).key)
    key_id = made.key.api_key_id
    async with database.transaction() as tx:
        with pytest.raises(NotFound):
            await access.get_key(tx, theirs, key_id)
        with pytest.raises(NotFound):
            await access.delete_key(tx, theirs, key_id)
        with pytest.raises(NotFound):
            await access.update_key(tx, stranger, key_id, ApiKeyPatch(name="mine now"))
        with pytest.raises(NotFound):
            await access.only_organization(tx, uuid4())
    assert (await Keyring(database).authenticate(made.secret)).organization_id == mine


async def test_a_limited_key_cannot_lift_limits(database: Database) -> None:
    organization_id = await an_organization(database)
    limited = await a_key(database, organization_id, permissions={"api_key_update": True})
    full = await a_key(database, organization_id)
    caller = access.principal(limited.key)
    async with database.transaction() as tx:
        for key, patch in (
            (limited, ApiKeyPatch(permissions=None)),
            (limited, ApiKeyPatch(permissions={"message_send": True})),
            (full, ApiKeyPatch(name="mine now")),
        ):
            with pytest.raises(Forbidden):
                await access.update_key(tx, caller, key.key.api_key_id, patch)
        changed = await access.update_key(
            tx, caller, limited.key.api_key_id, ApiKeyPatch(permissions={"message_send": False})
        )
    assert access.principal(changed).permissions == frozenset()


async def test_pages_of_keys_miss_and_repeat_nothing(database: Database) -> None:
    """Keys made in one transaction have the same time."""
    organization_id = await an_organization(database)
    async with database.transaction() as tx:
        made = [
            (await access.create_key(tx, organization_id, prefix="inai_", name=f"{n}")).key
            for n in range(5)
        ]
    seen: list[UUID] = []
    token: str | None = None
    async with database.reading() as tx:
        while True:
            rows, token = await access.list_keys(tx, organization_id, limit=2, page_token=token)
            seen += [row.api_key_id for row in rows]
            if token is None:
                break
    assert seen == sorted((key.api_key_id for key in made), reverse=True)
