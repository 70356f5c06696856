"""The service without its worker, on the sandbox: nothing happens but what a test makes happen.

A crash is played by cancelling a request at a step of it: none of the product's clean-up code runs on
a cancellation, and what it had written is what a dead process leaves behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable
from typing import Any
from uuid import UUID

import httpx

from agentmail_cp import access, events, inboxes, sending
from agentmail_cp.db import Database
from agentmail_cp.events import Event
from agentmail_cp.intake import Intake
from agentmail_cp.mailserver import AccountId, DocumentId, Folder
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Hook
from tests.fix_app import DOMAIN, Json, Service, a_mail, settings_for, started
from tests.wiring import application

OUTSIDE = "ada@elsewhere.test"


class NotReached(Exception):
    """A request was to die at a step it never came to."""


class World(Service):
    """A service whose worker is the test itself."""

    @property
    def sandbox(self) -> MailSandbox:
        assert isinstance(self.server, MailSandbox)
        return self.server

    @property
    def intake(self) -> Intake:
        return Intake(self.db, self.server)

    async def read(self) -> None:
        """Let intake read until nothing is due."""
        intake = self.intake
        while await intake.read_batch():
            pass

    async def settle(self) -> None:
        """Let the leases of everything unfinished end, then settle it."""
        await self.let_leases_end()
        await sending.settle(self.db, self.server)
        await inboxes.settle(self.db, self.server)

    async def let_leases_end(self) -> None:
        async with self.db.transaction() as tx:
            await tx.execute(
                "update send set lease_until = now() - interval '1 s'"
                " where state in ('submitting', 'unknown')"
            )
            await tx.execute(
                "update inbox set lease_until = now() - interval '1 s'"
                " where state in ('creating', 'deleting')"
            )
            await tx.execute(
                "update inbox_sync set claimed_until = now() - interval '1 s'"
                " where claimed_until is not null"
            )

    async def post(
        self, inbox: Json, *, key: str | None = None, **fields: object
    ) -> httpx.Response:
        """Ask for a send."""
        body = {"to": OUTSIDE, "subject": "Subject", "text": "Text", **fields}
        return await self.client.post(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/send",
            json=body,
            headers={} if key is None else {"Idempotency-Key": key},
        )

    async def crash(self, hooks: dict[str, Hook], method: str, request: Awaitable[Any]) -> None:
        """Let the process die where this call of the port begins (`before`) or ends (`after`). Raises
        `NotReached` when the request ends without it.
        """
        there = asyncio.Event()

        async def hang() -> None:
            there.set()
            await asyncio.Event().wait()

        hooks[method] = hang
        task = asyncio.ensure_future(request)
        reached = asyncio.create_task(there.wait())
        try:
            await asyncio.wait({task, reached}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hooks.pop(method)
            task.cancel()
            reached.cancel()
            await asyncio.gather(task, reached, return_exceptions=True)
        if not there.is_set():
            raise NotReached(method)

    async def rows(self, query: Any, **parameters: object) -> list[dict[str, Any]]:
        async with self.db.transaction() as tx:
            return await (await tx.execute(query, parameters)).fetchall()

    async def deliver_to(self, address: str, *, raw: bytes | None = None, number: int = 0) -> None:
        """A mail from outside, put straight into the sandbox."""
        mail = (
            raw
            or a_mail(address, f"Subject {number}", Message_ID=f"<{number}@out.test>").as_bytes()
        )
        self.sandbox.receive(
            mail, mail_from=OUTSIDE, recipients=[address], helo="out.test", peer="127.0.0.1"
        )

    async def states(self) -> list[str]:
        """The states of all sends, oldest first."""
        found = await self.rows("select state from send order by created_at, send_id")
        return [row["state"] for row in found]

    async def events_of(self, inbox: Json) -> list[Event]:
        async with self.db.transaction() as tx:
            return await events.list_of_inbox(
                tx, self.organization_id, inboxes.inbox_uuid(inbox["email"])
            )

    async def threads(self, inbox: Json) -> list[Json]:
        answer = await self.client.get(f"/v0/inboxes/{inbox['inbox_id']}/threads")
        assert answer.status_code == 200, answer.text
        return answer.json()["threads"]

    async def account(self, inbox: Json) -> AccountId:
        (row,) = await self.rows(
            "select account_id from inbox where inbox_id = %(inbox_id)s",
            inbox_id=inboxes.inbox_uuid(inbox["email"]),
        )
        return AccountId(row["account_id"])

    async def stored(self, inbox: Json, folder: Folder) -> list[DocumentId]:
        """What the mail server holds in a folder, asked past every fault."""
        mailbox = self.sandbox.mailbox(await self.account(inbox))
        mails = mailbox.fetch(mailbox.listing().document_ids)
        return [mail.document_id for mail in mails if folder in mail.folders]


@contextlib.asynccontextmanager
async def quiet(database_url: str, sandbox: MailSandbox, **changes: Any) -> AsyncGenerator[World]:
    """A world with one organisation and its key. The doorbell is not connected."""
    settings = settings_for(database_url, **changes)
    app = application(settings, server=sandbox, worker=False)
    async with started(app) as client:
        db: Database = app.state["resources"].db
        organization_id, key = await new_organization(db)
        client.headers["Authorization"] = f"Bearer {key}"
        yield World(client, db, sandbox, organization_id, key, 0, settings=settings)


async def new_organization(db: Database) -> tuple[UUID, str]:
    """An organisation and the secret of its API key."""
    async with db.transaction() as tx:
        organization = await access.create_organization(tx, "Test")
        made = await access.create_key(
            tx, access.Reach(organization.organization_id), prefix="inai_", name="test"
        )
    return organization.organization_id, made.secret


def new_sandbox() -> MailSandbox:
    return MailSandbox(DOMAIN)
