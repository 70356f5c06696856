"""What a reply or a forward needs of the mail it is about, from the index and the mail server.

Addresses, subject and references stand in the index. The mail server is asked for what does not: the
headers that tell a machine's mail from a person's, the words of a forward, and the own Message-ID of a
mail that goes by another one. Decides nothing: `compose` does.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from agentmail_cp import addresses, filing
from agentmail_cp.compose import Parent, is_automatic
from agentmail_cp.errors import Invalid, NotFound
from agentmail_cp.mailserver import AccountId, Address, MailContent, MailServer
from agentmail_cp.messages import Message


async def read(server: MailServer, account_id: AccountId, message: Message) -> Parent:
    """What is to be known of a message that is answered or forwarded.

    Raises `NotFound` when the mail is gone, and the mail server's errors.
    """
    content = (await server.read(account_id, [message.document_id])).get(message.document_id)
    if content is None:
        raise NotFound("There is no such message.")
    if not filing.SYNTHETIC.fullmatch(message.message_id):
        return _parent(message, content, message.message_id, None)
    mails = await server.fetch(account_id, [message.document_id])
    own = mails[0].message_id if mails else None
    stand_in = None if filing.usable(own) else message.message_id
    return _parent(message, content, own, stand_in)


def _parent(
    message: Message, content: MailContent, message_id: str | None, stand_in: str | None
) -> Parent:
    own = message.direction == "sent"
    return Parent(
        date=_date(content.headers) or message.timestamp,
        sender=_address(message.sender) if message.sender else None,
        message_id=_bare(message_id) if message_id else None,
        stand_in=_bare(stand_in) if stand_in else None,
        in_reply_to=(_bare(message.in_reply_to),) if message.in_reply_to else (),
        references=tuple(map(_bare, message.references)),
        subject=message.subject or "",
        to=tuple(map(_address, message.to)),
        cc=tuple(map(_address, message.cc)),
        reply_to=tuple(map(_address, message.reply_to)),
        own=own,
        automatic=not own and is_automatic(content.headers),
        text=content.text,
        html=content.html,
        attachments=content.attachments,
    )


def _bare(message_id: str) -> str:
    return message_id.removeprefix("<").removesuffix(">")


def _address(shown: str) -> Address:
    """An address of the index; one that nobody can write to stays the text it is."""
    try:
        return addresses.parse(shown, "to")
    except Invalid:
        return Address(shown)


def _date(headers: Iterable[tuple[str, str]]) -> datetime | None:
    """When its author says to have written it, in the author's own time zone."""
    said = {name.lower(): value for name, value in headers}
    try:
        written = parsedate_to_datetime(said.get("date", ""))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return written if written.tzinfo else written.replace(tzinfo=UTC)
