"""One search from query to page: our own index first, the mail server where that leaves room on the page.

A page takes a handful of statements and one question to the mail server, and for the last rank one more
for each word. No connection is held while the mail server is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import LiteralString, Protocol, TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from agentmail_cp import highlights, pages
from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.highlights import Words
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import AccountId, DocumentId, MailServer, MailServerUnavailable
from agentmail_cp.messages import Message
from agentmail_cp.search import hits, ranking
from agentmail_cp.search.hits import Excerpts, Hits, Matched, MessageHit, ThreadHit
from agentmail_cp.search.ranking import (
    Document,
    Documents,
    Evidence,
    Narrowing,
    Position,
    Rank,
    Scope,
)
from agentmail_cp.threads import Thread

DEPTH = 1_000
"""Mails the mail server names when one inbox is searched, the newest."""

SHARED_DEPTH = 100
"""Mails the mail server names of each inbox when several are searched, the newest."""

MOST_INBOXES = 200
"""Inboxes the mail server is asked about in one search: those with the latest activity."""

MOST_PROBED = 2_000
"""Inboxes looked at to find these, the newest, besides those of as many newest threads."""

MOST_SCATTERED = 5
"""Words of a query that are also looked for one by one in bodies."""

Row = TypeVar("Row", Message, Thread)
Row_co = TypeVar("Row_co", Message, Thread, covariant=True)


class Query(msgspec.Struct, frozen=True):
    """What is looked for."""

    words: Words
    narrowing: Narrowing

    @property
    def text(self) -> str:
        return " ".join(self.words.typed)

    @property
    def scope(self) -> str:
        """What a page token is bound to, besides where is searched. No word holds a blank."""
        return f"{self.narrowing.before}/{self.narrowing.after}/{' '.join(self.words.folded)}"


def parse(q: str | None, before: datetime | None, after: datetime | None) -> Query:
    """A query from its parameters. Raises `Invalid` as `highlights.parse` does."""
    return Query(highlights.parse(q), Narrowing(before, after))


async def messages(
    db: Database,
    server: MailServer,
    *,
    inbox: Inbox,
    query: Query,
    limit: int,
    page_token: str | None,
) -> Hits[MessageHit]:
    """A page of an inbox's messages, the best first."""
    scope = Scope(inbox.organization_id, inbox.inbox_id)
    bound = f"search/messages/{inbox.inbox_id}/{query.scope}"
    start = None
    if page_token:
        key = pages.decode(bound, page_token, tuple[Rank, datetime, pages.BigInt])
        start = key[0], Position(key[1], key[2])
    search = _Search(db, server, scope, query, {inbox.inbox_id: inbox.account})
    found, more = await search.page(ranking.list_messages, start, limit)
    token = None
    if more:
        rank, last = found[-1]
        token = pages.encode(bound, (rank, last.timestamp, last.document_id))
    pieces = await search.excerpts(
        (row.inbox_id, row.document_id) for rank, row in found if rank >= Rank.BODY
    )
    shown = [hits.of_message(row, query.words, pieces) for _, row in found]
    return Hits(shown, token, search.complete)


async def threads(
    db: Database,
    server: MailServer,
    *,
    scope: Scope,
    inbox: Inbox | None = None,
    query: Query,
    limit: int,
    page_token: str | None,
) -> Hits[ThreadHit]:
    """A page of threads, the best first; `inbox` is the one the scope names, if any."""
    bound = (
        f"search/threads/{scope.inbox_id or scope.pod_id or scope.organization_id}/{query.scope}"
    )
    start = None
    if page_token:
        key = pages.decode(bound, page_token, tuple[Rank, datetime, UUID])
        start = key[0], Position(key[1], key[2])
    known = {inbox.inbox_id: inbox.account} if inbox else None
    search = _Search(db, server, scope, query, known)
    found, more = await search.page(ranking.list_threads, start, limit)
    token = None
    if more:
        rank, last = found[-1]
        token = pages.encode(bound, (rank, last.timestamp, last.thread_id))
    return Hits(await _with_parts(search, query, found), token, search.complete)


async def _with_parts(
    search: _Search, query: Query, found: Sequence[tuple[Rank, Thread]]
) -> list[ThreadHit]:
    parts = await search.parts([row.thread_id for _, row in found])
    by_body = {row.thread_id for rank, row in found if rank >= Rank.BODY}
    pieces = await search.excerpts(
        (each.inbox_id, each.document_id) for each in parts if each.thread_id in by_body
    )
    return [
        hits.of_thread(
            row, [each for each in parts if each.thread_id == row.thread_id], query.words, pieces
        )
        for _, row in found
    ]


class _Lister(Protocol[Row_co]):
    """Lists the hits of one rank: `ranking.list_messages` or `ranking.list_threads`."""

    async def __call__(
        self,
        tx: Tx,
        scope: Scope,
        narrowing: Narrowing,
        rank: Rank,
        evidence: Evidence,
        *,
        after: Position | None,
        limit: int,
    ) -> Sequence[Row_co]: ...


