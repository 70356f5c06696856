"""Jobs keep their names and run, however often the queue is opened anew."""

from __future__ import annotations

import asyncio

import pytest

from agentmail_cp import jobs
from agentmail_cp.db import Database
from agentmail_cp.sandbox import MailSandbox
from tests.fix_app import settings_for

NAMES = {
    "agentmail:erase_retained",
    "agentmail:expire_events",
    "agentmail:forget_old",
    "agentmail:retry_stalled_jobs",
}


def test_opening_the_queue_again_renames_no_job(database_url: str) -> None:
    """After a restart of PostgreSQL no waiting job would be known any more."""
    for _ in range(3):
        app = jobs.make_app(database_url)
        assert {name for name in app.tasks if name.startswith("agentmail")} == NAMES


async def test_every_periodic_job_runs(database: Database, database_url: str) -> None:
    """Retained mail and old rows would stay for ever, and nobody would notice."""
    settings = settings_for(database_url, deleted_inbox_retention_days=1)
    resources = jobs.Resources(settings, database, MailSandbox("agents.test"))
    async with jobs.make_app(database_url).open_async() as app:
        for job in jobs.PERIODIC:
            await app.configure_task(f"agentmail:{job.name}").defer_async(timestamp=0)
        await app.run_worker_async(
            additional_context={"resources": resources}, wait=False, install_signal_handlers=False
        )
        async with database.reading() as tx:
            rows = await (await tx.execute("select status from procrastinate_jobs")).fetchall()
    assert [row["status"] for row in rows] == ["succeeded"] * len(NAMES)


async def test_a_loop_that_missed_its_end_is_told_again(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` of Python 3.11 forgets a cancellation now and then: the loop would go on with a pool
    that is closed, as fast as it can.
    """
    told: list[str] = []

    async def forgetful(_: jobs.Resources) -> None:
        while len(told) < 2:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                told.append("to end")
        raise asyncio.CancelledError

    monkeypatch.setattr(jobs, "settle_for_ever", forgetful)
    monkeypatch.setattr(jobs, "GRACE", 0.5)
    resources = jobs.Resources(settings_for(database_url), database, MailSandbox("agents.test"))
    before = asyncio.all_tasks()
    async with jobs.working(resources):
        await asyncio.sleep(0.05)
    assert told == ["to end"] * 2
    assert not {each for each in asyncio.all_tasks() - before if "for_ever" in repr(each)}
