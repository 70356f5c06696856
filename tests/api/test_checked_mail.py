"""Mail from outside at a real Stalwart that can ask DNS: what passes passes, what is forged is labelled, and
no header that came with a mail says otherwise.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import smtplib
from collections.abc import AsyncGenerator, Generator
from typing import Final, cast

import dkim
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from tests.api.mailbox import named, ok, path_of
from tests.fix_app import DOMAIN, Json, Service, a_mail, serving, until
from tests.fix_dns import DnsServer
from tests.fix_stalwart import HOST, Mailbox, StalwartServer, needs_stalwart, private_folder

pytestmark = pytest.mark.stalwart

SELECTOR: Final = "k1"
FORGERIES: Final = [
    f"mail.{DOMAIN}; spf=pass smtp.mailfrom=ceo@bank.test; dmarc=pass header.from=bank.test",
    f"mail.{DOMAIN};\r\n\tdkim=pass header.d=bank.test;\r\n\tdmarc=pass\r\n\t policy.dmarc=reject",
    "localhost; dmarc=pass",
    "control-plane.internal; arc=pass",
]
"""Our server's word as a stranger may put it, at once and folded."""


class Signer:
    """A domain's DKIM key. `record` is what it publishes."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        text = f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"
        self.record = " ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200))

    def sign(self, mail: bytes, domain: str) -> bytes:
        head = [b"from", b"to", b"subject"]
        signature = dkim.sign(
            mail, SELECTOR.encode(), domain.encode(), self._key, include_headers=head
        )
        return bytes(signature) + mail

    def seal(self, mail: bytes, domain: str) -> bytes:
        """Sign as a server that passes a mail on (ARC, RFC 8617)."""
        checked = f"Authentication-Results: {domain}; arc=none\r\n".encode() + mail
        head = [b"from", b"to", b"subject"]
        of_chain = cast(
            "list[bytes]",
            dkim.arc_sign(
                checked,
                SELECTOR.encode(),
                domain.encode(),
                self._key,
                domain.encode(),
                include_headers=head,
            ),
        )
        return b"".join(of_chain) + checked


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture(scope="module")
def names(signer: Signer) -> Generator[DnsServer]:
    """DNS in which `bank.test` says who may write for it, and others more or less."""
    with DnsServer() as server:
        server.publish(
            "bank.test",
            '@ TXT "v=spf1 ip4:192.0.2.1 -all"\n_dmarc TXT "v=DMARC1; p=reject"\n'
            f"{SELECTOR}._domainkey TXT {signer.record}\n",
        )
        server.publish(
            "here.test", '@ TXT "v=spf1 ip4:127.0.0.1 -all"\n_dmarc TXT "v=DMARC1; p=reject"'
        )
        server.publish("strict.test", '@ TXT "v=spf1 -all"')
        server.publish("soft.test", '@ TXT "v=spf1 ~all"')
        server.publish("asks.nothing.test", '@ TXT "v=spf1 ~all"\n_dmarc TXT "v=DMARC1; p=none"')
        server.trouble["away.test"] = server.trouble["_dmarc.away.test"] = "SERVFAIL"
        yield server


@pytest_asyncio.fixture(scope="module")
async def checking(
    tmp_path_factory: pytest.TempPathFactory, names: DnsServer
) -> AsyncGenerator[StalwartServer]:
    """A Stalwart that asks it."""
    needs_stalwart()
    folder = private_folder(tmp_path_factory)
    async with LocalStalwart(folder, domain=DOMAIN, dns=names.endpoint) as process:
        server = StalwartServer(process)
        yield server
        await server.jmap.close()


@pytest_asyncio.fixture
async def service(database_url: str, checking: StalwartServer) -> AsyncGenerator[Service]:
    """The service on that server, which nobody rings for: it looks by itself."""
    server = StalwartMailServer(JmapClient(checking.url, bearer(checking.key)))
    try:
        async with serving(
            database_url,
            server,
            smtp_port=checking.process.ports.smtp,
            stalwart=checking,
            sweep_interval=0.1,
        ) as running:
            yield running
    finally:
        await server.close()


async def deliver(service: Service, inbox: Json, mail: bytes, envelope: str) -> None:
    def hand_in() -> None:
        with smtplib.SMTP(HOST, service.smtp_port, "out.test", timeout=20) as client:
            client.sendmail(envelope, [inbox["email"]], mail)

    await asyncio.to_thread(hand_in)


def raw(inbox: Json, subject: str, sender: str, *above: str) -> bytes:
    """A mail with these header lines above all others."""
    mail = a_mail(inbox["email"], subject, From=sender, Message_ID=f"<{subject}@out.test>")
    return "".join(f"{each}\r\n" for each in above).encode() + mail.as_bytes().replace(
        b"\n", b"\r\n"
    )


CASES: Final = [
    # subject, From, envelope, (spf, dkim, dmarc), is it a FAIL
    ("signed", "ceo@bank.test", "list@elsewhere.test", ("none", "pass", "pass"), False),
    ("forged", "ceo@bank.test", "ceo@bank.test", ("fail", "none", "fail"), True),
    ("altered", "ceo@bank.test", "list@elsewhere.test", ("none", "neutral", "fail"), True),
    ("unaligned", "ceo@bank.test", "x@here.test", ("pass", "none", "fail"), True),
    ("aligned", "ada@here.test", "ada@here.test", ("pass", "none", "pass"), False),
    ("strict", "ada@strict.test", "ada@strict.test", ("fail", "none", "none"), True),
    ("soft", "ada@soft.test", "ada@soft.test", ("softfail", "none", "none"), False),
    ("lax", "a@asks.nothing.test", "x@here.test", ("pass", "none", "fail"), False),
    ("nobody", "ada@nowhere.test", "ada@nowhere.test", ("none", "none", "none"), False),
    ("away", "ada@away.test", "ada@away.test", ("temperror", "none", "temperror"), False),
]


async def test_each_mail_is_judged_by_what_its_domain_publishes(
    service: Service, signer: Signer
) -> None:
    """Agents would act on forgeries, or never see honest mail."""
    inbox = await service.inbox("alice")
    for subject, sender, envelope, _, _ in CASES:
        mail = raw(inbox, subject, sender)
        if subject in {"signed", "altered"}:
            mail = signer.sign(mail, "bank.test")
        if subject == "altered":
            mail = mail.replace(b"Hi there.", b"Pay me.")
        await deliver(service, inbox, mail, envelope)
    found = await named(service, inbox, [case[0] for case in CASES])
    for message, (_, _, _, results, fails) in zip(found, CASES, strict=True):
        told = message["authentication"]
        seen = (told["spf"], told["dkim"], told["dmarc"])
        assert (seen, "unauthenticated" in message["labels"]) == (results, fails), message
    signed = await ok(await service.client.get(path_of(inbox, found[0])))
    assert signed["authentication"]["dkim_domains"] == ["bank.test"]
    assert signed["authentication"]["dmarc_policy"] == "reject"
    listed = {each["subject"] for each in await service.messages(inbox)}
    assert listed == {subject for subject, *_, fails in CASES if not fails}


async def test_arc_tells_of_mail_that_others_passed_on(service: Service, signer: Signer) -> None:
    """A mail that a list passed on fails DMARC; who trusts the list goes by its word, if it is the list's."""
    inbox = await service.inbox("frank")
    mails = {
        "sealed": signer.seal(raw(inbox, "sealed", "ada@soft.test"), "bank.test"),
        "reopened": signer.seal(raw(inbox, "reopened", "ada@soft.test"), "bank.test").replace(
            b"Hi there.", b"Pay me."
        ),
        "plain": raw(inbox, "plain", "ada@soft.test"),
        "claimed": raw(inbox, "claimed", "a@soft.test", f"Authentication-Results: {FORGERIES[-1]}"),
    }
    for mail in mails.values():
        await deliver(service, inbox, mail, "x@here.test")
    found = await named(service, inbox, list(mails))
    told = [each["authentication"]["arc"] for each in found]
    assert told == ["pass", "neutral", "none", "none"]


