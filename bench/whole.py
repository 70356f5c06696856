"""The rest of the mail API: reply, attachments, threads of a large inbox, search, large files."""

from __future__ import annotations

import asyncio
import base64
import os
import time

import psycopg

from bench.measuring import (
    Action,
    Figure,
    Target,
    compare,
    deliver,
    forget_peak,
    memory_of,
    new_inbox,
    number,
    timed,
)

MANY_THREADS = 100_000
LARGE = os.urandom(25_000_000)
SMALL = os.urandom(100_000)
PAGES_DEEP = 40

SEED = """
insert into thread (thread_id, organization_id, pod_id, inbox_id, subject, preview, labels, masks,
    senders, recipients, message_count, size, has_attachment, last_message_id, "timestamp",
    received_timestamp, created_at)
select gen_random_uuid(), organization_id, pod_id, inbox_id, 'Subject ' || n, 'Preview ' || n,
    case when n %% 10 = 0 then '{received,unread}' else '{received}' end::text[], '{0}',
    array['Sender ' || n %% 997 || ' <sender' || n %% 997 || '@elsewhere.test>'], array[address],
    1, 2000, false, '<seed-' || n || '@elsewhere.test>', now() - n * interval '1 minute',
    now() - n * interval '1 minute', now() - n * interval '1 minute'
from inbox, generate_series(1, %(many)s) as n where address = %(address)s;
"""


async def reply(target: Target) -> list[Figure]:
    """Answer a received mail."""
    address = await new_inbox(target)
    account = await target.raw.create_account(f"raw-{next(number)}")
    for each in (address, target.raw.address_of(account)):
        await asyncio.to_thread(deliver, target.smtp_port, each)
    (parent,) = await target.raw.newest(account)
    message = await _newest(target, address)
    path = f"/v0/inboxes/{address}/messages/{message['message_id']}/reply"
    # To a mailbox on this server, so that nothing leaves the machine.
    body = {"text": "Some words of text.\n" * 20, "to": await new_inbox(target)}

    async def ours() -> None:
        (await target.api.post(path, json=body)).raise_for_status()

    async def raw() -> None:
        await target.raw.reply(account, parent, body["text"], body["to"])

    return await compare("reply", raw=raw, ours=ours, runs=200)


async def get_with_attachment(target: Target) -> list[Figure]:
    """Read a mail that has a file of 100 kB, and the file."""
    address = await new_inbox(target)
    account = await target.raw.account_of(address)
    await asyncio.to_thread(deliver, target.smtp_port, address, SMALL)
    message = await _newest(target, address)
    path = f"/v0/inboxes/{address}/messages/{message['message_id']}"

    async def ours() -> None:
        whole = (await target.api.get(path)).raise_for_status().json()
        attachment_id = whole["attachments"][0]["attachment_id"]
        link = (await target.api.get(f"{path}/attachments/{attachment_id}")).json()
        file = await target.api.get(link["download_url"])
        assert len(file.content) == len(SMALL)

    async def raw() -> None:
        (document,) = await target.raw.newest(account)
        await target.raw.get_one(account, document)
        assert await target.raw.download_newest(account) == len(SMALL)

    return await compare("get with attachment, and download", raw=raw, ours=ours, runs=200)


async def threads(target: Target) -> list[Figure]:
    """List threads of an inbox that has a hundred thousand: the first page, and one far down."""
    address = await new_inbox(target)
    account = await target.raw.account_of(address)
    for _ in range(20):
        await asyncio.to_thread(deliver, target.smtp_port, address)
    async with await psycopg.AsyncConnection.connect(target.database_url, autocommit=True) as tx:
        await tx.execute(SEED, {"many": MANY_THREADS, "address": address})
        await tx.execute("analyze thread")
    path = f"/v0/inboxes/{address}/threads?limit=20"
    deep = path
    for _ in range(PAGES_DEEP):
        page = (await target.api.get(deep.replace("limit=20", "limit=100"))).json()
        deep = f"{path}&page_token={page['next_page_token']}"

    async def raw() -> None:
        await target.raw.list_twenty(account, collapse=True)

    figures: list[Figure] = []
    for name, url in (
        ("list 20 of 100,000 threads", path),
        ("the same, 4,000 further down", deep),
        ("the same, unread only", f"{path}&labels=unread"),
    ):

        async def ours(url: str = url) -> None:
            assert (await target.api.get(url)).json()["count"] == 20

        figures += await compare(name, raw=raw, ours=ours, runs=200)
    return figures


