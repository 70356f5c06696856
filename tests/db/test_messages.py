"""The message index: one row a mail, ids nobody can take away, pages and filters that miss nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from agentmail_cp import events, filing, labels, messages, threads
from agentmail_cp.db import Database
from agentmail_cp.errors import NotFound
from agentmail_cp.events import EventType
from agentmail_cp.mailserver import Address, DocumentId, Folder
from agentmail_cp.messages import Message, MessageFilter, Place
from agentmail_cp.threads import ThreadFilter
from tests.db.mailbox import START, a_mail, an_inbox, record

SENT = frozenset({Folder.SENT})


async def listed(
    db: Database, place: Place, *, limit: int = 100, token: str | None = None, **where: Any
) -> tuple[list[Message], str | None]:
    async with db.reading() as tx:
        return await messages.list_page(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            where=MessageFilter(**where),
            limit=limit,
            page_token=token,
        )


async def numbers(db: Database, place: Place, **where: Any) -> list[int]:
    rows, _ = await listed(db, place, **where)
    return sorted(row.document_id for row in rows)


async def ids(db: Database, place: Place) -> dict[int, str]:
    rows, _ = await listed(db, place, masks=tuple(range(16)))
    return {row.document_id: row.message_id for row in rows}


async def test_a_twin_and_a_mail_without_an_id_are_messages_of_their_own(
    database: Database,
) -> None:
    """Mail to oneself and mail through lists arrives twice under one Message-ID."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1, message_id="x@y", folders=SENT))
    await record(database, place, a_mail(2, message_id="x@y"), a_mail(3, message_id=None))
    await record(database, place, a_mail(4, message_id="x@y"), a_mail(5, message_id=None))
    assert await ids(database, place) == {
        1: "<x@y>",
        2: "<document-2@agents.test>",
        3: "<document-3@agents.test>",
        4: "<document-4@agents.test>",
        5: "<document-5@agents.test>",
    }


async def test_an_id_that_no_path_could_hold_is_shown_as_its_digest(database: Database) -> None:
    """Whoever knows the Message-ID still finds the mail, before and after an upgrade; nobody can send a mail
    that goes by another's digest.
    """
    place = await an_inbox(database)
    odd, old = "order#1@y", "order#2@y"
    await record(database, place, a_mail(1, message_id=filing.id_of(odd)[1:-1]))
    await record(database, place, *(a_mail(each, message_id=odd) for each in (2, 3)))
    await record(database, place, a_mail(4, message_id="plain@y"))
    async with database.transaction() as tx:
        await tx.execute("update message set message_id = '<order#2@y>' where document_id = 4")
    await record(database, place, a_mail(4, message_id=old), a_mail(5, message_id=old))
    assert await ids(database, place) == {
        1: "<document-1@agents.test>",
        2: filing.id_of(odd),
        3: "<document-3@agents.test>",
        4: f"<{old}>",
        5: filing.id_of(old),
    }
    for named, document_id in ((f"<{odd}>", 2), (f"<{old}>", 4), (filing.id_of(old), 5)):
        assert (await found_by(database, place, named)).document_id == document_id


async def found_by(db: Database, place: Place, *candidates: str) -> Message:
    async with db.reading() as tx:
        return await messages.get(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            candidates=candidates,
            masks=(0,),
        )


async def test_nobody_can_take_the_id_of_a_message_to_come(database: Database) -> None:
    """A mail that calls itself like a later mail's synthetic id would stop the inbox for ever."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1, message_id="document-2@agents.test"))
    await record(database, place, a_mail(2, message_id=None))
    assert await ids(database, place) == {
        1: "<document-1@agents.test>",
        2: "<document-2@agents.test>",
    }


async def test_the_copy_of_a_send_under_way_is_left_to_it_and_its_id_too(
    database: Database,
) -> None:
    """Otherwise a mail to oneself could be filed before its sent copy, under the sent mail's id."""
    place = await an_inbox(database)
    held = frozenset({"x@y"})
    copy = a_mail(1, message_id="x@y", folders=SENT)
    await record(database, place, copy, a_mail(2, message_id="x@y"), held=held)
    assert await ids(database, place) == {2: "<document-2@agents.test>"}
    await record(database, place, copy)
    assert (await ids(database, place))[1] == "<x@y>"


async def test_recording_again_changes_and_announces_nothing(database: Database) -> None:
    """Stalwart's webhook repeats itself, and intake may read the same changes twice."""
    place = await an_inbox(database)
    mails = [a_mail(1), a_mail(2, folders=SENT), a_mail(3, folders=frozenset({Folder.JUNK}))]
    await record(database, place, *mails)
    before = await listed(database, place, masks=tuple(range(16)))
    await record(database, place, *mails)
    assert await listed(database, place, masks=tuple(range(16))) == before
    assert [(each.seq, each.type) for each in await log_of(database, place)] == [
        (1, EventType.MESSAGE_RECEIVED),
        (2, EventType.MESSAGE_SENT),
        (3, EventType.MESSAGE_RECEIVED_SPAM),
    ]


