"""Every failure in the table of `submissions.py`, one test a row: never no copy, never two.

The mail server is the sandbox, which can be stopped at each step; `test_handed_in.py` does the same to a
real one, without such precision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from agentmail_cp import limits, submissions
from agentmail_cp.labels import SEEN, SENT_KEYWORD
from agentmail_cp.mailserver import (
    BlobId,
    DocumentId,
    Folder,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)
from agentmail_cp.sandbox import Faults
from agentmail_cp.stalwart import mtahook
from agentmail_cp.stalwart.wanted import Wanted, groups
from agentmail_cp.submissions import taking
from tests.failure.world import World, new_sandbox, quiet
from tests.fix_app import Json

SECRET = "the webhook's secret"
NAME = "mail@client.test"


class Submitting(World):
    """A world in which the test is the mail client, Stalwart's hook and the worker."""

    async def name(self, inbox: Json, *to: str) -> httpx.Response:
        """What Stalwart asks when a client names the last of these recipients."""
        return await self.put(inbox, "rcpt", to or ("ada@elsewhere.test",), None)

    async def ask(
        self,
        inbox: Json,
        name: str | None = NAME,
        *,
        to: tuple[str, ...] = ("ada@elsewhere.test",),
        text: str = "Text\r\n",
    ) -> httpx.Response:
        """What Stalwart asks when a mail with this Message-ID is handed in."""
        headers = [["From", f" {inbox['email']}\r\n"], ["To", " ada@elsewhere.test\r\n"]]
        headers += [["Message-ID", f" <{name}>\r\n"]] if name else []
        message = {"headers": headers, "contents": text, "size": 1}
        return await self.put(inbox, "data", to, message)

    async def put(
        self, inbox: Json, stage: str, to: tuple[str, ...], message: Json | None
    ) -> httpx.Response:
        question: dict[str, Any] = {
            "context": {"stage": stage, "sasl": {"login": inbox["email"]}},
            "envelope": {
                "from": {"address": inbox["email"]},
                "to": [{"address": each} for each in to],
            },
            "message": message,
        }
        return await self.client.post(
            mtahook.HOOK_PATH,
            content=msgspec.json.encode(question),
            headers={"Authorization": f"Bearer {mtahook.token(SECRET)}"},
        )

    async def hand_in(self, inbox: Json) -> None:
        assert (await self.ask(inbox)).status_code == 200

    async def save(self, inbox: Json, name: str = NAME) -> DocumentId:
        """What a mail client does in the end."""
        raw = f"From: {inbox['email']}\r\nMessage-ID: <{name}>\r\n\r\nText\r\n".encode()
        mailbox = self.sandbox.mailbox(await self.account(inbox))
        return mailbox.store(raw, Folder.SENT, frozenset({SEEN})).document_id

    async def time_passes(self) -> None:
        """All that is due later is due now, and every lease is over."""
        await self.rows("update submission set due_at = now() where due_at is not null returning 1")

    async def work(self) -> None:
        """Let the worker do all there is to do, in both of its loops."""
        for _ in range(3):
            await self.time_passes()
            await submissions.settle(self.db, self.server)
            await self.mark_due()
            await self.read()

    async def mark_due(self) -> None:
        await self.rows("update inbox_sync set due_at = now(), claimed_until = null returning 1")

    async def state(self) -> list[str]:
        return [row["state"] for row in await self.rows("select state from submission")]

    async def assert_once(self, inbox: Json, *, by: DocumentId | None = None) -> None:
        """One mail in Sent, one message, announced once; nothing left to do."""
        await self.work()
        (stored,) = await self.stored(inbox, Folder.SENT)
        assert by in (None, stored)
        (message,) = await self.messages(inbox)
        assert (message["message_id"], message["labels"]) == (f"<{NAME}>", ["sent"])
        (thread,) = await self.threads(inbox)
        assert thread["message_count"] == 1
        assert [event.type.value for event in await self.events_of(inbox)] == ["message.sent"]
        assert await self.rows("select from submission where due_at is not null") == []

    async def assert_nothing(self, inbox: Json) -> None:
        await self.work()
        assert await self.stored(inbox, Folder.SENT) == []
        assert await self.messages(inbox) == []


