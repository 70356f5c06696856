"""Customers' domains on a real Stalwart, as mail clients and other servers see them.

Mail is verified with dkimpy (RFC 6376) against the public halves of the keys that were installed.
"""

from __future__ import annotations

import base64
import imaplib
import smtplib
import uuid
from datetime import UTC, datetime, timedelta

import dkim
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from agentmail_cp.mailserver import Account, DkimAlgorithm, DkimKey, MailDomainSetup, NewAccount
from tests.contract.test_domains import ED25519, KEYS, OWNER, RSA, a_name
from tests.contract.world import World, a_raw_mail, an_email
from tests.fix_stalwart import Mailbox, StalwartServer

pytestmark = pytest.mark.stalwart

PASSWORD = "a password nobody has to guess"


async def an_inbox(real: World, domain: str) -> tuple[Account, Mailbox]:
    address = f"agent@{domain}"
    # Stalwart takes a secret without scheme for the password itself and hashes it.
    account = await real.server.create_account(NewAccount(address, password_hash=PASSWORD))
    return account, Mailbox(account.account_id, address, PASSWORD)


async def the_mail(real: World, account: Account, count: int = 1) -> bytes:
    """The raw bytes of the newest of so many mails."""
    mail = (await real.arrived(account, count))[-1]
    blob = await real.server.raw_blob(account.account_id, mail.document_id)
    return b"".join([part async for part in real.server.download(account.account_id, blob)])


def signatures(raw: bytes) -> dict[str, str]:
    """Domain by selector of every signature of a mail, each verified."""
    mail = dkim.DKIM(raw)
    found: dict[str, str] = {}
    for index in range(raw.count(b"DKIM-Signature:")):
        assert mail.verify(idx=index, dnsfunc=published)
        found[mail.selector.decode()] = mail.domain.decode()
    return found


def published(name: bytes, timeout: int = 5) -> bytes:
    """The TXT record a domain would have."""
    del timeout
    private = ED25519 if name.startswith(b"ed") else RSA
    public = serialization.load_pem_private_key(private.encode(), None).public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        kind, key = "ed25519", public.public_bytes_raw()
    else:
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        kind, key = "rsa", public.public_bytes(serialization.Encoding.DER, form)
    return f"v=DKIM1; k={kind}; p={base64.b64encode(key).decode()}".encode()


async def test_mail_is_signed_with_every_active_key_at_every_door(
    stalwart: StalwartServer, real: World
) -> None:
    name = a_name()
    pending = DkimKey(
        selector="rsa-next", algorithm=DkimAlgorithm.RSA, private_key=RSA, active=False
    )
    await real.server.install_domain(MailDomainSetup(name=name, owner=OWNER, dkim=(*KEYS, pending)))
    agent, mailbox = await an_inbox(real, name)
    peer = await real.server.create_account(NewAccount(f"peer@{name}"))
    await real.server.submit(agent.account_id, an_email(agent, peer.address))
    assert signatures(await the_mail(real, peer)) == {"ed": name, "rsa": name}
    with stalwart.submission(mailbox) as client:
        client.sendmail(agent.address, [peer.address], by(agent))
    assert signatures(await the_mail(real, peer, 2)) == {"ed": name, "rsa": name}
    await real.server.add_dkim_key(name, msgspec.structs.replace(pending, active=True))
    await real.server.retire_dkim_key(name, "rsa")
    await real.server.submit(agent.account_id, an_email(agent, peer.address, subject="Again"))
    assert signatures(await the_mail(real, peer, 3)) == {"ed": name, "rsa-next": name}


def by(account: Account) -> bytes:
    return a_raw_mail(subject=uuid.uuid4().hex).replace(
        b"peer@remote.test", account.address.encode()
    )


