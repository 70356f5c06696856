"""How good a hit is, as SQL: the conditions of each rank, and the lists of one rank, newest first.

Only reads. A rank's condition is about one message `m` and its envelope `e`; a message is of the first rank
whose condition holds, a thread of the best rank of its visible messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum
from typing import LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import messages, threads
from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.mailserver import DocumentId
from agentmail_cp.messages import Message
from agentmail_cp.threads import Thread, pattern

FEW = 2_000
"""Hits of our own index that are named one by one. Where there are more, they are so dense that walking
down the list from its newest end soon fills a page.
"""

Parameters = dict[str, object]
Document = tuple[UUID, DocumentId]
"""A message by inbox and document id."""
Documents = frozenset[Document]

_NUMBERS: tuple[LiteralString, ...] = (
    *("0", "1", "2", "3", "4", "5", "6", "7"),
    *("8", "9", "10", "11", "12", "13", "14", "15"),
)
"""One for each word a query may have: SQL is put together from literals only."""


class Rank(IntEnum):
    """How good a hit is, the best first."""

    SUBJECT = 1
    """Every word is in the subject."""
    PEOPLE = 2
    """Every word is in the subject, an address or a name."""
    BODY = 3
    """The mail server found every word in the mail."""
    SCATTERED = 4
    """Some words are in subject or addresses only as part of others, and the rest in the body."""


class Scope(msgspec.Struct, frozen=True):
    """Where to look: one inbox, one pod, or the whole organisation."""

    organization_id: UUID
    inbox_id: UUID | None = None
    pod_id: UUID | None = None


class Narrowing(msgspec.Struct, frozen=True):
    """What a list is narrowed to beside its words. Of threads, the times are those of the thread."""

    before: datetime | None = None
    after: datetime | None = None


class Position(msgspec.Struct, frozen=True):
    """Where a list of one rank goes on: after the hit of this time and id."""

    timestamp: datetime
    id: int | UUID


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a query. `words` are folded. `bodies` are the messages the mail server found all
    words in, `each` those it found for every single word. Nothing but `narrow` can be of the rank in
    question; None: that is too many to name.
    """

    words: tuple[str, ...]
    bodies: Documents = frozenset()
    each: tuple[Documents, ...] = ()
    narrow: Documents | None = None


async def named(
    tx: Tx, scope: Scope, words: Sequence[str], rank: Rank | None = None
) -> Documents | None:
    """The messages of a rank that our own index decides, without a rank of both; hidden ones and those
    of deleted inboxes too. None when they are more than `FEW`.
    """
    query: LiteralString = (
        "select inbox_id, document_id from envelope as e"
        " where organization_id = %(organization_id)s and "
    )
    query += _test(Rank.PEOPLE, len(words)) if rank is None else _is(rank, len(words))
    if scope.inbox_id is not None:
        query += " and inbox_id = %(inbox_id)s"
    parameters = _patterns(words) | _where(scope) | {"few": FEW}
    rows = await fetch_all(tx, _Named, query + " limit %(few)s + 1", parameters)
    if len(rows) > FEW:
        return None
    return frozenset((row.inbox_id, row.document_id) for row in rows)


class _Named(msgspec.Struct, frozen=True):
    inbox_id: UUID
    document_id: DocumentId


async def list_messages(
    tx: Tx,
    scope: Scope,
    narrowing: Narrowing,
    rank: Rank,
    evidence: Evidence,
    *,
    after: Position | None,
    limit: int,
) -> list[Message]:
    """Visible messages of one inbox that are of this rank, newest first."""
    query: LiteralString = (
        f"select {messages.COLUMNS} from message as m where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and mask = 0"
        " and exists (select from envelope as e where e.organization_id = %(organization_id)s"
        " and e.inbox_id = m.inbox_id and e.document_id = m.document_id"
    )
    query += f" and {_is(rank, len(evidence.words))}{_ONE_BY_ONE})"
    if evidence.narrow is not None:
        query += f" and (m.inbox_id, m.document_id) in {_NARROW}"
    if after is not None:
        query += ' and ("timestamp", document_id) < (%(timestamp)s, %(id)s)'
    query += _times(narrowing) + ' order by "timestamp" desc, document_id desc limit %(limit)s'
    return await fetch_all(
        tx, Message, query, _parameters(scope, narrowing, evidence, after) | {"limit": limit}
    )


async def list_threads(
    tx: Tx,
    scope: Scope,
    narrowing: Narrowing,
    rank: Rank,
    evidence: Evidence,
    *,
    after: Position | None,
    limit: int,
) -> list[Thread]:
    """Threads of active inboxes that are of this rank, latest activity first."""
    count = len(evidence.words)
    query: LiteralString = (
        f"select {threads.COLUMNS} from thread where organization_id = %(organization_id)s"
        " and masks @> '{0}'::smallint[]"
        f" and {_has(_test(rank, count))}"
    )
    for better in _better(rank):
        query += f" and not {_has(_test(better, count))}"
    query += _within(scope)
    if evidence.narrow is not None:
        query += (
            " and thread_id in (select thread_id from message"
            f" where organization_id = %(organization_id)s and (inbox_id, document_id) in {_NARROW})"
        )
    if after is not None:
        query += ' and ("timestamp", thread_id) < (%(timestamp)s, %(id)s::uuid)'
    query += _times(narrowing) + ' order by "timestamp" desc, thread_id desc limit %(limit)s'
    return await fetch_all(
        tx, Thread, query, _parameters(scope, narrowing, evidence, after) | {"limit": limit}
    )


