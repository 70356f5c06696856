"""Lists and claims stay fast in a large database: no plan reads or sorts a whole table."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from types import ModuleType
from typing import Any, LiteralString
from unittest.mock import patch
from uuid import UUID

import pytest
import pytest_asyncio
from psycopg import AsyncConnection

from agentmail_cp import (
    access,
    arrivals,
    db,
    filing,
    inboxes,
    limits,
    messages,
    metrics,
    recipients,
    threads,
    webhooks,
)
from agentmail_cp.access import Reach, keys
from agentmail_cp.arrivals import Since, Wanted
from agentmail_cp.db import Database, Tx
from agentmail_cp.events import EventType, Subscribed, log, publishing, reading, retention
from agentmail_cp.filing import Place
from agentmail_cp.inboxes import inbox
from agentmail_cp.intake import Intake
from agentmail_cp.intake import reading as claiming
from agentmail_cp.mailserver import DocumentId
from agentmail_cp.messages import MessageFilter
from agentmail_cp.messages import index as writing
from agentmail_cp.messages import reading as listing
from agentmail_cp.metrics import EVENT_TYPES, RATE_TYPES, Span, counting
from agentmail_cp.outcomes import settlement, watching
from agentmail_cp.recipients import Waiting
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.search import Rank, Scope, ranking
from agentmail_cp.search.ranking import Evidence, Narrowing
from agentmail_cp.threads import ThreadFilter
from agentmail_cp.webhooks import Replay, deliveries
from agentmail_cp.webhooks.publishing import FAN_OUT
from tests.fix_pg import fresh_database

ORGANIZATION, INBOX = UUID(int=1), UUID(int=101)
BIG = {
    *("api_key", "envelope", "event", "inbox_sync", "known_recipient", "message", "send_count"),
    *("thread", "thread_reference", "recipient", "queued_mail", "delivery", "delivery_attempt"),
}
"""Not `inbox`: a claim of 50 may well read a table of a few thousand short rows once."""

FILL = """
insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, state, account_id)
select lpad(to_hex(100 + n), 32, '0')::uuid, lpad(to_hex(1 + n % 500 / 250), 32, '0')::uuid,
    lpad('2', 32, '0')::uuid, n || '@agents.test', n::text, 'agents.test', 'active', 'a' || n
from generate_series(0, 4999) as n;
insert into inbox_sync (inbox_id, organization_id, pod_id, account_id, synced_at, due_at)
select inbox_id, organization_id, pod_id, account_id, now() - random() * interval '1 min',
    case when random() < 0.02 then now() end from inbox;
insert into message (inbox_id, document_id, organization_id, pod_id, thread_id, message_id, direction,
    labels, mask, "timestamp", subject, sender, "to", cc, bcc, reply_to, "references", preview, size,
    has_attachment)
select lpad(to_hex(100 + n % 500), 32, '0')::uuid, n, lpad(to_hex(1 + n % 500 / 250), 32, '0')::uuid,
    lpad('2', 32, '0')::uuid, lpad(to_hex(n / 1000 * 1000 + n % 500), 32, '0')::uuid,
    '<' || n || '@elsewhere.test>', 'received',
    case when random() < 0.05 then '{received,unread}'::text[] else '{received}' end,
    case when random() < 0.1 then 1 else 0 end,
    now() - n * interval '1 min', 'Subject', 'ada@elsewhere.test', '{}', '{}', '{}', '{}', '{}',
    repeat('p', 100), 1000, false
from generate_series(1, 40000) as n;
insert into envelope (organization_id, inbox_id, document_id, subject, people)
select organization_id, inbox_id, document_id, 'subject', 'ada@elsewhere.test' from message;
insert into thread_reference (inbox_id, reference, organization_id, thread_id)
select inbox_id, btrim(message_id, '<>'), organization_id, thread_id from message;
insert into thread (thread_id, organization_id, pod_id, inbox_id, labels, masks, senders, recipients,
    message_count, size, has_attachment, last_message_id, "timestamp", created_at)
select thread_id, organization_id, pod_id, inbox_id,
    case when random() < 0.01 then '{received,unread}'::text[] else '{received}' end,
    array_agg(distinct mask), '{}', '{}', count(*), 1000, false, '', max("timestamp"), min("timestamp")
from message group by 1, 2, 3, 4;
insert into event (event_id, organization_id, pod_id, inbox_id, seq, type, message_id, facts,
    created_at, position)
