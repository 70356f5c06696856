"""Every failure in the table of `sending.py`, one test a row, and what a repetition then does.

Each test says what the caller is told, what the mail server holds and what the database holds, and that
a repetition of the same request sends exactly one mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections import Counter
from email import message_from_bytes
from typing import Any

import httpx
import pytest

from agentmail_cp import sending
from agentmail_cp.mailserver import (
    AccountId,
    Folder,
    MailServerUnavailable,
    OutgoingEmail,
    Refusal,
    Relabel,
    Submitted,
)
from agentmail_cp.sandbox import Faults
from agentmail_cp.sending import settlement
from tests.failure.world import OUTSIDE, NotReached, World, new_sandbox, quiet
from tests.fix_app import Json
from tests.fix_proxy import Proxy
from tests.limiting import limit

NOBODY = "nobody@agents.test"


async def assert_one_mail(world: World, inbox: Json, answer: httpx.Response) -> None:
    """Exactly one mail left, and everything says so."""
    assert answer.status_code == 200, answer.text
    assert len(world.sandbox.outbox) == 1
    await world.read()
    assert len(await world.stored(inbox, Folder.SENT)) == 1
    assert await world.stored(inbox, Folder.DRAFTS) == []
    (message,) = await world.messages(inbox)
    assert message["message_id"] == answer.json()["message_id"]
    sent = message_from_bytes(world.sandbox.outbox[0].raw)
    assert sent["Message-ID"] == message["message_id"]
    (thread,) = await world.threads(inbox)
    assert thread["thread_id"] == message["thread_id"] == answer.json()["thread_id"]
    told = [event.type.value for event in await world.events_of(inbox)]
    refused = ["message.rejected", "label.added"] if answer.json().get("rejected") else []
    assert told == ["message.sent", *refused]


async def assert_nothing(world: World, inbox: Json) -> None:
    """No mail left, and nothing says that one did."""
    assert world.sandbox.outbox == []
    await world.read()
    assert await world.stored(inbox, Folder.SENT) == []
    assert await world.stored(inbox, Folder.DRAFTS) == []
    assert await world.messages(inbox) == []
    assert await world.threads(inbox) == []
    assert await world.events_of(inbox) == []


def assert_try_again(answer: httpx.Response, status: int = 503) -> int:
    """The answer says when to repeat the request; returns that in seconds."""
    assert answer.status_code == status, answer.text
    return int(answer.headers["Retry-After"])


# --- the table, row by row


async def test_bad_input(world: World) -> None:
    """A request that makes no sense would leave a row that blocks its key."""
    inbox = await world.inbox("sender")
    answer = await world.post(inbox, key="k", to="not an address")
    assert answer.status_code == 400
    assert await world.states() == []
    await assert_nothing(world, inbox)
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_same_key_other_body_inbox_endpoint(world: World) -> None:
    """A key used twice by mistake would swallow a mail."""
    inbox, other = await world.inbox("sender"), await world.inbox("other")
    first = await world.post(inbox, key="k")
    for again in (world.post(inbox, key="k", text="Other"), world.post(other, key="k")):
        answer = await again
        assert answer.status_code == 409
        assert answer.json()["code"] == "conflict"
    assert await world.states() == ["sent"]
    await assert_one_mail(world, inbox, first)
    await assert_nothing_in(world, other)


async def assert_nothing_in(world: World, inbox: Json) -> None:
    assert await world.stored(inbox, Folder.SENT) == []
    assert await world.messages(inbox) == []


async def test_a_key_is_remembered_for_a_day_from_when_the_outcome_is_known(world: World) -> None:
    """A mail whose outcome took a day to find out would be sent again by the client that waited."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    await world.post(inbox, key="k")
    world.sandbox.faults = Faults()
    await world.rows("update send set created_at = now() - interval '25 h' returning 1")
    settled = await world.post(inbox, key="k")
    assert (await world.post(inbox, key="k")).json() == settled.json()
    await world.rows("update send set updated_at = now() - interval '23 h' returning 1")
    assert (await world.post(inbox, key="k", text="Other")).status_code == 409
    await world.rows("update send set updated_at = now() - interval '25 h' returning 1")
    assert (await world.post(inbox, key="k", text="Other")).status_code == 200
    assert len(world.sandbox.outbox) == 2


