"""Bodies of requests that send mail, and their answers."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec

from agentmail_cp import sending

Texts = str | list[str] | None
"""One text or several; the contract takes both."""


class SendAttachment(msgspec.Struct, kw_only=True):
    """An attachment to send: either `content`, as base64, or `url`, from which it is fetched."""

    content: bytes | None = None
    url: str | None = None
    filename: str | None = None
    content_type: str | None = None
    content_disposition: Literal["inline", "attachment"] | None = None
    content_id: str | None = None


class Outgoing(msgspec.Struct, kw_only=True):
    """What every mail that is sent has. Addresses are `a@b.c` or `Name <a@b.c>`, one or several: at most
    50 over `to`, `cc` and `bcc`, and 50 in `reply_to`. At most 100 attachments.
    """

    to: Texts = None
    cc: Texts = None
    bcc: Texts = None
    reply_to: Texts = None
    text: str | None = None
    html: str | None = None
    labels: Texts = None
    headers: dict[str, str] | None = None
    attachments: list[SendAttachment] | None = None
    track_opens: bool | None = None


class SendMessage(Outgoing, kw_only=True):
    """`POST …/messages/send`."""

    subject: str | None = None


class ForwardMessage(SendMessage, kw_only=True):
    """`POST …/forward`: what is said above the forwarded message; by default under its subject."""


class ReplyToMessage(Outgoing, kw_only=True):
    """`POST …/reply` and `…/reply-all`: recipients follow from the message, `to`, `cc` and `bcc` replace
    each its own; a reply to all takes none of them.
    """

    reply_all: bool | None = None


class RejectedRecipient(msgspec.Struct):
    """A recipient the mail server did not take."""

    address: str
    reason: str


class SendMessageResponse(msgspec.Struct, omit_defaults=True):
    """A mail that was handed in. `rejected` names recipients it was not handed in for."""

    message_id: str
    thread_id: UUID
    rejected: list[RejectedRecipient] = msgspec.field(default_factory=list[RejectedRecipient])


def sent(answer: sending.Answer) -> SendMessageResponse:
    """The answer of a send."""
    rejected = [RejectedRecipient(each.address, each.reason) for each in answer.rejected]
    return SendMessageResponse(answer.message_id, answer.thread_id, rejected)
