"""From what a caller wants sent to a finished mail: every header of outgoing mail is decided here.

A new mail, a reply, a reply to all and a forward are each composed by one function, and so are drafts of
them. `In-Reply-To` and `References` are written in this package and nowhere else (RFC 5322 section
3.6.4): by `reply_headers` for answers and forwards, or taken from the caller's own headers of a new mail
so that they thread. What a reply or a forward must know of the mail it is about comes in as a `Parent`.
Time, ids and randomness come in as arguments; nothing here does I/O or looks at a stored mail.
"""

from __future__ import annotations

from agentmail_cp.compose.answers import (
    Parent,
    again,
    compose_forward,
    compose_reply,
    is_automatic,
)
from agentmail_cp.compose.drafts import compose_again, compose_forward_draft, settable
from agentmail_cp.compose.ids import (
    MAX_REFERENCES,
    new_message_id,
    parse_message_ids,
    reply_headers,
)
from agentmail_cp.compose.message import (
    CONTENT_ID,
    MAX_ATTACHMENTS,
    MAX_RECIPIENTS,
    MEDIA_TYPE,
    SendMessage,
    Stamp,
    compose_send,
    ensure_few_attachments,
    ensure_few_headers,
    fingerprint,
)
from agentmail_cp.compose.subjects import MAX_SUBJECT

__all__ = [
    "CONTENT_ID",
    "MAX_ATTACHMENTS",
    "MAX_RECIPIENTS",
    "MAX_REFERENCES",
    "MAX_SUBJECT",
    "MEDIA_TYPE",
    "Parent",
    "SendMessage",
    "Stamp",
    "again",
    "compose_again",
    "compose_forward",
    "compose_forward_draft",
    "compose_reply",
    "compose_send",
    "ensure_few_attachments",
    "ensure_few_headers",
    "fingerprint",
    "is_automatic",
    "new_message_id",
    "parse_message_ids",
    "reply_headers",
    "settable",
]