@pytest_asyncio.fixture
async def world(database_url: str) -> AsyncGenerator[Submitting]:
    changes = {"stalwart_webhook_secret": SECRET, "submission_copy_delay": 3600}
    async with quiet(database_url, new_sandbox(), **changes) as here:
        yield Submitting(
            here.client, here.db, here.server, here.organization_id, here.key, here.smtp_port
        )


@pytest_asyncio.fixture
async def inbox(world: Submitting) -> Json:
    return await world.inbox("sender")


def lost() -> float:
    """How many mails were, as an operator sees it."""
    return REGISTRY.get_sample_value("agentmail_submissions_total", {"outcome": "lost"}) or 0.0


async def test_a_mail_larger_than_any_request_is_asked_about(database_url: str) -> None:
    """JSON text is larger than the mail in it: a mail near the limit could never be sent."""
    changes = {"stalwart_webhook_secret": SECRET, "max_message_size": 1_000_000}
    async with quiet(database_url, new_sandbox(), **changes) as here:
        question: dict[str, Any] = {
            "context": {"stage": "data", "sasl": {"login": "a@agents.test"}},
            "message": {"headers": [], "contents": '"' * 2_300_000, "size": 2_300_002},
        }
        answer = await here.client.post(
            mtahook.HOOK_PATH,
            content=msgspec.json.encode(question),
            headers={"Authorization": f"Bearer {mtahook.token(SECRET)}"},
        )
    assert answer.status_code == 200, answer.text


async def test_a_mail_to_oneself(world: Submitting, inbox: Json) -> None:
    """What is received first would take the id, and the sent one could not be told from it."""
    await world.hand_in(inbox)
    raw = f"From: {inbox['email']}\r\nMessage-ID: <{NAME}>\r\n\r\nText\r\n".encode()
    await world.deliver_to(inbox["email"], raw=raw)
    await world.mark_due()
    await world.read()
    await world.work()
    shown = {each["labels"][0]: each["message_id"] for each in await world.messages(inbox)}
    assert shown["sent"] == f"<{NAME}>"
    assert shown["received"] != shown["sent"]
    assert [thread["message_count"] for thread in await world.threads(inbox)] == [2]


async def test_the_message_tells_of_the_copy_it_points_to(world: Submitting, inbox: Json) -> None:
    """Sizes of mail that is gone, in the message and in its thread."""
    await world.hand_in(inbox)
    await world.assert_once(inbox)
    theirs = await world.save(inbox)
    await world.work()
    (mail,) = await world.server.fetch(await world.account(inbox), [theirs])
    (message,) = await world.messages(inbox)
    (thread,) = await world.threads(inbox)
    assert message["size"] == thread["size"] == mail.size
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/<{NAME}>"
    assert (await world.client.get(path)).json()["text"].strip() == "Text"


async def test_a_mail_under_an_id_that_no_path_could_hold(world: Submitting, inbox: Json) -> None:
    """It goes by another id, so it would be shown once for each copy, or never be told as delivered."""
    odd = "order#1@script.test"
    assert (await world.ask(inbox, odd)).status_code == 200
    await world.work()
    (message,) = await world.messages(inbox)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}"
    (delivery,) = (await world.client.get(path)).json()["deliveries"]
    assert delivery["address"] == "ada@elsewhere.test"
    theirs = await world.save(inbox, odd)
    await world.work()
    assert await world.stored(inbox, Folder.SENT) == [theirs]
    (shown,) = await world.messages(inbox)
    assert (shown["message_id"], shown["labels"]) == (message["message_id"], ["sent"])
    assert [event.type.value for event in await world.events_of(inbox)] == ["message.sent"]


