"""Publication and the feed: whoever reads the log by position has missed nothing, whatever stays open."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from msgspec import structs

from agentmail_cp import db, events, jobs, publication
from agentmail_cp.access import Reach
from agentmail_cp.db import Database
from agentmail_cp.errors import Gone, Invalid
from agentmail_cp.events import Event, EventType, Feed, Subscribed
from agentmail_cp.messages import Place
from agentmail_cp.publication import DELIVERIES, Publication
from tests.db.event_log import EVERYTHING, append, everything, names, neighbour, publish, write
from tests.db.mailbox import an_inbox
from tests.fix_app import until
from tests.fix_proxy import Proxy, port_of, through


async def test_an_older_transaction_holds_up_nobody_and_is_not_passed(database: Database) -> None:
    """It wrote its event first and commits last: a reader who has seen all others must still see it, and
    they must not have had to wait for it.
    """
    slow = await an_inbox(database)
    fast = await neighbour(database, slow)
    async with database.transaction() as older:
        await append(older, slow, "slow 1", "slow 2")
        for number in range(3):
            await write(database, fast, f"fast {number}")
        assert await publish(database) == 3
        seen = await everything(database, slow)
        assert [event.message_id for event in seen] == ["fast 0", "fast 1", "fast 2"]
        assert await publish(database) == 0
    assert await publish(database) == 2
    assert await names(database, slow, seen[-1].position or 0) == ["slow 1", "slow 2"]
    assert await names(database, slow) == ["fast 0", "fast 1", "fast 2", "slow 1", "slow 2"]


async def test_nobody_sees_what_is_not_published(database: Database) -> None:
    """It would have no place yet, and be skipped by whoever goes on behind it."""
    place = await an_inbox(database)
    await write(database, place, "one")
    assert await names(database, place) == []
    await publish(database)
    await write(database, place, "two")
    assert await names(database, place) == ["one"]


async def test_two_publishers_at_once_publish_everything_once(database: Database) -> None:
    """Every worker runs one."""
    place = await an_inbox(database)
    await write(database, place, *(f"m{number}" for number in range(40)))
    publishers = [Publication(database, batch=3) for _ in range(4)]

    async def until_empty(publisher: Publication) -> int:
        done = 0
        while await is_unpublished(database):
            done += await publisher.publish_batch()
        return done

    published = await asyncio.gather(*(until_empty(each) for each in publishers))
    assert sum(published) == 40
    log = await everything(database, place)
    assert [event.seq for event in log] == list(range(1, 41))
    assert len({event.position for event in log}) == 40


async def is_unpublished(database: Database) -> bool:
    async with database.reading() as tx:
        row = await (
            await tx.execute("select exists(select from event where position is null) as more")
        ).fetchone()
    return bool(row and row["more"])


async def test_whoever_publishes_locks_out_others_until_the_end(database: Database) -> None:
    """Were two at it at once, the higher positions could become visible before the lower ones."""
    place = await an_inbox(database)
    await write(database, place, "one")
    async with database.transaction() as tx:
        assert len(await events.publish(tx, await events.unpublished(tx, limit=10))) == 1
        await write(database, place, "two")
        assert await publish(database) == 0
    assert await publish(database) == 1
    assert await names(database, place) == ["one", "two"]


async def test_what_a_publisher_did_not_commit_is_published_again(database: Database) -> None:
    """A worker may be killed at any moment."""
    place = await an_inbox(database)
    await write(database, place, "one")
    with pytest.raises(KeyError):
        await publish_and_die(database)
    assert await names(database, place) == []
    assert await publish(database) == 1
    assert await names(database, place) == ["one"]


async def publish_and_die(database: Database) -> None:
    async with database.transaction() as tx:
        await events.publish(tx, await events.unpublished(tx, limit=10))
        raise KeyError


async def many_endpoints(db: Database, place: Place, count: int) -> None:
    """As many as an organisation may have, all told of what is sent."""
    async with db.transaction() as tx:
        await tx.execute(
            "insert into webhook (webhook_id, organization_id, scope_id, url, event_types, secret)"
            " select gen_random_uuid(), %(organization_id)s, %(organization_id)s,"
            " 'https://hooks.test/' || n, array['message.sent'], 'whsec_AAAA'"
            " from generate_series(1, %(count)s) as n",
            {"organization_id": place.organization_id, "count": count},
        )


async def count_deliveries(database: Database) -> int:
    async with database.reading() as tx:
        row = await (await tx.execute("select count(*) from delivery")).fetchone()
    return row["count"] if row else 0


async def test_many_endpoints_of_one_stop_nobodys_events(database: Database) -> None:
    """An agent sent 500 mails, of which 1,000 endpoints of its organisation are told. That was one statement,
    which took longer than any may, again and again: nobody at all was told of anything any more.
    """
    place, stranger = await an_inbox(database), await an_inbox(database)
    await many_endpoints(database, place, 1000)
    await write(database, place, *(f"m{number}" for number in range(12)))
    await write(database, stranger, "of a stranger")
    told = 0
    while not await names(database, stranger):
        assert await publish(database)
        told, before = await count_deliveries(database), told
        assert told - before <= DELIVERIES
    assert told == 12_000
    assert await names(database, place) == [f"m{number}" for number in range(12)]


async def test_an_event_of_more_endpoints_than_a_batch_has_is_published_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "DELIVERIES", 4)
    place, stranger = await an_inbox(database), await an_inbox(database)
    await many_endpoints(database, place, 5)
    await write(database, place, "one", "two")
    await write(database, stranger, "three", "four")
    assert [await publish(database) for _ in range(4)] == [1, 1, 2, 0]


async def test_an_event_that_takes_long_to_publish_is_given_the_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be published by halves: given up each time, it would stop all that come after it."""
    monkeypatch.setattr(publication, "PATIENCE", 0.1)
    monkeypatch.setattr(publication, "LOOK", 0.1)
    place = await an_inbox(database)
    await many_endpoints(database, place, 1)
    await write(database, place, "one")
    async with dawdling(database):
        loop = asyncio.create_task(Publication(database).run())
        try:
            assert await until(lambda: names(database, place), bool, seconds=40.0) == ["one"]
        finally:
            await jobs.end([loop])


