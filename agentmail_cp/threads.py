"""Threads: which conversation a message belongs to, and what a conversation looks like in a list.

Owns `thread`, `thread_alias` and `thread_reference`. Messages of one inbox are in one thread exactly when
a chain of shared ids (Message-ID, In-Reply-To, References) connects them; a subject never does. A thread
is named after the oldest id its first message mentions, so that reading an inbox again from the mail
server gives it the same name. A message that connects two threads joins them: the older one's id
survives, the other stays as an alias. The summary row is always computed from the thread's messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import LiteralString
from uuid import UUID, uuid5

import msgspec

from agentmail_cp import pages
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.errors import NotFound

SHOWN_ADDRESSES = 100
"""Senders and recipients a thread lists at most."""


EVERY_MASK = range(16)
"""Every hiding mask a message may have: one bit for each label that hides (`filing.HIDING`)."""


class Links(msgspec.Struct, frozen=True):
    """What decides a message's thread. `ids` are all ids it carries, its oldest ancestor's first."""

    document_id: int
    ids: tuple[str, ...]
    at: datetime


class Assignment(msgspec.Struct, frozen=True):
    """The outcome of `link`: threads of messages, threads of ids, and threads that were joined."""

    threads: Mapping[int, UUID]
    references: Mapping[str, UUID]
    joined: Mapping[UUID, UUID]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What of a thread depends on which of its messages count."""

    thread_id: UUID
    subject: str | None
    preview: str
    labels: list[str]
    masks: list[int]
    senders: list[str]
    recipients: list[str]
    message_count: int
    size: int
    has_attachment: bool
    last_message_id: str
    timestamp: datetime
    received_timestamp: datetime | None
    sent_timestamp: datetime | None
    created_at: datetime


class Thread(Summary, frozen=True, kw_only=True):
    """A conversation as lists show it. Address lists hold display forms, oldest first; `masks` are the
    hiding masks its messages have.
    """

    organization_id: UUID
    pod_id: UUID
    inbox_id: UUID
    updated_at: datetime


def link(
    inbox_id: UUID,
    messages: Sequence[Links],
    references: Mapping[str, UUID],
    started: Mapping[UUID, datetime],
) -> Assignment:
    """Decide the threads of new messages. Pure.

    `references` says which known thread each already mentioned id is in, `started` when those threads
    began. A message without any id is a thread of its own.
    """
    where = dict(references)
    began = dict(started)
    joined: dict[UUID, UUID] = {}
    chosen: dict[int, UUID] = {}
    for message in messages:
        touched = {where[each] for each in message.ids if each in where}
        thread_id = _oldest(touched, began) or _name(inbox_id, message)
        began[thread_id] = min(began.get(thread_id, message.at), message.at)
        for other in touched - {thread_id}:
            joined[other] = thread_id
            where = {each: thread_id if at == other else at for each, at in where.items()}
        where.update(dict.fromkeys(message.ids, thread_id))
        chosen[message.document_id] = thread_id
    final = {document: _survivor(at, joined) for document, at in chosen.items()}
    return Assignment(final, where, {old: _survivor(new, joined) for old, new in joined.items()})


def _oldest(threads: Iterable[UUID], began: Mapping[UUID, datetime]) -> UUID | None:
    return min(threads, key=lambda each: (began[each], each), default=None)


def named_after(inbox_id: UUID, message_id: str) -> UUID:
    """The id of a thread that begins with this Message-ID (no brackets)."""
    return uuid5(inbox_id, message_id)


def _name(inbox_id: UUID, message: Links) -> UUID:
    return named_after(
        inbox_id, message.ids[0] if message.ids else f"document:{message.document_id}"
    )


def _survivor(thread_id: UUID, joined: Mapping[UUID, UUID]) -> UUID:
    while thread_id in joined:
        thread_id = joined[thread_id]
    return thread_id


class _Known(msgspec.Struct, frozen=True):
    reference: str
    thread_id: UUID
    created_at: datetime


async def assign(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, messages: Sequence[Links]
) -> Mapping[int, UUID]:
    """Give new messages their threads, joining threads they connect. Locks nothing: the caller holds
    the inbox's `inbox_sync` row.
    """
    known = await fetch_all(
        tx,
        _Known,
        "select reference, thread_id, thread.created_at"
        " from thread_reference join thread using (organization_id, thread_id)"
        " where thread_reference.inbox_id = %(inbox_id)s"
        " and thread_reference.organization_id = %(organization_id)s"
        " and reference = any(%(ids)s)",
        {
            "inbox_id": inbox_id,
            "organization_id": organization_id,
            "ids": sorted({each for message in messages for each in message.ids}),
        },
    )
    outcome = link(
        inbox_id,
        messages,
        {row.reference: row.thread_id for row in known},
        {row.thread_id: row.created_at for row in known},
    )
    for old, new in outcome.joined.items():
        await _join(tx, organization_id=organization_id, inbox_id=inbox_id, old=old, new=new)
    await _remember(tx, organization_id, inbox_id, outcome.references)
    return outcome.threads


