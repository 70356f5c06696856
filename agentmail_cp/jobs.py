"""Jobs: work nobody waits for, run by procrastinate on our PostgreSQL.

Owns the procrastinate app and its periodic jobs: settling what crashed requests left, erasing retained
mail and events when their time is over, forgetting old rows, and taking up jobs of dead workers. Jobs carry
ids only, look at the row again, and may run twice. The worker also runs the loops of intake, publication and
deliveries, and loops finer than cron's minute that settle, file submitted mail and send scheduled drafts.
Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import cast

import msgspec
import procrastinate
import structlog
from procrastinate import JobContext, PsycopgConnector

from agentmail_cp import (
    credentials,
    dispatch,
    domains,
    drafts,
    events,
    idempotency,
    inboxes,
    limits,
    outcomes,
    payloads,
    sending,
    submissions,
    throttle,
    webhooks,
)
from agentmail_cp.db import Connection, Database, Tx
from agentmail_cp.domains import dkim
from agentmail_cp.errors import Unavailable
from agentmail_cp.intake import Intake
from agentmail_cp.mailserver import MailServer, MailServerError
from agentmail_cp.publication import Publication
from agentmail_cp.settings import Settings

log = structlog.stdlib.get_logger(__name__)

STALLED_AFTER = 60
"""Seconds without a worker's heartbeat after which its jobs are taken up by another."""


LONG = 600.0
"""Seconds a statement over many rows may take."""

GRACE = 4.0
"""Seconds loops that are told to stop have for it, those included that webhooks have (`delivering`)."""

AGAIN = 0.5
"""Seconds after which a loop that is late is told once more to stop."""


class Resources(msgspec.Struct, frozen=True):
    """What a job may use."""

    settings: Settings
    db: Database
    server: MailServer


def make_app(url: str) -> procrastinate.App:
    """The procrastinate app with all our jobs, on its own connections."""
    app = procrastinate.App(
        connector=PsycopgConnector(
            conninfo=url,
            min_size=1,
            max_size=3,
            connection_class=Connection,
            kwargs={},
            name="agentmail-jobs",
        )
    )
    # Made anew for each app: procrastinate's blueprints rename their tasks each time they are added.
    for job in PERIODIC:
        decorate = app.task(name=f"agentmail:{job.name}", pass_context=True, queueing_lock=job.name)
        app.periodic(cron=job.cron)(decorate(job.run))
    return app


class Periodic(msgspec.Struct, frozen=True):
    """A job that runs by the clock, one at a time."""

    name: str
    cron: str
    run: Callable[[JobContext, int], Awaitable[None]]


async def seen(tx: Tx) -> datetime | None:
    """When a worker last said that it is there, which each does every ten seconds; None where none is."""
    row = await (
        await tx.execute("select max(last_heartbeat) as at from procrastinate_workers")
    ).fetchone()
    return row["at"] if row else None


def _resources(context: JobContext) -> Resources:
    return cast("dict[str, Resources]", context.additional_context)["resources"]


