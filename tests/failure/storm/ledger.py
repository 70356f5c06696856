"""What the world outside knows: which mails were accepted, which sends were answered, and when.

A mail whose SMTP client got no answer to its last dot may or may not have been taken: it is `doubtful`, and
may be announced once or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

OUTSIDE: Final = "gone@nowhere.test"
"""An address that takes no mail: its domain has no mail server."""


@dataclass(frozen=True)
class Sent:
    """A send that was answered 200: `recipients` are bare addresses, `at` is loop time."""

    inbox: str
    message_id: str
    recipients: tuple[str, ...]
    at: float


@dataclass
class Ledger:
    """`accepted` and `doubtful` are (inbox, Message-ID in brackets)."""

    accepted: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    doubtful: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    sent: list[Sent] = field(default_factory=list[Sent])
    attempts: int = 0
    """Requests it took to get `sent` answered."""

    def arrivals(self) -> set[tuple[str, str]]:
        """Every mail that must be announced in an inbox: from outside, and from one inbox to another."""
        local = {
            (recipient, each.message_id)
            for each in self.sent
            for recipient in each.recipients
            if recipient != OUTSIDE
        }
        return self.accepted | local
