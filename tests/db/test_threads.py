"""Thread rows say what a computation from scratch over their messages says, whatever happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmail_cp import addresses, filing, labels, messages, threads
from agentmail_cp.db import Database
from agentmail_cp.errors import NotFound
from agentmail_cp.mailserver import Address, DocumentId, Folder, Mail
from agentmail_cp.messages import Place
from agentmail_cp.threads import ThreadFilter, named_after
from tests.db.mailbox import START, a_mail, an_inbox, record

FOLDERS = st.sampled_from([Folder.INBOX, Folder.SENT, Folder.JUNK, Folder.TRASH])
KEYWORDS = st.frozensets(st.sampled_from(["$seen", "work", "$blocked", "$flagged"]))
IDS = st.lists(st.sampled_from("abcdef"), max_size=3).map(tuple)
PEOPLE = st.lists(
    st.sampled_from(["ada", "bob", "eve"]).map(
        lambda name: Address(f"{name}@elsewhere.test", name)
    ),
    max_size=3,
).map(tuple)


class Arrive(msgspec.Struct, frozen=True):
    """A batch of new mails; `fields` are those of `Mail` that vary."""

    mails: list[dict[str, Any]]


class Relabel(msgspec.Struct, frozen=True):
    """Somebody moved or marked the mail at this place in the order of arrival."""

    nth: int
    folders: frozenset[Folder]
    keywords: frozenset[str]


class Label(msgspec.Struct, frozen=True):
    """A caller changed the labels of the mail at this place in the order of arrival."""

    nth: int
    change: labels.Change


class Remove(msgspec.Struct, frozen=True):
    """Somebody erased mails, by place in the order of arrival."""

    nths: set[int]


ARRIVE = st.builds(
    Arrive,
    st.lists(
        st.fixed_dictionaries(
            {
                "folders": st.frozensets(FOLDERS, min_size=1, max_size=1),
                "keywords": KEYWORDS,
                "received_at": st.integers(0, 4).map(lambda hour: START + timedelta(hours=hour)),
                "message_id": st.sampled_from([None, *"abcdef"]),
                "in_reply_to": IDS,
                "references": IDS,
                "subject": st.sampled_from([None, "", "Offer", "Re: Offer"]),
                "sender": st.none() | PEOPLE.filter(bool).map(lambda several: several[0]),
                "to": PEOPLE,
                "cc": PEOPLE,
                "bcc": PEOPLE,
                "has_attachment": st.booleans(),
            }
        ),
        min_size=1,
        max_size=4,
    ),
)
RELABEL = st.builds(
    Relabel, st.integers(0, 9), st.frozensets(FOLDERS, min_size=1, max_size=1), KEYWORDS
)
CHANGEABLE = st.frozensets(st.sampled_from(["unread", "trash", "work", "flagged", "later"]))
LABEL = st.builds(
    Label,
    st.integers(0, 9),
    st.tuples(CHANGEABLE, CHANGEABLE).map(lambda both: labels.Change(both[0] - both[1], both[1])),
)
REMOVE = st.builds(Remove, st.sets(st.integers(0, 9), min_size=1, max_size=4))
Step = Arrive | Relabel | Label | Remove
HISTORY: st.SearchStrategy[list[Step]] = st.lists(ARRIVE | RELABEL | LABEL | REMOVE, max_size=10)


class Expected:
    """The same inbox, computed from scratch: which thread each mail is in, and what it is labelled."""

    def __init__(self, inbox_id: UUID) -> None:
        self.inbox_id = inbox_id
        self.mails: dict[int, Mail] = {}
        self.direction: dict[int, labels.Direction] = {}
        self.threads: dict[UUID, tuple[set[int], set[str]]] = {}
        self.survivors: dict[UUID, UUID] = {}

    def arrive(self, mail: Mail) -> None:
        ids = linking_ids(mail)
        touched = [at for at, (_, known) in self.threads.items() if known & set(ids)]
        name = named_after(self.inbox_id, ids[0])
        survivor = min(touched, key=lambda at: (self.began(at), at), default=name)
        for at in touched:
            if at != survivor:
                self._join(at, survivor)
        numbers, known = self.threads.setdefault(survivor, (set(), set()))
        numbers.add(mail.document_id)
        known.update(ids)
        self.mails[mail.document_id] = mail
        self.direction[mail.document_id] = "sent" if Folder.SENT in mail.folders else "received"

    def _join(self, old: UUID, new: UUID) -> None:
        numbers, known = self.threads.pop(old)
        self.threads[new][0].update(numbers)
        self.threads[new][1].update(known)
        self.survivors = {name: new if at == old else at for name, at in self.survivors.items()} | {
            old: new
        }

    def began(self, thread_id: UUID) -> datetime:
        return min(self.mails[number].received_at for number in self.threads[thread_id][0])

    def remove(self, number: int) -> None:
        del self.mails[number]
        for at, (numbers, _) in list(self.threads.items()):
            numbers.discard(number)
            if not numbers:
                del self.threads[at]
                self.survivors = {old: new for old, new in self.survivors.items() if new != at}

    def label(self, number: int, change: labels.Change) -> None:
        """What the mail server does to the mail, in the words of IMAP."""
        mail = self.mails[number]
        wanted = labels.relabel(DocumentId(number), change, sorted(self.shown(number)))
        if wanted is not None:
            folders = {wanted.move_to} if wanted.move_to else mail.folders
            self.mails[number] = msgspec.structs.replace(
                mail,
                keywords=(mail.keywords | wanted.add) - wanted.remove,
                folders=frozenset(folders),
            )

    def shown(self, number: int) -> set[str]:
        mail = self.mails[number]
        return set(
            labels.labels_of(
                direction=self.direction[number], folders=mail.folders, keywords=mail.keywords
            )
        )

    def rows(self) -> dict[UUID, dict[str, Any]]:
        return {at: self._row(numbers) for at, (numbers, _) in self.threads.items()}

    def _row(self, numbers: set[int]) -> dict[str, Any]:
        mails = sorted(
            (self.mails[number] for number in numbers),
            key=lambda mail: (mail.received_at, mail.document_id),
        )
        times = {way: self._latest(mails, way) for way in ("received", "sent")}
        return {
            "subject": mails[0].subject,
            "preview": mails[-1].preview,
            "last": mails[-1].document_id,
            "labels": sorted(set[str]().union(*(self.shown(number) for number in numbers))),
            "masks": sorted({filing.mask_of(self.shown(number)) for number in numbers}),
            "senders": first_come([mail.sender] if mail.sender else [] for mail in mails),
            "recipients": first_come(
                [*mail.to, *mail.cc, *(mail.bcc if self.sent(mail) else ())] for mail in mails
            ),
            "message_count": len(mails),
            "size": sum(mail.size for mail in mails),
            "has_attachment": any(mail.has_attachment for mail in mails),
            "timestamp": mails[-1].received_at,
            "received_timestamp": times["received"],
            "sent_timestamp": times["sent"],
            "created_at": mails[0].received_at,
        }

    def sent(self, mail: Mail) -> bool:
        return self.direction[mail.document_id] == "sent"

    def _latest(self, mails: Sequence[Mail], way: str) -> datetime | None:
        return max(
            (mail.received_at for mail in mails if self.direction[mail.document_id] == way),
            default=None,
        )


def linking_ids(mail: Mail) -> list[str]:
    """All ids of a mail, its oldest ancestor's first (RFC 5322, 3.6.4); answers to a mail without an id
    mention the one made for it.
    """
    own = mail.message_id or f"document-{mail.document_id}@agents.test"
    return list(dict.fromkeys([*mail.references, *mail.in_reply_to, own]))


def first_come(several: Iterable[Sequence[Address]]) -> list[str]:
    """Addresses in the order in which they first took part."""
    return list(dict.fromkeys(addresses.display(person) for people in several for person in people))


async def actual(db: Database, place: Place) -> dict[UUID, dict[str, Any]]:
    """The thread rows of an inbox, with the document id of the last message for its id."""
    async with db.reading() as tx:
        rows = await (
            await tx.execute(
                "select thread.*, message.document_id as last from thread join message"
                " on message.inbox_id = thread.inbox_id and message_id = last_message_id"
                " where thread.inbox_id = %s and thread.organization_id = %s",
                (place.inbox_id, place.organization_id),
            )
        ).fetchall()
    return {row["thread_id"]: row | {"masks": sorted(row["masks"])} for row in rows}


async def play(db: Database, place: Place, history: list[Step]) -> Expected:
    expected = Expected(place.inbox_id)
    arrived = 0
    for step in history:
        there = sorted(expected.mails)
        match step:
            case Arrive(mails):
                batch = [a_mail(arrived + n, **fields) for n, fields in enumerate(mails, 1)]
                arrived += len(batch)
                await record(db, place, *batch)
                for mail in batch:
                    expected.arrive(mail)
            case Relabel(nth, folders, keywords) if nth < len(there):
                old = expected.mails[there[nth]]
                new = msgspec.structs.replace(old, folders=folders, keywords=keywords)
                expected.mails[there[nth]] = new
                await record(db, place, new)
            case Label(nth, change) if nth < len(there):
                await label(db, place, there[nth], change)
                expected.label(there[nth], change)
            case Remove(nths):
                gone = tuple(there[nth] for nth in nths if nth < len(there))
                await record(db, place, destroyed=gone)
                for number in gone:
                    expected.remove(number)
            case _:
                continue
    return expected


async def label(db: Database, place: Place, number: int, change: labels.Change) -> None:
    """What is done once the mail server changed a mail's labels."""
    async with db.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        await messages.relabel(tx, place, [DocumentId(number)], change)


