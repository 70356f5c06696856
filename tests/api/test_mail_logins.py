"""What mail passwords open on a real Stalwart, for whom and until when, by IMAP and SMTP as clients speak it.

A refused app password is answered by Stalwart 0.16 with an untagged NO, so that `imaplib` waits on; `refusal`
reads the line itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any, TypeVar

import imapclient
import pytest
from imapclient import IMAPClient

from agentmail_cp.settings import DEFAULT_IMAP_CONNECTIONS
from tests import logins
from tests.api.mailbox import account_of
from tests.fix_app import Json, Service, a_mail, until
from tests.fix_stalwart import HOST, Mailbox, StalwartServer, unverified

pytestmark = pytest.mark.stalwart

T = TypeVar("T")
REVOKED_WITHIN = 2.0
PUSHED_WITHIN = 1.0


def ports(service: Service) -> StalwartServer:
    assert service.stalwart is not None
    return service.stalwart


@contextlib.contextmanager
def reading(service: Service, address: str, password: str) -> Generator[Any]:
    """An `IMAPClient`, logged in."""
    port = ports(service).process.ports.imaps
    client: Any = IMAPClient(HOST, port, ssl_context=unverified(), timeout=20)
    try:
        client.login(address, password)
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.shutdown()


def own(inbox: Json) -> str:
    return inbox["credentials"]["password"]


def refusal(service: Service, address: str, password: str) -> str:
    """What IMAP answers to a login; empty for a connection that is closed."""
    port = ports(service).process.ports.imaps
    with (
        socket.create_connection((HOST, port), timeout=20) as plain,
        unverified().wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        lines = connection.makefile("rb")
        lines.readline()
        connection.sendall(f'a1 LOGIN "{address}" "{password}"\r\n'.encode())
        return lines.readline().decode().strip()


def submitting(service: Service, address: str, password: str) -> tuple[int, int]:
    """What both submission ports answer to a login: 587 after STARTTLS, and 465."""
    found = ports(service).process.ports
    with smtplib.SMTP(HOST, found.submission, "client.test", timeout=20) as client:
        client.starttls(context=unverified())
        first = _login(client, address, password)
    with smtplib.SMTP_SSL(
        HOST, found.submissions, "client.test", timeout=20, context=unverified()
    ) as client:
        return first, _login(client, address, password)


def _login(client: smtplib.SMTP, address: str, password: str) -> int:
    """The reply to AUTH; 0 for a connection that is closed instead."""
    try:
        return client.login(address, password)[0]
    except smtplib.SMTPAuthenticationError as error:
        return error.smtp_code
    except smtplib.SMTPServerDisconnected:
        return 0


async def away(call: Callable[..., T], *arguments: object) -> T:
    """A mail client's work, off the service's event loop."""
    return await asyncio.to_thread(call, *arguments)


async def opens(service: Service, inbox: Json, password: str) -> bool:
    """Whether a password opens an inbox, by IMAP and by SMTP alike."""
    answer = await away(refusal, service, inbox["email"], password)
    sent = await away(submitting, service, inbox["email"], password)
    assert sent[0] == sent[1]
    assert answer.startswith("a1 OK") is (sent[0] == 235)
    return sent[0] == 235


@pytest.mark.alone
async def test_a_session_like_thunderbirds_shows_in_the_api(real_service: Service) -> None:
    """A person and an agent would work on two different mailboxes."""
    service = real_service
    inbox = await service.inbox("ada")
    sender = await service.inbox("bob")
    heard: list[object] = []
    listening_now = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen() -> float:
        with reading(service, inbox["email"], own(inbox)) as client:
            roles = {flag: name for flags, _, name in client.list_folders() for flag in flags}
            assert (roles[b"\\Sent"], roles[b"\\Drafts"]) == ("Sent", "Drafts")
            assert (roles[b"\\Trash"], roles[b"\\Junk"]) == ("Trash", "Junk")
            client.select_folder("INBOX")
            client.idle()
            # Stalwart does not announce what came before IDLE began: it is in it now.
            loop.call_soon_threadsafe(listening_now.set)
            heard.extend(client.idle_check(timeout=10))
            at = time.monotonic()
            client.idle_done()
            return at

    listening = asyncio.create_task(away(listen))
    await listening_now.wait()
    began = time.monotonic()
    await service.send(sender, to=[inbox["email"]], subject="Pushed", text="Hi")
    pushed = await listening
    assert (1, b"EXISTS") in heard
    assert pushed - began < PUSHED_WITHIN

    def work() -> None:
        with reading(service, inbox["email"], own(inbox)) as client:
            client.select_folder("INBOX")
            (uid,) = client.search("ALL")
            client.add_flags([uid], [imapclient.SEEN, b"follow-up"])
            client.move([uid], "Trash")
            draft = EmailMessage()
            draft["From"], draft["To"] = inbox["email"], "ada@elsewhere.test"
            draft["Subject"] = "Not yet"
            draft.set_content("…")
            client.append("Drafts", draft.as_bytes(), [imapclient.DRAFT, imapclient.SEEN])

    await away(work)
    (moved,) = await until(
        lambda: service.messages(inbox, include_trash="true"),
        lambda seen: len(seen) == 1 and "trash" in seen[0]["labels"],
    )
    assert "follow-up" in moved["labels"]
    assert "unread" not in moved["labels"]

    async def drafts() -> list[Json]:
        answer = await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}/drafts")
        return answer.json()["drafts"]

    (draft,) = await until(drafts, lambda seen: len(seen) == 1)
    assert draft["subject"] == "Not yet"


async def test_passwords_travel_over_tls_only(real_service: Service) -> None:
    """Whoever listens on the way would have the mailbox."""
    found = ports(real_service).process.ports
    with smtplib.SMTP(HOST, found.submission, "client.test", timeout=20) as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH", "PLAIN AGEAYg==")[0] in {503, 504, 530, 538}
    for port in (found.submissions, found.imaps):
        with pytest.raises((smtplib.SMTPException, imaplib.IMAP4.error, OSError)):
            imaplib.IMAP4(HOST, port, timeout=0.5)
    bound = await ports(real_service).call("x:NetworkListener/get", {"ids": None})
    imap = [each for each in bound["list"] if each["protocol"] == "imap"]
    assert all(each["tlsImplicit"] for each in imap), "143 would take passwords in the open"


async def test_a_rotated_password_replaces_the_former_at_every_door(real_service: Service) -> None:
    inbox = await real_service.inbox("ada")
    assert await opens(real_service, inbox, own(inbox))
    answer = await real_service.client.post(f"/v0/inboxes/{inbox['inbox_id']}/credentials/rotate")
    assert not await opens(real_service, inbox, own(inbox)), "from the answer on"
    assert await opens(real_service, inbox, answer.json()["password"])


async def test_a_reading_app_password_changes_nothing(real_service: Service) -> None:
    """An auditor's program would mark mail as read that an agent is waiting for."""
    inbox = await real_service.inbox("ada")
    await real_service.deliver(a_mail(inbox["email"]))
    await until(lambda: real_service.messages(inbox), lambda seen: len(seen) == 1)
    made = await logins.app_password(real_service, inbox, access="read")
    address, password = inbox["email"], made["password"]

    def read() -> None:
        with reading(real_service, address, password) as client:
            client.select_folder("INBOX", readonly=True)
            found = client.search("ALL")
            (body,) = client.fetch(found, ["RFC822"]).values()
            assert b"Hi there." in body[b"RFC822"]
            with pytest.raises(imaplib.IMAP4.error):
                client.add_flags(found, [imapclient.SEEN])
        for command, *arguments in (
            ("select_folder", "INBOX"),
            ("append", "INBOX", b"Subject: x\r\n\r\nx"),
            ("create_folder", "Mine"),
        ):
            with (
                reading(real_service, address, password) as client,
                pytest.raises(imaplib.IMAP4.abort),
            ):
                getattr(client, command)(*arguments)

    await away(read)
    assert await away(submitting, real_service, address, password) == (550, 550)
    (message,) = await real_service.messages(inbox)
    assert message["labels"] == ["received", "unread"]


