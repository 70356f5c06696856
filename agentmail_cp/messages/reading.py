"""Reading the index: pages by time, messages by their ids, the messages of threads."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import filing, pages
from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.errors import NotFound
from agentmail_cp.mailserver import DocumentId
from agentmail_cp.messages.message import COLUMNS, Message, Named
from agentmail_cp.threads import pattern

_BRACKETED = re.compile(r"<.*>", re.DOTALL)

MOST_ATTACHED = 100
"""Messages of one thread whose attachments a list shows."""


class MessageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a message list is narrowed to. Every given condition must hold."""

    labels: tuple[str, ...] = ()
    masks: tuple[int, ...] = (0,)
    before: datetime | None = None
    after: datetime | None = None
    sender: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    ascending: bool = False


async def list_page(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID,
    where: MessageFilter,
    limit: int,
    page_token: str | None,
) -> tuple[list[Message], str | None]:
    """One page of an inbox's messages by time, and the token of the next page."""
    scope = f"messages/{inbox_id}/{where.ascending}"
    query, parameters = _list_query(where)
    parameters |= {"organization_id": organization_id, "inbox_id": inbox_id, "limit": limit + 1}
    if page_token:
        timestamp, document_id = pages.decode(scope, page_token, tuple[datetime, pages.BigInt])
        parameters |= {"timestamp": timestamp, "document_id": document_id}
        query += (
            ' and ("timestamp", document_id) > (%(timestamp)s, %(document_id)s)'
            if where.ascending
            else ' and ("timestamp", document_id) < (%(timestamp)s, %(document_id)s)'
        )
    query += (
        ' order by "timestamp", document_id limit %(limit)s'
        if where.ascending
        else ' order by "timestamp" desc, document_id desc limit %(limit)s'
    )
    rows = await fetch_all(tx, Message, query, parameters)
    return pages.cut(scope, rows, limit, lambda last: (last.timestamp, last.document_id))


def _list_query(where: MessageFilter) -> tuple[LiteralString, dict[str, object]]:
    query: LiteralString = (
        f"select {COLUMNS} from message where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s"
    )
    parameters: dict[str, object] = {}
    if where.masks == (0,):
        query += " and mask = 0"
    else:
        query += " and mask = any(%(masks)s::smallint[])"
        parameters["masks"] = list(where.masks)
    if "unread" in where.labels:
        query += " and labels @> '{unread}'::text[]"
    if where.labels:
        query += " and labels @> %(labels)s"
        parameters["labels"] = list(where.labels)
    if where.before:
        query += ' and "timestamp" < %(before)s'
        parameters["before"] = where.before
    if where.after:
        query += ' and "timestamp" > %(after)s'
        parameters["after"] = where.after
    if where.sender:
        query += " and sender ilike all(%(sender)s)"
        parameters["sender"] = [pattern(each) for each in where.sender]
    if where.to:
        query += " and array_to_string(\"to\" || cc || bcc, E'\\n') ilike all(%(to)s)"
        parameters["to"] = [pattern(each) for each in where.to]
    if where.subject:
        query += " and subject ilike all(%(subject)s)"
        parameters["subject"] = [pattern(each) for each in where.subject]
    return query, parameters


async def get(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID,
    candidates: Sequence[str],
    masks: Sequence[int],
) -> Message:
    """The first message that goes by one of these ids, or has one for its Message-ID; `NotFound` when none
    is visible.
    """
    candidates = _with_digests(candidates)
    rows = await fetch_all(
        tx,
        Message,
        f"select {COLUMNS} from message where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and message_id = any(%(candidates)s)"
        " and mask = any(%(masks)s::smallint[])",
        {
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "candidates": candidates,
            "masks": list(masks),
        },
    )
    if not rows:
        raise NotFound("There is no such message.")
    return min(rows, key=lambda row: candidates.index(row.message_id))


async def get_many(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID,
    wanted: Sequence[Sequence[str]],
    masks: Sequence[int],
) -> list[Message | None]:
    """For each list of spellings of an id the message `get` would find, or None."""
    wanted = [_with_digests(each) for each in wanted]
    rows = await fetch_all(
        tx,
        Message,
        f"select {COLUMNS} from message where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and message_id = any(%(candidates)s)"
        " and mask = any(%(masks)s::smallint[])",
        {
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "candidates": sorted({each for candidates in wanted for each in candidates}),
            "masks": list(masks),
        },
    )
    found = {row.message_id: row for row in rows}
    return [
        next((found[each] for each in candidates if each in found), None) for candidates in wanted
    ]