async def log_of(db: Database, place: Place) -> list[events.Event]:
    async with db.reading() as tx:
        return await events.list_of_inbox(tx, place.organization_id, place.inbox_id)


async def test_drafts_are_no_messages_and_a_mail_keeps_its_direction(database: Database) -> None:
    place = await an_inbox(database)
    draft = a_mail(1, folders=frozenset({Folder.DRAFTS}))
    await record(database, place, draft, a_mail(2, folders=SENT))
    await record(database, place, a_mail(2, folders=frozenset({Folder.TRASH})))
    rows, _ = await listed(database, place, masks=(8,))
    assert [(row.document_id, row.direction, row.labels) for row in rows] == [
        (2, "sent", ["sent", "trash", "unread"])
    ]


async def test_a_sent_mail_put_among_the_drafts_is_labelled_so(database: Database) -> None:
    """Where a person filed a mail would not show, if every sent mail in Drafts counted as one on its way."""
    place = await an_inbox(database)
    own = frozenset({"$sent", "$seen"})
    await record(database, place, a_mail(1, folders=SENT, keywords=own))
    drafts = frozenset({Folder.DRAFTS})
    await record(database, place, a_mail(1, folders=drafts, keywords=own | {"$draft"}))
    assert (await listed(database, place))[0][0].labels == ["sent"]
    await record(database, place, a_mail(1, folders=drafts, keywords=own))
    assert (await listed(database, place))[0][0].labels == ["draft", "sent"]


async def test_bcc_shows_on_own_mail_only(database: Database) -> None:
    """A server that forgot to take it away would tell everybody whom the sender kept secret."""
    place = await an_inbox(database)
    secret = (Address("secret@elsewhere.test"),)
    await record(database, place, a_mail(1, bcc=secret), a_mail(2, bcc=secret, folders=SENT))
    rows, _ = await listed(database, place, ascending=True)
    assert [row.bcc for row in rows] == [[], ["secret@elsewhere.test"]]
    assert await numbers(database, place, to=("secret@",)) == [2]


async def test_a_label_without_room_is_kept_until_a_keyword_holds_it(database: Database) -> None:
    """Reading the mailbox again would take away what it never could show, or leave it for ever."""
    place = await an_inbox(database)
    todo = labels.Change(frozenset({"todo"}), frozenset())
    await record(database, place, a_mail(1))

    async def relabel(change: labels.Change, **kept: str) -> None:
        async with database.transaction() as tx:
            await messages.lock(tx, place.organization_id, place.inbox_id)
            keeping = {DocumentId(1): frozenset(kept.values())} if kept else {}
            await messages.relabel(tx, place, [DocumentId(1)], change, keeping)

    async def labelled() -> list[str]:
        rows, _ = await listed(database, place)
        return rows[0].labels

    await relabel(todo, label="todo")
    await record(database, place, a_mail(1, keywords=frozenset({"other"})))
    assert await labelled() == ["other", "received", "todo", "unread"]
    await record(database, place, a_mail(1, keywords=frozenset({"todo"})))
    await record(database, place, a_mail(1))
    assert await labelled() == ["received", "unread"]
    await relabel(todo, label="todo")
    await relabel(labels.Change(frozenset(), frozenset({"todo"})))
    await record(database, place, a_mail(1))
    assert await labelled() == ["received", "unread"]


async def test_hostile_mail_is_cut_and_cleaned_not_refused(database: Database) -> None:
    """One such mail must never keep the rest of its inbox from being read."""
    place = await an_inbox(database)
    nasty = "a\x00b\ud800c"
    await record(
        database,
        place,
        a_mail(
            1,
            message_id="x" * 600,
            subject=nasty + "s" * 5000,
            sender=Address(nasty + "@elsewhere.test", "n" * 5000),
            to=tuple(Address(f"{n}@elsewhere.test", nasty) for n in range(5000)),
            preview=nasty + "p" * 500,
            references=(nasty, "\x00", *(f"r{n}@elsewhere.test" for n in range(5000))),
            in_reply_to=tuple(f"i{n}@elsewhere.test" for n in range(5000)),
        ),
        a_mail(2, message_id=nasty),
        a_mail(3, message_id="\ud800"),
    )
    rows, _ = await listed(database, place, ascending=True)
    first = rows[0]
    assert [row.message_id for row in rows] == [
        f"<document-{number}@agents.test>" for number in (1, 2, 3)
    ]
    assert first.subject is not None
    assert (len(first.subject), len(first.preview)) == (2000, 200)
    assert len(first.to) == 1000
    assert len(first.references) == 100
    assert "\x00" not in first.subject + first.sender + first.preview
    async with database.reading() as tx:
        row = await (
            await tx.execute(
                "select count(*) from thread_reference where organization_id = %s",
                (place.organization_id,),
            )
        ).fetchone()
    assert row is not None
    assert row["count"] <= 250


async def test_a_very_long_id_of_any_script_fits_the_indexes(database: Database) -> None:
    """PostgreSQL refuses index entries over 2,704 bytes."""
    place = await an_inbox(database)
    long = "\U0001f4e8" * filing.LONGEST_ID
    await record(database, place, a_mail(1, message_id=long))
    assert await ids(database, place) == {1: f"<{long}>"}


