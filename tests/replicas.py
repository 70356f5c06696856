"""Several real processes of the service on one database, and clients that spread over all of them.

`python -m tests.replicas 200 1000` is the long form of `tests/api/test_replicas.py`: two hundred clients,
each at a limit of a thousand requests a minute, against two processes (some minutes).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import msgspec
import uvicorn

from agentmail_cp import db, settings
from agentmail_cp.app import create_app, http_config
from agentmail_cp.db import Database
from agentmail_cp.dev.postgres import LocalPostgres
from agentmail_cp.sandbox import MailSandbox
from tests import tenants
from tests.fix_app import DOMAIN
from tests.fix_process import HOST, ServiceProcess

PROGRAM = "from tests.replicas import replica; replica()"
PATIENCE = 3
"""How many refusals in a row from every process end a client's asking."""


def replica() -> None:
    """Be one process of the service; its argument after `serve` is the length of a window in seconds.

    Its mail server is a sandbox nobody else sees: these processes share nothing but the database.
    """
    loaded = settings.load()
    app = create_app(
        loaded, server=MailSandbox(DOMAIN), worker=False, request_window=float(sys.argv[2])
    )
    asyncio.run(uvicorn.Server(http_config(app, loaded)).serve())


@contextlib.asynccontextmanager
async def running(
    folder: Path, database_url: str, *, limit: int, window: float, count: int = 2
) -> AsyncGenerator[list[ServiceProcess]]:
    """Processes that let each key make `limit` requests in `window` seconds."""
    fields = {"database_url": database_url, "requests_per_minute": limit, "log_level": "warning"}
    async with contextlib.AsyncExitStack() as stack:
        started: list[ServiceProcess] = []
        for number in range(count):
            place = folder / f"replica-{number}"
            place.mkdir()
            process = ServiceProcess(place, fields, "serve", str(window), program=PROGRAM)
            started.append(await stack.enter_async_context(process))
        yield started


class Answer(msgspec.Struct, frozen=True):
    """What a client sees of an answer."""

    status: int
    headers: dict[str, str]


class Line:
    """One connection to one process, kept open; written by hand, as 200 clients share a core."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, secret: str) -> Answer:
        """Ask who one is."""
        self._writer.write(
            f"GET /v0/auth/me HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {secret}\r\n\r\n".encode()
        )
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(each.split(": ", 1) for each in lines if each)
        await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers)

    def close(self) -> None:
        self._writer.close()


async def lines_to(processes: Sequence[ServiceProcess]) -> list[Line]:
    """A connection to each."""
    return [Line(*await asyncio.open_connection(HOST, each.port)) for each in processes]


class Outcome(msgspec.Struct):
    """What all the clients of one key got, and in which windows."""

    admitted: int = 0
    refused: int = 0
    others: Counter[int] = msgspec.field(default_factory=Counter[int])
    resets: set[str] = msgspec.field(default_factory=set[str])

    def note(self, answer: Answer) -> None:
        self.resets.add(answer.headers.get("x-ratelimit-reset", ""))
        if answer.status == 200:
            self.admitted += 1
        elif answer.status == 429:
            self.refused += 1
        else:
            self.others[answer.status] += 1


async def exhaust(processes: Sequence[ServiceProcess], secret: str, outcome: Outcome) -> None:
    """Ask one process or the other, by chance, until all refuse again and again."""
    chance = random.Random(secret)
    lines = await lines_to(processes)
    refusals = [0] * len(lines)
    while min(refusals) < PATIENCE:
        which = chance.randrange(len(lines))
        answer = await lines[which].ask(secret)
        outcome.note(answer)
        refusals[which] = refusals[which] + 1 if answer.status == 429 else 0
    for each in lines:
        each.close()


async def clients_at_the_limit(
    processes: Sequence[ServiceProcess], database: Database, clients: int
) -> list[Outcome]:
    """Each with a key of its own, all at once."""
    organization_id = await tenants.organization(database)
    keys = [await tenants.key(database, organization_id) for _ in range(clients)]
    outcomes = [Outcome() for _ in keys]
    await asyncio.gather(
        *(
            exhaust(processes, key.secret, outcome)
            for key, outcome in zip(keys, outcomes, strict=True)
        )
    )
    return outcomes


async def one_key_from_everywhere(
    processes: Sequence[ServiceProcess], secret: str, clients: int
) -> Outcome:
    """Many clients with one key, all at once."""
    outcome = Outcome()
    await asyncio.gather(*(exhaust(processes, secret, outcome) for _ in range(clients)))
    return outcome


def hold(outcome: Outcome, limit: int) -> None:
    """Assert that a key got its limit in one window, give or take a hundredth, and no other answer."""
    assert not outcome.others
    assert len(outcome.resets) == 1
    assert 0.99 * limit <= outcome.admitted <= 1.01 * limit
    assert outcome.refused > 0


async def measure(clients: int, limit: int, count: int) -> None:
    """The long form: everything made anew, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="agentmail-replicas-") as place:
        postgres = LocalPostgres(Path(place) / "postgres", durable=True)
        postgres.start()
        database = Database(url := postgres.database("agentmail"))
        try:
            await db.migrate(url)
            await database.open()
            async with running(
                Path(place), url, limit=limit, window=3600.0, count=count
            ) as processes:
                begun = time.monotonic()
                outcomes = await clients_at_the_limit(processes, database, clients)
                spent = time.monotonic() - begun
            for each in outcomes:
                hold(each, limit)
        finally:
            await database.close()
            postgres.stop()
    admitted = [each.admitted for each in outcomes]
    answers = sum(each.admitted + each.refused for each in outcomes)
    sys.stdout.write(
        f"{clients} clients, limit {limit}, {count} processes: {min(admitted)} to {max(admitted)}\n"
        f"{answers} requests in {spent:.0f} s, {answers / spent:.0f} a second\n"
    )


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clients", type=int)
    parser.add_argument("limit", type=int)
    parser.add_argument("--processes", type=int, default=2)
    asked = parser.parse_args()
    asyncio.run(measure(asked.clients, asked.limit, asked.processes))


if __name__ == "__main__":
    main()
