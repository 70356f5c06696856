"""Mail on its way out of the sandbox, and telling what became of it.

A mail is in the queue from `submit` until each recipient was delivered to or failed; only what is told to
be delayed stays longer than that call. Reports are told a moment later, again and again until somebody has
heard them, as Stalwart does with its webhook. Whether a recipient gets the mail, the server decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from agentmail_cp.mailserver import Outcome, QueuedMail, QueuedRecipient, QueueStatus, Report

if TYPE_CHECKING:
    from datetime import datetime

FIRST_ID = 341_700_000_000_000_000
"""Stalwart's are as large as this."""

PAUSE = 0.02
"""Seconds before reports are told, and between two tries."""

TRIES = 50
"""After which they are dropped."""

OUTCOMES = {
    QueueStatus.DELIVERED: Outcome.DELIVERED,
    QueueStatus.DELAYED: Outcome.DELAYED,
    QueueStatus.FAILED: Outcome.FAILED,
}
WAITING = frozenset({QueueStatus.SCHEDULED, QueueStatus.DELAYED})

Listener = Callable[[Sequence[Report]], Awaitable[None]]


class Outgoing(msgspec.Struct, kw_only=True):
    """A mail in the queue."""

    queue_id: int
    sender: str
    message_id: str
    raw: bytes
    recipients: dict[str, QueuedRecipient]

    def to_mail(self) -> QueuedMail:
        return QueuedMail(
            queue_id=self.queue_id,
            sender=self.sender,
            message_id=self.message_id,
            recipients=dict(self.recipients),
        )

    @property
    def waiting(self) -> list[str]:
        """Recipients without an outcome."""
        return [to for to, each in self.recipients.items() if each.status in WAITING]

    def advance(self, fates: Mapping[str, QueuedRecipient], now: datetime) -> list[Report]:
        """Note what became of these recipients; returns what is news."""
        news = [to for to, fate in fates.items() if fate.status != self.recipients[to].status]
        self.recipients.update(fates)
        return [
            Report(
                queue_id=self.queue_id,
                sender=self.sender,
                recipient=to,
                outcome=OUTCOMES[fates[to].status],
                at=now.replace(microsecond=0),
                code=fates[to].code,
                diagnostic=fates[to].diagnostic,
            )
            for to in news
        ]


class Teller:
    """Tells reports to `listener`, once there is one, in the order they came."""

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self._untold: list[Report] = []
        self._telling: asyncio.Task[None] | None = None

    def tell(self, reports: Sequence[Report]) -> None:
        if self.listener is None or not reports:
            return
        self._untold += reports
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        tries = TRIES
        while self._untold and self.listener is not None and tries:
            await asyncio.sleep(PAUSE)
            told = list(self._untold)
            try:
                await self.listener(told)
            except Exception:  # noqa: BLE001 -- Stalwart repeats whatever the reason
                tries -= 1
                continue
            tries = TRIES
            del self._untold[: len(told)]
        self._untold.clear()