select gen_random_uuid(), organization_id, lpad(to_hex(2 + document_id % 5), 32, '0')::uuid, inbox_id,
    document_id,
    case when random() < 0.01 then 'label.added' else (array['message.received', 'message.sent',
        'message.bounced', 'message.complained'])[1 + document_id % 4] end,
    message_id, '{"label": "x"}', now() - document_id * interval '3 min',
    row_number() over (order by document_id desc) from message;
insert into recipient (organization_id, inbox_id, message_id, address, status, due_at)
select organization_id, inbox_id, message_id, 'ada@elsewhere.test', 'queued',
    case when random() < 0.01 then now() end from message;
insert into queued_mail (queue_id, organization_id, inbox_id, message_id)
select document_id, organization_id, inbox_id, message_id from message;
insert into outcome_report (organization_id, inbox_id, queue_id, address, outcome)
select organization_id, inbox_id, document_id, 'ada@elsewhere.test', 'delivered' from message
where document_id % 100 = 0;
insert into webhook (webhook_id, organization_id, scope_id, url, event_types, secret)
select lpad(to_hex(n), 32, '0')::uuid, lpad('1', 32, '0')::uuid, lpad('1', 32, '0')::uuid,
    'https://hooks.test/', '{message.received,message.sent}', 'whsec_' from generate_series(1, 20) as n;
insert into delivery (delivery_id, organization_id, webhook_id, event_id, event_type, state, attempts)
select gen_random_uuid(), organization_id, lpad(to_hex(1 + n), 32, '0')::uuid, event_id, type,
    case when random() < 0.001 then 'failed' else 'delivered' end, 1
from event, generate_series(0, 1) as n where organization_id = lpad('1', 32, '0')::uuid;
insert into delivery_attempt (delivery_id, number, organization_id, at, duration_ms, status)
select delivery_id, 1, organization_id, now(), 5, 200 from delivery;
insert into api_key (api_key_id, organization_id, pod_id, inbox_id, name, prefix, hash, created_at)
select gen_random_uuid(), organization_id, lpad(to_hex(2 + n % 5), 32, '0')::uuid,
    case when n % 5 = 0 then inbox_id end, 'key', 'inai_', sha256(convert_to(address || n, 'UTF8')),
    now() - n * interval '1 s'
