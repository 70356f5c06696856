"""Mail handed in over SMTP on a real Stalwart is sent mail in its thread, once: whatever its client does."""

from __future__ import annotations

import asyncio
import contextlib
import email
import imaplib
import smtplib
import time
from collections.abc import AsyncGenerator
from email.message import EmailMessage, Message
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.stalwart import mtahook
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.setup import Doorbell
from agentmail_cp.submissions.record import LEASE
from tests.failure.real import SECRET, Ringing, Running, running
from tests.fix_app import DOMAIN, OUTCOMES, Json, own_labels, until
from tests.fix_process import HOST, ServiceProcess
from tests.fix_proxy import BellRelay, Proxy
from tests.fix_stalwart import needs_stalwart, private_folder, unverified

pytestmark = pytest.mark.stalwart

DELAY = 1.0
"""Seconds until our own copy is put into Sent."""

SOON = DELAY + 7.0


class Asking(Ringing):
    """A Stalwart that rings at and asks whatever service the proxy leads to."""

    def __init__(self, process: LocalStalwart, proxy: Proxy) -> None:
        super().__init__(process, BellRelay())
        self.proxy = proxy

    def submission(self, inbox: Json) -> smtplib.SMTP:
        """A mail client's connection, logged in with the inbox's own password."""
        client = smtplib.SMTP(
            HOST, self.process.ports.submission, local_hostname="client.test", timeout=20
        )
        client.starttls(context=unverified())
        client.login(inbox["email"], inbox["credentials"]["password"])
        return client

    async def hand_in(self, inbox: Json, mail: EmailMessage, *to: str) -> None:
        """Submit as a script does: over SMTP, keeping no copy."""
        await asyncio.to_thread(self._hand_in, inbox, mail, to)

    def _hand_in(self, inbox: Json, mail: EmailMessage, to: tuple[str, ...]) -> None:
        with self.submission(inbox) as client:
            client.send_message(mail, from_addr=inbox["email"], to_addrs=to or None)

    async def save(self, inbox: Json, mail: EmailMessage) -> None:
        """Save a copy in Sent, as a mail client does."""
        await asyncio.to_thread(self._save, inbox, mail)

    def _save(self, inbox: Json, mail: EmailMessage) -> None:
        with self.imap(inbox) as client:
            client.append('"Sent"', r"(\Seen)", "", mail.as_bytes())

    async def sent(self, inbox: Json) -> list[Message]:
        """What a mail client sees in Sent."""
        return await asyncio.to_thread(self._seen, inbox, "Sent")

    async def received(self, inbox: Json) -> list[Message]:
        """What a mail client sees in INBOX."""
        return await asyncio.to_thread(self._seen, inbox, "INBOX")

    def _seen(self, inbox: Json, folder: str) -> list[Message]:
        with self.imap(inbox) as client:
            client.select(folder, readonly=True)
            _, (numbers,) = client.search(None, "ALL")
            return [_fetched(client, number) for number in (numbers or b"").decode().split()]


def _fetched(client: imaplib.IMAP4_SSL, number: str) -> Message:
    _, data = client.fetch(number, "(BODY.PEEK[])")
    assert isinstance(data[0], tuple)
    return email.message_from_bytes(data[0][1])


@pytest_asyncio.fixture(scope="module")
async def asking(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Asking]:
    needs_stalwart()
    async with Proxy(0) as proxy:
        base = f"http://{HOST}:{proxy.port}"
        server = LocalStalwart(
            private_folder(tmp_path_factory),
            domain=DOMAIN,
            doorbell=Doorbell(url=base + DOORBELL_PATH, secret=SECRET, throttle=20),
            hook=mtahook.hook_at(base, SECRET),
        )
        async with server:
            yield Asking(server, proxy)


def process_of(
    asking: Asking, database_url: str, folder: Path, **changes: object
) -> ServiceProcess:
    """A service that Stalwart asks; not started yet."""
    settings = {"submission_copy_delay": DELAY, "sweep_interval": 3600, **changes}
    process = ServiceProcess(folder, asking.settings(database_url, **settings))
    asking.proxy.target = process.port
    return process


@pytest_asyncio.fixture
async def here(asking: Asking, database_url: str, tmp_path: Path) -> AsyncGenerator[Running]:
    async with process_of(asking, database_url, tmp_path) as process:
        live = await running(process, database_url)
        yield live
        await live.close()
    assert "Traceback" not in process.log