async def test_a_sending_app_password_reads_nothing(real_service: Service) -> None:
    inbox = await real_service.inbox("ada")
    made = await logins.app_password(real_service, inbox, access="send")
    assert await away(refusal, real_service, inbox["email"], made["password"]) == ""
    assert await away(submitting, real_service, inbox["email"], made["password"]) == (235, 235)


async def test_an_app_password_for_both_works_as_the_inboxs_own(real_service: Service) -> None:
    inbox = await real_service.inbox("ada")
    made = await logins.app_password(real_service, inbox)
    assert await opens(real_service, inbox, made["password"])

    def file() -> None:
        with reading(real_service, inbox["email"], made["password"]) as client:
            client.select_folder("INBOX")
            client.append("INBOX", a_mail(inbox["email"]).as_bytes())
            client.add_flags(client.search("ALL"), [imapclient.SEEN])

    await away(file)
    where = f"/v0/inboxes/{inbox['inbox_id']}/app-passwords/{made['app_password_id']}"
    assert (await real_service.client.delete(where)).status_code == 204
    assert not await opens(real_service, inbox, made["password"]), "from the answer on"
    assert await opens(real_service, inbox, own(inbox)), "the inbox's own stays"


async def test_an_app_password_is_good_until_its_end_and_from_its_addresses_only(
    real_service: Service,
) -> None:
    inbox = await real_service.inbox("ada")
    here = await logins.app_password(real_service, inbox, allowed_ips=["127.0.0.0/8"])
    assert await opens(real_service, inbox, here["password"])
    elsewhere = await logins.app_password(real_service, inbox, allowed_ips=["203.0.113.7"])
    assert not await opens(real_service, inbox, elsewhere["password"])
    ends = datetime.now(UTC) + timedelta(days=1)
    brief = await logins.app_password(real_service, inbox, expires_at=ends.isoformat())
    assert await opens(real_service, inbox, brief["password"])
    stalwart, account = ports(real_service), await account_of(real_service, inbox)
    kept = await stalwart.call("x:AppPassword/get", {"accountId": account, "ids": None})
    (stored,) = [each["id"] for each in kept["list"] if each["expiresAt"]]
    update = {stored: {"expiresAt": "2020-01-01T00:00:00Z"}}
    await stalwart.call("x:AppPassword/set", {"accountId": account, "update": update})
    assert not await opens(real_service, inbox, brief["password"])


