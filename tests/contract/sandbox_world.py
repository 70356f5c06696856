"""The sandbox as a world: breaking it is setting its faults."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec

from agentmail_cp.mailserver import DocumentId, MailServer, Refusal, Relabel
from agentmail_cp.sandbox import Faults, MailSandbox
from tests.contract import witness
from tests.contract.world import Client, Heard, World

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from agentmail_cp.mailserver import Account, Enqueued, OutgoingEmail, Report

PATIENCE = 0.1
MAX_SIZE = 1_000_000
MAX_RECIPIENTS = 100


@asynccontextmanager
async def sandbox_world(domain: str) -> AsyncGenerator[World]:
    """A fresh sandbox with its SMTP door open."""
    sandbox = MailSandbox(max_size=MAX_SIZE, max_recipients=MAX_RECIPIENTS, patience=PATIENCE)
    await sandbox.ensure_domain(domain)
    async with sandbox.listening() as door:
        yield World(
            witness.watched(sandbox),
            domain=domain,
            smtp_port=door.port,
            backstage=_Backstage(sandbox),
            max_size=MAX_SIZE,
            max_recipients=MAX_RECIPIENTS,
        )


class _Backstage:
    def __init__(self, sandbox: MailSandbox) -> None:
        self._sandbox = sandbox

    async def add_stranger(self, address: str) -> None:
        self._sandbox.add_stranger(address)

    async def flag(self, account: Account, document_id: DocumentId, keyword: str) -> None:
        change = Relabel(document_id, add=frozenset({keyword}))
        await self._sandbox.relabel(account.account_id, [change])

    @asynccontextmanager
    async def _with(self, faults: Faults) -> AsyncGenerator[MailServer]:
        self._sandbox.faults = faults
        witness.seen.update(f"fault:{name}" for name in _set_in(faults))
        try:
            yield witness.watched(self._sandbox)
        finally:
            self._sandbox.faults = Faults()

    def client(self) -> Client:
        return self._with(Faults())

    def down(self) -> Client:
        return self._with(Faults(down=True))

    def slow(self) -> Client:
        return self._with(Faults(slow=PATIENCE * 2))

    def lost_answer(self) -> Client:
        return self._with(Faults(lost_answer=True))

    def confused(self) -> Client:
        return self._with(Faults(confused=True))

    def over_quota(self, account: Account) -> Client:
        return self._with(Faults(reject=Refusal.OVER_QUOTA))

    @asynccontextmanager
    async def few_app_passwords(self, account: Account, most: int) -> AsyncGenerator[MailServer]:
        before, self._sandbox.most_app_passwords = self._sandbox.most_app_passwords, most
        try:
            async with self.client() as server:
                yield server
        finally:
            self._sandbox.most_app_passwords = before

    def refusing(self, recipient: str, reply: str) -> Client:
        return self._with(Faults(refuse={recipient: reply}))

    def bouncing(self, recipient: str) -> Client:
        return self._with(Faults(bounce=frozenset({recipient})))

    @asynccontextmanager
    async def delaying(self, account: Account) -> AsyncGenerator[MailServer]:
        async with self._with(Faults(delay=frozenset({account.address}))) as server:
            yield server
        self._sandbox.retry()

    def complaining(self, email: OutgoingEmail) -> Client:
        return self._with(Faults(complain=frozenset(email.recipients[:1])))

    @asynccontextmanager
    async def hearing(self) -> AsyncGenerator[Heard]:
        heard = Heard(self._sandbox.ring)

        async def learn(mail: Enqueued) -> None:
            heard.enqueued.append(mail)

        async def note(reports: Sequence[Report]) -> None:
            heard.reports += reports

        self._sandbox.on_queued, self._sandbox.on_report = learn, note
        try:
            yield heard
        finally:
            self._sandbox.on_queued = self._sandbox.on_report = None


def _set_in(faults: Faults) -> set[str]:
    healthy = msgspec.structs.asdict(Faults())
    return {
        name for name, value in msgspec.structs.asdict(faults).items() if value != healthy[name]
    }
