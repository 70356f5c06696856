"""Every line of the table of `dispatch`, and the races: a draft becomes one mail or none, never two and
never a version its author has not seen last.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path

import httpx
import pytest

from agentmail_cp import dispatch, drafts, sending
from agentmail_cp.drafts import settlement
from agentmail_cp.errors import Unavailable
from agentmail_cp.mailserver import Folder, Refusal
from agentmail_cp.sandbox import Faults
from tests.api.drafting import ahead, change, listed, look, make, path, send, status
from tests.failure.real import Ringing, Running, running, service
from tests.failure.world import OUTSIDE, NotReached, World, new_sandbox, quiet
from tests.fix_app import Json, until
from tests.fix_proxy import Proxy, port_of, through
from tests.limiting import counts, limit


@pytest.fixture(autouse=True)
def hasty_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second looks without the pause, which only a frozen server needs."""
    monkeypatch.setattr(settlement, "SECOND_LOOK", 0.001)


async def fire(world: World) -> int:
    return await world.fire()


async def let_time_pass(world: World) -> None:
    """Every lease ends, every pause is over."""
    await world.let_leases_end()
    await world.rows(
        "update draft set lease_until = now() - interval '1 s' where lease_until is not null"
        " returning 1"
    )
    await world.rows(
        "update draft set fire_at = now() - interval '1 s' where fire_at is not null returning 1"
    )


async def settle(world: World) -> None:
    await let_time_pass(world)
    await world.settle()
    await drafts.settle(world.db, world.server)
    await let_time_pass(world)


async def read_all(world: World) -> None:
    await world.rows("update inbox_sync set due_at = now() returning 1")
    await world.read()


async def due(world: World, inbox: Json, **fields: object) -> Json:
    """A draft whose time has come."""
    return await make(
        world, inbox, **{"to": OUTSIDE, "subject": "S", "text": "T", "send_at": ahead(0), **fields}
    )


async def assert_sent_once(world: World, inbox: Json, draft: Json) -> None:
    """One mail left, and everything says so, whoever looks and however often it is tried again."""
    for _ in range(2):
        await settle(world)
        await fire(world)
        await read_all(world)
    (mail,) = world.sandbox.outbox
    (message,) = await world.messages(inbox)
    assert message_from_bytes(mail.raw)["Message-ID"] == message["message_id"]
    assert message["labels"] == ["sent"]
    assert [event.type.value for event in await world.events_of(inbox)] == ["message.sent"]
    assert await status(world, inbox, draft) == 404
    assert await listed(world, inbox) == []
    assert await world.stored(inbox, Folder.DRAFTS) == []
    assert await world.rows("select state from draft") == []


async def assert_not_sent(world: World, inbox: Json) -> None:
    """No mail left, and nothing says that one did."""
    await settle(world)
    await fire(world)
    await read_all(world)
    assert world.sandbox.outbox == []
    assert await world.messages(inbox) == []
    assert await world.stored(inbox, Folder.SENT) == []


# --- the table, line by line


async def test_handed_in(world: World) -> None:
    """A mail that is due would wait, or go out again with every look."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox, bcc=["cy@elsewhere.test"])
    early = await make(world, inbox, to=OUTSIDE, send_at=ahead(3600))
    assert await fire(world) == 1
    assert {mail.recipient for mail in world.sandbox.outbox} == {OUTSIDE, "cy@elsewhere.test"}
    assert all(b"Bcc" not in mail.raw for mail in world.sandbox.outbox)
    world.sandbox.outbox.pop()
    assert (await look(world, inbox, early))["send_status"] == "scheduled"
    await world.client.delete(path(inbox, early))
    await assert_sent_once(world, inbox, draft)


@pytest.mark.parametrize("told", [True, False], ids=["intake has read", "intake has not read"])
@pytest.mark.parametrize("how", ["edited", "marked", "destroyed", "moved", "saved twice"])
async def test_edited_or_deleted_in_a_mail_client(world: World, how: str, told: bool) -> None:
    """A person would see a version go out that they had corrected or thrown away."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox)
    await edit(world, inbox, how)
    if told:
        await read_all(world)
    await fire(world)
    assert world.sandbox.outbox == []
    await assert_not_sent(world, inbox)
    now = await listed(world, inbox)
    assert all(each["labels"] == ["draft"] and "send_at" not in each for each in now)
    if how in {"edited", "saved twice"}:
        assert [each["subject"] for each in now] == ["By hand"]
        assert now[0]["draft_id"] == draft["draft_id"]
    else:
        assert now == []


