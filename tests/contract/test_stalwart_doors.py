"""What a mailbox's own password opens: IMAP and SMTP submission. Every other door is tried, and shut.

Stalwart exempts loopback from its list of HTTP endpoints, so that part is tried as a proxy would
pass on a request from outside.
"""

from __future__ import annotations

import contextlib
import imaplib
import smtplib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agentmail_cp.mailserver import AccountId, Address, OutgoingEmail
from agentmail_cp.stalwart import StalwartMailServer, setup
from agentmail_cp.stalwart.jmap import JmapClient, basic, bearer
from agentmail_cp.stalwart.wanted import Wanted, mailbox_permissions
from tests.fix_stalwart import DOMAIN, Mailbox, StalwartServer, unverified

pytestmark = pytest.mark.stalwart

EVERYTHING = [
    f"urn:ietf:params:jmap:{name}"
    for name in (
        *("core", "mail", "submission", "vacationresponse", "sieve", "blob", "quota"),
        *("principals", "contacts", "calendars", "filenode"),
    )
] + ["urn:stalwart:jmap"]

OUTSIDE = {"X-Forwarded-For": "203.0.113.9"}

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("Core/echo", {}),
    ("Email/query", {}),
    ("Email/get", {"ids": ["a"]}),
    ("Email/changes", {"sinceState": "n"}),
    ("Email/set", {"destroy": ["a"]}),
    ("Email/import", {"emails": {}}),
    ("Mailbox/get", {"ids": None}),
    ("Mailbox/set", {"create": {"m": {"name": "x"}}}),
    ("Thread/get", {"ids": ["a"]}),
    ("Identity/get", {"ids": None}),
    ("EmailSubmission/set", {"create": {}}),
    ("SieveScript/get", {"ids": None}),
    ("SieveScript/set", {"create": {}}),
    ("VacationResponse/get", {"ids": None}),
    ("VacationResponse/set", {"update": {"singleton": {"isEnabled": True}}}),
    ("Quota/get", {"ids": None}),
    ("Principal/query", {}),
    ("AddressBook/get", {"ids": None}),
    ("Calendar/get", {"ids": None}),
    ("FileNode/query", {}),
    ("PushSubscription/get", {"ids": None}),
    ("Blob/get", {"ids": ["x"]}),
    ("Blob/upload", {"create": {"b": {"data": [{"data:asText": "x"}]}}}),
    ("x:ApiKey/set", {"create": {"k": {"description": "x", "permissions": {"@type": "Inherit"}}}}),
    ("x:ApiKey/get", {"ids": None}),
    ("x:AppPassword/set", {"create": {"k": {"description": "x"}}}),
    ("x:AppPassword/get", {"ids": None}),
    ("x:AccountPassword/get", {"ids": ["singleton"]}),
    ("x:AccountPassword/set", {"update": {"singleton": {"secret": "a new password, quite long"}}}),
    ("x:AccountSettings/get", {"ids": ["singleton"]}),
    ("x:AccountSettings/set", {"update": {"singleton": {"description": "x"}}}),
    ("x:PublicKey/set", {"create": {}}),
    ("x:MaskedEmail/query", {}),
    ("x:SpamTrainingSample/query", {}),
    ("x:ArchivedItem/query", {}),
    ("x:Account/get", {"ids": None}),
    ("x:Account/set", {"create": {}}),
    ("x:Domain/get", {"ids": None}),
    ("x:QueuedMessage/query", {}),
    ("x:Action/set", {"create": {"a": {"@type": "ReloadSettings"}}}),
]

DAV = [
    ("PROPFIND", '<propfind xmlns="DAV:"><allprop/></propfind>'),
    ("REPORT", '<sync-collection xmlns="DAV:"><sync-token/><prop/></sync-collection>'),
    ("MKCOL", ""),
    ("PUT", ""),
    ("DELETE", ""),
    ("GET", ""),
]


@pytest_asyncio.fixture
async def http(stalwart: StalwartServer, mailbox: Mailbox) -> AsyncGenerator[httpx.AsyncClient]:
    """The HTTP doors with the mailbox's address and password."""
    async with httpx.AsyncClient(
        base_url=stalwart.url, auth=(mailbox.address, mailbox.password), trust_env=False
    ) as client:
        yield client


@pytest_asyncio.fixture(scope="module")
async def from_outside(stalwart: StalwartServer) -> AsyncGenerator[None]:
    """Make Stalwart believe `X-Forwarded-For`, as it does behind a proxy."""
    await _set_http(stalwart, useXForwarded=True)
    yield
    await _set_http(stalwart, useXForwarded=False)


async def _set_http(stalwart: StalwartServer, **patch: object) -> None:
    await stalwart.call("x:Http/set", {"update": {"singleton": patch}})
    await stalwart.call("x:Action/set", {"create": {"r": {"@type": "ReloadSettings"}}})


