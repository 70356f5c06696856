"""API keys in the database: only their hash, dead when they should be, never stronger than their maker."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest

from agentmail_cp import access
from agentmail_cp.access import (
    ApiKey,
    ApiKeyPatch,
    Keyring,
    NewApiKey,
    Principal,
    Reach,
    keyring,
    reach,
)
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import Forbidden, Invalid, NotFound, Unauthorized
from tests.tenants import pod


async def an_organization(db: Database) -> UUID:
    async with db.transaction() as tx:
        return (await access.create_organization(tx, "Test")).organization_id


async def a_key(
    db: Database,
    reach: Reach | UUID,
    *,
    permissions: dict[str, bool] | None = None,
    expires_at: datetime | None = None,
) -> NewApiKey:
    async with db.transaction() as tx:
        return await access.create_key(
            tx,
            reach if isinstance(reach, Reach) else Reach(reach),
            prefix="inai_",
            name="test",
            permissions=permissions,
            expires_at=expires_at,
        )


def caller(made: NewApiKey) -> Principal:
    return access.principal(made.key)


async def change(db: Database, by: NewApiKey, key: NewApiKey, patch: ApiKeyPatch) -> NewApiKey:
    """The key after a change by another, or by itself."""
    who = caller(by)
    async with db.transaction() as tx:
        key_id = key.key.api_key_id
        changed = await access.update_key(tx, who, who.reach, key_id, patch)
    return NewApiKey(changed, key.secret)


async def revoke(db: Database, by: NewApiKey, key: NewApiKey) -> None:
    who = caller(by)
    async with db.transaction() as tx:
        await access.delete_key(tx, who, who.reach, key.key.api_key_id)


async def revoke_all(db: Database, reach: Reach) -> None:
    """By the index, as where there are many keys: that has the newest first."""
    async with db.transaction() as tx:
        await tx.execute("set local enable_seqscan = off")
        await tx.execute("set local enable_bitmapscan = off")
        await access.revoke_within(tx, reach)


async def issue(
    db: Database,
    by: NewApiKey,
    reach: Reach | None = None,
    *,
    permissions: dict[str, bool] | None = None,
    expires_at: datetime | None = None,
) -> NewApiKey:
    who = caller(by)
    async with db.transaction() as tx:
        return await access.issue_key(
            tx,
            who,
            reach or who.reach,
            prefix="inai_",
            name="issued",
            permissions=permissions,
            expires_at=expires_at,
            entropy=secrets.token_bytes(access.KEY_BYTES),
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
    """Counted from before the key was read, with room for the request itself."""
    made = await a_key(database, await an_organization(database))
    ring = Keyring(database)
    now = 1000.0
    monkeypatch.setattr(keyring, "monotonic", lambda: now)
    await ring.authenticate(made.secret)
    await revoke(database, made, made)
    now = 1001.4
    await ring.authenticate(made.secret)
    now = 1001.5
    with pytest.raises(Unauthorized):
        await ring.authenticate(made.secret)


async def test_what_is_remembered_ages_from_before_it_was_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow database would make a revoked key live longer."""
    made = await a_key(database, await an_organization(database))
    ring = Keyring(database)
    now = 1000.0
    read = keyring.find_by_hash

    async def slow(tx: Tx, hashed: bytes) -> ApiKey | None:
        nonlocal now
        found = await read(tx, hashed)
        now += 1.5
        return found

    monkeypatch.setattr(keyring, "monotonic", lambda: now)
    monkeypatch.setattr(keyring, "find_by_hash", slow)
    await ring.authenticate(made.secret)
    await revoke(database, made, made)
    with pytest.raises(Unauthorized):
        await ring.authenticate(made.secret)


@pytest.mark.parametrize("how", ["deleted", "narrowed"])
async def test_every_replica_hears_of_a_change_within_two_seconds(
    database: Database, how: str
) -> None:
    """A key that leaked would go on working wherever it was used last."""
    organization_id = await an_organization(database)
    owner, made = await a_key(database, organization_id), await a_key(database, organization_id)
    rings = [Keyring(database), Keyring(database)]
    for ring in rings:
        assert (await ring.authenticate(made.secret)).permissions is None
    if how == "deleted":
        await revoke(database, owner, made)
    else:
        await change(database, owner, made, ApiKeyPatch(permissions={}))
    await asyncio.sleep(1.9)
    for ring in rings:
        if how == "narrowed":
            assert (await ring.authenticate(made.secret)).permissions == frozenset()
            continue
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

    monkeypatch.setattr(reach, "datetime", Later)
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
        return (await access.get_key(tx, Reach(organization_id), made.key.api_key_id)).used_at