async def edit(world: World, inbox: Json, how: str) -> None:
    """What mail clients do to a draft."""
    account = await world.account(inbox)
    (old,) = await world.stored(inbox, Folder.DRAFTS)
    mailbox = world.sandbox.mailbox(account)
    copy = mailbox._mails[old]  # pyright: ignore[reportPrivateUsage]
    if how in {"edited", "saved twice"}:
        raw = (
            f"Message-ID: <{copy.parsed.index.message_id}>\r\nTo: {OUTSIDE}\r\n"
            "Subject: By hand\r\n\r\nBy hand\r\n"
        )
        await world.sandbox.append(account, raw.encode(), folder=Folder.DRAFTS)
    if how == "marked":
        copy.keywords |= {"$deleted"}
        mailbox._log.append(old)  # pyright: ignore[reportPrivateUsage]
    if how == "moved":
        copy.folder = Folder.TRASH
        mailbox._log.append(old)  # pyright: ignore[reportPrivateUsage]
    if how in {"edited", "destroyed"}:
        await world.sandbox.destroy_mail(account, [old])


async def test_mail_server_or_postgresql_away(database_url: str) -> None:
    """After an outage the mail would be lost, or be sent once by every attempt."""
    async with (
        Proxy(port_of(database_url)) as proxy,
        quiet(through(database_url, proxy), new_sandbox()) as world,
    ):
        inbox = await world.inbox("author")
        draft = await due(world, inbox)
        world.sandbox.faults = Faults(down=True)
        waits: list[float] = []
        for _ in range(4):
            assert await fire(world) == 1
            (row,) = await world.rows(
                "select extract(epoch from fire_at - now())::float as wait from draft"
            )
            waits.append(round(row["wait"]))
            await let_time_pass(world)
        assert waits == sorted(waits)
        assert waits[0] < waits[-1] <= 300
        assert "send_error" not in (await listed(world, inbox))[0]
        world.sandbox.faults = Faults()

        async def cut() -> None:
            world.sandbox.before.clear()
            proxy.refuse()

        world.sandbox.before["find"] = cut
        with pytest.raises(Unavailable):
            await fire(world)
        await proxy.heal()
        assert world.sandbox.outbox == []
        await let_time_pass(world)
        assert await fire(world) == 1
        await assert_sent_once(world, inbox, draft)


@pytest.mark.parametrize("fault", ["lost_answer", "confused"])
async def test_no_answer_from_the_mail_server(world: World, fault: str) -> None:
    """A mail that left would leave once more, as nobody heard that it had."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox)
    methods = frozenset({"submit"})
    world.sandbox.faults = (
        Faults(lost_answer=True, methods=methods)
        if fault == "lost_answer"
        else Faults(confused=True, methods=methods)
    )
    assert await fire(world) == 1
    world.sandbox.faults = Faults()
    assert (await look(world, inbox, draft))["send_status"] == "sending"
    await let_time_pass(world)
    assert await fire(world) == 0
    await assert_sent_once(world, inbox, draft)


@pytest.mark.parametrize("how", ["list", "limit"])
async def test_lists_or_a_limit_refuse_it_for_good(world: World, how: str) -> None:
    """A mail that may never go out would be tried for ever, and nobody be told."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox, cc="b@elsewhere.test")
    if how == "limit":
        await limit(world.db, world.organization_id, sends_per_day=1)
    else:
        answer = await world.client.post("/v0/lists/send/block", json={"entry": OUTSIDE})
        assert answer.status_code == 201, answer.text
    assert await fire(world) == 1
    failed = await look(world, inbox, draft)
    assert failed["send_status"] == "failed"
    assert ("may send to 1 recipient" if how == "limit" else OUTSIDE) in failed["send_error"]
    assert world.sandbox.outbox == []
    assert await counts(world.db, world.organization_id) == {}


async def test_a_limit_refuses_it_for_now(world: World) -> None:
    """A mail of which there are too many today would be lost instead of going out tomorrow."""
    inbox = await world.inbox("author")
    await limit(world.db, world.organization_id, sends_per_day=1)
    await world.send(inbox, to=OUTSIDE, subject="S", text="T")
    draft = await due(world, inbox)
    assert await fire(world) == 1
    assert await fire(world) == 0, "it was tried again at once"
    waiting = await look(world, inbox, draft)
    assert waiting["send_status"] == "scheduled"
    (row,) = await world.rows("select fire_at, now() as now from draft")
    midnight = row["now"].astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert row["fire_at"] == midnight + timedelta(days=1)

    await limit(world.db, world.organization_id, sends_per_day=2)
    await world.rows("update draft set fire_at = now() returning 1")
    assert await fire(world) == 1
    assert await status(world, inbox, draft) == 404
    assert len(world.sandbox.outbox) == 2


