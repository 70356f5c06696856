"""Replies and forwards: what the mail they are about decides of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from agentmail_cp.addresses import mailable, tame
from agentmail_cp.compose.forwarded import Forwarded, with_forwarded
from agentmail_cp.compose.ids import reply_headers
from agentmail_cp.compose.message import (
    CONTENT_ID,
    MEDIA_TYPE,
    THREADING,
    SendMessage,
    Stamp,
    finished,
)
from agentmail_cp.compose.subjects import forward_subject, reply_subject
from agentmail_cp.errors import Invalid, Unprocessable
from agentmail_cp.mailserver import Address, Attachment, OutgoingAttachment, OutgoingEmail

_AUTO_SUBMITTED = "Auto-Submitted"
_ANY_TYPE = "application/octet-stream"
_MAX_FILENAME = 255
_CHARSET = re.compile(r"[\w.:+-]{1,40}", re.ASCII)
_WORD_ENDS = re.compile(r"[\s;(]")
_BULK = frozenset({"bulk", "list", "junk"})


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply or a forward needs of the stored mail it is about. Ids carry no brackets.

    `message_id` is the mail's own; `stand_in` the id our index made for a mail without a usable one.
    `own` means that the inbox wrote it, `automatic` that no person did (see `is_automatic`). `text`,
    `html` and `attachments` (blobs of the same account) are for forwards only.
    """

    date: datetime
    sender: Address | None = None
    message_id: str | None = None
    stand_in: str | None = None
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    subject: str = ""
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    own: bool = False
    automatic: bool = False
    text: str | None = None
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()


def compose_reply(
    message: SendMessage,
    parent: Parent,
    stamp: Stamp,
    *,
    everyone: bool = False,
    draft: bool = False,
) -> OutgoingEmail:
    """A reply. Without `to` it goes to whom the parent asks replies to be sent, or to its sender; to
    the recipients of a mail of the inbox's own. `everyone` adds the parent's other recipients.

    Raises as `message.finished`, `Unprocessable` when nobody is left to reply to, and `Invalid` for
    recipients beside `everyone`.
    """
    _refuse_threading(message)
    if everyone and (message.to or message.cc or message.bcc):
        raise Invalid(
            "reply_all",
            "A reply to all has the recipients of the message it answers.",
            fix="Leave out to, cc and bcc, or reply without reply_all.",
        )
    to, cc = _recipients(parent, stamp.sender.email, everyone=everyone)
    to, cc = message.to or to, message.cc or cc
    if not (to or cc or message.bcc or draft):
        raise Unprocessable(
            "There is nobody to reply to: the message names no other address that takes mail.",
            fix="Reply with at least one address in to.",
            field="to",
            detail="REQUIRED",
        )
    answer = msgspec.structs.replace(
        message,
        to=to,
        cc=cc,
        subject=message.subject or reply_subject(parent.subject),
        headers=_with_automatic(message, parent),
    )
    return in_thread_of(answer, parent, stamp, draft=draft)


def compose_forward(
    message: SendMessage, parent: Parent, stamp: Stamp, *, draft: bool = False
) -> OutgoingEmail:
    """A forward: the caller's words, then the parent's with its attachments, in the parent's thread.

    Raises as `message.finished`. Takes time on a large parent: call it off the event loop.
    """
    _refuse_threading(message)
    forwarded = Forwarded(
        sender=parent.sender,
        date=parent.date,
        subject=parent.subject,
        to=parent.to,
        cc=parent.cc,
        text=parent.text,
        html=parent.html,
    )
    text, html = with_forwarded(message.text, message.html, forwarded)
    whole = msgspec.structs.replace(
        message,
        subject=message.subject or forward_subject(parent.subject),
        text=text,
        html=html,
        attachments=(*message.attachments, *map(again, parent.attachments)),
    )
    return in_thread_of(whole, parent, stamp, draft=draft)


