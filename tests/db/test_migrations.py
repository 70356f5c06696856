"""Migrations: applied once, in order, by one process at a time, and never changed afterwards."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import sysconfig
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from click.testing import CliRunner
from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo

from agentmail_cp import db
from agentmail_cp.cli import main
from agentmail_cp.db import Database, Migration, MigrationChanged
from agentmail_cp.errors import Unavailable

FOLDER = Path(db.__file__).parent / "migrations"
NAMES = [each.name for each in db.migrations()]


@pytest_asyncio.fixture
async def empty_url(postgres_url: str) -> AsyncGenerator[str]:
    """A database without a single table."""
    name = sql.Identifier(f"empty_{uuid4().hex}")
    async with await AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(sql.SQL("create database {}").format(name))
        try:
            plain = name.as_string().strip('"')
            yield postgres_url.rsplit("/", 1)[0] + f"/{plain}"
        finally:
            await connection.execute(sql.SQL("drop database {} with (force)").format(name))


def applied(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [name for (name,) in connection.execute("select name from migration order by name")]


async def test_an_empty_database_gets_everything_and_a_second_run_nothing(empty_url: str) -> None:
    assert await db.migrate(empty_url) == NAMES
    assert await db.migrate(empty_url) == []
    assert applied(empty_url) == NAMES


async def test_before_it_has_run_a_command_says_so(empty_url: str) -> None:
    """The first command of a new installation would end in a traceback about a table."""
    env = {"AGENTMAIL_CP_DATABASE_URL": empty_url}
    commands = [["org", "list"], ["org", "create", "Acme"], ["keys", "create"], ["domains", "list"]]
    for command in commands:
        done = await asyncio.to_thread(CliRunner().invoke, main, command, env=env)
        assert done.exit_code == 1
        assert done.output == (
            f"{len(NAMES)} migrations are not applied. Run `agentmail-cp migrate`.\n"
        )


async def test_many_processes_may_migrate_at_once(empty_url: str) -> None:
    """Every replica of a deployment starts with it."""
    program = (
        "import asyncio, sys; from agentmail_cp import db;"
        " print(len(asyncio.run(db.migrate(sys.argv[1]))))"
    )

    def migrate(_: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", program, empty_url], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(migrate, range(4))) == [0, 0, 0, len(NAMES)]
    assert applied(empty_url) == NAMES


async def test_an_applied_migration_that_changed_is_refused(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two databases would have the same history and different tables."""
    await db.migrate(empty_url)
    first, *rest = db.migrations()
    changed = [
        Migration(first.name, first.sql + "\n-- more"),
        *rest,
        Migration("9.sql", "select 1"),
    ]
    monkeypatch.setattr(db, "migrations", lambda: changed)
    with pytest.raises(MigrationChanged, match=first.name):
        await db.migrate(empty_url)
    assert applied(empty_url) == NAMES