@pytest.mark.parametrize("how", ["refused", "everybody refused", "nobody", "half an address"])
async def test_refused_nobody_to_send_to_too_large(world: World, how: str) -> None:
    """A mail that can never go out would be tried for ever, and nobody be told."""
    inbox = await world.inbox("author")
    recipient = {"everybody refused": "nobody@agents.test", "nobody": None}.get(how, OUTSIDE)
    draft = await due(world, inbox, to=recipient)
    if how == "half an address":
        account = await world.account(inbox)
        (old,) = await world.stored(inbox, Folder.DRAFTS)
        await world.sandbox.append(
            account, b"To: ada, bob@elsewhere.test\r\nSubject: S\r\n\r\nT", folder=Folder.DRAFTS
        )
        await world.sandbox.destroy_mail(account, [old])
        await read_all(world)
        await settle(world)
        (draft,) = await listed(world, inbox)
        draft = await change(world, inbox, draft, send_at=ahead(0))
    if how == "refused":
        world.sandbox.faults = Faults(reject=Refusal.TOO_LARGE)
    assert await fire(world) == 1
    world.sandbox.faults = Faults()
    failed = await look(world, inbox, draft)
    assert failed["send_status"] == "failed"
    assert failed["send_error"]
    assert failed["send_at"] == draft["send_at"]
    assert failed["labels"] == ["draft"]
    await assert_not_sent(world, inbox)
    await change(world, inbox, draft, to=[OUTSIDE], send_at=ahead(0))
    assert await fire(world) == 1
    await assert_sent_once(world, inbox, draft)


async def test_parent_of_a_forward_deleted(world: World) -> None:
    """A forward would go out without what it forwards."""
    inbox = await world.inbox("author")
    await world.deliver_to(inbox["email"])
    await read_all(world)
    (parent,) = await world.messages(inbox)
    draft = await due(world, inbox, forward_of=parent["message_id"])
    answer = await world.client.delete(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{parent['message_id']}"
    )
    assert answer.status_code == 204
    assert await fire(world) == 1
    failed = await look(world, inbox, draft)
    assert failed["send_status"] == "failed"
    assert "forwards" in failed["send_error"]
    await assert_not_sent(world, inbox)


async def test_a_request_changes_it_at_that_moment(world: World) -> None:
    """What was just corrected would go out uncorrected."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox, subject="One")

    async def correct() -> None:
        world.sandbox.before.clear()
        await change(world, inbox, draft, subject="Two")

    world.sandbox.before["find"] = correct
    assert await fire(world) == 2
    (mail,) = world.sandbox.outbox
    assert b"Subject: Two" in mail.raw
    await assert_sent_once(world, inbox, draft)


async def test_unscheduled_at_that_moment(world: World) -> None:
    """Taking a schedule away would be answered with success, and the mail go out."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox)

    async def unschedule() -> None:
        world.sandbox.before.clear()
        await change(world, inbox, draft, send_at=None)

    world.sandbox.before["find"] = unschedule
    assert await fire(world) == 1
    await assert_not_sent(world, inbox)


async def test_the_inbox_deleted(world: World) -> None:
    """An address that exists no more would go on writing, or be looked at for ever."""
    inbox, other = await world.inbox("author"), await world.inbox("other")
    await due(world, inbox)
    await due(world, other)
    answer = await world.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 204
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"retire_account"}))
    answer = await world.client.delete(f"/v0/inboxes/{other['inbox_id']}")
    assert answer.status_code == 204
    assert await fire(world) == 1
    world.sandbox.faults = Faults()
    await settle(world)
    assert await fire(world) == 0
    assert world.sandbox.outbox == []


STEPS = [
    ("before", "fetch"),
    ("before", "find"),
    ("before", "submit"),
    ("after", "submit"),
    ("before", "destroy_mail"),
    ("after", "destroy_mail"),
]


