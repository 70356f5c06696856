"""Drafts: mails that may lack anything, and what becomes of a stored one when it is written again.

A draft's place in a conversation is decided when it is made; from then on its stored headers tell it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from agentmail_cp.addresses import tame
from agentmail_cp.compose.answers import Parent, in_thread_of
from agentmail_cp.compose.ids import fit
from agentmail_cp.compose.message import (
    MAX_HEADERS,
    THREADING,
    SendMessage,
    Stamp,
    check_header,
    finished,
)
from agentmail_cp.compose.subjects import forward_subject
from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import OutgoingEmail


def compose_again(
    message: SendMessage,
    stamp: Stamp,
    *,
    in_reply_to: Sequence[str],
    references: Sequence[str],
    draft: bool,
) -> OutgoingEmail:
    """A stored draft written again: as a new version (`draft`), or as the mail it becomes. The ids are
    those of its stored headers, without brackets.

    Raises as `message.finished`.
    """
    return finished(
        message,
        stamp,
        in_reply_to=tuple(in_reply_to),
        references=fit(tuple(references)) if references else (),
        draft=draft,
    )


def compose_forward_draft(message: SendMessage, parent: Parent, stamp: Stamp) -> OutgoingEmail:
    """The draft of a forward: subject and thread are the parent's, its words and attachments join when
    it is sent. Raises as `message.finished`.
    """
    subject = message.subject or forward_subject(parent.subject)
    titled = msgspec.structs.replace(message, subject=subject)
    return in_thread_of(titled, parent, stamp, draft=True)


def settable(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers of a stored draft that may be set on a mail; the others are left out."""
    found: dict[str, str] = {}
    for name, value in headers:
        tamed = tame(value)
        if name.lower() not in THREADING and _may_be_set(name, tamed):
            found.setdefault(name, tamed)
    return dict(list(found.items())[:MAX_HEADERS])


def _may_be_set(name: str, value: str) -> bool:
    try:
        check_header(name, value, "headers")
    except Invalid:
        return False
    return True
