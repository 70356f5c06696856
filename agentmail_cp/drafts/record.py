"""What the mail server says of drafts, noted as soon as intake reads it.

Decides nothing from memory: a row says which version is in force, and a newer copy or none is a fact that
holds whoever is working on the row. Never talks to the mail server.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from uuid import UUID

import msgspec

from agentmail_cp import filing, labels
from agentmail_cp.db import Tx
from agentmail_cp.drafts.draft import Draft, facts, identify, labels_of, rows_of
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import AccountId, DocumentId, Folder, Mail

DELETED = "$deleted"
"""What IMAP's `\\Deleted` is in JMAP: the client has deleted the mail and not expunged it yet."""


class Found(msgspec.Struct, frozen=True):
    """The newest copy of a draft among those read, and its version when this service wrote it."""

    mail: Mail
    version: int | None


class Step(StrEnum):
    """What a reading means for a row."""

    KEEP = "keep"
    RELABEL = "relabel"
    ADOPT = "adopt"
    """Somebody else wrote a newer version: it is in force, and no schedule is left."""
    LOSE = "lose"
    """The version in force is gone; whoever works on the row finds that out when done."""
    REMOVE = "remove"


def step(row: Draft, found: Found | None, gone: Collection[DocumentId]) -> Step:
    """What to do with a row. Pure."""
    if found is not None and not _under_way(row, found):
        newest = found.mail.document_id
        if newest > max(_in_force(row, gone), row.taken or 0):
            return Step.ADOPT
        if newest == row.document_id and row.state not in {"deleting", "sent"}:
            return Step.RELABEL
    if row.document_id is None or row.document_id not in gone:
        return Step.KEEP
    if row.state in {"updating", "sending"}:
        return Step.LOSE
    return Step.REMOVE if row.state == "draft" else Step.KEEP


def _in_force(row: Draft, gone: Collection[DocumentId]) -> DocumentId:
    """What a copy must be newer than. When the version in force is gone, an older one that is left takes
    its place, except of a draft that callers were told is gone.
    """
    lost = row.document_id in gone and row.state not in {"deleting", "sent"}
    return DocumentId(0) if lost or row.document_id is None else row.document_id


def _under_way(row: Draft, found: Found) -> bool:
    """Whether the copy is what this service is storing now, or was storing when it gave up."""
    storing = row.state in {"storing", "updating"} or (
        row.state == "deleting" and row.document_id is None
    )
    return storing and found.version == row.version


def is_draft(mail: Mail, held: Collection[str]) -> bool:
    """Whether a mail is a draft: in Drafts, not deleted, and no copy of a send under way (`held`)."""
    return (
        Folder.DRAFTS in mail.folders
        and DELETED not in mail.keywords
        and labels.SENT_KEYWORD not in mail.keywords
        and mail.message_id not in held
    )


async def record(
    tx: Tx,
    place: Place,
    *,
    account_id: AccountId,
    present: Sequence[Mail] = (),
    destroyed: Iterable[DocumentId] = (),
    held: frozenset[str] = frozenset(),
    filed: Collection[DocumentId] = (),
) -> None:
    """Bring the drafts to what the mail server says. Repeating has no effect.

    `held` and the lock are those of `messages.record`; `filed` are the mails it took for messages.
    """
    live = [m for m in present if is_draft(m, held) and m.document_id not in filed]
    gone = {*destroyed, *(m.document_id for m in present)} - {m.document_id for m in live}
    if not live and not gone:
        return
    newest = _newest(place, live)
    rows = await rows_of(tx, place, list(newest), sorted(gone))
    for row in rows:
        await _apply(tx, row, newest.get(row.draft_id), gone)
    known = {row.draft_id for row in rows}
    for draft_id, found in newest.items():
        if draft_id not in known:
            await _add(tx, place, account_id, draft_id, found)


def _newest(place: Place, live: Sequence[Mail]) -> dict[UUID, Found]:
    newest: dict[UUID, Found] = {}
    for mail in sorted(live, key=lambda each: each.document_id):
        draft_id, version = identify(place, mail)
        newest[draft_id] = Found(mail, version)
    return newest