async def test_a_migration_that_fails_leaves_nothing_of_itself(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration("9999_broken.sql", "create table half (id int); select 1/0")
    whole = db.migrations()
    monkeypatch.setattr(db, "migrations", lambda: [*whole, broken])
    with pytest.raises(psycopg.errors.DivisionByZero):
        await db.migrate(empty_url)
    assert applied(empty_url) == NAMES
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("select to_regclass('half')").fetchone() == (None,)


async def test_an_index_whose_building_was_interrupted_is_built_again(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL keeps what is half-built under its name, slows writes with it and never reads it."""
    whole = db.migrations()
    building = Migration(
        "9999_index.sql",
        "drop index concurrently if exists once;\n"
        "create unique index concurrently once on thread (subject);\n",
    )
    monkeypatch.setattr(db, "migrations", lambda: whole)
    await db.migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        twice = (
            "insert into thread (thread_id, organization_id, pod_id, inbox_id, subject, labels,"
            " masks, senders, recipients, message_count, size, has_attachment, last_message_id,"
            ' "timestamp", created_at) select gen_random_uuid(), gen_random_uuid(),'
            " gen_random_uuid(), gen_random_uuid(), 'same', '{}', '{}', '{}', '{}', 1, 1, false,"
            " '', now(), now() from generate_series(1, 2)"
        )
        connection.execute(twice)
        monkeypatch.setattr(db, "migrations", lambda: [*whole, building])
        with pytest.raises(psycopg.errors.UniqueViolation):
            await db.migrate(empty_url)
        assert applied(empty_url) == NAMES
        connection.execute("delete from thread")
        assert await db.migrate(empty_url) == ["9999_index.sql"]
        found = connection.execute(
            "select indisvalid from pg_index where indexrelid = 'once'::regclass"
        )
        assert found.fetchone() == (True,)


async def test_no_statement_keeps_everybody_waiting_for_a_lock(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a table is waited for, whoever reads it waits as well: a long look at it, like a backup, would
    stop the service. What builds indexes beside it is no exception.
    """
    whole = db.migrations()
    mixed = Migration(
        "9999_mixed.sql",
        "drop index concurrently if exists once;\nalter table pod add column if not exists x int;\n",
    )
    await db.migrate(empty_url)
    monkeypatch.setattr(db, "migrations", lambda: [*whole, mixed])
    monkeypatch.setattr(db, "LOCK_TIMEOUT", "0.2s")
    with psycopg.connect(empty_url) as connection:
        connection.execute("select from pod")
        with pytest.raises(Unavailable):
            await asyncio.wait_for(db.migrate(empty_url), 5)
    assert await db.migrate(empty_url) == ["9999_mixed.sql"]


async def test_what_is_missing_is_known_before_and_after(empty_url: str) -> None:
    """The readiness check asks this."""
    pool = Database(empty_url)
    await pool.open()
    try:
        async with pool.reading() as tx:
            assert await db.pending(tx) == NAMES
        await db.migrate(empty_url)
        async with pool.reading() as tx:
            assert await db.pending(tx) == []
    finally:
        await pool.close()


async def test_a_database_that_is_away_is_said_so() -> None:
    url = make_conninfo("postgresql://nobody@127.0.0.1:1/none", connect_timeout=1)
    with pytest.raises(Unavailable, match="PostgreSQL is not answering"):
        await db.migrate(url)


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [int(name[:4]) for name in NAMES] == list(range(1, len(NAMES) + 1))


def test_our_migrations_lock_nothing_for_long() -> None:
    """Squawk knows which statements stop a running service.

    Left out: the rules for narrow integers, because masks have 16 values and counts are small; those
    for timeouts, because the runner sets lock_timeout for every file.
    """
    ours = [FOLDER / name for name in NAMES if not name.endswith("_procrastinate.sql")]
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "squawk",
            "--assume-in-transaction",
            "--pg-version=15",
            "--exclude=prefer-bigint-over-int,prefer-bigint-over-smallint",
            "--exclude=require-lock-timeout,require-statement-timeout",
            *ours,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout


STANDING = """
insert into domain (domain_id, organization_id, name, token, created_at, proved_at, installed_at, verified_at,
    subdomains_enabled, updated_at, deleted_at)
select gen_random_uuid(), lpad(organization, 32, '0')::uuid, name, '', at(1), case when here then at(2) end,
    case when here then at(2) end, case when seen then at(2) end, enabled, at(4),
    case when gone then at(4) end
from (values
    ('1', 'sub.test', true, true, false, true), ('1', 'off.test', true, true, false, false),
    ('1', 'gone.test', false, true, true, true), ('1', 'two.test', true, true, false, true),
    ('1', 'eu.two.test', false, true, true, false), ('1', 'us.two.test', true, true, false, true),
    ('1', 'agents.test', true, true, false, true), ('1', 'late.test', false, false, false, true),
    ('2', 'de.sub.test', true, true, false, false)
) as claim (organization, name, here, seen, gone, enabled);
insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, state, created_at)
select gen_random_uuid(), lpad(organization, 32, '0')::uuid, gen_random_uuid(), organization || '@' || name,
    organization, name, 'active', at(3)
from (values
    ('1', 'eu.sub.test'), ('1', 'de.sub.test'), ('1', 'eu.off.test'), ('1', 'eu.gone.test'),
    ('1', 'eu.two.test'), ('1', 'us.two.test'), ('1', 'x.us.two.test'), ('1', 'two.test'),
    ('1', 'a.b.agents.test'), ('3', 'a.b.agents.test'), ('1', 'x.late.test')
) as stood (organization, name)
"""
"""Claims of three organisations, and where inboxes stand that were made after them, on days of one month."""


async def test_sub_domains_that_were_in_use_are_found(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not found is on the mail server for good; what is wrongly found, as the service's own domain or
    one that was a claim of its own, is sent from and routed as if it were somebody's sub-domain.
    """
    whole = db.migrations()
    before = [each for each in whole if each.name < "0028"]
    monkeypatch.setattr(db, "migrations", lambda: before)
    await db.migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        connection.execute(
            "create function pg_temp.at(day integer) returns timestamptz language sql immutable"
            " return make_timestamptz(2026, 1, day, 0, 0, 0, 'UTC')"
        )
        for statement in STANDING.replace(" at(", " pg_temp.at(").split(";\n"):
            connection.execute(statement)
    monkeypatch.setattr(db, "migrations", lambda: whole)
    await db.migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        found = connection.execute(
            "select right(organization_id::text, 1), above, name from subdomain"
        ).fetchall()
    assert sorted(found) == [
        ("1", "gone.test", "eu.gone.test"),
        ("1", "off.test", "eu.off.test"),
        ("1", "sub.test", "eu.sub.test"),
        ("1", "us.two.test", "x.us.two.test"),
    ]
