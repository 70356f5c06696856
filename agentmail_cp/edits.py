"""What callers change about stored mail: its labels, and whether it exists.

A change is made in the mail server first, which decides the order of changes that cross, and then noted
in the index, so that whoever was answered sees it. Noting it is safe only while intake has not read past
the moment before it: then intake reads the mail again, and what the mail server made of it wins. Where
intake has, the mail is compared with the mail server's once more. If the process dies in between, the
mail server has changed and intake finds out as it does of any mail client. Labels the mail server has no
room for are the index's alone; such changes are in the order they are noted in. Owns no table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentmail_cp import labels, messages
from agentmail_cp.db import Database
from agentmail_cp.errors import NotFound
from agentmail_cp.filing import Place
from agentmail_cp.labels import TRASH, Change
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    Mail,
    MailServer,
    MailServerRejected,
    Refusal,
    Relabel,
)
from agentmail_cp.messages import NOTHING_KEPT, Kept, Message

COMPARISONS = 5
"""How often a mail is compared while intake reads on; after that the inbox is read from scratch."""

Labelled = Mapping[DocumentId, tuple[str, ...]]


async def update_labels(
    db: Database,
    server: MailServer,
    *,
    account_id: AccountId,
    place: Place,
    rows: Sequence[Message],
    change: Change,
    all_or_none: bool = True,
) -> Labelled:
    """Change the labels of messages of one inbox; returns all their labels.

    Raises the mail server's errors, and `NotFound` when a message is gone: then none is changed, or what
    was is put back. Without `all_or_none` a message that is gone is left out instead.
    """
    ids = [row.document_id for row in rows]
    async with db.reading() as tx:
        before = await messages.read_state(tx, place)
    try:
        kept = await _carry_out(server, account_id, rows, change, all_or_none=all_or_none)
    except NotFound:
        # The index knows a mail that is gone, and intake may have seen what was put back.
        async with db.transaction() as tx:
            await messages.mark_due(tx, place)
        raise
    async with db.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        shown = await messages.relabel(tx, place, ids, change, kept)
        overtaken = await messages.read_state(tx, place) != before
        await messages.mark_due(tx, place)
    if overtaken:
        await _compare(db, server, account_id, place, ids)
    # What was deleted after the mail server changed it was changed all the same.
    return {
        row.document_id: shown.get(row.document_id) or labels.after(change, row.labels)
        for row in rows
    }


async def destroy(
    db: Database,
    server: MailServer,
    *,
    account_id: AccountId,
    place: Place,
    document_ids: Sequence[DocumentId],
) -> None:
    """Erase messages of one inbox for good; those already gone are no error."""
    await server.destroy_mail(account_id, document_ids)
    await forget(db, place, document_ids)


async def forget(db: Database, place: Place, document_ids: Sequence[DocumentId]) -> None:
    """Take messages out of the index that the mail server has no more.

    Intake does so by itself, except for a mail that was sent from here and erased before intake read of
    it: what comes and goes between two readings is in no list of changes (RFC 8620 section 5.2). Whoever
    finds it missing says so here.
    """
    async with db.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        await messages.record(tx, place, destroyed=document_ids)
        await messages.mark_due(tx, place)


async def _carry_out(
    server: MailServer,
    account_id: AccountId,
    rows: Sequence[Message],
    change: Change,
    *,
    all_or_none: bool,
) -> Kept:
    """Change labels in the mail server; the labels it had no room for."""
    # One mail's keywords change in one step whatever they were; only several mails, and a way out of
    # Trash, need to know how things stand.
    if len(rows) == 1 and TRASH not in change.remove:
        wanted = labels.relabel(rows[0].document_id, change, rows[0].labels)
        return await _relabel(server, account_id, [wanted] if wanted else [])
    there = await _fetch(server, account_id, rows)
    if all_or_none and len(there) < len(rows):
        raise _gone()
    wanted = _wanted(rows, there, change)
    try:
        kept = await _relabel(server, account_id, wanted)
    except NotFound:
        if all_or_none:
            await _put_back(server, account_id, rows, there, wanted)
            raise
        kept = await _missing(server, account_id, rows, wanted)
    if TRASH in change.remove:
        return {**kept, **await _follow(server, account_id, rows, change, wanted)}
    return kept


async def _fetch(
    server: MailServer, account_id: AccountId, rows: Sequence[Message]
) -> Mapping[DocumentId, Mail]:
    mails = await server.fetch(account_id, [row.document_id for row in rows])
    return {mail.document_id: mail for mail in mails}


def _wanted(
    rows: Sequence[Message], there: Mapping[DocumentId, Mail], change: Change
) -> list[Relabel]:
    found = [
        labels.relabel(row.document_id, change, _labels(row, there[row.document_id]))
        for row in rows
        if row.document_id in there
    ]
    return [each for each in found if each]


def _labels(row: Message, mail: Mail) -> tuple[str, ...]:
    return labels.labels_of(direction=row.direction, folders=mail.folders, keywords=mail.keywords)


async def _missing(
    server: MailServer, account_id: AccountId, rows: Sequence[Message], done: Sequence[Relabel]
) -> Kept:
    """The labels that those that are left do not have, where the mail server told of one that is gone."""
    there = await _fetch(server, account_id, rows)
    return {
        each.document_id: labels.decode_all(each.add - there[each.document_id].keywords)
        for each in done
        if each.document_id in there
    }


async def _relabel(server: MailServer, account_id: AccountId, wanted: Sequence[Relabel]) -> Kept:
    if not wanted:
        return NOTHING_KEPT
    try:
        no_room = await server.relabel(account_id, wanted)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_MAIL:
            raise
        raise _gone() from error
    return {each: labels.decode_all(keywords) for each, keywords in no_room.items()}


async def _follow(
    server: MailServer,
    account_id: AccountId,
    rows: Sequence[Message],
    change: Change,
    done: Sequence[Relabel],
) -> Kept:
    """Take out of Trash what somebody moved there while this change left it where it was. The change is
    repeated whole, as if it had been made after that move.
    """
    left = {each.document_id for each in done if each.move_to is not None}
    rest = [row for row in rows if row.document_id not in left]
    if not rest:
        return NOTHING_KEPT
    there = await _fetch(server, account_id, rest)
    trashed = [row for row in rest if row.document_id in _in_trash(there)]
    try:
        return await _relabel(server, account_id, _wanted(trashed, there, change))
    except NotFound:
        return NOTHING_KEPT


def _in_trash(there: Mapping[DocumentId, Mail]) -> set[DocumentId]:
    return {each for each, mail in there.items() if Folder.TRASH in mail.folders}


async def _put_back(
    server: MailServer,
    account_id: AccountId,
    rows: Sequence[Message],
    before: Mapping[DocumentId, Mail],
    done: Sequence[Relabel],
) -> None:
    """Undo a change of several mails, one of which was lost meanwhile. One that lay in a folder of the
    user's own and was moved comes back to Inbox or Sent: the port names no other.
    """
    homes = {
        row.document_id: Folder.SENT if row.direction == "sent" else Folder.INBOX for row in rows
    }
    undone = [
        Relabel(
            each.document_id,
            add=each.remove & before[each.document_id].keywords,
            remove=each.add - before[each.document_id].keywords,
            move_to=_home(before[each.document_id], each, homes[each.document_id]),
        )
        for each in done
    ]
    try:
        await server.relabel(account_id, undone)
    except MailServerRejected as error:
        if error.code is not Refusal.NO_MAIL:
            raise


def _home(mail: Mail, done: Relabel, usual: Folder) -> Folder | None:
    if done.move_to is None or done.move_to in mail.folders:
        return None
    return next(iter(mail.folders), usual)


async def _compare(
    db: Database,
    server: MailServer,
    account_id: AccountId,
    place: Place,
    document_ids: Sequence[DocumentId],
) -> None:
    """Show these mails as the mail server has them now, as long as intake stands still meanwhile: what
    changes after that it reads itself.
    """
    for _ in range(COMPARISONS):
        async with db.reading() as tx:
            before = await messages.read_state(tx, place)
        mails = await server.fetch(account_id, document_ids)
        async with db.transaction() as tx:
            await messages.lock(tx, place.organization_id, place.inbox_id)
            if await messages.read_state(tx, place) == before:
                await messages.show(tx, place, mails)
                await messages.mark_due(tx, place)
                return
    async with db.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        await messages.mark_due(tx, place, from_scratch=True)


def _gone() -> NotFound:
    return NotFound("There is no such message.")
