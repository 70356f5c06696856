"""Claims of deliveries: each is one worker's, none is lost, and no endpoint is in another's way."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from agentmail_cp import webhooks
from agentmail_cp.db import Database, Tx
from agentmail_cp.webhooks import DisabledReason, Failure, Webhook
from agentmail_cp.webhooks import claims as rows
from agentmail_cp.webhooks.attempts import Result
from agentmail_cp.webhooks.claims import Claim
from agentmail_cp.webhooks.delivering import RENEWAL, TIMEOUT
from agentmail_cp.webhooks.lanes import AT_ONCE, SHARE, Room
from tests.db.endpoints import (
    EMPTY,
    SENT_BACK,
    TAKEN,
    an_endpoint,
    claim,
    deliveries,
    end,
    happen,
    let_pass,
    look_at,
)
from tests.db.mailbox import an_inbox
from tests.fix_app import until


async def test_workers_never_claim_the_same_delivery(database: Database) -> None:
    """A receiver would get everything several times, for as long as there are several workers."""
    place = await an_inbox(database)
    for _ in range(4):
        await an_endpoint(database, place)
    await happen(database, place, *range(1, 11))
    found = await asyncio.gather(*(claim(database) for _ in range(8)))
    claimed = [each.delivery_id for claims in found for each in claims]
    assert len(claimed) == len(set(claimed)) == 40
    assert await claim(database) == []


async def test_what_a_dead_worker_had_is_delivered_by_another(database: Database) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    (dead,) = await claim(database)
    assert await claim(database) == []
    await let_pass(database, webhook, "claimed_until = claimed_until - interval '30 seconds'")
    (alive,) = await claim(database)
    assert alive.delivery_id == dead.delivery_id
    assert alive.message_id == dead.message_id
    # Whatever the dead one still says does not count.
    await end(database, [dead], SENT_BACK)
    await end(database, [alive], TAKEN)
    (row,) = await deliveries(database, webhook)
    assert (row.state, row.attempts) == ("delivered", 1)


async def test_a_lease_that_is_renewed_outlives_the_longest_attempt(database: Database) -> None:
    """What an endpoint is slow to take would be delivered to it over and over."""
    assert timedelta(seconds=2 * RENEWAL) < rows.LEASE
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    claims = await claim(database)
    for _ in range(int(TIMEOUT / RENEWAL)):
        await let_pass(database, webhook, "claimed_until = claimed_until - interval '1 second'")
        assert await claim(database) == []
        async with database.transaction() as tx:
            assert await rows.hold(tx, claims) == 1
    await end(database, claims, TAKEN)
    (row,) = await deliveries(database, webhook)
    assert row.state == "delivered"


async def test_an_endpoint_is_told_in_order_a_few_at_a_time(database: Database) -> None:
    """Were a single endpoint given all it is owed at once, others would wait for it."""
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, *range(1, AT_ONCE + 5))
    first = await claim(database)
    owed = [row.event_id for row in await deliveries(database, webhook)]
    assert [each.event_id for each in first] == owed[:AT_ONCE]
    assert await claim(database) == []
    await end(database, first[2:4], TAKEN)
    assert [each.event_id for each in await claim(database)] == owed[AT_ONCE : AT_ONCE + 2]


async def test_every_endpoint_has_its_turn(database: Database) -> None:
    place = await an_inbox(database)
    busy = await an_endpoint(database, place)
    await happen(database, place, *range(1, 11))
    late = await an_endpoint(database, place)
    await happen(database, place, 11)
    claims = await claim(database, Room(fast=2, failing=0, closed=frozenset()))
    assert {each.webhook_id for each in claims} == {busy.webhook_id, late.webhook_id}


async def test_nobody_waits_behind_all_endpoints_of_another(database: Database) -> None:
    """A tenant with 70 endpoints was told of everything first, and whoever came a moment later last."""
    busy, other = await an_inbox(database), await an_inbox(database)
    for _ in range(70):
        await an_endpoint(database, busy)
    late = await an_endpoint(database, other)
    await happen(database, busy, 1, 2)
    await happen(database, other, 3)
    assert late.webhook_id in {each.webhook_id for each in await claim(database)}


async def test_the_next_place_is_not_for_whoever_has_most_of_them(database: Database) -> None:
    """Where places come free one by one, the oldest delivery is always of the tenant that is owed most."""
    busy, other = await an_inbox(database), await an_inbox(database)
    for _ in range(3):
        await an_endpoint(database, busy)
    late = await an_endpoint(database, other)
    await happen(database, busy, 1, 2)
    await happen(database, other, 3)
    one = Room(fast=1, failing=0, closed=frozenset())
    found = [each.webhook_id for _ in range(2) for each in await claim(database, one)]
    assert found[1] == late.webhook_id


async def test_failing_endpoints_of_one_leave_places_for_those_of_others(
    database: Database,
) -> None:
    """A tenant's 200 dead endpoints held every place, and another's that had failed once and was well again
    waited for minutes.
    """
    busy, other = await an_inbox(database), await an_inbox(database)
    for _ in range(SHARE + 6):
        await an_endpoint(database, busy)
    once = await an_endpoint(database, other)
    await happen(database, busy, 1)
    await happen(database, other, 2)
    async with database.transaction() as tx:
        await tx.execute("update webhook set failing_since = now()")
    first = await claim(database)
    assert once.webhook_id in {each.webhook_id for each in first}
    rest = await claim(database)
    assert len(first) + len(rest) == SHARE + 1
    assert await claim(database) == []
    await end(database, rest, SENT_BACK)
    assert len(await claim(database)) == len(rest)


@pytest.mark.parametrize("late", ["renews", "records"])
async def test_claims_are_locked_in_one_order(database: Database, late: str) -> None:
    """A worker renews its claims while it records some of them. Locked in different orders, PostgreSQL ends
    one of the two: results are written down late, or leases end and deliveries are made twice.
    """
    place = await an_inbox(database)
    await an_endpoint(database, place)
    await happen(database, place, *range(1, AT_ONCE + 1))
    claims = sorted(await claim(database), key=lambda each: each.delivery_id, reverse=True)

    async def work() -> None:
        if late == "records":
            await end(database, claims, TAKEN)
            return
        async with database.transaction() as tx:
            await rows.hold(tx, claims)

    async with database.transaction() as tx:
        await tx.execute(
            "select from delivery where delivery_id = %(first)s for update",
            {"first": claims[-1].delivery_id},
        )
        working = asyncio.create_task(work())
        await until(lambda: waiting_for_a_row(tx), bool)
        cursor = await tx.execute("select from delivery for update skip locked")
        assert cursor.rowcount == len(claims)
    await working


async def waiting_for_a_row(tx: Tx) -> bool:
    cursor = await tx.execute("select from pg_locks where not granted")
    return cursor.rowcount > 0


async def test_a_slow_endpoint_gets_no_more_until_it_has_answered(database: Database) -> None:
    place = await an_inbox(database)
    slow, other = await an_endpoint(database, place), await an_endpoint(database, place)
    await happen(database, place, 1)
    room = Room(fast=10, failing=10, closed=frozenset({slow.webhook_id}))
    assert [each.webhook_id for each in await claim(database, room)] == [other.webhook_id]


async def failing(database: Database, webhook: Webhook) -> list[Claim]:
    """Let the first delivery to an endpoint fail; what was claimed with it."""
    claims = await claim(database)
    await end(
        database, [each for each in claims if each.webhook_id == webhook.webhook_id], SENT_BACK
    )
    return claims


async def test_a_failing_endpoint_is_tried_one_at_a_time_in_its_own_lane(
    database: Database,
) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    await failing(database, webhook)
    assert (await look_at(database, webhook)).failing_since is not None
    await happen(database, place, 2, 3, 4)
    assert await claim(database, Room(fast=10, failing=0, closed=frozenset())) == []
    (probe,) = await claim(database)
    assert probe.failing
    assert await claim(database) == []
    await end(database, [probe], TAKEN)
    assert (await look_at(database, webhook)).failing_since is None
    assert len(await claim(database)) == 2


async def test_a_failure_waits_its_step_and_the_eighth_is_the_last(database: Database) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    waits: list[float] = []
    for attempt in range(1, 9):
        await end(database, await claim(database), SENT_BACK)
        (row,) = await deliveries(database, webhook)
        assert (row.attempts, row.failures) == (attempt, attempt)
        waits.append(row.wait)
        assert await claim(database) == []
        await let_pass(database, webhook, "due_at = now()")
    assert waits[:7] == pytest.approx([5, 300, 1800, 7200, 18_000, 36_000, 36_000], abs=2)
    assert [row.state for row in await deliveries(database, webhook)] == ["failed"]
    assert await claim(database) == []


async def test_what_failed_begins_the_schedule_anew_when_it_is_resent(database: Database) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    (first,) = await claim(database)
    await end(database, [first], TAKEN)
    async with database.transaction() as tx:
        await webhooks.resend(tx, webhook, first.delivery_id)
    (second,) = await claim(database)
    assert second.message_id == first.message_id
    await end(database, [second], SENT_BACK)
    (row,) = await deliveries(database, webhook)
    assert (row.state, row.attempts, row.failures) == ("pending", 2, 1)
    assert row.wait == pytest.approx(5, abs=2)


async def test_an_endpoint_that_is_gone_is_disabled_and_told_nothing_more(
    database: Database,
) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1, 2)
    claims = await claim(database)
    gone = Result(at=SENT_BACK.at, duration=SENT_BACK.duration, status=410, failure=Failure.GONE)
    await end(database, claims[:1], gone)
    now = await look_at(database, webhook)
    assert (now.enabled, now.disabled_reason) == (False, DisabledReason.GONE)
    assert now.disabled_at is not None
    await let_pass(database, webhook, "claimed_until = now() - interval '1 second'")
    assert await claim(database) == []
    async with database.transaction() as tx:
        assert await rows.give_up(tx) == 1
    assert {row.state for row in await deliveries(database, webhook)} == {"failed"}


@pytest.mark.parametrize(("days", "enabled"), [(4, True), (5, False)])
async def test_an_endpoint_that_only_fails_is_disabled_after_five_days(
    database: Database, days: int, *, enabled: bool
) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    await failing(database, webhook)
    async with database.transaction() as tx:
        await tx.execute(
            "update webhook set failing_since = now() - make_interval(days => %(days)s)",
            {"days": days},
        )
    await let_pass(database, webhook, "due_at = now()")
    await failing(database, webhook)
    now = await look_at(database, webhook)
    assert now.enabled is enabled
    assert now.disabled_reason == (None if enabled else DisabledReason.FAILING)


async def test_what_is_our_own_fault_does_not_count_against_an_endpoint(
    database: Database,
) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    broken = Result(at=SENT_BACK.at, duration=SENT_BACK.duration, failure=Failure.NOT_MADE)
    await end(database, await claim(database), broken)
    assert (await look_at(database, webhook)).failing_since is None
    (row,) = await deliveries(database, webhook)
    assert row.state == "pending"


async def test_claims_that_rest_are_not_attempts(database: Database) -> None:
    """While the mail server is away nothing is told, and the schedule must not run out meanwhile."""
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    claims = await claim(database)
    async with database.transaction() as tx:
        assert await rows.hold(tx, claims, timedelta()) == 1
    (again,) = await claim(database)
    assert again.failures == 0
    async with database.transaction() as tx:
        # The delivery is somebody else's by then.
        assert await rows.hold(tx, claims) == 0
    (row,) = await deliveries(database, webhook)
    assert row.attempts == 0


async def test_what_is_put_off_lets_others_of_its_endpoint_go_first(database: Database) -> None:
    """A failing endpoint is tried with its oldest delivery alone. If that cannot be read, the endpoint would
    never be tried again.
    """
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1, 2)
    async with database.transaction() as tx:
        await tx.execute("update webhook set failing_since = now()")
    (first,) = await claim(database)
    async with database.transaction() as tx:
        await rows.put_off(tx, [first], timedelta(minutes=1))
    (second,) = await claim(database)
    assert second.delivery_id != first.delivery_id
    put_off, _ = await deliveries(database, webhook)
    assert (put_off.state, put_off.attempts, put_off.failures) == ("pending", 0, 0)
    assert put_off.wait > 30


async def test_both_secrets_sign_while_one_replaces_the_other(database: Database) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place, headers={"X-Token": "t"})
    await happen(database, place, 1)
    async with database.transaction() as tx:
        new = await webhooks.rotate(tx, webhook, timedelta(hours=1))
    (during,) = await claim(database)
    assert during.secrets == [new.secret, webhook.secret]
    assert during.headers == {"X-Token": "t"}
    assert webhook.secret not in repr(during)
    async with database.transaction() as tx:
        await tx.execute("update webhook set previous_until = now() - interval '1 second'")
    await let_pass(database, webhook, "claimed_until = null")
    (later,) = await claim(database)
    assert later.secrets == [new.secret]


async def test_the_log_keeps_what_each_attempt_came_to(database: Database) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    (first,) = await claim(database)
    await end(database, [first], SENT_BACK)
    await let_pass(database, webhook, "due_at = now()")
    await end(database, await claim(database), TAKEN)
    async with database.reading() as tx:
        found = await webhooks.list_attempts(
            tx, await webhooks.get_delivery(tx, webhook, first.delivery_id)
        )
    assert [(each.number, each.status, each.error, each.response) for each in found] == [
        (1, 500, "refused", "no"),
        (2, 200, None, "ok"),
    ]
    assert found[0].duration_ms == 12


async def test_what_waits_is_counted_but_only_the_well_can_be_late(database: Database) -> None:
    """An endpoint that has been dead for days must not raise the alarm for everybody."""
    place = await an_inbox(database)
    dead = await an_endpoint(database, place)
    await happen(database, place, 1)
    await failing(database, dead)
    well = await an_endpoint(database, place)
    await happen(database, place, 2)
    await let_pass(database, dead, "due_at = now() - interval '1 day'")
    await let_pass(database, well, "due_at = now() - interval '9 seconds'")
    async with database.reading() as tx:
        waiting = await rows.measure(tx)
    assert waiting.pending == 3
    assert waiting.overdue == pytest.approx(9, abs=2)


async def test_old_deliveries_are_forgotten_with_their_attempts(database: Database) -> None:
    place = await an_inbox(database)
    webhook = await an_endpoint(database, place)
    await happen(database, place, 1)
    await end(database, await claim(database), TAKEN)
    await let_pass(database, webhook, "created_at = now() - interval '30 days'")
    await happen(database, place, 2)
    async with database.transaction() as tx:
        await webhooks.forget_old(tx, timedelta(days=29))
    assert len(await deliveries(database, webhook)) == 1
    async with database.reading() as tx:
        row = await (await tx.execute("select count(*) as left from delivery_attempt")).fetchone()
    assert row == {"left": 0}


@pytest.mark.parametrize("state", ["pending", "delivered"])
async def test_a_claim_does_not_read_what_waits_for_others(database: Database, state: str) -> None:
    """An endpoint that was away for days has a backlog, and every delivery begins with a claim."""
    place = await an_inbox(database)
    webhook, well = await an_endpoint(database, place), await an_endpoint(database, place)
    async with database.transaction(patience=30) as tx:
        await tx.execute(
            "insert into delivery (delivery_id, organization_id, webhook_id, event_id, event_type,"
            " state) select gen_random_uuid(), %(organization_id)s, %(webhook_id)s,"
            " gen_random_uuid(), 'message.sent', %(state)s from generate_series(1, 20000)",
            {
                "organization_id": place.organization_id,
                "webhook_id": webhook.webhook_id,
                "state": state,
            },
        )
        await tx.execute(
            "update webhook set failing_since = now() where webhook_id = %s", [webhook.webhook_id]
        )
    async with database.reading() as tx:
        await tx.execute("vacuum (analyze) delivery")
    await happen(database, place, 1)
    async with database.transaction() as tx:
        read = await blocks_read(tx)
    assert read < 200
    assert [each.webhook_id for each in await claim(database)].count(well.webhook_id) == 1


async def blocks_read(tx: Tx) -> int:
    """How many blocks of 8 kB a claim looks at; what it claims is rolled back."""
    with_cost = "explain (analyze, buffers, format json) " + rows._CLAIM  # pyright: ignore[reportPrivateUsage]
    async with tx.transaction(force_rollback=True):
        cursor = await tx.execute(with_cost, rows.wanted(EMPTY))
        row = await cursor.fetchone()
    assert row is not None
    plan = row["QUERY PLAN"][0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