@contextlib.asynccontextmanager
async def dawdling(database: Database) -> AsyncGenerator[None]:
    """Deliveries take a second to be written."""
    async with database.transaction() as tx:
        await tx.execute(
            "create function dawdle() returns trigger language plpgsql"
            " as $$ begin perform pg_sleep(1); return null; end $$"
        )
        await tx.execute(
            "create trigger dawdling after insert on delivery execute function dawdle()"
        )
    try:
        yield
    finally:
        # The next test is given the same database.
        async with database.transaction() as tx:
            await tx.execute("drop function dawdle cascade")


async def test_events_from_before_there_were_positions_are_not_told_as_news(
    database: Database,
) -> None:
    """An upgrade must not send a month of old events to everybody."""
    place = await an_inbox(database)
    await write(database, place, "old")
    async with database.transaction() as tx:
        await tx.execute("update event set number = null")
    await write(database, place, "new")
    assert await publish(database) == 1
    assert await names(database, place) == ["new"]


@pytest_asyncio.fixture
async def feed(database: Database) -> AsyncGenerator[Feed]:
    """A running feed, and a running publisher."""
    made = Feed(database)
    await made.find_place()
    loops = [
        asyncio.create_task(made.run()),
        asyncio.create_task(Publication(database).run()),
    ]
    yield made
    await jobs.end(loops)


def all_of(place: Place) -> Subscribed:
    """What an organisation is told where nothing is named."""
    return Subscribed(reach=Reach(place.organization_id))


async def test_a_subscriber_hears_at_once_and_in_order(database: Database, feed: Feed) -> None:
    place = await an_inbox(database)
    other = await an_inbox(database)
    with feed.subscribe(all_of(place)) as subscription:
        await write(database, other, "not for us")
        await write(database, place, "one", "two")
        async with asyncio.timeout(1):
            heard = [(await subscription.get()).message_id for _ in range(2)]
    assert heard == ["one", "two"]


async def test_a_subscriber_hears_what_it_named_only(database: Database, feed: Feed) -> None:
    place = await an_inbox(database)
    other = await neighbour(database, place)
    wanted = structs.replace(all_of(place), inbox_ids=frozenset({other.inbox_id}))
    with feed.subscribe(wanted) as subscription:
        await write(database, place, "of another inbox")
        await write(database, other, "of no wanted type", type=EventType.LABEL_ADDED)
        await write(database, other, "wanted")
        async with asyncio.timeout(2):
            assert (await subscription.get()).message_id == "wanted"


async def test_a_reader_who_takes_nothing_is_told_that_it_missed_some(
    database: Database, feed: Feed
) -> None:
    """Memory must not grow with a client that sleeps; and it must not think that it has seen everything."""
    place = await an_inbox(database)
    wanted = all_of(place)
    with feed.subscribe(wanted, most=3) as slow, feed.subscribe(wanted) as quick:
        await write(database, place, "one", "two", "three", "four")
        async with asyncio.timeout(2):
            assert len(await quick.take(10)) == 4
            with pytest.raises(events.Overrun):
                await slow.get()


