"""Measure the service beside raw JMAP, on one real Stalwart, in one run.

Starts PostgreSQL (durable, as in production), Stalwart and `agentmail-cp serve` with its worker in a
folder of its own, measures each figure with 1 and with 16 clients, prints a table and writes
`bench/latest.json`. Times are milliseconds at the client, over loopback HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import smtplib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from email.message import EmailMessage
from itertools import count
from pathlib import Path

import httpx
import msgspec
import uvloop

from agentmail_cp import access, db
from agentmail_cp.dev.postgres import LocalPostgres
from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.setup import Doorbell
from bench.jmap import RawJmap

DOMAIN = "agents.test"
LATEST = Path(__file__).parent / "latest.json"
CLIENTS = (1, 16)
MANY_INBOXES = 10_000
_number = count(1)


class Figure(msgspec.Struct):
    """One row of the table. `raw` and `ours` are milliseconds; ours is p50 and p99."""

    name: str
    clients: int
    raw: float | None
    ours: float
    p99: float

    @property
    def line(self) -> str:
        raw = "" if self.raw is None else f"{self.raw:8.2f}"
        more = "" if self.raw is None else f"{self.ours - self.raw:+8.2f}"
        ratio = "" if not self.raw else f"{self.ours / self.raw:6.1f}x"
        name = f"{self.name} ({self.clients})"
        return f"{name:<34}{raw:>9}{self.ours:>9.2f}{self.p99:>9.2f}{more:>9}{ratio:>8}"


class Target(msgspec.Struct):
    """What is measured."""

    api: httpx.AsyncClient
    raw: RawJmap
    smtp_port: int
    process: int


Action = Callable[[], Awaitable[object]]


async def timed(action: Action, *, runs: int, clients: int) -> list[float]:
    """Times of `runs` calls spread over `clients` loops, in ms."""
    times: list[float] = []

    async def loop() -> None:
        for _ in range(runs // clients):
            begun = time.perf_counter()
            await action()
            times.append((time.perf_counter() - begun) * 1000)

    await asyncio.gather(*(loop() for _ in range(clients)))
    return times


async def compare(name: str, *, raw: Action, ours: Action, runs: int) -> list[Figure]:
    """Raw and ours in turns, so that the machine's moods hit both."""
    figures: list[Figure] = []
    for clients in CLIENTS:
        await timed(raw, runs=clients * 2, clients=clients)
        await timed(ours, runs=clients * 2, clients=clients)
        raw_times: list[float] = []
        our_times: list[float] = []
        for _ in range(4):
            raw_times += await timed(raw, runs=runs // 4, clients=clients)
            our_times += await timed(ours, runs=runs // 4, clients=clients)
        figures.append(
            Figure(name, clients, statistics.median(raw_times), *_percentiles(our_times))
        )
        print(figures[-1].line, flush=True)
    return figures


def _percentiles(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


async def create_inbox(target: Target) -> list[Figure]:
    """Make inboxes; then the same again when there are ten thousand."""

    async def ours() -> None:
        answer = await target.api.post("/v0/inboxes", json={"username": f"bench-{next(_number)}"})
        answer.raise_for_status()

    async def raw() -> None:
        await target.raw.create_account(f"raw-{next(_number)}")

    figures = await compare("create inbox", raw=raw, ours=ours, runs=200)
    made = 0
    while made < MANY_INBOXES:
        made += len(await timed(ours, runs=1000, clients=16))
    late = await timed(ours, runs=200, clients=1)
    figures.append(Figure("create inbox after 10,000", 1, figures[0].raw, *_percentiles(late)))
    print(figures[-1].line, flush=True)
    return figures


async def mail(target: Target) -> list[Figure]:
    """Send, list, get."""
    sender, receiver = await new_inbox(target), await new_inbox(target)
    account = await target.raw.create_account(f"raw-{next(_number)}")
    body = {"to": receiver, "subject": "Bench", "text": "Some words of text.\n" * 20}

    async def send() -> None:
        answer = await target.api.post(f"/v0/inboxes/{sender}/messages/send", json=body)
        answer.raise_for_status()

    async def raw_send() -> None:
        await target.raw.send(account, receiver, body["subject"], body["text"])

    figures = await compare("send", raw=raw_send, ours=send, runs=200)
    await asyncio.sleep(2)
    listed = (await target.api.get(f"/v0/inboxes/{receiver}/messages?limit=20")).json()
    message_id = listed["messages"][0]["message_id"]
    stored = await target.raw.account_of(receiver)
    document = (await target.raw.list_twenty(stored))[0]

    async def list_twenty() -> None:
        answer = await target.api.get(f"/v0/inboxes/{receiver}/messages?limit=20")
        assert answer.json()["count"] == 20

    async def get_one() -> None:
        answer = await target.api.get(f"/v0/inboxes/{receiver}/messages/{message_id}")
        assert answer.json()["text"]

    figures += await compare(
        "list 20", raw=lambda: target.raw.list_twenty(stored), ours=list_twenty, runs=400
    )
    figures += await compare(
        "get one", raw=lambda: target.raw.get_one(stored, document), ours=get_one, runs=400
    )
    return figures


async def receive(target: Target) -> list[Figure]:
    """SMTP accepted → visible: in the API, and beside it in a raw JMAP listing."""
    figures: list[Figure] = []
    for clients in CLIENTS:
        raw_times: list[float] = []
        our_times: list[float] = []

        async def one(ours: list[float] = our_times, raw: list[float] = raw_times) -> None:
            await _receive_one(target, ours, raw)

        inboxes = [one() for _ in range(clients)]
        await asyncio.gather(*inboxes)
        figure = Figure("receive", clients, statistics.median(raw_times), *_percentiles(our_times))
        figures.append(figure)
        print(figure.line, flush=True)
    return figures


async def _receive_one(target: Target, ours: list[float], raw: list[float]) -> None:
    address = await new_inbox(target)
    account = await target.raw.account_of(address)
    for arrived in range(1, 41):
        await asyncio.to_thread(_deliver, target.smtp_port, address)
        begun = time.perf_counter()
        raw_seen = asyncio.create_task(_until_raw(target, account, arrived, begun))
        while (await _listed(target, address)) < arrived:  # noqa: ASYNC110 - a poll is measured
            await asyncio.sleep(0.001)
        ours.append((time.perf_counter() - begun) * 1000)
        raw.append(await raw_seen)
        await asyncio.sleep(0.05)


async def _until_raw(target: Target, account: str, arrived: int, begun: float) -> float:
    while await target.raw.count(account) < arrived:  # noqa: ASYNC110 - a poll is measured
        await asyncio.sleep(0.001)
    return (time.perf_counter() - begun) * 1000


async def _listed(target: Target, address: str) -> int:
    answer = await target.api.get(f"/v0/inboxes/{address}/messages?limit=100")
    return answer.json()["count"]


def _deliver(port: int, address: str) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "bench@elsewhere.test", address
    message["Subject"] = f"Bench {next(_number)}"
    message.set_content("Some words of text.\n" * 20)
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.send_message(message)


async def new_inbox(target: Target) -> str:
    """The address of a new inbox."""
    answer = await target.api.post("/v0/inboxes")
    return answer.json()["inbox_id"]


def memory_of(process: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    (line,) = [each for each in status.splitlines() if each.startswith("VmRSS")]
    return int(line.split()[1]) / 1000


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[Target]:
    """Everything, on loopback."""
    port = _free_port()
    postgres = LocalPostgres(folder / "postgres", durable=True)
    postgres.start()
    doorbell = Doorbell(f"http://127.0.0.1:{port}{DOORBELL_PATH}", "bench-secret", 20)
    stalwart = LocalStalwart(folder / "stalwart", domain=DOMAIN, doorbell=doorbell)
    url = postgres.database("agentmail")
    try:
        await stalwart.start()
        await db.migrate(url)
        key = await _first_key(url)
        process = _serve(url, stalwart, port)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}
        ) as api:
            await _until_healthy(api)
            async with RawJmap(stalwart.url, stalwart.key, DOMAIN) as raw:
                yield Target(api, raw, stalwart.ports.smtp, process.pid)
        process.terminate()
        process.wait(10)
    finally:
        await stalwart.stop()
        postgres.stop()


def _serve(url: str, stalwart: LocalStalwart, port: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "AGENTMAIL_CP_DATABASE_URL": url,
        "AGENTMAIL_CP_STALWART_URL": stalwart.url,
        "AGENTMAIL_CP_STALWART_KEY": stalwart.key,
        "AGENTMAIL_CP_STALWART_WEBHOOK_SECRET": "bench-secret",
        "AGENTMAIL_CP_DOMAIN": DOMAIN,
        "AGENTMAIL_CP_DOMAIN_SHARED": "false",
        "AGENTMAIL_CP_PORT": str(port),
        "AGENTMAIL_CP_LOG_LEVEL": "warning",
    }
    command = [str(Path(sys.executable).parent / "agentmail-cp"), "serve"]
    return subprocess.Popen(command, env=environment)


async def _first_key(url: str) -> str:
    database = db.Database(url)
    await database.open()
    async with database.transaction() as tx:
        organization = await access.create_organization(tx, "Bench")
        made = await access.create_key(
            tx, organization.organization_id, prefix="inai_", name="bench"
        )
    await database.close()
    return made.secret


async def _until_healthy(api: httpx.AsyncClient) -> None:
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            if (await api.get("/health")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("The service did not become healthy.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def measure(folder: Path) -> None:
    """The whole table."""
    async with running(folder) as target:
        await asyncio.sleep(3)
        idle = memory_of(target.process)
        print(f"{'':<34}{'raw p50':>9}{'p50':>9}{'p99':>9}{'more':>9}{'ratio':>8}")
        figures = [*await mail(target), *await receive(target), *await create_inbox(target)]
        busy = memory_of(target.process)
        print(f"memory of serve with worker: idle {idle:.0f} MB, after the run {busy:.0f} MB")
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
        uvloop.run(measure(Path(folder)))


if __name__ == "__main__":
    main()
