"""Checks of this service as it runs: the API, a worker, and what waits for them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from http import HTTPStatus
from typing import Final

import msgspec

from agentmail_cp import events, intake, jobs
from agentmail_cp.doctor import probes
from agentmail_cp.doctor.checking import Finding, Status, failed, ok, warning
from agentmail_cp.doctor.patient import Patient
from agentmail_cp.doctor.probes import NoAnswer
from agentmail_cp.mailserver import MailServerError
from agentmail_cp.stalwart import health
from agentmail_cp.webhooks import claims

SILENT: Final = timedelta(seconds=30)
"""How long a worker that lives may say nothing."""


class Waits(msgspec.Struct, frozen=True):
    """Something that waits: from how many seconds on that is worth a word, and from when a failure."""

    name: str
    seconds: float
    late: float
    stuck: float
    mend: str


async def service(patient: Patient) -> Finding:
    """The API answers where Stalwart reaches it (AGENTMAIL_CP_STALWART_WEBHOOK_URL), and is ready.

    Start it with `agentmail-cp serve`. Look at its log, and at whether this machine may reach that URL at
    all: the doctor is best run where the API runs (`docker compose exec api agentmail-cp doctor`).
    """
    url = f"{patient.service_url}/health"
    try:
        reply = await probes.request(url)
    except NoAnswer as error:
        return failed(
            f"nobody answers at {url}: {error}",
            "Start the API (`agentmail-cp serve`), or correct AGENTMAIL_CP_STALWART_WEBHOOK_URL.",
        )
    if reply.status != HTTPStatus.OK:
        return failed(
            f"{url} answers {reply.status}", "Look at the log of what answers there, and its URL."
        )
    return ok(f"answers at {patient.service_url}")


async def worker(patient: Patient) -> Finding:
    """A worker is at work: it reads mail in, publishes events and delivers webhooks.

    `agentmail-cp serve` has one in it, unless started with --no-worker; `agentmail-cp worker` is one
    alone. Each says every ten seconds in PostgreSQL that it is there.
    """
    async with patient.db.reading() as tx:
        at = await jobs.seen(tx)
        row = await (await tx.execute("select now() as now")).fetchone()
    now = row["now"] if row else patient.now()
    if at is None or now - at > SILENT:
        when = (
            "no worker was ever here"
            if at is None
            else f"the last was seen {at:%Y-%m-%d %H:%M} UTC"
        )
        return failed(when, "Start one: `agentmail-cp worker`, or `serve` without --no-worker.")
    return ok("at work")


async def queues(patient: Patient) -> Finding:
    """Nothing waits for longer than it should: mail in Stalwart's queue that is due, inboxes to be read,
    events to be published, webhooks to be delivered.

    A worker that is away, or too few of them, make the last three wait. Mail that is due in Stalwart's
    queue and stays there means that its delivery is paused or held up; mail that another server deferred
    is not due. Metrics at /metrics show how these change.
    """
    mail, rows = await asyncio.gather(_in_stalwart(patient), _in_postgresql(patient))
    return judge_queues([*mail, *rows])


async def _in_stalwart(patient: Patient) -> list[Waits]:
    try:
        found = await health.waiting(patient.jmap)
    except MailServerError:
        # Another check tells.
        return []
    age = (patient.now() - found.due_since).total_seconds() if found.due_since else 0.0
    mend = "Look into Stalwart's log and queue: is delivery paused, or the machine overloaded?"
    return [Waits(f"{found.count} mails in Stalwart's queue", age, 300, 1800, mend)]


async def _in_postgresql(patient: Patient) -> list[Waits]:
    async with patient.db.reading() as tx:
        inboxes = await intake.measure(tx)
        unpublished = await events.oldest_unpublished(tx)
        deliveries = await claims.measure(tx)
    mend = "See that a worker runs, and run more of them."
    return [
        Waits("inboxes to be read", inboxes.oldest, 60, 600, mend),
        Waits("events to be published", unpublished, 30, 300, mend),
        Waits(f"{deliveries.pending} webhooks to be delivered", deliveries.overdue, 60, 900, mend),
    ]


def judge_queues(waiting: list[Waits]) -> Finding:
    """What it means that these wait for so long."""
    late = [each for each in waiting if each.seconds > each.late]
    if not late:
        return ok("nothing waits too long")
    shown = "; ".join(f"{each.name}: the oldest is due for {each.seconds:.0f} s" for each in late)
    mends = " ".join(dict.fromkeys(each.mend for each in late))
    stuck = any(each.seconds > each.stuck for each in late)
    return Finding(Status.FAILED, shown, mends) if stuck else warning(shown, mends)
