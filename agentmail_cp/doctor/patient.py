"""What is examined: the settings, and connections made from them, for as long as an examination lasts.

A check takes what it needs from here; what several look at is looked at once. Nothing is changed but by the
round trip, whose hidden inbox is kept here until it is removed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

import msgspec

from agentmail_cp.db import Database
from agentmail_cp.doctor import probes
from agentmail_cp.doctor.hidden import HiddenPair
from agentmail_cp.doctor.probes import Door, Sight
from agentmail_cp.domains.records import hosts_of
from agentmail_cp.mailserver import MailServer
from agentmail_cp.settings import Settings
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from agentmail_cp.stalwart.wanted import Change, OwnServer

CONNECTIONS = 4
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what a server listens on, not what we do
LOOPBACK = "127.0.0.1"
HERE = frozenset({LOOPBACK, "::1", "localhost"})


def utc_now() -> datetime:
    return datetime.now(UTC)


class Space(msgspec.Struct, frozen=True):
    """Room on a disk, in bytes."""

    total: int
    free: int


def space_at(path: str) -> Space:
    usage = shutil.disk_usage(path)
    return Space(usage.total, usage.free)


class Kind(msgspec.Struct, frozen=True):
    """What kind of installation it is. `dev`: Stalwart is one of `make dev`. `own`: it serves nobody
    else, and has this name and these listeners. `roots`: certificates to trust beside the system's, PEM.
    """

    dev: bool = False
    own: OwnServer | None = None
    roots: str | None = None


class Patient:
    """An installation under examination; `async with` gives back what it took.

    `read` gives the settings or raises `SettingsError`; `now` is this machine's clock. `tidy`: there is no
    hidden inbox to remove.
    """

    settings: Settings
    db: Database
    jmap: JmapClient
    server: MailServer

    def __init__(
        self,
        read: Callable[[], Settings],
        kind: Kind | None = None,
        *,
        now: Callable[[], datetime] = utc_now,
        space: Callable[[str], Space] = space_at,
    ) -> None:
        self.kind = kind or Kind()
        self.now = now
        self.space = space
        self.drift: Sequence[Change] = ()
        self.hidden: HiddenPair | None = None
        self.tidy = True
        self.sent: asyncio.Task[str] | None = None
        self.closing = AsyncExitStack()
        self._read = read
        self._sights: asyncio.Task[dict[Door, Sight]] | None = None

    async def wake(self) -> None:
        """Read the settings and make what follows from them. Raises `SettingsError`."""
        self.settings = self._read()
        self.db = Database(self.settings.database_url, size=CONNECTIONS)
        self.jmap = JmapClient(
            self.settings.stalwart_url or "http://127.0.0.1",
            bearer(self.settings.stalwart_key or ""),
            connections=CONNECTIONS,
            connect_timeout=self.settings.stalwart_connect_timeout,
            timeout=self.settings.stalwart_timeout,
        )
        self.closing.push_async_callback(self.jmap.close)
        self.server = StalwartMailServer(self.jmap)

    async def open_database(self) -> None:
        """Take connections; for when PostgreSQL is known to be there."""
        await self.db.open()
        self.closing.push_async_callback(self.db.close)

    @property
    def service_url(self) -> str:
        """Where the API answers: as Stalwart reaches it, or else on this machine."""
        if self.settings.stalwart_webhook_url:
            return self.settings.stalwart_webhook_url.rstrip("/")
        host = self.settings.host
        return f"http://{LOOPBACK if host in ANYWHERE else host}:{self.settings.port}"

    @property
    def mail_host(self) -> str:
        """The host that MX records name first."""
        if self.settings.mail_host or not self.settings.smtp_host:
            return hosts_of(self.settings).mail[0]
        return self.settings.smtp_host

    @property
    def doors(self) -> tuple[Door, ...]:
        """The ports of the mail server as the world and mail clients are told of them."""
        settings = self.settings
        public = urlsplit(settings.base_url).hostname or LOOPBACK
        smtp = self._seen_from_here(settings.smtp_host or public)
        imap = self._seen_from_here(settings.imap_host or public)
        found = (
            Door(
                "smtp", self._seen_from_here(self.mail_host), settings.mx_port, "smtp", "starttls"
            ),
            Door("submission", smtp, settings.smtp_port, "smtp", settings.smtp_tls),
            Door("submissions", smtp, settings.smtps_port, "smtp", "implicit"),
            Door("imap", imap, settings.imap_port, "imap", settings.imap_tls),
        )
        return tuple({(each.host, each.port): each for each in reversed(found)}.values())[::-1]

    def _seen_from_here(self, host: str) -> str:
        """Clients on the machine that runs the containers are told `localhost`; from within one of them that
        is another place, and Stalwart is where its URL says.
        """
        stalwart = urlsplit(self.settings.stalwart_url or "").hostname
        if stalwart is None or host not in HERE or stalwart in HERE:
            return host
        return stalwart

    async def sights(self) -> dict[Door, Sight]:
        """What is seen at each door; looked at once."""
        if self._sights is None:
            self._sights = asyncio.create_task(self._look())
        return await asyncio.shield(self._sights)

    async def _look(self) -> dict[Door, Sight]:
        seen = await asyncio.gather(*(probes.look_at(door, self.kind.roots) for door in self.doors))
        return dict(zip(self.doors, seen, strict=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self._sights, self.sent):
            if task is not None:
                task.cancel()
        await self.closing.aclose()
