"""What the service needs goes away, hangs, and comes back: every answer says so, nothing is half-done,
and everything goes on by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path

import pytest

from agentmail_cp.sandbox import Faults
from tests.failure.real import Ringing, Running, running, service
from tests.failure.world import World
from tests.fix_app import Json, until
from tests.fix_proxy import Proxy, port_of, through

SOON = 3.0
ENDED = (0, -signal.SIGTERM)
"""Exit statuses of a good end; uvicorn raises the signal again once it has finished."""


async def test_with_the_mail_server_away_lists_answer(world: World) -> None:
    """An outage of mail would blind every agent."""
    inbox = await world.inbox("alice")
    await world.deliver_to(inbox["email"])
    await world.read()
    world.sandbox.faults = Faults(down=True)
    assert len(await world.threads(inbox)) == 1
    assert len(await world.messages(inbox)) == 1
    path = (
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{(await world.messages(inbox))[0]['message_id']}"
    )
    answers = [
        await world.client.get(path),
        await world.client.patch(path, json={"remove_labels": "unread"}),
        await world.post(inbox, key="k"),
        await world.client.post("/v0/inboxes", json={"username": "bob"}),
    ]
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
    assert await world.rows("select 1 from inbox where username = 'bob'") == []
    assert (await world.client.get("/health")).status_code == 200


# --- a real Stalwart


@pytest.mark.alone
@pytest.mark.stalwart
@pytest.mark.timeout(90)
async def test_stalwart_killed_and_back(live: Running, ringing: Ringing) -> None:
    """An agent could not tell what was sent, or would have to be restarted with the mail server."""
    inbox, other = await live.inbox(), await live.inbox()
    assert (await live.post(inbox, to=other["email"], subject="Before")).status_code == 200
    await until(lambda: live.messages(other), lambda seen: len(seen) == 1)
    await ringing.process.kill()
    try:
        await assert_mail_is_away(live, inbox, other)
    finally:
        await ringing.process.start()
    await assert_back(live, ringing, inbox, other, away=["k"])


async def assert_mail_is_away(live: Running, inbox: Json, other: Json) -> None:
    assert (await live.threads(inbox)).status_code == 200
    started = time.monotonic()
    answer = await live.post(inbox, key="k", to=other["email"], subject="k")
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert time.monotonic() - started < SOON
    made = await live.client.post("/v0/inboxes", json={"username": "made-while-away"})
    assert made.status_code == 503
    assert int(made.headers["Retry-After"]) >= 1
    assert time.monotonic() - started < 2 * SOON


async def assert_back(
    live: Running, ringing: Ringing, inbox: Json, other: Json, *, away: list[str]
) -> None:
    async def again() -> int:
        answer = await live.post(inbox, key="k", to=other["email"], subject="k")
        return answer.status_code

    await until(again, lambda status: status == 200, seconds=20)
    assert await again() == 200

    async def subjects() -> list[str]:
        return sorted(str(each["subject"]) for each in await live.messages(other))

    await until(subjects, lambda seen: "k" in seen, seconds=10)
    assert await subjects() == sorted(["Before", *away])
    await ringing.deliver(inbox["email"], 1)
    await until(
        lambda: live.messages(inbox),
        lambda seen: any(each["subject"] == "Subject 1" for each in seen),
        seconds=10,
    )
    assert "Traceback" not in live.process.log


@pytest.mark.alone
@pytest.mark.stalwart
@pytest.mark.timeout(90)
async def test_stalwart_frozen_and_awake(live: Running, ringing: Ringing) -> None:
    """A mail server that hangs would hang every agent, and send twice when it wakes up."""
    inbox, other = await live.inbox(), await live.inbox()
    assert (await live.post(inbox, to=other["email"], subject="Before")).status_code == 200
    await until(lambda: live.messages(other), lambda seen: len(seen) == 1)
    ringing.process.pause()
    try:
        await assert_mail_is_away(live, inbox, other)
        repeated = await live.post(inbox, key="k", to=other["email"], subject="k")
        assert repeated.status_code == 503
    finally:
        ringing.process.resume()
    await assert_back(live, ringing, inbox, other, away=["k"])
    await assert_no_orphan(live, ringing, "made-while-away@agents.test")


async def assert_no_orphan(live: Running, ringing: Ringing, address: str) -> None:
    """An inbox nobody was told of is gone on both sides, once its lease is over."""
    await live.rows("update inbox set lease_until = now() where state = 'creating' returning 1")

    async def rows() -> int:
        return len(await live.rows("select 1 from inbox where state = 'creating'"))

    await until(rows, lambda count: count == 0, seconds=10)
    adapter = ringing.adapter()
    assert await adapter.find_account(address) is None
    await adapter.close()


@pytest.mark.stalwart
@pytest.mark.timeout(90)
@pytest.mark.parametrize("fault", ["request cut", "answer cut", "answer stalled"])
async def test_a_connection_cut_in_the_middle_sends_once(
    ringing: Ringing, database_url: str, tmp_path: Path, fault: str
) -> None:
    """A proxy or a firewall that drops connections would double mail or lose it."""
    async with Proxy(port_of(ringing.process.url)) as proxy:
        url = through(ringing.process.url, proxy)
        process = service(tmp_path, ringing, database_url, stalwart_url=url, settle_interval=30)
        async with process:
            live = await running(process, database_url)
            inbox, other = await live.inbox(), await live.inbox()
            assert (await live.post(inbox, to=other["email"], subject="Before")).status_code == 200
            await until(lambda: live.messages(other), lambda seen: len(seen) == 1)
            await spoil(proxy, fault)
            answer = await live.post(inbox, key="k", to=other["email"], subject="k")
            assert answer.status_code == 503, answer.text
            await proxy.heal()
            await assert_back(live, ringing, inbox, other, away=["k"])
            await live.close()


async def spoil(proxy: Proxy, fault: str) -> None:
    match fault:
        case "request cut":
            proxy.cut_request_after = 900
        case "answer cut":
            proxy.cut_answer_after = 40
        case _:
            proxy.stall()


# --- PostgreSQL


@pytest.mark.alone
@pytest.mark.stalwart
@pytest.mark.timeout(90)
@pytest.mark.parametrize("how", ["refused", "stalled", "cut"])
async def test_postgresql_away_and_back(
    ringing: Ringing, database_url: str, tmp_path: Path, pg_proxy: Proxy, how: str
) -> None:
    """A restart of the database would need a restart of the service, or cost mail."""
    url = through(database_url, pg_proxy)
    process = service(tmp_path, ringing, url, sweep_interval=3600)
    async with process:
        live = await running(process, database_url)
        inbox = await live.inbox()
        {"refused": pg_proxy.refuse, "stalled": pg_proxy.stall, "cut": pg_proxy.cut}[how]()
        if how != "cut":
            await process.until_status(503, seconds=10)
            for answer in (
                await live.threads(inbox),
                await live.post(inbox, key="k", to=inbox["email"]),
                await live.client.post("/v0/inboxes", json={}),
            ):
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) >= 1
            await asyncio.sleep(4)
        await ringing.deliver(inbox["email"], 1)
        await pg_proxy.heal()
        assert await process.until_status(200, seconds=15) < 8
        await until(lambda: settled(live, inbox), lambda status: status == 200, seconds=10)
        await until(
            lambda: live.messages(inbox),
            lambda seen: "Subject 1" in {each["subject"] for each in seen},
            seconds=10,
        )
        await assert_jobs_run(live)
        await live.close()
    assert "Traceback" not in process.log
    assert process.log.count("\n") < 200, process.log[-3000:]


async def settled(live: Running, inbox: Json) -> int:
    return (await live.post(inbox, key="k", to=inbox["email"], subject="k")).status_code


async def assert_jobs_run(live: Running) -> None:
    """A job put in by hand is taken up and succeeds; one that does is removed."""
    await live.rows(
        "insert into procrastinate_jobs (queue_name, task_name, args, status) values"
        " ('default', 'agentmail:forget_old', '{\"timestamp\": 0}', 'todo') returning id"
    )

    async def waiting() -> int:
        query = "select 1 from procrastinate_jobs where status in ('todo', 'doing', 'failed')"
        return len(await live.rows(query))

    await until(waiting, lambda count: count == 0, seconds=15)


@pytest.mark.stalwart
@pytest.mark.timeout(60)
async def test_started_before_its_database_it_waits_for_it(
    ringing: Ringing, database_url: str, tmp_path: Path, pg_proxy: Proxy
) -> None:
    """After a power failure the order in which machines come up would decide."""
    pg_proxy.refuse()
    process = service(tmp_path, ringing, through(database_url, pg_proxy))
    process.launch()
    try:
        await process.until_status(503)
        await asyncio.sleep(2)
        await pg_proxy.heal()
        await process.until_status(200, seconds=10)
        live = await running(process, database_url)
        await live.inbox()
        await assert_jobs_run(live)
        await live.close()
    finally:
        assert await process.terminate() in ENDED
    assert "Traceback" not in process.log


@pytest.mark.stalwart
@pytest.mark.timeout(60)
async def test_api_and_worker_apart(ringing: Ringing, database_url: str, tmp_path: Path) -> None:
    """Split over two processes, the product would not work, or not end when told to."""
    (tmp_path / "worker").mkdir()
    worker = service(tmp_path / "worker", ringing, database_url, "worker")
    api = service(tmp_path, ringing, database_url, "serve", "--no-worker", sweep_interval=3600)
    async with api, worker:
        live = await running(api, database_url)
        inbox = await live.inbox()
        await ringing.deliver(inbox["email"], 1)
        await until(lambda: live.messages(inbox), lambda seen: len(seen) == 1)
        worker.kill()
        await ringing.deliver(inbox["email"], 2)
        await asyncio.sleep(0.3)
        await worker.start()
        await until(lambda: live.messages(inbox), lambda seen: len(seen) == 2, seconds=10)
        await live.close()
        assert await worker.terminate() in ENDED
        assert await api.terminate() in ENDED
    with contextlib.suppress(OSError):
        assert "Traceback" not in api.log + worker.log
