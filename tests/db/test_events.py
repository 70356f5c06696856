"""The event log: no gap, no double, in the order things happened, also with many writers."""

from __future__ import annotations

import asyncio

import pytest

from agentmail_cp import events
from agentmail_cp.db import Database
from agentmail_cp.events import Event, EventType, NewEvent
from agentmail_cp.mailserver import Folder
from agentmail_cp.messages import Place
from tests.db.mailbox import a_mail, an_inbox, record


async def log_of(db: Database, place: Place) -> list[Event]:
    async with db.reading() as tx:
        return await events.list_of_inbox(tx, place.organization_id, place.inbox_id)


async def test_many_writers_leave_no_gap(database: Database) -> None:
    """A consumer that has seen number n must be sure to have seen everything before it."""
    one, two = await an_inbox(database), await an_inbox(database)
    await asyncio.gather(
        *(
            record(database, place, a_mail(number), a_mail(1000 + number))
            for number in range(1, 21)
            for place in (one, two)
        )
    )
    for place in (one, two):
        log = await log_of(database, place)
        assert [event.seq for event in log] == list(range(1, 41))
        assert len({event.message_id for event in log}) == 40


async def test_many_readers_of_the_same_mail_announce_it_once(database: Database) -> None:
    """Two workers may read one inbox at the same time, after a claim has run out."""
    place = await an_inbox(database)
    mails = [a_mail(number) for number in range(1, 6)]
    await asyncio.gather(*(record(database, place, *mails) for _ in range(8)))
    log = await log_of(database, place)
    assert [(each.seq, each.type, each.message_id) for each in log] == [
        (number, EventType.MESSAGE_RECEIVED, f"<m{number}@elsewhere.test>")
        for number in range(1, 6)
    ]


async def test_what_was_rolled_back_leaves_no_gap(database: Database) -> None:
    place = await an_inbox(database)
    await record(database, place, a_mail(1))
    with pytest.raises(KeyError):
        await crash_while_writing(database, place)
    await record(database, place, a_mail(2))
    assert [event.seq for event in await log_of(database, place)] == [1, 2]


async def crash_while_writing(db: Database, place: Place) -> None:
    event = NewEvent(
        type=EventType.MESSAGE_SENT, thread_id=place.inbox_id, message_id="<x@y>", document_id=9
    )
    async with db.transaction() as tx:
        await events.append(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            events=[event],
        )
        raise KeyError


async def test_label_changes_are_announced_one_by_one(database: Database) -> None:
    place = await an_inbox(database)
    await record(database, place, a_mail(1, keywords=frozenset({"work"})))
    await record(
        database,
        place,
        a_mail(1, keywords=frozenset({"$seen", "later"}), folders=frozenset({Folder.TRASH})),
    )
    first, *changes = await log_of(database, place)
    assert first.facts == {}
    assert [(each.type, each.facts) for each in changes] == [
        (EventType.LABEL_ADDED, {"label": "later"}),
        (EventType.LABEL_ADDED, {"label": "trash"}),
        (EventType.LABEL_REMOVED, {"label": "unread"}),
        (EventType.LABEL_REMOVED, {"label": "work"}),
    ]
    assert {(each.message_id, each.thread_id) for each in changes} == {
        (first.message_id, first.thread_id)
    }


async def test_a_label_event_names_the_thread_its_message_is_in(database: Database) -> None:
    """Also when the same reading joins that thread to an older one."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1, message_id="a"), a_mail(2, message_id="b"))
    await record(
        database,
        place,
        a_mail(2, message_id="b", keywords=frozenset({"$seen"})),
        a_mail(3, message_id="c", references=("a", "b")),
    )
    log = await log_of(database, place)
    named: dict[int | None, object] = {each.seq: each.thread_id for each in log}
    order = [each.type for each in log[2:]]
    assert order == [EventType.LABEL_REMOVED, EventType.MESSAGE_RECEIVED]
    assert named[3] == named[2], "the label changed before the threads were joined"
    assert named[4] == named[1]
