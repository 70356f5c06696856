"""The whole service in the test's own event loop, with a real PostgreSQL.

- `service`: on a fresh mail sandbox, no HTTP port.
- `anywhere`: the same test once on a sandbox (id `sandbox`) and once on the run's real Stalwart (id
  `stalwart`), whose webhook and hook reach the service of the running test. The server is shared by the
  run, so a username becomes unique (`inbox("alice")` makes `alice-1f3a…`): take addresses from what
  `inbox` returns. `url` is its real HTTP port, which is also its `public_url`.
- `real_service`: the second of the two alone, for tests that need a mail client (`imap`, `stalwart`).
"""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from email.message import EmailMessage
from smtplib import SMTP
from typing import Any, TypeVar
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from litestar.types import ASGIApp

from agentmail_cp import access, dispatch, limits
from agentmail_cp.app import AgentMail
from agentmail_cp.db import Database
from agentmail_cp.dev.hearing import hear
from agentmail_cp.events import Feed
from agentmail_cp.mailserver import MailServer
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.settings import Settings
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from tests import fix_dns
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_stalwart import BELL_SECRET, Mailbox, StalwartServer
from tests.wiring import Application, application

DOMAIN = "agents.test"
OUTSIDER = "ada@elsewhere.test"
Json = dict[str, Any]
T = TypeVar("T")


class Service:
    """A running service: its client, its mail server, its database and its only organisation.

    `suffix` is what makes usernames unique, `url` its HTTP port, `stalwart` the real server behind it;
    a service on the sandbox alone has none of them.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        db: Database,
        server: MailServer,
        organization_id: UUID,
        key: str,
        smtp_port: int,
        *,
        suffix: str = "",
        url: str = "",
        stalwart: StalwartServer | None = None,
        settings: Settings | None = None,
        feed: Feed | None = None,
    ) -> None:
        self.client = client
        self.db = db
        self.server = server
        self.organization_id = organization_id
        self.key = key
        self.smtp_port = smtp_port
        self.suffix = suffix
        self.url = url
        self.stalwart = stalwart
        self.settings = settings or settings_for(db.url)
        self.feed = feed

    async def inbox(self, username: str | None = None, **fields: object) -> Json:
        """A new inbox."""
        body = {"username": username + self.suffix, **fields} if username else dict(fields)
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

    async def fire(self) -> int:
        """Send the scheduled drafts whose time has come; returns how many were tried."""
        return await dispatch.fire_due(
            self.db, self.server, patience=2, defaults=limits.defaults(self.settings)
        )

    async def messages(self, inbox: Json, **query: object) -> list[Json]:
        """Messages of an inbox, newest first."""
        params = {name: str(value) for name, value in query.items()}
        answer = await self.client.get(f"/v0/inboxes/{inbox['inbox_id']}/messages", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["messages"]

    async def deliver(self, mail: EmailMessage | bytes, *recipients: str) -> None:
        """Hand a mail in over SMTP, as the world does: to its own recipients, or to these."""
        await asyncio.to_thread(self._deliver, mail, recipients)

    def _deliver(self, mail: EmailMessage | bytes, recipients: tuple[str, ...]) -> None:
        with SMTP("127.0.0.1", self.smtp_port, local_hostname="out.test", timeout=20) as smtp:
            if isinstance(mail, bytes):
                smtp.sendmail(OUTSIDER, recipients, mail)
            else:
                smtp.send_message(mail, to_addrs=recipients or None)

    def imap(self, inbox: Json) -> imaplib.IMAP4_SSL:
        """A mail client, logged in with the inbox's own password; on a real Stalwart only."""
        assert self.stalwart is not None, "the sandbox has no IMAP"
        password: str = inbox["credentials"]["password"]
        return self.stalwart.imap(Mailbox("", inbox["email"], password))


