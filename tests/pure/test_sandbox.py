"""What only the sandbox has: bells, an outbox, hooks, faults for some calls, a bounded memory."""

from __future__ import annotations

import asyncio
import smtplib
from datetime import UTC, datetime

import pytest

from agentmail_cp.mailserver import (
    Account,
    AccountId,
    Address,
    Folder,
    MailServerRejected,
    MailServerUnavailable,
    NewAccount,
    OutgoingEmail,
    Refusal,
    Relabel,
)
from agentmail_cp.sandbox import Faults, MailSandbox, mailbox

RAW = b"Subject: Hello\r\n\r\nHi"


def an_email(sender: Account, *recipients: str) -> OutgoingEmail:
    return OutgoingEmail(
        message_id="m1@sandbox.test",
        date=datetime.now(UTC),
        sender=Address(sender.address),
        text="Hi",
        recipients=recipients,
    )


async def an_account(sandbox: MailSandbox, name: str) -> Account:
    await sandbox.ensure_domain("sandbox.test")
    return await sandbox.create_account(NewAccount(f"{name}@sandbox.test"))


async def test_the_bell_rings_for_every_account_whose_mail_changed() -> None:
    rung: list[AccountId] = []
    sandbox = MailSandbox(on_bell=rung.append)
    alice, bob = await an_account(sandbox, "alice"), await an_account(sandbox, "bob")
    assert rung == []

    await sandbox.submit(alice.account_id, an_email(alice, bob.address))
    assert rung == [alice.account_id, bob.account_id]

    rung.clear()
    document_id = await sandbox.append(bob.account_id, RAW, folder=Folder.INBOX)
    await sandbox.relabel(bob.account_id, [Relabel(document_id, add=frozenset({"$seen"}))])
    await sandbox.destroy_mail(bob.account_id, [document_id])
    assert rung == [bob.account_id] * 3

    rung.clear()
    await sandbox.destroy_mail(bob.account_id, [document_id])
    await sandbox.ring()
    assert rung == []


async def test_mail_for_other_domains_waits_in_the_outbox_without_bcc() -> None:
    sandbox = MailSandbox()
    alice = await an_account(sandbox, "alice")
    await sandbox.submit(alice.account_id, an_email(alice, "x@elsewhere.test"))
    (mail,) = sandbox.outbox
    assert (mail.sender, mail.recipient) == (alice.address, "x@elsewhere.test")
    assert b"Message-ID: <m1@sandbox.test>" in mail.raw


async def test_faults_may_concern_some_calls_only() -> None:
    sandbox = MailSandbox()
    alice = await an_account(sandbox, "alice")
    sandbox.faults = Faults(down=True, methods=frozenset({"submit"}))
    with pytest.raises(MailServerUnavailable):
        await sandbox.submit(alice.account_id, an_email(alice, alice.address))
    assert (await sandbox.listing(alice.account_id)).document_ids == ()


async def test_a_slow_call_within_patience_is_answered() -> None:
    sandbox = MailSandbox(patience=5)
    sandbox.faults = Faults(slow=0.01)
    assert (await sandbox.status()).product == "sandbox"


async def test_a_test_can_stop_the_world_before_and_after_a_call() -> None:
    sandbox = MailSandbox()
    alice = await an_account(sandbox, "alice")
    seen: list[int] = []

    async def count() -> None:
        seen.append(len((await sandbox.listing(alice.account_id)).document_ids))

    sandbox.before["append"] = sandbox.after["append"] = count
    await sandbox.append(alice.account_id, RAW, folder=Folder.INBOX)
    assert seen == [0, 1]


async def test_a_crash_in_a_hook_reaches_the_caller() -> None:
    """A test kills the caller between the work and its answer in this way."""
    sandbox = MailSandbox()
    alice = await an_account(sandbox, "alice")

    async def crash() -> None:
        raise asyncio.CancelledError

    sandbox.after["append"] = crash
    with pytest.raises(asyncio.CancelledError):
        await sandbox.append(alice.account_id, RAW, folder=Folder.INBOX)
    sandbox.after.clear()
    assert len((await sandbox.listing(alice.account_id)).document_ids) == 1


async def test_states_of_another_account_or_beyond_the_history_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mailbox, "HISTORY", 3)
    sandbox = MailSandbox()
    alice, bob = await an_account(sandbox, "alice"), await an_account(sandbox, "bob")
    for _ in range(4):
        await sandbox.append(alice.account_id, RAW, folder=Folder.INBOX)
    for state in (alice.state, bob.state):
        box = sandbox.mailbox(alice.account_id)
        with pytest.raises(MailServerRejected) as caught:
            box.changes(state, 10)
        assert caught.value.code == Refusal.STATE_LOST


async def test_the_smtp_door_is_down_with_the_rest_and_comes_back() -> None:
    sandbox = MailSandbox()
    alice = await an_account(sandbox, "alice")

    def send(port: int) -> int:
        with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=10) as client:
            client.ehlo_or_helo_if_needed()
            client.mail("peer@remote.test")
            return client.rcpt(alice.address)[0]

    async with sandbox.listening() as door:
        sandbox.faults = Faults(down=True)
        assert await asyncio.to_thread(send, door.port) == 451
        sandbox.faults = Faults()
        assert await asyncio.to_thread(send, door.port) == 250


async def test_the_smtp_door_closes_on_clients_that_stay() -> None:
    sandbox = MailSandbox()
    async with sandbox.listening() as door:
        client = await asyncio.to_thread(smtplib.SMTP, "127.0.0.1", door.port, "client.test")
    with pytest.raises(smtplib.SMTPServerDisconnected):
        await asyncio.to_thread(client.noop)
    client.close()
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(smtplib.SMTP, "127.0.0.1", door.port)


async def test_a_mail_over_smtp_that_is_too_large_or_has_long_lines_is_judged_by_size_only() -> (
    None
):
    sandbox = MailSandbox(max_size=200_000)
    alice = await an_account(sandbox, "alice")

    def send(port: int, size: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=10) as client:
            client.sendmail("peer@remote.test", [alice.address], RAW + b"x" * size)

    async with sandbox.listening() as door:
        await asyncio.to_thread(send, door.port, 150_000)
        with pytest.raises((smtplib.SMTPDataError, smtplib.SMTPSenderRefused)) as caught:
            await asyncio.to_thread(send, door.port, 250_000)
    assert caught.value.smtp_code == 552
    assert len((await sandbox.listing(alice.account_id)).document_ids) == 1


async def test_mail_over_smtp_to_a_bouncing_recipient_comes_back_to_a_local_sender() -> None:
    sandbox = MailSandbox()
    alice, bob = await an_account(sandbox, "alice"), await an_account(sandbox, "bob")
    sandbox.faults = Faults(bounce=frozenset({bob.address}))

    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=10) as client:
            client.sendmail(alice.address, [bob.address], RAW)

    async with sandbox.listening() as door:
        await asyncio.to_thread(send, door.port)
    (document_id,) = (await sandbox.listing(alice.account_id)).document_ids
    (bounce,) = await sandbox.fetch(alice.account_id, [document_id])
    assert bounce.subject == "Failed to deliver message"
    assert (await sandbox.listing(bob.account_id)).document_ids == ()
