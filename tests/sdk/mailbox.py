"""What endpoint tests begin with: an inbox, a conversation with an attachment, and the calls of a scope."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from typing import Any, TypeVar

import msgspec
from agentmail.inboxes.types.create_inbox_request import CreateInboxRequest
from agentmail.inboxes.types.inbox import Inbox
from agentmail.messages.types.message_item import MessageItem

from tests.fix_app import a_mail
from tests.sdk.official import Sdk, until

T = TypeVar("T")
REPORT = b"%PDF-1.7\nfigures\n"
SUBJECT = "Quarterly figures"
WORD = "kumquat"
"""A word of the mail's body that stands nowhere else."""


class Conversation(msgspec.Struct, frozen=True):
    """An inbox and the message it received, with one attachment."""

    inbox: Inbox
    message: MessageItem

    @property
    def inbox_id(self) -> str:
        return self.inbox.inbox_id

    @property
    def pod_id(self) -> str:
        return self.inbox.pod_id

    @property
    def message_id(self) -> str:
        return self.message.message_id

    @property
    def thread_id(self) -> str:
        return self.message.thread_id

    @property
    def attachment_id(self) -> str:
        return only(self.message.attachments).attachment_id


class Scope(msgspec.Struct, frozen=True):
    """The calls of one scope, with its id already given."""

    calls: Any
    before: tuple[str, ...]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.calls, name)
        return lambda *arguments, **options: call(*self.before, *arguments, **options)


def only(things: Sequence[T] | None) -> T:
    """The one thing there is."""
    assert things is not None
    assert len(things) == 1, things
    return things[0]


def new_inbox(sdk: Sdk, name: str = "agent") -> Inbox:
    """An inbox with an address of its own, as the real server is shared."""
    username = f"{name}-{uuid.uuid4().hex[:8]}"
    return sdk.client.inboxes.create(
        request=CreateInboxRequest(username=username, display_name=name.capitalize())
    )


def report(to: str, **headers: str) -> EmailMessage:
    """A mail from outside with an attachment."""
    mail = a_mail(to, SUBJECT, f"The {WORD} grew.", **headers)
    mail.add_attachment(REPORT, maintype="application", subtype="pdf", filename="report.pdf")
    return mail


def conversation(sdk: Sdk) -> Conversation:
    """A new inbox that has received one mail."""
    inbox = new_inbox(sdk)
    sdk.deliver(report(inbox.email, Message_ID=f"<{uuid.uuid4().hex}@elsewhere.test>"))
    page = until(
        lambda: sdk.client.inboxes.messages.list(inbox.inbox_id), lambda page: page.count == 1
    )
    return Conversation(inbox, only(page.messages))
