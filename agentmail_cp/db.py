"""PostgreSQL: the pool, transactions, rows as structs, and the migration runner.

A transaction (`Tx`) is opened at the edge (a request, a job, a process loop) and handed down as the
first argument; nobody else commits, and nothing waits for the network inside one. When PostgreSQL is
away, `Unavailable` is raised, and the pool connects again by itself. Owns the table `migration`; every
other table belongs to the module named after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from importlib.resources import files
from time import monotonic
from typing import Any, LiteralString, TypeVar, cast

import msgspec
import psycopg
import structlog
from psycopg import AsyncConnection, AsyncCursor
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg.waiting import wait_async
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from agentmail_cp.errors import Unavailable

T = TypeVar("T")
Tx = AsyncConnection[DictRow]

log = structlog.stdlib.get_logger(__name__)

TRUST = 1.0
"""Seconds a connection that answered is believed to be alive."""

POLL = 0.1
"""Seconds after which a wait looks up, so that it can be interrupted; psycopg's own default."""

PATIENCE = 5.0
"""Seconds one statement may take."""

SILENCE = 10.0
"""Seconds without a notification after which a listener asks whether its connection is still alive: one that
was cut off hears nothing, and would not notice."""

CHECK_PATIENCE = 1.5
"""Seconds a connection may take to say that it is alive."""

MIGRATION_LOOK = 0.1
"""Seconds between two looks whether another process has migrated."""

LOCK_TIMEOUT = "4s"
"""How long a migration waits for a table: whoever comes after it waits as well."""

LOCK_MIGRATIONS = 0x61676D61696C
"""Advisory lock held while migrating: the letters `agmail`."""

set_json_dumps(msgspec.json.encode)
set_json_loads(msgspec.json.decode)


class Connection(AsyncConnection[DictRow]):
    """A connection that is closed when whoever waits on it is cancelled.

    psycopg 3.3 first asks the server to stop the query and waits up to ten seconds for it, which a
    server that is cut off never answers: a service told to stop would be killed instead.
    """

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = POLL,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> T:
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise
        except psycopg.Error as error:
            _withhold_values(error)
            raise


def _withhold_values(error: psycopg.Error) -> None:
    """Keep rows out of what is logged: PostgreSQL tells of the whole row that breaks a constraint, and of
    the value it cannot read. `error.diag` still has everything.
    """
    if error.diag.sqlstate is not None:
        unread = isinstance(error, psycopg.DataError)
        error.args = ("A value does not fit." if unread else error.diag.message_primary,)


class _Connection(Connection):
    """A pooled connection that knows when it was last asked whether it is still alive, and how many
    seconds an answer may take before PostgreSQL counts as away: one that is cut off never answers.
    """

    checked_at = 0.0
    patience = PATIENCE

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = POLL,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> T:
        try:
            return await super().wait(gen, interval, timeout or self.patience)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                # The answer may still come, but nobody will be there for it.
                self.pgconn.finish()
            raise


