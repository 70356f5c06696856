"""How a figure is taken: raw JMAP and ours in turns, in one run. Times are milliseconds at the client."""

from __future__ import annotations

import asyncio
import os
import signal
import smtplib
import statistics
import time
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from itertools import count
from pathlib import Path

import httpx
import msgspec

from bench.jmap import RawJmap

CLIENTS = (1, 16)
number = count(1)


class Figure(msgspec.Struct):
    """One row of the table. `raw` and `ours` are milliseconds; ours is p50 and p99. `added_mb` is what
    our process took on in memory, `rate` how many a second, where that was looked at.
    """

    name: str
    clients: int
    raw: float | None
    ours: float
    p99: float
    added_mb: float | None = None
    rate: float | None = None

    @property
    def line(self) -> str:
        raw = "" if self.raw is None else f"{self.raw:8.3f}"
        more = "" if self.raw is None else f"{self.ours - self.raw:+8.3f}"
        ratio = "" if not self.raw else f"{self.ours / self.raw:6.1f}x"
        name = f"{self.name} ({self.clients})"
        return f"{name:<40}{raw:>9}{self.ours:>9.3f}{self.p99:>9.3f}{more:>9}{ratio:>8}"


class Target(msgspec.Struct):
    """What is measured."""

    api: httpx.AsyncClient
    raw: RawJmap
    smtp_port: int
    process: int
    database_url: str
    begin: Callable[[], Awaitable[int]]
    """Starts the service again; its process id."""

    def kill(self) -> None:
        """End the service as kill -9 does."""
        os.kill(self.process, signal.SIGKILL)

    async def start(self) -> None:
        """Start the service again, and wait until it is healthy."""
        self.process = await self.begin()


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


async def compare(
    name: str, *, raw: Action, ours: Action, runs: int, at_once: tuple[int, ...] = CLIENTS
) -> list[Figure]:
    """Raw and ours in turns, so that the machine's moods hit both."""
    figures: list[Figure] = []
    for clients in at_once:
        await timed(raw, runs=clients * 2, clients=clients)
        await timed(ours, runs=clients * 2, clients=clients)
        raw_times: list[float] = []
        our_times: list[float] = []
        for _ in range(4):
            raw_times += await timed(raw, runs=runs // 4, clients=clients)
            our_times += await timed(ours, runs=runs // 4, clients=clients)
        figures.append(Figure(name, clients, statistics.median(raw_times), *percentiles(our_times)))
        print(figures[-1].line, flush=True)
    return figures


def percentiles(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def deliver(port: int, address: str, attachment: bytes | None = None) -> None:
    """Hand a mail in over SMTP, as the world does."""
    message = EmailMessage()
    message["From"], message["To"] = "bench@elsewhere.test", address
    message["Subject"] = f"Bench {next(number)}"
    message.set_content("Some words of text.\n" * 20)
    if attachment is not None:
        message.add_attachment(
            attachment, maintype="application", subtype="octet-stream", filename="bench.bin"
        )
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        smtp.send_message(message)


async def new_inbox(target: Target) -> str:
    """The address of a new inbox."""
    answer = await target.api.post("/v0/inboxes")
    return answer.json()["inbox_id"]


def memory_of(process: int, kind: str = "VmRSS") -> float:
    """Resident memory of a process in MB; with `VmHWM` the most since `forget_peak`."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    (line,) = [each for each in status.splitlines() if each.startswith(kind)]
    return int(line.split()[1]) / 1000


def processor_of(process: int) -> float:
    """Seconds of a processor that a process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peak(process: int) -> None:
    """Count the process's largest memory from now on (Linux, `proc_pid_clear_refs(5)`)."""
    Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")