def again(attachment: Attachment) -> OutgoingAttachment:
    """A stranger's attachment, with nothing in its headers that could not stand there."""
    content_type, content_id = attachment.content_type, attachment.content_id or ""
    charset = attachment.charset or ""
    if not MEDIA_TYPE.fullmatch(content_type):
        content_type = _ANY_TYPE
    elif _CHARSET.fullmatch(charset):
        content_type += f"; charset={charset}"
    return OutgoingAttachment(
        blob_id=attachment.blob_id,
        content_type=content_type,
        filename=tame(attachment.filename or "")[:_MAX_FILENAME] or None,
        content_id=content_id if CONTENT_ID.fullmatch(content_id) else None,
        inline=attachment.inline,
        size=attachment.size,
    )


def is_automatic(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether a machine wrote the mail with these headers, so that an answer must say that it is one
    itself (RFC 3834 section 2 and 5): or two machines answer each other for ever.
    """
    return any(_says_automatic(name.lower(), value) for name, value in headers)


def _says_automatic(name: str, value: str) -> bool:
    word = _WORD_ENDS.split(value.strip().lower(), maxsplit=1)[0]
    match name:
        case "auto-submitted":
            return word not in {"", "no"}
        case "precedence":
            return word in _BULK
        case "return-path":
            return word == "<>"
        case _:
            return False


def _refuse_threading(message: SendMessage) -> None:
    for name in message.headers:
        if name.lower() in THREADING:
            raise Invalid(
                f"headers.{name}",
                f"The header {name} cannot be set on a reply or a forward.",
                fix="Leave it out: it names the message this one is about.",
                detail="RESERVED_HEADER",
            )


def in_thread_of(
    message: SendMessage, parent: Parent, stamp: Stamp, *, draft: bool
) -> OutgoingEmail:
    """The mail, as one of the parent's thread."""
    stand_in = (parent.stand_in,) if parent.stand_in else ()
    in_reply_to, references = reply_headers(
        parent.message_id or parent.stand_in or "",
        (*(parent.references or parent.in_reply_to), *stand_in),
    )
    return finished(message, stamp, in_reply_to=in_reply_to, references=references, draft=draft)


def _with_automatic(message: SendMessage, parent: Parent) -> dict[str, str]:
    headers = dict(message.headers)
    said = {name.lower() for name in headers}
    if parent.automatic and _AUTO_SUBMITTED.lower() not in said:
        headers[_AUTO_SUBMITTED] = "auto-replied"
    return headers


def _recipients(
    parent: Parent, own: str, *, everyone: bool
) -> tuple[tuple[Address, ...], tuple[Address, ...]]:
    """Whom an answer goes to of itself: its to and its cc."""
    sender = (parent.sender,) if parent.sender else ()
    # Asked to answer itself, the inbox would talk to itself for ever.
    reply_to = _without(own, parent.reply_to)
    from_here = parent.own or (not reply_to and _without(own, sender) != sender)
    answered = parent.to if from_here else reply_to or sender
    if everyone:
        to = _distinct(_without(own, (*answered, *parent.to)))
        return to, _distinct(_without(own, parent.cc), seen=to)
    # Nothing but the inbox itself is left of a note to oneself, and that is who it is for.
    others = _without(own, answered) if from_here else answered
    return _distinct(others or answered), ()


def _without(own: str, addresses: Sequence[Address]) -> tuple[Address, ...]:
    """The addresses that are not the inbox's, which `name+tag@…` of it is too."""
    local, _, domain = own.casefold().rpartition("@")
    return tuple(
        each
        for each in addresses
        if _tagless(each.email.casefold().rpartition("@")) != (local, domain)
    )


def _tagless(parts: tuple[str, str, str]) -> tuple[str, str]:
    return parts[0].partition("+")[0], parts[2]


def _distinct(addresses: Iterable[Address], seen: Iterable[Address] = ()) -> tuple[Address, ...]:
    """Each address once, whatever its case, without those that mail cannot be sent to."""
    known = {each.email.casefold() for each in seen}
    found: dict[str, Address] = {}
    for address in addresses:
        fit = mailable(address)
        if fit is not None and fit.email.casefold() not in known:
            found.setdefault(fit.email.casefold(), fit)
    return tuple(found.values())
