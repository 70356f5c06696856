"""The MTA hook on a real server: set as wanted, its drift shown, and what 0.16 does with our answers."""

from __future__ import annotations

import asyncio
import smtplib
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.mailserver import (
    MailServer,
    MailServerRejected,
    MailServerUnavailable,
    NewAccount,
)
from agentmail_cp.stalwart import StalwartMailServer, mtahook, setup
from agentmail_cp.stalwart.calls import Call
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from agentmail_cp.stalwart.mtahook import Question
from agentmail_cp.stalwart.setup import Wanted
from tests.contract.world import an_email
from tests.fix_stalwart import (
    DOMAIN,
    Mailbox,
    StalwartServer,
    needs_stalwart,
    private_folder,
)

pytestmark = pytest.mark.stalwart

SECRET = "between the two of us"


class Clerk:
    """Who is asked: an HTTP server that keeps the questions and gives one answer to all. `told` is what it
    hears of mail that this service hands in. While `busy` it answers nobody.
    """

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.told: list[Question] = []
        self.strangers = 0
        self.answer = mtahook.accept()
        self.busy = False

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        fields = dict(line.split(": ", 1) for line in head[1:] if line)
        lower = {name.lower(): value for name, value in fields.items()}
        body = await reader.readexactly(int(lower["content-length"]))
        self.strangers += not mtahook.is_ours(lower.get("authorization"), SECRET)
        known = self.told if mtahook.QUEUED_PATH in head[0] else self.questions
        known.append(mtahook.decode(body))
        while self.busy:  # noqa: ASYNC110 -- a test looks no more often
            await asyncio.sleep(0.05)
        length = f"Content-Length: {len(self.answer)}\r\nConnection: close\r\n\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{length}".encode() + self.answer)
        writer.close()


