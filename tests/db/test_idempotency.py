"""Claims on an Idempotency-Key: one holder at a time, one outcome, kept for a day, no secret in any row."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import msgspec
import pytest

from agentmail_cp import idempotency
from agentmail_cp.db import Database
from agentmail_cp.errors import AgentMailError, Conflict, Invalid, NotFound
from agentmail_cp.idempotency import Claim, Request

ORGANIZATION, API_KEY = uuid4(), uuid4()
REQUEST = Request(
    organization_id=ORGANIZATION,
    api_key_id=API_KEY,
    bearer="inai_caller",
    key="k",
    kind="pod",
    fingerprint=b"body",
)


def request(**changes: object) -> Request:
    return msgspec.structs.replace(REQUEST, **changes)


async def begin(db: Database, asked: Request = REQUEST) -> Claim:
    async with db.transaction() as tx:
        return await idempotency.begin(tx, asked)


async def complete(db: Database, claim: Claim, resource_id: object = "it") -> None:
    async with db.transaction() as tx:
        await idempotency.complete(tx, claim, resource_id)


async def pass_time(db: Database, *, seconds: float = 0, hours: float = 0) -> None:
    """Let every row be as if this much time had gone by."""
    async with db.transaction() as tx:
        await tx.execute(
            "update idempotency_key set lease_until = lease_until - make_interval(secs => %(past)s),"
            " remembered_until = remembered_until - make_interval(secs => %(past)s)",
            {"past": seconds + hours * 3600},
        )


async def test_what_was_made_is_told_to_a_repetition(database: Database) -> None:
    """A client that lost the answer would make another one."""
    made = uuid4()
    await complete(database, await begin(database), made)
    again = (await begin(database)).made
    assert again is not None
    assert (UUID(again.resource_id), again.new, again.api_key_id) == (made, True, API_KEY)


async def test_one_known_by_its_client_id_is_told_as_such(database: Database) -> None:
    """A repetition would be answered with another status than the first request."""
    claim = await begin(database)
    async with database.transaction() as tx:
        await idempotency.complete(tx, claim, "it", new=False)
    again = (await begin(database)).made
    assert again is not None
    assert not again.new


async def test_a_request_without_a_key_claims_nothing(database: Database) -> None:
    """Two equal requests on purpose would make one thing."""
    for _ in range(2):
        claim = await begin(database, request(key=None))
        assert claim.made is None
        assert not claim.repeatable
        await complete(database, claim)


async def test_without_a_key_every_secret_is_another(database: Database) -> None:
    """Two inboxes would have one password."""
    claims = [await begin(database, request(key=None)) for _ in range(20)]
    assert len({claim.secret("mail password") for claim in claims}) == 20
    assert len({claim.uuid() for claim in claims}) == 20


@pytest.mark.parametrize("key", ["", "k" * 257, "a b", '"quoted"', "ключ", "a,b", "a\n", "a\x00"])
async def test_an_odd_key_is_refused(database: Database, key: str) -> None:
    """A key that a proxy changes on its way would not be recognised."""
    with pytest.raises(Invalid) as refused:
        await begin(database, request(key=key))
    assert refused.value.field == "Idempotency-Key"


@pytest.mark.parametrize("key", ["k", "k" * 256, "A-Z_a.z~0"])
async def test_a_fitting_key_is_taken(database: Database, key: str) -> None:
    assert (await begin(database, request(key=key))).repeatable


@pytest.mark.parametrize("done", [True, False], ids=["done", "running"])
async def test_another_request_with_the_key_is_a_conflict(
    database: Database, *, done: bool
) -> None:
    """It would be answered with what it did not ask for."""
    claim = await begin(database)
    if done:
        await complete(database, claim)
    with pytest.raises(Conflict) as refused:
        await begin(database, request(fingerprint=b"other"))
    assert refused.value.retry_after is None


async def test_while_the_first_is_running_others_are_told_to_wait(database: Database) -> None:
    """Both would make it."""
    await begin(database)
    with pytest.raises(Conflict) as refused:
        await begin(database)
    assert 1 <= (refused.value.retry_after or 0) <= idempotency.LEASE.total_seconds()


async def test_organizations_do_not_share_keys(database: Database) -> None:
    """One customer could find out, or block, what another does."""
    await complete(database, await begin(database))
    assert (await begin(database, request(organization_id=uuid4()))).made is None


async def test_after_a_crash_the_same_request_goes_on_with_the_same_seed(
    database: Database,
) -> None:
    """What the dead attempt left half made would stay, and the client get another one."""
    first = await begin(database)
    await pass_time(database, seconds=31)
    second = await begin(database)
    assert second.attempt == first.attempt + 1
    assert second.uuid() == first.uuid()
    assert second.rng().random() == first.rng().random()
    assert second.secret("mail password") == first.secret("mail password")


async def test_an_attempt_that_was_taken_for_dead_shows_nothing(database: Database) -> None:
    """Two things would be shown for one key."""
    slow = await begin(database)
    await pass_time(database, seconds=31)
    second = await begin(database)
    for step in (
        complete(database, slow, "of the slow one"),
        _extend(database, slow),
    ):
        with pytest.raises(Conflict):
            await step
    await complete(database, second, "of the second")
    made = (await begin(database)).made
    assert made is not None
    assert made.resource_id == "of the second"


async def _extend(db: Database, claim: Claim) -> None:
    async with db.transaction() as tx:
        await idempotency.extend(tx, claim, idempotency.LEASE)


async def test_an_attempt_that_was_taken_for_dead_takes_nothing_back(database: Database) -> None:
    """The slow request's failure would free the key that the later one holds."""
    slow = await begin(database)
    await pass_time(database, seconds=31)
    await begin(database)
    async with database.transaction() as tx:
        await idempotency.abandon(tx, slow)
        await idempotency.leave(tx, slow)
    with pytest.raises(Conflict):
        await begin(database)


