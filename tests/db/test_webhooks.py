"""From the log to the endpoints: who is told of what, once and in order, and what is told again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from uuid import UUID, uuid4

import msgspec
import pytest

from agentmail_cp import events, webhooks
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, fetch_all
from agentmail_cp.errors import Conflict, LimitExceeded, NotFound
from agentmail_cp.events import Event, EventType, Subscribed
from agentmail_cp.messages import Place
from agentmail_cp.webhooks import Delivery, NewWebhook, Replay, Replayed, Webhook, WebhookPatch
from tests.db.endpoints import SENT_BACK, TAKEN, an_endpoint, claim, deliveries, end, let_pass
from tests.db.event_log import EVERYTHING, everything, neighbour, publish, write
from tests.db.mailbox import an_inbox

SEEDS = range(12)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TYPES = tuple(EventType)


class Told(msgspec.Struct, frozen=True):
    webhook_id: UUID
    event_id: UUID


async def told(db: Database) -> list[Told]:
    """Who was told of what, in the order in which it was written."""
    async with db.reading() as tx:
        return await fetch_all(
            tx, Told, "select webhook_id, event_id from delivery order by number", {}
        )


async def beyond(db: Database, place: Place) -> Place:
    """An inbox of the same organisation in another pod."""
    beside = await neighbour(db, place)
    async with db.transaction() as tx:
        for table in ("inbox", "inbox_sync"):
            await tx.execute(
                f"update {table} set pod_id = %(pod_id)s where inbox_id = %(inbox_id)s",
                {"pod_id": (pod_id := uuid4()), "inbox_id": beside.inbox_id},
            )
    return msgspec.structs.replace(beside, pod_id=pod_id)


def some(chance: random.Random, of: Sequence[UUID]) -> list[UUID]:
    return [each for each in of if chance.random() < 0.2]


def any_endpoint(chance: random.Random, places: Sequence[Place]) -> tuple[Reach, NewWebhook]:
    """An endpoint at any scope, with any filter."""
    home = chance.choice(places)
    scope = chance.choice(
        [
            Reach(home.organization_id),
            Reach(home.organization_id, home.pod_id),
            Reach(home.organization_id, home.pod_id, home.inbox_id),
        ]
    )
    new = NewWebhook(
        url="https://hooks.test/",
        event_types=chance.sample(TYPES, chance.randint(1, len(TYPES))),
        pod_ids=some(chance, [each.pod_id for each in places]),
        inbox_ids=some(chance, [each.inbox_id for each in places]),
        enabled=chance.random() < 0.8,
    )
    return scope, new


def wants(webhook: Webhook, event: Event) -> bool:
    """What the log's own rule says."""
    subscribed = Subscribed(
        reach=webhook.reach,
        types=frozenset(webhook.event_types),
        inbox_ids=frozenset(webhook.inbox_ids),
        pod_ids=frozenset(webhook.pod_ids),
    )
    return webhook.enabled and subscribed.wants(event)


@pytest.mark.parametrize("seed", SEEDS)
async def test_an_endpoint_is_told_what_the_rule_of_the_log_says(
    database: Database, seed: int
) -> None:
    """Webhooks and sockets with the same filter would be told different things, or somebody else's."""
    chance = random.Random(seed)
    home = await an_inbox(database)
    places = [home, await neighbour(database, home), await beyond(database, home)]
    stranger = await an_inbox(database)
    made: list[Webhook] = []
    async with database.transaction() as tx:
        for _ in range(12):
            scope, new = any_endpoint(chance, [*places, stranger])
            made.append((await webhooks.create(tx, scope, new, most=0)).webhook)
    for _ in range(30):
        await write(database, chance.choice([*places, stranger]), "m", type=chance.choice(TYPES))
    await publish(database)
    log = await everything(database, home) + await everything(database, stranger)
    expected = {
        (webhook.webhook_id, event.event_id)
        for webhook in made
        for event in log
        if wants(webhook, event)
    }
    found = [(each.webhook_id, each.event_id) for each in await told(database)]
    assert set(found) == expected
    assert len(found) == len(expected)


async def test_each_is_told_in_order_and_once(database: Database) -> None:
    """A receiver would answer a mail before it has the one it answers, or answer it twice."""
    home = await an_inbox(database)
    beside = await neighbour(database, home)
    made = [await an_endpoint(database, home, event_types=TYPES) for _ in range(2)]
    for number in range(5):
        await write(database, (home, beside)[number % 2], f"m{number}")
    await publish(database)
    log = await everything(database, home)
    for webhook in made:
        found = [
            each.event_id for each in await told(database) if each.webhook_id == webhook.webhook_id
        ]
        assert found == [event.event_id for event in log]
    async with database.transaction() as tx:
        assert await webhooks.fan_out(tx, log) == 0
    assert len(await told(database)) == 10