async def test_same_key_first_attempt_still_running(world: World) -> None:
    """A client that gives up too early and repeats would send twice."""
    inbox = await world.inbox("sender")
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go.wait()

    world.sandbox.before["submit"] = wait
    first = asyncio.create_task(world.post(inbox, key="k"))
    await begun.wait()
    second = await world.post(inbox, key="k")
    go.set()

    assert 1 <= assert_try_again(second, 409) <= 10
    await assert_one_mail(world, inbox, await first)
    assert (await world.post(inbox, key="k")).json() == (await first).json()


async def assert_refused_before(world: World, inbox: Json, status: int, code: str) -> None:
    """Refused, the request leaves no row, and its key can be used for it once it is let through."""
    before = await world.states()
    answer = await world.post(inbox, key="k", to=[OUTSIDE, "b@elsewhere.test"])
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("Retry-After" in answer.headers) == (status == 429)
    assert await world.states() == before
    await assert_nothing(world, inbox)


async def test_lists_refuse_a_recipient(world: World) -> None:
    """One recipient whom nobody may write to would get a mail that others get."""
    inbox = await world.inbox("sender")
    await world.client.post("/v0/lists/send/block", json={"entry": OUTSIDE})
    await assert_refused_before(world, inbox, 403, "message_rejected")
    assert (await world.client.delete(f"/v0/lists/send/block/{OUTSIDE}")).status_code == 204
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_a_limit_refuses_it_for_good(world: World) -> None:
    """A mail that may never leave would block its key."""
    inbox = await world.inbox("sender")
    await limit(world.db, world.organization_id, inbox_sends_per_day=1)
    await assert_refused_before(world, inbox, 403, "limit_exceeded")
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_a_limit_refuses_it_for_now(world: World) -> None:
    """A mail that may leave tomorrow would have been taken for sent."""
    inbox, other = await world.inbox("sender"), await world.inbox("other")
    await limit(world.db, world.organization_id, sends_per_day=2)
    assert (await world.post(other, to=other["email"])).status_code == 200
    await assert_refused_before(world, inbox, 429, "rate_limit_exceeded")
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_refused_for_every_recipient(world: World) -> None:
    """A mail nobody took would look sent."""
    inbox = await world.inbox("sender")
    answer = await world.post(inbox, key="k", to=NOBODY)
    assert answer.status_code == 403
    assert answer.json()["code"] == "message_rejected"
    assert await world.states() == ["refused"]
    await assert_nothing(world, inbox)

    await world.inbox("nobody")
    again = await world.post(inbox, key="k", to=NOBODY)
    assert again.status_code == 200
    assert len(await world.stored(inbox, Folder.SENT)) == 1
    assert await world.states() == ["sent"]


async def test_refused_for_some_recipients(world: World) -> None:
    """The caller would believe that everybody got it."""
    inbox = await world.inbox("sender")
    answer = await world.post(inbox, key="k", to=[NOBODY, OUTSIDE])
    assert [each["address"] for each in answer.json()["rejected"]] == [NOBODY]
    assert await world.states() == ["sent"]
    await assert_one_mail(world, inbox, answer)
    again = await world.post(inbox, key="k", to=[NOBODY, OUTSIDE])
    assert again.json() == answer.json()
    await assert_one_mail(world, inbox, again)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal.TOO_LARGE, 400),
        (Refusal.TOO_MANY_RECIPIENTS, 400),
        (Refusal.INVALID_MAIL, 400),
        (Refusal.SENDER_NOT_ALLOWED, 403),
        (Refusal.OVER_QUOTA, 403),
        (Refusal.FORBIDDEN, 403),
    ],
)
async def test_refused_as_a_whole_size_sender(world: World, refusal: Refusal, status: int) -> None:
    """A refusal would turn into a promise to try again, or block its key."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(reject=refusal)
    answer = await world.post(inbox, key="k")
    assert answer.status_code == status, answer.text
    assert await world.states() == ["refused"]
    await assert_nothing(world, inbox)

    world.sandbox.faults = Faults()
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_stalwart_away_before_the_request(world: World) -> None:
    """An agent could not tell a mail that was not sent from one that was."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(down=True)
    answer = await world.post(inbox, key="k")
    assert_try_again(answer)
    assert "nothing was sent" in answer.json()["message"]
    assert await world.states() == ["abandoned"]

    world.sandbox.faults = Faults()
    await assert_nothing(world, inbox)
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