@pytest.mark.timeout(60)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=HISTORY)
async def test_rows_equal_a_computation_from_scratch(
    database: Database, history: list[Step]
) -> None:
    place = await an_inbox(database)
    expected = await play(database, place, history)
    rows, wanted = await actual(database, place), expected.rows()
    assert {
        at: {name: row[name] for name in wanted.get(at, row)} for at, row in rows.items()
    } == wanted
    assert await remembered(database, place) == {
        reference: at for at, (_, ids) in expected.threads.items() for reference in ids
    }
    async with database.reading() as tx:
        for old, survivor in expected.survivors.items():
            found = await threads.get(
                tx, organization_id=place.organization_id, thread_id=old, inbox_id=place.inbox_id
            )
            assert found.thread_id == survivor


async def remembered(db: Database, place: Place) -> dict[str, UUID]:
    async with db.reading() as tx:
        rows = await (
            await tx.execute(
                "select reference, thread_id from thread_reference"
                " where inbox_id = %s and organization_id = %s",
                (place.inbox_id, place.organization_id),
            )
        ).fetchall()
    return {row["reference"]: row["thread_id"] for row in rows}


async def test_an_emptied_thread_leaves_nothing(database: Database) -> None:
    """Rows nobody can reach would stay for ever, and give a later mail a thread that is gone."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1, message_id="a"), a_mail(2, message_id="b"))
    await record(database, place, a_mail(3, message_id="c", references=("a", "b")))
    await record(database, place, destroyed=(1, 2, 3))
    async with database.reading() as tx:
        for table in ("thread", "thread_reference", "thread_alias"):
            assert await (await tx.execute(f"select * from {table}")).fetchall() == []


async def test_a_joined_threads_id_keeps_answering_through_a_chain_of_joins(
    database: Database,
) -> None:
    place = await an_inbox(database)
    for number, own in enumerate("abc", 1):
        await record(database, place, a_mail(number, message_id=own))
    await record(database, place, a_mail(4, message_id="d", references=("b", "c")))
    await record(database, place, a_mail(5, message_id="e", references=("a", "b")))
    async with database.reading() as tx:
        for own in "abc":
            thread_id = named_after(place.inbox_id, own)
            found = await threads.get(
                tx, organization_id=place.organization_id, thread_id=thread_id
            )
            assert (found.thread_id, found.message_count) == (named_after(place.inbox_id, "a"), 5)


async def test_a_thread_is_invisible_to_another_organization(database: Database) -> None:
    place, other = await an_inbox(database), await an_inbox(database)
    await record(database, place, a_mail(1, message_id="a"))
    async with database.reading() as tx:
        with pytest.raises(NotFound):
            await threads.get(
                tx,
                organization_id=other.organization_id,
                thread_id=named_after(place.inbox_id, "a"),
            )
        rows, token = await threads.list_page(
            tx,
            organization_id=other.organization_id,
            inbox_id=None,
            where=ThreadFilter(),
            limit=10,
            page_token=None,
        )
    assert (rows, token) == ([], None)


@pytest.mark.parametrize("ascending", [True, False])
async def test_pages_of_threads_with_equal_times_miss_and_repeat_nothing(
    database: Database, *, ascending: bool
) -> None:
    place = await an_inbox(database)
    await record(database, place, *[a_mail(number, received_at=START) for number in range(1, 8)])
    seen: list[UUID] = []
    token: str | None = None
    async with database.reading() as tx:
        while True:
            rows, token = await threads.list_page(
                tx,
                organization_id=place.organization_id,
                inbox_id=place.inbox_id,
                where=ThreadFilter(ascending=ascending),
                limit=2,
                page_token=token,
            )
            seen += [row.thread_id for row in rows]
            if token is None:
                break
    assert seen == sorted(seen, reverse=not ascending)
    assert len(set(seen)) == 7


async def test_a_thread_shows_while_one_of_its_messages_does(database: Database) -> None:
    """A spam answer must not hide a conversation, nor one good mail show the spam asked to be hidden."""
    place = await an_inbox(database)
    junk = frozenset({Folder.JUNK})
    await record(
        database,
        place,
        a_mail(1, message_id="a"),
        a_mail(2, message_id="b", references=("a",), folders=junk),
        a_mail(3, message_id="c", folders=junk),
    )
    assert await listed(database, place, ()) == {named_after(place.inbox_id, "a")}
    assert await listed(database, place, ("spam",)) == {
        named_after(place.inbox_id, "a"),
        named_after(place.inbox_id, "c"),
    }


async def listed(db: Database, place: Place, included: tuple[str, ...]) -> set[UUID]:
    async with db.reading() as tx:
        rows, _ = await threads.list_page(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            where=ThreadFilter(masks=filing.visible_masks(included)),
            limit=10,
            page_token=None,
        )
    return {row.thread_id for row in rows}
