"""What messages hold beside their index row, read from the mail server for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from agentmail_cp import bodies, edits, messages
from agentmail_cp.db import Database
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import (
    AccountId,
    Attachment,
    DocumentId,
    MailServer,
    MailServerUnavailable,
)

Attached = Mapping[AccountId, Mapping[DocumentId, tuple[Attachment, ...]]]

PATIENCE = 0.5
"""Seconds a list waits for what its items have attached, before it is shown without."""

COUNTED_DECODED = ("text/", "message/")
"""Media types whose size a mail server may count otherwise than a download does."""

SMALL = 16_384
"""Bytes of mail that are made ready in less time than a thread is found for them."""


async def attachments_of(
    server: MailServer, wanted: Mapping[AccountId, Sequence[DocumentId]]
) -> Attached:
    """What mails of any accounts have attached; nothing while the mail server is away or hangs."""
    if not any(wanted.values()):
        return {}
    try:
        async with asyncio.timeout(PATIENCE):
            return await server.attachments(wanted)
    except (MailServerUnavailable, TimeoutError):
        return {}


async def attached(
    server: MailServer, inbox: Inbox, rows: Sequence[messages.Message]
) -> Mapping[DocumentId, tuple[Attachment, ...]]:
    """What these messages of an inbox have attached."""
    having = [row.document_id for row in rows if row.has_attachment]
    return (await attachments_of(server, {inbox.account: having})).get(inbox.account, {})


async def readable(
    server: MailServer, inbox: Inbox, rows: Sequence[messages.Message], most: int
) -> int:
    """How many of these messages, from the last on, can be read at once: as many as have bodies of at
    most `most` bytes together, as far as that can be told without reading them, and always one.
    """
    if sum(row.size for row in rows) <= most:
        return len(rows)
    have = await attached(server, inbox, rows)
    left = most
    for count, row in enumerate(reversed(rows)):
        left -= max(0, row.size - _beside(have.get(row.document_id, ())))
        if left < 0 and count:
            return count
    return len(rows)


def _beside(attached: Iterable[Attachment]) -> int:
    """Bytes of a mail that are surely not its bodies'."""
    sure = (each for each in attached if not each.content_type.startswith(COUNTED_DECODED))
    return sum(each.size for each in sure)


async def read(
    db: Database, server: MailServer, inbox: Inbox, rows: Sequence[messages.Message]
) -> list[bodies.Message]:
    """Whole messages; those that are gone are left out, from now on also of lists."""
    contents = await server.read(inbox.account, [row.document_id for row in rows])
    there = [(row, contents[row.document_id]) for row in rows if row.document_id in contents]
    if gone := [row.document_id for row in rows if row.document_id not in contents]:
        await edits.forget(db, inbox.place, gone)

    def shown() -> list[bodies.Message]:
        return [bodies.message(row, inbox.address, content) for row, content in there]

    # Reading a small message takes less time than handing it to a thread.
    if sum(row.size for row, _ in there) <= SMALL:
        return shown()
    return await asyncio.to_thread(shown)
