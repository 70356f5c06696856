"""Mail that keeps coming and going: from outside over SMTP, and from inboxes over the API.

Outside senders try once, as a test of what was accepted needs to know what was; senders in the API repeat a
request with its Idempotency-Key until it is answered.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import smtplib
from collections.abc import Awaitable, Callable, Sequence

import httpx

from tests.failure.storm.ledger import OUTSIDE, Ledger, Sent
from tests.failure.storm.world import World
from tests.fix_app import OUTSIDER, a_mail
from tests.fix_process import HOST

NOT_TAKEN = (
    smtplib.SMTPConnectError,
    smtplib.SMTPHeloError,
    smtplib.SMTPSenderRefused,
    smtplib.SMTPRecipientsRefused,
    smtplib.SMTPDataError,
    ConnectionRefusedError,
)
"""What tells a sender that its mail was surely not taken."""

BOUNCING = 0.2
"""The share of sends that go to an address outside as well."""


class Load:
    """The senders. `rate` is mails a second, half of them from outside."""

    def __init__(self, world: World, inboxes: Sequence[str], *, rate: float, seed: int) -> None:
        self.ledger = Ledger()
        self._world = world
        self._inboxes = inboxes
        self._pause = 2 / rate
        self._choose = random.Random(seed)
        self._numbers = itertools.count()

    async def from_outside(self, seconds: float) -> None:
        """Hand mails in over SMTP for so long."""
        await self._steadily(seconds, self._arrive)

    async def from_inboxes(self, seconds: float) -> None:
        """Send mails through the API for so long, and until each was answered."""
        await self._steadily(seconds, self._send)

    async def _steadily(self, seconds: float, one: Callable[[int], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for nth in itertools.count():
                due = began + nth * self._pause
                if due > began + seconds:
                    return
                await asyncio.sleep(max(0.0, due - loop.time()))
                group.create_task(_awaited(one(next(self._numbers))))

    async def _arrive(self, number: int) -> None:
        inbox = self._choose.choice(self._inboxes)
        mail = inbox, f"<in-{number}@out.test>"
        try:
            await asyncio.to_thread(self._hand_in, *mail)
        except NOT_TAKEN:
            return
        except (smtplib.SMTPException, OSError):
            self.ledger.doubtful.add(mail)
        else:
            self.ledger.accepted.add(mail)

    def _hand_in(self, inbox: str, message_id: str) -> None:
        port = self._world.stalwart.ports.smtp
        smtp = smtplib.SMTP(HOST, port, local_hostname="out.test", timeout=20)
        try:
            mail = a_mail(inbox, f"About {message_id[1:-1]}", Message_ID=message_id)
            smtp.sendmail(OUTSIDER, [inbox], mail.as_bytes())
        finally:
            smtp.close()

    async def _send(self, number: int) -> None:
        inbox, other = self._choose.sample(self._inboxes, 2)
        outside = (OUTSIDE,) if self._choose.random() < BOUNCING else ()
        recipients = (other, *outside)
        body = {"to": list(recipients), "subject": f"Number {number}", "text": "Text"}
        while True:
            answer = await self._ask(inbox, body, f"storm-{number}")
            if answer is not None and answer.is_success:
                break
            assert answer is None or answer.status_code in {409, 500, 503}, answer.text
            assert answer is None or answer.status_code != 500, answer.text
            await asyncio.sleep(0.3)
        at = asyncio.get_running_loop().time()
        self.ledger.sent.append(Sent(inbox, answer.json()["message_id"], recipients, at))

    async def _ask(self, inbox: str, body: object, key: str) -> httpx.Response | None:
        self.ledger.attempts += 1
        try:
            return await self._world.client.post(
                f"/v0/inboxes/{inbox}/messages/send", json=body, headers={"Idempotency-Key": key}
            )
        except httpx.TransportError:
            return None


async def _awaited(one: Awaitable[None]) -> None:
    await one