@pytest.mark.parametrize("key", ["k", None])
async def test_no_answer_to_the_request(world: World, key: str | None) -> None:
    """The repetition every SDK makes after a 503 would be a second mail."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    assert_try_again(await world.post(inbox, key=key))
    assert await world.states() == ["unknown"]

    world.sandbox.faults = Faults()
    again = await world.post(inbox, key=key)
    assert again.headers["Idempotent-Replayed"] == "true"
    await assert_one_mail(world, inbox, again)
    assert await world.states() == ["sent"]


async def test_no_answer_to_a_reply_is_found_though_its_message_is_gone(world: World) -> None:
    """An agent that erased what it had answered would be told 404 for a mail that left, and write anew."""
    inbox = await world.inbox("sender")
    await world.deliver_to(inbox["email"], number=1)
    await world.rows("update inbox_sync set due_at = now() returning 1")
    await world.read()
    (message,) = await world.messages(inbox)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}"

    async def reply() -> httpx.Response:
        return await world.client.post(
            f"{path}/reply", json={"text": "Yes"}, headers={"Idempotency-Key": "k"}
        )

    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    assert_try_again(await reply())
    world.sandbox.faults = Faults()
    assert (await world.client.delete(path)).status_code == 204

    again = await reply()
    assert again.status_code == 200, again.text
    assert again.headers["Idempotent-Replayed"] == "true"
    (sent,) = world.sandbox.outbox
    assert message_from_bytes(sent.raw)["Message-ID"] == again.json()["message_id"]
    assert (await reply()).json() == again.json()
    assert len(world.sandbox.outbox) == 1


async def test_no_answer_to_a_mail_is_found_though_its_attachment_is_gone(
    database_url: str, hasty: None
) -> None:
    """A link that works once would turn a mail that left into 403: nothing was sent."""
    asked = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(b"HTTP/1.1 200 OK\r\n" if asked == 1 else b"HTTP/1.1 403 Forbidden\r\n")
        writer.write(b"Content-Length: 3\r\nConnection: close\r\n\r\nabc")
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(once, "127.0.0.1", 0) as site,
        quiet(database_url, new_sandbox(), outbound_allow="127.0.0.0/8") as world,
    ):
        url = f"http://127.0.0.1:{site.sockets[0].getsockname()[1]}/once.txt"
        inbox = await world.inbox("sender")
        world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
        assert_try_again(await world.post(inbox, key="k", attachments=[{"url": url}]))
        world.sandbox.faults = Faults()

        again = await world.post(inbox, key="k", attachments=[{"url": url}])
        assert again.status_code == 200, again.text
        assert asked == 1
        await assert_one_mail(world, inbox, again)


@pytest.mark.parametrize("key", ["k", None])
async def test_no_answer_to_the_request_is_settled_by_the_job(
    world: World, key: str | None
) -> None:
    """A repetition that comes after the job has settled the send would be a second mail."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    assert_try_again(await world.post(inbox, key=key))
    world.sandbox.faults = Faults()
    assert await sending.settle(world.db, world.server) == 1
    await assert_one_mail(world, inbox, await world.post(inbox, key=key))