async def test_nothing_happens_before_its_time(world: Submitting, inbox: Json) -> None:
    """The client's copy is on its way; ours would be one too many for a moment."""
    await world.hand_in(inbox)
    assert await submissions.settle(world.db, world.server) == 0
    await world.mark_due()
    await world.read()
    assert await world.messages(inbox) == []
    await world.assert_once(inbox)


@pytest.mark.parametrize(
    "faults",
    [
        Faults(down=True),
        Faults(lost_answer=True, methods=frozenset({"upload"})),
        Faults(confused=True),
    ],
)
async def test_away_when_asked(world: Submitting, inbox: Json, faults: Faults) -> None:
    """A mail would leave of which nobody knows."""
    world.sandbox.faults = faults
    assert (await world.ask(inbox)).status_code >= 500
    world.sandbox.faults = Faults()
    await world.assert_nothing(inbox)
    await world.hand_in(inbox)
    await world.assert_once(inbox)


async def test_too_slow_when_asked(
    world: Submitting, inbox: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stalwart would have told its client to try again, and the mail would show up all the same."""
    monkeypatch.setattr(taking, "PATIENCE", 0.05)
    world.sandbox.faults = Faults(slow=0.5, methods=frozenset({"upload"}))
    assert (await world.ask(inbox)).status_code == 503
    world.sandbox.faults = Faults()
    await world.assert_nothing(inbox)


async def test_our_copy_refused_for_good_when_asked(
    world: Submitting, inbox: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail just below the limit could never be sent, because the copy has one header more."""

    async def upload(*_: object) -> BlobId:
        raise MailServerRejected(Refusal.TOO_LARGE, "too large")

    monkeypatch.setattr(world.sandbox, "upload", upload)
    before = lost()
    answer = await world.ask(inbox, None)
    assert answer.status_code == 200
    assert answer.json()["modifications"][0]["type"] == "addHeader"
    assert lost() == before + 1
    await world.assert_nothing(inbox)


async def test_crash_before_the_row_was_written(world: Submitting, inbox: Json) -> None:
    await world.crash(world.sandbox.after, "upload", world.ask(inbox))
    await world.assert_nothing(inbox)
    await world.hand_in(inbox)
    await world.assert_once(inbox)


async def test_handed_in_again_after_its_answer_was_lost(world: Submitting, inbox: Json) -> None:
    for _ in range(2):
        await world.hand_in(inbox)
    await world.assert_once(inbox)
    await world.hand_in(inbox)
    await world.assert_once(inbox)


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("find", "before"),
        ("append", "before"),
        ("append", "after"),
        ("fetch", "before"),
        ("fetch", "after"),
    ],
)
async def test_crash_while_it_is_filed(
    world: Submitting, inbox: Json, method: str, step: str
) -> None:
    """The mail would be missing for ever, or stand in Sent once for every crash."""
    await world.hand_in(inbox)
    hooks = world.sandbox.before if step == "before" else world.sandbox.after
    for _ in range(2):
        await world.time_passes()
        if method == "append" and await world.stored(inbox, Folder.SENT):
            break
        await world.crash(hooks, method, submissions.settle(world.db, world.server))
        await world.mark_due()
        await world.read()
    await world.assert_once(inbox)
    assert await world.state() == ["imported"]


async def test_no_answer_when_our_copy_was_put_into_sent(world: Submitting, inbox: Json) -> None:
    await world.hand_in(inbox)
    await world.time_passes()
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"append"}))
    with pytest.raises(MailServerUnavailable):
        await submissions.settle(world.db, world.server)
    world.sandbox.faults = Faults()
    await world.assert_once(inbox)


