"""Outcomes when things die, come twice, too early or never: each is told once, or said to be unknown."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest
import pytest_asyncio

from agentmail_cp import events, limits, lists, outcomes
from agentmail_cp.events import Event, EventType
from agentmail_cp.inboxes import inbox_uuid
from agentmail_cp.intake import reading
from agentmail_cp.limits import Limits
from agentmail_cp.mailserver import Enqueued, MailServerUnavailable, Report
from agentmail_cp.sandbox import Faults
from tests.failure.world import OUTSIDE, World
from tests.fix_app import DOMAIN, Json

UNLIMITED = Limits(**dict.fromkeys(limits.NAMES, 0))
SEEDS = pytest.mark.parametrize("seed", range(3))
GONE = "gone@elsewhere.test"
TOLD = {
    EventType.MESSAGE_DELIVERED: "delivered",
    EventType.MESSAGE_BOUNCED: "bounced",
}


class Wire:
    """What the mail server has to say, on its way to the service: kept until a test hands it over."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queued: list[Enqueued] = []
        self.reports: list[Report] = []
        world.sandbox.on_queued = self._learn
        world.sandbox.on_report = self._note

    async def _learn(self, mail: Enqueued) -> None:
        self.queued.append(mail)

    async def _note(self, reports: Sequence[Report]) -> None:
        self.reports += reports

    async def arrive(self) -> None:
        """Wait until the sandbox has told everything."""
        await asyncio.sleep(0.05)

    async def hand_over(self, *, reports: Sequence[Report] | None = None) -> None:
        async with self.world.db.transaction() as tx:
            await outcomes.queued(tx, *self.queued)
            await outcomes.note(tx, self.reports if reports is None else reports)


@pytest_asyncio.fixture
async def wire(world: World) -> Wire:
    return Wire(world)


async def tell(world: World) -> None:
    """What the worker does with what is due."""
    while await outcomes.apply_due(world.db, UNLIMITED):
        pass


async def hurry(world: World) -> None:
    """Let everything that waits be due."""
    async with world.db.transaction() as tx:
        await tx.execute("update outcome_report set due_at = now()")
        await tx.execute("update recipient set due_at = now() where due_at is not null")


async def told(world: World, inbox: Json) -> list[tuple[str | None, str, str]]:
    """Message, what happened, and to whom, as often as it was told."""
    found: list[tuple[str | None, str, str]] = []
    for event in await world.events_of(inbox):
        if event.type in TOLD:
            found += [(event.message_id, TOLD[event.type], each) for each in _recipients(event)]
    return found


def _recipients(event: Event) -> list[str]:
    return [
        each if isinstance(each, str) else each["address"] for each in event.facts["recipients"]
    ]


async def statuses(world: World, inbox: Json, message_id: str) -> dict[str, str]:
    async with world.db.reading() as tx:
        rows = await outcomes.of(
            tx,
            organization_id=world.organization_id,
            inbox_id=inbox_uuid(inbox["email"]),
            message_id=message_id,
        )
    return {each.address: each.status for each in rows}


