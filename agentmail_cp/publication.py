"""Publication: the loop that puts written events into the order of all events, and hands them on.

One worker at a time publishes, a batch per transaction: the events get their positions, each endpoint that
wants one gets its delivery, and whoever follows the log is told, all or nothing. Killed at any moment, the
next one goes on where the last commit was. A batch is as many events as their organisations' endpoints allow
(`DELIVERIES`), so that nobody's endpoints make a transaction that PostgreSQL cannot end in time and everybody
would wait for. It owns no table.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import accumulate
from time import monotonic
from typing import Final

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from agentmail_cp import events, webhooks
from agentmail_cp.db import PATIENCE, Database, Tx
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Unpublished
from agentmail_cp.rounds import Rounds, Standstill

log = structlog.stdlib.get_logger(__name__)

BATCH: Final = 500
"""Events that are published in one transaction."""

DELIVERIES: Final = 5_000
"""Deliveries that are written in one transaction, about a tenth of a second's work, unless a single event has
more.
"""

MOST_PATIENCE: Final = 80.0
"""Seconds one statement may take at most. That is granted after statements that did not end in fewer, as one
event cannot be published by halves.
"""

LOOK: Final = 1.0
"""Seconds after which a worker looks although it was not told: whoever was publishing may have died."""

MEASURE: Final = 5.0
"""Seconds between two looks at how long the oldest unpublished event has waited."""

EVENTS = Counter("agentmail_events_published_total", "Events published by this process.")
WAITING = Gauge(
    "agentmail_events_unpublished_seconds", "How long the oldest unpublished event has waited."
)


class _Published(msgspec.Struct, frozen=True):
    """How many events were published, and whether others wait."""

    count: int
    more: bool


async def _fitting(tx: Tx, due: Sequence[Unpublished]) -> int:
    """How many of these events, from the first, are published together: at least one."""
    if len(due) <= 1:
        return len(due)
    endpoints = await webhooks.count_enabled(tx, {each.organization_id for each in due})
    sums = accumulate(endpoints.get(each.organization_id, 0) for each in due)
    return max(1, sum(total <= DELIVERIES for total in sums))


class Publication:
    """The loop of one worker."""

    def __init__(self, db: Database, *, batch: int = BATCH) -> None:
        self._db = db
        self._batch = batch
        self._patience = PATIENCE
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
        began = monotonic()
        try:
            published = await self._publish()
        except Unavailable as error:
            self._standstill.begins(str(error))
            if monotonic() - began >= self._patience:
                self._patience = min(2 * self._patience, MOST_PATIENCE)
            return LOOK
        except Exception:
            log.exception("publication.failed")
            return LOOK
        if published.count:
            # Else somebody else may be at it, be it what is left of our own attempt.
            self._patience = PATIENCE
        self._standstill.is_over()
        return 0.0 if published.more else LOOK

    async def publish_batch(self) -> int:
        """Publish what was written, a batch of it; how many events that were."""
        return (await self._publish()).count

    async def _publish(self) -> _Published:
        async with self._db.transaction(patience=self._patience) as tx:
            due = await events.unpublished(tx, limit=self._batch)
            batch = due[: await _fitting(tx, due)]
            published = await events.publish(tx, batch)
            await webhooks.fan_out(tx, published)
        EVENTS.inc(len(published))
        more = len(batch) < len(due) or len(due) == self._batch
        return _Published(len(published), more)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                async with self._db.reading() as tx:
                    WAITING.set(await events.oldest_unpublished(tx))
            await asyncio.sleep(MEASURE)
