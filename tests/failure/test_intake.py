"""Intake on the sandbox: whatever bells do and whoever dies, each mail is there once, announced once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence, Sized
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from agentmail_cp import intake, jobs, messages
from agentmail_cp.intake import Intake, claims, reading
from agentmail_cp.mailserver import (
    AccountId,
    Changes,
    Cursor,
    Folder,
    MailServerError,
    MailServerUnavailable,
    Relabel,
)
from agentmail_cp.messages import Place
from agentmail_cp.sandbox import Faults
from tests.failure.world import World
from tests.fix_app import Json, until

SEEDS = pytest.mark.parametrize("seed", range(5))


def bells_only(world: World) -> Intake:
    """An intake that never sweeps inboxes made after it."""
    return Intake(world.db, world.server, sweep_interval=3600.0)


async def bell(world: World, *inboxes: Json) -> None:
    async with world.db.transaction() as tx:
        await intake.ring(tx, [await world.account(inbox) for inbox in inboxes])


async def drain(reader: Intake) -> None:
    while await reader.read_batch():
        pass


async def assert_each_once(world: World, inbox: Json, subjects: list[str]) -> None:
    """Every mail is listed once and announced once, in a log without gaps."""
    seen = await world.messages(inbox, limit=100)
    assert sorted(each["subject"] for each in seen) == sorted(subjects)
    log = await world.events_of(inbox)
    received = [event for event in log if event.type.value == "message.received"]
    assert Counter(event.message_id for event in received) == Counter(
        each["message_id"] for each in seen
    )
    assert [event.seq for event in log] == list(range(1, len(log) + 1))


@SEEDS
async def test_bells_in_any_order_and_number_announce_each_mail_once(
    world: World, seed: int
) -> None:
    """An agent would answer a mail twice, or never."""
    choose = random.Random(seed)
    reader = bells_only(world)
    boxes = [await world.inbox(f"agent{number}") for number in range(4)]
    delivered: dict[str, list[str]] = {box["email"]: [] for box in boxes}
    for number in range(40):
        box = choose.choice(boxes)
        await world.deliver_to(box["email"], number=number)
        delivered[box["email"]].append(f"Subject {number}")
        if choose.random() < 0.5:
            await bell(world, *choose.choices(boxes, k=choose.randrange(1, 6)))
        if choose.random() < 0.3:
            await asyncio.gather(*(reader.read_batch() for _ in range(choose.randrange(1, 4))))
    for _ in range(3):
        await bell(world, *boxes)
        await drain(reader)
    for box in boxes:
        await assert_each_once(world, box, delivered[box["email"]])


async def test_mail_nobody_rang_for_is_found_by_the_sweep(world: World) -> None:
    """A lost bell would be a lost mail."""
    box = await world.inbox("alice")
    reader = Intake(world.db, world.server, sweep_interval=0.2)
    await drain(reader)
    await world.deliver_to(box["email"])
    assert await reader.read_batch() == 0
    await asyncio.sleep(0.25)
    await drain(reader)
    await assert_each_once(world, box, ["Subject 0"])


@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_reader_that_dies_with_its_claim_loses_nothing(world: World, step: str) -> None:
    """The mails a dead worker had claimed would wait for ever."""
    reader = bells_only(world)
    box = await world.inbox("alice")
    await world.deliver_to(box["email"])
    await bell(world, box)
    hooks = world.sandbox.before if step == "before" else world.sandbox.after
    await world.crash(hooks, "changes", reader.read_batch())
    assert await reader.read_batch() == 0, "the claim is still the dead worker's"
    await world.let_leases_end()
    await drain(reader)
    await assert_each_once(world, box, ["Subject 0"])


async def test_a_slow_reader_announces_nothing_a_second_time(world: World) -> None:
    """Two workers that read the same mail would both announce it."""
    reader = bells_only(world)
    box = await world.inbox("alice")
    await world.deliver_to(box["email"], number=0)
    await bell(world, box)
    slow, go = await reading_stopped(world, reader)
    await world.let_leases_end()
    await world.deliver_to(box["email"], number=1)
    await bell(world, box)
    await drain(reader)
    go.set()
    await slow
    await drain(reader)
    await assert_each_once(world, box, ["Subject 0", "Subject 1"])


async def test_a_bell_that_a_slower_reader_outran_is_answered_all_the_same(world: World) -> None:
    """A mail would wait for the sweep because somebody else read up to the one before it."""
    reader = bells_only(world)
    box = await world.inbox("alice")
    await world.deliver_to(box["email"], number=0)
    await bell(world, box)
    first, first_go = await reading_stopped(world, reader)
    await world.let_leases_end()
    await world.deliver_to(box["email"], number=1)
    await bell(world, box)
    second, second_go = await reading_stopped(world, reader)
    for task, go in ((first, first_go), (second, second_go)):
        go.set()
        await task
    await drain(reader)
    await assert_each_once(world, box, ["Subject 0", "Subject 1"])


async def reading_stopped(world: World, reader: Intake) -> tuple[asyncio.Task[int], asyncio.Event]:
    """A reading that has its answer and waits for the event before it writes."""
    there, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        there.set()
        await go.wait()

    world.sandbox.after["changes"] = wait
    task = asyncio.create_task(reader.read_batch())
    await asyncio.wait_for(there.wait(), 5)
    del world.sandbox.after["changes"]
    return task, go


async def test_labels_changed_while_intake_was_reading_do_not_flap(world: World) -> None:
    """A mail marked as read would be announced as unread again, and an agent would handle it twice."""
    reader = bells_only(world)
    box = await world.inbox("alice")
    await world.deliver_to(box["email"])
    await bell(world, box)
    await drain(reader)
    (message,) = await world.messages(box)
    await world.sandbox.relabel(
        await world.account(box), [Relabel(await only(world, box), frozenset({"mark"}))]
    )
    await bell(world, box)
    slow, go = await reading_stopped(world, reader)
    answer = await world.client.patch(
        f"/v0/inboxes/{box['inbox_id']}/messages/{message['message_id']}",
        json={"remove_labels": "unread"},
    )
    assert answer.status_code == 200
    go.set()
    await slow
    await drain(reader)
    (message,) = await world.messages(box)
    assert message["labels"] == ["mark", "received"]
    changes = [(event.type.value, event.facts.get("label")) for event in await world.events_of(box)]
    assert changes.count(("label.removed", "unread")) == 1
    assert ("label.added", "unread") not in changes


async def only(world: World, box: Json) -> Any:
    (document_id,) = await world.stored(box, Folder.INBOX)
    return document_id


@SEEDS
async def test_a_forgotten_state_loses_nothing_and_announces_nothing_twice(
    world: World, seed: int
) -> None:
    """A mail server restored from a backup would flood every agent with old mail, or hide new mail."""
    choose = random.Random(seed)
    box = await world.inbox("alice")
    for number in range(20):
        await world.deliver_to(box["email"], number=number)
    await world.read()
    before = {each["subject"]: each["message_id"] for each in await world.messages(box)}
    documents = await world.stored(box, Folder.INBOX)
    gone = choose.sample(range(20), 5)
    await world.sandbox.destroy_mail(
        await world.account(box), [documents[number] for number in gone]
    )
    for number in range(20, 25):
        await world.deliver_to(box["email"], number=number)
    await world.rows("update inbox_sync set state = 'forgotten', due_at = now() returning 1")
    await world.read()

    seen = await world.messages(box, limit=100)
    left = {f"Subject {number}" for number in range(25) if number not in gone}
    assert {each["subject"] for each in seen} == left
    assert all(
        before.get(each["subject"], each["message_id"]) == each["message_id"] for each in seen
    )
    received = Counter(
        event.message_id
        for event in await world.events_of(box)
        if event.type.value == "message.received"
    )
    assert len(received) == 25
    assert set(received.values()) == {1}


@pytest.mark.parametrize("state", ["known", "forgotten"])
async def test_an_inbox_that_cannot_be_written_waits_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """One strange mail would stop the mail of everybody in its batch."""
    boxes = [await world.inbox(f"agent{number}") for number in range(6)]
    bad = boxes[2]
    record = messages.record

    async def fail(tx: Any, place: Place, **changes: Any) -> Any:
        if place.inbox_id.hex == bad["inbox_uuid"]:
            await tx.execute("select 1 / 0")
        return await record(tx, place, **changes)

    (row,) = await world.rows(
        "select inbox_id from inbox where address = %(address)s", address=bad["email"]
    )
    bad["inbox_uuid"] = row["inbox_id"].hex
    monkeypatch.setattr(messages, "record", fail)
    for number, box in enumerate(boxes):
        await world.deliver_to(box["email"], number=number)
    if state == "forgotten":
        await world.rows("update inbox_sync set state = 'forgotten' returning 1")
    reader = world.intake
    assert await reader.read_batch() == len(boxes)
    for number, box in enumerate(boxes):
        if box is not bad:
            await assert_each_once(world, box, [f"Subject {number}"])

    waits = [await wait_of(world, bad)]
    for _ in range(3):
        await world.rows("update inbox_sync set due_at = now() where failures > 0 returning 1")
        await reader.read_batch()
        waits.append(await wait_of(world, bad))
    assert [round(wait) for wait in waits] == sorted(round(wait) for wait in waits)
    assert waits[-1] > 4 * waits[0]
    await bell(world, bad)
    assert await reader.read_batch() == 0, "a bell must not shorten the wait"
    await assert_shown_in_metrics(world, reader)

    monkeypatch.setattr(messages, "record", record)
    await world.rows("update inbox_sync set due_at = now() where failures > 0 returning 1")
    await drain(reader)
    await assert_each_once(world, bad, ["Subject 2"])
    assert await world.rows("select 1 from inbox_sync where failures > 0") == []


async def wait_of(world: World, box: Json) -> float:
    (row,) = await world.rows(
        "select extract(epoch from due_at - now())::float as wait from inbox_sync"
        " join inbox using (inbox_id) where address = %(address)s and failures > 0"
        " and last_error is not null and claimed_until is null",
        address=box["email"],
    )
    return row["wait"]


async def assert_shown_in_metrics(world: World, reader: Intake) -> None:
    async def metrics() -> str:
        return (await world.client.get("/metrics")).text

    running = asyncio.create_task(reader.run())
    try:
        await until(metrics, lambda text: "agentmail_intake_failing_inboxes 1.0" in text)
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    assert 'agentmail_intake_inboxes_total{outcome="failed"}' in await metrics()


async def test_an_inbox_deleted_while_it_is_read_is_no_failure(world: World) -> None:
    """A deleted inbox would fill the log with tracebacks."""
    box = await world.inbox("alice")
    await world.deliver_to(box["email"])
    await world.rows("update inbox_sync set state = 'forgotten', due_at = now() returning 1")
    there, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        there.set()
        await go.wait()

    world.sandbox.after["listing"] = wait
    reading = asyncio.create_task(world.intake.read_batch())
    await there.wait()
    assert (await world.client.delete(f"/v0/inboxes/{box['inbox_id']}")).status_code == 204
    go.set()
    assert await reading == 1


async def test_with_the_mail_server_away_nothing_is_lost(world: World) -> None:
    """Bells rung during an outage would be forgotten, or every inbox would wait for its back-off."""
    reader = bells_only(world)
    box = await world.inbox("alice")
    await world.deliver_to(box["email"])
    await bell(world, box)
    world.sandbox.faults = Faults(down=True)
    for _ in range(3):
        with contextlib.suppress(MailServerUnavailable):
            await reader.read_batch()
    world.sandbox.faults = Faults()
    (row,) = await world.rows("select failures from inbox_sync")
    assert row["failures"] == 0
    await bell(world, box)
    await drain(reader)
    await assert_each_once(world, box, ["Subject 0"])


MANY_IDS = b" ".join(b"<%d@out.test>" % number for number in range(10_000))
HOSTILE = {
    "nothing": b"",
    "no headers": b"just text\r\n",
    "no body": b"Subject: x",
    "NULs": b"From: a\x00b <a\x00@out.test>\r\nSubject: N\x00UL\r\nMessage-ID: <n\x00@o>\r\n\r\nt\x00\r\n",
    "encoded NULs": b"From: =?utf-8?q?=00?= <a@b.test>\r\nSubject: =?utf-8?q?a=00b?=\r\n\r\n\x00\r\n",
    "bad bytes": b"From: \xff\xfe <\xff@\xfe>\r\nSubject: \xff\xc3\x28\xed\xa0\x80\r\n\r\n\xff\r\n",
    "lone surrogates": b"Subject: =?utf-16?b?2AA=?= =?utf-8?b?7aCA?=\r\n\r\n=D8=00\r\n",
    "huge id": b"Message-ID: <" + b"x" * 100_000 + b"@out.test>\r\nSubject: x\r\n\r\nx\r\n",
    "wide id": b"Message-ID: <" + "💥".encode() * 499 + b">\r\nSubject: x\r\n\r\nx\r\n",
    "a stolen id": b"Message-ID: <document-1@agents.test>\r\nSubject: x\r\n\r\nx\r\n",
    "10,000 references": b"References: " + MANY_IDS + b"\r\nSubject: x\r\n\r\nx\r\n",
    "10,000 parents": b"In-Reply-To: " + MANY_IDS + b"\r\nSubject: x\r\n\r\nx\r\n",
    "10 MB subject": b"Subject: " + b"long " * 2_000_000 + b"\r\n\r\nx\r\n",
    "10,000 recipients": b"To: " + b", ".join([b"a@out.test"] * 10_000) + b"\r\n\r\nx\r\n",
    "strange dates": b"Date: Thu, 99 Foo 99999 99:99:99 +9999\r\nSubject: x\r\n\r\nx\r\n",
    "many of one": b"From: a@b.test\r\n" * 500 + b"Subject: x\r\n" * 500 + b"\r\nx\r\n",
}
KEYWORDS = frozenset({"=00", "=0a", "=ed=a0=80", "=ff", "$x" * 200, "unread", "received", "sent"})


@pytest.mark.parametrize("kind", HOSTILE)
async def test_hostile_mail_never_blocks_an_inbox(world: World, kind: str) -> None:
    """Anybody in the world could silence an agent with one mail."""
    box = await world.inbox("alice")
    account_id: AccountId = await world.account(box)
    mailbox = world.sandbox.mailbox(account_id)
    mailbox.store(HOSTILE[kind], Folder.INBOX, KEYWORDS)
    await world.deliver_to(box["email"], number=1)
    await world.read()

    assert await world.rows("select 1 from inbox_sync where failures > 0") == []
    seen = await world.messages(box)
    assert len(seen) == 2
    assert len(await world.events_of(box)) == 2
    assert len(await world.threads(box)) in (1, 2)
    for each in seen:
        answer = await world.client.get(
            f"/v0/inboxes/{box['inbox_id']}/threads/{each['thread_id']}"
        )
        assert answer.status_code == 200


async def test_an_inbox_that_cannot_be_read_in_time_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's odd mail in one inbox would keep everybody's from being seen."""
    boxes = [await world.inbox(f"agent{number}") for number in range(5)]
    heavy = await world.account(boxes[2])
    changes = world.sandbox.changes

    async def in_time(cursors: Sequence[Cursor]) -> Mapping[AccountId, Changes | MailServerError]:
        if heavy in {each.account_id for each in cursors}:
            raise MailServerUnavailable("No answer in time.", reached=True)
        return await changes(cursors)

    monkeypatch.setattr(world.sandbox, "changes", in_time)
    reader = asyncio.create_task(bells_only(world).run())
    for number in range(2):
        for box in boxes:
            await world.deliver_to(box["email"], number=number)
        await bell(world, *boxes)
        for box in boxes[:2] + boxes[3:]:
            await until(partial(world.messages, box), partial(has_length, number + 1), seconds=10)
    monkeypatch.setattr(world.sandbox, "changes", changes)
    await until(partial(world.messages, boxes[2]), partial(has_length, 2), seconds=20)
    await jobs.end([reader])