async def test_labels_of_a_mail_settled_later_are_those_it_was_sent_with(world: World) -> None:
    """Its copy has only those the mailbox has room for, and nobody is left who knows the others."""
    inbox = await world.inbox("sender")
    mailbox = world.sandbox.mailbox(await world.account(inbox))
    mailbox.store(b"Subject: full\r\n\r\n", Folder.TRASH, {f"k{n}" for n in range(99)})
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    fields = {"labels": ["k7", "late"]}
    assert_try_again(await world.post(inbox, key="k", **fields))
    world.sandbox.faults = Faults()
    assert (await world.post(inbox, key="k", **fields)).status_code == 200
    for _ in range(2):
        (message,) = await world.messages(inbox)
        assert message["labels"] == ["k7", "late", "sent"]
        await world.rows("update inbox_sync set state = null, due_at = now() returning 1")
        await world.read()


async def test_without_a_key_the_next_equal_request_is_another_mail(world: World) -> None:
    """An agent that says the same thing twice on purpose would be heard once."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    await world.post(inbox)
    world.sandbox.faults = Faults()
    await world.post(inbox)
    third = await world.post(inbox)
    assert third.status_code == 200
    assert len(world.sandbox.outbox) == 2


async def test_a_request_carried_out_late_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen mail server that wakes up sends the mail it was given, and the repetition another."""
    monkeypatch.setattr(settlement, "SECOND_LOOK", 0.3)
    inbox = await world.inbox("sender")
    late: list[asyncio.Task[Submitted]] = []
    submit = world.sandbox.submit

    async def carry_out(account_id: AccountId, email: OutgoingEmail) -> Submitted:
        await asyncio.sleep(0.1)
        return await submit(account_id, email)

    async def freeze(account_id: AccountId, email: OutgoingEmail) -> Submitted:
        late.append(asyncio.create_task(carry_out(account_id, email)))
        raise MailServerUnavailable("No answer.", reached=True)

    with monkeypatch.context() as frozen:
        frozen.setattr(world.sandbox, "submit", freeze)
        assert_try_again(await world.post(inbox, key="k"))
    again = await world.post(inbox, key="k")
    await late[0]
    await assert_one_mail(world, inbox, again)


async def test_answer_not_understood(world: World) -> None:
    """Something strange between us and the mail server would make every send a gamble."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(confused=True, methods=frozenset({"submit"}))
    assert_try_again(await world.post(inbox, key="k"))
    assert await world.states() == ["unknown"]

    world.sandbox.faults = Faults()
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_postgresql_away_before_the_request(proxied: World, pg_proxy: Proxy) -> None:
    """A mail would be sent that nobody remembers."""
    inbox = await proxied.inbox("sender")
    pg_proxy.refuse()
    assert_try_again(await proxied.post(inbox, key="k"))
    assert proxied.sandbox.outbox == []

    await pg_proxy.heal()
    assert await proxied.states() == []
    await assert_nothing(proxied, inbox)
    await assert_one_mail(proxied, inbox, await proxied.post(inbox, key="k"))


@pytest.mark.parametrize("key", ["k", None])
async def test_postgresql_away_after_the_request(
    proxied: World, pg_proxy: Proxy, key: str | None
) -> None:
    """A mail that left would be sent again by the client that was told 503."""
    inbox = await proxied.inbox("sender")

    async def cut() -> None:
        pg_proxy.refuse()

    proxied.sandbox.after["submit"] = cut
    wait = assert_try_again(await proxied.post(inbox, key=key))
    del proxied.sandbox.after["submit"]
    await pg_proxy.heal()

    (row,) = await proxied.rows(
        "select state, extract(epoch from lease_until - now())::float as lease from send"
    )
    assert row["state"] == "submitting"
    assert row["lease"] < wait, "a client that waits as told must not meet the lease"
    await proxied.let_leases_end()
    await assert_one_mail(proxied, inbox, await proxied.post(inbox, key=key))


async def test_crash_before_the_request(world: World) -> None:
    """A mail that was never handed in would count as sent, or block its key for ever."""
    inbox = await world.inbox("sender")
    await world.crash(world.sandbox.before, "submit", world.post(inbox, key="k"))
    assert await world.states() == ["submitting"]
    await world.settle()
    assert await world.states() == ["abandoned"]
    await assert_nothing(world, inbox)
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_crash_after_the_copy_was_stored(world: World) -> None:
    """A mail that never left would stay among the drafts and look like one of the user's."""
    inbox = await world.inbox("sender")
    await world.crash(world.sandbox.before, "submit", world.post(inbox, key="k"))
    await store_copy(world, inbox)
    await world.settle()
    assert await world.states() == ["abandoned"]
    await assert_nothing(world, inbox)
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def store_copy(world: World, inbox: Json) -> None:
    """What Stalwart holds when it died between storing a mail and handing it in."""
    (row,) = await world.rows("select message_id from send")
    raw = f"Message-ID: <{row['message_id']}>\r\nSubject: Subject\r\n\r\nText\r\n"
    await world.sandbox.append(
        await world.account(inbox),
        raw.encode(),
        folder=Folder.DRAFTS,
        keywords=frozenset({"$draft"}),
    )