def written(inbox: Json, to: str, message_id: str | None = None, **headers: str) -> EmailMessage:
    """A mail as a program writes it."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = inbox["email"], to, headers.pop("Subject", "Offer")
    if message_id is not None:
        mail["Message-ID"] = f"<{message_id}>"
    for name, value in headers.items():
        mail[name.replace("_", "-")] = value
    mail.set_content("Grüße\n.\nEnd", cte="8bit")
    return mail


async def pair(here: Running) -> tuple[Json, Json]:
    """Who writes and who is written to."""
    return await here.inbox(), await here.inbox()


async def announced(here: Running, inbox: Json) -> list[str]:
    """What was announced of an inbox's mail, but for what became of it."""
    rows = await here.rows(
        "select type, facts->>'label' as label from event join inbox using (inbox_id)"
        " where address = %(address)s order by seq",
        address=inbox["email"],
    )
    later = {"message.delivered", "message.bounced"}
    return [
        row["type"] for row in rows if row["type"] not in later and row["label"] not in OUTCOMES
    ]


async def appears(here: Running, inbox: Json, count: int = 1) -> list[Json]:
    return await until(lambda: here.messages(inbox), lambda seen: len(seen) == count, seconds=SOON)


async def settled(here: Running, *, seconds: float = SOON) -> None:
    """Wait until nothing is due any more."""
    await until(
        lambda: here.rows("select from submission where due_at is not null"),
        lambda rows: rows == [],
        seconds=seconds,
    )


async def let_leases_end(here: Running) -> None:
    """Time passes: what a dead process had claimed is looked at again only after half a minute."""
    await here.rows(
        "update submission set due_at = now() where due_at > now() + %(lease)s / 2 returning 1",
        lease=LEASE,
    )


async def test_what_a_script_hands_in_shows_up_in_its_thread(here: Running, asking: Asking) -> None:
    """The agent's side of every conversation it has over SMTP would be missing."""
    inbox, other = await pair(here)
    await asking.deliver(inbox["email"], 1)
    (question,) = await appears(here, inbox)
    answer = written(inbox, other["email"], "answer@script.test", In_Reply_To="<1@o.test>")
    before = time.monotonic()
    await asking.hand_in(inbox, answer)
    messages = await appears(here, inbox, 2)
    assert DELAY * 0.9 < time.monotonic() - before < SOON
    (sent,) = [each for each in messages if "sent" in each["labels"]]
    assert sent["message_id"] == "<answer@script.test>"
    assert own_labels(sent) == ["sent"]
    assert sent["thread_id"] == question["thread_id"]
    assert sent["preview"].startswith("Grüße")
    (copy,) = await asking.sent(inbox)
    assert (copy["Message-ID"], copy.get_payload(decode=True)) == (
        "<answer@script.test>",
        "Grüße\r\n.\r\nEnd\r\n".encode(),
    )
    assert copy["Date"]
    await settled(here)
    assert await announced(here, inbox) == ["message.received", "message.sent"]


async def test_a_client_that_saves_its_copy_keeps_it(here: Running, asking: Asking) -> None:
    """A person would find every mail twice in Sent."""
    inbox, other = await pair(here)
    mail = written(inbox, other["email"], "theirs@client.test")
    await asking.hand_in(inbox, mail)
    await asking.save(inbox, mail)
    await until(lambda: here.messages(inbox), lambda seen: len(seen) == 1, seconds=DELAY * 0.9)
    await settled(here)
    assert len(await asking.sent(inbox)) == 1
    assert len(await here.messages(inbox)) == 1
    assert await announced(here, inbox) == ["message.sent"]
    assert (await here.rows("select state from submission")) == [{"state": "done"}]


