"""kill -9 of the service beside a real Stalwart at each step of a request with an Idempotency-Key, a hundred
times: repeated, it is carried out once, and told as it would have been.
"""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path

import httpx
import pytest

from tests.failure.mortal import ADOPTION, INBOX, SEND, Fate, program
from tests.failure.real import Ringing, Running, running
from tests.fix_app import Json, until
from tests.fix_process import ServiceProcess

pytestmark = [pytest.mark.stalwart, pytest.mark.slow]

SEED = 20_261_121
TIMES = 100
LONGEST_DELAY = 0.02
"""Seconds after which a call that is under way is cut off at the latest; it takes about as many."""

Request = Callable[[], Awaitable[httpx.Response]]


class Mortal:
    """A service that dies when it is told to, and what it takes to see that it did."""

    def __init__(self, live: Running, fate: Fate, choose: random.Random) -> None:
        self.live = live
        self.fate = fate
        self.choose = choose

    def steps(self, among: Iterable[str]) -> list[str]:
        """Each step as often as every other, in an order of its own."""
        names = list(among)
        wanted = [names[number % len(names)] for number in range(TIMES)]
        self.choose.shuffle(wanted)
        return wanted

    async def die(self, step: str, request: Request) -> None:
        """Let the request kill its service at a step, and wait for the next life."""
        self.fate.set(step, self.choose.uniform(0, LONGEST_DELAY))
        with pytest.raises(httpx.TransportError):
            await request()
        assert not self.fate.open, f"{step} was not reached"
        await self.live.process.until_status(200)

    async def let_leases_end(self) -> None:
        """Time passes, which a test has not."""
        for query in (
            "update send set lease_until = now() where state in ('submitting', 'unknown')",
            "update inbox set lease_until = now() where state = 'creating'",
            "update idempotency_key set lease_until = now() where completed_at is null",
        ):
            await self.live.rows(f"{query} returning 1")

    async def told(self, request: Request, status: int) -> httpx.Response:
        """The answer to a request that is repeated until there is one."""

        async def again() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                return await request()
            return None

        answer = await until(
            again, lambda seen: bool(seen and seen.status_code == status), seconds=15
        )
        assert answer is not None
        return answer


@contextlib.asynccontextmanager
async def mortal(
    ringing: Ringing, database_url: str, folder: Path, *arguments: str
) -> AsyncGenerator[Mortal]:
    """A service of an organisation's, beside the run's Stalwart."""
    path = folder / "fate"
    settings = ringing.settings(database_url, requests_per_minute=0)
    process = ServiceProcess(folder, settings, "serve", *arguments, program=program(path))
    ringing.relay.target = process.port
    async with process:
        live = await running(process, database_url)
        try:
            yield Mortal(live, Fate(path), random.Random(SEED))
        finally:
            await live.close()
    assert "Traceback" not in process.log


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


@pytest.mark.timeout(180)
async def test_a_hundred_sends_are_a_hundred_mails(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """A customer would get some of an agent's mail twice, and some of it never."""
    async with mortal(ringing, database_url, tmp_path) as dying:
        live = dying.live
        sender, receiver = await live.inbox(), await live.inbox()
        steps = dict(zip((f"mail-{n}" for n in range(TIMES)), dying.steps(SEND), strict=True))

        def send(key: str) -> Request:
            return lambda: live.post(sender, key=key, to=receiver["email"], subject=key)

        for key, step in steps.items():
            await dying.die(step, send(key))
        await dying.let_leases_end()
        answers = await asyncio.gather(*(dying.told(send(key), 200) for key in steps))
        again = await asyncio.gather(*(dying.told(send(key), 200) for key in steps))
        for key, first, second in zip(steps, answers, again, strict=True):
            assert second.json() == first.json(), steps[key]
            assert second.headers["Idempotent-Replayed"] == "true"
        await assert_each_once(ringing, live, receiver, sorted(steps))
        await assert_each_once(ringing, live, sender, sorted(steps), folder="Sent")
        (counted,) = await live.rows(
            "select sum(count)::int as sends from send_count where subject_id = organization_id"
        )
        assert counted["sends"] == TIMES, "what did not leave counts towards the day's limit"


async def assert_each_once(
    ringing: Ringing, live: Running, inbox: Json, subjects: list[str], folder: str = "INBOX"
) -> None:
    """In the API as in the mailbox itself."""

    async def listed() -> list[str]:
        return sorted(str(each["subject"]) for each in await live.messages(inbox))

    assert await until(listed, lambda seen: len(seen) >= len(subjects), seconds=15) == subjects
    assert await asyncio.to_thread(in_mailbox, ringing, inbox, folder) == len(subjects)
    assert await listed() == subjects


def in_mailbox(ringing: Ringing, inbox: Json, folder: str) -> int:
    with ringing.imap(inbox) as mailbox:
        _, (count, *_) = mailbox.select(folder, readonly=True)
        assert count is not None
        return int(count)


@pytest.mark.timeout(180)
async def test_a_hundred_inboxes_are_a_hundred_accounts(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """An agent would sit before a mailbox whose password nobody was told, or own two of them."""
    # Without the job that takes back what is half made: here it is the repetition that finds it.
    async with mortal(ringing, database_url, tmp_path, "--no-worker") as dying:
        live, choose = dying.live, dying.choose
        steps = dict(zip((f"inbox-{n}" for n in range(TIMES)), dying.steps(INBOX), strict=True))
        bodies: dict[str, Json] = {
            key: choose.choice([{}, {"metadata": {"n": key}}]) for key in steps
        }

        def make(key: str) -> Request:
            return lambda: live.client.post("/v0/inboxes", json=bodies[key], headers=keyed(key))

        for key, step in steps.items():
            await dying.die(step, make(key))
            # What Stalwart had made already is taken over: that can be interrupted, too.
            if "answer" in step and choose.random() < 0.5:
                await dying.let_leases_end()
                await dying.die(choose.choice(sorted(ADOPTION)), make(key))
        await dying.let_leases_end()
        answers = await asyncio.gather(*(dying.told(make(key), 201) for key in steps))
        again = await asyncio.gather(*(dying.told(make(key), 201) for key in steps))
        for key, first, second in zip(steps, answers, again, strict=True):
            assert second.json() == first.json(), steps[key]
            assert second.headers["Idempotent-Replayed"] == "true"
            replayed = first.headers.get("Idempotent-Replayed") == "true"
            assert replayed == (steps[key] == "inbox: after the record")
        made = [answer.json() for answer in answers]
        await assert_one_account_each(ringing, live, made)
        assert await asyncio.to_thread(locked_out, ringing, made) == []


async def assert_one_account_each(ringing: Ringing, live: Running, made: list[Json]) -> None:
    """No half-made row, and every account of the address space is one of these."""
    addresses = {each["email"] for each in made}
    assert len(addresses) == TIMES
    rows = await live.rows("select address, state, account_id from inbox")
    assert {row["address"] for row in rows} == addresses
    assert {row["state"] for row in rows} == {"active"}
    adapter = ringing.adapter()
    for row in rows:
        account = await adapter.find_account(row["address"])
        assert account is not None
        assert account.account_id == row["account_id"]
    await adapter.close()


def locked_out(ringing: Ringing, made: list[Json]) -> list[str]:
    """The inboxes whose password, as it was told, does not open them."""
    refused: list[str] = []
    for inbox in made:
        try:
            ringing.imap(inbox).logout()
        except imaplib.IMAP4.error:
            refused.append(inbox["email"])
    return refused
