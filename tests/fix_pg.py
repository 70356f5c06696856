"""A real PostgreSQL for the tests: one server a run, one database, emptied between tests.

`AGENTMAIL_TEST_DATABASE_URL` names a database to use instead of an own one; it is emptied, too, and a few
tests make others beside it for a while.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection, sql

from agentmail_cp import db
from agentmail_cp.dev.postgres import LocalPostgres
from tests import fix_parallel

KEPT = ("migration",)
"""Tables that describe the schema and not the world."""


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """URL of a database that nobody else uses during this run."""
    given = os.environ.get("AGENTMAIL_TEST_DATABASE_URL")
    if given and not fix_parallel.number():
        yield given
        return
    if given:
        with fresh_database(given, f"of_{fix_parallel.number()}") as url:
            yield url
        return
    folder = tmp_path_factory.mktemp("postgres")
    server = LocalPostgres(folder, durable=False)
    try:
        server.start()
        url = server.database("agentmail")
        _ask_for_no_password(folder, url)
        yield url
    finally:
        server.stop()


def _ask_for_no_password(folder: Path, url: str) -> None:
    """To hash a password thousands of times takes longer than all else a connection needs, and some tests
    open dozens. That the server asks for one is `test_postgres`'s business, which has servers of its own.
    """
    (folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n", "ascii")
    with psycopg.connect(url) as connection:
        connection.execute("select pg_reload_conf()")


@pytest_asyncio.fixture(scope="session")
async def migrated_url(postgres_url: str) -> str:
    """The same database with every migration applied."""
    await db.migrate(postgres_url)
    return postgres_url


@pytest_asyncio.fixture
async def database_url(migrated_url: str) -> AsyncGenerator[str]:
    """An empty, migrated database."""
    yield migrated_url
    await empty(migrated_url)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncGenerator[db.Database]:
    """An open pool on an empty, migrated database."""
    pool = db.Database(database_url)
    await pool.open()
    yield pool
    await pool.close()


@contextlib.contextmanager
def fresh_database(beside: str, purpose: str) -> Generator[str]:
    """Another database without a single table, on the same server as this one, while the context is open."""
    server, name = beside.rsplit("/", 1)
    wanted = sql.Identifier(f"{name}_{purpose}")
    with psycopg.connect(beside, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(wanted))
        connection.execute(sql.SQL("create database {}").format(wanted))
    yield f"{server}/{name}_{purpose}"
    with psycopg.connect(beside, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(wanted))


async def empty(url: str) -> None:
    """Delete every row of every table: for tables this small, twenty times faster than TRUNCATE."""
    async with await AsyncConnection.connect(url) as connection:
        # Whoever still holds a lock belongs to a test that is over, or was killed.
        await connection.execute("set local lock_timeout = '5s'")
        for table in await _tables(connection):
            await connection.execute(sql.SQL("delete from {}").format(sql.Identifier(table)))


async def _tables(connection: AsyncConnection) -> list[str]:
    # Descending: procrastinate's only strict foreign key, periodic_defers to jobs, is then obeyed.
    rows = await connection.execute(
        "select tablename from pg_tables where schemaname = 'public' order by tablename desc"
    )
    return [name for (name,) in await rows.fetchall() if name not in KEPT]