class Database:
    """A pool of connections: `transaction` for writing, `reading` for looking something up."""

    def __init__(self, url: str, *, size: int = 10, wait: float = 2.0) -> None:
        self.url = url
        self._shaken_at = 0.0
        self._pool = AsyncConnectionPool[_Connection](
            url,
            connection_class=_Connection,
            min_size=1,
            max_size=size,
            max_waiting=size * 50,
            timeout=wait,
            # Past this the pool counts a connection as lost and makes a new one for whoever asks next;
            # its own pauses double each time, so a long outage would be followed by another one.
            reconnect_timeout=2.0,
            open=False,
            check=self._check,
            kwargs={"row_factory": dict_row, "autocommit": True, "connect_timeout": 2},
            name="agentmail-cp",
        )

    async def _check(self, connection: _Connection) -> None:
        """Find connections that a restart of PostgreSQL broke, without a question before every use:
        where one is broken, all are asked.
        """
        if connection.checked_at > max(monotonic() - TRUST, self._shaken_at):
            return
        with _waiting(connection, CHECK_PATIENCE):
            await AsyncConnectionPool[_Connection].check_connection(connection)
        connection.checked_at = monotonic()

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close(timeout=2)

    @contextlib.asynccontextmanager
    async def transaction(self, *, patience: float = PATIENCE) -> AsyncGenerator[Tx]:
        """One transaction: committed when the block ends, rolled back when it raises.

        `patience` is for statements that may take longer than a caller would wait, in seconds.
        """
        async with self._borrowed() as connection:
            with _waiting(connection, patience):
                async with connection.transaction():
                    yield connection

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncGenerator[Tx]:
        """A connection on which each statement stands alone: for look-ups, at a third of the cost."""
        async with self._borrowed() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _borrowed(self) -> AsyncGenerator[_Connection]:
        try:
            asked = _ends_asked()
            async with self._pool.connection() as connection:
                if _ends_asked() > asked:
                    raise asyncio.CancelledError
                yield connection
        except (psycopg.OperationalError, PoolTimeout, TooManyRequests) as error:
            self._shaken_at = monotonic()
            log.warning("database.unavailable", reason=type(error).__name__)
            raise Unavailable("The database is not answering.", retry_after=2.0) from error

    async def listen(self, channel: LiteralString) -> AsyncIterator[None]:
        """Yield once per notification on `channel`, and once after every (re)connection, for ever."""
        while True:
            try:
                async with await Connection.connect(
                    self.url, autocommit=True, connect_timeout=2
                ) as connection:
                    await connection.execute(f"listen {channel}")
                    yield
                    while True:
                        async for _ in connection.notifies(timeout=SILENCE):
                            yield
                        async with asyncio.timeout(CHECK_PATIENCE):
                            await connection.execute("select 1")
            except (psycopg.OperationalError, TimeoutError):
                await asyncio.sleep(1.0)


def _ends_asked() -> int:
    """How often the current task was told to end. `asyncio.wait_for` of Python 3.11, by which the pool waits,
    forgets that when it comes together with what it waits for.
    """
    task = asyncio.current_task()
    return task.cancelling() if task else 0


@contextlib.contextmanager
def _waiting(connection: _Connection, patience: float) -> Generator[None]:
    connection.patience, before = patience, connection.patience
    try:
        yield
    finally:
        connection.patience = before


def struct_row(kind: type[T]) -> Callable[[AsyncCursor[Any]], Callable[[Sequence[Any]], T]]:
    """A psycopg row factory that gives frozen structs instead of dicts."""

    def factory(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], T]:
        names = [column.name for column in cursor.description or ()]

        def make(values: Sequence[Any]) -> T:
            return msgspec.convert(dict(zip(names, values, strict=True)), kind)

        return make

    return factory


