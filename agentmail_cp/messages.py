"""The message index: what each inbox holds, as far as lists and threads need to know.

Owns the table `message`. A row is keyed by (inbox, document id of the mail server) and says where the
message stands; text, HTML, headers and attachments stay in the mail server and are read from there. A
message is `received` or `sent` from the moment it is first seen. Its `message_id` is the RFC Message-ID in
brackets; a twin (the same Message-ID once more in one inbox) or a mail without one gets an id made from
its document id. Drafts are not messages. Every write happens under the lock of the inbox's
`inbox_sync` row, so an inbox's rows, threads and events change together and in one order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import events, filing, labels, pages, threads
from agentmail_cp.db import Database, Tx, fetch_all, fetch_one
from agentmail_cp.errors import NotFound
from agentmail_cp.events import EventType, NewEvent
from agentmail_cp.filing import Direction, Place
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    Mail,
    MailServer,
    MailServerRejected,
    Refusal,
)
from agentmail_cp.threads import pattern


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message as lists show it. Addresses are in display form, ids in brackets."""

    inbox_id: UUID
    document_id: DocumentId
    organization_id: UUID
    pod_id: UUID
    thread_id: UUID
    message_id: str
    direction: Direction
    labels: list[str]
    timestamp: datetime
    subject: str | None
    sender: str
    to: list[str]
    cc: list[str]
    bcc: list[str]
    reply_to: list[str]
    in_reply_to: str | None
    references: list[str]
    preview: str
    size: int
    has_attachment: bool
    created_at: datetime
    updated_at: datetime


class Filed(msgspec.Struct, frozen=True):
    """Where a message is found: its id in brackets, and its thread."""

    message_id: str
    thread_id: UUID


_COLUMNS = (
    "inbox_id, document_id, organization_id, pod_id, thread_id, message_id, direction, labels,"
    ' "timestamp", subject, sender, "to", cc, bcc, reply_to, in_reply_to, "references", preview,'
    " size, has_attachment, created_at, updated_at"
)


class _Known(msgspec.Struct, frozen=True):
    document_id: DocumentId
    message_id: str
    thread_id: UUID
    direction: Direction
    labels: list[str]


async def lock(tx: Tx, organization_id: UUID, inbox_id: UUID) -> bool:
    """Make this transaction the only one that writes the inbox's messages, threads and events.

    False when there is nothing to write to: the inbox was deleted.
    """
    cursor = await tx.execute(
        "select from inbox_sync where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s for update",
        {"inbox_id": inbox_id, "organization_id": organization_id},
    )
    return cursor.rowcount == 1


async def record(
    tx: Tx,
    place: Place,
    *,
    present: Sequence[Mail] = (),
    destroyed: Iterable[DocumentId] = (),
    held: frozenset[str] = frozenset(),
) -> Mapping[DocumentId, Filed]:
    """Bring the index to what the mail server says, with threads and events. Repeating has no effect.

    `held` are Message-IDs (no brackets) of sends still under way: their copies in Sent or Drafts are
    recorded by whoever settles the send, and no other mail may take their ids. The caller holds `lock`.
    Returns how the present messages are filed; drafts and held ones are not.
    """
    present = sorted(present, key=lambda mail: mail.document_id)
    rows = await _known(tx, place, present)
    known = {row.document_id: row for row in rows}
    fresh = [m for m in present if m.document_id not in known and not _not_ours_yet(m, held)]
    taken = {row.message_id for row in rows} | {f"<{each}>" for each in held}
    async with tx.pipeline():
        touched: set[UUID] = set()
        # Before new mails join threads, so that each event names the thread its message is in.
        for mail in present:
            if mail.document_id in known:
                touched |= await _relabel(tx, place, known[mail.document_id], mail)
        filed = await _add(tx, place, fresh, taken)
        touched |= {each.thread_id for each in filed.values()}
        touched |= await _remove(tx, place, destroyed)
        await threads.summarise(tx, place.organization_id, touched)
    wanted = {mail.document_id for mail in present} & known.keys()
    return filed | {each: Filed(known[each].message_id, known[each].thread_id) for each in wanted}


