"""Customers' domains: what is accepted for them, by whom, and what is left when they go.

What leaves this machine is told by the verdict and the queue: no case waits for another server.
"""

from __future__ import annotations

import smtplib
import uuid

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from agentmail_cp.mailserver import (
    Account,
    DkimAlgorithm,
    DkimKey,
    Folder,
    MailDomainSetup,
    MailServer,
    NewAccount,
    Refusal,
)
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email, refused

OWNER = "organization-1"
OTHER = "organization-2"


def pem(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


ED25519 = pem(ed25519.Ed25519PrivateKey.generate())
RSA = pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))
KEYS = (
    DkimKey(selector="ed", algorithm=DkimAlgorithm.ED25519, private_key=ED25519),
    DkimKey(selector="rsa", algorithm=DkimAlgorithm.RSA, private_key=RSA),
)
SHOWN = tuple(DkimKey(selector=key.selector, algorithm=key.algorithm) for key in KEYS)


def a_name() -> str:
    return f"d{uuid.uuid4().hex[:12]}.test"


async def a_domain(server: MailServer, **other: object) -> str:
    name = a_name()
    await server.install_domain(MailDomainSetup(name=name, owner=OWNER, **other))  # pyright: ignore[reportArgumentType]
    return name


async def an_account(world: World, domain: str, name: str = "agent") -> Account:
    return await world.server.create_account(NewAccount(f"{name}@{domain}"))


async def refusal(world: World, address: str) -> str:
    """The line with which mail from outside for this address is refused at RCPT; empty for none."""
    try:
        await world.deliver(a_raw_mail(), address)
    except smtplib.SMTPRecipientsRefused as error:
        ((code, text),) = error.recipients.values()
        return f"{code} {text.decode()}"
    return ""


@covers("install_domain", "find_domain", "create_account")
async def test_a_domain_receives_once_it_is_installed_and_not_before(world: World) -> None:
    """A name that was asked for before it was there must not be remembered as unknown (gh#1968)."""
    name = a_name()
    assert await world.server.find_domain(name) is None
    assert (await refusal(world, f"agent@{name}")).startswith("550 ")
    setup = MailDomainSetup(name=name.upper(), owner=OWNER, dkim=KEYS)
    await world.server.install_domain(setup)
    await world.server.install_domain(setup)
    assert (await refusal(world, f"agent@{name}")).startswith("550 ")
    agent = await an_account(world, name)
    await world.received(agent, a_raw_mail())
    found = await world.server.find_domain(name)
    assert found is not None
    assert (found.name, found.owner, found.dkim) == (name, OWNER, SHOWN)
    assert (found.parent, found.catch_all, found.inbound) == (None, None, True)


@covers("install_domain", Refusal.FORBIDDEN)
async def test_what_is_no_domain_name_or_no_key_is_refused(world: World) -> None:
    with refused(Refusal.FORBIDDEN):
        await a_domain_named(world, "no domain")
    broken = DkimKey(selector="s", algorithm=DkimAlgorithm.RSA, private_key="no key")
    name = a_name()
    with refused(Refusal.FORBIDDEN):
        setup = MailDomainSetup(name=name, owner=OWNER, dkim=(broken,))
        await world.server.install_domain(setup)
    assert await world.server.find_domain(name) is None


async def a_domain_named(world: World, name: str) -> None:
    await world.server.install_domain(MailDomainSetup(name=name, owner=OWNER))


@covers("install_domain", "find_domain", Refusal.DOMAIN_TAKEN)
async def test_a_domain_of_another_owner_or_of_the_server_itself_is_taken(world: World) -> None:
    name = await a_domain(world.server)
    with refused(Refusal.DOMAIN_TAKEN):
        await world.server.install_domain(MailDomainSetup(name=name, owner=OTHER))
    with refused(Refusal.DOMAIN_TAKEN):
        await a_domain_named(world, world.domain)
    own = await world.server.find_domain(world.domain)
    assert own is not None
    assert own.owner is None


@covers("add_dkim_key", "retire_dkim_key", "install_domain", "find_domain")
async def test_keys_come_into_use_and_go_out_of_it_one_by_one(world: World) -> None:
    name = await a_domain(world.server, dkim=KEYS[:1])
    pending = DkimKey(selector="next", algorithm=DkimAlgorithm.RSA, private_key=RSA, active=False)
    await world.server.add_dkim_key(name, pending)
    await world.server.add_dkim_key(name, pending)
    assert await keys(world, name) == {"ed": True, "next": False}
    active = DkimKey(selector="next", algorithm=DkimAlgorithm.RSA)
    await world.server.add_dkim_key(name, active)
    assert await keys(world, name) == {"ed": True, "next": True}
    await world.server.retire_dkim_key(name, "ed")
    await world.server.retire_dkim_key(name, "ed")
    await world.server.retire_dkim_key(a_name(), "ed")
    assert await keys(world, name) == {"next": True}
    setup = MailDomainSetup(name=name, owner=OWNER, dkim=(KEYS[0],))
    await world.server.install_domain(setup)
    assert await keys(world, name) == {"ed": True}