@pytest.mark.parametrize("step", ["append", "suppress"])
async def test_a_worker_that_dies_while_telling_tells_nothing_twice(
    world: World, wire: Wire, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Half of it would be told again, or the other half never."""
    inbox = await world.inbox("alice")
    world.sandbox.faults = Faults(bounce=frozenset({GONE}))
    await world.post(inbox, to=[GONE, OUTSIDE])
    await wire.arrive()
    await wire.hand_over()
    there = asyncio.Event()

    async def hang(*_: object, **__: object) -> None:
        there.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(events if step == "append" else lists, step, hang)
        task = asyncio.create_task(outcomes.apply_due(world.db, UNLIMITED))
        await asyncio.wait_for(there.wait(), 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await told(world, inbox) == []
    await tell(world)
    assert [each[1:] for each in await told(world, inbox)] == [
        ("delivered", OUTSIDE),
        ("bounced", GONE),
    ]


async def test_reports_of_a_send_whose_answer_was_lost_wait_for_it(
    world: World, wire: Wire
) -> None:
    """Told before `message.sent`, a delivery would be of a message nobody knows."""
    inbox = await world.inbox("alice")
    world.sandbox.faults = Faults(
        lost_answer=True, methods=frozenset({"submit"}), bounce=frozenset({GONE})
    )
    answer = await world.post(inbox, to=[OUTSIDE, GONE])
    assert answer.status_code == 503
    world.sandbox.faults = Faults()
    await wire.arrive()
    await wire.hand_over()
    await tell(world)
    await world.read()
    assert await world.events_of(inbox) == []
    await world.settle()
    await hurry(world)
    await tell(world)
    kinds = [
        each.type for each in await world.events_of(inbox) if not each.type.startswith("label.")
    ]
    assert kinds[0] is EventType.MESSAGE_SENT
    assert sorted(kinds[1:]) == [EventType.MESSAGE_BOUNCED, EventType.MESSAGE_DELIVERED]
    assert len(await world.messages(inbox)) == 1


async def test_a_bounce_s_mail_alone_is_enough(world: World, wire: Wire) -> None:
    """Stalwart was killed before it told of the bounce; its mail lies in the mailbox."""
    inbox = await world.inbox("alice")
    world.sandbox.faults = Faults(bounce=frozenset({GONE}))
    sent = (await world.post(inbox, to=[GONE])).json()
    await world.read()
    await tell(world)
    assert await told(world, inbox) == [(sent["message_id"], "bounced", GONE)]
    await wire.arrive()
    await wire.hand_over()
    await tell(world)
    assert len(await told(world, inbox)) == 1
    assert len(await world.messages(inbox)) == 1


@pytest.mark.parametrize("method", ["raw_blob", "download"])
async def test_a_bounce_that_cannot_be_read_yet_is_no_message(world: World, method: str) -> None:
    """While the mail server is away between two questions, a machine's mail would be announced."""
    inbox = await world.inbox("alice")
    world.sandbox.faults = Faults(bounce=frozenset({GONE}))
    sent = (await world.post(inbox, to=[GONE])).json()
    world.sandbox.faults = Faults(down=True, methods=frozenset({method}))
    with pytest.raises(MailServerUnavailable):
        await world.intake.read_batch()
    assert len(await world.messages(inbox)) == 1
    world.sandbox.faults = Faults()
    async with world.db.transaction() as tx:
        await tx.execute("update inbox_sync set due_at = now()")
    await world.read()
    await tell(world)
    assert await told(world, inbox) == [(sent["message_id"], "bounced", GONE)]
    assert len(await world.messages(inbox)) == 1


async def test_a_flood_of_bounces_is_read_bit_by_bit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that takes longer to read than a claim lasts would be read again and again."""
    monkeypatch.setattr(reading, "LISTENING", 0.0)
    boxes = [await world.inbox(f"agent{number}") for number in range(3)]
    for number, box in enumerate(boxes):
        gone = f"gone{number}@elsewhere.test"
        world.sandbox.faults = Faults(bounce=frozenset({gone}))
        await world.post(box, to=[gone])
    for _ in range(4):
        async with world.db.transaction() as tx:
            await tx.execute("update inbox_sync set due_at = now() where due_at is not null")
        await world.read()
    await tell(world)
    for box in boxes:
        assert [each[1] for each in await told(world, box)] == ["bounced"]
        assert len(await world.messages(box)) == 1


async def test_a_reader_that_dies_with_a_bounce_in_hand_loses_nothing(world: World) -> None:
    """The bounce would be neither an outcome nor a message."""
    inbox = await world.inbox("alice")
    world.sandbox.faults = Faults(bounce=frozenset({GONE}))
    sent = (await world.post(inbox, to=[GONE])).json()
    await world.crash(world.sandbox.after, "raw_blob", world.intake.read_batch())
    await world.let_leases_end()
    await world.read()
    await tell(world)
    assert await told(world, inbox) == [(sent["message_id"], "bounced", GONE)]
    assert len(await world.messages(inbox)) == 1


@SEEDS
async def test_whatever_reports_do_each_outcome_is_told_once(
    world: World, wire: Wire, seed: int
) -> None:
    """Lost, repeated and out of order, before and after restarts: an agent acts on each exactly once."""
    chance = random.Random(seed)
    alice = await world.inbox("alice")
    bob = await world.inbox("bob")
    dead = [f"dead{number}@elsewhere.test" for number in range(20)]
    people = [bob["email"], *(f"p{number}@elsewhere.test" for number in range(4)), f"no@{DOMAIN}"]
    world.sandbox.faults = Faults(bounce=frozenset(dead))
    sends: dict[str, list[str]] = {}
    for _ in range(8):
        to = [*chance.sample(people, k=2), *chance.sample(dead, k=chance.randrange(0, 2))]
        answer = await world.post(alice, to=to, text=str(chance.random()))
        if answer.status_code != 403:
            sends[answer.json()["message_id"]] = to
        dead = [each for each in dead if each not in to]
        await wire.arrive()
        kept = [each for each in wire.reports if chance.random() < 0.8]
        wire.reports = chance.sample(kept, k=len(kept))
        for _ in range(chance.randrange(3)):
            await wire.hand_over(reports=chance.sample(kept, k=len(kept) // 2))
            await asyncio.gather(*(outcomes.apply_due(world.db, UNLIMITED) for _ in range(2)))
        if chance.random() < 0.5:
            await world.read()
    await wire.hand_over()
    for _ in range(4):
        await hurry(world)
        await tell(world)
        await outcomes.ask(world.db, world.sandbox)
        await world.read()
    assert max(Counter(await told(world, alice)).values()) == 1
    heard = {(message, to): what for message, what, to in await told(world, alice)}
    for message_id, to in sends.items():
        standing = await statuses(world, alice, message_id)
        assert standing.keys() == set(to)
        for address, status in standing.items():
            if address.startswith("dead"):
                assert status == "bounced", address
            elif address.startswith("no@"):
                assert status == "rejected", address
            else:
                assert status in {"delivered", "unknown"}, address
            assert heard.get((message_id, address), status) == status
