"""Measure the service beside raw JMAP, on one real Stalwart, in one run.

Starts everything in a folder of its own, measures each figure with 1 and with 16 clients, prints a table
and writes `bench/latest.json`; with names of parts (`python -m bench mail search`) it measures those only and
writes nothing. Times are milliseconds at the client, over loopback HTTP.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
import uvloop

from bench.basics import create_inbox, mail, receive
from bench.deliveries import deliveries
from bench.doors import doors
from bench.entrance import keys
from bench.events import bursts, caught_up, told
from bench.measuring import Figure, memory_of
from bench.sockets import sockets
from bench.whole import get_with_attachment, large, reply, search, threads
from bench.world import running

LATEST = Path(__file__).parent / "latest.json"
PARTS = (
    keys,
    mail,
    doors,
    reply,
    receive,
    get_with_attachment,
    threads,
    search,
    large,
    told,
    bursts,
    caught_up,
    deliveries,
    sockets,
    create_inbox,
)


async def measure(folder: Path, wanted: list[str]) -> None:
    """The whole table, or the parts named."""
    async with running(folder) as target:
        await asyncio.sleep(3)
        idle = memory_of(target.process)
        print(f"{'':<40}{'raw p50':>9}{'p50':>9}{'p99':>9}{'more':>9}{'ratio':>8}")
        figures: list[Figure] = []
        for part in PARTS:
            if not wanted or part.__name__ in wanted:
                figures += await part(target)
        busy = memory_of(target.process)
        print(f"memory of serve with worker: idle {idle:.0f} MB, after the run {busy:.0f} MB")
    if wanted:
        return
    LATEST.write_bytes(
        msgspec.json.format(
            msgspec.json.encode({"figures": figures, "idle_mb": idle, "after_mb": busy}), indent=2
        )
    )


def main() -> None:
    """Run it, unless there is no Stalwart to run it against."""
    if shutil.which("stalwart") is None:
        sys.exit("make bench needs a `stalwart` binary (0.16) on PATH.")
    with tempfile.TemporaryDirectory(prefix="agentmail-bench-") as folder:
        uvloop.run(measure(Path(folder), sys.argv[1:]))


if __name__ == "__main__":
    main()