async def keys(world: World, name: str) -> dict[str, bool]:
    found = await world.server.find_domain(name)
    assert found is not None
    return {key.selector: key.active for key in found.dkim}


@covers("add_dkim_key", "install_domain", Refusal.NO_KEY)
async def test_a_key_is_given_with_its_private_half_once(world: World) -> None:
    without = DkimKey(selector="new", algorithm=DkimAlgorithm.ED25519)
    with refused(Refusal.NO_KEY):
        await a_domain(world.server, dkim=(without,))
    name = await a_domain(world.server)
    with refused(Refusal.NO_KEY):
        await world.server.add_dkim_key(name, without)


@covers("add_dkim_key", "set_catch_all", "install_domain", Refusal.UNKNOWN_DOMAIN)
async def test_only_an_installed_domain_is_changed(world: World) -> None:
    for name in (a_name(), world.domain):
        with refused(Refusal.UNKNOWN_DOMAIN):
            await world.server.add_dkim_key(name, KEYS[0])
        with refused(Refusal.UNKNOWN_DOMAIN):
            await world.server.set_catch_all(name, None)
    with refused(Refusal.UNKNOWN_DOMAIN):
        await a_domain(world.server, parent=a_name())


@covers("disable_domain", "install_domain", "find_account", "fetch", "submit")
async def test_a_disabled_domain_is_gone_but_for_what_is_in_its_mailboxes(world: World) -> None:
    name = await a_domain(world.server)
    agent, peer = await an_account(world, name), await world.account()
    mail = await world.received(agent, a_raw_mail())
    await world.server.disable_domain(name, OWNER)
    await world.server.disable_domain(name, OWNER)
    assert (await refusal(world, agent.address)).startswith("550 ")
    assert await world.server.find_domain(name) is None
    assert await world.server.find_account(agent.address) is None
    assert await world.server.fetch(agent.account_id, [mail.document_id]) == (mail,)
    with refused(Refusal.SENDER_NOT_ALLOWED):
        await world.server.submit(agent.account_id, an_email(agent, peer.address))
    with refused(Refusal.UNKNOWN_DOMAIN):
        await an_account(world, name, "another")
    await a_domain_named(world, name)
    assert await world.server.find_account(agent.address) is not None
    await world.deliver(a_raw_mail(subject="Back"), agent.address)
    assert len(await world.arrived(agent, 2)) == 2


@covers("disable_domain", "install_domain", "create_account", "find_account")
async def test_the_next_owner_of_a_domain_gets_none_of_the_last_ones_mailboxes(
    world: World,
) -> None:
    name = await a_domain(world.server)
    old = await an_account(world, name)
    await world.server.disable_domain(name, OWNER)
    await world.server.install_domain(MailDomainSetup(name=name, owner=OTHER))
    await world.server.disable_domain(name, OWNER)
    assert await world.server.find_account(old.address) is None
    new = await an_account(world, name)
    assert new.account_id != old.account_id
    await world.received(new, a_raw_mail())
    assert (await world.changed(old)).present == ()


@covers("install_domain", "submit")
async def test_a_domain_that_only_sends_refuses_mail_from_outside(world: World) -> None:
    """Its people may have their mail elsewhere: what is for them leaves, what is for an inbox arrives."""
    name = await a_domain(world.server, inbound=False)
    agent, peer = await an_account(world, name), await world.account()
    assert await refusal(world, agent.address) == ("550 5.7.1 This domain does not receive mail.")
    assert (await refusal(world, f"ceo@{name}")).startswith("550 5.7.1 ")
    email = an_email(agent, peer.address)
    assert not (await world.server.submit(agent.account_id, email)).refused_by_all
    assert [each.message_id for each in await world.arrived(peer)] == [email.message_id]
    answer = an_email(peer, agent.address, f"ceo@{name}")
    verdicts = (await world.server.submit(peer.account_id, answer)).verdicts
    assert [each.accepted for each in verdicts] == [True, True]
    assert answer.message_id in {each.message_id for each in await world.arrived(agent, 2)}
    found = await world.server.find_domain(name)
    assert found is not None
    assert not found.inbound
    await a_domain_named(world, name)
    assert await refusal(world, agent.address) == ""