async def test_nobody_is_told_what_a_publication_that_failed_told(database: Database) -> None:
    """An event that is not in the log would be told of."""
    home = await an_inbox(database)
    await an_endpoint(database, home, event_types=TYPES)
    await write(database, home, "m")

    async def die() -> None:
        async with database.transaction() as tx:
            published = await events.publish(tx, await events.unpublished(tx, limit=10))
            assert await webhooks.fan_out(tx, published) == 1
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await die()
    assert await told(database) == []
    await publish(database)
    assert len(await told(database)) == 1


async def test_a_filter_of_something_deleted_lets_nothing_pass(database: Database) -> None:
    """An endpoint that was held to one customer's inbox would be told of everybody's."""
    home = await an_inbox(database)
    beside = await neighbour(database, home)
    alone = await an_endpoint(database, home, inbox_ids=[beside.inbox_id], event_types=TYPES)
    both = await an_endpoint(
        database, home, inbox_ids=[beside.inbox_id], pod_ids=[home.pod_id], event_types=TYPES
    )
    off = await an_endpoint(database, home, inbox_ids=[beside.inbox_id], enabled=False)
    async with database.transaction() as tx:
        await webhooks.erase(tx, Reach(home.organization_id, home.pod_id, beside.inbox_id))
    await write(database, home, "m")
    await publish(database)
    assert [each.webhook_id for each in await told(database)] == [both.webhook_id]
    async with database.transaction() as tx:
        left = {
            each.webhook_id: each
            for each in (await webhooks.list_page(tx, alone.reach, limit=9, page_token=None))[0]
        }
        # Enabled again without a look at its filter.
        freed = webhooks.patched(left[alone.webhook_id], WebhookPatch(enabled=True))
        await webhooks.update(tx, freed)
    assert left[alone.webhook_id].disabled_reason == "deleted"
    assert left[off.webhook_id].disabled_reason == "requested"
    assert left[both.webhook_id].inbox_ids == []
    await write(database, home, "m2")
    await publish(database)
    assert {each.webhook_id for each in await told(database)} == {both.webhook_id}


async def test_an_inbox_takes_nobody_elses_endpoints_with_it(database: Database) -> None:
    """A tenant who deletes an inbox would end the notifications of the whole organisation."""
    home = await an_inbox(database)
    beside, stranger = await neighbour(database, home), await an_inbox(database)
    scopes = {
        "organization": Reach(home.organization_id),
        "pod": Reach(home.organization_id, home.pod_id),
        "inbox": Reach(home.organization_id, home.pod_id, home.inbox_id),
        "beside": Reach(home.organization_id, home.pod_id, beside.inbox_id),
        "stranger": Reach(stranger.organization_id, stranger.pod_id, stranger.inbox_id),
    }
    new = NewWebhook(url="https://hooks.test/", event_types=TYPES)

    async def left() -> set[str]:
        found: set[str] = set()
        for name, scope in made.items():
            async with database.reading() as tx:
                try:
                    await webhooks.get(tx, scope.reach, scope.webhook_id)
                except NotFound:
                    continue
            found.add(name)
        return found

    async with database.transaction() as tx:
        made = {
            name: (await webhooks.create(tx, scope, new, most=0)).webhook
            for name, scope in scopes.items()
        }
        await webhooks.erase(tx, scopes["inbox"])
    assert await left() == {"organization", "pod", "beside", "stranger"}
    async with database.transaction() as tx:
        await webhooks.erase(tx, scopes["pod"])
    assert await left() == {"organization", "stranger"}


# --- many at once


async def test_one_name_is_one_endpoint_however_many_ask(database: Database) -> None:
    """A fleet that starts at once would be told of everything many times, or be refused at the limit."""
    home = await an_inbox(database)

    async def ask() -> webhooks.Made:
        async with database.transaction() as tx:
            new = NewWebhook(url="https://hooks.test/", event_types=TYPES, client_id="fleet")
            return await webhooks.create(tx, Reach(home.organization_id), new, most=most)

    for most in (0, 1):
        made = await asyncio.gather(*(ask() for _ in range(6)))
        assert len({each.webhook.webhook_id for each in made}) == 1
        assert sum(each.new for each in made) == (1 if most == 0 else 0)