class _Search:
    """What is known while one page is put together. `complete` turns False when the mail server is away
    or may know of more than it told.
    """

    def __init__(
        self,
        db: Database,
        server: MailServer,
        scope: Scope,
        query: Query,
        accounts: Mapping[UUID, AccountId] | None,
    ) -> None:
        self.complete = True
        self._db = db
        self._server = server
        self._scope = scope
        self._query = query
        self._accounts = accounts
        self._depth = SHARED_DEPTH if accounts is None else DEPTH
        self._known = Evidence(words=query.words.folded)

    async def page(
        self, lister: _Lister[Row], start: tuple[Rank, Position] | None, limit: int
    ) -> tuple[list[tuple[Rank, Row]], bool]:
        """The hits from `start` on with their ranks, and whether there are more than `limit`."""
        found: list[tuple[Rank, Row]] = []
        await self._look_into_our_own()
        for rank in Rank:
            if start and rank < start[0]:
                continue
            evidence = await self._evidence(rank)
            if evidence.narrow == frozenset():
                continue
            async with self._db.reading() as tx:
                rows = await lister(
                    tx,
                    self._scope,
                    self._query.narrowing,
                    rank,
                    evidence,
                    after=start[1] if start and rank == start[0] else None,
                    limit=limit + 1 - len(found),
                )
            found += [(rank, row) for row in rows]
            if len(found) > limit:
                return found[:limit], True
        return found, False

    async def parts(self, threads: Sequence[UUID]) -> list[Matched]:
        """Where the words are in these threads."""
        if not threads:
            return []
        async with self._db.reading() as tx:
            return await hits.matched(
                tx,
                organization_id=self._scope.organization_id,
                threads=threads,
                evidence=self._known,
            )

    async def excerpts(self, wanted: Iterable[tuple[UUID, DocumentId]]) -> Excerpts:
        """Pieces of bodies around the words, of inboxes the mail server was asked about."""
        return await hits.excerpts(self._server, self._accounts or {}, wanted, self._query.text)

    async def _look_into_our_own(self) -> None:
        async with self._db.reading() as tx:
            few = await ranking.named(tx, self._scope, self._known.words)
        self._known = replace(self._known, narrow=few)

    async def _evidence(self, rank: Rank) -> Evidence:
        """What is to be known for listing a rank; `narrow` is empty where nothing can be of it."""
        match rank:
            case Rank.SUBJECT | Rank.PEOPLE:
                return self._known if self._known.narrow is not None else await self._dense(rank)
            case Rank.BODY:
                bodies = await self._asked(self._query.text)
                self._known = replace(self._known, bodies=bodies)
                return replace(self._known, narrow=bodies)
            case Rank.SCATTERED:
                return await self._scattered()

    async def _dense(self, rank: Rank) -> Evidence:
        async with self._db.reading() as tx:
            few = await ranking.named(tx, self._scope, self._known.words, rank)
        return replace(self._known, narrow=few)

    async def _scattered(self) -> Evidence:
        typed = self._query.words.typed
        if not 1 < len(typed) <= MOST_SCATTERED:
            return replace(self._known, narrow=frozenset())
        each = tuple(await asyncio.gather(*map(self._asked, typed)))
        self._known = replace(self._known, each=each)
        return replace(self._known, narrow=frozenset[Document]().union(*each))

    async def _asked(self, text: str) -> Documents:
        """The mails the mail server finds; none when it is away."""
        if not self._query.words.spoken:
            return frozenset()
        inboxes = {account: inbox_id for inbox_id, account in (await self._asking()).items()}
        if not inboxes:
            return frozenset()
        try:
            found = await self._server.search(list(inboxes), text, limit=self._depth)
        except MailServerUnavailable:
            self.complete = False
            return frozenset()
        if any(len(ids) >= self._depth for ids in found.values()):
            self.complete = False
        return frozenset(
            (inboxes[account], document_id) for account, ids in found.items() for document_id in ids
        )

    async def _asking(self) -> Mapping[UUID, AccountId]:
        """The inboxes the mail server is asked about, and their accounts."""
        if self._accounts is None:
            async with self._db.reading() as tx:
                rows = await _latest(tx, self._scope)
            self._accounts = {row.inbox_id: row.account_id for row in rows[:MOST_INBOXES]}
            if len(rows) > MOST_INBOXES or any(row.unprobed for row in rows):
                self.complete = False
        return self._accounts


class _Latest(msgspec.Struct, frozen=True):
    inbox_id: UUID
    account_id: AccountId
    unprobed: bool


async def _latest(tx: Tx, scope: Scope) -> list[_Latest]:
    """The active inboxes with the latest visible threads, at most one more than `MOST_INBOXES`.

    One look into the list of each inbox that comes into question: an organisation may have very many,
    and one of them most of the mail.
    """
    pod: LiteralString = " and pod_id = %(pod_id)s" if scope.pod_id is not None else ""
    return await fetch_all(
        tx,
        _Latest,
        "with newest as materialized (select inbox_id from inbox"
        f" where organization_id = %(organization_id)s and state = 'active'{pod}"
        " order by created_at desc, inbox_id desc limit %(probed)s + 1),"
        " busiest as materialized (select inbox_id from thread"
        f" where organization_id = %(organization_id)s{pod}"
        ' order by "timestamp" desc, thread_id desc limit %(probed)s)'
        " select inbox.inbox_id, inbox.account_id,"
        " (select count(*) from newest) > %(probed)s as unprobed"
        ' from inbox, lateral (select thread."timestamp" from thread'
        " where thread.inbox_id = inbox.inbox_id"
        " and thread.organization_id = %(organization_id)s and masks @> '{0}'::smallint[]"
        ' order by thread."timestamp" desc limit 1) as latest'
        " where inbox.organization_id = %(organization_id)s and inbox.state = 'active'"
        f"{pod} and inbox.account_id is not null"
        " and inbox_id in (select inbox_id from newest union select inbox_id from busiest)"
        ' order by latest."timestamp" desc, inbox.inbox_id limit %(inboxes)s + 1',
        {
            "organization_id": scope.organization_id,
            "pod_id": scope.pod_id,
            "probed": MOST_PROBED,
            "inboxes": MOST_INBOXES,
        },
    )
