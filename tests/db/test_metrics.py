"""Metrics in the database: the statements count what a look at every row gives."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import product
from random import Random
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from uuid_utils.compat import uuid7

from agentmail_cp import domains, metrics
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx
from agentmail_cp.domains import NewDomain
from agentmail_cp.mailserver import Address, Folder
from agentmail_cp.metrics import EVENT_TYPES, RATE_TYPES, Span, grid
from tests.db.mailbox import a_mail, an_inbox, record

NOW = datetime(2026, 11, 21, 10, 26, 17, 500_000, UTC)
HOUR = timedelta(hours=1)
TYPES = ("message.received", "message.sent", "message.bounced", "message.complained", "label.added")

ORGANIZATION, POD, INBOX, OTHER_INBOX, OTHER_POD, OTHER = (uuid4() for _ in range(6))
OWNERS = (
    Reach(ORGANIZATION, POD, INBOX),
    Reach(ORGANIZATION, POD, OTHER_INBOX),
    Reach(ORGANIZATION, OTHER_POD, uuid4()),
    Reach(OTHER, uuid4(), uuid4()),
)
REACHES = (Reach(ORGANIZATION, POD, INBOX), Reach(ORGANIZATION, POD), Reach(ORGANIZATION))


class Row(msgspec.Struct, frozen=True):
    """An event or message: whose, of what kind, when, and of how many recipients or bytes."""

    owner: Reach
    type: str
    at: datetime
    size: int


def some_rows(seed: int) -> list[Row]:
    """Rows of the last 30 hours, some of them at the very moments where points and periods begin."""
    random = Random(seed)
    return [
        Row(
            random.choice(OWNERS),
            random.choice(TYPES),
            NOW
            - timedelta(minutes=30) * random.randrange(60) * random.choice((1, random.random())),
            random.randrange(1, 9),
        )
        for _ in range(400)
    ]


def within(row: Row, reach: Reach) -> bool:
    own = row.owner
    return (
        own.organization_id == reach.organization_id
        and reach.pod_id in (None, own.pod_id)
        and reach.inbox_id in (None, own.inbox_id)
    )


async def log(db: Database, rows: list[Row]) -> None:
    """Put these into the event log."""
    async with db.transaction() as tx, tx.cursor() as cursor:
        await cursor.executemany(
            "insert into event (event_id, organization_id, pod_id, inbox_id, seq, type, recipients,"
            " created_at) values (%(id)s, %(organization_id)s, %(pod_id)s, %(inbox_id)s, %(seq)s,"
            " %(type)s, %(size)s, %(at)s)",
            [
                {**owner_of(row), "seq": seq, "type": row.type, "size": row.size, "at": row.at}
                for seq, row in enumerate(rows)
            ],
        )


def owner_of(row: Row) -> dict[str, Any]:
    return {"id": uuid7(), **msgspec.structs.asdict(row.owner)}


@pytest.mark.parametrize("reach", REACHES, ids=["inbox", "pod", "organization"])
async def test_events_are_counted_as_they_lie(database: Database, reach: Reach) -> None:
    """A day would have more or fewer sends than it had."""
    rows = some_rows(1)
    await log(database, rows)
    for start, end in product((24, 5), (0, 3)):
        span = Span(NOW - start * HOUR, NOW - end * HOUR, current=end == 0)
        for period, descending in product((None, 60, 3600, 86_400), (False, True)):
            async with database.reading() as tx:
                found = await metrics.events(
                    tx, reach, EVENT_TYPES, span, period=period, limit=1000, descending=descending
                )
            assert found.keys() == set(EVENT_TYPES)
            for kind in EVENT_TYPES:
                mine = [row.at for row in rows if row.type == kind and within(row, reach)]
                wanted = Counter(begun(at, period) for at in mine if span.start <= at < span.end)
                shown = [(each.timestamp, each.count) for each in found[kind]]
                assert shown == sorted(wanted.items(), reverse=descending)
    assert sum(row.type == "message.sent" and within(row, reach) for row in rows) > 5


def begun(at: datetime, period: int | None) -> datetime:
    """Where the period begins in which something happened."""
    if period is None:
        return at
    return datetime.fromtimestamp(at.timestamp() // period * period, UTC)


@pytest.mark.parametrize("reach", REACHES, ids=["inbox", "pod", "organization"])
async def test_rates_are_those_of_each_window(database: Database, reach: Reach) -> None:
    """A warning about bounces would come late, or for nothing."""
    rows = some_rows(2)
    await log(database, rows)

    def total(kind: str, start: datetime, end: datetime) -> int:
        return sum(
            row.size
            for row in rows
            if row.type == kind and within(row, reach) and start <= row.at < end
        )

    for period, window in ((1800, 1800), (3600, 7200), (86_400, 86_400), (1700, 17_000)):
        points = grid(Span(NOW - 24 * HOUR, NOW, current=True), period, window)
        async with database.reading() as tx:
            found = await metrics.rates(tx, reach, RATE_TYPES, points, window=window)
        for name, kind in (("bounce", "message.bounced"), ("complaint", "message.complained")):
            assert [each.timestamp for each in found[name]] == points.points
            for each in found[name]:
                begin = each.timestamp - timedelta(seconds=window)
                sent = total("message.sent", begin, each.timestamp)
                bad = total(kind, begin, each.timestamp)
                assert (each.sent, each.rate) == (sent, bad / sent if sent else None)


async def store(db: Database, rows: list[Row]) -> None:
    """Put these into the message index, each in a thread of its own, and their inboxes and pods beside."""
    async with db.transaction() as tx, tx.cursor() as cursor:
        await cursor.executemany(
            "insert into message (inbox_id, document_id, organization_id, pod_id, thread_id,"
            ' message_id, direction, labels, mask, "timestamp", sender, "to", cc, bcc, reply_to,'
            ' "references", preview, size, has_attachment) values (%(inbox_id)s, %(seq)s,'
            " %(organization_id)s, %(pod_id)s, %(id)s, %(seq)s::text, 'received', '{}', 0, %(at)s,"
            " '', '{}', '{}', '{}', '{}', '{}', '', %(size)s, false)",
            [
                {**owner_of(row), "seq": seq, "size": row.size, "at": row.at}
                for seq, row in enumerate(rows)
            ],
        )
        await cursor.executemany(
            "insert into thread (thread_id, organization_id, pod_id, inbox_id, labels, masks, senders,"
            " recipients, message_count, size, has_attachment, last_message_id,"
            ' "timestamp", created_at) values (%(id)s, %(organization_id)s, %(pod_id)s, %(inbox_id)s,'
            " '{}', '{0}', '{}', '{}', 1, %(size)s, false, '', %(at)s, %(at)s)",
            [{**owner_of(row), "size": row.size, "at": row.at} for row in rows],
        )


@pytest.mark.parametrize("reach", REACHES, ids=["inbox", "pod", "organization"])
async def test_usage_is_what_was_there_of_what_is(database: Database, reach: Reach) -> None:
    """A customer's bill would have mail on it that came later, or is another's."""
    rows = some_rows(3)
    await store(database, rows)
    mine = [row for row in rows if within(row, reach)]
    types = ("storage_bytes", "message_count", "thread_count")
    for end, period in product((0, 5), (60, 3600, 3700, 86_400)):
        span = Span(NOW - (end + 10) * HOUR, NOW - end * HOUR, current=False)
        points = grid(span, period)
        async with database.reading() as tx:
            found = await metrics.usage(tx, reach, types, points, current=False)
        for place, point in enumerate(points.points):
            there = [row.size for row in mine if row.at < point]
            shown = [(found[each][place].timestamp, found[each][place].value) for each in types]
            assert shown == [(point, sum(there)), (point, len(there)), (point, len(there))]
    assert len(mine) > 50


async def test_the_present_has_everything_whatever_its_date(database: Database) -> None:
    """A mail client files mail under any date, and the mail server's clock may be ahead: what is there
    takes room.
    """
    owner = OWNERS[0]
    await store(
        database, [Row(owner, "", at, 7) for at in (NOW - HOUR, NOW + HOUR, NOW + 9000 * HOUR)]
    )
    points = grid(Span(NOW - 2 * HOUR, NOW, current=True), 3600)
    async with database.reading() as tx:
        found = await metrics.usage(tx, owner, ("storage_bytes",), points, current=True)
        past = await metrics.usage(tx, owner, ("storage_bytes",), points, current=False)
    assert [each.value for each in found["storage_bytes"]] == [0, 21]
    assert [each.value for each in past["storage_bytes"]] == [0, 7]


async def test_pods_and_active_inboxes_count_from_their_creation(database: Database) -> None:
    """An agent that was switched off would be charged for, one of today would have been there always."""
    place, gone = await an_inbox(database), await an_inbox(database)
    now = await time_of(database)
    async with database.transaction() as tx:
        await made_at(tx, place.inbox_id, now - timedelta(minutes=90))
        await tx.execute("update pod set created_at = %s", (now - timedelta(minutes=30),))
        await tx.execute("update inbox set state = 'deleted' where inbox_id = %s", (gone.inbox_id,))
    points = grid(Span(now - 3 * HOUR, now, current=True), 3600)
    types = ("inbox_count", "domain_count", "pod_count")
    for owner, inboxes in ((place, [0, 1, 1]), (gone, [0, 0, 0])):
        async with database.reading() as tx:
            reach = Reach(owner.organization_id)
            found = await metrics.usage(tx, reach, types, points, current=True)
        values = [[each.value for each in found[kind]] for kind in types]
        assert values == [inboxes, [0, 0, 0], [0, 0, 1]]


async def test_domains_count_from_their_creation_for_their_own_pod(database: Database) -> None:
    """A customer would be charged for the domains of another, or for what was deleted."""
    place = await an_inbox(database)
    whole, pod = Reach(place.organization_id), Reach(place.organization_id, place.pod_id)
    now = await time_of(database)
    async with database.transaction() as tx:
        await domains.create(tx, whole, NewDomain(name="all.test"), most=0)
        await domains.create(tx, pod, NewDomain(name="one.test"), most=0)
        await domains.create(tx, pod, NewDomain(name="gone.test"), most=0)
        await domains.delete(tx, pod, "gone.test")
        await tx.execute("update domain set created_at = %s", (now - timedelta(minutes=90),))
    points = grid(Span(now - 3 * HOUR, now, current=True), 3600)
    for reach, counted in ((whole, [0, 2, 2]), (pod, [0, 1, 1])):
        async with database.reading() as tx:
            found = await metrics.usage(tx, reach, ("domain_count",), points, current=True)
        assert [each.value for each in found["domain_count"]] == counted


async def made_at(tx: Tx, inbox_id: UUID, at: datetime) -> None:
    await tx.execute("update inbox set created_at = %s where inbox_id = %s", (at, inbox_id))


async def time_of(db: Database) -> datetime:
    async with db.reading() as tx:
        return await metrics.now(tx)


async def test_an_event_knows_for_how_many_it_is(database: Database) -> None:
    """Rates are counted in recipients: a mail to three must weigh three, and one told nobody one."""
    place = await an_inbox(database)
    ada, bob, carl = (Address(f"{name}@elsewhere.test") for name in ("ada", "bob", "carl"))
    sent = frozenset({Folder.SENT})
    await record(
        database,
        place,
        a_mail(1, folders=sent, to=(ada, bob), cc=(bob,), bcc=(carl,)),
        a_mail(2, folders=sent, to=()),
        a_mail(3, to=(ada, bob)),
    )
    now = await time_of(database)
    day = Span(now - HOUR, now + HOUR, current=False)
    async with database.reading() as tx:
        found = await metrics.rates(
            tx, Reach(place.organization_id), RATE_TYPES, grid(day, 7200), window=7200
        )
        heavy = await (
            await tx.execute("select seq, recipients from event order by seq")
        ).fetchall()
    assert [each["recipients"] for each in heavy] == [3, 1, 1]
    assert [each.sent for each in found["bounce"]] == [4]


async def test_only_so_many_buckets_come_back(database: Database) -> None:
    """An answer of every second of a quarter would not fit anywhere."""
    await log(database, some_rows(4))
    span = Span(NOW - 30 * HOUR, NOW, current=True)
    for descending in (False, True):
        async with database.reading() as tx:
            every, few = [
                await metrics.events(
                    tx,
                    Reach(ORGANIZATION),
                    ("message.sent", "message.received"),
                    span,
                    period=60,
                    limit=limit,
                    descending=descending,
                )
                for limit in (1000, 3)
            ]
        assert few == {name: buckets[:3] for name, buckets in every.items()}
        assert all(len(buckets) > 3 for buckets in every.values())