@pytest.mark.parametrize(("where", "step"), STEPS)
async def test_the_process_dies(world: World, where: str, step: str) -> None:
    """A mail that was promised would never leave, or leave twice."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox)
    hooks = world.sandbox.before if where == "before" else world.sandbox.after
    await world.crash(hooks, step, fire(world))
    assert await fire(world) == 0
    await let_time_pass(world)
    await settle(world)
    await fire(world)
    await assert_sent_once(world, inbox, draft)


def test_every_line_of_the_table_has_its_test() -> None:
    """A line could promise what nobody has tried."""
    table = (dispatch.__doc__ or "").split("=\nwhat happens ")[1].split("\n=")[1]
    lines = [line[:38].strip() for line in table.splitlines()[1:] if line[:38].strip()]
    assert len(lines) > 7
    names = ["test_" + re.sub(r"[^a-z0-9]+", "_", line.lower()).strip("_") for line in lines]
    assert [name for name in names if name not in globals()] == []


# --- the races


@pytest.mark.parametrize("seed", range(4))
async def test_users_and_schedulers_race_for_one_draft(world: World, seed: int) -> None:
    """Two workers, or a worker and an agent that has no patience, would send a mail twice."""
    choose = random.Random(seed)
    inbox = await world.inbox("author")
    draft = await due(world, inbox)

    async def as_worker() -> object:
        await asyncio.sleep(choose.uniform(0, 0.02))
        return await fire(world)

    async def as_user(key: str) -> object:
        await asyncio.sleep(choose.uniform(0, 0.02))
        return await send(world, inbox, draft, key=key)

    runners = [as_worker() for _ in range(4)] + [as_user(f"key-{n}") for n in range(4)]
    choose.shuffle(runners)
    done = await asyncio.gather(*runners)
    answers = [each for each in done if isinstance(each, httpx.Response)]
    assert {each.status_code for each in answers} <= {200, 404, 409}
    assert [each.status_code for each in answers].count(200) <= 1
    await assert_sent_once(world, inbox, draft)


async def test_two_workers_fire_the_same_draft_past_each_other_s_claim(world: World) -> None:
    """A worker that was slower than its claim would send what another one has just sent."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox)
    there, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        world.sandbox.before.clear()
        there.set()
        await go.wait()

    world.sandbox.before["submit"] = wait
    slow = asyncio.create_task(fire(world))
    await there.wait()
    await world.rows("update draft set fire_at = now() - interval '1 s' returning 1")
    assert await fire(world) == 0, "it is being sent"
    go.set()
    await slow
    await assert_sent_once(world, inbox, draft)


async def test_two_workers_both_read_the_draft_before_either_sends(world: World) -> None:
    """The look at the mail server takes time, in which a second worker may come as far."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox)
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    async def second() -> int:
        await asyncio.sleep(0.05)
        await world.rows("update draft set fire_at = now() - interval '1 s' returning 1")
        return await fire(world)

    world.sandbox.before["find"] = meet
    await asyncio.gather(fire(world), second())
    world.sandbox.before.clear()
    await assert_sent_once(world, inbox, draft)


@pytest.mark.parametrize("key", ["k", ""])
async def test_a_user_s_lost_answer_is_told_when_asked_again(world: World, key: str) -> None:
    """The client that repeats its request would hear 404, and write the mail anew."""
    inbox = await world.inbox("author")
    draft = await make(world, inbox, to=OUTSIDE, subject="S", text="T")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    lost = await send(world, inbox, draft, key=key)
    assert lost.status_code == 503
    world.sandbox.faults = Faults()
    again = await send(world, inbox, draft, key=key)
    assert again.status_code == 200, again.text
    assert again.headers["Idempotent-Replayed"] == "true"
    await assert_sent_once(world, inbox, draft)


async def test_a_user_s_refused_send_leaves_the_draft_as_it_was(world: World) -> None:
    """A draft would be lost with the mail that was refused."""
    inbox = await world.inbox("author")
    draft = await make(world, inbox, to="nobody@agents.test", subject="S")
    refused = await send(world, inbox, draft, key="k")
    assert refused.status_code == 403
    now = await look(world, inbox, draft)
    assert now | {"updated_at": ""} == draft | {"updated_at": ""}
    world.sandbox.faults = Faults(down=True)
    assert (await send(world, inbox, draft, key="k")).status_code == 503
    world.sandbox.faults = Faults()
    await world.inbox("nobody")
    assert (await send(world, inbox, draft, key="k")).status_code == 200
    assert await status(world, inbox, draft) == 404


async def test_a_failed_send_that_crashed_is_a_draft_again(world: World) -> None:
    """A draft whose send was refused as the process died would be locked for ever."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox, to="nobody@agents.test")
    await world.crash(world.sandbox.before, "destroy_mail", fire(world))
    await settle(world)
    now = await look(world, inbox, draft)
    assert now["send_status"] == "failed"
    assert now["send_error"]
    await assert_not_sent(world, inbox)