@covers("install_domain", "find_domain", Refusal.FORBIDDEN)
async def test_a_sub_domain_names_the_domain_it_is_signed_for_by(world: World) -> None:
    parent = await a_domain(world.server, dkim=KEYS)
    for name in (f"eu.{parent}", f"a.b.{parent}"):
        setup = MailDomainSetup(name=name, owner=OWNER, parent=parent)
        await world.server.install_domain(setup)
        found = await world.server.find_domain(name)
        assert found is not None
        assert found.parent == parent
        await world.received(await an_account(world, name), a_raw_mail())
    with refused(Refusal.FORBIDDEN):
        setup = MailDomainSetup(name=a_name(), owner=OWNER, parent=parent)
        await world.server.install_domain(setup)


@covers("set_catch_all", "install_domain", "find_domain", "changes")
async def test_a_catch_all_gets_what_is_for_nobody_and_tells_for_whom_it_was(
    world: World,
) -> None:
    name = await a_domain(world.server)
    agent, other = await an_account(world, name), await an_account(world, name, "other")
    await world.server.set_catch_all(name, agent.address.upper())
    await world.server.set_catch_all(name, agent.address)
    tagged = agent.address.replace("@", "+tag@")
    for to in (f"Who.Ever@{name}", agent.address, tagged):
        await world.deliver(a_raw_mail(subject=to), to)
    told = {mail.subject: mail.original_recipient for mail in await world.arrived(agent, 3)}
    assert told == {f"Who.Ever@{name}": f"who.ever@{name}", agent.address: None, tagged: None}
    await world.server.set_catch_all(name, other.address)
    await world.received(other, a_raw_mail(subject="Next"))
    assert (await refusal(world, f"who@{name}")) == ""
    assert len(await world.arrived(other, 2)) == 2
    await world.server.set_catch_all(name, None)
    assert (await refusal(world, f"who@{name}")).startswith("550 ")
    found = await world.server.find_domain(name)
    assert found is not None
    assert found.catch_all is None


@covers("install_domain", "set_catch_all", "disable_domain", "find_domain")
async def test_a_domain_above_the_servers_own_leaves_that_alone(world: World) -> None:
    """Whatever becomes of somebody's domain, everybody's inboxes may stand on a name below it."""
    name = a_name()
    own = f"agents.{name}"
    await world.server.ensure_domain(own)
    mine = await an_account(world, own)
    await world.server.install_domain(MailDomainSetup(name=name, owner=OWNER, dkim=KEYS))
    await world.server.install_domain(MailDomainSetup(name=f"eu.{name}", owner=OWNER, parent=name))
    catcher = await an_account(world, name, "boss")
    await world.server.set_catch_all(name, catcher.address)
    assert (await refusal(world, f"nobody@{own}")).startswith("550 ")
    with refused(Refusal.DOMAIN_TAKEN):
        await world.server.install_domain(MailDomainSetup(name=own, owner=OWNER, parent=name))
    await world.received(mine, a_raw_mail())
    for each in (f"eu.{name}", name, own):
        await world.server.disable_domain(each, OWNER)
    await world.server.submit(mine.account_id, an_email(mine, mine.address))
    # One from outside, one from here, and its copy in Sent.
    assert len(await world.arrived(mine, 3)) == 3
    found = await world.server.find_domain(own)
    assert found is not None
    assert (found.owner, found.parent, found.catch_all) == (None, None, None)


@covers("set_catch_all", "install_domain", Refusal.NO_ACCOUNT)
async def test_a_catch_all_is_an_account_of_ours(world: World) -> None:
    name = await a_domain(world.server)
    stranger = world.address("stranger")
    await world.backstage.add_stranger(stranger)
    for address in (f"nobody@{name}", stranger):
        with refused(Refusal.NO_ACCOUNT):
            await world.server.set_catch_all(name, address)
        with refused(Refusal.NO_ACCOUNT):
            await a_domain(world.server, catch_all=address)


@covers("set_catch_all", "changes")
async def test_nobody_can_claim_a_mail_was_for_somebody_else(world: World) -> None:
    name = await a_domain(world.server)
    agent, plain = await an_account(world, name), await an_account(world, name, "plain")
    await world.server.set_catch_all(name, agent.address)
    forged = a_raw_mail("X-Agentmail-Original-Recipient: ceo@elsewhere.test")
    for account in (agent, plain):
        assert (await world.received(account, forged)).original_recipient is None


