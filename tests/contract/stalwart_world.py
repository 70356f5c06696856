"""A real Stalwart as a world: breaking it is standing in its way, or a setting put back afterwards."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from agentmail_cp.dev.stalwart import HOST
from agentmail_cp.mailserver import Enqueued
from agentmail_cp.sandbox.reports import feedback_report
from agentmail_cp.stalwart import StalwartMailServer, hooks, mtahook
from agentmail_cp.stalwart.calls import Call
from agentmail_cp.stalwart.ids import email_id
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from agentmail_cp.stalwart.wanted import DEFAULT_MAIL_SIZE
from tests.contract.witness import watched
from tests.contract.world import Client, Heard, World
from tests.fix_proxy import port_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from agentmail_cp.mailserver import Account, DocumentId, MailServer, OutgoingEmail
    from tests.fix_front_door import FrontDoor
    from tests.fix_stalwart import StalwartServer

PATIENCE = 0.2
MAX_RECIPIENTS = 100


@asynccontextmanager
async def stalwart_world(stalwart: StalwartServer, front_door: FrontDoor) -> AsyncGenerator[World]:
    """The run's Stalwart behind the real adapter."""
    backstage = _Backstage(stalwart, front_door)
    async with backstage.client() as server:
        yield World(
            server,
            domain=stalwart.domain,
            smtp_port=stalwart.process.ports.smtp,
            backstage=backstage,
            max_size=DEFAULT_MAIL_SIZE,
            max_recipients=MAX_RECIPIENTS,
        )