from inbox, generate_series(0, 4) as n;
"""
"""Mail of a month, and events of three, of several pods and types."""


@pytest_asyncio.fixture(scope="module")
async def large(migrated_url: str) -> AsyncGenerator[Database]:
    """A database of some size, vacuumed as an old one is.

    It is one of its own: rows other tests deleted swell tables and indexes, their open transactions
    keep `vacuum` from finding pages of which everybody sees all, and plans hang on both.
    """
    with fresh_database(migrated_url, "plans") as url:
        await db.migrate(url)
        async with await AsyncConnection.connect(url, autocommit=True) as connection:
            # `vacuum` takes no row for seen by all whose commit may not have been written yet.
            await connection.execute("set synchronous_commit = on")
            await connection.execute("select setseed(0.5)")
            for statement in FILL.split(";\n"):
                await connection.execute(statement)
            await connection.execute("vacuum (analyze)")
        database = Database(url, size=2)
        await database.open()
        yield database
        await database.close()


@pytest_asyncio.fixture
async def tx(large: Database) -> AsyncGenerator[Tx]:
    """A transaction on it; everything in it is rolled back."""
    async with (
        large.transaction(patience=60) as connection,
        connection.transaction(force_rollback=True),
    ):
        yield connection


ASKING: dict[str, tuple[ModuleType, ...]] = {
    "fetch_all": (
        writing,
        listing,
        threads,
        claiming,
        log,
        reading,
        publishing,
        recipients,
        settlement,
        watching,
        ranking,
        counting,
        keys,
        inbox,
        deliveries,
    ),
    "fetch_one": (
        reading,
        arrivals,
        deliveries,
    ),
    "fetch_only": (
        publishing,
        limits,
        arrivals,
        deliveries,
    ),
}
"""The modules whose queries are looked at, by how they ask."""


async def plans(tx: Tx, ask: Callable[[], Coroutine[Any, Any, object]]) -> list[dict[str, Any]]:
    """The nodes of the plans of every query that `ask` makes through `fetch_all`."""
    nodes: list[dict[str, Any]] = []

    async def explained(tx: Tx, _kind: object, query: str, parameters: dict[str, Any]) -> list[Any]:
        cursor = await tx.execute("explain (format json) " + query, parameters)  # pyright: ignore[reportArgumentType]
        row = await cursor.fetchone()
        assert row is not None
        answer = row["QUERY PLAN"]
        nodes.extend(flat((json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]))
        return []

    async def explained_row(
        tx: Tx, kind: type[Any], query: LiteralString, parameters: dict[str, Any]
    ) -> object:
        await explained(tx, kind, query, parameters)
        return await db.fetch_one(tx, kind, query, parameters)

    with contextlib.ExitStack() as patches:
        for name, modules in ASKING.items():
            how = explained if name == "fetch_all" else explained_row
            for each in modules:
                patches.enter_context(patch.object(each, name, how))
        await ask()
    assert nodes
    return nodes


def flat(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in flat(child))]


def assert_quick(nodes: list[dict[str, Any]]) -> None:
    read_whole = [
        node for node in nodes if node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG
    ]
    sorted_much = [
        node for node in nodes if node["Node Type"] == "Sort" and node["Plan Rows"] > 1_000
    ]
    assert (read_whole, sorted_much) == ([], []), nodes


@pytest.mark.timeout(60)
async def test_lists_and_claims_use_their_indexes(tx: Tx, large: Database) -> None:
    after = datetime.now(UTC) - timedelta(days=3)
    for where in (
        MessageFilter(),
        MessageFilter(ascending=True),
        MessageFilter(labels=("unread",)),
        MessageFilter(masks=tuple(range(16))),
        MessageFilter(after=after),
    ):
        assert_quick(await plans(tx, lambda where=where: message_page(tx, where)))
    for inbox_id in (INBOX, None):
        for thread_filter in (
            ThreadFilter(),
            ThreadFilter(labels=("unread",)),
            ThreadFilter(masks=filing.visible_masks(["spam"])),
            ThreadFilter(before=after),
        ):
            page = partial(thread_page, tx, inbox_id, thread_filter)
            assert_quick(await plans(tx, page))
    for masks in (None, (0,)):
        assert_quick(await plans(tx, partial(event_page, tx, masks)))
    assert_quick(await plans(tx, lambda: page_of_a_thread(tx)))
    reader = Intake(large, MailSandbox("agents.test"))
    claims = await plans(tx, lambda: reader._claim(tx))  # pyright: ignore[reportPrivateUsage]
    assert [node["Node Type"] for node in claims].count("ModifyTable") == 2, (
        "due ones and stale ones"
    )
    assert_quick(claims)


async def message_page(tx: Tx, where: MessageFilter) -> object:
    return await messages.list_page(
        tx,
        organization_id=ORGANIZATION,
        inbox_id=INBOX,
        where=where,
        limit=20,
        page_token=None,
    )


async def thread_page(tx: Tx, inbox_id: UUID | None, where: ThreadFilter) -> object:
    return await threads.list_page(
        tx,
        organization_id=ORGANIZATION,
        inbox_id=inbox_id,
        where=where,
        limit=20,
        page_token=None,
    )


async def event_page(tx: Tx, masks: tuple[int, ...] | None) -> object:
    return await log.list_labels(
        tx, organization_id=ORGANIZATION, inbox_id=INBOX, masks=masks, limit=20, page_token=None
    )


@pytest.mark.parametrize(
    "reach",
    [
        Reach(ORGANIZATION),
        Reach(ORGANIZATION, UUID(int=3)),
        Reach(ORGANIZATION, UUID(int=3), INBOX),
    ],
    ids=["organization", "pod", "inbox"],
)
async def test_readers_of_the_log_read_what_is_before_them(tx: Tx, reach: Reach) -> None:
    """Every reader asks again with each event, also those of one quiet inbox among thousands."""
    wanted = Subscribed(reach=reach)
    for position in (1, 39_000):
        place = reading.Place(position, "")
        for masks in (None, (0,)):
            ask = partial(reading.page, tx, wanted, place, limit=50, masks=masks)
            assert_quick(await plans(tx, ask))
    assert_quick(await plans(tx, partial(reading.newest, tx, reach)))


async def publish_a_few(tx: Tx) -> None:
    await publishing.publish(tx, await publishing.unpublished(tx, limit=500))


async def test_events_are_published_followed_and_forgotten_by_their_indexes(tx: Tx) -> None:
    """With each event that is written, whatever was written in all the time before."""
    for ask in (
        partial(publishing.unpublished, tx, limit=500),
        partial(publish_a_few, tx),
        partial(publishing.published_since, tx, 39_000, limit=500),
        partial(publishing.newest_position, tx),
        partial(publishing.oldest_unpublished, tx),
    ):
        assert_quick(await plans(tx, ask))
    parameters = {"days": 80, "batch": 1000, "expires": True}
    cursor = await tx.execute(f"explain (format json) {retention._EXPIRE}", parameters)  # pyright: ignore[reportPrivateUsage]
    row = await cursor.fetchone()
    assert row is not None
    assert_quick(flat(row["QUERY PLAN"][0]["Plan"]))


async def test_webhooks_are_told_and_looked_at_by_their_indexes(tx: Tx) -> None:
    """With each event that is published, and whenever somebody looks for what failed among millions."""
    reach = Reach(ORGANIZATION)
    webhook = await webhooks.get(tx, reach, UUID(int=1))
    sent = Subscribed(reach=reach, types=frozenset({EventType.MESSAGE_SENT}))
    newest = await reading.after(tx, sent, 39_000, limit=50)
    since = newest[0].created_at
    for ask in (
        partial(deliveries.list_page, tx, webhook, limit=50, page_token=None),
        partial(deliveries.list_page, tx, webhook, state="failed", limit=50, page_token=None),
        partial(deliveries.replay, tx, webhook, Replay(since=since), most=100),
        partial(deliveries.replay, tx, webhook, Replay(since=since, masks=(0,)), most=100),
    ):
        assert_quick(await plans(tx, ask))
    parameters = {"event_ids": [event.event_id for event in newest]}
    cursor = await tx.execute(f"explain (format json) {FAN_OUT}", parameters)
    row = await cursor.fetchone()
    assert row is not None
    assert_quick(flat(row["QUERY PLAN"][0]["Plan"]))


async def test_outcomes_are_told_and_asked_about_by_their_indexes(tx: Tx) -> None:
    """With each mail that is sent, among all that were: a worker would fall behind."""
    now, name = datetime.now(UTC), "<501@elsewhere.test>"
    waiting = Waiting(
        organization_id=ORGANIZATION,
        inbox_id=INBOX,
        pod_id=UUID(int=2),
        domain="agents.test",
        sender="1@agents.test",
        message_id=name,
        address="ada@elsewhere.test",
        due_at=now,
        gone_at=None,
        created_at=now,
    )
    whose = {"organization_id": ORGANIZATION, "inbox_id": INBOX}
    for ask in (
        partial(recipients.claim, tx, lease=timedelta(minutes=1), most=100),
        partial(recipients.of_messages, tx, **whose, message_ids=[name]),
        partial(recipients.tally, tx, **whose, lately=timedelta(days=7), since=None),
        partial(settlement._take_due, tx),  # pyright: ignore[reportPrivateUsage]
        partial(watching._recorded, tx, [waiting]),  # pyright: ignore[reportPrivateUsage]
        partial(watching._queue_ids, tx, [waiting]),  # pyright: ignore[reportPrivateUsage]
    ):
        assert_quick(await plans(tx, ask))


async def page_of_a_thread(tx: Tx) -> object:
    thread_id = UUID(int=0x1000)
    await messages.with_attachments(
        tx, organization_id=ORGANIZATION, threads=[thread_id], masks=(0,)
    )
    return await messages.page_of_thread(
        tx,
        organization_id=ORGANIZATION,
        thread_id=thread_id,
        masks=(0,),
        limit=20,
        page_token=None,
    )


async def test_telling_of_events_and_waiting_for_mail_read_what_they_name(tx: Tx) -> None:
    """A payload is made for each event and consumer, and whoever waits looks again at each mail."""
    names = {
        messages.Named(ORGANIZATION, INBOX, f"<{number}@elsewhere.test>") for number in (1, 501)
    }
    place = Place(INBOX, ORGANIZATION, UUID(int=2), "agents.test")
    wanted = Wanted(masks=(0,), sender=("ada",), subject=("nowhere",))
    for ask in (
        partial(messages.get_named, tx, names),
        partial(threads.get_each, tx, {(ORGANIZATION, UUID(int=0x1000))}),
        partial(inboxes.get_of_all, tx, {(ORGANIZATION, INBOX)}),
        partial(arrivals.since_time, tx, place, datetime.now(UTC) - timedelta(minutes=5)),
        partial(arrivals.first, tx, place, Since(39_000, None), wanted),
    ):
        assert_quick(await plans(tx, ask))


@pytest.mark.parametrize("ascending", [False, True])
async def test_keys_of_a_pod_or_inbox_are_listed_without_a_look_at_the_rest(
    tx: Tx, *, ascending: bool
) -> None:
    """An organisation may have a key for each of a hundred thousand agents."""
    pod_id = UUID(int=2)
    for reach, index in (
        (Reach(ORGANIZATION), "api_key_list"),
        (Reach(ORGANIZATION, pod_id), "api_key_pod"),
        (Reach(ORGANIZATION, pod_id, INBOX), "api_key_inbox"),
    ):
        page = partial(access.list_keys, tx, reach, limit=20, page_token=None, ascending=ascending)
        read = await plans(tx, page)
        assert_quick(read)
        assert {node["Index Name"] for node in read if "Index Name" in node} == {index}


async def test_what_is_unread_is_found_without_a_look_at_the_rest(tx: Tx) -> None:
    """Agents poll for it; most of the time there is nothing."""
    few = MessageFilter(labels=("unread",))
    read = await plans(tx, lambda: message_page(tx, few))
    read += await plans(tx, lambda: thread_page(tx, None, ThreadFilter(labels=("unread",))))
    used = {node["Index Name"] for node in read if "Index Name" in node}
    assert used >= {"message_list_new", "thread_list_all_unread"}


@pytest.mark.timeout(60)
async def test_a_search_of_one_inbox_reads_no_other(tx: Tx) -> None:
    """Looking for a word in one inbox must not cost what everybody's mail costs."""
    scope, words = Scope(ORGANIZATION, INBOX), ("subject", "nowhere")
    one = frozenset({(INBOX, DocumentId(1))})
    assert_quick(await plans(tx, lambda: ranking.named(tx, scope, words)))
    for rank in Rank:
        for narrow in (one, None):
            evidence = Evidence(words=words, bodies=one, each=(one, one), narrow=narrow)
            for lister in (ranking.list_messages, ranking.list_threads):
                ask = partial(lister, tx, scope, Narrowing(), rank, evidence, after=None, limit=20)
                assert_quick(await plans(tx, ask))