async def _join(tx: Tx, *, organization_id: UUID, inbox_id: UUID, old: UUID, new: UUID) -> None:
    parameters = {"o": organization_id, "inbox_id": inbox_id, "old": old, "new": new}
    statements: tuple[LiteralString, ...] = (
        (
            "update message set thread_id = %(new)s, updated_at = now()"
            " where thread_id = %(old)s and organization_id = %(o)s"
        ),
        (
            "update thread_reference set thread_id = %(new)s"
            " where thread_id = %(old)s and organization_id = %(o)s"
        ),
        (
            "update thread_alias set thread_id = %(new)s"
            " where thread_id = %(old)s and organization_id = %(o)s"
        ),
        (
            "insert into thread_alias (alias, organization_id, inbox_id, thread_id)"
            " values (%(old)s, %(o)s, %(inbox_id)s, %(new)s)"
            " on conflict (alias) do update set thread_id = excluded.thread_id"
            " where thread_alias.organization_id = excluded.organization_id"
        ),
        "delete from thread where thread_id = %(old)s and organization_id = %(o)s",
    )
    for statement in statements:
        await tx.execute(statement, parameters)


async def _remember(
    tx: Tx, organization_id: UUID, inbox_id: UUID, references: Mapping[str, UUID]
) -> None:
    await tx.execute(
        "insert into thread_reference (inbox_id, organization_id, reference, thread_id)"
        " select %(inbox_id)s, %(organization_id)s, reference, thread_id"
        " from unnest(%(references)s::text[], %(threads)s::uuid[]) as new (reference, thread_id)"
        " on conflict (inbox_id, reference) do nothing",
        {
            "inbox_id": inbox_id,
            "organization_id": organization_id,
            "references": list(references),
            "threads": list(references.values()),
        },
    )


_SUMMARY: LiteralString = """
select m.thread_id, m.organization_id, min(m.pod_id::text)::uuid as pod_id, m.inbox_id,
    (array_agg(m.subject order by m."timestamp", m.document_id))[1] as subject,
    (array_agg(m.preview order by m."timestamp" desc, m.document_id desc))[1] as preview,
    (select coalesce(array_agg(distinct label order by label), '{}')
       from message, unnest(labels) as label
       where thread_id = m.thread_id and message.organization_id = m.organization_id
         and mask = any(%(masks)s)) as labels,
    array_agg(distinct m.mask) as masks,
    (select coalesce(array_agg(sender order by "timestamp", document_id), '{}') from
       (select * from
         (select distinct on (sender) sender, "timestamp", document_id from message
           where thread_id = m.thread_id and organization_id = m.organization_id and sender <> ''
             and mask = any(%(masks)s)
           order by sender, "timestamp", document_id) as firsts
         order by "timestamp", document_id limit %(shown)s) as firsts) as senders,
    (select coalesce(array_agg(recipient order by "timestamp", document_id, place), '{}') from
       (select * from
         (select distinct on (recipient) recipient, "timestamp", document_id, place
           from message, unnest("to" || cc || bcc) with ordinality as each (recipient, place)
           where thread_id = m.thread_id and message.organization_id = m.organization_id
             and mask = any(%(masks)s)
           order by recipient, "timestamp", document_id, place) as firsts
         order by "timestamp", document_id, place limit %(shown)s) as firsts) as recipients,
    count(*) as message_count, sum(m.size)::bigint as size,
    bool_or(m.has_attachment) as has_attachment,
    (array_agg(m.message_id order by m."timestamp" desc, m.document_id desc))[1] as last_message_id,
    max(m."timestamp") as "timestamp",
    max(m."timestamp") filter (where m.direction = 'received') as received_timestamp,
    max(m."timestamp") filter (where m.direction = 'sent') as sent_timestamp,
    min(m."timestamp") as created_at
from message m
where m.thread_id = any(%(threads)s) and m.organization_id = %(organization_id)s
    and m.mask = any(%(masks)s)
group by m.thread_id, m.organization_id, m.inbox_id
"""
"""What threads look like whose messages with other hiding masks are left out."""