@pytest.mark.alone
async def test_a_revoked_api_key_opens_no_mailbox_two_seconds_later(real_service: Service) -> None:
    """Seed 004: the API key is the password of every inbox, so whoever found it has them all."""
    inbox = await real_service.inbox("ada")
    made = (await real_service.client.post("/v0/api-keys", json={"name": "mail"})).json()
    answer = await real_service.client.put("/v0/mail-password", json={"api_key": made["api_key"]})
    assert answer.status_code == 200, answer.text
    late = await real_service.inbox("late")
    for each in (inbox, late):
        assert await opens(real_service, each, made["api_key"])
    assert not await opens(real_service, inbox, own(inbox))
    began = time.monotonic()
    gone = await real_service.client.delete(f"/v0/api-keys/{made['api_key_id']}")
    assert gone.status_code == 204
    assert time.monotonic() - began < REVOKED_WITHIN
    for each in (inbox, late):
        assert not await opens(real_service, each, made["api_key"])


async def test_what_a_session_opened_before_a_revocation_can_still_do(
    real_service: Service,
) -> None:
    """What `docs/guide/mail-clients.md` says of it: it reads the folder it has open, and hears of no more."""
    service = real_service
    inbox = await service.inbox("ada")
    await service.deliver(a_mail(inbox["email"]))
    await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)
    made = await logins.app_password(service, inbox)
    where = f"/v0/inboxes/{inbox['inbox_id']}/app-passwords/{made['app_password_id']}"
    with (
        reading(service, inbox["email"], made["password"]) as client,
        reading(service, inbox["email"], made["password"]) as idling,
    ):
        for each in (client, idling):
            await away(each.select_folder, "INBOX")
        known = await away(client.search, "ALL")
        await away(idling.idle)
        assert (await service.client.delete(where)).status_code == 204
        fetched = await away(client.fetch, known, ["BODY.PEEK[]"])
        assert len(fetched) == 1, "the folder that is open can still be read"
        await service.deliver(a_mail(inbox["email"], "Second"))
        assert await away(_ends, idling), "new mail ends IDLE"
        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            await away(client.select_folder, "Sent")


def _ends(idling: Any) -> bool:
    """Whether a connection in IDLE is closed by the server."""
    try:
        return not idling.idle_check(timeout=10)
    except (imaplib.IMAP4.abort, OSError, ssl.SSLError):
        return True


async def test_a_password_taken_away_ends_sessions_that_ask_for_another_folder(
    real_service: Service,
) -> None:
    """After a choice is taken back, an open session would go on for as long as it likes."""
    inbox = await real_service.inbox("ada")
    with reading(real_service, inbox["email"], own(inbox)) as client:
        await away(client.select_folder, "INBOX")
        account = await account_of(real_service, inbox)
        await real_service.server.set_password(account, None)
        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            await away(client.select_folder, "Sent")


async def test_connections_over_the_limit_are_refused_with_a_word(
    real_service: Service,
) -> None:
    """A client that leaks connections would be told its password is wrong."""
    stalwart = ports(real_service)
    inbox = await real_service.inbox("ada")
    account = await account_of(real_service, inbox)
    await _limit(stalwart, 2)
    try:
        mailbox = Mailbox(account, inbox["email"], own(inbox))
        with stalwart.imap(mailbox), stalwart.imap(mailbox):
            answer = await away(refusal, real_service, inbox["email"], own(inbox))
        assert answer == "a1 NO [LIMIT] Too many concurrent requests"
    finally:
        await _limit(stalwart, DEFAULT_IMAP_CONNECTIONS)


async def _limit(stalwart: StalwartServer, connections: int) -> None:
    update = {"update": {"singleton": {"maxConcurrent": connections}}}
    await stalwart.call("x:Imap/set", update)
    await stalwart.call("x:Action/set", {"create": {"r": {"@type": "ReloadSettings"}}})
