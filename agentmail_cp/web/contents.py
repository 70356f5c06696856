"""What messages hold beside their index row, read from the mail server for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agentmail_cp import messages
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import DocumentId, MailContent, MailServer, MailServerUnavailable
from agentmail_cp.web import bodies

SMALL = 16_384
"""Bytes of mail that are made ready in less time than a thread is found for them."""


async def attachments_of(
    server: MailServer, inbox: Inbox, rows: Sequence[messages.Message]
) -> dict[DocumentId, MailContent]:
    """What messages with attachments hold; nothing while the mail server is away."""
    having = [row.document_id for row in rows if row.has_attachment]
    if not having:
        return {}
    try:
        return dict(await server.read(inbox.account, having))
    except MailServerUnavailable:
        return {}


async def read(
    server: MailServer, inbox: Inbox, rows: Sequence[messages.Message]
) -> list[bodies.Message]:
    """Whole messages; those that are gone are left out."""
    contents = await server.read(inbox.account, [row.document_id for row in rows])
    there = [(row, contents[row.document_id]) for row in rows if row.document_id in contents]

    def shown() -> list[bodies.Message]:
        return [bodies.message(row, inbox.address, content) for row, content in there]

    # Reading a small message takes less time than handing it to a thread.
    if sum(row.size for row, _ in there) <= SMALL:
        return shown()
    return await asyncio.to_thread(shown)
