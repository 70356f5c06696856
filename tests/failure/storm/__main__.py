"""`make failure`: the storm in its long form, and an outage of the whole control plane.

Prints what happened in numbers and every complaint; its exit status is 1 when there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from agentmail_cp import db
from agentmail_cp.dev.postgres import LocalPostgres
from tests.failure.storm.course import Report, outage, storm


@contextlib.asynccontextmanager
async def _database(folder: Path) -> AsyncGenerator[str]:
    server = LocalPostgres(folder / "postgres", durable=True)
    try:
        await asyncio.to_thread(server.start)
        url = server.database("agentmail")
        await db.migrate(url)
        yield url
    finally:
        await asyncio.to_thread(server.stop)


async def _run(wanted: argparse.Namespace, folder: Path) -> Report:
    async with _database(folder) as url:
        if wanted.outage:
            return await outage(
                folder, url, seconds=wanted.seconds, rate=wanted.rate, seed=wanted.seed
            )
        return await storm(folder, url, seconds=wanted.seconds, rate=wanted.rate, seed=wanted.seed)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.failure.storm")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long mail is under way")
    parser.add_argument("--rate", type=float, default=20.0, help="mails a second")
    parser.add_argument("--seed", type=int, default=20261121, help="which storm")
    parser.add_argument("--outage", action="store_true", help="no storm: all of us is away")
    wanted = parser.parse_args()
    if shutil.which("stalwart") is None:
        sys.exit("make failure needs a `stalwart` binary (0.16) on PATH.")
    with tempfile.TemporaryDirectory(prefix="agentmail-storm-") as folder:
        report = asyncio.run(_run(wanted, Path(folder)))
    sys.stdout.write(report.text + "\n")
    sys.exit(1 if report.complaints else 0)


if __name__ == "__main__":
    main()
