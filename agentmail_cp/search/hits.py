"""What a search finds: messages and threads with the parts of them that matched.

Only reads: the mail server for pieces of bodies, our own index for the messages of a thread.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.highlights import Words, marked
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    MailServer,
    MailServerRejected,
    MailServerUnavailable,
)
from agentmail_cp.messages import Message
from agentmail_cp.search.ranking import Evidence, any_word
from agentmail_cp.threads import Thread

SHOWN_MESSAGES = 3
"""Messages of a thread whose matching parts are shown with it, the newest."""

Hit = TypeVar("Hit")
Excerpts = Mapping[UUID, Mapping[DocumentId, str]]
"""Pieces of bodies by inbox and document."""


class Highlights(msgspec.Struct, frozen=True, kw_only=True):
    """Fragments of what matched, hits between `**`; None where nothing did."""

    sender: list[str] | None
    recipients: list[str] | None
    subject: list[str] | None
    text: list[str] | None

    @property
    def any(self) -> bool:
        return bool(self.sender or self.recipients or self.subject or self.text)


class MessageHit(msgspec.Struct, frozen=True):
    """A message that was found."""

    message: Message
    highlights: Highlights


class ThreadHit(msgspec.Struct, frozen=True):
    """A thread that was found."""

    thread: Thread
    highlights: Highlights


class Hits(msgspec.Struct, Generic[Hit], frozen=True):
    """A page of hits, the best first, and the token of the next. Unless `complete`, there may be more
    that only the mail server knows of.
    """

    hits: list[Hit]
    token: str | None
    complete: bool


class Matched(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a thread, as far as it can match."""

    thread_id: UUID
    inbox_id: UUID
    document_id: DocumentId
    subject: str | None
    sender: str
    recipients: list[str]


async def matched(
    tx: Tx, *, organization_id: UUID, threads: Sequence[UUID], evidence: Evidence
) -> list[Matched]:
    """The visible messages of these threads that a word was found in, newest first; of each thread at
    most `SHOWN_MESSAGES`.
    """
    condition, parameters = any_word(evidence)
    return await fetch_all(
        tx,
        Matched,
        "select thread_id, inbox_id, document_id, subject, sender, recipients"
        " from unnest(%(threads)s::uuid[]) as wanted (id), lateral"
        " (select m.thread_id, m.inbox_id, m.document_id, m.subject, m.sender,"
        ' m."to" || m.cc || m.bcc as recipients, m."timestamp"'
        " from message as m join envelope as e using (organization_id, inbox_id, document_id)"
        " where m.organization_id = %(organization_id)s and m.thread_id = wanted.id"
        f" and m.mask = 0 and ({condition})"
        ' order by m."timestamp" desc, m.document_id desc limit %(shown)s) as found'
        ' order by "timestamp" desc, document_id desc',
        parameters
        | {
            "organization_id": organization_id,
            "threads": list(threads),
            "shown": SHOWN_MESSAGES,
        },
    )


async def excerpts(
    server: MailServer,
    accounts: Mapping[UUID, AccountId],
    wanted: Iterable[tuple[UUID, DocumentId]],
    text: str,
) -> Excerpts:
    """Pieces of bodies around the words; nothing of what the mail server cannot give now."""
    by_inbox: dict[UUID, list[DocumentId]] = defaultdict(list)
    for inbox_id, document_id in wanted:
        if inbox_id in accounts:
            by_inbox[inbox_id].append(document_id)
    found = await asyncio.gather(
        *(_excerpts(server, accounts[each], ids, text) for each, ids in by_inbox.items())
    )
    return dict(zip(by_inbox, found, strict=True))


async def _excerpts(
    server: MailServer, account_id: AccountId, document_ids: list[DocumentId], text: str
) -> Mapping[DocumentId, str]:
    try:
        return await server.excerpts(account_id, document_ids, text)
    except (MailServerUnavailable, MailServerRejected):
        return {}


def of_message(message: Message, words: Words, pieces: Excerpts) -> MessageHit:
    """A message with what matched in it."""
    text = pieces.get(message.inbox_id, {}).get(message.document_id)
    return MessageHit(
        message,
        Highlights(
            sender=marked([message.sender], words.folded),
            recipients=marked([*message.to, *message.cc, *message.bcc], words.folded),
            subject=marked([message.subject or ""], words.folded),
            text=[text] if text else None,
        ),
    )


def of_thread(
    thread: Thread, parts: Sequence[Matched], words: Words, pieces: Excerpts
) -> ThreadHit:
    """A thread with what matched in its messages."""
    texts = [pieces.get(each.inbox_id, {}).get(each.document_id) for each in parts]
    return ThreadHit(
        thread,
        Highlights(
            sender=marked([each.sender for each in parts], words.folded),
            recipients=marked([one for each in parts for one in each.recipients], words.folded),
            subject=marked([each.subject or "" for each in parts], words.folded),
            text=list(dict.fromkeys(text for text in texts if text)) or None,
        ),
    )