async def search(target: Target) -> list[Figure]:
    """Find twenty mails by a word of their bodies."""
    address = await new_inbox(target)
    account = await target.raw.account_of(address)
    for _ in range(40):
        await asyncio.to_thread(deliver, target.smtp_port, address)
    path = f"/v0/inboxes/{address}/messages/search?q=words&limit=20"
    deadline = time.monotonic() + 30
    while (await target.api.get(path)).json()["count"] < 20:
        assert time.monotonic() < deadline, "not indexed"
        await asyncio.sleep(0.1)

    async def ours() -> None:
        assert (await target.api.get(path)).json()["count"] == 20

    async def raw() -> None:
        await target.raw.search(account, "words")

    return await compare("search 20", raw=raw, ours=ours, runs=200)


async def large(target: Target) -> list[Figure]:
    """Send a file of 25 MB; receive one and download it. Four at a time as well."""
    address, other = await new_inbox(target), await new_inbox(target)
    account = await target.raw.create_account(f"raw-{next(number)}")
    body = {
        "to": other,
        "subject": "Bench",
        "text": "A file.",
        "attachments": [
            {"filename": "bench.bin", "content": base64.b64encode(LARGE).decode()},
        ],
    }

    async def send() -> None:
        answer = await target.api.post(f"/v0/inboxes/{address}/messages/send", json=body)
        answer.raise_for_status()

    async def raw_send() -> None:
        await target.raw.send_file(account, other, LARGE)

    figures = await _with_peak(target, "25 MB out, base64", raw=raw_send, ours=send)
    receiver = await new_inbox(target)
    stored = await target.raw.account_of(receiver)
    await asyncio.to_thread(deliver, target.smtp_port, receiver, LARGE)
    message = await _newest(target, receiver)
    path = f"/v0/inboxes/{receiver}/messages/{message['message_id']}"

    async def download() -> None:
        whole = (await target.api.get(path)).json()
        attachment_id = whole["attachments"][0]["attachment_id"]
        link = (await target.api.get(f"{path}/attachments/{attachment_id}")).json()
        size = 0
        async with target.api.stream("GET", link["download_url"]) as answer:
            async for chunk in answer.aiter_bytes():
                size += len(chunk)
        assert size == len(LARGE)

    async def raw_download() -> None:
        assert await target.raw.download_newest(stored) == len(LARGE)

    figures += await _with_peak(target, "25 MB in, download", raw=raw_download, ours=download)
    begun = time.perf_counter()
    await asyncio.to_thread(deliver, target.smtp_port, receiver, LARGE)
    accepted = time.perf_counter()
    while (await _count(target, receiver)) < 2:  # noqa: ASYNC110 - a poll is measured
        await asyncio.sleep(0.005)
    seen = (time.perf_counter() - accepted) * 1000
    print(f"25 MB in: {(accepted - begun) * 1000:.0f} ms over SMTP, visible {seen:.0f} ms later")
    return figures


async def _with_peak(target: Target, name: str, *, raw: Action, ours: Action) -> list[Figure]:
    """Compare one at a time, with the memory our process took on meanwhile; then four of ours at once,
    when Stalwart has delivered the others.
    """
    before = memory_of(target.process)
    forget_peak(target.process)
    (figure,) = await compare(name, raw=raw, ours=ours, runs=8, at_once=(1,))
    figure.added_mb = memory_of(target.process, "VmHWM") - before
    await asyncio.sleep(10)
    before = memory_of(target.process)
    forget_peak(target.process)
    times = await timed(ours, runs=4, clients=4)
    added = memory_of(target.process, "VmHWM") - before
    print(f"  memory added: one at a time {figure.added_mb:.0f} MB, four at once {added:.0f} MB")
    print(f"  four at once: the last was done after {max(times):.0f} ms", flush=True)
    return [figure, Figure(f"{name}, all done", 4, None, max(times), max(times), added)]


async def _newest(target: Target, address: str) -> dict[str, str]:
    while True:
        listed = (await target.api.get(f"/v0/inboxes/{address}/messages?limit=1")).json()
        if listed["count"]:
            return listed["messages"][0]
        await asyncio.sleep(0.01)


async def _count(target: Target, address: str) -> int:
    return (await target.api.get(f"/v0/inboxes/{address}/messages")).json()["count"]
