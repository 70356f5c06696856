"""The route Stalwart's webhook rings, and the routes an operator's machines ask: health and metrics."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from litestar import Response, get, post
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from agentmail_cp import db as database
from agentmail_cp import outcomes
from agentmail_cp.db import Database
from agentmail_cp.errors import Invalid, NotFound, Unauthorized
from agentmail_cp.stalwart import hooks
from agentmail_cp.web.auth import OPEN
from agentmail_cp.web.inject import Config, Db, Doorbell
from agentmail_cp.web.requests import JsonRequest

log = structlog.stdlib.get_logger(__name__)


LARGE: Final = 256_000
"""Bytes from which a batch is read in a thread, not to hold up everybody else."""

LARGEST_BATCH: Final = 64_000_000
"""Bytes of the largest batch that is read. After an outage Stalwart sends all it kept at once, and goes on
until somebody takes it."""

AT_ONCE: Final = 1_000
"""Reports one statement writes down."""


@post(
    hooks.DOORBELL_PATH,
    opt=OPEN,
    status_code=204,
    include_in_schema=False,
    request_max_body_size=None,
)
async def ring(request: JsonRequest, db: Db, doorbell: Doorbell, settings: Config) -> None:
    """Take a batch of Stalwart's events. Answered at once, as Stalwart sends nothing else meanwhile, but
    not before outcomes are written down, as nothing else tells them: without a database it must come again.
    """
    secret = settings.stalwart_webhook_secret
    if secret is None:
        raise NotFound(
            "This server has no doorbell: AGENTMAIL_CP_STALWART_WEBHOOK_SECRET is not set."
        )
    body = await _read(request, secret)
    if body is None:
        return
    bell = await _decode(body)
    doorbell.announce(bell.accounts, only_ring=bell.only_ring)
    if bell.reports or bell.enqueued:
        await _write_down(db, bell)


async def _read(request: JsonRequest, secret: str) -> bytes | None:
    """The signed batch, None for one too large to be read: refused, it would come again for ever, with
    everything that happens meanwhile. Sweeps find the mail, and the queue is asked for outcomes.
    """
    seal, parts, size = hooks.Seal(secret), list[bytes](), 0
    async for chunk in request.chunks():
        seal.update(chunk)
        parts.append(chunk)
        size += len(chunk)
        if size > LARGEST_BATCH:
            parts.clear()
    if not seal.matches(request.headers.get(hooks.SIGNATURE_HEADER)):
        raise Unauthorized("The signature of this batch is wrong.", code="unauthorized")
    if size > LARGEST_BATCH:
        log.error("doorbell.flood", size=size)
        return None
    return b"".join(parts)


async def _decode(body: bytes) -> hooks.Bell:
    try:
        if len(body) < LARGE:
            return hooks.decode(body)
        return await asyncio.to_thread(hooks.decode, body)
    except hooks.BadBell as error:
        raise Invalid("body", str(error)) from None


async def _write_down(db: Database, bell: hooks.Bell) -> None:
    """One by one: what is written twice has no effect, and a batch that fails half-way comes again."""
    async with db.reading() as tx:
        for start in range(0, len(bell.enqueued), AT_ONCE):
            await outcomes.queued(tx, *bell.enqueued[start : start + AT_ONCE])
        for start in range(0, len(bell.reports), AT_ONCE):
            await outcomes.note(tx, bell.reports[start : start + AT_ONCE])


@get("/health/live", opt=OPEN, include_in_schema=False)
async def live() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@get("/health", opt=OPEN, include_in_schema=False)
async def ready(db: Db) -> dict[str, str]:
    """The database answers and has this release's schema. A mail server that is away is no reason to
    take this replica out: thread lists still answer.
    """
    async with db.reading() as tx:
        missing = await database.pending(tx)
    if missing:
        raise database.not_migrated(missing)
    return {"status": "ok"}


@get("/metrics", opt=OPEN, include_in_schema=False)
async def metrics() -> Response[bytes]:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