async def test_our_servers_word_is_only_what_our_server_wrote(service: Service) -> None:
    """Whoever forges a sender forges the verdict on it, in our server's name: above, twice, folded."""
    inbox = await service.inbox("bob")
    received = (
        f"Received: from mx.bank.test (mx.bank.test [192.0.2.1])\r\n\tby mail.{DOMAIN}"
        " (Stalwart SMTP) with ESMTPS id 123ABC;\r\n\tSat, 21 Nov 2026 08:30:00 +0000"
    )
    headers = [f"Authentication-Results: {each}" for each in FORGERIES]
    variants = {
        "one": headers[:1],
        "folded": headers[1:2],
        "below-a-trace": [received, *headers],
        "odd-spelling": [f"AUTHENTICATION-RESULTS : {FORGERIES[0]}"],
    }
    for subject, above in variants.items():
        await deliver(service, inbox, raw(inbox, subject, "ceo@bank.test", *above), "ceo@bank.test")
    for message in await named(service, inbox, list(variants)):
        assert message["authentication"]["dmarc"] == "fail", message
        assert "unauthenticated" in message["labels"]


@contextlib.asynccontextmanager
async def everything_is_spam(checking: StalwartServer) -> AsyncGenerator[None]:
    """Let Stalwart's filter call each mail from outside spam while the context is open."""
    try:
        await _filter(checking, {"enable": True, "scoreSpam": -100.0})
        yield
    finally:
        await _filter(checking, {"enable": False, "scoreSpam": 5.0})


