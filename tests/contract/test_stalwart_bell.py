"""Stalwart's doorbell rings for everything that changes a mailbox, signed with our secret."""

from __future__ import annotations

import asyncio
import imaplib
from collections.abc import AsyncGenerator, Callable
from email.message import EmailMessage

import pytest
import pytest_asyncio

from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.mailserver import Report
from agentmail_cp.stalwart import hooks
from agentmail_cp.stalwart.calls import Call
from agentmail_cp.stalwart.setup import Doorbell
from tests.fix_stalwart import (
    DOMAIN,
    Mailbox,
    StalwartServer,
    needs_stalwart,
    private_folder,
)

pytestmark = pytest.mark.stalwart

SECRET = "between the two of us"
MAIL = b"From: a@out.test\r\nSubject: x\r\nMessage-ID: <%d@out.test>\r\n\r\nText\r\n"
PATIENCE = 5.0


class Porch:
    """Who stands at the door: an HTTP server that keeps the bells it hears."""

    def __init__(self) -> None:
        self.bells: asyncio.Queue[hooks.Bell] = asyncio.Queue()
        self.unsigned = 0
        self.answers = b"204 No Content"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        signature = next(
            (line.split(": ", 1)[1] for line in head if line.lower().startswith("x-signature")),
            None,
        )
        body = await reader.readexactly(int(fields["content-length"]))
        seal = hooks.Seal(SECRET)
        seal.update(body)
        self.unsigned += not seal.matches(signature)
        self.bells.put_nowait(hooks.decode(body))
        lines = b"HTTP/1.1 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.answers
        writer.write(lines)
        writer.close()

    async def hears(self, account_id: str) -> bool:
        """Whether it rings for this mailbox before patience ends."""
        try:
            async with asyncio.timeout(PATIENCE):
                while account_id not in (await self.bells.get()).accounts:
                    pass
        except TimeoutError:
            return False
        return True

    async def quiet(self) -> None:
        """Wait until nothing has rung for a moment."""
        while True:
            try:
                await asyncio.wait_for(self.bells.get(), 0.3)
            except TimeoutError:
                return


@pytest_asyncio.fixture(scope="module")
async def porch() -> AsyncGenerator[tuple[Porch, int]]:
    needs_stalwart()
    keeper = Porch()
    server = await asyncio.start_server(keeper.answer, "127.0.0.1", 0)
    yield keeper, server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


@pytest_asyncio.fixture(scope="module")
async def ringing(
    porch: tuple[Porch, int], tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[StalwartServer]:
    """A Stalwart that rings at the porch."""
    doorbell = Doorbell(f"http://127.0.0.1:{porch[1]}{hooks.DOORBELL_PATH}", SECRET, 20)
    folder = private_folder(tmp_path_factory)
    async with LocalStalwart(folder, domain=DOMAIN, doorbell=doorbell) as process:
        server = StalwartServer(process)
        yield server
        await server.jmap.close()


def expunge_by_closing(client: imaplib.IMAP4) -> None:
    client.store("1", "+FLAGS", "\\Deleted")
    client.close()


DEEDS: dict[str, Callable[[imaplib.IMAP4], object]] = {
    "a client appends a mail": lambda client: client.append("INBOX", "", "", MAIL % 9),
    "a client marks one read": lambda client: client.store("1", "+FLAGS", "\\Seen"),
    "a client reads one": lambda client: client.fetch("1", "(RFC822)"),
    "a client labels one": lambda client: client.store("1", "+FLAGS", "customer"),
    "a client copies one": lambda client: client.copy("1", "Trash"),
    "a client moves one": lambda client: client.uid("MOVE", "1", "Trash"),
    "a client expunges": lambda client: (
        client.store("1", "+FLAGS", "\\Deleted"),
        client.expunge(),
    ),
    "a client closes the folder": expunge_by_closing,
    "a client deletes a folder": lambda client: client.delete("Old"),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS.keys())
async def test_it_rings_when(
    ringing: StalwartServer, porch: tuple[Porch, int], deed: Callable[[imaplib.IMAP4], object]
) -> None:
    """Else what a person does in a mail client would show in the API a minute later."""
    mailbox = await ringing.new_mailbox()
    with ringing.imap(mailbox) as client:
        for folder in ("INBOX", "Old"):
            client.create("Old")
            client.append(folder, "", "", MAIL % 1)
        client.select("INBOX")
        await porch[0].quiet()
        await asyncio.to_thread(deed, client)
        assert await porch[0].hears(mailbox.account_id)


async def test_it_rings_when_mail_arrives_and_every_ring_is_signed(
    ringing: StalwartServer, porch: tuple[Porch, int]
) -> None:
    mailbox = await ringing.new_mailbox()
    await asyncio.to_thread(_deliver, ringing, mailbox)
    assert await porch[0].hears(mailbox.account_id)
    assert porch[0].unsigned == 0


async def test_looking_at_mail_does_not_ring(
    ringing: StalwartServer, porch: tuple[Porch, int]
) -> None:
    """Clients look all the time; each look would cost a read of the mailbox."""
    mailbox = await ringing.new_mailbox()
    with ringing.imap(mailbox) as client:
        client.append("INBOX", "", "", MAIL % 1)
        client.select("INBOX")
        await porch[0].quiet()
        await asyncio.to_thread(client.fetch, "1", "(FLAGS BODY.PEEK[])")
        bell = await asyncio.wait_for(porch[0].bells.get(), PATIENCE)
    assert bell == hooks.Bell()


async def test_our_own_ring_comes_back_alone(
    ringing: StalwartServer, porch: tuple[Porch, int]
) -> None:
    """The sign that Stalwart holds no event back any more."""
    await porch[0].quiet()
    await ringing.jmap.call(Call("Bell/ring", {}, "0"))
    assert await asyncio.wait_for(porch[0].bells.get(), PATIENCE) == hooks.Bell(only_ring=True)


def _deliver(server: StalwartServer, mailbox: Mailbox) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@out.test", mailbox.address, "Hello"
    with server.mx() as client:
        client.send_message(message)


async def test_what_is_not_taken_comes_again_until_it_is(
    ringing: StalwartServer, porch: tuple[Porch, int]
) -> None:
    """Reports are told nowhere else: while our database is away, Stalwart keeps them."""
    mailbox, keeper = await ringing.new_mailbox(), porch[0]
    keeper.answers = b"503 Service Unavailable"
    try:
        await asyncio.to_thread(_deliver, ringing, mailbox)
        refused = [await reported(keeper, mailbox.address) for _ in range(3)]
    finally:
        keeper.answers = b"204 No Content"
    taken = await reported(keeper, mailbox.address)
    assert refused == [taken] * 3
    await keeper.quiet()


async def reported(keeper: Porch, recipient: str) -> Report:
    """The next report about this recipient."""
    async with asyncio.timeout(PATIENCE):
        while True:
            bell = await keeper.bells.get()
            for report in bell.reports:
                if report.recipient == recipient:
                    return report