async def test_a_limit_holds_however_many_ask(database: Database) -> None:
    """Whoever asks for many at once would have more than they may."""
    home = await an_inbox(database)

    async def ask() -> bool:
        try:
            async with database.transaction() as tx:
                new = NewWebhook(url="https://hooks.test/", event_types=TYPES)
                await webhooks.create(tx, Reach(home.organization_id), new, most=3)
        except LimitExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*(ask() for _ in range(8)))) == 3


# --- told again


async def replay(
    db: Database, webhook: Webhook, wanted: Replay | None = None, *, most: int = 100
) -> Replayed:
    async with db.transaction() as tx:
        return await webhooks.replay(tx, webhook, wanted or Replay(since=LONG_AGO), most=most)


async def test_a_replay_tells_what_was_missed_with_the_same_ids(database: Database) -> None:
    """What happened while an endpoint was away could never be told, or would be taken for something new."""
    home = await an_inbox(database)
    await write(database, home, "before")
    await publish(database)
    webhook = await an_endpoint(database, home, event_types=[EventType.MESSAGE_SENT])
    await write(database, home, "m1", "m2")
    await write(database, home, "other", type=EventType.MESSAGE_BOUNCED)
    await publish(database)
    await end(database, await claim(database), TAKEN)
    before = await deliveries(database, webhook)
    assert [each.state for each in before] == ["delivered"] * 2
    assert await replay(database, webhook) == Replayed(3, None)
    after = await deliveries(database, webhook)
    assert [(each.state, each.failures) for each in after] == [("pending", 0)] * 3
    # Of what was delivered it is the same row, so that its attempts stay in the log.
    assert [each.delivery_id for each in after[:2]] == [each.delivery_id for each in before]
    assert {each.event_id for each in after} == {
        event.event_id
        for event in await everything(database, home)
        if event.type is EventType.MESSAGE_SENT
    }
    assert len(await claim(database)) == 3


async def test_a_replay_goes_on_where_the_last_one_ended(database: Database) -> None:
    """A long outage would come back all at once, or the end of it never."""
    home = await an_inbox(database)
    await write(database, home, *(f"m{number}" for number in range(5)))
    await publish(database)
    webhook = await an_endpoint(database, home, event_types=TYPES)
    log = await everything(database, home)
    counts: list[int] = []
    wanted = Replay(since=LONG_AGO)
    while True:
        done = await replay(database, webhook, wanted, most=2)
        counts.append(done.count)
        if done.next is None:
            break
        async with database.reading() as tx:
            position = await events.position_of(tx, webhook.reach, str(done.next))
        wanted = msgspec.structs.replace(wanted, position=position)
    assert counts == [2, 2, 1]
    found = [each.event_id for each in await deliveries(database, webhook)]
    assert found == [event.event_id for event in log]


async def test_a_replay_keeps_to_its_time(database: Database) -> None:
    """Somebody who repairs one bad hour would have a month of events."""
    home = await an_inbox(database)
    webhook = await an_endpoint(database, home, event_types=TYPES, enabled=False)
    for name in ("early", "wanted", "late"):
        await write(database, home, name)
    await publish(database)
    log = await everything(database, home)
    async with database.transaction() as tx:
        webhook = await webhooks.update(tx, webhooks.patched(webhook, WebhookPatch(enabled=True)))
    since, until = log[1].created_at, log[2].created_at
    assert (await replay(database, webhook, Replay(since=since, until=until))).count == 1
    assert [each.event_id for each in await deliveries(database, webhook)] == [log[1].event_id]
    future = Replay(since=until + timedelta(days=1))
    assert await replay(database, webhook, future) == Replayed(0, None)


async def test_only_what_failed_is_told_again(database: Database) -> None:
    """A receiver that cannot tell repetitions would act twice on what it had."""
    home = await an_inbox(database)
    webhook = await an_endpoint(database, home, event_types=TYPES)
    await write(database, home, "m1", "m2", "m3")
    await publish(database)
    found = await deliveries(database, webhook)
    async with database.transaction() as tx:
        for state, each in zip(("delivered", "failed", "pending"), found, strict=True):
            await tx.execute(
                "update delivery set state = %(state)s where delivery_id = %(delivery_id)s",
                {"state": state, "delivery_id": each.delivery_id},
            )
    wanted = Replay(since=LONG_AGO, only_failed=True)
    assert (await replay(database, webhook, wanted)).count == 1
    states = [each.state for each in await deliveries(database, webhook)]
    assert states == ["delivered", "pending", "pending"]


