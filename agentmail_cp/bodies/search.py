"""Bodies of search answers. `complete` is an addition to the contract: false says that there may be more
hits that only the mail server knows of.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentmail_cp import search
from agentmail_cp.bodies.attachments import AttachmentItem
from agentmail_cp.bodies.inboxes import Inbox
from agentmail_cp.bodies.messages import MessageItem, message_fields
from agentmail_cp.bodies.threads import ThreadItem, thread_fields
from agentmail_cp.mailserver import Attachment
from agentmail_cp.search.hits import Highlights


class SearchHighlights(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Fragments of what matched, hits between `**`. A field is there only when something in it did."""

    sender: list[str] | None = msgspec.field(name="from", default=None)
    recipients: list[str] | None = None
    subject: list[str] | None = None
    text: list[str] | None = None


class SearchMessageItem(MessageItem, omit_defaults=True, kw_only=True):
    """A message that was found."""

    highlights: SearchHighlights | None = None


class SearchThreadItem(ThreadItem, omit_defaults=True, kw_only=True):
    """A thread that was found."""

    highlights: SearchHighlights | None = None


class SearchMessages(msgspec.Struct, omit_defaults=True):
    """One page of messages, best match first."""

    count: int
    limit: int
    messages: list[SearchMessageItem]
    complete: bool
    next_page_token: str | None = None


class SearchThreads(msgspec.Struct, omit_defaults=True):
    """One page of threads, best match first."""

    count: int
    limit: int
    threads: list[SearchThreadItem]
    complete: bool
    next_page_token: str | None = None


class SearchInboxes(msgspec.Struct, omit_defaults=True):
    """One page of inboxes, best match first. It may be empty and still have a next one."""

    count: int
    limit: int
    inboxes: list[Inbox]
    next_page_token: str | None = None


def found_message(
    hit: search.MessageHit, address: str, attachments: Sequence[Attachment]
) -> SearchMessageItem:
    """A message that was found, with what it has attached."""
    return SearchMessageItem(
        **message_fields(hit.message, address, attachments), highlights=_shown(hit.highlights)
    )


def found_thread(
    hit: search.ThreadHit, address: str, attached: list[AttachmentItem] | None
) -> SearchThreadItem:
    """A thread that was found, with what its messages have attached."""
    return SearchThreadItem(
        **thread_fields(hit.thread, address, attached), highlights=_shown(hit.highlights)
    )


def _shown(found: Highlights) -> SearchHighlights | None:
    shown = SearchHighlights(
        sender=found.sender,
        recipients=found.recipients,
        subject=found.subject,
        text=found.text,
    )
    return shown if found.any else None