def _with_digests(candidates: Sequence[str]) -> list[str]:
    """These ids, each before the digest it may have been filed under."""
    every = [
        filing.ids_of(each[1:-1]) if _BRACKETED.fullmatch(each) else (each,) for each in candidates
    ]
    return list(dict.fromkeys(named for names in every for named in names))


async def get_named(tx: Tx, names: Collection[Named]) -> dict[Named, Message]:
    """Those of these messages that there are, hidden or not, whoever they belong to."""
    rows = await fetch_all(
        tx,
        Message,
        f"select {COLUMNS} from unnest(%(organizations)s::uuid[], %(inboxes)s::uuid[],"
        " %(message_ids)s::text[]) as wanted (organization_id, inbox_id, message_id)"
        " join message using (organization_id, inbox_id, message_id)",
        {
            "organizations": [each.organization_id for each in names],
            "inboxes": [each.inbox_id for each in names],
            "message_ids": [each.message_id for each in names],
        },
    )
    return {Named(row.organization_id, row.inbox_id, row.message_id): row for row in rows}


async def page_of_thread(
    tx: Tx,
    *,
    organization_id: UUID,
    thread_id: UUID,
    masks: Sequence[int],
    limit: int,
    page_token: str | None,
) -> tuple[list[Message], str | None]:
    """A page of a thread's messages in ascending order, the newest first of all, and the token of the
    page with the next older ones.
    """
    scope = f"thread/{thread_id}"
    query: LiteralString = (
        f"select {COLUMNS} from message where organization_id = %(organization_id)s"
        " and thread_id = %(thread_id)s and mask = any(%(masks)s::smallint[])"
    )
    parameters: dict[str, object] = {
        "organization_id": organization_id,
        "thread_id": thread_id,
        "masks": list(masks),
        "limit": limit + 1,
    }
    if page_token:
        timestamp, document_id = pages.decode(scope, page_token, tuple[datetime, pages.BigInt])
        parameters |= {"timestamp": timestamp, "document_id": document_id}
        query += ' and ("timestamp", document_id) < (%(timestamp)s, %(document_id)s)'
    query += ' order by "timestamp" desc, document_id desc limit %(limit)s'
    rows = await fetch_all(tx, Message, query, parameters)
    page, token = pages.cut(scope, rows, limit, lambda last: (last.timestamp, last.document_id))
    return page[::-1], token


async def of_thread(
    tx: Tx, *, organization_id: UUID, thread_id: UUID, masks: Sequence[int], limit: int
) -> list[Message]:
    """Messages of a thread that have one of these hiding masks, oldest first; at most `limit`."""
    return await fetch_all(
        tx,
        Message,
        f"select {COLUMNS} from message where organization_id = %(organization_id)s"
        " and thread_id = %(thread_id)s and mask = any(%(masks)s::smallint[])"
        ' order by "timestamp", document_id limit %(limit)s',
        {
            "organization_id": organization_id,
            "thread_id": thread_id,
            "masks": list(masks),
            "limit": limit,
        },
    )


async def documents_of_thread(
    tx: Tx,
    *,
    organization_id: UUID,
    thread_id: UUID,
    masks: Sequence[int],
) -> list[DocumentId]:
    """The document ids of a thread's messages that have one of these hiding masks."""
    rows = await (
        await tx.execute(
            "select document_id from message where organization_id = %(organization_id)s"
            " and thread_id = %(thread_id)s and mask = any(%(masks)s::smallint[])"
            " order by document_id",
            {"organization_id": organization_id, "thread_id": thread_id, "masks": list(masks)},
        )
    ).fetchall()
    return [DocumentId(row["document_id"]) for row in rows]


class Attached(msgspec.Struct, frozen=True):
    """A message with attachments, and where it is."""

    thread_id: UUID
    inbox_id: UUID
    document_id: DocumentId


async def with_attachments(
    tx: Tx, *, organization_id: UUID, threads: Sequence[UUID], masks: Sequence[int]
) -> list[Attached]:
    """The messages of these threads that have attachments, oldest first; of each thread at most the
    `MOST_ATTACHED` newest.
    """
    return await fetch_all(
        tx,
        Attached,
        "select thread_id, inbox_id, document_id from unnest(%(threads)s::uuid[]) as wanted (id),"
        ' lateral (select thread_id, inbox_id, document_id, "timestamp" from message'
        " where organization_id = %(organization_id)s and thread_id = wanted.id"
        " and has_attachment and mask = any(%(masks)s::smallint[])"
        ' order by "timestamp" desc, document_id desc limit %(most)s) as attached'
        ' order by "timestamp", document_id',
        {
            "organization_id": organization_id,
            "threads": list(threads),
            "masks": list(masks),
            "most": MOST_ATTACHED,
        },
    )