def any_word(evidence: Evidence) -> tuple[LiteralString, Parameters]:
    """Whether a word was found in a message, and the parameters of this condition."""
    tests: list[LiteralString] = [_in_fields(n) for n in _NUMBERS[: len(evidence.words)]]
    return " or ".join([*tests, _BODIES]), _patterns(evidence.words) | _split(
        "body_inboxes", "body_documents", evidence.bodies.union(*evidence.each)
    )


# Keeps PostgreSQL from joining all envelopes first: it takes every pattern for a rare one, and where hits
# are rare `narrow` names them.
_ONE_BY_ONE: LiteralString = " offset 0"
_NARROW: LiteralString = (
    "(select * from unnest(%(narrow_inboxes)s::uuid[], %(narrow_documents)s::bigint[]))"
)
_BODIES: LiteralString = (
    "(m.inbox_id, m.document_id) in"
    " (select * from unnest(%(body_inboxes)s::uuid[], %(body_documents)s::bigint[]))"
)


def _test(rank: Rank, count: int) -> LiteralString:
    """Whether a message of a query of so many words may be of a rank; it may be of a better one, too."""
    numbers = _NUMBERS[:count]
    match rank:
        case Rank.SUBJECT:
            return _all(f"e.subject like %(word_{n})s" for n in numbers)
        case Rank.PEOPLE:
            return _all(_in_fields(n) for n in numbers)
        case Rank.BODY:
            return _BODIES
        case Rank.SCATTERED:
            return _all(
                f"({_in_fields(n)} or (m.inbox_id, m.document_id) in (select * from"
                f" unnest(%(inboxes_{n})s::uuid[], %(documents_{n})s::bigint[])))"
                for n in numbers
            )


def _all(conditions: Iterable[LiteralString]) -> LiteralString:
    return " and ".join(conditions)


def _in_fields(n: LiteralString) -> LiteralString:
    return f"(e.subject like %(word_{n})s or e.people like %(word_{n})s)"


def _is(rank: Rank, count: int) -> LiteralString:
    """Whether a message is of this rank and of no better one."""
    condition = _test(rank, count)
    for better in _better(rank):
        condition += f" and not ({_test(better, count)})"
    return condition


def _better(rank: Rank) -> list[Rank]:
    return [each for each in Rank if each < rank]


def _has(test: LiteralString) -> LiteralString:
    """Whether a visible message of a thread passes."""
    return (
        "exists (select from message as m join envelope as e"
        " using (organization_id, inbox_id, document_id)"
        " where m.thread_id = thread.thread_id and m.organization_id = %(organization_id)s"
        f" and m.mask = 0 and {test}{_ONE_BY_ONE})"
    )


def _within(scope: Scope) -> LiteralString:
    if scope.inbox_id is not None:
        return " and inbox_id = %(inbox_id)s"
    inboxes: LiteralString = (
        " and inbox_id in (select inbox_id from inbox"
        " where organization_id = %(organization_id)s and state = 'active'"
    )
    return inboxes + (" and pod_id = %(pod_id)s)" if scope.pod_id is not None else ")")


def _times(narrowing: Narrowing) -> LiteralString:
    query: LiteralString = ""
    if narrowing.before:
        query += ' and "timestamp" < %(before)s'
    if narrowing.after:
        query += ' and "timestamp" > %(after)s'
    return query


def _parameters(
    scope: Scope, narrowing: Narrowing, evidence: Evidence, after: Position | None
) -> Parameters:
    parameters = _patterns(evidence.words) | _where(scope)
    parameters |= {"before": narrowing.before, "after": narrowing.after}
    parameters |= _split("body_inboxes", "body_documents", evidence.bodies)
    parameters |= _split("narrow_inboxes", "narrow_documents", evidence.narrow or frozenset())
    for n, found in zip(_NUMBERS, evidence.each, strict=False):
        parameters |= _split(f"inboxes_{n}", f"documents_{n}", found)
    if after is not None:
        parameters |= {"timestamp": after.timestamp, "id": after.id}
    return parameters


def _patterns(words: Sequence[str]) -> Parameters:
    return {f"word_{n}": pattern(word) for n, word in zip(_NUMBERS, words, strict=False)}


def _where(scope: Scope) -> Parameters:
    return {
        "organization_id": scope.organization_id,
        "inbox_id": scope.inbox_id,
        "pod_id": scope.pod_id,
    }


def _split(inboxes: str, documents: str, found: Documents) -> Parameters:
    ordered = sorted(found)
    return {inboxes: [each[0] for each in ordered], documents: [each[1] for each in ordered]}
