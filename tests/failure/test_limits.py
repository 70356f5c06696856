"""A send that did not leave gives its count back once, whatever happened to it; one that left never does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from email import message_from_bytes

import pytest

from agentmail_cp import sending
from agentmail_cp.errors import Unavailable
from agentmail_cp.mailserver import MailServerError, Refusal
from agentmail_cp.sandbox import Faults
from tests.failure.world import OUTSIDE, NotReached, World
from tests.fix_app import Json
from tests.limiting import counts, limit

SUBMIT = frozenset({"submit"})
ENDS = {
    "refused": Faults(reject=Refusal.OVER_QUOTA),
    "away": Faults(down=True),
    "no answer": Faults(lost_answer=True, methods=SUBMIT),
    "not understood": Faults(confused=True, methods=SUBMIT),
    "fine": Faults(),
}
"""How an attempt may end, and what the mail server does for it."""


async def counted(world: World) -> int:
    return (await counts(world.db, world.organization_id)).get("organization", 0)


def left(world: World) -> int:
    """For how many recipients mail left."""
    return len(world.sandbox.outbox)


async def attempt(world: World, inbox: Json, how: str, **fields: object) -> None:
    """One request, and however it ends."""
    if how in ("crash before", "crash after"):
        hooks = world.sandbox.before if how == "crash before" else world.sandbox.after
        with contextlib.suppress(NotReached):
            await world.crash(hooks, "submit", world.post(inbox, **fields))  # pyright: ignore[reportArgumentType]
        return
    world.sandbox.faults = ENDS[how]
    await world.post(inbox, **fields)  # pyright: ignore[reportArgumentType]
    world.sandbox.faults = Faults()


@pytest.mark.parametrize("how", [*ENDS, "crash before", "crash after"])
async def test_once_it_is_settled_what_left_is_counted_and_nothing_else(
    world: World, how: str
) -> None:
    """A day's mail would be used up by mail that never left, or not by mail that did."""
    inbox = await world.inbox("sender")
    await attempt(world, inbox, how, key="k", to=[OUTSIDE, "b@elsewhere.test"])
    for _ in range(2):
        await world.settle()
    assert await counted(world) == left(world)
    if how == "fine":
        assert left(world) == 2


async def test_an_open_send_stays_counted(world: World) -> None:
    """While nobody knows whether a mail left, its place would be given to another one."""
    inbox = await world.inbox("sender")
    await limit(world.db, world.organization_id, sends_per_day=1)
    await attempt(world, inbox, "no answer", key="k")
    assert await world.states() == ["unknown"]
    assert await counted(world) == 1
    assert (await world.post(inbox, key="other")).status_code == 429
    again = await world.post(inbox, key="k")
    assert again.status_code == 200, "the mail that left may not be told of"
    assert await counted(world) == left(world) == 1


async def test_a_request_repeated_after_nothing_left_counts_again_and_is_judged_again(
    world: World,
) -> None:
    """With one key a client could send after its last mail, or would pay twice for one."""
    inbox = await world.inbox("sender")
    await limit(world.db, world.organization_id, sends_per_day=1)
    await attempt(world, inbox, "away", key="k")
    assert (await counted(world), await world.states()) == (0, ["abandoned"])
    assert (await world.post(inbox, key="other")).status_code == 200
    refused = await world.post(inbox, key="k")
    assert refused.status_code == 429
    await limit(world.db, world.organization_id, sends_per_day=2)
    assert (await world.post(inbox, key="k")).status_code == 200
    assert await counted(world) == left(world) == 2


@pytest.mark.parametrize("key", ["k", None])
async def test_an_owed_outcome_is_told_though_the_day_is_over(
    world: World, key: str | None
) -> None:
    """The SDK repeats a request after 503: refused now, it would be sent once more tomorrow."""
    inbox = await world.inbox("sender")
    await limit(world.db, world.organization_id, sends_per_day=1)
    await attempt(world, inbox, "no answer", key=key)
    await world.settle()
    answer = await world.post(inbox, key=key)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert (await world.post(inbox, key="other")).status_code == 429
    assert len(world.sandbox.outbox) == 1


@pytest.mark.parametrize("seed", range(3))
async def test_settling_and_repeating_at_once_give_back_once(world: World, seed: int) -> None:
    """Two who find out the same would each give the count back: one mail for free."""
    choose = random.Random(seed)
    inbox = await world.inbox("sender")
    await world.post(inbox, key="first", to=[f"r{each}@elsewhere.test" for each in range(20)])
    assert await counted(world) == 20
    hows = ["crash before", "crash after", "away", "no answer"]

    async def settle() -> None:
        await asyncio.sleep(choose.uniform(0, 0.01))
        with contextlib.suppress(Unavailable, MailServerError):
            await sending.settle(world.db, world.server)

    for number in range(6):
        key, how = f"k{number}", choose.choice(hows)
        await attempt(world, inbox, how, key=key, to=[OUTSIDE, "b@elsewhere.test"])
        await world.let_leases_end()
        again = world.post(inbox, key=key, to=[OUTSIDE, "b@elsewhere.test"])
        await asyncio.gather(settle(), settle(), again, settle())
        await world.settle()
        assert await counted(world) == left(world)


@pytest.mark.slow
async def test_a_hundred_sends_that_go_wrong_and_right_add_up(world: World) -> None:
    """Whatever goes wrong, in whatever order: what left is what was counted, for everybody."""
    choose = random.Random(20_261_121)
    inboxes = [await world.inbox(name) for name in ("one", "two", "three")]
    for number in range(100):
        inbox, fields = choose.choice(inboxes), {"key": f"k{number // 2}", "subject": "S"}
        await attempt(world, inbox, choose.choice([*ENDS, "crash before", "crash after"]), **fields)
        if choose.random() < 0.3:
            await world.settle()
    await world.settle()
    assert await counted(world) == left(world) > 10
    everybody = {str(message_from_bytes(mail.raw)["To"]) for mail in world.sandbox.outbox}
    rows = await world.rows("select address, count(*) as inboxes from known_recipient group by 1")
    assert {row["address"] for row in rows} == everybody
    rows = await world.rows("select kind, sum(count) as total from send_count group by kind")
    assert {row["kind"]: row["total"] for row in rows} == {
        "organization": left(world),
        "inbox": left(world),
        "new_recipients": len(
            {str(message_from_bytes(mail.raw)["From"]) for mail in world.sandbox.outbox}
        ),
    }


async def test_a_draft_and_its_count_come_back_together(world: World) -> None:
    """Two who each wait for what the other holds: the draft here, the count there."""
    inbox = await world.inbox("author")
    answer = await world.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/drafts", json={"to": OUTSIDE, "subject": "S"}
    )
    path = f"/v0/inboxes/{inbox['inbox_id']}/drafts/{answer.json()['draft_id']}/send"

    async def send(number: int) -> int:
        return (
            await world.client.post(path, headers={"Idempotency-Key": f"k{number}"}, json={})
        ).status_code

    for _ in range(5):
        world.sandbox.faults = Faults(down=True, methods=SUBMIT)
        assert set(await asyncio.gather(*map(send, range(6)))) <= {503, 409}
    world.sandbox.faults = Faults()
    assert await counted(world) == 0
    assert sorted(await asyncio.gather(*map(send, range(6)))).count(200) == 1
    assert await counted(world) == left(world) == 1