SENT = """
insert into send_count (organization_id, kind, subject_id, window_start, count, most)
select lpad('1', 32, '0')::uuid, 'thread', gen_random_uuid(),
    date_trunc('hour', now() - n % 48 * interval '1 hour', 'UTC'), 1, 60
from generate_series(1, 20000) as n;
insert into known_recipient (organization_id, inbox_id, address, send_id, counted)
select lpad('1', 32, '0')::uuid, lpad(to_hex(100 + n % 5), 32, '0')::uuid, n || '@x.test',
    gen_random_uuid(), true from generate_series(1, 20000) as n;
analyze send_count;
analyze known_recipient
"""
"""Many conversations of one organisation within two days, and inboxes that wrote to thousands."""


@pytest.mark.timeout(60)
async def test_a_send_looks_up_a_handful_of_counts(tx: Tx) -> None:
    """What is asked before each mail must not take longer the more mail there was."""
    for statement in SENT.split(";\n"):
        await tx.execute(statement)
    asked = partial(
        limits.standing,
        tx,
        organization_id=ORGANIZATION,
        inbox_id=INBOX,
        thread_id=UUID(int=7),
        recipients=[f"{n}@x.test" for n in range(50)],
    )
    assert_quick(await plans(tx, asked))
    recent = partial(
        threads.recent,
        tx,
        organization_id=ORGANIZATION,
        inbox_id=INBOX,
        references=["1@elsewhere.test", "501@elsewhere.test"],
        most=100,
    )
    assert_quick(await plans(tx, recent))