async def test_what_waits_for_its_next_attempt_is_told_now(database: Database) -> None:
    """Somebody who has repaired a receiver would wait ten hours for the next attempt."""
    home = await an_inbox(database)
    webhook = await an_endpoint(database, home, event_types=TYPES)
    await write(database, home, "m")
    await publish(database)
    await end(database, await claim(database), SENT_BACK)
    await let_pass(database, webhook, "due_at = now() + interval '10 hours', failures = 6")
    await replay(database, webhook)
    (found,) = await deliveries(database, webhook)
    assert (found.wait <= 0, found.failures, found.attempts) == (True, 0, 1)


async def test_what_is_under_way_is_left_alone(database: Database) -> None:
    """It would be delivered twice at the same time."""
    home = await an_inbox(database)
    webhook = await an_endpoint(database, home, event_types=TYPES)
    await write(database, home, "m")
    await publish(database)
    (running,) = await claim(database)
    await replay(database, webhook)
    async with database.transaction() as tx:
        await webhooks.resend(tx, webhook, running.delivery_id)
    assert await claim(database) == []
    await end(database, [running], TAKEN)
    assert [each.state for each in await deliveries(database, webhook)] == ["delivered"]


async def test_one_is_sent_again(database: Database) -> None:
    """A receiver that lost one would have to have all of them again."""
    home = await an_inbox(database)
    webhook, other = [await an_endpoint(database, home, event_types=TYPES) for _ in range(2)]
    await write(database, home, "m1", "m2")
    await publish(database)
    await end(database, await claim(database), TAKEN)
    first, _ = await deliveries(database, webhook)
    async with database.transaction() as tx:
        again = await webhooks.resend(tx, webhook, first.delivery_id)
    assert (again.state, again.attempts, again.status) == ("pending", 1, 200)
    assert [each.delivery_id for each in await claim(database)] == [first.delivery_id]
    async with database.transaction() as tx:
        with pytest.raises(NotFound):
            await webhooks.resend(tx, other, first.delivery_id)


async def test_nothing_is_told_again_to_who_is_disabled(database: Database) -> None:
    """It would wait, and come all at once when nobody expects it."""
    home = await an_inbox(database)
    webhook = await an_endpoint(database, home, enabled=False)
    async with database.transaction() as tx:
        for asked in (
            webhooks.replay(tx, webhook, Replay(since=LONG_AGO)),
            webhooks.send_test(tx, webhook, EventType.MESSAGE_SENT),
            webhooks.resend(tx, webhook, uuid4()),
        ):
            with pytest.raises(Conflict, match="requested"):
                await asked


# --- the log of an endpoint


async def test_the_log_is_paged_and_filtered(database: Database) -> None:
    """Somebody who looks for what failed would read everything, or miss some."""
    home = await an_inbox(database)
    webhook = await an_endpoint(database, home, event_types=TYPES)
    for number in range(6):
        kind = EventType.MESSAGE_BOUNCED if number % 2 else EventType.MESSAGE_SENT
        await write(database, home, f"m{number}", type=kind)
    await publish(database)
    await let_pass(
        database, webhook, "state = case when mod(number, 3) = 0 then 'failed' else state end"
    )

    async def pages(state: webhooks.State | None, kind: EventType | None) -> list[Delivery]:
        found: list[list[Delivery]] = []
        token: str | None = None
        while True:
            async with database.reading() as tx:
                page, token = await webhooks.list_deliveries(
                    tx, webhook, state=state, event_type=kind, limit=2, page_token=token
                )
            found.append(page)
            if token is None:
                return list(chain.from_iterable(found))

    every = await pages(None, None)
    assert [each.number for each in every] == sorted((each.number for each in every), reverse=True)
    assert len({each.delivery_id for each in every}) == 6
    for state in ("pending", "failed"):
        for kind in (None, EventType.MESSAGE_BOUNCED, EventType.MESSAGE_SENT):
            assert await pages(state, kind) == [
                each for each in every if each.state == state and kind in (None, each.event_type)
            ]


async def test_a_test_has_an_id_of_its_own_and_stands_in_no_log(database: Database) -> None:
    """A receiver would take a second test for the first, and readers of the log would see what never was."""
    home = await an_inbox(database)
    webhook = await an_endpoint(database, home)
    async with database.transaction() as tx:
        sent = [await webhooks.send_test(tx, webhook, EventType.MESSAGE_RECEIVED) for _ in range(2)]
    claims = await claim(database)
    assert {each.message_id for each in claims} == {str(each.delivery_id) for each in sent}
    async with database.reading() as tx:
        wanted = Subscribed(reach=webhook.reach, types=EVERYTHING)
        assert await events.after(tx, wanted, 0, limit=9) == []
