"""Writing the index: mails that came, changed and went, with their threads and events.

Everything but `lock` itself is done under it, and doing it again has no effect.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import envelopes, events, filing, labels, recipients, threads
from agentmail_cp.copies import Copies, sort_out
from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.events import EventType, NewEvent
from agentmail_cp.filing import Arrival, Direction, Place
from agentmail_cp.mailserver import DocumentId, Folder, Mail, MailState
from agentmail_cp.messages.message import Filed

NO_COPIES: Copies = MappingProxyType({})

Kept = Mapping[DocumentId, frozenset[str]]
"""By mail the labels that the mail server does not have, or has no room for."""

Judge = Callable[[Tx, Place, Sequence[Arrival]], Awaitable[Kept]]
"""Says which labels mails get because of who sent them."""

NOTHING_KEPT: Kept = MappingProxyType({})


class _Known(msgspec.Struct, frozen=True):
    document_id: DocumentId
    message_id: str
    thread_id: UUID
    direction: Direction
    labels: list[str]
    kept_labels: list[str]


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
    copies: Copies = NO_COPIES,
    kept: Kept = NOTHING_KEPT,
    judge: Judge | None = None,
) -> Mapping[DocumentId, Filed]:
    """Bring the index to what the mail server says, with threads and events. Repeating has no effect.

    `held` are Message-IDs (no brackets) of sends still under way: their copies in Sent or Drafts are
    recorded by whoever settles the send, and no other mail may take their ids. `copies` tells of mails
    that clients handed in: of two copies in Sent one is shown, and moving to the other is no news.
    `kept` are labels of new mails that the mail server may have no room for; `judge` is asked once about
    those that arrived, if any, and never again. The caller holds `lock`. Returns how the present messages
    are filed; drafts and held ones are not.
    """
    present = sorted(present, key=lambda mail: mail.document_id)
    rows = await _known(tx, place, present, copies)
    known = {row.document_id: row for row in rows}
    fresh = [m for m in present if m.document_id not in known and not _not_ours_yet(m, held)]
    shown = _shown_as_sent(rows, copies)
    found = sort_out(fresh, copies, shown)
    taken = {row.message_id for row in rows} | {filing.id_of(each) for each in held}
    reserved = frozenset(filing.id_of(each) for each in copies.keys() - shown.keys())
    if judge is not None:
        own = {row.message_id for row in rows if row.direction == "sent"}
        own |= {filing.id_of(each) for each in held | copies.keys()}
        arrived = filing.arrivals(found.new, own)
        kept = {**kept, **await judge(tx, place, arrived)} if arrived else kept
    async with tx.pipeline():
        touched: set[UUID] = set()
        # Before new mails join threads, so that each event names the thread its message is in.
        for mail in present:
            if mail.document_id in known:
                touched |= await _relabel(tx, place, known[mail.document_id], mail)
        for old, mail in found.moved.items():
            touched |= await _move(tx, place, known[old], mail)
        filed = await _add(tx, place, found.new, taken, reserved, kept)
        touched |= {each.thread_id for each in filed.values()}
        touched |= await _remove(tx, place, destroyed)
        await threads.summarise(tx, place.organization_id, touched)
    wanted = {
        mail.document_id: known[mail.document_id] for mail in present if mail.document_id in known
    }
    wanted |= {mail.document_id: known[old] for old, mail in found.moved.items()}
    return filed | {each: Filed(row.message_id, row.thread_id) for each, row in wanted.items()}


def _not_ours_yet(mail: Mail, held: frozenset[str]) -> bool:
    if Folder.DRAFTS in mail.folders:
        return True
    if Folder.SENT in mail.folders:
        return mail.message_id in held
    # A draft somebody threw away or put aside was never received.
    return "$draft" in mail.keywords and labels.SENT_KEYWORD not in mail.keywords


def _is_being_handed_in(mail: Mail) -> bool:
    """Whether this is how a send's copy looks until the mail server has taken the mail, and never after."""
    leaving = {"$draft", labels.SENT_KEYWORD} <= mail.keywords
    return leaving and Folder.DRAFTS in mail.folders