@pytest.mark.timeout(60)
async def test_metrics_read_one_index_and_no_row(tx: Tx) -> None:
    """Counting the mail of an organisation must not read it."""
    now = datetime.now(UTC)
    span = Span(now - timedelta(days=30), now, current=True)
    points = metrics.grid(span, None, 86_400)
    pod_id = UUID(int=2)
    for reach, written in (
        (Reach(ORGANIZATION, pod_id, INBOX), "event_metric"),
        (Reach(ORGANIZATION, pod_id), "event_metric_pod"),
        (Reach(ORGANIZATION), "event_metric_all"),
    ):
        counted = partial(
            metrics.events, tx, reach, EVENT_TYPES, span, period=3600, limit=9, descending=True
        )
        rated = partial(metrics.rates, tx, reach, RATE_TYPES, points, window=86_400)
        for ask in (counted, rated):
            assert indexes(await plans(tx, ask)) == {("Index Only Scan", written)}
        for kind, index in (("storage_bytes", "message_usage"), ("thread_count", "thread_usage")):
            used = partial(metrics.usage, tx, reach, [kind], points, current=True)
            assert indexes(await plans(tx, used)) == {("Index Only Scan", index)}


def indexes(nodes: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(node["Node Type"], node["Index Name"]) for node in nodes if "Index Name" in node}


def test_the_queries_go_where_their_plans_are_read() -> None:
    """A rename of what these modules call must not leave the plans unread."""
    assert writing.fetch_all is listing.fetch_all is threads.fetch_all is db.fetch_all
    assert claiming.fetch_all is db.fetch_all
    assert log.fetch_all is ranking.fetch_all is counting.fetch_all is db.fetch_all
    assert limits.fetch_only is db.fetch_only