@covers("pause_receiving", "find_account", "append")
async def test_a_paused_account_defers_mail_from_outside_and_loses_none(world: World) -> None:
    agent = await world.account()
    tagged = agent.address.replace("@", "+tag@")
    for _ in range(2):
        await world.server.pause_receiving(agent.account_id, True)
    for address in (agent.address, agent.address.upper(), tagged):
        assert (await refusal(world, address)).startswith("451 4.2.1 ")
    found = await world.server.find_account(agent.address)
    assert found is not None
    assert found.paused
    await world.server.append(agent.account_id, a_raw_mail(), folder=Folder.INBOX)
    for _ in range(2):
        await world.server.pause_receiving(agent.account_id, False)
    assert (await world.server.find_account(agent.address)) != found
    for address in (agent.address, tagged):
        assert await refusal(world, address) == ""


@covers("pause_receiving", "submit", "queued_by")
async def test_mail_from_here_waits_for_a_paused_account_and_for_nobody_else(
    world: World,
) -> None:
    sender, paused, other = [await world.account() for _ in range(3)]
    await world.server.pause_receiving(paused.account_id, True)
    email = an_email(sender, paused.address.upper(), other.address)
    submitted = await world.server.submit(sender.account_id, email)
    assert [each.accepted for each in submitted.verdicts] == [True, True]
    assert [each.message_id for each in await world.arrived(other)] == [email.message_id]
    assert (await world.changed(paused)).present == ()
    assert await waiting(world, sender) == {paused.address}
    await world.server.pause_receiving(paused.account_id, False)
    assert [each.message_id for each in await world.arrived(paused)] == [email.message_id]


async def waiting(world: World, sender: Account) -> set[str]:
    queued = await world.server.queued_by(sender.address)
    done = {"delivered", "failed"}
    return {
        to for mail in queued for to, each in mail.recipients.items() if each.status not in done
    }


@covers("pause_receiving", "set_catch_all")
async def test_a_paused_catch_all_defers_what_is_for_nobody_too(world: World) -> None:
    name = await a_domain(world.server)
    agent, other = await an_account(world, name), await an_account(world, name, "other")
    await world.server.pause_receiving(agent.account_id, True)
    await world.server.set_catch_all(name, agent.address)
    assert (await refusal(world, f"who@{name}")).startswith("451 ")
    assert await refusal(world, other.address) == ""
    assert await refusal(world, other.address.replace("@", "+tag@")) == ""
    await world.server.pause_receiving(agent.account_id, False)
    assert await refusal(world, f"who@{name}") == ""
    await world.server.pause_receiving(agent.account_id, True)
    assert (await refusal(world, f"who@{name}")).startswith("451 ")
    await world.server.set_catch_all(name, other.address)
    assert await refusal(world, f"who@{name}") == ""


@covers("pause_receiving", Refusal.NO_ACCOUNT)
async def test_an_account_that_is_gone_is_not_paused(world: World) -> None:
    account = await world.account()
    await world.server.destroy_account(account.account_id)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.pause_receiving(account.account_id, True)


@covers("changes")
async def test_what_came_with_a_mail_is_no_verdict_of_ours(world: World) -> None:
    """Forged Authentication-Results, from outside and from one of our own accounts."""
    agent, peer = await world.account(), await world.account()
    forged = f"mail.{world.domain}; dmarc=pass header.from=bank.test"
    mail = await world.received(agent, a_raw_mail(f"Authentication-Results: {forged}"))
    assert not any("bank.test" in each for each in mail.authentication_results)
    email = an_email(peer, agent.address, headers=(("Authentication-Results", forged),))
    await world.server.submit(peer.account_id, email)
    assert [each.authentication_results for each in await world.arrived(agent, 2)][1] == ()


@covers("install_domain", "disable_domain", "create_account", "find_account")
async def test_what_a_replica_remembers_of_a_domain_is_no_door_to_another_owners(
    world: World,
) -> None:
    """One replica put the domain away and installed it for another owner; this one knew it before."""
    name = await a_domain(world.server)
    old = await an_account(world, name)
    async with world.backstage.client() as replica:
        await replica.disable_domain(name, OWNER)
        await replica.install_domain(MailDomainSetup(name=name, owner=OTHER))
    new = await an_account(world, name)
    another = await an_account(world, name, "another")
    assert new.account_id != old.account_id
    assert (await world.server.find_account(another.address)) == another
    await world.received(another, a_raw_mail())
