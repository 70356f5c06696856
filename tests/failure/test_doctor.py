"""The doctor on a real installation: nothing to say of a healthy one, the right word for each fault."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import pytest_asyncio
from psycopg import sql

from agentmail_cp import access, doctor, jobs
from agentmail_cp.db import Tx
from agentmail_cp.doctor import Finding, Kind, Patient, names, probes, trip
from agentmail_cp.domains import keys
from agentmail_cp.domains.presenting import wanted_of
from agentmail_cp.domains.records import hosts_of
from agentmail_cp.domains.zone import zone_file
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.mtahook import HOOK_PATH
from tests.certificates import Authority
from tests.domains import a_name, verified_domain
from tests.fix_app import Service, until
from tests.fix_dns import DnsServer
from tests.fix_front_door import FrontDoor
from tests.fix_process import free_port
from tests.fix_stalwart import DOMAIN, StalwartServer
from tests.relay import tls_relay

pytestmark = pytest.mark.stalwart

HOST = "127.0.0.1"
MOST = 15.0
"""Seconds a healthy installation may take to be examined."""

PATIENCE = 20.0
"""Seconds any check may take here: how busy the machine is, is no question of these tests."""

Findings = dict[str, Finding]


class Clinic:
    """A running service and its mail server, and how they are examined."""

    def __init__(
        self,
        service: Service,
        stalwart: StalwartServer,
        front_door: FrontDoor,
        dns_server: DnsServer,
    ) -> None:
        ports = stalwart.process.ports
        self.dns_server = dns_server
        self.stalwart = stalwart
        self.front_door = front_door
        self.service = service
        self.settings = msgspec.structs.replace(
            service.settings,
            stalwart_url=stalwart.url,
            stalwart_key=stalwart.key,
            stalwart_timeout=5.0,
            stalwart_webhook_url=front_door.url,
            dns_servers=dns_server.setting,
            smtp_host=HOST,
            smtp_port=ports.submission,
            smtps_port=ports.submissions,
            mx_port=ports.smtp,
            mail_host="localhost",
            imap_host=HOST,
            imap_port=ports.imaps,
        )

    async def examine(self, *, late: float = 0.0, **changes: Any) -> Findings:
        """Examine, with other settings and a clock that is late."""
        settings = msgspec.structs.replace(self.settings, **changes)
        kind = Kind(dev=True, own=self.stalwart.process.wanted.own)

        def now() -> datetime:
            return datetime.now(UTC) - timedelta(seconds=late)

        checks = [msgspec.structs.replace(each, seconds=PATIENCE) for each in doctor.CHECKS]
        async with Patient(lambda: settings, kind, now=now) as patient:
            return await doctor.examine(patient, checks)

    async def settle_in(self) -> None:
        """Give DNS what the service's own domain and a customer's need."""
        domain = await verified_domain(self.service, a_name(self.service))
        hosts = hosts_of(self.settings)
        async with self.service.db.reading() as tx:
            held = await keys.of_domain(tx, domain.organization_id, domain.domain_id)
        self.customer, self.zone = (
            domain.name,
            zone_file(domain.name, wanted_of(domain, held, hosts)),
        )
        self.dns_server.publish(domain.name, self.zone)
        own = self.settings.domain
        self.dns_server.publish(own, zone_file(own, names.own_records(self.settings)))
        self.dns_server.publish("localhost", "@ IN A 127.0.0.1\n")
        await until(self._worker_seen, bool, seconds=PATIENCE)

    async def _worker_seen(self) -> bool:
        async with self.service.db.reading() as tx:
            return await jobs.seen(tx) is not None

    async def traces(self) -> list[str]:
        """What of a doctor is in the database and in Stalwart."""
        async with self.service.db.reading() as tx:
            rows = await (await tx.execute(_TABLES)).fetchall()
            tables = [str(row["table_name"]) for row in rows]
            found = [table for table in tables if await _has_rows(tx, table)]
        accounts = await self.stalwart.call("x:Account/query", {"filter": {"text": "doctor-"}})
        return found + accounts["ids"]


_TABLES = (
    "select table_name from information_schema.columns where column_name = 'organization_id'"
    " and table_schema = current_schema() order by table_name"
)


async def _has_rows(tx: Tx, table: str) -> bool:
    query = sql.SQL("select from {} where organization_id = %s limit 1")
    cursor = await tx.execute(query.format(sql.Identifier(table)), (access.HIDDEN,))
    return cursor.rowcount > 0


@pytest_asyncio.fixture
async def clinic(
    real_service: Service,
    stalwart: StalwartServer,
    front_door: FrontDoor,
    dns_server: DnsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Clinic:
    monkeypatch.setattr(probes, "TIMEOUT", PATIENCE)
    monkeypatch.setattr(trip, "WAIT", PATIENCE)
    found = Clinic(real_service, stalwart, front_door, dns_server)
    await found.settle_in()
    return found


def failed(found: Findings) -> Findings:
    return {name: each for name, each in found.items() if each.status == "failed"}


async def test_a_healthy_installation_is_all_green_within_the_time(clinic: Clinic) -> None:
    started = monotonic()
    found = await clinic.examine()
    seconds = monotonic() - started
    assert {
        name: each for name, each in found.items() if each.status not in {"ok", "skipped"}
    } == {}
    assert {name for name, each in found.items() if each.status == "skipped"} <= NOWHERE
    assert seconds < MOST
    assert await clinic.traces() == []


NOWHERE = {"reverse_dns", "port_25"}
"""Checks that have nothing to look at on a machine that the internet cannot reach."""

Changes = dict[str, Any]
Fault = Callable[[Clinic, Path], AbstractAsyncContextManager[Changes]]


@asynccontextmanager
async def postgresql_down(clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    parts = urlsplit(clinic.settings.database_url)
    yield {"database_url": parts._replace(netloc=f"{HOST}:{free_port()}").geturl()}


@asynccontextmanager
async def migration_behind(clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    async with clinic.service.db.transaction() as tx:
        cursor = await tx.execute(
            "delete from migration where name = (select max(name) from migration)"
            " returning name, digest"
        )
        row = await cursor.fetchone()
    yield {}
    async with clinic.service.db.transaction() as tx:
        await tx.execute("insert into migration (name, digest) values (%(name)s, %(digest)s)", row)


@asynccontextmanager
async def drift(clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    for plain in (True, False):
        update = {"update": {"singleton": {"allowPlainTextAuth": plain}}}
        await clinic.stalwart.call("x:Imap/set", update)
        if plain:
            yield {}


@asynccontextmanager
async def missing_permission(clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    lacks = {"@type": "Disable", "permissions": {"jmapEmailImport": True}}
    key = {"description": "a poor key", "permissions": lacks}
    done = await clinic.stalwart.call("x:ApiKey/set", {"create": {"key": key}})
    made = done["created"]["key"]
    yield {"stalwart_key": made["secret"]}
    await clinic.stalwart.call("x:ApiKey/set", {"destroy": [made["id"]]})


@asynccontextmanager
async def expired_certificate(clinic: Clinic, folder: Path) -> AsyncGenerator[Changes]:
    pair = Authority().sign(f"mail.{DOMAIN}", left=timedelta(days=-1))
    async with tls_relay(folder, pair, clinic.settings.imap_port) as port:
        yield {"imap_port": port}


@asynccontextmanager
async def port_closed(_clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    yield {"smtps_port": free_port()}


@asynccontextmanager
async def doorbell_unreachable(clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    with clinic.front_door.barring(DOORBELL_PATH):
        yield {}


@asynccontextmanager
async def hook_unreachable(clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    with clinic.front_door.barring(HOOK_PATH):
        yield {}


@asynccontextmanager
async def dns_wrong(clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    wrong = clinic.zone.replace("MX 10 localhost.", "MX 10 mail.elsewhere.test.")
    assert wrong != clinic.zone
    clinic.dns_server.publish(clinic.customer, wrong)
    yield {}


@asynccontextmanager
async def clock_off(_clinic: Clinic, _: Path) -> AsyncGenerator[Changes]:
    yield {"late": 60.0}


@pytest.mark.parametrize(
    ("fault", "named", "word"),
    [
        pytest.param(postgresql_down, "postgresql", "cannot be used", id="PostgreSQL down"),
        pytest.param(migration_behind, "migrations", "1 not applied", id="migration behind"),
        pytest.param(drift, "drift", "allowPlainTextAuth", id="drift"),
        pytest.param(missing_permission, "permissions", "jmapEmailImport", id="missing permission"),
        pytest.param(expired_certificate, "certificates", "expired on", id="expired certificate"),
        pytest.param(port_closed, "listeners", "submissions", id="port closed"),
        pytest.param(doorbell_unreachable, "doorbell", DOORBELL_PATH, id="doorbell unreachable"),
        pytest.param(hook_unreachable, "hook", HOOK_PATH, id="hook unreachable"),
        pytest.param(dns_wrong, "domains", "mail.elsewhere.test", id="DNS wrong"),
        pytest.param(clock_off, "clock", "this machine's clock is off", id="clock off"),
    ],
)
async def test_a_fault_is_named_and_nothing_else(
    clinic: Clinic, tmp_path: Path, fault: Fault, named: str, word: str
) -> None:
    """Whatever follows from it is skipped, and says from what; nothing is left behind."""
    async with fault(clinic, tmp_path) as changes:
        found = await clinic.examine(**changes)
    assert {name: each.seen for name, each in failed(found).items() if name != named} == {}
    assert (found[named].status, word in found[named].seen) == ("failed", True), found[named]
    assert found[named].mend
    assert {each.because for each in found.values() if each.because} <= {named}
    assert await clinic.traces() == []