async def test_the_api_shows_one_message_while_the_clients_copy_takes_over(
    here: Running, asking: Asking
) -> None:
    """An agent would see its mail vanish or double, and send again."""
    inbox, other = await pair(here)
    mail = written(inbox, other["email"], "late@client.test")
    await asking.hand_in(inbox, mail)
    (before,) = await appears(here, inbox)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{before['message_id']}"
    labelled = await here.client.patch(path, json={"add_labels": ["offer"]})
    assert labelled.status_code == 200, labelled.text

    async def one_throughout() -> None:
        while True:
            (shown,) = await here.messages(inbox)
            shown |= {"labels": own_labels(shown), "updated_at": 0, "size": 0}
            assert shown == {**expected, "updated_at": 0, "size": 0}
            assert (await here.client.get(path)).status_code == 200
            counts = [
                each["message_count"] for each in (await here.threads(inbox)).json()["threads"]
            ]
            assert counts == [1]

    expected = {**before, "labels": ["offer", "sent"]}
    watching = asyncio.create_task(one_throughout())
    await asking.save(inbox, mail)
    await until(lambda: asking.sent(inbox), lambda copies: len(copies) == 1, seconds=SOON)
    await settled(here)
    await asyncio.sleep(0.5)
    assert not watching.done(), watching.exception()
    watching.cancel()
    assert len(await asking.sent(inbox)) == 1
    assert await announced(here, inbox) == ["message.sent", "label.added"]
    assert (await here.rows("select state from submission")) == [{"state": "done"}]


async def test_a_mail_to_oneself_is_sent_and_received(here: Running, asking: Asking) -> None:
    """What was received first would take the id, and the sent one could not be told from it."""
    inbox = await here.inbox()
    await asking.hand_in(inbox, written(inbox, inbox["email"], "note@self.test"))
    messages = await appears(here, inbox, 2)
    assert {each["message_id"]: "sent" in each["labels"] for each in messages}["<note@self.test>"]
    assert len({each["thread_id"] for each in messages}) == 1
    assert len(await asking.sent(inbox)) == 1
    assert sorted(await announced(here, inbox)) == ["message.received", "message.sent"]


async def test_a_mail_without_message_id_goes_by_the_one_it_is_sent_with(
    here: Running, asking: Asking
) -> None:
    """Answers to it would begin threads of their own."""
    inbox, other = await pair(here)
    await asking.hand_in(inbox, written(inbox, other["email"]))
    (sent,) = await appears(here, inbox)
    (arrived,) = await asking.received(other)
    assert arrived.get_all("Message-ID") == [sent["message_id"]]
    assert sent["message_id"].endswith(f"@{DOMAIN}>")


@pytest.mark.parametrize("broken", ["", "<>", "two words"])
async def test_a_message_id_that_is_none_is_replaced(
    here: Running, asking: Asking, broken: str
) -> None:
    inbox, other = await pair(here)
    raw = f"From: {inbox['email']}\r\nTo: {other['email']}\r\nMessage-ID: {broken}\r\n\r\nHi\r\n"

    def hand_in() -> None:
        with asking.submission(inbox) as client:
            client.sendmail(inbox["email"], other["email"], raw)

    await asyncio.to_thread(hand_in)
    (sent,) = await appears(here, inbox)
    (arrived,) = await asking.received(other)
    assert arrived.get_all("Message-ID") == [sent["message_id"]]


async def test_blind_copies_stand_in_our_copy_only(here: Running, asking: Asking) -> None:
    """The sender could never find out whom a mail went to, or everybody could."""
    inbox, other = await pair(here)
    third = await here.inbox()
    mail = written(inbox, other["email"], "blind@script.test")
    await asking.hand_in(inbox, mail, other["email"], third["email"])
    (sent,) = await appears(here, inbox)
    assert sent["bcc"] == [third["email"]]
    for who in (other, third):
        (arrived,) = await asking.received(who)
        assert arrived["Bcc"] is None


async def test_handed_in_twice_it_is_one_message(here: Running, asking: Asking) -> None:
    """A client that missed the answer tries again."""
    inbox, other = await pair(here)
    mail = written(inbox, other["email"], "again@client.test")
    for _ in range(3):
        await asking.hand_in(inbox, mail)
    await appears(here, inbox)
    await settled(here)
    assert len(await here.messages(inbox)) == 1
    assert len(await asking.sent(inbox)) == 1


