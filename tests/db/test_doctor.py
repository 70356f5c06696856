"""Checks of the doctor that read the database: whether a worker is there, and what waits."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agentmail_cp.db import Database
from agentmail_cp.doctor import Patient, installation, service
from agentmail_cp.settings import Settings


async def patient_of(database: Database) -> Patient:
    settings = Settings(database_url=database.url, stalwart_connect_timeout=0.2)
    patient = Patient(lambda: settings)
    await patient.wake()
    patient.db = database
    return patient


@pytest.mark.parametrize(
    ("age", "status", "word"),
    [
        (None, "failed", "no worker was ever here"),
        (timedelta(seconds=5), "ok", "at work"),
        (timedelta(minutes=5), "failed", "the last was seen"),
    ],
    ids=["never", "now", "gone"],
)
async def test_a_worker_that_says_nothing_is_missed(
    database: Database, age: timedelta | None, status: str, word: str
) -> None:
    """Mail would lie in Stalwart, and nobody would be told."""
    if age is not None:
        async with database.transaction() as tx:
            await tx.execute(
                "insert into procrastinate_workers (last_heartbeat) values (now() - %s::interval)",
                (age,),
            )
    async with await patient_of(database) as patient:
        found = await service.worker(patient)
    assert (found.status, word in found.seen) == (status, True)


async def test_an_empty_installation_waits_for_nothing_and_has_all_migrations(
    database: Database,
) -> None:
    """Without Stalwart its queue is another check's business."""
    async with await patient_of(database) as patient:
        assert (await service.queues(patient)).status == "ok"
        assert (await installation.migrations(patient)).status == "ok"
        assert "the database takes" in (await installation.disk(patient)).seen


async def test_another_release_of_postgresql_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "OLDEST", 99)
    async with await patient_of(database) as patient:
        patient.settings = Settings(database_url=database.url)
        found = await installation.postgresql(patient)
    assert (found.status, "99 to 18 are supported" in found.seen) == ("failed", True)
