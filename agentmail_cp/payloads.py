"""Payloads: events as webhooks, WebSockets and readers of the log are told of them.

An event row holds ids and small facts; the rest is read when somebody is told: the message and its thread
from the index, text, HTML and headers from the mail server. What is gone by then is left out, and its
event is told all the same. Nothing is kept here and nothing is written. Owns no table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
import structlog

from agentmail_cp import bodies, filing, inboxes, messages, threads
from agentmail_cp.contents import SMALL
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Event, EventType
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    MailContent,
    MailServer,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
)
from agentmail_cp.messages import Message, Named
from agentmail_cp.threads import Thread

log = structlog.stdlib.get_logger(__name__)

MOST = 1_000_000
"""Bytes of JSON a payload may have (contract 3.10)."""

READ_AT_ONCE = 32 * 1024 * 1024
"""Bytes of mail that are in memory at the same time for one call, unless a single mail is larger."""

READERS = 4
"""Accounts one call reads at the same time."""

RECEIVED: Final[Mapping[EventType, str | None]] = {
    EventType.MESSAGE_RECEIVED: None,
    EventType.MESSAGE_RECEIVED_SPAM: "spam",
    EventType.MESSAGE_RECEIVED_BLOCKED: "blocked",
    EventType.MESSAGE_RECEIVED_UNAUTHENTICATED: "unauthenticated",
}
"""Events that carry a whole message, and the label that hides such a message."""

_DROPPED_FIRST: Final = (
    *("text", "html", "extracted_text", "extracted_html", "headers", "attachments", "references"),
    *("bcc", "cc", "reply_to"),
)
"""Fields of a message that a payload over the limit does without, one after the other."""

_encode = msgspec.json.Encoder().encode


class _Known(msgspec.Struct, frozen=True):
    """What the index knows of a batch of events."""

    inboxes: Mapping[UUID, Inbox]
    messages: Mapping[Named, Message]
    threads: Mapping[UUID, Thread]

    def address(self, event: Event) -> str:
        inbox = self.inboxes.get(event.inbox)
        return inbox.address if inbox else inboxes.public_id(event.inbox)

    def row(self, event: Event) -> Message | None:
        return self.messages.get(_name(event)) if event.message_id else None


_Contents = Mapping[tuple[UUID, DocumentId], MailContent | None]
"""By inbox and document what mails hold, None where the mail server could not say; without those that are
gone.
"""


async def render(
    db: Database, server: MailServer, events: Sequence[Event], *, most: int = MOST
) -> list[bytes]:
    """Each event as JSON of at most `most` bytes, in the same order; equal events are made once.

    Raises `Unavailable` when the database or the mail server is away: then nothing is told, and the same
    call works later.
    """
    distinct = list({event.event_id: event for event in events}.values())
    async with db.reading() as tx:
        known = await _look_up(tx, distinct)
    made: dict[UUID, bytes] = {}
    for some in _portions(distinct, known):
        contents = await _read(server, known, some)
        made |= await _encoded(some, known, contents, most)
    return [made[event.event_id] for event in events]


def _name(event: Event) -> Named:
    return Named(event.organization_id, event.inbox, event.message_id or "")


async def _look_up(tx: Tx, events: Sequence[Event]) -> _Known:
    theirs = await inboxes.get_of_all(
        tx, {(event.organization_id, event.inbox_id) for event in events if event.inbox_id}
    )
    rows = await messages.get_named(tx, {_name(event) for event in events if event.message_id})
    known = _Known(theirs, rows, {})
    wanted = [event for event in events if event.type in RECEIVED]
    return msgspec.structs.replace(known, threads=await _threads(tx, wanted, known))


async def _threads(tx: Tx, events: Sequence[Event], known: _Known) -> Mapping[UUID, Thread]:
    """The threads of these events, by event: of messages that everybody who may be told may read. Otherwise
    hidden mail would be told of by way of a thread it shares with other mail.
    """
    at = [
        (event, thread_id)
        for event in events
        if (thread_id := row.thread_id if (row := known.row(event)) else event.thread_id)
    ]
    wanted = {(event.organization_id, thread_id) for event, thread_id in at}
    found = await threads.get_each(tx, wanted) if wanted else {}
    shown: dict[UUID, Thread] = {}
    for event, thread_id in at:
        hiding = RECEIVED[event.type]
        masks = filing.visible_masks([hiding] if hiding else [])
        rows = [found[thread_id]] if thread_id in found else []
        for thread in await threads.narrowed(tx, event.organization_id, rows, masks):
            shown[event.event_id] = thread
    return shown


def _portions(events: Sequence[Event], known: _Known) -> Iterator[list[Event]]:
    """The events in their order, each time as many as may be read at once."""
    portion: list[Event] = []
    room = READ_AT_ONCE
    for event in events:
        size = row.size if event.type in RECEIVED and (row := known.row(event)) else 0
        if portion and size > room:
            yield portion
            portion, room = [], READ_AT_ONCE
        portion.append(event)
        room -= size
    if portion:
        yield portion


async def _read(server: MailServer, known: _Known, events: Iterable[Event]) -> _Contents:
    wanted: dict[UUID, list[DocumentId]] = {}
    for event in events:
        if event.type in RECEIVED and (row := known.row(event)):
            wanted.setdefault(event.inbox, []).append(row.document_id)
    turns = asyncio.Semaphore(READERS)

    async def read(inbox_id: UUID, document_ids: Sequence[DocumentId]) -> _Contents:
        inbox = known.inboxes.get(inbox_id)
        if inbox is None or inbox.account_id is None:
            return {}
        async with turns:
            found = await _read_account(server, inbox.account_id, document_ids)
        return {(inbox_id, document_id): content for document_id, content in found.items()}

    found = await asyncio.gather(*(read(*each) for each in wanted.items()))
    return {key: content for some in found for key, content in some.items()}


async def _read_account(
    server: MailServer, account_id: AccountId, document_ids: Sequence[DocumentId]
) -> Mapping[DocumentId, MailContent | None]:
    try:
        return await server.read(account_id, document_ids)
    except MailServerUnavailable as error:
        raise Unavailable(
            "The mail server is not answering.", retry_after=error.retry_after
        ) from error
    except MailServerRejected:
        # The account was erased.
        return {}
    except MailServerConfused as error:
        # Waiting would not help, and others wait for the same answer.
        log.error("payloads.unreadable", account=account_id, reason=str(error))
        return dict.fromkeys(document_ids)


async def _encoded(
    events: Sequence[Event], known: _Known, contents: _Contents, most: int
) -> dict[UUID, bytes]:
    def encoded() -> dict[UUID, bytes]:
        return {event.event_id: _one(event, known, contents, most) for event in events}

    rows = [known.row(event) for event in events if event.type in RECEIVED]
    # Making a small message ready takes less time than handing it to a thread.
    if sum(row.size for row in rows if row) <= SMALL:
        return encoded()
    return await asyncio.to_thread(encoded)


def _one(event: Event, known: _Known, contents: _Contents, most: int) -> bytes:
    if event.type is EventType.DOMAIN_VERIFIED:
        return _encode(bodies.domain_verified(event))
    address, row = known.address(event), known.row(event)
    if event.type not in RECEIVED:
        return _encode(bodies.told(event, address, row))
    return _bounded(_received(event, known, contents), most)


def _received(event: Event, known: _Known, contents: _Contents) -> bodies.Notice:
    address, row = known.address(event), known.row(event)
    at = (event.inbox, row.document_id) if row else None
    content = contents.get(at) if at else None
    if row is None:
        hiding = RECEIVED[event.type]
        shown = bodies.unknown_message(event, address, ["received", *([hiding] if hiding else [])])
    elif content is None:
        shown = bodies.message_without_content(row, address)
    else:
        shown = bodies.message(row, address, content)
    return bodies.received(
        event,
        known.threads.get(event.event_id),
        shown,
        deleted=at not in contents,
        truncated=at in contents and content is None,
    )


def _bounded(notice: bodies.Notice, most: int) -> bytes:
    """A payload of at most `most` bytes, at the cost of what a client can fetch."""
    whole = _encode(notice)
    message = notice.message
    if len(whole) <= most or message is None:
        return whole
    message["truncated"] = True
    for name in _DROPPED_FIRST:
        if message.pop(name, None) is not None and len(whole := _encode(notice)) <= most:
            return whole
    message["to"] = message["to"][: threads.SHOWN_ADDRESSES]
    if notice.thread is not None:
        notice.thread.attachments = None
    return _encode(notice)