class _Backstage:
    def __init__(self, stalwart: StalwartServer, front_door: FrontDoor) -> None:
        self._stalwart = stalwart
        self._front_door = front_door

    async def add_stranger(self, address: str) -> None:
        await self._add_account(address, {})

    async def flag(self, account: Account, document_id: DocumentId, keyword: str) -> None:
        update = {email_id(document_id): {f"keywords/{keyword}": True}}
        arguments = {"accountId": account.account_id, "update": update}
        await self._change("Email/set", arguments)

    def client(self) -> Client:
        return self._client(self._stalwart.url)

    @asynccontextmanager
    async def _client(self, url: str, patience: float = 10.0) -> AsyncGenerator[MailServer]:
        jmap = JmapClient(url, bearer(self._stalwart.key), timeout=patience)
        server = StalwartMailServer(jmap)
        try:
            yield watched(server)
        finally:
            await server.close()

    @asynccontextmanager
    async def down(self) -> AsyncGenerator[MailServer]:
        async with listening(_hang_up) as url:
            pass
        async with self._client(url) as server:
            yield server

    @asynccontextmanager
    async def slow(self) -> AsyncGenerator[MailServer]:
        async with listening(_say_nothing) as url, self._client(url, PATIENCE) as server:
            yield server

    @asynccontextmanager
    async def lost_answer(self) -> AsyncGenerator[MailServer]:
        async with listening(self._cut_after_writes) as url, self._client(url) as server:
            yield server

    @asynccontextmanager
    async def confused(self) -> AsyncGenerator[MailServer]:
        async with listening(_talk_nonsense) as url, self._client(url) as server:
            yield server

    @asynccontextmanager
    async def over_quota(self, account: Account) -> AsyncGenerator[MailServer]:
        await self._set_quota(account, {"maxDiskQuota": 1})
        try:
            async with self.client() as server:
                yield server
        finally:
            await self._set_quota(account, {})

    @asynccontextmanager
    async def few_app_passwords(self, account: Account, most: int) -> AsyncGenerator[MailServer]:
        await self._set_quota(account, {"maxAppPasswords": most})
        async with self.client() as server:
            yield server

    @asynccontextmanager
    async def refusing(self, recipient: str, reply: str) -> AsyncGenerator[MailServer]:
        async def judge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _answer_hooks(reader, writer, recipient, reply)

        async with listening(judge) as url:
            hook = await self._set_hook(url)
            try:
                async with self.client() as server:
                    yield server
            finally:
                await self._change("x:MtaHook/set", {"destroy": [hook]})
                await self._reload()

    @asynccontextmanager
    async def bouncing(self, recipient: str) -> AsyncGenerator[MailServer]:
        """Stalwart looks at `emailReceive` only when it delivers, long after RCPT."""
        no_mail = {
            "@type": "Merge",
            "enabledPermissions": {},
            "disabledPermissions": {"emailReceive": True},
        }
        await self._add_account(recipient, {"permissions": no_mail})
        async with self.client() as server:
            yield server

    @asynccontextmanager
    async def delaying(self, account: Account) -> AsyncGenerator[MailServer]:
        """Stalwart tries again what a full mailbox did not take."""
        await self._set_quota(account, {"maxDiskQuota": 1})
        try:
            async with self.client() as server:
                yield server
        finally:
            await self._set_quota(account, {})
        to_account = {"filter": {"to": account.address}}
        ids = (await self._stalwart.call("x:QueuedMessage/query", to_account))["ids"]
        again = {each: {"nextRetry": "2020-01-01T00:00:00Z"} for each in ids}
        await self._change("x:QueuedMessage/set", {"update": again})

    @asynccontextmanager
    async def complaining(self, email: OutgoingEmail) -> AsyncGenerator[MailServer]:
        async with self.client() as server:
            yield server
        sender = email.sender.email
        raw = feedback_report(
            f"Message-ID: <{email.message_id}>".encode(),
            sender=sender,
            recipient=email.recipients[0],
            now=datetime.now(UTC),
        )
        await asyncio.to_thread(self._deliver, raw, sender)

    def _deliver(self, raw: bytes, to: str) -> None:
        with self._stalwart.mx() as client:
            client.sendmail("", [to], raw)

    @asynccontextmanager
    async def hearing(self) -> AsyncGenerator[Heard]:
        async def ring() -> None:
            await self._stalwart.jmap.call(Call("Bell/ring", {}, "0"))

        heard = Heard(ring)

        async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head, _, body = (await _message(reader)).partition(b"\r\n\r\n")
            _hear(heard, head, body)
            answer = mtahook.accept()
            lines = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
            writer.write(lines.encode() + answer)
            await writer.drain()

        async with listening(called) as url:
            with self._front_door.leading_to(port_of(url)):
                yield heard

    async def _add_account(self, address: str, other: dict[str, Any]) -> None:
        name, _, domain = address.partition("@")
        account = {
            "@type": "User",
            "name": name,
            "domainId": await self._stalwart.id_of("Domain", name=domain),
            "roles": {"@type": "User"},
            "credentials": {},
            **other,
        }
        await self._change("x:Account/set", {"create": {"new": account}})

    async def _set_quota(self, account: Account, quotas: dict[str, int]) -> None:
        update = {account.account_id: {"quotas": quotas}}
        await self._change("x:Account/set", {"update": update})

    async def _set_hook(self, url: str) -> str:
        hook = {
            "url": url,
            "enable": {"else": "!is_empty(authenticated_as)"},
            "stages": {"rcpt": True},
            "httpAuth": {"@type": "Unauthenticated"},
        }
        made = await self._change("x:MtaHook/set", {"create": {"new": hook}})
        await self._reload()
        return made["created"]["new"]["id"]

    async def _reload(self) -> None:
        await self._change("x:Action/set", {"create": {"new": {"@type": "ReloadSettings"}}})

    async def _change(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        answer = await self._stalwart.call(name, arguments)
        for refused in ("notCreated", "notUpdated", "notDestroyed"):
            assert not answer.get(refused), answer
        return answer

    async def _cut_after_writes(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass reads on; let Stalwart carry a write out and hang up instead of answering."""
        port = self._stalwart.process.ports.http
        from_server, to_server = await asyncio.open_connection(HOST, port)
        try:
            while request := await _message(reader):
                to_server.write(request)
                response = await _message(from_server)
                if b'/set"' in request:
                    return
                writer.write(response)
        finally:
            to_server.close()


def _hear(heard: Heard, head: bytes, body: bytes) -> None:
    """A batch of events, or a mail of ours on its way."""
    if hooks.DOORBELL_PATH.encode() in head:
        bell = hooks.decode(body)
        heard.reports += bell.reports
        return
    asked = mtahook.decode(body)
    ids = [value.strip(" <>\r\n") for name, value in asked.headers if name == "Message-ID"]
    heard.enqueued.append(Enqueued(asked.queue_id or 0, asked.sender or "", ids[0]))


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[str]:
    """Serve connections on a port of our own; yields its base URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(connected, HOST, 0)
    try:
        yield f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        await _stop_accepting(server)
        server.close()
        for writer in writers:
            writer.close()
        await server.wait_closed()


async def _stop_accepting(server: asyncio.Server) -> None:
    """Let what was accepted get its transport: asyncio (3.11) forgets the socket of a connection whose
    server was closed in between, and a doorbell may ring at any moment.
    """
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    await asyncio.sleep(0)


async def _hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    return


async def _say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _talk_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await _message(reader):
        writer.write(_response(b"<html>Welcome to your new router</html>"))


async def _answer_hooks(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recipient: str, reply: str
) -> None:
    """Refuse one recipient as an MTA hook does, accept all others."""
    status, enhanced, message = reply.split(" ", 2)
    refusal = {
        "action": "reject",
        "response": {
            "status": int(status),
            "enhanced_status": enhanced,
            "message": message,
            "disconnect": False,
        },
    }
    while request := await _message(reader):
        answer = refusal if recipient.encode() in request else {"action": "accept"}
        writer.write(_response(msgspec.json.encode(answer)))


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP/1.1 request or response with a Content-Length; empty when the peer hung up."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    lines = head.lower().split(b"\r\n")
    sizes = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
    return head + await reader.readexactly(sum(sizes))