async def test_an_inbox_that_fails_for_days_stops_no_other(world: World) -> None:
    """Its next pause would be too long for any calendar, and take everybody's reading with it."""
    boxes = [await world.inbox(f"agent{number}") for number in range(2)]
    failing = await world.account(boxes[0])
    await world.rows(
        "update inbox_sync set failures = 500 where account_id = %(id)s returning 1", id=failing
    )
    world.sandbox.faults = Faults(confused=True)
    reader = bells_only(world)
    await bell(world, *boxes)
    await drain(reader)
    row = await world.rows("select failures from inbox_sync where account_id = %(id)s", id=failing)
    assert row[0]["failures"] == 501


def has_length(length: int, found: Sized) -> bool:
    return len(found) == length


@pytest.mark.parametrize("from_scratch", [False, True], ids=["changes", "from scratch"])
async def test_workers_do_not_take_from_each_other_what_takes_long(
    world: World, monkeypatch: pytest.MonkeyPatch, from_scratch: bool
) -> None:
    """While the mail server is slow, no mail would be seen at all: each reading would be over before it is
    written, and the more workers, the surer.
    """
    for module in (reading, claims):
        monkeypatch.setattr(module, "LEASE", timedelta(seconds=0.4))
    monkeypatch.setattr(claims, "RENEWAL", 0.05)
    box = await world.inbox("alice")
    if from_scratch:
        await world.deliver_to(box["email"], number=7)
        await world.rows("update inbox_sync set state = 'forgotten' returning 1")

    async def slow() -> None:
        await asyncio.sleep(1.0)

    world.sandbox.after |= {"changes": slow, "fetch": slow}
    loops = [asyncio.create_task(bells_only(world).run()) for _ in range(3)]
    await world.deliver_to(box["email"], number=0)
    await bell(world, box)
    await until(lambda: world.messages(box), lambda seen: len(seen) == 1 + from_scratch, seconds=20)
    await jobs.end(loops)