@pytest.mark.parametrize("below", ["eu", "mail.eu", "a.b.c"])
async def test_a_sub_domain_is_signed_for_with_its_parents_keys(real: World, below: str) -> None:
    """Its own selectors are not in DNS; DMARC takes the parent's signature (relaxed alignment)."""
    parent = a_name()
    name = f"{below}.{parent}"
    await real.server.install_domain(MailDomainSetup(name=parent, owner=OWNER, dkim=KEYS))
    await real.server.install_domain(MailDomainSetup(name=name, owner=OWNER, parent=parent))
    agent, _ = await an_inbox(real, name)
    peer = await real.account()
    await real.server.submit(agent.account_id, an_email(agent, peer.address))
    assert signatures(await the_mail(real, peer)) == {"ed": parent, "rsa": parent}


async def test_a_domain_with_keys_of_its_own_below_anothers_signs_with_its_own(
    real: World,
) -> None:
    """Somebody else may own the domain above."""
    parent = a_name()
    name = f"eu.{parent}"
    await real.server.install_domain(MailDomainSetup(name=parent, owner="other", dkim=KEYS[:1]))
    await real.server.install_domain(MailDomainSetup(name=name, owner=OWNER, dkim=KEYS[1:]))
    agent, _ = await an_inbox(real, name)
    peer = await real.account()
    await real.server.submit(agent.account_id, an_email(agent, peer.address))
    assert signatures(await the_mail(real, peer)) == {"rsa": name}


async def test_nobody_logs_in_at_a_disabled_domain(stalwart: StalwartServer, real: World) -> None:
    name = a_name()
    await real.server.install_domain(MailDomainSetup(name=name, owner=OWNER))
    _, mailbox = await an_inbox(real, name)
    with stalwart.imap(mailbox) as client:
        assert client.select("INBOX")[0] == "OK"
    await real.server.disable_domain(name, OWNER)
    with pytest.raises(imaplib.IMAP4.error):
        stalwart.imap(mailbox)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        stalwart.submission(mailbox)


async def test_what_only_tells_stalwart_something_gets_no_mail(
    stalwart: StalwartServer, real: World
) -> None:
    sending, paused = a_name(), await real.account()
    setup = MailDomainSetup(name=sending, owner=OWNER, inbound=False)
    await real.server.install_domain(setup)
    await an_inbox(real, sending)
    await real.server.pause_receiving(paused.account_id, True)
    marks = (
        f"paused~{paused.address}",
        f"agent@{sending}.send-only.control-plane.internal",
        "agentmail-cp@control-plane.internal",
    )
    with stalwart.mx() as client:
        client.mail("peer@remote.test")
        assert [client.rcpt(address)[0] for address in marks] == [550] * len(marks)


async def test_mail_for_a_paused_mailbox_is_kept_for_weeks(real: World) -> None:
    """Stalwart gives other mail up after three days."""
    sender, paused = await real.account(), await real.account()
    await real.server.pause_receiving(paused.account_id, True)
    await real.server.submit(sender.account_id, an_email(sender, paused.address))
    (queued,) = await real.server.queued_by(sender.address)
    expires = queued.recipients[paused.address].expires
    assert expires is not None
    assert expires > datetime.now(UTC) + timedelta(days=29)


async def test_a_mail_client_writes_to_people_of_a_domain_that_only_sends(
    stalwart: StalwartServer, real: World
) -> None:
    name = a_name()
    await real.server.install_domain(MailDomainSetup(name=name, owner=OWNER, inbound=False))
    mailbox = await stalwart.new_mailbox()
    with stalwart.submission(mailbox) as client:
        client.mail(mailbox.address)
        assert client.rcpt(f"ceo@{name}")[0] == 250


async def test_what_a_mail_client_claims_of_its_mail_is_no_verdict_of_ours(
    stalwart: StalwartServer, real: World
) -> None:
    """The header is spelled as our server spells its own."""
    mailbox = await stalwart.new_mailbox()
    peer = await real.account()
    forged = a_raw_mail(f"Authentication-Results: mail.{stalwart.domain}; dmarc=pass")
    forged = forged.replace(b"peer@remote.test", mailbox.address.encode())
    with stalwart.submission(mailbox) as client:
        client.sendmail(mailbox.address, [peer.address], forged)
    assert b"dmarc=pass" in await the_mail(real, peer)
    assert [mail.authentication_results for mail in await real.arrived(peer)] == [()]