@pytest.mark.parametrize("ascending", [True, False])
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_with_equal_times_miss_and_repeat_nothing(
    database: Database, *, limit: int, ascending: bool
) -> None:
    place = await an_inbox(database)
    times = [START, START, START, START + timedelta(microseconds=1), START - timedelta(days=1)] * 2
    mails = [a_mail(number, received_at=at) for number, at in enumerate(times, 1)]
    await record(database, place, *mails)
    seen: list[int] = []
    token: str | None = None
    while True:
        rows, token = await listed(database, place, limit=limit, token=token, ascending=ascending)
        seen += [row.document_id for row in rows]
        if token is None:
            break
    mails.sort(key=lambda mail: (mail.received_at, mail.document_id), reverse=not ascending)
    assert seen == [mail.document_id for mail in mails]


async def test_pages_stay_right_while_mail_comes_and_goes(database: Database) -> None:
    place = await an_inbox(database)
    await record(database, place, *[a_mail(number) for number in range(1, 7)])
    first, token = await listed(database, place, limit=3)
    await record(database, place, a_mail(7), destroyed=(4, 2))
    rest, end = await listed(database, place, limit=3, token=token)
    assert [row.document_id for row in [*first, *rest]] == [6, 5, 4, 3, 1]
    assert end is None


@pytest.mark.parametrize("text", ["%", "_", "\\", "50% off_now", "A\\%", "ä", "'", "{}"])
async def test_filters_take_every_character_literally(database: Database, text: str) -> None:
    """Somebody looking for "100%" must not be shown everything that holds "100"."""
    place = await an_inbox(database)
    named = Address("ada@elsewhere.test", f"Ada {text}")
    await record(
        database,
        place,
        a_mail(1, subject=f"is {text} there", sender=named, to=(named,)),
        a_mail(2, subject="50 percent offXnow", sender=Address("bob@elsewhere.test", "Bob")),
    )
    assert await numbers(database, place, subject=(text,)) == [1]
    assert await numbers(database, place, subject=("is", text)) == [1]
    assert await thread_subjects(database, place, text) == [f"is {text} there"]


async def thread_subjects(db: Database, place: Place, text: str) -> list[str | None]:
    async with db.reading() as tx:
        rows, _ = await threads.list_page(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            where=ThreadFilter(subject=(text,)),
            limit=10,
            page_token=None,
        )
    return [row.subject for row in rows]


async def test_every_filter_narrows(database: Database) -> None:
    place = await an_inbox(database)
    bob = Address("bob@elsewhere.test", "Bob")
    await record(
        database,
        place,
        a_mail(1, keywords=frozenset({"$seen"}), sender=bob),
        a_mail(2, keywords=frozenset({"work"}), cc=(bob,)),
        a_mail(3, folders=frozenset({Folder.JUNK})),
        a_mail(4, folders=frozenset({Folder.JUNK}), keywords=frozenset({"$blocked"})),
    )
    assert await numbers(database, place) == [1, 2]
    assert await numbers(database, place, labels=("unread",)) == [2]
    assert await numbers(database, place, labels=("unread", "work")) == [2]
    assert await numbers(database, place, labels=("none",)) == []
    assert await numbers(database, place, sender=("BOB@",)) == [1]
    assert await numbers(database, place, to=("bob@",)) == [2]
    assert await numbers(database, place, before=START + timedelta(minutes=2)) == [1]
    assert await numbers(database, place, after=START + timedelta(minutes=1)) == [2]
    assert await numbers(database, place, masks=filing.visible_masks(["spam"])) == [1, 2, 3]
    assert await numbers(database, place, masks=filing.visible_masks(["spam", "blocked"])) == [
        1,
        2,
        3,
        4,
    ]


async def test_a_message_is_invisible_to_another_organization(database: Database) -> None:
    place, other = await an_inbox(database), await an_inbox(database)
    await record(database, place, a_mail(1, message_id="x@y"))
    async with database.reading() as tx:
        for organization_id, inbox_id in (
            (other.organization_id, place.inbox_id),
            (place.organization_id, other.inbox_id),
        ):
            with pytest.raises(NotFound):
                await find(tx, organization_id, inbox_id)
        assert (await find(tx, place.organization_id, place.inbox_id)).document_id == 1


async def find(tx: Any, organization_id: UUID, inbox_id: UUID) -> Message:
    return await messages.get(
        tx,
        organization_id=organization_id,
        inbox_id=inbox_id,
        candidates=["<nobody@y>", "<x@y>"],
        masks=(0,),
    )


async def test_the_first_spelling_of_an_id_that_is_known_wins(database: Database) -> None:
    """Callers encode ids twice or not at all; the spelling they wrote comes before a guess."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1, message_id="a%41@y"), a_mail(2, message_id="aA@y"))
    assert (await found_by(database, place, "<a%41@y>", "<aA@y>")).document_id == 1
