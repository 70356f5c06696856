"""What a contract case sees: a mail server behind the port, its SMTP door, and ways to break it.

One `World` per kind of server. A case uses fresh accounts, so cases share a server without meeting.
What a case is about it declares with `covers` (`witness.py`).
"""

from __future__ import annotations

import asyncio
import smtplib
import time
import uuid
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import pytest

from agentmail_cp.mailserver import (
    Account,
    Address,
    Changes,
    Cursor,
    Enqueued,
    Mail,
    MailServer,
    MailServerError,
    MailServerRejected,
    NewAccount,
    Outcome,
    OutgoingEmail,
    Refusal,
    Report,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from agentmail_cp.mailserver import DocumentId, MailContent, MailState

PEER = "peer@remote.test"
ARRIVAL = 15.0
"""Seconds a mail may take from SMTP to its mailbox before a case fails; a few ms are usual."""

Client = AbstractAsyncContextManager[MailServer]


class Backstage(Protocol):
    """What cannot be done through the port: mostly breaking the server while a context is open.

    Each context yields the server as a client sees it then.
    """

    async def add_stranger(self, address: str) -> None:
        """Make an account that is not of our making."""
        ...

    async def flag(self, account: Account, document_id: DocumentId, keyword: str) -> None:
        """Set a keyword as a mail client does: spelled as it likes."""
        ...

    def client(self) -> Client:
        """One more client of the same server."""
        ...

    def down(self) -> Client:
        """Nothing listens."""
        ...

    def slow(self) -> Client:
        """No answer comes within the client's patience."""
        ...

    def lost_answer(self) -> Client:
        """Requests are carried out, and the connection ends before the answer."""
        ...

    def confused(self) -> Client:
        """Answers make no sense."""
        ...

    def over_quota(self, account: Account) -> Client:
        """The account has no room left."""
        ...

    def few_app_passwords(self, account: Account, most: int) -> Client:
        """The account may have no more app passwords than this."""
        ...

    def refusing(self, recipient: str, reply: str) -> Client:
        """Submissions to this recipient are refused with this SMTP reply."""
        ...

    def bouncing(self, recipient: str) -> Client:
        """Mail to this recipient is accepted and fails for good later."""
        ...

    def delaying(self, account: Account) -> Client:
        """Mail to this account has to wait, and is tried again when the context ends."""
        ...

    def complaining(self, email: OutgoingEmail) -> Client:
        """The first recipient of this mail complains about it to its sender."""
        ...

    def hearing(self) -> AbstractAsyncContextManager[Heard]:
        """Hear what the server tells of mail on its way."""
        ...


class Heard:
    """What the server has told. `ring` makes it tell what it holds back."""

    def __init__(self, ring: Callable[[], Awaitable[None]]) -> None:
        self._ring = ring
        self.enqueued: list[Enqueued] = []
        self.reports: list[Report] = []

    def queue_id(self, email: OutgoingEmail) -> int:
        """The queue id of a mail: told before `submit` answers."""
        (mail,) = (each for each in self.enqueued if each.message_id == email.message_id)
        return mail.queue_id

    async def report(self, email: OutgoingEmail, recipient: str, outcome: Outcome) -> Report:
        """The report with this outcome, waited for."""
        queue_id = self.queue_id(email)
        deadline = time.monotonic() + ARRIVAL
        while True:
            for report in self.reports:
                told = (report.queue_id, report.recipient, report.outcome)
                if told == (queue_id, recipient, outcome):
                    return report
            assert time.monotonic() < deadline, f"not told; heard: {self.reports}"
            await asyncio.sleep(0.02)
            await self._ring()


class World:
    """A mail server with its MX port. `max_size` is how large a mail may be, in bytes."""

    def __init__(
        self,
        server: MailServer,
        *,
        domain: str,
        smtp_port: int,
        backstage: Backstage,
        max_size: int,
        max_recipients: int,
    ) -> None:
        self.server = server
        self.domain = domain
        self.backstage = backstage
        self.max_size = max_size
        self.max_recipients = max_recipients
        self._smtp_port = smtp_port

    def address(self, name: str = "agent") -> str:
        return f"{name}-{uuid.uuid4().hex[:12]}@{self.domain}"

    async def account(self, display_name: str | None = None) -> Account:
        return await self.server.create_account(NewAccount(self.address(), display_name))

    async def deliver(self, raw: bytes, to: str, *, mail_from: str = PEER) -> None:
        """Hand a mail to the MX port. Raises smtplib's errors when it is refused."""
        await self.deliver_all([raw], [to], mail_from=mail_from)

    async def deliver_all(
        self, mails: Sequence[bytes], to: Sequence[str], *, mail_from: str = PEER
    ) -> None:
        """Hand mails to the MX port over one connection, each to all recipients."""
        await asyncio.to_thread(self._deliver, mails, to, mail_from)

    def _deliver(self, mails: Sequence[bytes], to: Sequence[str], mail_from: str) -> None:
        with smtplib.SMTP("127.0.0.1", self._smtp_port, "client.test", timeout=30) as client:
            for raw in mails:
                client.sendmail(mail_from, to, raw)

    async def page(self, account: Account, since: MailState | None, limit: int = 200) -> Changes:
        """One answer of `changes` about one account; its error is raised."""
        answer = await self.server.changes([Cursor(account.account_id, since)], limit=limit)
        result = answer[account.account_id]
        if isinstance(result, MailServerError):
            raise result
        return result

    async def changed(
        self, account: Account, since: MailState | None = None, limit: int = 200
    ) -> Changes:
        """Every change since a state (by default the account's creation), all pages as one."""
        present: dict[DocumentId, Mail] = {}
        destroyed: set[DocumentId] = set()
        page = await self.page(account, since or account.state, limit)
        while True:
            present.update((mail.document_id, mail) for mail in page.present)
            destroyed.update(page.destroyed)
            if not page.more:
                break
            page = await self.page(account, page.state, limit)
        return Changes(
            account_id=account.account_id,
            state=page.state,
            present=tuple(present[each] for each in sorted(present.keys() - destroyed)),
            destroyed=tuple(sorted(destroyed)),
        )

    async def arrived(self, account: Account, count: int = 1) -> tuple[Mail, ...]:
        """The mails of an account, as soon as there are `count`. Fails after `ARRIVAL` seconds."""
        deadline = time.monotonic() + ARRIVAL
        while True:
            found = (await self.changed(account)).present
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"only {len(found)} of {count} mails arrived"
            await asyncio.sleep(0.02)

    async def received(self, account: Account, raw: bytes) -> Mail:
        """Deliver one mail to an empty account and return it as it arrived there."""
        await self.deliver(raw, account.address)
        (mail,) = await self.arrived(account)
        return mail

    async def content(self, account: Account, document_id: DocumentId) -> MailContent:
        return (await self.server.read(account.account_id, [document_id]))[document_id]


def an_email(account: Account, /, *recipients: str, **other: Any) -> OutgoingEmail:
    """A small mail from an account; `other` replaces fields."""
    email = OutgoingEmail(
        message_id=f"{uuid.uuid4().hex}@{account.address.rpartition('@')[2]}",
        date=datetime.now(UTC).replace(microsecond=0),
        sender=Address(account.address),
        to=tuple(Address(each) for each in recipients),
        subject="Hello",
        text="Hi there",
        recipients=recipients,
    )
    return msgspec.structs.replace(email, **other)


def a_raw_mail(*lines: str, body: str = "Hi there", subject: str = "Hello") -> bytes:
    """A raw mail with these header lines besides From, To, Date and Subject."""
    headers = [
        "From: Peer <peer@remote.test>",
        "To: agent@contract.test",
        "Date: Sat, 21 Nov 2026 08:30:00 +0200",
        f"Subject: {subject}",
        *lines,
    ]
    return "\r\n".join([*headers, "", body]).encode()


@contextmanager
def refused(code: Refusal) -> Generator[None]:
    """The block must be refused with this code and a sentence that says why."""
    with pytest.raises(MailServerRejected) as caught:
        yield
    assert caught.value.code == code
    assert caught.value.text