async def test_a_message_id_of_the_api_is_not_used_again(here: Running, asking: Asking) -> None:
    """What left under it would be in neither Sent nor the API."""
    inbox, other = await pair(here)
    first = (await here.post(inbox, to=other["email"], subject="First")).json()
    name = first["message_id"].strip("<>")
    await asking.hand_in(inbox, written(inbox, other["email"], name, Subject="Second"))
    messages = await appears(here, inbox, 2)
    (second,) = [each for each in messages if each["message_id"] != first["message_id"]]
    assert second["subject"] == "Second"
    await settled(here)
    names = [first["message_id"], second["message_id"]]
    assert sorted(copy["Message-ID"] for copy in await asking.sent(inbox)) == sorted(names)
    arrived = await until(lambda: asking.received(other), lambda seen: len(seen) == 2, seconds=SOON)
    assert sorted(mail["Message-ID"] for mail in arrived) == sorted(names)
    assert await announced(here, inbox) == ["message.sent"] * 2


async def test_a_client_that_saves_its_copy_first_keeps_it(here: Running, asking: Asking) -> None:
    """It would be asked to send the mail under another Message-ID than that of its copy."""
    inbox, other = await pair(here)
    mail = written(inbox, other["email"], "first@client.test")
    await asking.save(inbox, mail)
    await appears(here, inbox)
    await asking.hand_in(inbox, mail)
    await settled(here)
    (arrived,) = await asking.received(other)
    assert arrived["Message-ID"] == "<first@client.test>"
    assert len(await asking.sent(inbox)) == 1
    assert await announced(here, inbox) == ["message.sent"]


async def test_while_we_are_away_the_client_keeps_its_mail(here: Running, asking: Asking) -> None:
    """A mail would leave of which nobody knows."""
    inbox, other = await pair(here)
    mail = written(inbox, other["email"], "waits@client.test")
    here.process.kill()
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        await asking.hand_in(inbox, mail)
    assert [code for code, _ in refused.value.recipients.values()] == [451]
    await here.process.start()
    await asyncio.sleep(DELAY + 1)
    assert await here.messages(inbox) == []
    assert await asking.received(other) == []
    await asking.hand_in(inbox, mail)
    await appears(here, inbox)
    assert len(await asking.received(other)) == 1


async def test_what_we_send_and_what_the_world_sends_is_not_asked_about(
    here: Running, asking: Asking
) -> None:
    """Every API send would cost a question, and mail from outside would wait for us."""
    inbox, other = await pair(here)
    here.process.kill()
    await asking.deliver(inbox["email"], 1)
    await here.process.start()
    await appears(here, inbox)
    assert (await here.post(inbox, to=other["email"])).status_code == 200
    assert await here.rows("select from submission") == []


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_killed_again_and_again_every_mail_is_there_once(
    asking: Asking, database_url: str, tmp_path: Path
) -> None:
    """A crash would lose a mail from the record, or double it."""
    process = process_of(asking, database_url, tmp_path, submission_copy_delay=0.3)
    async with process:
        live = await running(process, database_url)
        inbox, other = await pair(live)
        told: list[str] = []

        async def hand_in(numbers: range) -> None:
            for number in numbers:
                mail = written(inbox, other["email"], f"{number}@script.test")
                while f"<{number}@script.test>" not in told:
                    with contextlib.suppress(smtplib.SMTPException, OSError):
                        await asking.hand_in(inbox, mail)
                        told.append(f"<{number}@script.test>")
                if number % 3 == 0:
                    await asking.save(inbox, mail)

        work = asyncio.gather(*(hand_in(range(start, 60, 3)) for start in range(3)))
        for _ in range(5):
            await asyncio.sleep(0.7)
            process.kill()
            await asyncio.sleep(0.1)
            await let_leases_end(live)
            await process.start()
        await work
        # A claim that was on its way into PostgreSQL when its process died keeps its whole lease.
        patience = LEASE.total_seconds() + SOON
        await until(lambda: live.messages(inbox), lambda seen: len(seen) >= 60, seconds=patience)
        await settled(live, seconds=patience)
        shown = [each["message_id"] for each in await live.messages(inbox)]
        assert sorted(shown) == sorted(told)
        copies = [copy["Message-ID"] for copy in await asking.sent(inbox)]
        assert sorted(copies) == sorted(told)
        assert await announced(live, inbox) == ["message.sent"] * 60
        await live.close()
    assert "Traceback" not in process.log


async def test_nobody_else_is_answered(here: Running) -> None:
    """Anybody could put mail into anybody's Sent."""
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {here.key}"}):
        async with httpx.AsyncClient(base_url=here.process.url) as stranger:
            answer = await stranger.post(mtahook.HOOK_PATH, json={}, headers=headers)
        assert answer.status_code == 401
