"""The route Stalwart's webhook rings, and the routes an operator's machines ask: health and metrics."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from agentmail_cp import db as database
from agentmail_cp import outcomes
from agentmail_cp.errors import Invalid, NotFound, Unauthorized, Unavailable
from agentmail_cp.stalwart import hooks
from agentmail_cp.web.auth import OPEN
from agentmail_cp.web.inject import Config, Db, Doorbell


@post(hooks.DOORBELL_PATH, opt=OPEN, status_code=204, include_in_schema=False)
async def ring(
    request: Request[Any, Any, Any],
    db: Db,
    doorbell: Doorbell,
    settings: Config,
) -> None:
    """Take a batch of Stalwart's events. Answered at once, as Stalwart sends nothing else meanwhile, but
    not before outcomes are written down, as nothing else tells them: without a database it must come again.
    """
    secret = settings.stalwart_webhook_secret
    if secret is None:
        raise NotFound(
            "This server has no doorbell: AGENTMAIL_CP_STALWART_WEBHOOK_SECRET is not set."
        )
    body = await request.body()
    if not hooks.is_signed(body, request.headers.get(hooks.SIGNATURE_HEADER), secret):
        raise Unauthorized("The signature of this batch is wrong.", code="unauthorized")
    try:
        bell = hooks.decode(body)
    except hooks.BadBell as error:
        raise Invalid("body", str(error)) from None
    doorbell.announce(bell.accounts, only_ring=bell.only_ring)
    if bell.reports or bell.enqueued:
        # One by one: what is written twice has no effect, and a batch that fails half-way comes again.
        async with db.reading() as tx:
            await outcomes.queued(tx, *bell.enqueued)
            await outcomes.note(tx, bell.reports)


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
        raise Unavailable(
            f"{len(missing)} migrations are not applied.", fix="Run `agentmail-cp migrate`."
        )
    return {"status": "ok"}


@get("/metrics", opt=OPEN, include_in_schema=False)
async def metrics() -> Response[bytes]:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