async def test_mail_clients_get_in(stalwart: StalwartServer, mailbox: Mailbox) -> None:
    with stalwart.imap(mailbox) as client:
        assert client.select("INBOX")[0] == "OK"
    with stalwart.submission(mailbox) as client:
        assert client.noop()[0] == 250
    ports = stalwart.process.ports
    with smtplib.SMTP_SSL("127.0.0.1", ports.submissions, context=unverified()) as client:
        assert client.login(mailbox.address, mailbox.password)[0] == 235


async def test_a_mailbox_may_do_what_the_role_says_and_no_more(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/account")
    assert set(answer.json()["permissions"]) == set(mailbox_permissions())
    assert all(
        name.startswith("imap") or name in {"authenticate", "emailSend", "emailReceive"}
        for name in mailbox_permissions()
    )


@pytest.mark.parametrize(("method", "arguments"), METHODS, ids=[name for name, _ in METHODS])
async def test_jmap_is_shut(
    http: httpx.AsyncClient, mailbox: Mailbox, method: str, arguments: dict[str, Any]
) -> None:
    calls = [[method, {"accountId": mailbox.account_id, **arguments}, "0"]]
    answer = await http.post("/jmap/", json={"using": EVERYTHING, "methodCalls": calls})
    name, refused, _ = answer.json()["methodResponses"][0]
    assert (name, refused["type"]) == ("error", "forbidden")


@pytest.mark.parametrize("kind", ["cal", "card", "file"])
@pytest.mark.parametrize(("verb", "body"), DAV, ids=[verb for verb, _ in DAV])
async def test_webdav_is_shut(
    http: httpx.AsyncClient, mailbox: Mailbox, kind: str, verb: str, body: str
) -> None:
    headers = {"Content-Type": "application/xml"} if body else {}
    path = f"/dav/{kind}/{mailbox.address}/"
    answer = await http.request(verb, path, content=body, headers=headers)
    assert answer.status_code in {403, 404, 405}


async def test_webdav_tells_nothing_of_others(
    http: httpx.AsyncClient, stalwart: StalwartServer
) -> None:
    """On loopback a principal can be asked about: only ever one's own."""
    other = await stalwart.new_mailbox()
    for path in ("/dav/pal/", f"/dav/pal/{other.address}/"):
        answer = await http.request("PROPFIND", path, headers={"Depth": "1"})
        assert other.address not in answer.text.replace(path, "")


async def test_no_oauth_token_is_issued(http: httpx.AsyncClient, mailbox: Mailbox) -> None:
    """It would be a second password that survives a change of the first."""
    flow = (await http.post("/auth/device", data={"client_id": "webadmin"})).json()
    who = {"accountName": mailbox.address, "accountSecret": mailbox.password}
    await http.post("/api/auth", json={"type": "authDevice", **who, "code": flow["user_code"]})
    grant = "urn:ietf:params:oauth:grant-type:device_code"
    form = {"grant_type": grant, "client_id": "webadmin", "device_code": flow["device_code"]}
    answer = await http.post("/auth/token", data=form)
    assert answer.status_code == 400
    assert "access_token" not in answer.json()

    code = {"type": "authCode", **who, "clientId": "webadmin", "redirectUri": "https://x.test/"}
    assert (await http.post("/api/auth", json=code)).status_code == 401
    client = {"redirect_uris": ["https://x.test/"]}
    assert (await http.post("/auth/register", json=client)).status_code == 403


@pytest.mark.usefixtures("from_outside")
@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/jmap/session"),
        ("GET", "/jmap/eventsource/?types=*&closeafter=state&ping=1"),
        ("GET", "/jmap/ws"),
        ("POST", "/jmap/upload/a/"),
        ("GET", "/jmap/download/a/b/c"),
        ("GET", "/auth/userinfo"),
        ("POST", "/auth/device"),
        ("POST", "/auth/register"),
        ("POST", "/api/auth"),
        ("GET", "/api/discover/x@agents.test"),
        ("PROPFIND", "/dav/cal/"),
        ("PROPFIND", "/dav/pal/"),
        ("GET", "/login"),
        ("GET", "/account"),
        ("GET", "/admin"),
    ],
)
async def test_http_doors_without_a_permission_are_shut_from_outside(
    http: httpx.AsyncClient, verb: str, path: str
) -> None:
    """Stalwart opens these to every password; two headers do not confuse the rule."""
    assert (await http.request(verb, path, headers=OUTSIDE)).status_code == 404
    both = [*OUTSIDE.items(), ("Authorization", "Bearer API_made_up")]
    assert (await http.request(verb, path, headers=both)).status_code in {401, 404}