@pytest.mark.parametrize("key", ["k", None])
async def test_crash_after_the_mail_was_handed_in(world: World, key: str | None) -> None:
    """A mail that left would be missing from the inbox, and its repetition would be a second one."""
    inbox = await world.inbox("sender")
    await world.crash(world.sandbox.after, "submit", world.post(inbox, key=key))
    await world.read()
    assert await world.messages(inbox) == []
    await world.settle()
    assert await world.states() == ["sent"]
    await assert_one_mail(world, inbox, await world.post(inbox, key=key))


async def test_crash_after_the_mail_was_handed_in_before_the_job_came(world: World) -> None:
    """The client that repeats before the job has come would have to wait for it."""
    inbox = await world.inbox("sender")
    await world.crash(world.sandbox.after, "submit", world.post(inbox, key="k"))
    assert_try_again(await world.post(inbox, key="k"), 409)
    await world.let_leases_end()
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_a_mail_left_among_the_drafts_after_it_was_handed_in_is_filed(world: World) -> None:
    """A mail server that died before it moved the copy would leave a send nobody can settle."""
    inbox = await world.inbox("sender")
    await world.crash(world.sandbox.after, "submit", world.post(inbox, key="k"))
    mailbox = world.sandbox.mailbox(await world.account(inbox))
    (row,) = await world.rows("select message_id from send")
    (copy,) = mailbox.find(row["message_id"], None)
    copy.folder, copy.keywords = Folder.DRAFTS, copy.keywords | {"$draft"}
    await world.settle()
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_a_copy_erased_while_it_is_filed_is_no_reason_to_send_again(world: World) -> None:
    """Whoever threw the copy away at that moment would make the repeated request send a second mail."""
    inbox = await world.inbox("sender")
    await world.crash(world.sandbox.after, "submit", world.post(inbox, key="k"))
    mailbox = world.sandbox.mailbox(await world.account(inbox))
    (row,) = await world.rows("select message_id from send")
    (copy,) = mailbox.find(row["message_id"], None)
    copy.folder, copy.keywords = Folder.DRAFTS, copy.keywords | {"$draft"}

    async def erase() -> None:
        mailbox.destroy([copy.document_id])

    world.sandbox.before["relabel"] = erase
    await world.settle()
    await world.settle()
    assert await world.states() == ["sent"]
    again = await world.post(inbox, key="k")
    assert again.status_code == 200, again.text
    assert len(world.sandbox.outbox) == 1


