"""The start of `serve` and `worker`: what is wrong is said in words, and what may pass stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from agentmail_cp import db
from tests.failure.real import Ringing, service
from tests.fix_app import until
from tests.fix_pg import fresh_database
from tests.fix_process import ServiceProcess
from tests.fix_proxy import Proxy, port_of, through

REFUSED = "Stalwart does not accept the login."
PATIENCE = 15.0


async def until_logged(process: ServiceProcess, words: str) -> str:
    """Wait for a line of the log."""

    async def look() -> str:
        return await asyncio.to_thread(lambda: process.log)

    return await until(look, lambda log: words in log, seconds=PATIENCE, pause=0.05)


@pytest.mark.stalwart
@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_wrong_key_is_told_at_the_start(
    command: str, ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """The start looks well, and nobody looks for the key when every request fails."""
    async with service(tmp_path, ringing, database_url, command, stalwart_key="API_x") as process:
        log = await until_logged(process, REFUSED)
        assert process.running
    assert "mail_server.unusable" in log
    assert "mail_server.ready" not in process.log


@pytest.mark.stalwart
@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_mail_server_that_comes_up_later_is_looked_at_then(
    command: str, ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """Whatever starts together would be looked at by none of its parts."""
    async with Proxy(port_of(ringing.process.url)) as proxy:
        url = through(ringing.process.url, proxy)
        proxy.refuse()
        async with service(tmp_path, ringing, database_url, command, stalwart_url=url) as process:
            await until_logged(process, "mail_server.waiting")
            await proxy.heal()
            log = await until_logged(process, "mail_server.ready")
    assert "permissions_missing" not in log


@pytest_asyncio.fixture
async def own_database(postgres_url: str) -> AsyncGenerator[str]:
    """A database without a single table."""
    with fresh_database(postgres_url, "start") as url:
        yield url


def unattended(url: str, folder: Path, command: str, **changes: object) -> ServiceProcess:
    """A service without a mail server."""
    away = {"stalwart_url": "http://127.0.0.1:9", "stalwart_key": "API_x"}
    return ServiceProcess(folder, {"database_url": url, **away, **changes}, command)


async def said_at_its_end(process: ServiceProcess) -> str:
    process.launch()

    async def running() -> bool:
        return process.running

    await until(running, lambda runs: not runs, seconds=PATIENCE, pause=0.05)
    return process.log


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_database_that_was_not_migrated_is_told_in_a_sentence(
    command: str, own_database: str, tmp_path: Path
) -> None:
    """A new installation ends in a traceback about a table, and a new release fails at every step."""
    said = await said_at_its_end(unattended(own_database, tmp_path, command))
    count = len(db.migrations())
    assert said == f"{count} migrations are not applied. Run `agentmail-cp migrate`.\n"

    await db.migrate(own_database)
    with psycopg.connect(own_database) as connection:
        connection.execute("delete from migration where name = %s", (db.migrations()[-1].name,))
    process = unattended(own_database, tmp_path / "behind", command)
    (tmp_path / "behind").mkdir()
    assert "1 migration is not applied." in await said_at_its_end(process)


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_database_of_a_later_release_starts_this_one(
    command: str, own_database: str, tmp_path: Path
) -> None:
    """While a new release is rolled out, a replica of the old one that restarts would not come back."""
    await db.migrate(own_database)
    with psycopg.connect(own_database) as connection:
        connection.execute("insert into migration (name, digest) values ('9999_later.sql', 'x')")
    async with unattended(own_database, tmp_path, command) as process:
        await until_logged(process, "mail_server.waiting")


@pytest.mark.parametrize("command", ["serve", "worker"])
async def test_a_database_that_is_away_stops_no_start(
    command: str, database_url: str, pg_proxy: Proxy, tmp_path: Path
) -> None:
    """After a power failure everything starts at once, and would have to be started again by hand."""
    pg_proxy.refuse()
    process = unattended(through(database_url, pg_proxy), tmp_path, command)
    process.launch()
    try:
        await until_logged(process, "mail_server.waiting")
        assert process.running
        await pg_proxy.heal()
        if command == "serve":
            await process.until_status(200)
    finally:
        await process.terminate()
