"""How large a message may be, and every other limit that follows from it. Pure.

One setting, `max_message_size`, counts what a caller hands in: bodies and attachments, decoded. On the
way it grows: base64 makes four bytes of three, in JSON and in the mail, where each line of 76 characters
has a line break besides (RFC 2045 section 6.8). What is derived here is given to the web framework and
to Stalwart, so that nothing which is accepted at one door is refused at the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import OutgoingEmail

OVERHEAD: Final = 1_000_000
"""Bytes a request or a mail may have beside what is counted: field names, headers, part boundaries."""

_PER_SECOND: Final = 1_000_000
_LINE: Final = 57
_ENCODED_LINE: Final = 78
"""Bytes of content in one line of base64, and what that line takes in a mail."""


def request_limit(message_size: int) -> int:
    """The largest request body, in bytes."""
    return -(-message_size // 3) * 4 + OVERHEAD


def mail_limit(message_size: int) -> int:
    """The largest mail as it travels by SMTP and lies in a mailbox, in bytes."""
    return -(-message_size // _LINE) * _ENCODED_LINE + OVERHEAD


class Room:
    """What is left of the largest message while its parts come in one after the other."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left = limit

    def take(self, size: int, field: str) -> None:
        """Count `size` more bytes; raises `Invalid` TOO_LARGE when they do not fit."""
        if size > self.left:
            raise too_large(self.limit, field)
        self.left -= size

    def take_text(self, text: str | None, field: str) -> None:
        """Count a body."""
        self.take(_bytes(text), field)


def check(email: OutgoingEmail, limit: int) -> None:
    """Raise `Invalid` TOO_LARGE for a finished mail that holds too much, whatever it was made from: a
    reply quotes, a forward brings attachments along.
    """
    if size_of(email) > limit:
        raise too_large(limit, "attachments" if email.attachments else "text")


def size_of(email: OutgoingEmail) -> int:
    """Bytes of bodies and attachments."""
    attached: Iterable[int] = (each.size for each in email.attachments)
    return _bytes(email.text) + _bytes(email.html) + sum(attached)


def slack(size: int) -> float:
    """Seconds a mail server may need for this many bytes beyond what it needs for a small mail: signing,
    scanning and indexing 25 MB takes Stalwart 0.16 three seconds on two busy cores.
    """
    return size / _PER_SECOND


def patience(size: int) -> float:
    """Seconds more than a small mail's in which this one must be done: large ones wait for each other."""
    return 2 * slack(size)


def too_large(limit: int, field: str) -> Invalid:
    """The one answer to a message that is too large, however it came to be."""
    return Invalid(
        field,
        f"This message is larger than {limit} bytes, text, HTML and all attachments together.",
        fix="Leave attachments out, send several messages, or put a link to the file into the text.",
        detail="TOO_LARGE",
    )


def _bytes(text: str | None) -> int:
    if not text:
        return 0
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