def _not_ours_yet(mail: Mail, held: frozenset[str]) -> bool:
    if Folder.DRAFTS in mail.folders:
        return True
    return Folder.SENT in mail.folders and mail.message_id in held


async def _known(tx: Tx, place: Place, mails: Sequence[Mail]) -> list[_Known]:
    """The rows of these mails, and those that have a Message-ID one of them carries."""
    return await fetch_all(
        tx,
        _Known,
        "select document_id, message_id, thread_id, direction, labels from message"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and (document_id = any(%(document_ids)s) or message_id = any(%(message_ids)s))",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "document_ids": [mail.document_id for mail in mails],
            "message_ids": [f"<{m.message_id}>" for m in mails if filing.usable(m.message_id)],
        },
    )


async def _add(
    tx: Tx, place: Place, fresh: Sequence[Mail], taken: Iterable[str]
) -> dict[DocumentId, Filed]:
    if not fresh:
        return {}
    assigned = await threads.assign(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        messages=[filing.links(mail) for mail in fresh],
    )
    ids = filing.choose_ids(place, fresh, taken)
    rows = [
        filing.row(place, mail, assigned[mail.document_id], ids[mail.document_id]) for mail in fresh
    ]
    async with tx.cursor() as cursor:
        await cursor.executemany(_INSERT, rows)
    await events.append(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        events=[_announcement(row) for row in rows],
    )
    return {row["document_id"]: Filed(row["message_id"], row["thread_id"]) for row in rows}


_INSERT = """
insert into message (inbox_id, document_id, organization_id, pod_id, thread_id, message_id, direction,
    labels, mask, "timestamp", subject, sender, "to", cc, bcc, reply_to, in_reply_to, "references",
    preview, size, has_attachment)
values (%(inbox_id)s, %(document_id)s, %(organization_id)s, %(pod_id)s, %(thread_id)s, %(message_id)s,
    %(direction)s, %(labels)s, %(mask)s, %(timestamp)s, %(subject)s, %(sender)s, %(to)s, %(cc)s,
    %(bcc)s, %(reply_to)s, %(in_reply_to)s, %(references)s, %(preview)s, %(size)s, %(has_attachment)s)
"""


_RECEIVED = {
    "spam": EventType.MESSAGE_RECEIVED_SPAM,
    "blocked": EventType.MESSAGE_RECEIVED_BLOCKED,
    "unauthenticated": EventType.MESSAGE_RECEIVED_UNAUTHENTICATED,
}


def _announcement(row: Mapping[str, Any]) -> NewEvent:
    kind = EventType.MESSAGE_SENT
    if row["direction"] == "received":
        special = [event for label, event in _RECEIVED.items() if label in row["labels"]]
        kind = special[0] if special else EventType.MESSAGE_RECEIVED
    return NewEvent(
        type=kind,
        thread_id=row["thread_id"],
        message_id=row["message_id"],
        document_id=row["document_id"],
    )


async def _relabel(tx: Tx, place: Place, known: _Known, mail: Mail) -> set[UUID]:
    shown = labels.labels_of(
        direction=known.direction, folders=mail.folders, keywords=mail.keywords
    )
    return await _show(tx, place, known, shown)


async def _show(tx: Tx, place: Place, known: _Known, shown: Sequence[str]) -> set[UUID]:
    """Give a message these labels, with events for the differences; the threads touched."""
    if list(shown) == known.labels:
        return set()
    await tx.execute(
        "update message set labels = %(labels)s, mask = %(mask)s, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and document_id = %(document_id)s",
        {
            "labels": list(shown),
            "mask": filing.mask_of(shown),
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "document_id": known.document_id,
        },
    )
    await events.append(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        events=_label_events(known, shown),
    )
    return {known.thread_id}


def _label_events(known: _Known, shown: Sequence[str]) -> list[NewEvent]:
    before, after = set(known.labels), set(shown)
    changes = [(EventType.LABEL_ADDED, each) for each in sorted(after - before)]
    changes += [(EventType.LABEL_REMOVED, each) for each in sorted(before - after)]
    return [
        NewEvent(
            type=kind,
            thread_id=known.thread_id,
            message_id=known.message_id,
            document_id=known.document_id,
            facts={"label": label},
        )
        for kind, label in changes
    ]