def _shown_as_sent(rows: Iterable[_Known], copies: Copies) -> dict[str, DocumentId]:
    """Which document stands for each Message-ID that clients handed in."""
    names = {each: name for name in copies for each in filing.ids_of(name)}
    shown = {
        names[row.message_id]: row.document_id
        for row in rows
        if row.direction == "sent" and row.message_id in names
    }
    known = {row.document_id for row in rows}
    return {name: own for name, own in copies.items() if own is not None and own in known} | shown


async def _move(tx: Tx, place: Place, known: _Known, mail: Mail) -> set[UUID]:
    """Let a message be another copy of the same mail; the threads touched."""
    row = filing.row(place, mail, known.thread_id, known.message_id)
    await tx.execute(
        "update message set document_id = %(document_id)s, bcc = %(bcc)s, size = %(size)s,"
        " has_attachment = %(has_attachment)s, updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and document_id = %(old)s",
        row | {"old": known.document_id},
    )
    await envelopes.move(tx, row, known.document_id)
    return {known.thread_id}


async def _known(tx: Tx, place: Place, mails: Sequence[Mail], copies: Copies) -> list[_Known]:
    """The rows of these mails and of `copies`, and those that have a Message-ID one of them carries or
    answers.
    """
    names = {m.message_id for m in mails if m.message_id and filing.usable(m.message_id)}
    names.update(parent for mail in mails for parent in filing.parents(mail))
    return await fetch_all(
        tx,
        _Known,
        "select document_id, message_id, thread_id, direction, labels, kept_labels from message"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and (document_id = any(%(document_ids)s) or message_id = any(%(message_ids)s))",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "document_ids": [mail.document_id for mail in mails]
            + [own for own in copies.values() if own is not None],
            "message_ids": [each for name in names for each in filing.ids_of(name)],
        },
    )


async def _add(
    tx: Tx,
    place: Place,
    fresh: Sequence[Mail],
    taken: Iterable[str],
    reserved: frozenset[str],
    kept: Kept,
) -> dict[DocumentId, Filed]:
    if not fresh:
        return {}
    assigned = await threads.assign(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        messages=[filing.links(place, mail) for mail in fresh],
    )
    ids = filing.choose_ids(place, fresh, taken, reserved)
    rows = [
        filing.row(
            place,
            mail,
            assigned[mail.document_id],
            ids[mail.document_id],
            kept.get(mail.document_id, frozenset()),
        )
        for mail in fresh
    ]
    async with tx.cursor() as cursor:
        await cursor.executemany(_INSERT, rows)
    await envelopes.add(tx, rows)
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
    preview, size, has_attachment, kept_labels, authentication, original_recipient, created_at, updated_at)
values (%(inbox_id)s, %(document_id)s, %(organization_id)s, %(pod_id)s, %(thread_id)s, %(message_id)s,
    %(direction)s, %(labels)s, %(mask)s, %(timestamp)s, %(subject)s, %(sender)s, %(to)s, %(cc)s,
    %(bcc)s, %(reply_to)s, %(in_reply_to)s, %(references)s, %(preview)s, %(size)s, %(has_attachment)s,
    %(kept_labels)s, %(authentication)s::jsonb, %(original_recipient)s, clock_timestamp(), clock_timestamp())
