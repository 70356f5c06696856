"""What became of a mail: told by its queue id, seen in the queue while it waits, and mailed as a report."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agentmail_cp.mailserver import (
    Complaint,
    Folder,
    MailServerRejected,
    NewAccount,
    Outcome,
    QueueStatus,
    ReportType,
)
from agentmail_cp.sandbox.reports import feedback_report
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email
from tests.fix_app import until

NOBODY_ASKED = 7


@covers("submit", "queue")
async def test_a_delivery_is_told_by_the_queue_id_the_mail_was_given(world: World) -> None:
    """Nothing else says which mail was delivered."""
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address)
    before = datetime.now(UTC).replace(microsecond=0)
    async with world.backstage.hearing() as heard:
        await world.server.submit(alice.account_id, email)
        report = await heard.report(email, bob.address, Outcome.DELIVERED)
    assert report.sender == alice.address
    assert before <= report.at <= datetime.now(UTC)
    assert (report.code, report.diagnostic) == ("250", None)
    assert heard.enqueued[0].sender == alice.address
    await until(lambda: world.server.queue([report.queue_id]), lambda mails: not mails)


@covers("submit", "raw_blob", "download", "changes", "fault:bounce")
async def test_a_bounce_is_told_and_mailed_as_a_report_that_names_the_mail(world: World) -> None:
    """When the telling is lost, the mail is what remains."""
    alice, bob = await world.account(), await world.account()
    recipient = world.address("bouncing")
    email = an_email(alice, bob.address, recipient)
    async with world.backstage.hearing() as heard:
        async with world.backstage.bouncing(recipient) as server:
            await server.submit(alice.account_id, email)
            mails = await world.arrived(alice, 2)
        report = await heard.report(email, recipient, Outcome.FAILED)
        await heard.report(email, bob.address, Outcome.DELIVERED)
    assert (report.code or "").startswith("5")
    assert report.diagnostic
    copy, bounce = sorted(mails, key=lambda mail: Folder.INBOX in mail.folders)
    assert (copy.report, bounce.report) == (None, ReportType.DELIVERY_STATUS)
    blob_id = await world.server.raw_blob(alice.account_id, bounce.document_id)
    raw = b"".join([part async for part in world.server.download(alice.account_id, blob_id)])
    assert f"<{email.message_id}>".encode() in raw
    assert f"Original-Envelope-Id: {email.message_id}".encode() in raw


@covers("submit", "queue", "queued_by", "fault:delay")
async def test_a_mail_that_waits_is_seen_in_the_queue_and_told_when_it_arrives(
    world: World,
) -> None:
    alice, bob, carol = [await world.account() for _ in range(3)]
    email = an_email(alice, bob.address, carol.address)
    async with world.backstage.hearing() as heard:
        async with world.backstage.delaying(bob) as server:
            await server.submit(alice.account_id, email)
            await heard.report(email, carol.address, Outcome.DELIVERED)
            queue_id = heard.queue_id(email)
            mail = (await server.queue([queue_id, NOBODY_ASKED]))[queue_id]
            assert await server.queued_by(alice.address.upper()) == (mail,)
            assert await server.queued_by(alice.address[1:]) == ()
        await heard.report(email, bob.address, Outcome.DELIVERED)
    assert (mail.sender, mail.message_id) == (alice.address, email.message_id)
    waiting, there = mail.recipients[bob.address], mail.recipients[carol.address]
    assert (waiting.status, there.status) == (QueueStatus.DELAYED, QueueStatus.DELIVERED)
    assert (waiting.code or "").startswith("4")
    assert waiting.diagnostic
    (arrived,) = await world.arrived(bob)
    assert arrived.message_id == email.message_id


@covers("submit", "queued_by")
@pytest.mark.parametrize("odd", ["a+b=c", "x" * 90, "\u00fc"])
async def test_a_message_id_comes_back_from_the_queue_as_it_was_or_not_at_all(
    world: World, odd: str
) -> None:
    """Taken for another mail's, its outcome would be told of that one."""
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address, message_id=f"{odd}@{world.domain}")
    async with world.backstage.delaying(bob) as server:
        try:
            await server.submit(alice.account_id, email)
        except MailServerRejected:
            return
        (mail,) = await server.queued_by(alice.address)
    assert mail.message_id in {email.message_id, None}


@covers("queue")
async def test_a_queue_that_is_asked_about_nothing_answers_nothing(world: World) -> None:
    assert await world.server.queue([]) == {}
    assert await world.server.queue([NOBODY_ASKED]) == {}


@covers("submit", "fetch", "fault:complain")
async def test_a_complaint_about_a_mail_comes_to_its_sender_as_a_report(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address)
    async with world.backstage.complaining(email) as server:
        await server.submit(alice.account_id, email)
    mails = await world.arrived(alice, 2)
    (complaint,) = [mail for mail in mails if Folder.INBOX in mail.folders]
    assert complaint.report is ReportType.FEEDBACK
    (again,) = await world.server.fetch(alice.account_id, [complaint.document_id])
    assert again == complaint


@covers("complaints", "forget_complaints")
async def test_complaints_to_the_postmaster_are_kept_until_they_are_forgotten(
    world: World,
) -> None:
    postmaster = f"postmaster@{world.domain}"
    if await world.server.find_account(postmaster) is None:
        await world.server.create_account(NewAccount(postmaster))
    raw = feedback_report(
        b"Message-ID: <m@x>", sender="a@x.test", recipient="b@y.test", now=datetime.now(UTC)
    ).replace(b"Version: 1", b"Version: 1\r\nOriginal-Envelope-Id: M1@x.test")
    await world.deliver(raw, postmaster, mail_from="fbl@y.test")
    await world.deliver(a_raw_mail(), postmaster)
    (complaint,) = await until(world.server.complaints, bool)
    assert complaint == Complaint(
        complaint_id=complaint.complaint_id,
        kind="abuse",
        at=complaint.at,
        message_id="M1@x.test",
        sender="a@x.test",
        recipients=("b@y.test",),
    )
    for _ in range(2):
        await world.server.forget_complaints([complaint.complaint_id])
    assert await world.server.complaints() == ()