async def _remove(tx: Tx, place: Place, destroyed: Iterable[DocumentId]) -> set[UUID]:
    gone = list(destroyed)
    if not gone:
        return set()
    rows = await (
        await tx.execute(
            "delete from message where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and document_id = any(%(gone)s)"
            " returning thread_id",
            {
                "inbox_id": place.inbox_id,
                "organization_id": place.organization_id,
                "gone": gone,
            },
        )
    ).fetchall()
    return {row["thread_id"] for row in rows}


async def update_labels(
    db: Database,
    server: MailServer,
    *,
    account_id: AccountId,
    place: Place,
    message: Message,
    change: labels.Change,
) -> tuple[str, ...]:
    """Change a message's labels in the mail server, then in the index; returns all its labels.

    The inbox is marked as due as well: where two changes cross, intake reads what the mail server made
    of them. Raises `NotFound` when the message is gone, and the mail server's errors.
    """
    wanted = labels.relabel(message.document_id, change, message.labels)
    if wanted is None:
        return tuple(message.labels)
    try:
        await server.relabel(account_id, [wanted])
    except MailServerRejected as error:
        if error.code is not Refusal.NO_MAIL:
            raise
        raise NotFound("There is no such message.") from error
    async with db.transaction() as tx:
        await lock(tx, place.organization_id, place.inbox_id)
        return await _apply(tx, place, message.document_id, change)


async def _apply(
    tx: Tx, place: Place, document_id: DocumentId, change: labels.Change
) -> tuple[str, ...]:
    known = await fetch_one(
        tx,
        _Known,
        "select document_id, message_id, thread_id, direction, labels from message"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and document_id = %(document_id)s",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "document_id": document_id,
        },
    )
    if known is None:
        raise NotFound("There is no such message.")
    shown = labels.after(change, known.labels)
    touched = await _show(tx, place, known, shown)
    await threads.summarise(tx, place.organization_id, touched)
    await tx.execute(
        # Without its claim, what intake read before this change cannot undo it.
        "update inbox_sync set due_at = now(), claimed_until = null where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s",
        {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
    )
    return shown


async def erase(tx: Tx, place: Place) -> None:
    """Forget everything the index, the threads and the log know of an inbox's mail."""
    await tx.execute(
        "delete from message where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s",
        {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
    )
    await threads.erase(tx, organization_id=place.organization_id, inbox_id=place.inbox_id)
    await events.erase(tx, organization_id=place.organization_id, inbox_id=place.inbox_id)


async def documents(tx: Tx, place: Place) -> set[DocumentId]:
    """Every document id the index has of an inbox."""
    rows = await (
        await tx.execute(
            "select document_id from message where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s",
            {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
        )
    ).fetchall()
    return {DocumentId(row["document_id"]) for row in rows}


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
        f"select {_COLUMNS} from message where organization_id = %(organization_id)s"
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
    """The first message that goes by one of these ids; `NotFound` when none is visible."""
    rows = await fetch_all(
        tx,
        Message,
        f"select {_COLUMNS} from message where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and message_id = any(%(candidates)s)"
        " and mask = any(%(masks)s::smallint[])",
        {
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "candidates": list(candidates),
            "masks": list(masks),
        },
    )
    if not rows:
        raise NotFound("There is no such message.")
    return min(rows, key=lambda row: candidates.index(row.message_id))


async def list_of_thread(
    tx: Tx, *, organization_id: UUID, thread_id: UUID, masks: Sequence[int], limit: int
) -> list[Message]:
    """The newest messages of a thread, in ascending order."""
    rows = await fetch_all(
        tx,
        Message,
        f"select {_COLUMNS} from message where organization_id = %(organization_id)s"
        " and thread_id = %(thread_id)s and mask = any(%(masks)s::smallint[])"
        ' order by "timestamp" desc, document_id desc limit %(limit)s',
        {
            "organization_id": organization_id,
            "thread_id": thread_id,
            "masks": list(masks),
            "limit": limit,
        },
    )
    return rows[::-1]