async def fetch_all(
    tx: Tx, kind: type[T], query: LiteralString, parameters: dict[str, Any]
) -> list[T]:
    """All rows of a query as structs."""
    async with tx.cursor(row_factory=struct_row(kind)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchall()


async def fetch_one(
    tx: Tx, kind: type[T], query: LiteralString, parameters: dict[str, Any]
) -> T | None:
    """The first row of a query as a struct, or None."""
    async with tx.cursor(row_factory=struct_row(kind)) as cursor:
        await cursor.execute(query, parameters)
        return await cursor.fetchone()


async def fetch_only(tx: Tx, kind: type[T], query: LiteralString, parameters: dict[str, Any]) -> T:
    """The row of a query that always has one, such as an `insert … returning`."""
    row = await fetch_one(tx, kind, query, parameters)
    if row is None:
        raise LookupError("A query that always has a row had none.")
    return row


class MigrationChanged(Exception):
    """A migration that was applied once has another text now; write a new one instead."""


class Migration(msgspec.Struct, frozen=True):
    """One numbered SQL file. One that works `concurrently` cannot run in a transaction: its statements
    stand alone, and each must bear being repeated.
    """

    name: str
    sql: str

    @property
    def steps(self) -> list[str]:
        """What is executed by itself."""
        if " concurrently " not in self.sql:
            return [self.sql]
        return [each for each in self.sql.split(";\n") if each.strip()]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """The migrations of this release, in order."""
    folder = files("agentmail_cp") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [Migration(name, (folder / name).read_text(encoding="utf-8")) for name in names]


async def migrate(url: str) -> list[str]:
    """Apply what is missing, one process at a time, each file in its own transaction unless it builds
    indexes concurrently.

    Returns the names applied. Raises `MigrationChanged` when an applied file has changed, and
    `Unavailable` when PostgreSQL is away.
    """
    try:
        async with await AsyncConnection[DictRow].connect(
            url, autocommit=True, row_factory=dict_row, connect_timeout=5
        ) as connection:
            await _take_turn(connection)
            return await _apply_missing(connection)
    except psycopg.OperationalError as error:
        raise Unavailable(f"PostgreSQL is not answering: {str(error).splitlines()[0]}") from error


async def _take_turn(connection: Tx) -> None:
    """Wait for whoever migrates now, without a statement that waits: an index that is built concurrently
    waits for every statement older than itself.
    """
    while True:
        cursor = await connection.execute(
            "select pg_try_advisory_lock(%s) as mine", (LOCK_MIGRATIONS,)
        )
        row = await cursor.fetchone()
        if row is not None and row["mine"]:
            return
        await asyncio.sleep(MIGRATION_LOOK)


async def _apply_missing(connection: Tx) -> list[str]:
    await connection.execute(
        "create table if not exists migration"
        " (name text primary key, digest text not null, applied_at timestamptz default now())"
    )
    rows = await (await connection.execute("select name, digest from migration")).fetchall()
    applied = {row["name"]: row["digest"] for row in rows}
    missing = [each for each in migrations() if each.name not in applied]
    for each in migrations():
        if applied.get(each.name, each.digest) != each.digest:
            raise MigrationChanged(f"{each.name} was applied with another text.")
    for each in missing:
        await _apply(connection, each)
    return [each.name for each in missing]


async def _apply(connection: Tx, migration: Migration) -> None:
    if len(migration.steps) > 1:
        for step in migration.steps:
            await _apply_step(connection, step)
        await _note(connection, migration)
        return
    async with connection.transaction():
        await _apply_soon(connection, migration.sql)
        await _note(connection, migration)


async def _apply_step(connection: Tx, step: str) -> None:
    if " concurrently " in step:
        # Waits for old transactions, and nobody for it. The text is a file of this package, never input.
        await connection.execute(cast("LiteralString", step))
        return
    async with connection.transaction():
        await _apply_soon(connection, step)


async def _apply_soon(connection: Tx, statements: str) -> None:
    await connection.execute("select set_config('lock_timeout', %s, true)", (LOCK_TIMEOUT,))
    await connection.execute(cast("LiteralString", statements))


async def _note(connection: Tx, migration: Migration) -> None:
    await connection.execute(
        "insert into migration (name, digest) values (%s, %s)", (migration.name, migration.digest)
    )


async def pending(tx: Tx) -> list[str]:
    """Names of migrations this release has and the database does not."""
    row = await (
        await tx.execute("select to_regclass('migration') is not null as there")
    ).fetchone()
    if row is None or not row["there"]:
        return [each.name for each in migrations()]
    rows = await (await tx.execute("select name from migration")).fetchall()
    applied = {row["name"] for row in rows}
    return [each.name for each in migrations() if each.name not in applied]


def not_migrated(missing: Sequence[str]) -> Unavailable:
    """What is said while migrations of this release are missing. A database that a later release has
    migrated has all of them.
    """
    what = "1 migration is" if len(missing) == 1 else f"{len(missing)} migrations are"
    return Unavailable(f"{what} not applied.", fix="Run `agentmail-cp migrate`.")