async def test_a_stopping_process_ends_every_wait(database: Database, feed: Feed) -> None:
    place = await an_inbox(database)
    with feed.subscribe(all_of(place)) as subscription:
        waiting = asyncio.create_task(subscription.get())
        await asyncio.sleep(0)
        feed.close()
        with pytest.raises(events.Closed):
            await waiting
    with (
        feed.subscribe(all_of(place)) as late,
        pytest.raises(events.Closed),
    ):
        await late.get()


async def test_a_feed_that_slept_gives_what_was_published_meanwhile(database: Database) -> None:
    """PostgreSQL was away, or its word got lost: late is allowed, lost is not."""
    place = await an_inbox(database)
    feed = Feed(database)
    await feed.find_place()
    with feed.subscribe(all_of(place)) as subscription:
        await write(database, place, *(f"m{number}" for number in range(7)))
        await publish(database)
        assert not await feed.read_batch()
        assert len(await subscription.take(100)) == 7


async def test_a_feed_without_subscribers_moves_on(database: Database) -> None:
    """Else the first subscriber after a quiet day would be told of the whole day."""
    place = await an_inbox(database)
    feed = Feed(database)
    await feed.find_place()
    await write(database, place, "before")
    await publish(database)
    await feed.read_batch()
    with feed.subscribe(all_of(place)) as subscription:
        await write(database, place, "after")
        await publish(database)
        await feed.read_batch()
        assert [each.message_id for each in await subscription.take(10)] == ["after"]
    assert feed.subscribers == 0


class Storm:
    """Writers whose transactions stay open for any time and sometimes roll back, publishers with small
    batches, and readers that follow by position until everything is written and read.
    """

    def __init__(self, database: Database, reach: Reach) -> None:
        self.db = database
        self.wanted = Subscribed(reach=reach, types=EVERYTHING)
        self.chance = random.Random(7)
        self.written = 0
        self.writing = True

    async def write(self, place: Place) -> None:
        for _ in range(12):
            count = self.chance.randint(1, 4)
            with contextlib.suppress(KeyError):
                async with self.db.transaction() as tx:
                    await append(tx, place, *(uuid4().hex for _ in range(count)))
                    await asyncio.sleep(self.chance.choice((0, 0, 0.002, 0.02)))
                    if self.chance.random() < 0.2:
                        raise KeyError
                self.written += count

    async def publish(self) -> None:
        publication = Publication(self.db, batch=3)
        while self.writing or await is_unpublished(self.db):
            await publication.publish_batch()
            await asyncio.sleep(0)

    async def read(self, limit: int) -> list[Event]:
        seen: list[Event] = []
        while True:
            ended = not self.writing and not await is_unpublished(self.db)
            position = (seen[-1].position if seen else 0) or 0
            async with self.db.reading() as tx:
                more = await events.after(tx, self.wanted, position, limit=limit)
            seen += more
            if ended and not more:
                return seen


async def test_a_feed_goes_on_after_a_standby_took_over(database: Database) -> None:
    """It may lack what was published last, and gives the same positions to what comes then."""
    place = await an_inbox(database)
    feed = Feed(database)
    await write(database, place, "kept")
    await publish(database)
    with feed.subscribe(all_of(place)) as subscription:
        await feed.find_place()
        await write(database, place, "lost", "lost, too")
        await publish(database)
        await feed.read_batch()
        async with database.transaction() as tx:
            await tx.execute(
                "with lost as (delete from event where message_id like 'lost%%' returning position)"
                " select setval('event_position', min(position), false) from lost"
            )
        await feed.read_batch()
        await write(database, place, "new")
        await publish(database)
        await feed.read_batch()
        heard = await subscription.take(10)
    assert [event.message_id for event in heard] == ["lost", "lost, too", "new"]