async def until(
    look: Callable[[], Awaitable[T]],
    holds: Callable[[T], bool],
    *,
    seconds: float = 5.0,
    pause: float = 0.01,
) -> T:
    """Look again until something holds; the last thing seen is in the failure."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        seen = await look()
        if holds(seen):
            return seen
        assert loop.time() < deadline, f"not within {seconds} s; last seen: {seen!r}"
        await asyncio.sleep(pause)


OUTCOMES = frozenset({"delivered", "delayed", "bounced", "complained", "rejected"})


def own_labels(message: Json) -> list[str]:
    """A message's or thread's labels but for those of outcomes, which come a moment after it was sent."""
    return [each for each in message["labels"] if each not in OUTCOMES]


def a_mail(
    to: str, subject: str = "Hello", text: str = "Hi there.", **headers: str
) -> EmailMessage:
    """A mail from outside."""
    mail = EmailMessage()
    mail["From"] = headers.pop("From", f"Ada Lovelace <{OUTSIDER}>")
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
        "requests_per_minute": 0,
        "dns_servers": fix_dns.nobody(),
        **changes,
    }
    return Settings(**fields)


@contextlib.asynccontextmanager
async def started(app: AgentMail | Application) -> AsyncGenerator[httpx.AsyncClient]:
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


async def _live(app: AgentMail | Application, up: asyncio.Event, down: asyncio.Event) -> None:
    async with app.lifespan():
        up.set()
        await down.wait()


@contextlib.asynccontextmanager
async def serving(
    database_url: str,
    server: MailServer,
    *,
    smtp_port: int = 0,
    porch: Porch | None = None,
    stalwart: StalwartServer | None = None,
    **changes: Any,
) -> AsyncGenerator[Service]:
    """The service on a mail server, with one organisation and its key; on a porch, it has a port."""
    if porch is not None:
        changes = {"public_url": porch.url, **changes}
    app = application(settings_for(database_url, **changes), server=server)
    if isinstance(server, MailSandbox):
        hear(server, app.state["doorbell"], app.state["resources"].db)
    with porch.serving(app) if porch else contextlib.nullcontext():
        async with started(app) as client:
            db: Database = app.state["resources"].db
            organization_id, secret = await _organization(db)
            client.headers["Authorization"] = f"Bearer {secret}"
            yield Service(
                client,
                db,
                server,
                organization_id,
                secret,
                smtp_port,
                suffix=f"-{uuid.uuid4().hex[:8]}" if porch else "",
                url=porch.url if porch else "",
                stalwart=stalwart,
                settings=app.state["resources"].settings,
                feed=app.state["feed"],
            )


async def _organization(db: Database) -> tuple[UUID, str]:
    """A new organisation and its key."""
    async with db.transaction() as tx:
        organization = await access.create_organization(tx, "Test")
        made = await access.create_key(
            tx, access.Reach(organization.organization_id), prefix="inai_", name="test"
        )
    return organization.organization_id, made.secret


@contextlib.asynccontextmanager
async def serving_on_stalwart(
    database_url: str,
    stalwart: StalwartServer,
    front_door: FrontDoor,
    porch: Porch,
    **changes: Any,
) -> AsyncGenerator[Service]:
    """The service on the run's Stalwart, which rings there and asks there."""
    server = StalwartMailServer(JmapClient(stalwart.url, bearer(stalwart.key)))
    ports = stalwart.process.ports
    changes = {"stalwart_webhook_secret": BELL_SECRET, **changes}
    try:
        async with serving(
            database_url, server, smtp_port=ports.smtp, porch=porch, stalwart=stalwart, **changes
        ) as running:
            with front_door.leading_to(porch.port):
                yield running
    finally:
        await server.close()


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


@pytest_asyncio.fixture
async def sandbox_service(
    database_url: str, sandbox_server: tuple[MailSandbox, int], porch: Porch
) -> AsyncGenerator[Service]:
    """The service on the sandbox, behind a port."""
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, porch=porch) as running:
        yield running


@pytest_asyncio.fixture
async def real_service(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor, porch: Porch
) -> AsyncGenerator[Service]:
    """The service on the run's Stalwart, behind a port."""
    async with serving_on_stalwart(database_url, stalwart, front_door, porch) as running:
        yield running


@pytest.fixture(
    params=[
        pytest.param("sandbox_service", id="sandbox"),
        pytest.param("real_service", id="stalwart", marks=pytest.mark.stalwart),
    ]
)
def anywhere(request: pytest.FixtureRequest) -> Service:
    """The service in both worlds, one after the other."""
    return request.getfixturevalue(request.param)
