"""`stalwart apply` on a real server: it gets there, stays there, and every default trap is gone."""

from __future__ import annotations

import asyncio
import email
import smtplib
import stat
from collections.abc import AsyncGenerator
from email.message import EmailMessage, Message
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agentmail_cp import settings as service_settings
from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.settings import Settings
from agentmail_cp.stalwart import setup
from agentmail_cp.stalwart.calls import Call
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from agentmail_cp.stalwart.setup import Doorbell, SetupError, Wanted
from agentmail_cp.stalwart.submission import MAX_RECIPIENTS
from tests.fix_stalwart import DOMAIN, Mailbox, StalwartServer

pytestmark = pytest.mark.stalwart

PRODUCTION = Wanted(domain=DOMAIN, doorbell=Doorbell("http://127.0.0.1:9/x", "secret", 20))


@pytest_asyncio.fixture
async def server(own_stalwart: LocalStalwart) -> AsyncGenerator[JmapClient]:
    """Our credential's connection to a server whose settings may be spoiled."""
    client = JmapClient(own_stalwart.url, bearer(own_stalwart.key))
    yield client
    await client.close()


async def ask(client: JmapClient, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return (await client.call(Call(name, arguments, "0")))["0"].into(dict[str, Any])


async def singleton(client: JmapClient, kind: str) -> dict[str, Any]:
    return (await ask(client, f"x:{kind}/get", {"ids": ["singleton"]}))["list"][0]


def mail(sender: str, recipient: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, recipient, "Hello"
    message.set_content("Text")
    return message


async def test_a_second_apply_changes_nothing(server: JmapClient) -> None:
    await setup.apply(server, PRODUCTION, check=False)
    again = await setup.apply(server, PRODUCTION, check=False)
    assert again.changes == ()
    assert again.text == "Stalwart is set up as wanted; nothing to change."


async def test_check_shows_what_was_changed_by_hand_and_changes_nothing(
    server: JmapClient,
) -> None:
    await setup.apply(server, PRODUCTION, check=False)
    await ask(server, "x:Imap/set", {"update": {"singleton": {"allowPlainTextAuth": True}}})
    roles = (await ask(server, "x:Role/get", {"ids": None}))["list"]
    role = next(one["id"] for one in roles if one["description"] == setup.MAILBOX_ROLE)
    patch = {"enabledPermissions/imapAclSet": True, "enabledPermissions/imapIdle": None}
    await ask(server, "x:Role/set", {"update": {role: patch}})

    report = await setup.apply(server, PRODUCTION, check=True)
    assert {change.object for change in report.changes} == {"Imap", f"Role {setup.MAILBOX_ROLE}"}
    assert await setup.apply(server, PRODUCTION, check=True) == report
    assert (
        "Imap allowPlainTextAuth: true -> false\n    Passwords travel over TLS only." in report.text
    )
    assert "enabledPermissions: lacks imapIdle; also has imapAclSet" in report.text
    assert (await singleton(server, "Imap"))["allowPlainTextAuth"] is True

    repaired = await setup.apply(server, PRODUCTION, check=False)
    assert len(repaired.changes) == 2
    assert (await setup.apply(server, PRODUCTION, check=True)).changes == ()


async def test_every_wanted_setting_is_really_stored(server: JmapClient) -> None:
    """Read back from the server, not from our memory of what was sent."""
    await setup.apply(server, PRODUCTION, check=False)
    data, recipients, mailboxes, jmap = [
        await singleton(server, kind) for kind in ("MtaStageData", "MtaStageRcpt", "Email", "Jmap")
    ]
    assert recipients["maxRecipients"] == {"match": {}, "else": str(MAX_RECIPIENTS)}
    assert data["maxMessages"]["else"] == "10000"
    assert data["addDateHeader"] == data["addMessageIdHeader"] == {"match": {}, "else": "true"}
    assert {folder["name"] for folder in mailboxes["defaultFolders"].values()} == {
        *("Sent", "Drafts", "Trash", "Junk"),
    }
    assert jmap["maxMethodCalls"] == 256
    assert (await singleton(server, "DataRetention"))["expungeTrashAfter"] is None
    assert (await singleton(server, "Imap"))["allowPlainTextAuth"] is False
    throttles = (await ask(server, "x:MtaInboundThrottle/get", {"ids": None}))["list"]
    assert len(throttles) == 2
    assert not any(throttle["enable"] for throttle in throttles)


async def test_the_doorbell_follows_the_settings(server: JmapClient) -> None:
    """Its key cannot be read back, so a new one must be noticed by other means."""
    await setup.apply(server, PRODUCTION, check=False)
    other = Wanted(domain=DOMAIN, doorbell=Doorbell("http://127.0.0.1:9/x", "another", 20))
    changed = await setup.apply(server, other, check=False)
    assert [change.object for change in changed.changes] == ["WebHook"]
    assert "another" not in changed.text
    assert (await setup.apply(server, other, check=False)).changes == ()

    silent = Wanted(domain=DOMAIN)
    assert [
        change.setting for change in (await setup.apply(server, silent, check=False)).changes
    ] == ["enable"]
    hooks = (await ask(server, "x:WebHook/get", {"ids": None}))["list"]
    assert [hook["enable"] for hook in hooks] == [False]


async def test_what_others_made_is_left_alone(server: JmapClient) -> None:
    theirs = {
        "x:WebHook": {"url": "http://127.0.0.1:9/theirs", "enable": False},
        "x:Role": {"description": "theirs"},
        "x:MtaInboundThrottle": {
            "description": "theirs",
            "enable": False,
            "key": {"sender": True},
            "rate": {"count": 1, "period": 1000},
        },
    }
    for kind, properties in theirs.items():
        made = await ask(server, f"{kind}/set", {"create": {"t": properties}})
        assert made.get("created"), made
    await setup.apply(server, PRODUCTION, check=False)
    for kind, properties in theirs.items():
        found = (await ask(server, f"{kind}/get", {"ids": None}))["list"]
        assert any(properties.items() <= one.items() for one in found)


async def test_a_domain_with_a_capital_letter_is_set_up_once_and_for_all(
    own_stalwart: LocalStalwart, tmp_path: Path
) -> None:
    """A new installation would never come up: the second of its applies found the domain taken."""
    settings = service_settings.load(
        {
            "AGENTMAIL_CP_DATABASE_URL": "postgres://unused",
            "AGENTMAIL_CP_STALWART_URL": own_stalwart.url,
            "AGENTMAIL_CP_STALWART_ADMIN": own_stalwart.admin,
            "AGENTMAIL_CP_DOMAIN": "Second.Test.",
        }
    )
    await setup.run_apply(settings, check=False, key_file=tmp_path / "key")
    assert (await setup.run_apply(settings, check=False, key_file=tmp_path / "key")).changes == ()


async def test_an_operator_may_have_a_smart_host(server: JmapClient) -> None:
    """What leaves goes by a route of his; what stays, and what waits, is ours to say."""
    smart = {"update": {"singleton": {"route/else": "'smart host'"}}}
    await ask(server, "x:MtaOutboundStrategy/set", smart)
    assert (await setup.apply(server, PRODUCTION, check=False)).changes != ()
    route = (await singleton(server, "MtaOutboundStrategy"))["route"]
    assert route["else"] == "'smart host'"
    assert (await setup.apply(server, PRODUCTION, check=True)).changes == ()


async def test_an_administrator_sets_up_a_server_that_serves_others(
    own_stalwart: LocalStalwart, tmp_path: Path
) -> None:
    """The command as people run it: password in, key file out, and the key is enough from then on."""
    key_file = tmp_path / "key"
    settings = Settings(
        database_url="postgres://unused",
        stalwart_url=own_stalwart.url,
        stalwart_admin=own_stalwart.admin,
        domain="second.test",
    )
    report = await setup.run_apply(settings, check=False, key_file=key_file)
    key = key_file.read_text().strip()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert key.startswith("API_")
    assert key not in report.text

    again = await setup.run_apply(settings, check=False, key_file=key_file)
    assert again.changes == ()
    with_key = msgspec.structs.replace(settings, stalwart_admin=None, stalwart_key=key)
    assert (await setup.run_apply(with_key, check=True)).changes == ()
    status = await setup.run_status(with_key)
    assert (status.product, status.missing) == ("Stalwart", ())
    assert status.version.startswith("0.16")


async def test_a_key_is_never_made_where_it_could_not_be_kept(own_stalwart: LocalStalwart) -> None:
    """Each apply would leave one more key that nobody knows."""
    settings = Settings(
        database_url="postgres://unused",
        stalwart_url=own_stalwart.url,
        stalwart_admin=own_stalwart.admin,
        domain=DOMAIN,
    )
    report = await setup.run_apply(settings, check=False)
    assert "apply with --key-file" in report.text
    assert not any(change.object == "ApiKey" for change in report.changes)


async def known_keys(server: JmapClient) -> set[str]:
    """The ids of the service account's API keys."""
    found = await ask(server, "x:ApiKey/get", {"ids": None})
    return {each["id"] for each in found["list"]}


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


async def test_a_key_that_cannot_be_written_is_not_made(
    own_stalwart: LocalStalwart, server: JmapClient, tmp_path: Path
) -> None:
    """Each try would leave a key that opens every mailbox and that nobody knows; after five, Stalwart makes
    none at all.
    """
    settings = Settings(
        database_url="postgres://unused",
        stalwart_url=own_stalwart.url,
        stalwart_admin=own_stalwart.admin,
        domain=DOMAIN,
    )
    (tmp_path / "file").write_text("")
    before = await known_keys(server)
    for path in (tmp_path / "nowhere" / "key", tmp_path / "file" / "key", tmp_path):
        with pytest.raises(SetupError, match=str(path)):
            await setup.run_apply(settings, check=False, key_file=path)
    assert await known_keys(server) == before
    assert names_in(tmp_path) == ["file"]


async def test_a_key_that_could_not_be_written_after_all_is_destroyed(
    server: JmapClient, tmp_path: Path
) -> None:
    """A disk that is full takes an empty file, and not the key; here a folder is in the file's place."""
    before = await known_keys(server)
    assert before
    (tmp_path / "key" / "taken").mkdir(parents=True)
    with pytest.raises(SetupError, match=f"cannot be written to {tmp_path}/key: Is a directory"):
        await setup.make_key(server, tmp_path / "key")
    assert await known_keys(server) == before
    assert names_in(tmp_path) == ["key"]


def test_what_is_no_key_in_a_key_file_is_told(tmp_path: Path) -> None:
    """A certificate named by mistake must not be written over, and gives no traceback."""
    (tmp_path / "other").write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="holds no API key"):
        setup.read_key(tmp_path / "other")


async def test_a_wrong_password_says_so(own_stalwart: LocalStalwart) -> None:
    settings = Settings(
        database_url="postgres://unused",
        stalwart_url=own_stalwart.url,
        stalwart_admin="admin:wrong",
    )
    with pytest.raises(SetupError, match="does not accept the login"):
        await setup.run_apply(settings, check=True)


async def test_a_key_that_may_too_little_says_what_is_missing(own_stalwart: LocalStalwart) -> None:
    account = {"@type": "Replace", "permissions": {"authenticate": True, "impersonate": True}}
    owner = JmapClient(own_stalwart.url, bearer(own_stalwart.key))
    made = await ask(
        owner, "x:ApiKey/set", {"create": {"k": {"description": "poor", "permissions": account}}}
    )
    poor = JmapClient(own_stalwart.url, bearer(made["created"]["k"]["secret"]))
    status = await setup.status(poor)
    assert "jmapEmailGet" in status.missing
    assert "imapIdle" in status.missing
    assert "impersonate" not in status.missing
    with pytest.raises(SetupError, match="permission"):
        await setup.apply(poor, PRODUCTION, check=True)
    await owner.close()
    await poor.close()


async def test_thirty_mails_from_one_domain_to_one_recipient_arrive(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    """Stalwart's defaults stop at 5 a second, 10 a session and 25 an hour."""
    with stalwart.mx() as client:
        for _ in range(30):
            client.send_message(mail("friend@out.test", mailbox.address))


async def test_a_client_hands_in_thirty_mails_over_one_connection(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    other = await stalwart.new_mailbox()
    with stalwart.submission(mailbox) as client:
        for _ in range(30):
            client.send_message(mail(mailbox.address, other.address))


async def test_mail_without_date_gets_one(stalwart: StalwartServer, mailbox: Mailbox) -> None:
    """RFC 5322 section 3.6.1 wants one. Who gives a Message-ID is the hook's matter."""
    other = await stalwart.new_mailbox()
    with stalwart.submission(mailbox) as client:
        client.sendmail(mailbox.address, other.address, f"From: {mailbox.address}\r\n\r\nHi\r\n")
    assert (await arrived(stalwart, other))["Date"]


async def test_submitted_mail_does_not_tell_where_its_sender_sits(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    other = await stalwart.new_mailbox()
    with stalwart.submission(mailbox) as client:
        client.send_message(mail(mailbox.address, other.address))
    assert "127.0.0.1" not in str(await arrived(stalwart, other))


async def test_mail_from_outside_is_traced(stalwart: StalwartServer, mailbox: Mailbox) -> None:
    """Stalwart would leave Received and Return-Path away on any port but 25."""
    with stalwart.mx() as client:
        client.send_message(mail("friend@out.test", mailbox.address))
    header = await arrived(stalwart, mailbox)
    assert "friend@out.test" in header["Return-Path"]
    assert "out.test" in header["Received"]


async def test_the_special_folders_have_the_names_people_know(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    with stalwart.imap(mailbox) as client:
        _, lines = client.list()
    listed = [line.decode() for line in lines if isinstance(line, bytes)]
    folders = {line.rsplit('"', 2)[-2]: line for line in listed}
    assert set(folders) == {"INBOX", "Sent", "Drafts", "Trash", "Junk"}
    for name in ("Sent", "Drafts", "Trash", "Junk"):
        assert f"\\{name}" in folders[name]


async def test_passwords_are_not_taken_without_tls(
    stalwart: StalwartServer, mailbox: Mailbox
) -> None:
    with smtplib.SMTP("127.0.0.1", stalwart.process.ports.submission) as client:
        client.ehlo("client.test")
        assert "PLAIN" not in client.esmtp_features.get("auth", "")
        with pytest.raises(smtplib.SMTPException):
            client.login(mailbox.address, mailbox.password)


async def arrived(stalwart: StalwartServer, mailbox: Mailbox) -> Message:
    """The header of the one mail in a mailbox's inbox, waited for."""
    with stalwart.imap(mailbox) as client:
        for _ in range(500):
            client.select("INBOX")
            _, (found,) = client.search(None, "ALL")
            if found:
                _, data = client.fetch("1", "(RFC822.HEADER)")
                assert isinstance(data[0], tuple)
                return email.message_from_bytes(data[0][1])
            await asyncio.sleep(0.01)
    raise AssertionError("the mail did not arrive")