@pytest.mark.parametrize("how", ["refused", "stalled", "cut"])
async def test_a_break_of_the_connection_delays_events_and_loses_none(
    database: Database, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(db, "SILENCE", 0.2)
    monkeypatch.setattr(db, "CHECK_PATIENCE", 0.2)
    place = await an_inbox(database)
    async with Proxy(port_of(database.url)) as proxy, behind(proxy, database) as feed:
        with feed.subscribe(all_of(place)) as subscription:
            await write(database, place, "before")
            async with asyncio.timeout(10):
                assert (await subscription.get()).message_id == "before"
            {"refused": proxy.refuse, "stalled": proxy.stall, "cut": proxy.cut}[how]()
            await write(database, place, "meanwhile")
            await asyncio.sleep(0.5)
            await proxy.heal()
            await write(database, place, "after")
            async with asyncio.timeout(20):
                heard = [(await subscription.get()).message_id for _ in range(2)]
    assert heard == ["meanwhile", "after"]


@contextlib.asynccontextmanager
async def behind(proxy: Proxy, database: Database) -> AsyncGenerator[Feed]:
    """A feed and a publisher that reach PostgreSQL through a proxy only."""
    reached = Database(through(database.url, proxy))
    await reached.open()
    feed = Feed(reached)
    await feed.find_place()
    loops = [asyncio.create_task(each) for each in (feed.run(), Publication(reached).run())]
    try:
        yield feed
    finally:
        await jobs.end(loops)
        await reached.close()


async def test_how_long_events_have_waited_is_known(database: Database) -> None:
    """An operator must see when nobody is told of anything any more."""
    place = await an_inbox(database)

    async def waited() -> float:
        async with database.reading() as tx:
            return await events.oldest_unpublished(tx)

    assert await waited() == 0
    await write(database, place, "one", "two")
    async with database.transaction() as tx:
        await tx.execute(
            "update event set created_at = now() - interval '1 minute' where message_id = 'one'"
        )
    assert 60 <= await waited() < 90
    await publish(database)
    assert await waited() == 0


async def test_readers_see_everything_once_while_many_write(database: Database) -> None:
    """Each reader sees every committed event exactly once, and each inbox's in the order of its numbers."""
    first = await an_inbox(database)
    places = [first, *[await neighbour(database, first) for _ in range(4)]]
    storm = Storm(database, Reach(first.organization_id))
    readers = [asyncio.create_task(storm.read(limit)) for limit in (1, 50)]
    publishers = [asyncio.create_task(storm.publish()) for _ in range(2)]
    await asyncio.gather(*(storm.write(place) for place in places for _ in range(2)))
    storm.writing = False
    await asyncio.gather(*publishers)
    for seen in await asyncio.gather(*readers):
        assert len(seen) == len({event.event_id for event in seen}) == storm.written
        for place in places:
            assert_gap_free([event for event in seen if event.inbox_id == place.inbox_id])


def assert_gap_free(log: Sequence[Event]) -> None:
    assert [event.seq for event in log] == list(range(1, len(log) + 1))


async def test_a_cursor_is_where_its_event_was(database: Database) -> None:
    place = await an_inbox(database)
    reach = Reach(place.organization_id)
    await write(database, place, "one", "two", "three")
    await publish(database)
    log = await everything(database, place)
    async with database.reading() as tx:
        assert await events.position_of(tx, reach, str(log[1].event_id)) == log[1].position
        assert await events.position_of(tx, reach, "start") == 0
        assert await events.position_of(tx, reach, "now") == log[2].position
        assert await events.newest(tx, reach) == str(log[2].event_id)


async def test_a_cursor_of_an_event_that_is_not_published_yet_skips_nothing(
    database: Database,
) -> None:
    """The list of label changes shows events a moment before they have their place."""
    place = await an_inbox(database)
    reach = Reach(place.organization_id)
    await write(database, place, "one")
    await publish(database)
    await write(database, place, "two", "three")
    async with database.reading() as tx:
        two = (await events.list_of_inbox(tx, place.organization_id, place.inbox_id))[1]
        position = await events.position_of(tx, reach, str(two.event_id))
    await publish(database)
    assert (await names(database, place, position))[-1] == "three"


@pytest.mark.parametrize("cursor", ["", "later", "0", "start ", "'"])
async def test_what_is_no_cursor_is_refused(database: Database, cursor: str) -> None:
    async with database.reading() as tx:
        with pytest.raises(Invalid):
            await events.position_of(tx, Reach(uuid4()), cursor)


async def test_events_of_others_are_no_cursors(database: Database) -> None:
    """Nor may they be told from events that never were."""
    place, stranger = await an_inbox(database), await an_inbox(database)
    beside = await neighbour(database, place)
    await write(database, place, "one")
    await publish(database)
    (one,) = await everything(database, place)
    own = Reach(place.organization_id, place.pod_id, place.inbox_id)
    for reach in (
        Reach(stranger.organization_id),
        Reach(place.organization_id, uuid4()),
        Reach(place.organization_id, place.pod_id, beside.inbox_id),
    ):
        assert await answers(database, reach, one.event_id) == await answers(
            database, reach, uuid4()
        )
    assert await position(database, own, one.event_id) == one.position


async def position(database: Database, reach: Reach, event_id: UUID) -> int:
    async with database.reading() as tx:
        return await events.position_of(tx, reach, str(event_id))


async def answers(database: Database, reach: Reach, event_id: UUID) -> tuple[str, str | None]:
    with pytest.raises(Gone) as error:
        await position(database, reach, event_id)
    return error.value.reason, error.value.oldest
