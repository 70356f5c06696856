"""Domains and the life of an account."""

from __future__ import annotations

import smtplib

import pytest

from agentmail_cp.mailserver import Folder, MailServerRejected, NewAccount, Refusal
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email, refused

HASH = "{SSHA512}" + "A" * 96


@covers("status")
async def test_status_names_the_product_and_misses_no_permission(world: World) -> None:
    status = await world.server.status()
    assert status.product
    assert status.version[0].isdigit()
    assert status.missing == ()


@covers("ensure_domain", "create_account")
async def test_a_new_domain_takes_accounts_at_once(world: World) -> None:
    domain = world.address().replace("@", ".")
    await world.server.ensure_domain(domain)
    await world.server.ensure_domain(domain)
    account = await world.server.create_account(NewAccount(f"first@{domain}"))
    assert account.address == f"first@{domain}"


@covers("ensure_domain", Refusal.FORBIDDEN)
async def test_what_is_no_domain_name_is_refused(world: World) -> None:
    with refused(Refusal.FORBIDDEN):
        await world.server.ensure_domain("no domain")


@covers("create_account", "find_account")
async def test_a_created_account_is_found_by_its_address_in_any_case(world: World) -> None:
    account = await world.account("Ägent Smith")
    found = await world.server.find_account(account.address.upper())
    assert found == account
    assert account.ours


@covers("create_account", "changes")
async def test_the_state_of_a_new_account_is_a_cursor_that_misses_nothing(world: World) -> None:
    account = await world.account()
    document_id = await world.server.append(account.account_id, a_raw_mail(), folder=Folder.INBOX)
    changed = await world.changed(account, account.state)
    assert [mail.document_id for mail in changed.present] == [document_id]


@covers("find_account")
async def test_no_account_is_found_by_another_name_of_its_mailbox(world: World) -> None:
    account = await world.account()
    tagged = account.address.replace("@", "+tag@")
    assert await world.server.find_account(tagged) is None
    assert await world.server.find_account(world.address("nobody")) is None
    assert await world.server.find_account("somebody@never-heard-of.test") is None


@covers("find_account", "create_account", Refusal.ADDRESS_TAKEN)
async def test_an_account_of_somebody_else_is_not_ours_and_its_address_is_taken(
    world: World,
) -> None:
    address = world.address("stranger")
    await world.backstage.add_stranger(address)
    found = await world.server.find_account(address)
    assert found is not None
    assert not found.ours
    with refused(Refusal.ADDRESS_TAKEN):
        await world.server.create_account(NewAccount(address))


@covers("create_account", Refusal.ADDRESS_TAKEN)
async def test_an_address_belongs_to_one_account(world: World) -> None:
    account = await world.account()
    for spelling in (account.address, account.address.upper()):
        with refused(Refusal.ADDRESS_TAKEN):
            await world.server.create_account(NewAccount(spelling))


@covers("create_account", Refusal.UNKNOWN_DOMAIN)
async def test_an_account_needs_a_domain_of_the_server(world: World) -> None:
    with refused(Refusal.UNKNOWN_DOMAIN):
        await world.server.create_account(NewAccount("somebody@never-heard-of.test"))


@covers("create_account", "set_password")
async def test_a_password_is_given_as_a_hash_and_can_be_replaced_and_taken_away(
    world: World,
) -> None:
    new = NewAccount(world.address(), password_hash=HASH)
    account = await world.server.create_account(new)
    await world.server.set_password(account.account_id, HASH.replace("A", "B"))
    await world.server.set_password(account.account_id, None)
    await world.server.set_password(account.account_id, HASH)
    assert (await world.server.find_account(account.address)) is not None


@covers("set_password", "retire_account", Refusal.NO_ACCOUNT)
async def test_an_account_that_is_gone_cannot_be_changed(world: World) -> None:
    account = await world.account()
    await world.server.destroy_account(account.account_id)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.set_password(account.account_id, HASH)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.retire_account(account.account_id)


@covers("retire_account", "find_account", "fetch", "read", "listing", "changes")
async def test_a_retired_account_gets_no_mail_and_keeps_what_it_has(world: World) -> None:
    account = await world.account()
    mail = await world.received(account, a_raw_mail(body="Keep me\r\n"))
    await world.server.retire_account(account.account_id)
    await world.server.retire_account(account.account_id)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        await world.deliver(a_raw_mail(), account.address)
    assert [code for code, _ in caught.value.recipients.values()] == [550]
    assert await world.server.find_account(account.address) is None
    assert (await world.server.listing(account.account_id)).document_ids == (mail.document_id,)
    assert await world.server.fetch(account.account_id, [mail.document_id]) == (mail,)
    assert (await world.content(account, mail.document_id)).text == "Keep me\n"
    assert (await world.changed(account)).present == (mail,)


@covers("retire_account", "submit")
async def test_mail_of_ours_to_a_retired_address_is_refused_like_any_unknown_one(
    world: World,
) -> None:
    sender, retired = await world.account(), await world.account()
    await world.server.retire_account(retired.account_id)
    submitted = await world.server.submit(sender.account_id, an_email(sender, retired.address))
    assert submitted.refused_by_all
    assert submitted.verdicts[0].reply.startswith("550 ")


@covers("retire_account", "submit", Refusal.SENDER_NOT_ALLOWED)
async def test_a_retired_account_sends_nothing(world: World) -> None:
    retired, other = await world.account(), await world.account()
    await world.server.retire_account(retired.account_id)
    with refused(Refusal.SENDER_NOT_ALLOWED):
        await world.server.submit(retired.account_id, an_email(retired, other.address))


@covers("retire_account", "create_account", "destroy_account", Refusal.ADDRESS_TAKEN)
async def test_a_retired_address_stays_taken_until_its_account_is_destroyed(
    world: World,
) -> None:
    account = await world.account()
    await world.server.retire_account(account.account_id)
    with refused(Refusal.ADDRESS_TAKEN):
        await world.server.create_account(NewAccount(account.address))
    await world.server.destroy_account(account.account_id)
    again = await world.server.create_account(NewAccount(account.address))
    assert again.account_id != account.account_id


@covers("destroy_account", "find_account", "listing", Refusal.NO_ACCOUNT, MailServerRejected)
async def test_a_destroyed_account_is_gone_with_its_mail_and_destroying_it_again_is_fine(
    world: World,
) -> None:
    account = await world.account()
    await world.received(account, a_raw_mail())
    await world.server.destroy_account(account.account_id)
    await world.server.destroy_account(account.account_id)
    assert await world.server.find_account(account.address) is None
    with pytest.raises(MailServerRejected) as caught:
        await world.server.listing(account.account_id)
    assert caught.value.code == Refusal.NO_ACCOUNT
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await world.deliver(a_raw_mail(), account.address)
