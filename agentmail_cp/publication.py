"""Publication: the loop that puts written events into the order of all events, and hands them on.

One worker at a time publishes, a batch per transaction: the events get their positions, each endpoint that
wants one gets its delivery, and whoever follows the log is told, all or nothing. Killed at any moment, the
next one goes on where the last commit was. It owns no table.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

from agentmail_cp import events, webhooks
from agentmail_cp.db import Database
from agentmail_cp.errors import Unavailable
from agentmail_cp.rounds import Rounds, Standstill

log = structlog.stdlib.get_logger(__name__)

BATCH: Final = 500
"""Events that are published in one transaction."""

LOOK: Final = 1.0
"""Seconds after which a worker looks although it was not told: whoever was publishing may have died."""

MEASURE: Final = 5.0
"""Seconds between two looks at how long the oldest unpublished event has waited."""

EVENTS = Counter("agentmail_events_published_total", "Events published by this process.")
WAITING = Gauge(
    "agentmail_events_unpublished_seconds", "How long the oldest unpublished event has waited."
)


class Publication:
    """The loop of one worker."""

    def __init__(self, db: Database, *, batch: int = BATCH) -> None:
        self._db = db
        self._batch = batch
        self._rounds = Rounds()
        self._standstill = Standstill(log, "publication")

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds.listen(self._db, events.WRITTEN))
            group.create_task(self._rounds.run(self._step))
            group.create_task(self._watch())

    async def _step(self) -> float:
        """Publish a batch; how many seconds to wait for word of more."""
        try:
            published = await self.publish_batch()
        except Unavailable as error:
            self._standstill.begins(str(error))
            return LOOK
        except Exception:
            log.exception("publication.failed")
            return LOOK
        self._standstill.is_over()
        return 0.0 if published == self._batch else LOOK

    async def publish_batch(self) -> int:
        """Publish what was written, a batch of it; how many events that were."""
        async with self._db.transaction() as tx:
            published = await events.publish(tx, limit=self._batch)
            await webhooks.fan_out(tx, published)
        EVENTS.inc(len(published))
        return len(published)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                async with self._db.reading() as tx:
                    WAITING.set(await events.oldest_unpublished(tx))
            await asyncio.sleep(MEASURE)