async def test_no_request_waits_for_a_change_of_its_key(database: Database) -> None:
    """A key that is being changed would hang every request made with it."""
    made = await a_key(database, await an_organization(database))
    async with database.transaction() as tx:
        await access.update_key(
            tx, caller(made), caller(made).reach, made.key.api_key_id, ApiKeyPatch(name="new")
        )
        async with asyncio.timeout(2):
            await Keyring(database).authenticate(made.secret)


async def test_a_key_is_out_of_reach_for_another_organization(database: Database) -> None:
    mine, theirs = await an_organization(database), await an_organization(database)
    made, stranger = await a_key(database, mine), await a_key(database, theirs)
    async with database.reading() as tx:
        with pytest.raises(NotFound):
            await access.get_key(tx, Reach(theirs), made.key.api_key_id)
        with pytest.raises(NotFound):
            await access.only_organization(tx, uuid4())
    with pytest.raises(NotFound):
        await revoke(database, stranger, made)
    with pytest.raises(NotFound):
        await change(database, stranger, made, ApiKeyPatch(name="mine now"))
    with pytest.raises(NotFound):
        await issue(database, stranger, Reach(mine))
    assert (await Keyring(database).authenticate(made.secret)).organization_id == mine


async def test_a_key_sees_and_touches_only_what_reaches_no_further(database: Database) -> None:
    """The key of one pod could revoke that of the organisation, or of another pod."""
    organization_id = await an_organization(database)
    pods = [await pod(database, organization_id) for _ in range(2)]
    reaches = [
        Reach(organization_id),
        *(Reach(organization_id, each) for each in pods),
        *(Reach(organization_id, each, uuid4()) for each in pods),
    ]
    made = {reach: await a_key(database, reach) for reach in reaches}
    for own in reaches:
        for other in reaches:
            key_id = made[other].key.api_key_id
            if own.covers(other):
                async with database.reading() as tx:
                    assert (await access.get_key(tx, own, key_id)).api_key_id == key_id
                await change(database, made[own], made[other], ApiKeyPatch(name="seen"))
                continue
            async with database.reading() as tx:
                with pytest.raises(NotFound):
                    await access.get_key(tx, own, key_id)
            with pytest.raises(NotFound):
                await change(database, made[own], made[other], ApiKeyPatch(name="seen"))
            with pytest.raises(NotFound):
                await revoke(database, made[own], made[other])
        async with database.reading() as tx:
            shown, _ = await access.list_keys(tx, own, limit=10, page_token=None)
        assert {row.api_key_id for row in shown} == {
            made[each].key.api_key_id for each in reaches if own.covers(each)
        }


async def test_keys_go_with_what_they_are_for(database: Database) -> None:
    """The key of a deleted customer would stay a way in."""
    organization_id = await an_organization(database)
    pods = [await pod(database, organization_id) for _ in range(2)]
    reaches = [
        Reach(organization_id),
        *(Reach(organization_id, each) for each in pods),
        *(Reach(organization_id, pods[0], each) for each in (uuid4(), uuid4())),
    ]
    for each in reaches:
        await a_key(database, each)

    async def left() -> set[Reach]:
        async with database.reading() as tx:
            rows, _ = await access.list_keys(tx, reaches[0], limit=10, page_token=None)
        return {access.principal(row).reach for row in rows}

    async with database.transaction() as tx:
        await access.revoke_within(tx, reaches[4])
    assert await left() == set(reaches) - {reaches[4]}
    async with database.transaction() as tx:
        await access.revoke_within(tx, reaches[1])
    assert await left() == {reaches[0], reaches[2]}


async def test_a_key_of_an_inbox_has_its_pod_in_the_row(database: Database) -> None:
    """It would outlive the pod, whose keys are found by it."""
    with pytest.raises(psycopg.errors.CheckViolation):
        await a_key(database, Reach(await an_organization(database), None, uuid4()))


async def test_a_limited_key_cannot_lift_limits(database: Database) -> None:
    organization_id = await an_organization(database)
    limited = await a_key(database, organization_id, permissions={"api_key_update": True})
    full = await a_key(database, organization_id)
    for key, patch in (
        (limited, ApiKeyPatch(permissions=None)),
        (limited, ApiKeyPatch(permissions={"message_send": True})),
        (full, ApiKeyPatch(name="mine now")),
    ):
        with pytest.raises(Forbidden):
            await change(database, limited, key, patch)
    changed = await change(
        database, limited, limited, ApiKeyPatch(permissions={"message_send": False})
    )
    assert caller(changed).permissions == frozenset()