async def _apply(tx: Tx, row: Draft, found: Found | None, gone: Collection[DocumentId]) -> None:
    match step(row, found, gone):
        case Step.ADOPT if found is not None:
            await _adopt(tx, row, found.mail)
        case Step.RELABEL if found is not None:
            await _relabel(tx, row, found.mail)
        case Step.LOSE:
            await tx.execute(
                "update draft set document_id = null where inbox_id = %(inbox_id)s"
                " and organization_id = %(organization_id)s and draft_id = %(draft_id)s",
                row.key,
            )
        case Step.REMOVE:
            await tx.execute(
                "delete from draft where inbox_id = %(inbox_id)s"
                " and organization_id = %(organization_id)s and draft_id = %(draft_id)s",
                row.key,
            )
        case _:
            pass


async def _adopt(tx: Tx, row: Draft, mail: Mail) -> None:
    """Take over somebody else's version. A draft that was sent or deleted and is saved once more in a
    mail client is a draft again.
    """
    await tx.execute(
        "update draft set document_id = %(document_id)s, labels = %(labels)s,"
        " kept_labels = %(kept_labels)s, subject = %(subject)s,"
        ' "to" = %(to)s, cc = %(cc)s, bcc = %(bcc)s, reply_to = %(reply_to)s,'
        ' "references" = %(references)s, preview = %(preview)s, size = %(size)s,'
        " has_attachment = %(has_attachment)s, send_at = null, send_status = null, send_error = null,"
        " next_send_at = null, fire_at = null, updated_at = now(),"
        " client_id = case when state = 'deleting' then null else client_id end,"
        " state = case when state in ('deleting', 'sent') then 'draft' else state end"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s",
        facts(mail, scheduled=False) | row.key,
    )


async def _relabel(tx: Tx, row: Draft, mail: Mail) -> None:
    """The same version, perhaps with other keywords: that is no edit, and leaves a schedule as it is."""
    kept = labels.still_kept(row.kept_labels, mail.keywords)
    shown = labels_of(mail, scheduled=row.send_status == "scheduled", kept=kept)
    unseen = row.state == "draft" and row.lease_until is not None
    if shown == row.labels and kept == row.kept_labels and not unseen:
        return
    await tx.execute(
        "update draft set labels = %(labels)s, kept_labels = %(kept)s,"
        " lease_until = case when state = 'draft' then null else lease_until end,"
        " updated_at = case when labels = %(labels)s then updated_at else now() end"
        " where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
        " and draft_id = %(draft_id)s",
        {"labels": shown, "kept": kept, **row.key},
    )


async def _add(tx: Tx, place: Place, account_id: AccountId, draft_id: UUID, found: Found) -> None:
    """A draft this service has no row of: from a mail client, or from before the rows were lost."""
    mail = found.mail
    in_reply_to = next((each for each in mail.in_reply_to if filing.usable(each)), None)
    await tx.execute(
        "insert into draft (inbox_id, draft_id, organization_id, pod_id, account_id, state, version,"
        ' document_id, in_reply_to, labels, subject, "to", cc, bcc, reply_to, "references", preview,'
        " size, has_attachment, created_at, updated_at)"
        " values (%(inbox_id)s, %(draft_id)s, %(organization_id)s, %(pod_id)s, %(account_id)s,"
        " 'draft', %(version)s, %(document_id)s, %(in_reply_to)s, %(labels)s, %(subject)s, %(to)s,"
        " %(cc)s, %(bcc)s, %(reply_to)s, %(references)s, %(preview)s, %(size)s, %(has_attachment)s,"
        " %(received_at)s, %(received_at)s)",
        {
            **facts(mail, scheduled=False),
            "inbox_id": place.inbox_id,
            "draft_id": draft_id,
            "organization_id": place.organization_id,
            "pod_id": place.pod_id,
            "account_id": account_id,
            "version": found.version or 0,
            "in_reply_to": f"<{in_reply_to}>" if in_reply_to else None,
            "received_at": mail.received_at,
        },
    )


async def documents(tx: Tx, place: Place) -> set[DocumentId]:
    """Every document that is a draft in force."""
    rows = await (
        await tx.execute(
            "select document_id from draft where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and document_id is not null",
            {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
        )
    ).fetchall()
    return {DocumentId(row["document_id"]) for row in rows}


async def erase(tx: Tx, place: Place) -> None:
    """Forget all drafts of an inbox."""
    await tx.execute(
        "delete from draft where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s",
        {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
    )