async def erase_retained(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Erase the mail of inboxes deleted longer ago than the retention setting."""
    resources = _resources(context)
    days = resources.settings.deleted_inbox_retention_days
    if days is not None:
        await inboxes.erase_retained(resources.db, resources.server, days=days)


async def expire_events(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Remove events, and deliveries of events, that are older than the retention setting."""
    resources = _resources(context)
    days = resources.settings.event_retention_days
    await events.expire(resources.db, days=days)
    async with resources.db.transaction(patience=LONG) as tx:
        await webhooks.forget_old(tx, timedelta(days=days))


async def forget_old(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Remove rows of finished sends, submissions, windows and Idempotency-Keys that nobody asks for any
    more.
    """
    async with _resources(context).db.transaction(patience=LONG) as tx:
        await sending.forget_old(tx)
        await submissions.forget_old(tx)
        await outcomes.forget_old(tx)
        await limits.forget_old(tx)
        await throttle.forget_old(tx)
        await credentials.app_passwords.forget_old(tx)
        await idempotency.forget_old(tx)


async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Give the jobs of workers that died to others; procrastinate does not by itself."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_AFTER):
        await manager.retry_job(job)


PERIODIC = (
    Periodic("erase_retained", "17 3 * * *", erase_retained),
    Periodic("expire_events", "41 * * * *", expire_events),
    Periodic("forget_old", "23 * * * *", forget_old),
    Periodic("retry_stalled_jobs", "* * * * *", retry_stalled_jobs),
)


async def settle_for_ever(resources: Resources) -> None:
    """Settle interrupted domains, inboxes, pauses, sends and drafts, every `settle_interval` seconds."""
    settle_domains = partial(domains.settle, sealing_key=dkim.sealing_key(resources.settings))
    settling = (
        *(settle_domains, inboxes.settle, inboxes.settle_pauses),
        *(sending.settle, drafts.settle),
    )
    while True:
        for settle in settling:
            await _attempt(settle, resources)
        await asyncio.sleep(resources.settings.settle_interval)


async def file_for_ever(resources: Resources) -> None:
    """File mail that clients handed in over SMTP, as soon as it is due."""
    while True:
        settled = await _attempt(submissions.settle, resources)
        pause = submissions.LOOK if settled else resources.settings.settle_interval
        await asyncio.sleep(pause)


async def set_passwords_for_ever(resources: Resources) -> None:
    """Let revoked API keys open no mailbox, and bring mail passwords that are due to the mail server."""
    while True:
        await _attempt(credentials.settle, resources)
        await asyncio.sleep(credentials.LOOK)


async def fire_for_ever(resources: Resources) -> None:
    """Send scheduled drafts when their time has come."""
    patience = resources.settings.stalwart_patience
    defaults = limits.defaults(resources.settings)

    async def fire(db: Database, server: MailServer) -> int:
        return await dispatch.fire_due(db, server, patience=patience, defaults=defaults)

    while True:
        fired = await _attempt(fire, resources)
        await asyncio.sleep(dispatch.LOOK if fired else dispatch.RECOVERY)


async def deliver_for_ever(resources: Resources) -> None:
    """Deliver events to webhooks."""
    render = partial(payloads.render, resources.db, resources.server)
    allowed = resources.settings.outbound_networks
    await webhooks.Delivering(resources.db, render, allowed).run()


async def _attempt(
    settle: Callable[[Database, MailServer], Awaitable[int]], resources: Resources
) -> bool:
    """Settle what there is; False when that has to wait."""
    try:
        await settle(resources.db, resources.server)
    except (Unavailable, MailServerError) as error:
        log.warning("settle.waiting", reason=type(error).__name__)
    except Exception:
        log.exception("settle.failed")
    else:
        return True
    return False


async def run_jobs(resources: Resources) -> None:
    """Run procrastinate's worker until cancelled, opening it again when PostgreSQL went away."""
    while True:
        try:
            async with make_app(resources.settings.database_url).open_async() as app:
                await app.run_worker_async(
                    additional_context={"resources": resources},
                    install_signal_handlers=False,
                    delete_jobs="successful",
                    concurrency=4,
                )
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, jobs must go on
            log.warning("jobs.waiting", reason=type(error).__name__)
        await asyncio.sleep(1.0)


@contextlib.asynccontextmanager
async def working(resources: Resources) -> AsyncGenerator[None]:
    """A running worker: intake, settling and jobs, stopped when the block ends."""
    settings = resources.settings
    intake = Intake(
        resources.db,
        resources.server,
        batch=settings.intake_batch,
        sweep_interval=settings.sweep_interval,
        feedback_enabled=settings.feedback_enabled,
        unauthenticated=settings.unauthenticated,
    )
    defaults = limits.defaults(settings)
    watching = outcomes.Watching(resources.db, resources.server, defaults)
    checking = domains.Checking(resources.db, resources.server, settings)
    loops = [
        asyncio.create_task(for_ever("intake", intake.run)),
        asyncio.create_task(for_ever("publication", Publication(resources.db).run)),
        asyncio.create_task(for_ever("deliveries", lambda: deliver_for_ever(resources))),
        asyncio.create_task(for_ever("outcomes", watching.run)),
        asyncio.create_task(for_ever("settle", lambda: settle_for_ever(resources))),
        asyncio.create_task(for_ever("submissions", lambda: file_for_ever(resources))),
        asyncio.create_task(for_ever("credentials", lambda: set_passwords_for_ever(resources))),
        asyncio.create_task(for_ever("drafts", lambda: fire_for_ever(resources))),
        asyncio.create_task(for_ever("domains", checking.run)),
    ]
    jobs = asyncio.create_task(for_ever("jobs", lambda: run_jobs(resources)))
    try:
        yield
    finally:
        # Told twice, procrastinate leaves its jobs where they are.
        await end([*loops, jobs])


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Tell loops to stop, and wait until they have: they may need `GRACE` seconds to put away what they have.

    Those that have not ended by then are told again and again, for as long: they wait for what never answers,
    or were not told at all, as `asyncio.wait_for` of Python 3.11, by which dnspython waits, forgets a
    cancellation that comes together with what it waits for.
    """
    left = await _tell_to_end(tasks, GRACE)
    if left:
        log.warning("loops.end_late", count=len(left))
    until = monotonic() + GRACE
    while left and monotonic() < until:
        left = await _tell_to_end(left, AGAIN)


async def _tell_to_end(
    tasks: Collection[asyncio.Task[None]], seconds: float
) -> set[asyncio.Task[None]]:
    """Those that have not ended within so many seconds."""
    for each in tasks:
        each.cancel()
    return (await asyncio.wait(tasks, timeout=seconds))[1] if tasks else set()


async def for_ever(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop until cancelled. One that ends by itself is a bug: say so loudly, and begin anew."""
    task = asyncio.current_task()
    while True:
        try:
            await loop()
        except Exception:
            log.exception("loop.ended", loop=name)
        # Told to stop, procrastinate returns instead of raising.
        if task is not None and task.cancelling():
            return
        await asyncio.sleep(1.0)