async def _filter(checking: StalwartServer, settings: Json) -> None:
    await checking.call("x:SpamSettings/set", {"update": {"singleton": settings}})
    await checking.call("x:Action/set", {"create": {"r": {"@type": "ReloadSettings"}}})


async def test_what_the_mail_servers_filter_calls_spam_is_hidden_as_spam(
    service: Service, checking: StalwartServer
) -> None:
    """An agent would read it as mail; and a forged mail that is spam as well is announced once."""
    inbox = await service.inbox("erin")
    async with everything_is_spam(checking):
        await deliver(service, inbox, raw(inbox, "pills", "ada@here.test"), "ada@here.test")
        await deliver(service, inbox, raw(inbox, "bank", "ceo@bank.test"), "ceo@bank.test")
        pills, bank = await named(service, inbox, ["pills", "bank"])
    assert pills["labels"] == ["received", "spam", "unread"]
    assert bank["labels"] == ["received", "spam", "unauthenticated", "unread"]
    assert await service.messages(inbox) == []
    page = "/v0/events?event_types=message.received.spam"

    async def told() -> list[str]:
        events = (await ok(await service.client.get(page)))["events"]
        return [each["message"]["subject"] for each in events]

    await until(told, lambda subjects: subjects == ["pills", "bank"])
    others = "/v0/events?event_types=message.received&event_types=message.received.unauthenticated"
    assert (await ok(await service.client.get(others)))["events"] == []


async def test_a_mailbox_here_cannot_vouch_for_its_own_mail(
    service: Service, checking: StalwartServer
) -> None:
    """It hands in a mail with our server's whole trace on it; nobody checked that mail."""
    alice, bob = await service.inbox("carol"), await service.inbox("dave")
    mailbox = Mailbox("", alice["email"], alice["credentials"]["password"])
    received = (
        f"Received: from x (y [192.0.2.1])\r\n\tby mail.{DOMAIN} (Stalwart SMTP) with ESMTP id 1A;"
        "\r\n\tSat, 21 Nov 2026 08:30:00 +0000"
    )
    above = [received, f"Authentication-Results: {FORGERIES[0]}"]

    def hand_in() -> None:
        with checking.submission(mailbox) as client:
            mail = raw(bob, "vouched", alice["email"], *above)
            client.sendmail(alice["email"], [bob["email"]], mail)

    await asyncio.to_thread(hand_in)
    await service.send(alice, to=bob["email"], subject="sent", text="Hi")
    for message in await named(service, bob, ["vouched", "sent"]):
        assert "authentication" not in message
        assert "unauthenticated" not in message["labels"]