async def test_crash_after_a_refusal_for_all(world: World) -> None:
    """A mail nobody took would stay in Sent."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(refuse={OUTSIDE: "550 5.7.1 No."})
    await world.crash(world.sandbox.before, "destroy_mail", world.post(inbox, key="k"))
    await world.read()
    assert await world.messages(inbox) == []
    await world.settle()
    assert await world.states() == ["refused"]
    await assert_nothing(world, inbox)

    world.sandbox.faults = Faults()
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_crash_after_recording(world: World) -> None:
    """An answer lost on the way back would be a second mail."""
    inbox = await world.inbox("sender")
    first = await world.post(inbox, key="k")
    again = await world.post(inbox, key="k")
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    await assert_one_mail(world, inbox, again)


def test_every_failure_in_the_table_has_its_test() -> None:
    """A row could promise what nobody has tried."""
    table = (sending.__doc__ or "").split("=\nfailure ")[1].split("\n=")[1]
    rows = [line[:37].strip() for line in table.splitlines()[1:] if line[:37].strip()]
    assert len(rows) > 10
    names = ["test_" + re.sub(r"[^a-z0-9]+", "_", row.lower()).strip("_") for row in rows]
    assert [name for name in names if name not in globals()] == []


# --- beyond the table


async def test_two_concurrent_requests_with_the_same_key_send_one_mail(world: World) -> None:
    """A client with two threads, or two workers behind one queue, would send twice."""
    inbox = await world.inbox("sender")
    answers = await asyncio.gather(*(world.post(inbox, key="k") for _ in range(8)))
    assert Counter(each.status_code for each in answers).keys() <= {200, 409}
    told = [each for each in answers if each.status_code == 200]
    assert len({each.json()["message_id"] for each in told}) == 1
    await assert_one_mail(world, inbox, told[0])


async def test_a_settled_refusal_is_not_announced_by_a_stale_reading(world: World) -> None:
    """A refused mail would be announced as sent when intake looked in the moment between."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(refuse={OUTSIDE: "550 5.7.1 No."})
    taken, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        taken.set()
        await go.wait()

    reading: list[asyncio.Task[int]] = []

    async def read_between() -> None:
        await world.rows("update inbox_sync set due_at = now() returning 1")
        world.sandbox.after["changes"] = wait
        reading.append(asyncio.create_task(world.intake.read_batch()))
        await taken.wait()

    world.sandbox.before["destroy_mail"] = read_between
    assert (await world.post(inbox)).status_code == 403
    del world.sandbox.after["changes"]
    go.set()
    await reading[0]
    await world.rows("update inbox_sync set due_at = now() returning 1")
    world.sandbox.before.clear()
    await assert_nothing(world, inbox)


async def test_a_sent_mail_is_not_relabelled_by_a_stale_reading(world: World) -> None:
    """A mail just sent would be listed as a draft for a second, and the log would say for ever that it had
    become one, because intake had looked while the mail server still had its copy in Drafts.
    """
    inbox = await world.inbox("sender")
    account = await world.account(inbox)
    taken, go = asyncio.Event(), asyncio.Event()
    reading: list[asyncio.Task[int]] = []

    async def wait() -> None:
        taken.set()
        await go.wait()

    async def read_among_the_drafts() -> None:
        (copy,) = await world.stored(inbox, Folder.SENT)
        was = Relabel(copy, add=frozenset({"$draft"}), move_to=Folder.DRAFTS)
        becomes = Relabel(copy, remove=frozenset({"$draft"}), move_to=Folder.SENT)
        await world.sandbox.relabel(account, [was])
        await world.rows("update inbox_sync set due_at = now() returning 1")
        world.sandbox.after["changes"] = wait
        reading.append(asyncio.create_task(world.intake.read_batch()))
        await taken.wait()
        await world.sandbox.relabel(account, [becomes])

    world.sandbox.after["submit"] = read_among_the_drafts
    answer = await world.post(inbox)
    world.sandbox.after.clear()
    go.set()
    await reading[0]
    (message,) = await world.messages(inbox)
    assert message["labels"] == ["sent"]
    await world.rows("update inbox_sync set due_at = now() returning 1")
    await assert_one_mail(world, inbox, answer)