async def test_a_lease_can_be_that_of_what_is_made(database: Database) -> None:
    """A large draft takes longer than a claim; a repetition would take it for dead."""
    claim = await begin(database)
    async with database.transaction() as tx:
        await idempotency.extend(tx, claim, idempotency.LEASE * 3)
    await pass_time(database, seconds=60)
    with pytest.raises(Conflict):
        await begin(database)


async def test_after_a_failure_the_key_is_free_for_any_request(database: Database) -> None:
    """A typo in the first request would cost the client its key."""
    claim = await begin(database)
    async with database.transaction() as tx:
        await idempotency.abandon(tx, claim)
    assert (await begin(database, request(fingerprint=b"other"))).made is None


async def test_what_may_be_half_made_is_for_the_same_request(database: Database) -> None:
    """Another request would be given the first one's name and password."""
    claim = await begin(database)
    async with database.transaction() as tx:
        await idempotency.leave(tx, claim)
    with pytest.raises(Conflict):
        await begin(database, request(fingerprint=b"other"))
    assert (await begin(database)).uuid() == claim.uuid()


async def test_a_rolled_back_creation_leaves_the_key_free(database: Database) -> None:
    """The key would be taken for something that is not there."""

    async def make() -> None:
        async with database.transaction() as tx:
            await idempotency.begin(tx, REQUEST)
            raise Invalid("name", "Too long.")

    with pytest.raises(Invalid):
        await make()
    assert (await begin(database, request(fingerprint=b"other"))).made is None


async def test_one_of_many_at_once_makes_it(database: Database) -> None:
    """Parallel repetitions would each make one."""

    async def make(number: int) -> str:
        async with database.transaction() as tx:
            claim = await idempotency.begin(tx, REQUEST)
            if claim.made:
                return claim.made.resource_id
            await idempotency.complete(tx, claim, number)
            return str(number)

    told = await asyncio.gather(*map(make, range(20)))
    assert len(set(told)) == 1


async def test_a_key_is_remembered_for_a_day_from_completion(database: Database) -> None:
    """Something that took hours to settle would be forgotten before its client could ask."""
    claim = await begin(database)
    await pass_time(database, hours=23)
    await complete(database, claim, "it")
    await pass_time(database, hours=23.9)
    assert (await begin(database)).made is not None
    assert await forget(database) == 0
    await pass_time(database, hours=0.2)
    fresh = await begin(database, request(fingerprint=b"other"))
    assert fresh.made is None
    assert fresh.uuid() != claim.uuid()


async def test_old_rows_go(database: Database) -> None:
    """The table would grow for ever, with seeds that secrets were derived from."""
    await complete(database, await begin(database))
    await begin(database, request(key="crashed"))
    assert await forget(database) == 0
    await pass_time(database, hours=24.1)
    assert await forget(database) == 2


async def forget(db: Database) -> int:
    async with db.transaction() as tx:
        return await idempotency.forget_old(tx)


async def test_a_secret_is_told_to_the_key_that_made_it_only(database: Database) -> None:
    """Who may list keys could ask for the secret of another's."""
    other = request(private=True, api_key_id=uuid4(), bearer="inai_other")
    claim = await begin(database, request(private=True))
    with pytest.raises(Conflict, match="secret"):
        await begin(database, other)
    await complete(database, claim)
    with pytest.raises(Conflict, match="secret"):
        await begin(database, other)
    assert (await begin(database, request(private=True))).made is not None


async def test_no_secret_can_be_derived_from_the_database_alone(database: Database) -> None:
    """A stolen backup would open mailboxes."""
    claim = await begin(database)
    async with database.reading() as tx:
        row = await (await tx.execute("select * from idempotency_key")).fetchone()
    assert row is not None
    assert claim.bearer not in str(row)
    assert claim.secret("mail password") not in [*map(bytes, (row["seed"], row["fingerprint"]))]
    guess = msgspec.structs.replace(claim, bearer="")
    assert guess.secret("mail password") != claim.secret("mail password")
    assert claim.secret("mail password") != claim.secret("API key")


async def test_neither_bearer_nor_seed_is_in_a_repr(database: Database) -> None:
    """A log line with a claim in it would hold an API key."""
    claim = await begin(database)
    assert "inai_caller" not in f"{claim!r} {REQUEST!r}"
    assert repr(claim.seed) not in repr(claim)


async def test_what_is_gone_is_said_to_be_gone(database: Database) -> None:
    """`There is no such pod.` would be the answer to a request that makes one."""

    async def read() -> str:
        raise NotFound("There is no such pod.")

    with pytest.raises(NotFound, match="Idempotency-Key"):
        await idempotency.replay(read())


async def test_other_failures_of_reading_stay_themselves(database: Database) -> None:
    async def read() -> str:
        raise AgentMailError("Something else.")

    with pytest.raises(AgentMailError, match="Something else"):
        await idempotency.replay(read())