"""
"""Of messages recorded together each has a moment of its own, for whoever asks what came after it."""


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
        recipients=_recipients(row),
    )


def _recipients(row: Mapping[str, Any]) -> int:
    if row["direction"] == "received":
        return 1
    # Stalwart has handed out what a mail client's copy in Sent tells nobody: one at least got it.
    return max(1, len({*row["to"], *row["cc"], *row["bcc"]}))


async def _relabel(tx: Tx, place: Place, known: _Known, mail: Mail) -> set[UUID]:
    if _is_being_handed_in(mail):
        # It was read before its send was recorded. That it has left Drafts since is a change of its own.
        return set()
    kept = labels.still_kept(known.kept_labels, mail.keywords)
    shown = labels.labels_of(
        direction=known.direction, folders=mail.folders, keywords=mail.keywords, kept=kept
    )
    return await _show(tx, place, known, shown, kept)


async def _show(
    tx: Tx, place: Place, known: _Known, shown: Sequence[str], kept: Sequence[str]
) -> set[UUID]:
    """Give a message these labels, with events for the differences; the threads touched."""
    if list(shown) == known.labels and list(kept) == known.kept_labels:
        return set()
    await tx.execute(
        "update message set labels = %(labels)s, mask = %(mask)s, kept_labels = %(kept)s,"
        " updated_at = now()"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and document_id = %(document_id)s",
        {
            "labels": list(shown),
            "mask": filing.mask_of(shown),
            "kept": list(kept),
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
    whose = {"organization_id": place.organization_id, "inbox_id": place.inbox_id}
    await recipients.remove(tx, **whose, document_ids=gone)
    rows = await (
        await tx.execute(
            "delete from message where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and document_id = any(%(gone)s)"
            " returning thread_id",
            {**whose, "gone": gone},
        )
    ).fetchall()
    await envelopes.remove(tx, **whose, document_ids=gone)
    return {row["thread_id"] for row in rows}


async def relabel(
    tx: Tx,
    place: Place,
    document_ids: Sequence[DocumentId],
    change: labels.Change,
    kept: Kept = NOTHING_KEPT,
) -> Mapping[DocumentId, tuple[str, ...]]:
    """Note a change of labels that the mail server carried out, but for those in `kept`, which it had no
    room for; returns all labels of those there are. The caller holds `lock`.
    """
    shown: dict[DocumentId, tuple[str, ...]] = {}
    touched: set[UUID] = set()
    rows = await _rows(tx, place, document_ids)
    async with tx.pipeline():
        for known in rows:
            shown[known.document_id] = labels.after(change, known.labels)
            left = set(known.kept_labels) - change.add - change.remove
            ours = sorted(left | kept.get(known.document_id, frozenset()))
            touched |= await _show(tx, place, known, shown[known.document_id], ours)
        await threads.summarise(tx, place.organization_id, touched)
    return shown


async def show(tx: Tx, place: Place, mails: Sequence[Mail]) -> None:
    """Give the messages these mails are what labels the mail server says; adds and removes none.

    The caller holds `lock`.
    """
    by_id = {mail.document_id: mail for mail in mails}
    touched: set[UUID] = set()
    rows = await _rows(tx, place, list(by_id))
    async with tx.pipeline():
        for known in rows:
            touched |= await _relabel(tx, place, known, by_id[known.document_id])
        await threads.summarise(tx, place.organization_id, touched)


async def _rows(tx: Tx, place: Place, document_ids: Sequence[DocumentId]) -> list[_Known]:
    return await fetch_all(
        tx,
        _Known,
        "select document_id, message_id, thread_id, direction, labels, kept_labels from message"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and document_id = any(%(document_ids)s) order by document_id",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "document_ids": list(document_ids),
        },
    )


async def read_state(tx: Tx, place: Place) -> MailState | None:
    """Up to which state of the mail server the inbox is read."""
    row = await (
        await tx.execute(
            "select state from inbox_sync where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s",
            {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
        )
    ).fetchone()
    return MailState(row["state"]) if row and row["state"] is not None else None


async def mark_due(tx: Tx, place: Place, *, from_scratch: bool = False) -> None:
    """Have the inbox read again. Whoever is reading it now loses the claim: what was read before this
    moment must not undo what is written in this transaction.
    """
    await tx.execute(
        "update inbox_sync set due_at = now(), claimed_until = null,"
        " state = case when %(from_scratch)s then null else state end"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        {
            "from_scratch": from_scratch,
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
        },
    )


async def erase(tx: Tx, place: Place) -> None:
    """Forget everything the index, the threads and the log know of an inbox's mail."""
    await tx.execute(
        "delete from message where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s",
        {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
    )
    await envelopes.erase(tx, organization_id=place.organization_id, inbox_id=place.inbox_id)
    await recipients.erase(tx, organization_id=place.organization_id, inbox_id=place.inbox_id)
    await threads.erase(tx, organization_id=place.organization_id, inbox_id=place.inbox_id)
    await events.erase(tx, organization_id=place.organization_id, inbox_id=place.inbox_id)


async def documents(
    tx: Tx, place: Place, *, among: Collection[DocumentId] | None = None
) -> set[DocumentId]:
    """Every document id the index has of an inbox, or those of them that are `among` some."""
    query: LiteralString = (
        "select document_id from message where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s"
    )
    if among is not None:
        query += " and document_id = any(%(among)s)"
    whose = {"inbox_id": place.inbox_id, "organization_id": place.organization_id}
    rows = await (await tx.execute(query, {**whose, "among": list(among or ())})).fetchall()
    return {DocumentId(row["document_id"]) for row in rows}
