"""The basics: make inboxes, send, list, get, receive."""

from __future__ import annotations

import asyncio
import statistics
import time

from bench.measuring import (
    CLIENTS,
    Figure,
    Target,
    compare,
    deliver,
    new_inbox,
    number,
    percentiles,
    timed,
)

MANY_INBOXES = 10_000


async def create_inbox(target: Target) -> list[Figure]:
    """Make inboxes; then the same again when there are ten thousand."""

    async def ours() -> None:
        answer = await target.api.post("/v0/inboxes", json={"username": f"bench-{next(number)}"})
        answer.raise_for_status()

    async def raw() -> None:
        await target.raw.create_account(f"raw-{next(number)}")

    figures = await compare("create inbox", raw=raw, ours=ours, runs=200)
    made = 0
    while made < MANY_INBOXES:
        made += len(await timed(ours, runs=1000, clients=16))
    late = await timed(ours, runs=200, clients=1)
    figures.append(Figure("create inbox after 10,000", 1, figures[0].raw, *percentiles(late)))
    print(figures[-1].line, flush=True)
    return figures


async def mail(target: Target) -> list[Figure]:
    """Send, list, get."""
    sender, receiver = await new_inbox(target), await new_inbox(target)
    account = await target.raw.create_account(f"raw-{next(number)}")
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
        figure = Figure("receive", clients, statistics.median(raw_times), *percentiles(our_times))
        figures.append(figure)
        print(figure.line, flush=True)
    return figures


async def _receive_one(target: Target, ours: list[float], raw: list[float]) -> None:
    address = await new_inbox(target)
    account = await target.raw.account_of(address)
    for arrived in range(1, 41):
        await asyncio.to_thread(deliver, target.smtp_port, address)
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
