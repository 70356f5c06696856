"""The service as a process beside a real Stalwart, with a relay between Stalwart's webhook and it."""

from __future__ import annotations

import asyncio
import imaplib
import smtplib
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx

from agentmail_cp.db import Database
from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from tests.failure.world import new_organization
from tests.fix_app import DOMAIN, Json, a_mail
from tests.fix_process import HOST, ServiceProcess
from tests.fix_proxy import BellRelay
from tests.fix_stalwart import unverified

SECRET = "the webhook's own secret"


class Ringing:
    """A running Stalwart whose webhook rings at a relay."""

    def __init__(self, process: LocalStalwart, relay: BellRelay) -> None:
        self.process = process
        self.relay = relay

    def settings(self, database_url: str, **changes: object) -> dict[str, object]:
        """Settings of a service beside this server."""
        return {
            "database_url": database_url,
            "stalwart_url": self.process.url,
            "stalwart_key": self.process.key,
            "stalwart_webhook_secret": SECRET,
            "stalwart_timeout": 2,
            "domain": DOMAIN,
            "domain_shared": False,
            "settle_interval": 0.5,
            "requests_per_minute": 0,
            **changes,
        }

    def adapter(self) -> StalwartMailServer:
        """The server behind the port, past the service."""
        return StalwartMailServer(JmapClient(self.process.url, bearer(self.process.key)))

    def mx(self) -> smtplib.SMTP:
        """A foreign server's connection."""
        return smtplib.SMTP(HOST, self.process.ports.smtp, local_hostname="out.test", timeout=20)

    async def deliver(self, address: str, *numbers: int) -> None:
        """Hand mails in over SMTP, one after the other."""
        await asyncio.to_thread(self._deliver, address, numbers)

    def _deliver(self, address: str, numbers: tuple[int, ...]) -> None:
        with self.mx() as smtp:
            for number in numbers:
                smtp.send_message(
                    a_mail(address, f"Subject {number}", Message_ID=f"<{number}@o.test>")
                )

    def imap(self, inbox: Json) -> imaplib.IMAP4_SSL:
        """A mail client, logged in with the inbox's own password."""
        client = imaplib.IMAP4_SSL(
            HOST, self.process.ports.imaps, ssl_context=unverified(), timeout=20
        )
        client.login(inbox["email"], inbox["credentials"]["password"])
        return client


class Running:
    """A service process, its organisation and a client with its key."""

    def __init__(
        self, process: ServiceProcess, database: Database, client: httpx.AsyncClient, key: str
    ) -> None:
        self.process = process
        self.database = database
        self.client = client
        self.key = key
        self.organization_id: UUID | None = None

    async def inbox(self, **wanted: object) -> Json:
        answer = await self.client.post("/v0/inboxes", json=wanted)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def post(self, inbox: Json, *, key: str = "", **fields: object) -> httpx.Response:
        """Ask for a send."""
        return await self.client.post(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/send",
            json={"subject": "Subject", "text": "Text", **fields},
            headers={"Idempotency-Key": key} if key else {},
        )

    async def messages(self, inbox: Json, **query: str) -> list[Json]:
        """All messages of an inbox, over as many pages as it takes."""
        found: list[Json] = []
        token = None
        while True:
            params = {"limit": "100", **query, **({"page_token": token} if token else {})}
            answer = await self.client.get(
                f"/v0/inboxes/{inbox['inbox_id']}/messages", params=params
            )
            assert answer.status_code == 200, answer.text
            page = answer.json()
            found += page["messages"]
            token = page.get("next_page_token")
            if not token:
                return found

    async def threads(self, inbox: Json) -> httpx.Response:
        return await self.client.get(f"/v0/inboxes/{inbox['inbox_id']}/threads")

    async def rows(self, query: Any, **parameters: object) -> list[dict[str, Any]]:
        async with self.database.transaction() as tx:
            return await (await tx.execute(query, parameters)).fetchall()

    async def received(self) -> Counter[str]:
        """How often each message was announced."""
        rows = await self.rows("select message_id from event where type = 'message.received'")
        return Counter(row["message_id"] for row in rows)

    async def close(self) -> None:
        await self.client.aclose()
        await self.database.close()


async def running(process: ServiceProcess, database_url: str) -> Running:
    """A new organisation on a process's database, and a client of the process; closed with the process."""
    database = Database(database_url, size=2)
    process.closing.push_async_callback(database.close)
    await database.open()
    _, key = await new_organization(database)
    client = httpx.AsyncClient(
        base_url=process.url, headers={"Authorization": f"Bearer {key}"}, timeout=20
    )
    process.closing.push_async_callback(client.aclose)
    return Running(process, database, client, key)


def service(
    folder: Path, ringing: Ringing, database_url: str, *arguments: str, **changes: object
) -> ServiceProcess:
    """A service process that Stalwart's bells reach; not started yet."""
    process = ServiceProcess(folder, ringing.settings(database_url, **changes), *arguments)
    ringing.relay.target = process.port
    return process
