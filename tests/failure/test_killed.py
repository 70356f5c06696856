"""kill -9 of the real service beside a real Stalwart: nothing lost, nothing doubled, nothing orphaned."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import httpx
import pytest

from agentmail_cp.mailserver import MailServerRejected
from tests.failure.real import Ringing, Running, running, service
from tests.fix_app import until

pytestmark = [pytest.mark.stalwart, pytest.mark.slow]

MAILS = 500
SENDERS = 4


async def assert_all_once(live: Running, inbox: dict[str, object]) -> None:
    """Every mail is listed once and announced once."""

    async def listed() -> list[str]:
        return sorted(str(each["message_id"]) for each in await live.messages(inbox))

    expected = sorted(f"<{number}@o.test>" for number in range(MAILS))
    assert await until(listed, lambda seen: len(seen) >= MAILS, seconds=30) == expected
    await asyncio.sleep(0.5)
    assert await listed() == expected
    announced = await live.received()
    assert sorted(announced) == expected
    assert set(announced.values()) == {1}
    rows = await live.rows("select seq from event order by seq")
    assert [row["seq"] for row in rows] == list(range(1, MAILS + 1))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("times", "sweep"), [(1, 3600.0), (0, 1.0), (2, 3600.0)], ids=["bells", "sweep only", "twice"]
)
async def test_killed_while_500_mails_arrive(
    ringing: Ringing, database_url: str, tmp_path: Path, times: int, sweep: float
) -> None:
    """A crash of ours would lose an agent's mail, or have it answered twice."""
    choose = random.Random(times)
    ringing.relay.times = times
    process = service(tmp_path, ringing, database_url, sweep_interval=sweep)
    async with process:
        live = await running(process, database_url)
        inbox = await live.inbox()
        shares = [range(start, MAILS, SENDERS) for start in range(SENDERS)]
        arriving = [asyncio.create_task(ringing.deliver(inbox["email"], *each)) for each in shares]
        for nth in range(3):
            await asyncio.sleep(choose.uniform(0.05, 0.3))
            process.kill()
            assert nth or not all(each.done() for each in arriving), "the kill came too late"
            await asyncio.sleep(choose.uniform(0.0, 0.3))
            await process.start()
        await asyncio.gather(*arriving)
        await assert_all_once(live, inbox)
        await live.close()
    assert "Traceback" not in process.log


@pytest.mark.timeout(120)
async def test_killed_while_inboxes_are_made(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """An address would take mail nobody can read, or an inbox would have no account."""
    choose = random.Random(20_261_121)
    process = service(tmp_path, ringing, database_url)
    adapter = ringing.adapter()
    wanted: set[str] = set()
    async with process:
        live = await running(process, database_url)
        for number in range(20):
            making = [
                asyncio.create_task(ask(live, f"killed-{number}-{each}")) for each in range(6)
            ]
            wanted |= {f"killed-{number}-{each}@agents.test" for each in range(6)}
            await asyncio.sleep(choose.uniform(0.0, 0.05))
            process.kill()
            await asyncio.gather(*making)
            await process.start()
            # Time passes: what a lease of ten seconds waits for, twenty rounds cannot.
            await live.rows(
                "update inbox set lease_until = now() where state = 'creating' returning 1"
            )

        async def unfinished() -> int:
            rows = await live.rows("select 1 from inbox where state <> 'active'")
            return len(rows)

        await until(unfinished, lambda count: count == 0, seconds=30)
        rows = await live.rows("select address, account_id from inbox")
        inboxes = {row["address"]: row["account_id"] for row in rows}
        for address in wanted:
            account = await adapter.find_account(address)
            assert (account and account.account_id) == inboxes.get(address), address
        for number in range(20):
            answers = [await ask(live, f"killed-{number}-{each}") for each in range(6)]
            assert {each and each.status_code for each in answers} <= {201, 403}
        assert len(await live.rows("select 1 from inbox where state = 'active'")) == len(wanted)
        await live.close()
    for address in wanted:
        account = await adapter.find_account(address)
        assert account is not None
        with contextlib.suppress(MailServerRejected):
            await adapter.destroy_account(account.account_id)
    await adapter.close()


async def ask(live: Running, username: str) -> httpx.Response | None:
    """Ask for an inbox; None when the service died meanwhile."""
    try:
        return await live.client.post("/v0/inboxes", json={"username": username})
    except httpx.TransportError:
        return None


@pytest.mark.timeout(120)
async def test_killed_while_mail_is_sent(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """A client that repeats its requests after a crash would send some of its mail twice."""
    choose = random.Random(20_261_121)
    process = service(tmp_path, ringing, database_url, sweep_interval=3600)
    async with process:
        live = await running(process, database_url)
        sender, receiver = await live.inbox(), await live.inbox()
        keys = [f"key-{number}" for number in range(60)]

        async def send(key: str) -> bool:
            with contextlib.suppress(httpx.TransportError):
                answer = await live.post(sender, key=key, to=receiver["email"], subject=key)
                return answer.status_code == 200
            return False

        for start in range(0, len(keys), 10):
            sending = [asyncio.create_task(send(key)) for key in keys[start : start + 10]]
            await asyncio.sleep(choose.uniform(0.0, 0.12))
            process.kill()
            await asyncio.gather(*sending)
            await process.start()
        await live.rows("update send set lease_until = now() where state <> 'sent' returning 1")
        for key in keys:

            async def again(key: str = key) -> bool:
                return await send(key)

            await until(again, lambda told: told, seconds=15)

        async def arrived() -> list[str]:
            return sorted(str(each["subject"]) for each in await live.messages(receiver))

        assert await until(arrived, lambda seen: len(seen) >= len(keys)) == sorted(keys)
        sent = sorted(str(each["subject"]) for each in await live.messages(sender))
        assert sent == sorted(keys)
        (count,) = await live.rows("select count from send_count where kind = 'organization'")
        assert count["count"] == len(keys), "a crash gave a place of the day away, or kept one"
        await live.close()