async def test_an_inbox_deleted_before_its_send_was_settled_is_no_dead_end(world: World) -> None:
    """One send nobody can record would make the job fail for ever."""
    inbox = await world.inbox("sender")
    await world.crash(world.sandbox.after, "submit", world.post(inbox, key="k"))
    answer = await world.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 204
    await world.settle()
    assert await world.states() == ["sent"]


async def test_stalwart_away_while_settling_blocks_nobody(world: World) -> None:
    """After an outage every key that met it would answer 409 for half a minute."""
    inbox = await world.inbox("sender")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"submit"}))
    await world.post(inbox, key="k")
    world.sandbox.faults = Faults(down=True)
    assert_try_again(await world.post(inbox, key="k"))
    with pytest.raises(MailServerUnavailable):
        await sending.settle(world.db, world.server)
    world.sandbox.faults = Faults()
    await assert_one_mail(world, inbox, await world.post(inbox, key="k"))


async def test_an_attempt_that_outlived_its_lease_decides_nothing(world: World) -> None:
    """A request that hung would take back, in the books, the mail its repetition sent."""
    inbox = await world.inbox("sender")
    begun, fail = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        world.sandbox.before.clear()
        await fail.wait()
        raise MailServerUnavailable("Away.")

    world.sandbox.before["submit"] = hang
    first = asyncio.create_task(world.post(inbox, key="k"))
    await begun.wait()
    await world.let_leases_end()
    inner, done = asyncio.Event(), asyncio.Event()

    async def stop() -> None:
        inner.set()
        await done.wait()

    world.sandbox.after["submit"] = stop
    second = asyncio.create_task(world.post(inbox, key="k"))
    await inner.wait()
    fail.set()
    assert_try_again(await first)
    assert await world.states() == ["submitting"], "the late attempt closed somebody else's row"
    done.set()
    await assert_one_mail(world, inbox, await second)


STEPS = ("before submit", "after submit", "lost", "confused", "down", "fine")


@pytest.mark.slow
async def test_a_hundred_crashes_and_repetitions_send_a_hundred_mails(world: World) -> None:
    """Whatever goes wrong, in whatever order: one key, one mail."""
    choose = random.Random(20_261_121)
    inbox = await world.inbox("sender")
    answers: dict[str, Json] = {}
    for number in range(100):
        key, fields = f"key-{number}", {"subject": f"Subject {number}"}
        for _ in range(choose.randrange(4)):
            await go_wrong(world, inbox, choose.choice(STEPS), key, fields)
            if choose.random() < 0.5:
                await world.settle()
            await world.let_leases_end()
        answer = await world.post(inbox, key=key, **fields)
        assert answer.status_code == 200, answer.text
        answers[key] = answer.json()

    await world.settle()
    await world.read()
    sent = [message_from_bytes(mail.raw) for mail in world.sandbox.outbox]
    assert sorted(str(mail["Subject"]) for mail in sent) == sorted(
        f"Subject {number}" for number in range(100)
    )
    assert {str(mail["Message-ID"]) for mail in sent} == {
        each["message_id"] for each in answers.values()
    }
    assert await world.states() == ["sent"] * 100
    seen = [event.message_id for event in await world.events_of(inbox)]
    assert sorted(map(str, seen)) == sorted(each["message_id"] for each in answers.values())


async def go_wrong(world: World, inbox: Json, step: str, key: str, fields: dict[str, Any]) -> None:
    """One attempt that ends badly; a send that has succeeded before just answers."""
    if step in ("before submit", "after submit"):
        hooks = world.sandbox.before if step.startswith("before") else world.sandbox.after
        with contextlib.suppress(NotReached):
            await world.crash(hooks, "submit", world.post(inbox, key=key, **fields))
        return
    only = frozenset({"submit"})
    world.sandbox.faults = {
        "lost": Faults(lost_answer=True, methods=only),
        "confused": Faults(confused=True, methods=only),
        "down": Faults(down=True),
    }.get(step, Faults())
    await world.post(inbox, key=key, **fields)
    world.sandbox.faults = Faults()