async def test_our_copy_was_put_there_twice(world: Submitting, inbox: Json) -> None:
    """A server that was frozen carries out a request nobody waits for any more."""
    await world.hand_in(inbox)
    await world.assert_once(inbox)
    mailbox = world.sandbox.mailbox(await world.account(inbox))
    raw = f"From: me\r\nMessage-ID: <{NAME}>\r\n\r\nText\r\n".encode()
    mailbox.store(raw, Folder.SENT, frozenset({SEEN, SENT_KEYWORD}))
    await world.mark_due()
    await world.read()
    assert len(await world.messages(inbox)) == 1
    await world.assert_once(inbox)


async def test_the_clients_copy_came_first(world: Submitting, inbox: Json) -> None:
    await world.hand_in(inbox)
    theirs = await world.save(inbox)
    await world.mark_due()
    await world.read()
    assert len(await world.messages(inbox)) == 1
    await world.assert_once(inbox, by=theirs)
    assert await world.state() == ["done"]


async def test_a_label_without_room_stays_when_the_clients_copy_takes_over(
    world: Submitting, inbox: Json
) -> None:
    """It is nowhere but in the row, and no keyword goes from one copy to the other."""
    mailbox = world.sandbox.mailbox(await world.account(inbox))
    mailbox.store(b"Subject: full\r\n\r\n", Folder.TRASH, {f"k{n}" for n in range(99)})
    await world.hand_in(inbox)
    await world.time_passes()
    await submissions.settle(world.db, world.server)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/<{NAME}>"
    added = await world.client.patch(path, json={"add_labels": ["k1", "late"]})
    assert added.status_code == 200, added.text
    theirs = await world.save(inbox)
    await world.work()
    (message,) = await world.messages(inbox)
    assert message["labels"] == ["k1", "late", "sent"]
    assert await world.stored(inbox, Folder.SENT) == [theirs]


async def test_the_clients_copy_came_and_went(world: Submitting, inbox: Json) -> None:
    """What a person deleted would come back."""
    await world.hand_in(inbox)
    theirs = await world.save(inbox)
    await world.mark_due()
    await world.read()
    moved = {"add_labels": ["trash"]}
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/<{NAME}>"
    assert (await world.client.patch(path, json=moved)).status_code == 200
    await world.work()
    assert await world.stored(inbox, Folder.SENT) == []
    assert await world.stored(inbox, Folder.TRASH) == [theirs]
    assert await world.messages(inbox) == []


@pytest.mark.parametrize("read_first", [True, False])
async def test_the_clients_copy_comes_while_ours_is_put(
    world: Submitting, inbox: Json, *, read_first: bool
) -> None:
    """Both looked, both saw nothing."""
    await world.hand_in(inbox)
    saved: list[DocumentId] = []

    async def save() -> None:
        world.sandbox.after.pop("find", None)
        saved.append(await world.save(inbox))
        if read_first:
            await world.mark_due()
            await world.read()

    world.sandbox.before["append"] = save
    await world.time_passes()
    await submissions.settle(world.db, world.server)
    world.sandbox.before.clear()
    assert len(await world.messages(inbox)) == 1
    await world.assert_once(inbox, by=saved[0])


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("find", "before"),
        ("relabel", "before"),
        ("relabel", "after"),
        ("destroy_mail", "before"),
        ("destroy_mail", "after"),
    ],
)
async def test_the_clients_copy_comes_later_and_we_crash(
    world: Submitting, inbox: Json, method: str, step: str
) -> None:
    await world.hand_in(inbox)
    await world.assert_once(inbox)
    theirs = await world.save(inbox)
    await world.mark_due()
    await world.read()
    hooks = world.sandbox.before if step == "before" else world.sandbox.after
    await world.time_passes()
    await world.crash(hooks, method, submissions.settle(world.db, world.server))
    assert len(await world.messages(inbox)) == 1
    await world.assert_once(inbox, by=theirs)
    assert await world.state() == ["done"]


async def test_ours_is_not_removed_before_the_message_has_moved(
    world: Submitting, inbox: Json
) -> None:
    """The API would show none for a moment, and announce the mail again."""
    await world.hand_in(inbox)
    await world.assert_once(inbox)
    await world.save(inbox)
    await world.rows("update submission set due_at = now() returning 1")
    await submissions.settle(world.db, world.server)
    assert len(await world.stored(inbox, Folder.SENT)) == 2
    assert len(await world.messages(inbox)) == 1
    await world.assert_once(inbox)