async def test_a_key_that_was_narrowed_cannot_widen_itself_again(database: Database) -> None:
    """What a replica remembers of it for a moment would be enough to undo the change for good."""
    organization_id = await an_organization(database)
    owner = await a_key(database, organization_id)
    wide = {"api_key_update": True, "api_key_create": True, "message_send": True}
    stale = await a_key(database, organization_id, permissions=wide)
    await change(database, owner, stale, ApiKeyPatch(permissions={"api_key_update": True}))
    with pytest.raises(Forbidden) as caught:
        await change(database, stale, stale, ApiKeyPatch(permissions=wide))
    assert caught.value.reason == "permission_escalation"
    with pytest.raises(Forbidden) as caught:
        await issue(database, stale, permissions={"message_send": True})
    assert caught.value.reason == "missing_permission"


async def test_a_key_that_was_revoked_leaves_no_other_behind(database: Database) -> None:
    """A thief would make itself a new key while the old one is still remembered somewhere."""
    organization_id = await an_organization(database)
    owner, stolen = await a_key(database, organization_id), await a_key(database, organization_id)
    await revoke(database, owner, stolen)
    with pytest.raises(Unauthorized):
        await issue(database, stolen)
    with pytest.raises(Unauthorized):
        await change(database, stolen, owner, ApiKeyPatch(permissions={}))
    with pytest.raises(Unauthorized):
        await revoke(database, stolen, owner)


async def test_keys_at_work_on_each_other_do_not_hang(database: Database) -> None:
    """Two owners who rename each other's keys at the same moment would get an error."""
    organization_id = await an_organization(database)
    one, two = await a_key(database, organization_id), await a_key(database, organization_id)
    await asyncio.gather(
        *(
            change(database, by, key, ApiKeyPatch(name=f"{turn}"))
            for turn in range(10)
            for by, key in ((one, two), (two, one))
        )
    )


async def test_keys_at_work_in_a_pod_that_is_deleted_do_not_hang(database: Database) -> None:
    """Deleting a pod, or an inbox, would end with an error, as would what its keys are doing."""
    organization_id = await an_organization(database)
    whole = Reach(organization_id, await pod(database, organization_id))
    older, newer = await a_key(database, whole), await a_key(database, whole)
    async with database.transaction() as tx:
        await tx.execute(
            "select from api_key where organization_id = %(organization_id)s"
            " and api_key_id = %(api_key_id)s for update",
            {"organization_id": organization_id, "api_key_id": older.key.api_key_id},
        )
        revoking = asyncio.create_task(revoke_all(database, whole))
        await asyncio.sleep(0.2)
        # What a change of the newer by the older would wait for.
        await tx.execute(
            "select from api_key where organization_id = %(organization_id)s"
            " and api_key_id = %(api_key_id)s for update nowait",
            {"organization_id": organization_id, "api_key_id": newer.key.api_key_id},
        )
    await revoking
    with pytest.raises(Unauthorized):
        await change(database, older, newer, ApiKeyPatch(name="x"))


async def test_the_end_of_a_key_cannot_be_moved(database: Database) -> None:
    """A key for a day could be made one for ever. The same end is no change: clients send whole objects."""
    soon = datetime.now(UTC) + timedelta(days=1)
    made = await a_key(database, await an_organization(database), expires_at=soon)
    for wrong in (None, soon + timedelta(days=1), soon - timedelta(hours=1)):
        with pytest.raises(Invalid) as caught:
            await change(database, made, made, ApiKeyPatch(name="x", expires_at=wrong))
        assert caught.value.field == "expires_at"
    kept = await change(database, made, made, ApiKeyPatch(name="x", expires_at=soon))
    assert kept.key.expires_at == soon


@pytest.mark.parametrize("ascending", [False, True])
async def test_pages_of_keys_miss_and_repeat_nothing(
    database: Database, *, ascending: bool
) -> None:
    """Keys made in one transaction have the same time."""
    organization_id = await an_organization(database)
    async with database.transaction() as tx:
        made = [
            (await access.create_key(tx, Reach(organization_id), prefix="inai_", name=f"{n}")).key
            for n in range(5)
        ]
    seen: list[UUID] = []
    token: str | None = None
    async with database.reading() as tx:
        while True:
            rows, token = await access.list_keys(
                tx, Reach(organization_id), limit=2, page_token=token, ascending=ascending
            )
            seen += [row.api_key_id for row in rows]
            if token is None:
                break
    assert seen == sorted((key.api_key_id for key in made), reverse=not ascending)
