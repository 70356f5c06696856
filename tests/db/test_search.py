"""Search gives what reading every message would give, in the same order, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast
from unittest.mock import patch
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentmail_cp import inboxes, messages, search
from agentmail_cp.db import Database, fetch_all
from agentmail_cp.highlights import fold
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import (
    AccountId,
    Address,
    DocumentId,
    Folder,
    MailServer,
    MailServerUnavailable,
)
from agentmail_cp.messages import Message, Place
from agentmail_cp.search import Hits, MessageHit, Query, Rank, Scope, lookup, ranking
from tests.db.mailbox import START, a_mail, an_inbox, record

Hit = TypeVar("Hit")

SUBJECTS = st.sampled_from(["", "alpha", "alphabet soup", "Beta", "beta alpha", "gamma"])
PEOPLE = st.sampled_from(["alpha", "betamax", "carol"]).map(lambda n: Address(f"{n}@x.test", n))
BODIES = st.sets(st.sampled_from(["alpha", "beta", "gamma", "delta"]), max_size=3)
WORDS = st.lists(
    st.sampled_from(["alpha", "alph", "beta", "gamma", "x.test", "delta", "delt", "soup"]),
    min_size=1,
    max_size=3,
    unique=True,
)
MAILS = st.lists(
    st.fixed_dictionaries(
        {
            "subject": SUBJECTS,
            "sender": PEOPLE,
            "to": st.lists(PEOPLE, max_size=2).map(tuple),
            "received_at": st.integers(0, 3).map(lambda hour: START + timedelta(hours=hour)),
            "references": st.sampled_from([(), ("root",)]),
            "folders": st.sampled_from([Folder.INBOX, Folder.INBOX, Folder.JUNK]).map(
                lambda folder: frozenset({folder})
            ),
            "body": BODIES,
        }
    ),
    min_size=1,
    max_size=8,
)


class FullText:
    """The mail server's index: which words each mail's body has. Knows nothing of fields."""

    def __init__(self, bodies: Mapping[DocumentId, set[str]] | None = None) -> None:
        self.bodies = bodies or {}
        self.asked: list[tuple[tuple[AccountId, ...], str, int]] = []
        self.away = False

    async def search(
        self, account_ids: Sequence[AccountId], text: str, *, limit: int
    ) -> Mapping[AccountId, tuple[DocumentId, ...]]:
        self.asked.append((tuple(account_ids), text, limit))
        if self.away:
            raise MailServerUnavailable("Away.")
        words = set(text.split())
        found = sorted((each for each, body in self.bodies.items() if words <= body), reverse=True)
        return dict.fromkeys(account_ids, tuple(found[:limit]))

    async def excerpts(
        self, account_id: AccountId, document_ids: Sequence[DocumentId], text: str
    ) -> Mapping[DocumentId, str]:
        return {each: " ".join(sorted(self.bodies[each])) for each in document_ids}

    @property
    def port(self) -> MailServer:
        return cast("MailServer", self)


async def the_inbox(db: Database, place: Place) -> Inbox:
    async with db.reading() as tx:
        return await inboxes.get_for_reading(tx, place.organization_id, place.inbox_id)


async def pages_of_messages(
    db: Database, server: FullText, inbox: Inbox, query: Query, limit: int
) -> list[MessageHit]:
    """Every hit, page by page."""
    shown: list[MessageHit] = []
    token = None
    while True:
        page = await search.messages(
            db, server.port, inbox=inbox, query=query, limit=limit, page_token=token
        )
        shown += page.hits
        token = page.token
        if token is None:
            return shown
        assert len(page.hits) == limit
        assert len(shown) < 50, "the pages go round"


async def pages_of_threads(
    db: Database, server: FullText, scope: Scope, inbox: Inbox | None, query: Query, limit: int
) -> list[UUID]:
    shown: list[UUID] = []
    token = None
    while True:
        page = await search.threads(
            db, server.port, scope=scope, inbox=inbox, query=query, limit=limit, page_token=token
        )
        shown += [hit.thread.thread_id for hit in page.hits]
        token = page.token
        if token is None:
            return shown
        assert len(page.hits) == limit
        assert len(shown) < 50, "the pages go round"


def rank_of(message: Message, body: set[str], words: Sequence[str]) -> Rank | None:
    """By reading the message, as the ranks are described."""
    subject = fold(message.subject or "")
    people = fold("\n".join([message.sender, *message.to, *message.cc, *message.bcc]))
    if all(word in subject for word in words):
        return Rank.SUBJECT
    if all(word in subject or word in people for word in words):
        return Rank.PEOPLE
    if set(words) <= body:
        return Rank.BODY
    if len(words) > 1 and all(w in subject or w in people or w in body for w in words):
        return Rank.SCATTERED
    return None


def best_first(ranked: Iterable[tuple[Rank, datetime, Any]]) -> list[Any]:
    newest = sorted(ranked, key=lambda each: (each[1], each[2]), reverse=True)
    return [each[2] for each in sorted(newest, key=lambda each: each[0])]


@pytest.mark.parametrize("few", [0, 2, 2_000])
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mails=MAILS, words=WORDS, limit=st.integers(1, 3))
async def test_pages_hold_what_reading_every_message_finds(
    database: Database, few: int, mails: list[dict[str, Any]], words: list[str], limit: int
) -> None:
    """A hit that is skipped between two pages, shown twice or ranked otherwise is lost on an agent,
    whether our own index has few hits or many.
    """
    place = await an_inbox(database)
    bodies: dict[DocumentId, set[str]] = {}
    for number, fields in enumerate(mails, 1):
        bodies[DocumentId(number)] = fields["body"]
        seen = {name: value for name, value in fields.items() if name != "body"}
        await record(database, place, a_mail(number, **seen))
    inbox = await the_inbox(database, place)
    async with database.reading() as tx:
        rows = await fetch_all(
            tx,
            Message,
            f"select {messages.COLUMNS} from message where inbox_id = %(inbox_id)s and mask = 0",
            {"inbox_id": place.inbox_id},
        )
        threads = {
            row["thread_id"]: row["timestamp"]
            for row in await (
                await tx.execute('select thread_id, "timestamp" from thread')
            ).fetchall()
        }
    ranks = {row.document_id: rank_of(row, bodies[row.document_id], words) for row in rows}
    best: dict[UUID, Rank] = {}
    for row in rows:
        rank = ranks[row.document_id]
        if rank is not None:
            best[row.thread_id] = min(rank, best.get(row.thread_id, rank))
    query = search.parse(" ".join(words), None, None)
    server = FullText(bodies)
    with patch.object(ranking, "FEW", few):
        found = await pages_of_messages(database, server, inbox, query, limit)
        assert [hit.message.document_id for hit in found] == best_first(
            (rank, row.timestamp, row.document_id)
            for row in rows
            for rank in [ranks[row.document_id]]
            if rank is not None
        )
        expected = best_first((rank, threads[each], each) for each, rank in best.items())
        for scope, where in (
            (Scope(place.organization_id, place.inbox_id), inbox),
            (Scope(place.organization_id, pod_id=place.pod_id), None),
            (Scope(place.organization_id), None),
        ):
            assert await pages_of_threads(database, server, scope, where, query, limit) == expected


async def envelopes(db: Database, place: Place) -> list[tuple[int, str, str]]:
    async with db.reading() as tx:
        rows = await (
            await tx.execute(
                "select document_id, subject, people from envelope where inbox_id = %(inbox_id)s"
                " order by document_id",
                {"inbox_id": place.inbox_id},
            )
        ).fetchall()
    return [(row["document_id"], row["subject"], row["people"]) for row in rows]


async def test_the_folded_copy_comes_and_goes_with_its_message(database: Database) -> None:
    """A deleted mail's subject would stay in the database, or a new one be missed."""
    place = await an_inbox(database)
    ada = Address("Ada@X.test", "Ada Größe")
    await record(database, place, a_mail(1, subject="Éins", sender=ada, cc=(ada,)), a_mail(2))
    expected = (1, "éins", "ada grösse <ada@x.test>\nagent@agents.test\nada grösse <ada@x.test>")
    assert (await envelopes(database, place))[0] == expected
    await record(database, place, a_mail(1, subject="Éins", keywords=frozenset({"$seen"})))
    assert len(await envelopes(database, place)) == 2
    await record(database, place, destroyed=(1,))
    assert [row[0] for row in await envelopes(database, place)] == [2]
    async with database.transaction() as tx:
        await messages.erase(tx, place)
    assert await envelopes(database, place) == []