async def test_the_sends_own_settling_ends_the_draft_as_well(world: World) -> None:
    """The message would be there, and the draft too."""
    inbox = await world.inbox("author")
    draft = await due(world, inbox)
    await world.crash(world.sandbox.after, "submit", fire(world))
    await world.let_leases_end()
    assert await sending.settle(world.db, world.server) == 1
    assert await status(world, inbox, draft) == 404
    await assert_sent_once(world, inbox, draft)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_hundred_drafts_through_every_mishap_are_a_hundred_mails(world: World) -> None:
    """Whatever goes wrong, in whatever order: one draft, one mail."""
    choose = random.Random(20_261_121)
    inbox = await world.inbox("author")
    steps = [*STEPS, ("fault", "lost"), ("fault", "confused"), ("fault", "down"), ("user", "")]
    for number in range(100):
        draft = await due(world, inbox, subject=f"Subject {number}")
        for _ in range(choose.randrange(3)):
            await go_wrong(world, inbox, draft, choose.choice(steps))
            if choose.random() < 0.5:
                await settle(world)
            await let_time_pass(world)
        await settle(world)
        await fire(world)
    await settle(world)
    await read_all(world)
    sent = Counter(str(message_from_bytes(mail.raw)["Subject"]) for mail in world.sandbox.outbox)
    assert sent == Counter(f"Subject {number}" for number in range(100))
    assert await listed(world, inbox) == []
    assert await world.stored(inbox, Folder.DRAFTS) == []
    assert len(await world.stored(inbox, Folder.SENT)) == 100


async def go_wrong(world: World, inbox: Json, draft: Json, step: tuple[str, str]) -> None:
    """One mishap; where the draft is gone already, or being sent, there is none."""
    kind, what = step
    if kind == "user":
        await send(world, inbox, draft)
        return
    if kind != "fault":
        hooks = world.sandbox.before if kind == "before" else world.sandbox.after
        with contextlib.suppress(NotReached):
            await world.crash(hooks, what, fire(world))
        return
    methods = frozenset({"submit"})
    world.sandbox.faults = {
        "lost": Faults(lost_answer=True, methods=methods),
        "confused": Faults(confused=True, methods=methods),
        "down": Faults(down=True),
    }[what]
    await fire(world)
    world.sandbox.faults = Faults()


# --- on a real Stalwart, with a process that is killed


@pytest.mark.stalwart
@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_killed_while_scheduled_mail_goes_out(
    ringing: Ringing, database_url: str, tmp_path: Path
) -> None:
    """A crash at nine o'clock would send some of the nine o'clock mail twice, and some not at all."""
    choose = random.Random(20_261_121)
    settings = {"sweep_interval": 3600, "settle_interval": 0.2}
    process = service(tmp_path, ringing, database_url, **settings)
    async with process:
        live = await running(process, database_url)
        sender, receiver = await live.inbox(), await live.inbox()
        names = {f"draft-{number}" for number in range(40)}
        at = datetime.now(UTC).isoformat()
        for name in sorted(names):
            body = {"to": receiver["email"], "subject": name, "text": "T", "send_at": at}
            answer = await live.client.post(path(sender), json=body)
            assert answer.status_code == 201, answer.text
        for _ in range(6):
            await hurry(live)
            await asyncio.sleep(choose.uniform(0.0, 0.4))
            process.kill()
            await process.start()
        await hurry(live)

        async def arrived() -> Counter[str]:
            return Counter(str(each["subject"]) for each in await live.messages(receiver))

        got = await until(arrived, lambda seen: seen.keys() >= names, seconds=60)
        await asyncio.sleep(1)
        assert await arrived() == got == Counter(names)
        sent = Counter(str(each["subject"]) for each in await live.messages(sender))
        assert sent == Counter(names)
        page = await live.client.get(path(sender))
        assert page.json()["drafts"] == []
        await until(lambda: left(live), lambda count: count == 0, seconds=30)
        assert await in_folder(ringing, sender, "Drafts") == 0
        await live.close()
    assert "Traceback" not in process.log


async def hurry(live: Running) -> None:
    """Time passes: what leases and pauses wait for, six rounds cannot."""
    await live.rows("update send set lease_until = now() where state <> 'sent' returning 1")
    await live.rows("update draft set fire_at = now() where fire_at is not null returning 1")
    await live.rows(
        "update draft set lease_until = now() where state = 'sent' returning 1",
    )


async def left(live: Running) -> int:
    await hurry(live)
    return len(await live.rows("select 1 from draft"))


async def in_folder(ringing: Ringing, inbox: Json, folder: str) -> int:
    def count() -> int:
        with ringing.imap(inbox) as client:
            _, data = client.select(folder)
            return int(data[0] or b"0")

    return await asyncio.to_thread(count)