async def test_what_was_done_to_our_copy_is_done_to_the_clients(
    world: Submitting, inbox: Json
) -> None:
    """An agent's labels would be lost."""
    await world.hand_in(inbox)
    await world.assert_once(inbox)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/<{NAME}>"
    assert (await world.client.patch(path, json={"add_labels": ["offer"]})).status_code == 200
    theirs = await world.save(inbox)
    await world.work()
    (message,) = await world.messages(inbox)
    assert message["labels"] == ["offer", "sent"]
    (mail,) = await world.server.fetch(await world.account(inbox), [theirs])
    assert "offer" in mail.keywords
    kinds = [event.type.value for event in await world.events_of(inbox)]
    assert kinds == ["message.sent", "label.added"]


async def test_the_message_was_deleted_meanwhile(world: Submitting, inbox: Json) -> None:
    """What a person deleted would come back."""
    await world.hand_in(inbox)
    await world.assert_once(inbox)
    account = await world.account(inbox)
    await world.server.destroy_mail(account, await world.stored(inbox, Folder.SENT))
    await world.work()
    await world.rows("update submission set due_at = now() returning 1")
    await world.assert_nothing(inbox)


async def test_mail_server_away_when_due(world: Submitting, inbox: Json) -> None:
    await world.hand_in(inbox)
    await world.time_passes()
    world.sandbox.faults = Faults(down=True)
    with pytest.raises(MailServerUnavailable):
        await submissions.settle(world.db, world.server)
    world.sandbox.faults = Faults()
    await world.assert_once(inbox)


