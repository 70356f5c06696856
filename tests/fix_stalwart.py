"""A real Stalwart for the tests: one server a run, fresh accounts for each test.

Without a `stalwart` binary on PATH every test that needs it is skipped, and says so.
"""

from __future__ import annotations

import imaplib
import shutil
import smtplib
import ssl
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agentmail_cp.dev.stalwart import HOST, LocalStalwart
from agentmail_cp.stalwart import mtahook, setup
from agentmail_cp.stalwart.calls import Call, reference
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from tests.fix_front_door import FrontDoor

DOMAIN = "agents.test"
BELL_SECRET = "between the run's Stalwart and us"
NO_BINARY = "NOT CHECKED AGAINST A REAL SERVER: there is no `stalwart` on PATH"


class Mailbox(msgspec.Struct, frozen=True):
    """A fresh account with the role mailboxes have, its address and its own password."""

    account_id: str
    address: str
    password: str


class StalwartServer:
    """The running server, with what tests do to it beside the product."""

    def __init__(self, process: LocalStalwart) -> None:
        self.process = process
        self.domain = DOMAIN
        self.jmap = JmapClient(process.url, bearer(process.key))

    @property
    def url(self) -> str:
        return self.process.url

    @property
    def key(self) -> str:
        return self.process.key

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """One JMAP call as our service account."""
        answer = (await self.jmap.call(Call(name, arguments, "0")))["0"]
        return answer.into(dict[str, Any])

    async def id_of(self, kind: str, **match: str) -> str:
        """The id of the one management object with these properties."""
        answers = await self.jmap.call(
            Call(f"x:{kind}/query", {}, "q"),
            Call(f"x:{kind}/get", {"#ids": reference("q", f"x:{kind}/query", "/ids")}, "g"),
        )
        found = answers["g"].into(dict[str, Any])["list"]
        return next(one["id"] for one in found if match.items() <= one.items())

    async def new_mailbox(self, name: str | None = None) -> Mailbox:
        """An account made as the product makes them."""
        name = name or f"agent-{uuid.uuid4().hex[:12]}"
        password = uuid.uuid4().hex
        role = await self.id_of("Role", description=setup.MAILBOX_ROLE)
        account = {
            "@type": "User",
            "name": name,
            "domainId": await self.id_of("Domain", name=DOMAIN),
            "roles": {"@type": "Custom", "roleIds": {role: True}},
            "credentials": {"0": {"@type": "Password", "secret": password}},
        }
        made = await self.call("x:Account/set", {"create": {"a": account}})
        return Mailbox(made["created"]["a"]["id"], f"{name}@{DOMAIN}", password)

    def mx(self) -> smtplib.SMTP:
        """A foreign server's connection."""
        client = smtplib.SMTP(HOST, self.process.ports.smtp, local_hostname="out.test", timeout=20)
        client.ehlo()
        return client

    def submission(self, mailbox: Mailbox | None = None) -> smtplib.SMTP:
        """A mail client's connection after STARTTLS, logged in for a mailbox."""
        client = smtplib.SMTP(
            HOST, self.process.ports.submission, local_hostname="client.test", timeout=20
        )
        client.starttls(context=unverified())
        client.ehlo()
        if mailbox is not None:
            _log_in(client, mailbox)
        return client

    def imap(self, mailbox: Mailbox | None = None) -> imaplib.IMAP4_SSL:
        """A mail client's IMAP connection, logged in for a mailbox."""
        client = imaplib.IMAP4_SSL(
            HOST, self.process.ports.imaps, ssl_context=unverified(), timeout=20
        )
        if mailbox is not None:
            _log_in(client, mailbox)
        return client


def _log_in(client: smtplib.SMTP | imaplib.IMAP4, mailbox: Mailbox) -> None:
    try:
        client.login(mailbox.address, mailbox.password)
    except (smtplib.SMTPException, imaplib.IMAP4.error):
        client.close() if isinstance(client, smtplib.SMTP) else client.shutdown()
        raise


def unverified() -> ssl.SSLContext:
    """For the self-signed certificate of a server on loopback."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def needs_stalwart() -> None:
    """Skip the test, loudly, where there is no binary."""
    if shutil.which("stalwart") is None:
        pytest.skip(NO_BINARY)


@pytest_asyncio.fixture(scope="session")
async def stalwart(
    tmp_path_factory: pytest.TempPathFactory, front_door: FrontDoor
) -> AsyncGenerator[StalwartServer]:
    """One Stalwart for the whole run, ringing and asking at the front door; tests must leave its settings
    as they found them.
    """
    needs_stalwart()
    folder = private_folder(tmp_path_factory)
    bell = setup.Doorbell(front_door.url + DOORBELL_PATH, BELL_SECRET, throttle=20)
    hook = mtahook.hook_at(front_door.url, BELL_SECRET)
    async with LocalStalwart(folder, domain=DOMAIN, doorbell=bell, hook=hook) as process:
        server = StalwartServer(process)
        yield server
        await server.jmap.close()


@pytest_asyncio.fixture
async def own_stalwart(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[LocalStalwart]:
    """A Stalwart for one test that kills it, freezes it or spoils its settings."""
    needs_stalwart()
    async with LocalStalwart(private_folder(tmp_path_factory), domain=DOMAIN) as process:
        yield process


@pytest_asyncio.fixture
async def mailbox(stalwart: StalwartServer) -> Mailbox:
    """A fresh mailbox."""
    return await stalwart.new_mailbox()


def private_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder only its owner can enter, as `.agentmail` may be."""
    folder = factory.mktemp("stalwart")
    folder.chmod(0o700)
    return folder