async def found(db: Database, server: FullText, inbox: Inbox, q: str) -> Hits[MessageHit]:
    return await search.messages(
        db,
        server.port,
        inbox=inbox,
        query=search.parse(q, None, None),
        limit=10,
        page_token=None,
    )


async def test_the_mail_server_is_asked_only_where_the_page_has_room(database: Database) -> None:
    """Most searches are for a name or a subject: they must not wait for anybody else."""
    place = await an_inbox(database)
    await record(database, place, *[a_mail(n, subject="Stork") for n in range(1, 12)])
    inbox = await the_inbox(database, place)
    server = FullText({DocumentId(n): {"stork"} for n in range(1, 12)})
    assert len((await found(database, server, inbox, "stork")).hits) == 10
    assert server.asked == []
    assert len((await found(database, server, inbox, "🦄")).hits) == 0
    assert server.asked == [], "no full-text index holds a unicorn"
    await found(database, server, inbox, "heron")
    assert server.asked == [((inbox.account,), "heron", lookup.DEPTH)]


async def test_more_hits_than_the_mail_server_names_are_admitted(database: Database) -> None:
    place = await an_inbox(database)
    await record(database, place, *[a_mail(n) for n in range(1, 5)])
    inbox = await the_inbox(database, place)
    server = FullText({DocumentId(n): {"stork"} for n in range(1, 5)})
    assert (await found(database, server, inbox, "stork")).complete is True
    with patch.object(lookup, "DEPTH", 4):
        page = await found(database, server, inbox, "stork")
    assert [hit.message.document_id for hit in page.hits] == [4, 3, 2, 1]
    assert page.complete is False
    server.away = True
    assert await found(database, server, inbox, "stork") == Hits([], None, complete=False)


