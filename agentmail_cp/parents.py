"""Reading the stored mail that a reply or a forward is about.

The index holds neither its own Message-ID where that cannot be used, nor the headers that tell a machine's
mail from a person's, nor its words: the mail server is asked for them. Decides nothing: `compose` does.
"""

from __future__ import annotations

import asyncio

from agentmail_cp import filing
from agentmail_cp.compose import Parent, is_automatic
from agentmail_cp.errors import NotFound
from agentmail_cp.mailserver import AccountId, Mail, MailContent, MailServer
from agentmail_cp.messages import Message


async def read(server: MailServer, account_id: AccountId, message: Message) -> Parent:
    """What is to be known of a message that is answered or forwarded.

    Raises `NotFound` when the mail is gone, and the mail server's errors.
    """
    wanted = [message.document_id]
    mails, contents = await asyncio.gather(
        server.fetch(account_id, wanted), server.read(account_id, wanted)
    )
    content = contents.get(message.document_id)
    if not mails or content is None:
        raise NotFound("There is no such message.")
    return _parent(message, mails[0], content)


def _parent(message: Message, mail: Mail, content: MailContent) -> Parent:
    stands_in = None if filing.usable(mail.message_id) else message.message_id.strip("<>")
    own = message.direction == "sent"
    return Parent(
        date=mail.sent_at or mail.received_at,
        sender=mail.sender,
        message_id=mail.message_id,
        stand_in=stands_in,
        in_reply_to=mail.in_reply_to,
        references=mail.references,
        subject=mail.subject or "",
        to=mail.to,
        cc=mail.cc,
        reply_to=mail.reply_to,
        own=own,
        automatic=not own and is_automatic(content.headers),
        text=content.text,
        html=content.html,
        attachments=content.attachments,
    )