_SUMMARISE: LiteralString = f"""
insert into thread (thread_id, organization_id, pod_id, inbox_id, subject, preview, labels, masks,
    senders, recipients, message_count, size, has_attachment, last_message_id, "timestamp",
    received_timestamp, sent_timestamp, created_at)
{_SUMMARY}
on conflict (thread_id) do update set
    subject = excluded.subject, preview = excluded.preview, labels = excluded.labels,
    masks = excluded.masks, senders = excluded.senders, recipients = excluded.recipients,
    message_count = excluded.message_count, size = excluded.size,
    has_attachment = excluded.has_attachment, last_message_id = excluded.last_message_id,
    "timestamp" = excluded."timestamp", received_timestamp = excluded.received_timestamp,
    sent_timestamp = excluded.sent_timestamp, created_at = excluded.created_at, updated_at = now()
where thread.organization_id = excluded.organization_id
"""


async def summarise(tx: Tx, organization_id: UUID, threads: Iterable[UUID]) -> None:
    """Bring the summary rows of these threads up to date; a thread without messages is removed."""
    distinct = sorted(set(threads))
    if not distinct:
        return
    parameters: dict[str, object] = {
        "threads": distinct,
        "organization_id": organization_id,
        "masks": list(EVERY_MASK),
        "shown": SHOWN_ADDRESSES,
    }
    for statement in (_SUMMARISE, _REMOVE_EMPTY):
        await tx.execute(statement, parameters)


_REMOVE_EMPTY: LiteralString = """
with empty as (
    delete from thread
    where thread_id = any(%(threads)s) and organization_id = %(organization_id)s
      and not exists (select from message where message.thread_id = thread.thread_id
        and message.organization_id = thread.organization_id)
    returning thread_id
), references_gone as (
    delete from thread_reference using empty
    where thread_reference.thread_id = empty.thread_id
      and thread_reference.organization_id = %(organization_id)s
)
delete from thread_alias using empty
where thread_alias.thread_id = empty.thread_id
  and thread_alias.organization_id = %(organization_id)s
"""


async def erase(tx: Tx, *, organization_id: UUID, inbox_id: UUID) -> None:
    """Forget every thread of an inbox."""
    statements: tuple[LiteralString, ...] = (
        "delete from thread where inbox_id = %(inbox_id)s and organization_id = %(o)s",
        "delete from thread_reference where inbox_id = %(inbox_id)s and organization_id = %(o)s",
        "delete from thread_alias where inbox_id = %(inbox_id)s and organization_id = %(o)s",
    )
    for statement in statements:
        await tx.execute(statement, {"inbox_id": inbox_id, "o": organization_id})


class Recent(msgspec.Struct, frozen=True):
    """One of a thread's last messages: by whom and when. `sender` is in display form."""

    thread_id: UUID
    direction: str
    timestamp: datetime
    sender: str


async def recent(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, references: Sequence[str], most: int
) -> list[Recent]:
    """The last messages, newest first, of the thread a mail with these references (Message-IDs without
    brackets, the parent last) would join; none when it would begin one.
    """
    return await fetch_all(
        tx,
        Recent,
        'select thread_id, direction, "timestamp", sender from message where thread_id = ('
        " select thread_id from thread_reference where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and reference = any(%(references)s)"
        " order by array_position(%(references)s, reference) desc limit 1)"
        ' and organization_id = %(organization_id)s order by "timestamp" desc, document_id desc'
        " limit %(most)s",
        {
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "references": list(references),
            "most": most,
        },
    )


COLUMNS = (
    "thread_id, organization_id, pod_id, inbox_id, subject, preview, labels, masks, senders,"
    ' recipients, message_count, size, has_attachment, last_message_id, "timestamp", received_timestamp,'
    " sent_timestamp, created_at, updated_at"
)


class ThreadFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a thread list is narrowed to. `masks` are the hiding masks a visible message may have."""

    labels: tuple[str, ...] = ()
    masks: tuple[int, ...] = (0,)
    before: datetime | None = None
    after: datetime | None = None
    senders: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    subject: tuple[str, ...] = ()
    ascending: bool = False

    def fits(self, thread: Thread) -> bool:
        """Whether a thread, as it is shown, is one of those asked for."""
        return (
            set(self.labels) <= set(thread.labels)
            and (self.before is None or thread.timestamp < self.before)
            and (self.after is None or thread.timestamp > self.after)
            and _contains(thread.senders, self.senders)
            and _contains(thread.recipients, self.recipients)
            and _contains([thread.subject or ""], self.subject)
        )


def _contains(texts: Iterable[str], wanted: Iterable[str]) -> bool:
    whole = "\n".join(texts).lower()
    return all(each.lower() in whole for each in wanted)


async def list_page(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID | None = None,
    pod_id: UUID | None = None,
    where: ThreadFilter,
    limit: int,
    page_token: str | None,
    include_deleted: bool = False,
) -> tuple[list[Thread], str | None]:
    """One page of threads by last activity, and the token of the next page.

    Without an inbox: of all active inboxes, or all of a pod, with `include_deleted` also of those whose
    mail is retained.
    """
    scope = f"threads/{inbox_id or pod_id or organization_id}/{where.ascending}"
    query, parameters = _list_query(where)
    page, place = pages.by_time(
        scope, page_token, ('"timestamp"', "thread_id"), limit=limit, ascending=where.ascending
    )
    parameters |= place | {
        "organization_id": organization_id,
        "inbox_id": inbox_id,
        "pod_id": pod_id,
    }
    if inbox_id is not None:
        query += " and inbox_id = %(inbox_id)s"
    elif not include_deleted:
        query += (
            " and inbox_id in (select inbox_id from inbox where state = 'active'"
            " and organization_id = %(organization_id)s)"
        )
    if pod_id is not None:
        query += " and pod_id = %(pod_id)s"
    rows = await fetch_all(tx, Thread, query + page, parameters)
    return pages.cut(scope, rows, limit, lambda last: (last.timestamp, last.thread_id))


def _list_query(where: ThreadFilter) -> tuple[LiteralString, dict[str, object]]:
    query: LiteralString = (
        f"select {COLUMNS} from thread where organization_id = %(organization_id)s"
    )
    parameters: dict[str, object] = {}
    if where.masks == (0,):
        query += " and masks @> '{0}'::smallint[]"
    else:
        query += " and masks && %(masks)s::smallint[]"
        parameters["masks"] = list(where.masks)
    if "unread" in where.labels:
        # Spelt out, as its index is: a parameter is no proof to the planner.
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
    if where.senders:
        query += " and array_to_string(senders, E'\\n') ilike all(%(senders)s)"
        parameters["senders"] = [pattern(each) for each in where.senders]
    if where.recipients:
        query += " and array_to_string(recipients, E'\\n') ilike all(%(recipients)s)"
        parameters["recipients"] = [pattern(each) for each in where.recipients]
    if where.subject:
        query += " and subject ilike all(%(subject)s)"
        parameters["subject"] = [pattern(each) for each in where.subject]
    return query, parameters


async def narrowed(
    tx: Tx, organization_id: UUID, rows: Sequence[Thread], masks: Sequence[int]
) -> list[Thread]:
    """These threads as if their messages with other hiding masks did not exist, for whoever may not read
    those; a thread of which nothing is left is left out.
    """
    mixed = [row.thread_id for row in rows if not set(row.masks) <= set(masks)]
    if not mixed:
        return list(rows)
    found = await fetch_all(
        tx,
        Summary,
        _SUMMARY,
        {
            "threads": mixed,
            "organization_id": organization_id,
            "masks": list(masks),
            "shown": SHOWN_ADDRESSES,
        },
    )
    seen = {each.thread_id: msgspec.structs.asdict(each) for each in found}
    return [
        msgspec.structs.replace(row, **seen.get(row.thread_id, {}))
        for row in rows
        if row.thread_id in seen or row.thread_id not in mixed
    ]


async def get_each(tx: Tx, wanted: Collection[tuple[UUID, UUID]]) -> dict[UUID, Thread]:
    """Those of these threads, by organisation and id, that there are."""
    rows = await fetch_all(
        tx,
        Thread,
        f"select {COLUMNS} from unnest(%(organizations)s::uuid[], %(threads)s::uuid[])"
        " as wanted (organization_id, thread_id) join thread using (organization_id, thread_id)",
        {
            "organizations": [organization_id for organization_id, _ in wanted],
            "threads": [thread_id for _, thread_id in wanted],
        },
    )
    return {row.thread_id: row for row in rows}


def pattern(text: str) -> str:
    """A LIKE pattern for "contains this text"."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


async def get(
    tx: Tx,
    *,
    organization_id: UUID,
    thread_id: UUID,
    inbox_id: UUID | None = None,
    pod_id: UUID | None = None,
    masks: Sequence[int] = EVERY_MASK,
) -> Thread:
    """One thread by its id or by the id of a thread that was joined to it; `NotFound` otherwise, and when
    none of its messages has one of these hiding masks.
    """
    thread = await fetch_one(
        tx,
        Thread,
        f"select {COLUMNS} from thread where organization_id = %(organization_id)s"
        " and thread_id = coalesce((select thread_id from thread_alias where alias = %(thread_id)s"
        " and organization_id = %(organization_id)s), %(thread_id)s)"
        " and inbox_id = coalesce(%(inbox_id)s::uuid, inbox_id)"
        " and pod_id = coalesce(%(pod_id)s::uuid, pod_id) and masks && %(masks)s::smallint[]",
        {
            "organization_id": organization_id,
            "thread_id": thread_id,
            "inbox_id": inbox_id,
            "pod_id": pod_id,
            "masks": list(masks),
        },
    )
    if thread is None:
        raise NotFound("There is no such thread.")
    return thread