@pytest_asyncio.fixture(scope="module")
async def asked(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[tuple[StalwartServer, Clerk]]:
    needs_stalwart()
    clerk = Clerk()
    listener = await asyncio.start_server(clerk.connected, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    hook = mtahook.hook_at(f"http://127.0.0.1:{port}", SECRET)
    async with LocalStalwart(private_folder(tmp_path_factory), domain=DOMAIN, hook=hook) as process:
        server = StalwartServer(process)
        yield server, clerk
        await server.jmap.close()
    listener.close()


@pytest_asyncio.fixture
async def server(asked: tuple[StalwartServer, Clerk]) -> StalwartServer:
    return asked[0]


@pytest_asyncio.fixture
async def clerk(asked: tuple[StalwartServer, Clerk]) -> Clerk:
    """The clerk, who has heard nothing yet."""
    asked[1].questions.clear()
    asked[1].told.clear()
    asked[1].answer = mtahook.accept()
    return asked[1]


def hand_in(server: StalwartServer, mailbox: Mailbox, to: Mailbox, raw: str | bytes) -> None:
    with server.submission(mailbox) as client:
        client.sendmail(mailbox.address, [to.address], raw)


async def arrived(server: StalwartServer, mailbox: Mailbox) -> list[str]:
    """The Message-ID headers of the one mail a mailbox got, waited for."""
    for _ in range(500):
        ids = (await server.call("Email/query", {"accountId": mailbox.account_id}))["ids"]
        if ids:
            wanted = {
                "accountId": mailbox.account_id,
                "ids": ids,
                "properties": ["header:Message-ID:all"],
            }
            (mail,) = (await server.call("Email/get", wanted))["list"]
            return [value.strip() for value in mail["header:Message-ID:all"]]
        await asyncio.sleep(0.01)
    raise AssertionError("the mail did not arrive")


async def test_a_submission_is_asked_about_with_all_it_holds(
    server: StalwartServer, clerk: Clerk
) -> None:
    mailbox, other = await server.new_mailbox(), await server.new_mailbox()
    raw = f"From: {mailbox.address}\r\nX-Odd:a\r\n\tb\r\nMessage-ID: <1@x>\r\n\r\nGrüße\r\n.\r\n"
    await asyncio.to_thread(hand_in, server, mailbox, other, raw.encode())
    recipient, question = clerk.questions
    assert clerk.strangers == 0
    assert (recipient.stage, recipient.login) == ("rcpt", mailbox.address)
    assert recipient.recipients == (other.address,)
    assert (question.stage, question.login) == ("data", mailbox.address)
    assert (question.sender, question.recipients) == (mailbox.address, (other.address,))
    head = "".join(f"{name}:{value}" for name, value in question.headers)
    assert f"{head}\r\n".encode() + question.body == raw.encode()
    assert question.exact
    assert question.queue_id
    assert await arrived(server, other) == ["<1@x>"]


async def test_text_in_an_older_charset_is_told_to_be_inexact(
    server: StalwartServer, clerk: Clerk
) -> None:
    """A limit of 0.16: should another version send the bytes, this fails and the limit can go."""
    mailbox, other = await server.new_mailbox(), await server.new_mailbox()
    raw = f"From: {mailbox.address}\r\nMessage-ID: <2@x>\r\n\r\nGrüße\r\n".encode("latin-1")
    await asyncio.to_thread(hand_in, server, mailbox, other, raw)
    assert [question.exact for question in clerk.questions] == [True, False]


@pytest.mark.parametrize("header", ["", "Message-ID: \r\n"])
async def test_the_message_id_we_give_is_the_only_one(
    server: StalwartServer, clerk: Clerk, header: str
) -> None:
    """Stalwart would add a second one of its own, and we would look for the wrong mail."""
    mailbox, other = await server.new_mailbox(), await server.new_mailbox()
    clerk.answer = mtahook.accept("given@x", replaces=bool(header))
    raw = f"From: {mailbox.address}\r\n{header}\r\nHi\r\n"
    await asyncio.to_thread(hand_in, server, mailbox, other, raw)
    assert await arrived(server, other) == ["<given@x>"]


async def test_mail_from_outside_is_not_asked_about_and_still_gets_a_message_id(
    server: StalwartServer, clerk: Clerk
) -> None:
    mailbox = await server.new_mailbox()

    def deliver() -> None:
        with server.mx() as client:
            client.sendmail("x@out.test", [mailbox.address], "From: x@out.test\r\n\r\nHi\r\n")

    await asyncio.to_thread(deliver)
    assert len(await arrived(server, mailbox)) == 1
    assert clerk.questions == []


async def test_an_answer_that_is_none_lets_the_client_try_again(
    server: StalwartServer, clerk: Clerk
) -> None:
    mailbox, other = await server.new_mailbox(), await server.new_mailbox()
    clerk.answer = b"what?"
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        await asyncio.to_thread(hand_in, server, mailbox, other, "From: me\r\n\r\nHi\r\n")
    assert [code for code, _ in refused.value.recipients.values()] == [451]


async def test_the_words_of_a_refusal_reach_the_client(
    server: StalwartServer, clerk: Clerk
) -> None:
    """Whoever reads "rejected" and no more asks the operator, who does not know either."""
    mailbox, other = await server.new_mailbox(), await server.new_mailbox()
    clerk.answer = mtahook.reject(452, "4.7.1", "Not before noon.", "rate_limit_exceeded")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        await asyncio.to_thread(hand_in, server, mailbox, other, "From: me\r\n\r\nHi\r\n")
    said = refused.value.recipients[other.address]
    assert said == (452, b"4.7.1 Not before noon. [rate_limit_exceeded]")


@pytest_asyncio.fixture
async def ours(server: StalwartServer) -> AsyncGenerator[MailServer]:
    """The server as this service uses it."""
    adapter = StalwartMailServer(JmapClient(server.url, bearer(server.key)))
    yield adapter
    await adapter.close()


async def test_a_send_of_ours_is_told_with_its_queue_id(ours: MailServer, clerk: Clerk) -> None:
    """The only place where Stalwart says which mail a queue id belongs to."""
    alice, bob = [await ours.create_account(NewAccount(new_address())) for _ in range(2)]
    email = an_email(alice, bob.address)
    await ours.submit(alice.account_id, email)
    (told,) = clerk.told
    assert (clerk.questions, clerk.strangers) == ([], 0)
    assert (told.stage, told.login, told.sender) == ("data", alice.address, alice.address)
    assert told.queue_id
    assert ("Message-ID", f" <{email.message_id}>\r\n") in told.headers


@pytest.mark.parametrize("trouble", ["nonsense", "silence"])
async def test_a_send_nobody_vouches_for_is_taken_back(
    ours: MailServer, clerk: Clerk, trouble: str
) -> None:
    """It may be tried again: nothing of it left, and nothing of it is there."""
    alice, bob = [await ours.create_account(NewAccount(new_address())) for _ in range(2)]
    clerk.answer = b"what?"
    clerk.busy = trouble == "silence"
    try:
        async with asyncio.timeout(20):
            with pytest.raises(MailServerUnavailable) as refused:
                await ours.submit(alice.account_id, an_email(alice, bob.address))
    finally:
        clerk.busy = False
    assert not refused.value.reached
    assert len(clerk.told) == 1
    assert (await ours.listing(alice.account_id)).document_ids == ()
    assert (await ours.listing(bob.account_id)).document_ids == ()


async def test_a_send_of_ours_that_is_refused_says_so(ours: MailServer, clerk: Clerk) -> None:
    alice, bob = [await ours.create_account(NewAccount(new_address())) for _ in range(2)]
    clerk.answer = mtahook.reject(550, "5.7.1", "No.", "message_rejected")
    with pytest.raises(MailServerRejected, match=r"550 5\.7\.1 No\."):
        await ours.submit(alice.account_id, an_email(alice, bob.address))
    assert (await ours.listing(alice.account_id)).document_ids == ()


def new_address() -> str:
    return f"agent-{uuid.uuid4().hex[:12]}@{DOMAIN}"


@pytest_asyncio.fixture
async def settings(own_stalwart: LocalStalwart) -> AsyncGenerator[JmapClient]:
    """Our credential's connection to a server whose settings may be spoiled."""
    client = JmapClient(own_stalwart.url, bearer(own_stalwart.key))
    yield client
    await client.close()


HOOKS = ("X-Agentmail-Hook", "X-Agentmail-Queued")


async def the_hooks(client: JmapClient) -> list[dict[str, Any]]:
    """The one for mail clients first."""
    call = Call("x:MtaHook/get", {"ids": None}, "0")
    found = (await client.call(call))["0"].into(dict[str, Any])["list"]
    return sorted(found, key=lambda hook: HOOKS.index(*hook["httpHeaders"]))


async def test_the_hooks_follow_the_settings_and_their_drift_is_shown(settings: JmapClient) -> None:
    """Their token cannot be read back, so a new one must be noticed by other means."""
    wanted = Wanted(domain=DOMAIN, hook=mtahook.hook_at("http://127.0.0.1:9", SECRET))
    await setup.apply(settings, wanted, check=False)
    assert (await setup.apply(settings, wanted, check=True)).changes == ()

    for hook in await the_hooks(settings):
        failing = not hook["tempFailOnError"]
        spoilt = {"tempFailOnError": failing, "httpAuth": {"@type": "Unauthenticated"}}
        change = Call("x:MtaHook/set", {"update": {hook["id"]: spoilt}}, "0")
        await settings.call(change)
        shown = await setup.apply(settings, wanted, check=True)
        assert {each.setting for each in shown.changes} == {"tempFailOnError", "httpAuth/@type"}
        await setup.apply(settings, wanted, check=False)
    assert (await setup.apply(settings, wanted, check=True)).changes == ()
    hooks = await the_hooks(settings)
    assert [hook["httpAuth"]["@type"] for hook in hooks] == ["Bearer", "Bearer"]
    assert [hook["tempFailOnError"] for hook in hooks] == [True, True]

    other = msgspec.structs.replace(wanted, hook=mtahook.hook_at("http://127.0.0.1:9", "another"))
    changed = await setup.apply(settings, other, check=False)
    assert [change.object for change in changed.changes] == ["MtaHook", "MtaHook"]
    assert mtahook.token("another") not in changed.text
    assert (await setup.apply(settings, other, check=True)).changes == ()


async def test_without_a_service_nobody_is_asked(settings: JmapClient) -> None:
    """Every submission would be refused for ever."""
    wanted = Wanted(domain=DOMAIN, hook=mtahook.hook_at("http://127.0.0.1:9", SECRET))
    await setup.apply(settings, wanted, check=False)
    silent = Wanted(domain=DOMAIN)
    await setup.apply(settings, silent, check=False)
    assert [hook["enable"]["else"] for hook in await the_hooks(settings)] == ["false", "false"]
    call = Call("x:MtaStageData/get", {"ids": ["singleton"]}, "0")
    (data,) = (await settings.call(call))["0"].into(dict[str, Any])["list"]
    assert data["addMessageIdHeader"]["else"] == "true"