async def test_what_the_index_does_not_hold_is_not_found(database: Database) -> None:
    """The mail server may still know a mail that was deleted, or a draft."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1))
    inbox = await the_inbox(database, place)
    server = FullText({DocumentId(1): {"stork"}, DocumentId(2): {"stork"}})
    page = await found(database, server, inbox, "stork")
    assert [hit.message.document_id for hit in page.hits] == [1]


async def test_a_large_organization_asks_about_its_liveliest_inboxes(database: Database) -> None:
    """Thousands of accounts in one question would be refused; which are left out must not be chance."""
    place = await an_inbox(database)
    others = [
        msgspec.structs.replace(place, inbox_id=(await an_inbox(database)).inbox_id)
        for _ in range(4)
    ]
    async with database.transaction() as tx:
        for table in ("inbox", "inbox_sync"):
            await tx.execute(
                f"update {table} set organization_id = %(organization_id)s, pod_id = %(pod_id)s",
                {"organization_id": place.organization_id, "pod_id": place.pod_id},
            )
    for number, each in enumerate([place, *others[:3]], 1):
        await record(database, each, a_mail(number, message_id=f"{number}@x.test"))
    scope = Scope(place.organization_id)
    query = search.parse("nothing", None, None)
    lively = [each.inbox_id.hex for each in reversed([place, *others[:3]])]
    for most, complete in ((4, True), (3, False), (1, False)):
        server = FullText()
        with patch.object(lookup, "MOST_INBOXES", most):
            page = await search.threads(
                database, server.port, scope=scope, query=query, limit=10, page_token=None
            )
        assert [tuple(map(str, asked[0])) for asked in server.asked] == [tuple(lively[:most])]
        assert page.complete is complete
    with patch.object(lookup, "MOST_PROBED", 4):
        page = await search.threads(
            database, FullText().port, scope=scope, query=query, limit=10, page_token=None
        )
    assert page.complete is False, "an inbox was not even looked at"
