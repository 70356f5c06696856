"""The whole service in the test's own event loop, on the mail sandbox and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from email.message import EmailMessage
from smtplib import SMTP
from typing import Any, TypeVar
from uuid import UUID

import httpx
import pytest_asyncio
from litestar.types import ASGIApp

from agentmail_cp import access
from agentmail_cp.app import AgentMail, create_app
from agentmail_cp.db import Database
from agentmail_cp.intake import Doorbell
from agentmail_cp.mailserver import AccountId, MailServer
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.settings import Settings

DOMAIN = "agents.test"
Json = dict[str, Any]
T = TypeVar("T")


class Service:
    """A running service: its client, its mail server, its database and its only organisation."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        db: Database,
        server: MailServer,
        organization_id: UUID,
        key: str,
        smtp_port: int,
    ) -> None:
        self.client = client
        self.db = db
        self.server = server
        self.organization_id = organization_id
        self.key = key
        self.smtp_port = smtp_port

    async def inbox(self, username: str | None = None, **fields: object) -> Json:
        """A new inbox."""
        body = {"username": username, **fields} if username else dict(fields)
        answer = await self.client.post("/v0/inboxes", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def send(self, inbox: Json, **fields: object) -> Json:
        """Send a mail from an inbox."""
        answer = await self.client.post(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/send", json=fields
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def messages(self, inbox: Json, **query: object) -> list[Json]:
        """Messages of an inbox, newest first."""
        params = {name: str(value) for name, value in query.items()}
        answer = await self.client.get(f"/v0/inboxes/{inbox['inbox_id']}/messages", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["messages"]

    async def deliver(self, mail: EmailMessage) -> None:
        """Hand a mail in over SMTP, as the world does."""
        await asyncio.to_thread(self._deliver, mail)

    def _deliver(self, mail: EmailMessage) -> None:
        with SMTP("127.0.0.1", self.smtp_port) as smtp:
            smtp.send_message(mail)


async def until(
    look: Callable[[], Awaitable[T]], holds: Callable[[T], bool], *, seconds: float = 5.0
) -> T:
    """Look again until something holds; the last thing seen is in the failure."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        seen = await look()
        if holds(seen):
            return seen
        assert loop.time() < deadline, f"not within {seconds} s; last seen: {seen!r}"
        await asyncio.sleep(0.01)


def a_mail(
    to: str, subject: str = "Hello", text: str = "Hi there.", **headers: str
) -> EmailMessage:
    """A mail from outside."""
    mail = EmailMessage()
    mail["From"] = headers.pop("From", "Ada Lovelace <ada@elsewhere.test>")
    mail["To"] = to
    mail["Subject"] = subject
    for name, value in headers.items():
        mail[name.replace("_", "-")] = value
    mail.set_content(text)
    return mail


def settings_for(database_url: str, **changes: Any) -> Settings:
    """Settings of a service under test."""
    fields: dict[str, Any] = {
        "database_url": database_url,
        "domain": DOMAIN,
        "domain_shared": False,
        "sweep_interval": 1.0,
        "settle_interval": 0.2,
        "stalwart_timeout": 1.0,
        **changes,
    }
    return Settings(**fields)


@contextlib.asynccontextmanager
async def started(app: AgentMail) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an application that runs in this event loop, without a key."""
    asgi: ASGIApp = app
    transport = httpx.ASGITransport(asgi, raise_app_exceptions=False)
    up, down = asyncio.Event(), asyncio.Event()
    # A task of its own: Litestar's lifespan must be left by the task that entered it, and pytest
    # finishes a fixture in another one.
    life = asyncio.create_task(_live(app, up, down))
    await asyncio.wait({life, asyncio.create_task(up.wait())}, return_when="FIRST_COMPLETED")
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as client:
            yield client
    finally:
        down.set()
        await life


async def _live(app: AgentMail, up: asyncio.Event, down: asyncio.Event) -> None:
    async with app.lifespan():
        up.set()
        await down.wait()


def ringing(app: AgentMail) -> Callable[[AccountId], None]:
    """What a sandbox calls to ring the application's doorbell."""
    doorbell: Doorbell = app.state["doorbell"]

    def ring(account: AccountId) -> None:
        doorbell.announce([account], only_ring=True)

    return ring


@contextlib.asynccontextmanager
async def serving(
    database_url: str, server: MailServer, *, smtp_port: int = 0, **changes: Any
) -> AsyncGenerator[Service]:
    """The service on a mail server, with one organisation and its key."""
    settings = settings_for(database_url, **changes)
    app = create_app(settings, server=server)
    if isinstance(server, MailSandbox):
        server.on_bell = ringing(app)
    async with started(app) as client:
        db: Database = app.state["resources"].db
        async with db.transaction() as tx:
            organization = await access.create_organization(tx, "Test")
            made = await access.create_key(
                tx, organization.organization_id, prefix="inai_", name="test"
            )
        client.headers["Authorization"] = f"Bearer {made.secret}"
        yield Service(client, db, server, organization.organization_id, made.secret, smtp_port)


@pytest_asyncio.fixture
async def sandbox_server() -> AsyncGenerator[tuple[MailSandbox, int]]:
    """A fresh sandbox and the port its SMTP listener is on."""
    sandbox = MailSandbox(DOMAIN)
    async with sandbox.listening() as door:
        yield sandbox, door.port


@pytest_asyncio.fixture
async def service(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> AsyncGenerator[Service]:
    """The service on the sandbox."""
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port) as running:
        yield running
