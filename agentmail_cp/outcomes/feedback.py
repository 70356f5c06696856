"""Mails that report what became of another: read before intake writes, and outcomes instead of messages.

Owns the table `feedback_mail`: which mails of a mailbox are outcomes, so that reading it again makes no
message of one that is about a message which is gone by then. A mail is believed to be about a message only
if it names one that this inbox sent, and one of its recipients, and is not an explicit FAIL (forged); any
other is an ordinary mail. Neither labels nor lists are asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec
import structlog

from agentmail_cp import authentication, filing, recipients
from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    Mail,
    MailServer,
    MailServerConfused,
    MailServerRejected,
)
from agentmail_cp.outcomes.record import tell
from agentmail_cp.outcomes.reports import MOST_READ, Claim, Feedback, read
from agentmail_cp.outcomes.states import News, whom

log = structlog.stdlib.get_logger(__name__)

Told = Mapping[DocumentId, Feedback]
"""What mails of one mailbox report."""

NOTHING_TOLD: Final[Told] = MappingProxyType({})

AT_ONCE: Final = 16
"""Mails that are read at the same time."""

_OWN: Final = frozenset({Folder.SENT, Folder.DRAFTS})


async def listen(
    db: Database, server: MailServer, account_id: AccountId, place: Place, mails: Iterable[Mail]
) -> Told:
    """Read those of these mails that claim to report something and were not met before. Asks the mail
    server, so never inside a transaction. Raises `MailServerUnavailable`.
    """
    claiming = [mail.document_id for mail in mails if mail.report and _may_be_believed(mail)]
    if not claiming:
        return NOTHING_TOLD
    async with db.reading() as tx:
        fresh = set(claiming) - await _met(tx, place, claiming)
    told: dict[DocumentId, Feedback] = {}
    for some in _batched(sorted(fresh)):
        found = await asyncio.gather(*(_read(server, account_id, each) for each in some))
        told |= {each: said for each, said in zip(some, found, strict=True) if said is not None}
    return told


def _may_be_believed(mail: Mail) -> bool:
    found = authentication.read(mail.authentication_results)
    return not mail.folders & _OWN and not authentication.is_fail(found)


def _batched(every: Sequence[DocumentId]) -> Iterator[Sequence[DocumentId]]:
    return (every[start : start + AT_ONCE] for start in range(0, len(every), AT_ONCE))


class _Document(msgspec.Struct, frozen=True):
    document_id: DocumentId


async def _met(tx: Tx, place: Place, document_ids: Sequence[DocumentId]) -> set[DocumentId]:
    rows = await fetch_all(
        tx,
        _Document,
        "select document_id from message where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and document_id = any(%(document_ids)s)"
        " union select document_id from feedback_mail where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and document_id = any(%(document_ids)s)",
        _which(place, document_ids),
    )
    return {row.document_id for row in rows}


def _which(place: Place, document_ids: Collection[DocumentId]) -> dict[str, object]:
    return {
        "inbox_id": place.inbox_id,
        "organization_id": place.organization_id,
        "document_ids": list(document_ids),
    }


async def _read(
    server: MailServer, account_id: AccountId, document_id: DocumentId
) -> Feedback | None:
    try:
        blob_id = await server.raw_blob(account_id, document_id)
        raw = b"".join(
            [part async for part in server.download(account_id, blob_id, stop=MOST_READ)]
        )
    except MailServerRejected:
        return None
    except MailServerConfused as error:
        log.warning("outcome.unread_report", reason=type(error).__name__)
        return None
    return await asyncio.to_thread(read, raw)


async def take(
    tx: Tx,
    place: Place,
    present: Sequence[Mail],
    told: Told,
    *,
    held: Collection[str],
    also_messages: bool,
) -> frozenset[DocumentId]:
    """Make outcomes of what mails report, and say which of those present are not messages: they told what
    became of another, now or when they were first met; now only unless they are to be `also_messages`.
    `held` are Message-IDs (no brackets) of sends under way. The caller holds the inbox's lock. Repeating
    has no effect.
    """
    claiming = [mail.document_id for mail in present if mail.report]
    if not claiming:
        return frozenset()
    taken: list[DocumentId] = []
    for document_id in claiming:
        feedback = told.get(document_id)
        news = [] if feedback is None else await _news(tx, place, feedback, held)
        if news:
            await tell(tx, place, news)
            taken.append(document_id)
    taken = [] if also_messages else taken
    return await _remember(tx, place, taken) | await _known(tx, place, claiming)


async def _news(tx: Tx, place: Place, feedback: Feedback, held: Collection[str]) -> list[News]:
    """What a report says of a message of this inbox; nothing when it is about none."""
    names = [filing.id_of(each) for each in feedback.message_ids]
    every = await recipients.of_messages(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        message_ids=names,
    )
    for name in names:
        went_to = {each.address for each in every if each.message_id == name}
        if went_to or name.strip("<>") in held:
            return [
                news
                for claim in feedback.claims
                if (news := _as_news(name, claim, went_to)) is not None
            ]
    return []


def _as_news(name: str, claim: Claim, went_to: Collection[str]) -> News | None:
    """A claim about one of the recipients; where they are not written yet, it is looked at again when
    they are. Nothing in a mail says that our own server wrote it: mail that a customer hands in, or puts
    into a mailbox, has no Received header either.
    """
    named = [each for each in claim.addresses if whom(went_to, each)] or claim.addresses[:1]
    address = named[0] if named else None
    found = whom(went_to, address) if went_to else address
    if found is None:
        return None
    return News(
        message_id=name,
        address=found,
        outcome=claim.outcome,
        code=claim.code,
        diagnostic=claim.diagnostic,
        by_mail=True,
    )


async def _remember(
    tx: Tx, place: Place, document_ids: Sequence[DocumentId]
) -> frozenset[DocumentId]:
    if document_ids:
        await tx.execute(
            "insert into feedback_mail (inbox_id, document_id, organization_id)"
            " select %(inbox_id)s, document_id, %(organization_id)s"
            " from unnest(%(document_ids)s::bigint[]) as mail (document_id) on conflict do nothing",
            _which(place, document_ids),
        )
    return frozenset(document_ids)


async def _known(tx: Tx, place: Place, document_ids: Sequence[DocumentId]) -> frozenset[DocumentId]:
    rows = await fetch_all(
        tx,
        _Document,
        "select document_id from feedback_mail where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and document_id = any(%(document_ids)s)",
        _which(place, document_ids),
    )
    return frozenset(row.document_id for row in rows)


async def documents(tx: Tx, place: Place) -> set[DocumentId]:
    """The mails of a mailbox that are outcomes."""
    rows = await fetch_all(
        tx,
        _Document,
        "select document_id from feedback_mail where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s",
        {"inbox_id": place.inbox_id, "organization_id": place.organization_id},
    )
    return {row.document_id for row in rows}


async def remove(tx: Tx, place: Place, destroyed: Collection[DocumentId]) -> None:
    """Forget mails that are gone from the mailbox."""
    if destroyed:
        await tx.execute(
            "delete from feedback_mail where inbox_id = %(inbox_id)s"
            " and organization_id = %(organization_id)s and document_id = any(%(document_ids)s)",
            _which(place, destroyed),
        )
