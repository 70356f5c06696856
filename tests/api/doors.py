"""One refused mail at every door: the API, a scheduled draft, and SMTP submission on both ports.

Each door says what became of the mail in its own form (`Said`): how, and in which words.
"""

from __future__ import annotations

import asyncio
import re
import smtplib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import msgspec

from tests.api.doors_page import NAMES, Said
from tests.api.mailbox import at
from tests.fix_app import Json, Service, until
from tests.fix_stalwart import HOST, Mailbox, unverified


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """The mail that is tried, and what it says in From if not its inbox."""

    to: tuple[str, ...]
    author: str | None = None

    def written(self, inbox: Json) -> EmailMessage:
        """As a mail client writes it."""
        mail = EmailMessage()
        mail["From"], mail["To"] = self.author or inbox["email"], ", ".join(self.to)
        mail["Subject"] = "Offer"
        mail.set_content("Hello.")
        return mail

    @property
    def fields(self) -> Json:
        """As a caller of the API writes it."""
        headers = {"headers": {"From": self.author}} if self.author else {}
        return {"to": list(self.to), "subject": "Offer", "text": "Hello.", **headers}


Door = Callable[[Service, Json, Mail], Awaitable[Said]]


async def rest(service: Service, inbox: Json, mail: Mail) -> Said:
    answer = await service.client.post(f"{at(inbox)}/messages/send", json=mail.fields)
    body = answer.json()
    assert answer.status_code >= 400, body
    assert answer.status_code != 429 or int(answer.headers["Retry-After"]) >= 1
    return Said(f"{answer.status_code} `{body['code']}`", body["message"], body["code"])


async def draft(service: Service, inbox: Json, mail: Mail) -> Said:
    """A draft whose time has come."""
    due = datetime.now(UTC) - timedelta(seconds=1)
    path = f"{at(inbox)}/drafts"
    answer = await service.client.post(path, json={**mail.fields, "send_at": due.isoformat()})
    made = answer.json()
    if answer.status_code != 201:
        return Said(f"{answer.status_code} `{made['code']}`", made["message"], made["code"])

    async def look() -> Json:
        return (await service.client.get(f"{path}/{made['draft_id']}")).json()

    seen = await until(look, lambda seen: "send_error" in seen, seconds=20)
    await service.client.delete(f"{path}/{made['draft_id']}")
    return Said(f"`{seen['send_status']}`", seen["send_error"])


async def starttls(service: Service, inbox: Json, mail: Mail) -> Said:
    """Port 587."""
    return await asyncio.to_thread(_hand_in, service, inbox, mail, implicit=False)


async def implicit_tls(service: Service, inbox: Json, mail: Mail) -> Said:
    """Port 465."""
    return await asyncio.to_thread(_hand_in, service, inbox, mail, implicit=True)


DOORS: Mapping[str, Door] = dict(zip(NAMES, (rest, draft, starttls, implicit_tls), strict=True))


def _client(service: Service, inbox: Json, *, implicit: bool) -> smtplib.SMTP:
    assert service.stalwart is not None
    mailbox = Mailbox("", inbox["email"], inbox["credentials"]["password"])
    if not implicit:
        return service.stalwart.submission(mailbox)
    port = service.stalwart.process.ports.submissions
    client = smtplib.SMTP_SSL(HOST, port, context=unverified(), timeout=20)
    client.login(mailbox.address, mailbox.password)
    return client


def _hand_in(service: Service, inbox: Json, mail: Mail, *, implicit: bool) -> Said:
    with _client(service, inbox, implicit=implicit) as client:
        assert client.mail(inbox["email"])[0] == 250
        for recipient in mail.to:
            code, reply = client.rcpt(recipient)
            if code != 250:
                return _replied("RCPT", code, reply)
        return _replied("DATA", *client.data(mail.written(inbox).as_bytes()))


def _replied(stage: str, code: int, reply: bytes) -> Said:
    """`550 5.7.1 Words. [code]`, taken apart."""
    if code == 250:
        return Said(f"{stage} {code}", reply.decode())
    found = re.fullmatch(r"(\d\.\d\.\d) (.*) \[(\w+)\]", reply.decode())
    assert found, (stage, code, reply)
    enhanced, words, name = found.groups()
    return Said(f"{stage} {code} {enhanced}", words, name)