async def test_inbox_deleted_meanwhile(world: Submitting, inbox: Json) -> None:
    await world.hand_in(inbox)
    assert (await world.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")).status_code < 300
    await world.work()
    assert await world.state() == ["done"]


async def test_what_was_put_aside_is_gone(world: Submitting, inbox: Json) -> None:
    """It would be tried for ever."""
    await world.hand_in(inbox)
    await world.rows("update submission set blob_id = 'gone' returning 1")
    before = lost()
    await world.work()
    assert await world.state() == ["done"]
    assert lost() == before + 1


async def test_two_workers_at_once(world: Submitting, inbox: Json) -> None:
    for number in range(20):
        assert (await world.ask(inbox, f"{number}@client.test")).status_code == 200
    await world.time_passes()
    workers = [submissions.settle(world.db, world.server) for _ in range(2)]
    assert sum(await asyncio.gather(*workers)) == 20
    assert len(await world.stored(inbox, Folder.SENT)) == 20
    assert len(await world.messages(inbox)) == 20


async def test_an_index_made_anew_shows_it_once(world: Submitting, inbox: Json) -> None:
    await world.hand_in(inbox)
    await world.assert_once(inbox)
    await world.rows("update inbox_sync set state = null returning 1")
    await world.assert_once(inbox)
    await world.save(inbox)
    await world.rows("update inbox_sync set state = null returning 1")
    await world.assert_once(inbox)


async def test_after_a_day_it_is_forgotten(world: Submitting, inbox: Json) -> None:
    """The table would grow for ever; what is still to be filed stays."""
    await world.hand_in(inbox)
    await world.work()
    assert (await world.ask(inbox, "other@client.test")).status_code == 200
    await world.rows("update submission set created_at = now() - interval '25 h' returning 1")
    async with world.db.transaction() as tx:
        assert await submissions.forget_old(tx) == 1
    assert await world.state() == ["pending"]


async def test_a_login_without_an_inbox_may_not_send(world: Submitting, inbox: Json) -> None:
    """No rule holds for it: a session that outlives its inbox, or an account made behind our back."""
    stranger = {"email": "stranger@agents.test"}
    words = "Message rejected: this login has no inbox here, so it may not send. [message_rejected]"
    assert refusal(await world.ask(stranger)) == (550, words)
    assert refusal(await world.name(stranger)) == (550, words)
    gone = await world.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert gone.status_code == 204
    assert refusal(await world.ask(inbox)) == (550, words)
    assert await world.state() == []


async def counted(world: Submitting) -> int:
    """How many recipients count for the organisation."""
    found = await world.rows("select count from send_count where kind = 'organization'")
    return sum(row["count"] for row in found)


async def test_a_mail_counts_once_however_often_it_comes(world: Submitting, inbox: Json) -> None:
    """A client that lost its connection after the mail was taken would use its limits up by trying again."""
    for _ in range(2):
        await world.hand_in(inbox)
    assert await counted(world) == 1
    await world.assert_once(inbox)
    await world.hand_in(inbox)
    assert await counted(world) == 1


async def test_at_the_same_moment_too(world: Submitting, inbox: Json) -> None:
    answers = await asyncio.gather(*(world.ask(inbox) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert await counted(world) == 1
    assert await world.state() == ["pending"]


async def test_the_same_message_id_to_others_counts_for_them(
    world: Submitting, inbox: Json
) -> None:
    """Else one Message-ID would open every limit."""
    await world.hand_in(inbox)
    for _ in range(2):
        assert (
            await world.ask(inbox, to=("ada@elsewhere.test", "bob@far.test"))
        ).status_code == 200
    assert await counted(world) == 2
    await world.assert_once(inbox)


async def test_another_mail_under_the_same_message_id_counts_and_shows_up(
    world: Submitting, inbox: Json
) -> None:
    """Else one Message-ID would open every limit, and what was sent would be in no list."""
    await world.hand_in(inbox)
    answer = (await world.ask(inbox, text="Another text\r\n")).json()
    (change,) = answer["modifications"]
    assert (change["type"], change["index"]) == ("changeHeader", 1)
    assert await counted(world) == 2
    await world.work()
    given = change["value"]
    assert {each["message_id"] for each in await world.messages(inbox)} == {f"<{NAME}>", given}


async def assert_a_mail_of_its_own(world: Submitting, inbox: Json, used: str) -> None:
    """A mail under this Message-ID gets another, shows up, is announced, and has its recipients to itself."""
    before = {each["message_id"] for each in await world.messages(inbox)}
    announced = await sent_events(world, inbox)
    answer = await world.ask(inbox, used, to=("eve@far.test",), text="Another text\r\n")
    (change,) = answer.json()["modifications"]
    assert (change["type"], change["index"]) == ("changeHeader", 1)
    await world.work()
    assert {each["message_id"] for each in await world.messages(inbox)} - before == {
        change["value"]
    }
    assert await sent_events(world, inbox) == announced + 1
    found = await world.rows("select message_id from recipient where address = 'eve@far.test'")
    assert found == [{"message_id": change["value"]}]


async def sent_events(world: Submitting, inbox: Json) -> int:
    kinds = [event.type.value for event in await world.events_of(inbox)]
    return kinds.count("message.sent")


async def test_the_message_id_of_a_mail_of_the_api_is_used_up(
    world: Submitting, inbox: Json
) -> None:
    """Whoever has a mail login could send what no list, no event and no count ever tells of."""
    sent = (await world.post(inbox)).json()
    await world.work()
    await assert_a_mail_of_its_own(world, inbox, sent["message_id"].strip("<>"))


async def test_the_message_id_of_a_send_under_way_is_used_up(
    world: Submitting, inbox: Json
) -> None:
    """The send would be told to have left, or what was handed in would stand for it."""
    await world.post(inbox)
    (row,) = await world.rows("update send set state = 'unknown' returning message_id")
    await world.rows("delete from recipient returning 1")
    answer = await world.ask(inbox, row["message_id"])
    assert answer.json()["modifications"][0]["type"] == "changeHeader"


async def test_the_same_message_id_every_day(world: Submitting, inbox: Json) -> None:
    """A script with a Message-ID of its own would be in Sent on its first day only."""
    await world.hand_in(inbox)
    await world.work()
    await world.rows("update submission set created_at = now() - interval '25 h' returning 1")
    async with world.db.transaction() as tx:
        assert await submissions.forget_old(tx) == 1
    await assert_a_mail_of_its_own(world, inbox, NAME)


async def test_the_message_id_of_a_received_mail_is_used_up(world: Submitting, inbox: Json) -> None:
    """What was received would be told to have gone to somebody."""
    raw = f"From: ada@elsewhere.test\r\nMessage-ID: <{NAME}>\r\n\r\nText\r\n".encode()
    await world.deliver_to(inbox["email"], raw=raw)
    await world.work()
    await assert_a_mail_of_its_own(world, inbox, NAME)


async def test_the_message_id_of_an_old_copy_is_used_up(world: Submitting, inbox: Json) -> None:
    """A copy that was saved long ago would stand for whatever is sent under its Message-ID."""
    await world.save(inbox)
    await world.work()
    await world.rows("update message set created_at = now() - interval '2 h' returning 1")
    await assert_a_mail_of_its_own(world, inbox, NAME)


async def test_the_client_saved_its_copy_first(world: Submitting, inbox: Json) -> None:
    """Some clients do, and would have each mail in Sent twice."""
    theirs = await world.save(inbox)
    await world.mark_due()
    await world.read()
    for _ in range(2):
        assert (await world.ask(inbox)).json().get("modifications", []) == []
    await world.assert_once(inbox, by=theirs)


async def test_a_mail_that_comes_again_and_again_counts(world: Submitting, inbox: Json) -> None:
    """Each time its recipients may get another: an exhausted agent could flood them."""
    for _ in range(1 + taking.FREE_REPEATS):
        await world.hand_in(inbox)
    assert await counted(world) == 1
    for _ in range(2):
        await world.hand_in(inbox)
    assert await counted(world) == 3
    await world.assert_once(inbox)


async def test_what_is_left_is_counted_exactly(world: Submitting, inbox: Json) -> None:
    """Many connections at once would send more than the limit between the question and the count."""
    async with world.db.transaction() as tx:
        await limits.set_limit(tx, world.organization_id, "inbox_sends_per_day", 3)
    names = [f"{number}@client.test" for number in range(8)]
    answers = await asyncio.gather(*(world.ask(inbox, name) for name in names))
    replies = [answer.json().get("response", {}).get("status", 250) for answer in answers]
    assert sorted(replies) == [250] * 3 + [452] * 5
    assert await counted(world) == 3
    assert await world.state() == ["pending"] * 3


async def test_refused_mail_is_put_aside_nowhere(world: Submitting, inbox: Json) -> None:
    """A paused agent could fill the mail server's disk."""
    await world.client.patch(f"/v0/inboxes/{inbox['inbox_id']}", json={"send_paused": True})

    async def upload() -> None:
        raise AssertionError("it was uploaded")

    world.sandbox.before["upload"] = upload
    assert refusal(await world.ask(inbox))[0] == 550
    assert refusal(await world.name(inbox))[0] == 550
    await world.assert_nothing(inbox)


async def test_a_mail_that_was_taken_is_refused_once_its_inbox_is_paused(
    world: Submitting, inbox: Json
) -> None:
    """Trying again is no way around a pause."""
    await world.hand_in(inbox)
    await world.client.patch(f"/v0/inboxes/{inbox['inbox_id']}", json={"send_paused": True})
    status, words = refusal(await world.ask(inbox))
    assert (status, words) == (
        550,
        "This inbox may not send now. It was paused by request. [inbox_paused]",
    )


async def test_one_recipient_is_judged_at_a_time(world: Submitting, inbox: Json) -> None:
    """Those before were answered already; the last one is who is asked about."""
    entry = {"entry": "blocked.test"}
    await world.client.post(f"/v0/inboxes/{inbox['inbox_id']}/lists/send/block", json=entry)
    first = await world.name(inbox, "a@blocked.test")
    assert refusal(first) == (
        550,
        "Message rejected: Recipient(s) blocked: a@blocked.test (in block list) [message_rejected]",
    )
    second = await world.name(inbox, "a@blocked.test", "b@fine.test")
    assert second.json()["action"] == "accept"


async def test_lists_say_of_a_mailbox_what_they_said_of_its_tag(
    world: Submitting, inbox: Json
) -> None:
    """Who may be written to at RCPT would be refused at DATA, by when Stalwart has left the tag out."""
    other = await world.inbox("other")
    tagged = other["email"].replace("@", "+tag@")
    path = f"/v0/inboxes/{inbox['inbox_id']}/lists/send/allow"
    assert (await world.client.post(path, json={"entry": tagged})).status_code == 201
    assert (await world.name(inbox, tagged)).json()["action"] == "accept"
    assert (await world.ask(inbox, to=(other["email"],))).json()["action"] == "accept"
    assert refusal(await world.name(inbox, other["email"]))[0] == 550
    assert refusal(await world.ask(inbox, "2@x.test", to=(other["email"], "b@far.test"))) == (
        550,
        "Message rejected: Recipient(s) blocked: b@far.test (not in allow list) [message_rejected]",
    )


async def test_a_tag_of_a_blocked_inbox_is_blocked(world: Submitting, inbox: Json) -> None:
    """The API would send what SMTP refuses."""
    other = await world.inbox("other")
    path = f"/v0/inboxes/{inbox['inbox_id']}/lists/send/block"
    assert (await world.client.post(path, json={"entry": other["email"]})).status_code == 201
    tagged = other["email"].replace("@", "+tag@")
    words = f"Message rejected: Recipient(s) blocked: {tagged} (in block list)"
    sent = await world.post(inbox, to=tagged)
    assert (sent.status_code, sent.json()["message"]) == (403, words)
    assert refusal(await world.name(inbox, tagged)) == (550, f"{words} [message_rejected]")


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The reply Stalwart is to give its client."""
    assert answer.status_code == 200
    said = answer.json()
    assert said["action"] == "reject"
    return said["response"]["status"], said["response"]["message"]


async def test_each_mail_without_message_id_is_its_own(world: Submitting, inbox: Json) -> None:
    """Two equal notes are two mails."""
    answers = [await world.ask(inbox, None) for _ in range(2)]
    names = [answer.json()["modifications"][0]["value"] for answer in answers]
    await world.work()
    assert sorted(each["message_id"] for each in await world.messages(inbox)) == sorted(names)


@pytest.mark.parametrize("method", ["append", "fetch"])
async def test_a_lease_that_ended_is_not_used(world: Submitting, inbox: Json, method: str) -> None:
    """Two workers would each put a copy into Sent, and each believe that its own is the one shown."""
    await world.hand_in(inbox)

    async def overtaken() -> None:
        world.sandbox.before.clear()
        await world.time_passes()
        assert await submissions.settle(world.db, world.server) == 1

    world.sandbox.before[method] = overtaken
    await world.time_passes()
    await submissions.settle(world.db, world.server)
    assert await world.state() == ["imported"]
    await world.assert_once(inbox)


def test_waiting_for_us_ends_before_stalwart_stops_waiting() -> None:
    """Else a client is told to try again although the mail is noted."""
    hook = Wanted(domain="x.test", hook=mtahook.hook_at("http://x", "secret"))
    (group,) = [each for each in groups(hook) if "httpHeaders/X-Agentmail-Hook" in each[0].match]
    (timeout,) = [entry.set["timeout"] for entry in group if "timeout" in entry.set]
    assert timedelta(seconds=submissions.PATIENCE) < timedelta(milliseconds=timeout)
