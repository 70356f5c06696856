"""How soon subscribers are told: by webhook, WebSocket and wait, after a burst, and after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from datetime import UTC, datetime
from email.message import EmailMessage
from smtplib import SMTP

from websockets.asyncio.client import connect

from bench.measuring import Figure, Target, new_inbox, number, percentiles

RATE = 20
"""Mails a second."""

MAILS = 400
BURST = 100
MANY = 500
PATIENCE = 60.0


class Clock:
    """When each mail was accepted and when somebody was told of it, by its Message-ID."""

    def __init__(self) -> None:
        self.accepted: dict[str, float] = {}
        self.told: dict[str, float] = {}

    def tell(self, message_id: str) -> None:
        self.told.setdefault(message_id, time.perf_counter())

    async def all_told(self) -> None:
        """Wait until somebody was told of every accepted mail."""
        async with asyncio.timeout(PATIENCE):
            while self.accepted.keys() - self.told.keys():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def times(self, ids: Iterable[str] | None = None) -> list[float]:
        """Milliseconds from SMTP's 250 to the telling."""
        return [(self.told[each] - self.accepted[each]) * 1000 for each in ids or self.accepted]


def hand_in(port: int, address: str, *clocks: Clock) -> str:
    """A mail from outside; its Message-ID."""
    mail = EmailMessage()
    mail["From"], mail["To"] = "bench@elsewhere.test", address
    mail["Subject"], mail["Message-ID"] = "Bench", f"<bench-{next(number)}@elsewhere.test>"
    mail.set_content("Some words of text.\n" * 20)
    with SMTP("127.0.0.1", port) as smtp:
        smtp.send_message(mail)
        accepted = time.perf_counter()
    for clock in clocks:
        clock.accepted[mail["Message-ID"]] = accepted
    return mail["Message-ID"]


async def steadily(target: Target, address: str, clock: Clock) -> None:
    """`MAILS` mails to an inbox at `RATE` a second."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for nth in range(MAILS):
            await asyncio.sleep(max(0.0, began + nth / RATE - time.perf_counter()))
            group.create_task(asyncio.to_thread(hand_in, target.smtp_port, address, clock))
    await clock.all_told()


@contextlib.asynccontextmanager
async def by_webhook(target: Target, address: str, clock: Clock) -> AsyncGenerator[None]:
    """Told at the first byte of a webhook's request; without an address, of every inbox."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while first := await reader.read(1):
                came = time.perf_counter()
                head = first + await reader.readuntil(b"\r\n\r\n")
                body = json.loads(await reader.readexactly(_length(head)))
                clock.told.setdefault(body["message"]["message_id"], came)
                writer.write(b"HTTP/1.1 204 Fine\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wanted = {
        "url": f"http://127.0.0.1:{port}/",
        "event_types": ["message.received"],
        **({"inbox_ids": [address]} if address else {}),
    }
    made = (await target.api.post("/v0/webhooks", json=wanted)).raise_for_status().json()
    try:
        yield
    finally:
        await target.api.delete(f"/v0/webhooks/{made['webhook_id']}")
        server.close()


def _length(head: bytes) -> int:
    fields = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    return next(int(value) for name, _, value in fields if name == b"content-length")


@contextlib.asynccontextmanager
async def by_socket(target: Target, address: str, clock: Clock) -> AsyncGenerator[None]:
    """Told by a frame of the WebSocket."""
    url = str(target.api.base_url).replace("http", "ws", 1).rstrip("/") + "/v0"
    key = target.api.headers["Authorization"]
    async with connect(url, additional_headers={"Authorization": key}) as socket:
        await socket.send(json.dumps({"type": "subscribe", "inbox_ids": [address]}))
        assert json.loads(await socket.recv())["type"] == "subscribed"

        async def listen() -> None:
            async for frame in socket:
                clock.tell(json.loads(frame)["message"]["message_id"])

        listening = asyncio.create_task(listen())
        yield
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@contextlib.asynccontextmanager
async def by_wait(target: Target, address: str, clock: Clock) -> AsyncGenerator[None]:
    """Told by the answer to a wait, one wait after the other as an agent asks."""

    async def ask() -> None:
        since = datetime.now(UTC).isoformat()
        while True:
            answer = await target.api.get(
                f"/v0/inboxes/{address}/messages/wait", params={"since": since, "timeout": "20"}
            )
            if answer.status_code == 200:
                clock.tell(answer.json()["message_id"])
                since = answer.json()["created_at"]

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.2)
    yield
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


WAYS: dict[str, Callable[[Target, str, Clock], contextlib.AbstractAsyncContextManager[None]]] = {
    "webhook": by_webhook,
    "WebSocket": by_socket,
    "wait": by_wait,
}


async def told(target: Target) -> list[Figure]:
    """SMTP accepted → told, at a steady rate, in each way by itself."""
    figures: list[Figure] = []
    for name, way in WAYS.items():
        clock, address = Clock(), await new_inbox(target)
        async with way(target, address, clock):
            await steadily(target, address, clock)
        figures.append(_figure(f"told by {name} at {RATE}/s", clock.times()))
    return figures


async def bursts(target: Target) -> list[Figure]:
    """A burst of mails, and then nothing: the last must not wait for what comes after it."""
    clock, address, lasts = Clock(), await new_inbox(target), list[str]()
    async with by_socket(target, address, clock):
        for _ in range(5):
            arrived = [
                await asyncio.to_thread(hand_in, target.smtp_port, address, clock)
                for _ in range(BURST)
            ]
            lasts.append(arrived[-1])
            await clock.all_told()
            await asyncio.sleep(1)
    others = clock.accepted.keys() - set(lasts)
    return [
        _figure(f"burst of {BURST}, the others", clock.times(others)),
        _figure("burst, the last", clock.times(lasts)),
    ]


async def caught_up(target: Target) -> list[Figure]:
    """What kill -9 costs while a mail arrives at each of many inboxes: from healthy again to all told."""
    inboxes = [await new_inbox(target) for _ in range(MANY)]
    clock = Clock()
    async with by_webhook(target, "", clock):
        arriving = asyncio.create_task(_one_each(target, inboxes, clock))
        await asyncio.sleep(0.5)
        target.kill()
        await arriving
        await target.start()
        began = time.perf_counter()
        await clock.all_told()
    seconds = time.perf_counter() - began
    return [_figure(f"caught up with {MANY} inboxes", [seconds * 1000] * 2)]


async def _one_each(target: Target, inboxes: list[str], clock: Clock) -> None:
    gate = asyncio.Semaphore(8)

    async def one(address: str) -> None:
        async with gate:
            await asyncio.to_thread(hand_in, target.smtp_port, address, clock)

    await asyncio.gather(*(one(each) for each in inboxes))


def _figure(name: str, times: list[float]) -> Figure:
    figure = Figure(name, 1, None, *percentiles(times))
    print(figure.line, flush=True)
    return figure
