"""Checks of the doctor that read the database: whether a worker is there, and what waits."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from agentmail_cp import access, domains
from agentmail_cp.access import Reach
from agentmail_cp.db import Database
from agentmail_cp.doctor import Patient, installation, names, service
from agentmail_cp.domains import Domain, DomainPatch, NewDomain, surveying, zone_file
from agentmail_cp.domains.presenting import wanted_of
from agentmail_cp.domains.records import hosts_of
from agentmail_cp.settings import Settings
from tests.fix_dns import DnsServer


async def patient_of(database: Database, **given: Any) -> Patient:
    settings = Settings(database_url=database.url, stalwart_connect_timeout=0.2, **given)
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


async def test_a_domain_that_works_is_looked_at_by_the_records_it_worked_by(
    database: Database, dns_server: DnsServer
) -> None:
    """One that waits for the record of its sub-domains is no failure of the operator's; nor is it out of
    sight when its DNS is gone.
    """
    found, lines = await a_working_domain(database)
    dns_server.publish(found.name, lines)
    async with await patient_of(database, dns_servers=dns_server.setting) as patient:
        assert await looked_up(patient, found.name) == (1, [])
        async with database.transaction() as tx:
            patch = DomainPatch(subdomains_enabled=True)
            await domains.update(tx, Reach(found.organization_id), found.name, patch)
        assert await looked_up(patient, found.name) == (1, [])
        dns_server.publish(found.name)
        seen = await names.domains(patient)
    assert (seen.status, f"_agentmail.{found.name}" in seen.seen) == ("failed", True)
    assert "MX *." not in seen.seen


async def looked_up(patient: Patient, name: str) -> tuple[int, list[str]]:
    """How many domains are in use, and what the doctor says of this one."""
    async with patient.db.reading() as tx:
        counted = await surveying.census(tx)
    seen = await names.domains(patient)
    return counted.working, [line for line in seen.seen.splitlines() if line.startswith(name)]


async def a_working_domain(database: Database) -> tuple[Domain, str]:
    """A domain that was verified, and the zone in which it was."""
    async with database.transaction() as tx:
        owner = Reach((await access.create_organization(tx, "Acme")).organization_id)
        made = await domains.create(tx, owner, NewDomain(name="acme.test"), most=0)
        records = wanted_of(made, [], hosts_of(Settings(database_url=database.url)))
        findings = {each.key: {"status": "VALID"} for each in records}
        await tx.execute(
            "update domain set proved_at = now(), installed_at = now(), verified_at = now(),"
            " findings = %(findings)s where domain_id = %(id)s",
            {"id": made.domain_id, "findings": Jsonb(findings)},
        )
    return made, zone_file(made.name, records)


async def test_another_release_of_postgresql_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "OLDEST", 99)
    async with await patient_of(database) as patient:
        patient.settings = Settings(database_url=database.url)
        found = await installation.postgresql(patient)
    assert (found.status, "99 to 18 are supported" in found.seen) == ("failed", True)