@pytest.mark.usefixtures("from_outside")
async def test_our_key_keeps_its_doors_from_outside(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    headers = {**OUTSIDE, "Authorization": f"Bearer {stalwart.key}"}
    async with httpx.AsyncClient(base_url=stalwart.url, headers=headers, trust_env=False) as client:
        assert (await client.get("/jmap/session")).status_code == 200
        upload = await client.post(f"/jmap/upload/{mailbox.account_id}/", content=b"x")
        assert upload.status_code == 200


@pytest.mark.usefixtures("from_outside")
async def test_an_administrator_can_apply_from_outside(stalwart: StalwartServer) -> None:
    """The compose file applies from another container at every start."""
    user, _, password = stalwart.process.admin.partition(":")
    client = JmapClient(stalwart.url, basic(user, password))
    client._http.headers.update(OUTSIDE)  # pyright: ignore[reportPrivateUsage]
    await setup.apply(client, Wanted(domain=DOMAIN), check=True)
    assert (await setup.status(client)).product == "Stalwart"
    await client.close()


async def test_a_mailbox_cannot_fill_the_disk_with_uploads(
    http: httpx.AsyncClient, mailbox: Mailbox
) -> None:
    """On loopback the upload door stays open; its quota does not."""
    path = f"/jmap/upload/{mailbox.account_id}/"
    assert (await http.post(path, content=bytes(30_000_000))).status_code == 200
    assert (await http.post(path, content=bytes(30_000_000))).status_code == 429


async def test_nobody_listens_for_pop3_or_managesieve(stalwart: StalwartServer) -> None:
    listeners = (await stalwart.call("x:NetworkListener/get", {"ids": None}))["list"]
    assert {one["protocol"] for one in listeners} == {"smtp", "imap", "http"}
    assert all(bind.startswith("127.0.0.1:") for one in listeners for bind in one["bind"])


async def test_folders_cannot_be_shared_with_others(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    """Stalwart ends the connection instead of saying no; looking is allowed, clients do it."""
    other = await stalwart.new_mailbox()
    client = stalwart.imap(mailbox)
    assert client.getacl("INBOX")[0] == "OK"
    with pytest.raises(imaplib.IMAP4.abort):
        client.setacl("INBOX", other.address, "lr")
    client.shutdown()


async def test_a_mailbox_sends_from_its_own_address_only(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    other = await stalwart.new_mailbox()
    with stalwart.submission(mailbox) as client:
        assert client.mail(other.address)[0] == 501


async def test_nobody_submits_without_logging_in(stalwart: StalwartServer) -> None:
    other = await stalwart.new_mailbox()
    with stalwart.submission() as client:
        assert client.mail("anybody@out.test")[0] in {503, 530}
    with stalwart.mx() as client:
        client.mail("anybody@out.test")
        assert client.rcpt("somebody@elsewhere.example")[0] == 550
        assert client.rcpt(other.address)[0] == 250


async def test_the_mx_port_takes_no_password(stalwart: StalwartServer) -> None:
    """Else passwords could be guessed at the port that must stay open to the world."""
    with stalwart.mx() as client:
        client.starttls(context=unverified())
        client.ehlo("out.test")
        assert "auth" not in client.esmtp_features


async def test_a_retired_address_answers_550_at_every_door(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    """Also with a tag, in upper case, under its new name, and where a catch-all takes the rest."""
    keeper, sender = await stalwart.new_mailbox(), await stalwart.new_mailbox()
    local, _, domain = mailbox.address.partition("@")
    forms = [mailbox.address, f"{local}+tag@{domain}"]
    forms += [f"retired~{local}@{domain}", f"retired~{local}+tag@{domain}"]
    server = StalwartMailServer(JmapClient(stalwart.url, bearer(stalwart.key)))
    async with _catch_all(stalwart, keeper.address):
        assert _asked(stalwart, None, forms[:2]) == [250, 250]
        await server.retire_account(AccountId(mailbox.account_id))
        assert _asked(stalwart, None, forms) == [550] * len(forms)
        assert _asked(stalwart, None, [mailbox.address.upper()]) == [550]
        assert _asked(stalwart, sender, forms) == [550] * len(forms)
        submitted = await server.submit(AccountId(sender.account_id), _mail(sender, forms))
        assert [verdict.reply[:3] for verdict in submitted.verdicts] == ["550"] * len(forms)
        assert _asked(stalwart, None, [f"anything@{domain}", keeper.address]) == [250, 250]
    with pytest.raises(imaplib.IMAP4.error):
        stalwart.imap(mailbox)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        stalwart.submission(mailbox)
    await server.close()


def _mail(sender: Mailbox, recipients: list[str]) -> OutgoingEmail:
    return OutgoingEmail(
        message_id="retired@agents.test",
        date=datetime.now(UTC),
        sender=Address(sender.address),
        to=tuple(Address(recipient) for recipient in recipients),
        text="Hello?",
        recipients=tuple(recipients),
    )


@contextlib.asynccontextmanager
async def _catch_all(stalwart: StalwartServer, address: str) -> AsyncGenerator[None]:
    domain = await stalwart.id_of("Domain", name=DOMAIN)
    await stalwart.call("x:Domain/set", {"update": {domain: {"catchAllAddress": address}}})
    yield
    await stalwart.call("x:Domain/set", {"update": {domain: {"catchAllAddress": None}}})


def _asked(stalwart: StalwartServer, sender: Mailbox | None, recipients: list[str]) -> list[int]:
    """What RCPT answers for each; a session of its own each, since errors end one."""
    codes: list[int] = []
    for recipient in recipients:
        with stalwart.submission(sender) if sender else stalwart.mx() as client:
            client.mail(sender.address if sender else "friend@out.test")
            codes.append(client.rcpt(recipient)[0])
    return codes
