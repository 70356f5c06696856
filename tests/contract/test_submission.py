"""Sending: what leaves, what stays, who was refused, and how a sent mail is found again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agentmail_cp.mailserver import (
    Address,
    BlobId,
    Folder,
    MailState,
    OutgoingAttachment,
    Refusal,
    Relabel,
)
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email, refused

SENT = frozenset({Folder.SENT})


@covers("submit", "changes")
async def test_a_mail_reaches_its_recipient_and_leaves_one_copy_in_sent(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address, keywords=frozenset({"sent-by-api", "$Customer:42"}))
    submitted = await world.server.submit(alice.account_id, email)
    assert not submitted.refused_by_all
    assert [(each.address, each.accepted) for each in submitted.verdicts] == [(bob.address, True)]
    (copy,) = (await world.changed(alice)).present
    assert copy.document_id == submitted.document_id
    assert copy.folders == SENT
    assert copy.keywords == {"$seen", "sent-by-api", "$customer:42"}
    assert copy.size == submitted.size
    (mail,) = await world.arrived(bob)
    assert (mail.message_id, mail.subject) == (email.message_id, "Hello")
    assert mail.folders == {Folder.INBOX}
    assert mail.keywords == frozenset()


@covers("submit", "store_draft", "find_own", "fetch")
async def test_labels_a_full_account_has_no_room_for_are_named_when_a_mail_is_stored(
    world: World,
) -> None:
    """They would be lost in silence: the caller was told that the mail is labelled."""
    alice, bob = await world.account(), await world.account()
    full = frozenset(f"k{number}" for number in range(98)) | {"$sent"}
    first = await world.server.append(alice.account_id, a_raw_mail(), folder=Folder.INBOX)
    await world.server.relabel(alice.account_id, [Relabel(first, add=full)])
    keywords = frozenset({"$sent", "k0", "$important", "Late", "more=20late"})
    email = an_email(alice, bob.address, keywords=keywords)
    submitted = await world.server.submit(alice.account_id, email)
    draft = await world.server.store_draft(
        alice.account_id, an_email(alice, keywords=keywords - {"$sent"})
    )
    late = frozenset({"late", "more=20late"})
    assert (submitted.no_room, draft.no_room) == (late, late)
    assert not submitted.refused_by_all
    ids = [submitted.document_id, draft.document_id]
    copy, stored = await world.server.fetch(alice.account_id, ids)
    assert copy.keywords == {"$seen", "$sent", "k0", "$important"}
    assert stored.keywords == {"$seen", "$draft", "k0", "$important"}
    found = await world.server.find_own(alice.account_id, email.message_id, None)
    assert found is not None
    assert found.document_id == submitted.document_id
    await world.arrived(bob)


@covers("submit")
async def test_labels_with_room_are_not_named(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address, keywords=frozenset({"$sent", "Blue", "$flagged"}))
    assert (await world.server.submit(alice.account_id, email)).no_room == frozenset()


@covers("submit")
async def test_a_sent_copy_is_dated_as_the_mail_says(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    date = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5)
    email = an_email(alice, bob.address, date=date)
    await world.server.submit(alice.account_id, email)
    (copy,) = (await world.changed(alice)).present
    assert copy.received_at == copy.sent_at == date
    (mail,) = await world.arrived(bob)
    assert mail.sent_at == date
    assert mail.received_at > date


@covers("submit")
async def test_many_recipients_get_the_mail_and_nobody_sees_who_got_it_blind(
    world: World,
) -> None:
    alice, bob, carol, dave = [await world.account() for _ in range(4)]
    email = an_email(
        alice,
        to=(Address(bob.address, "Bob"),),
        cc=(Address(carol.address),),
        bcc=(Address(dave.address),),
        recipients=(bob.address, carol.address, dave.address),
    )
    submitted = await world.server.submit(alice.account_id, email)
    assert [each.accepted for each in submitted.verdicts] == [True, True, True]
    for account in (bob, carol, dave):
        (mail,) = await world.arrived(account)
        assert mail.to == (Address(bob.address, "Bob"),)
        assert mail.cc == (Address(carol.address),)
        assert mail.bcc == ()
        content = await world.content(account, mail.document_id)
        assert dave.address not in [
            value for name, value in content.headers if name.lower() != "delivered-to"
        ]
        assert "bcc" not in {name.lower() for name, _ in content.headers}
    (copy,) = (await world.changed(alice)).present
    assert copy.bcc == (Address(dave.address),)


@covers("submit")
async def test_long_references_arrive_complete_and_readable(world: World) -> None:
    """Folding that breaks these headers ends every thread in Outlook and Exchange."""
    alice, bob = await world.account(), await world.account()
    references = tuple(f"{number:0>90}.{'x' * 80}@remote.test" for number in range(60))
    email = an_email(alice, bob.address, in_reply_to=references[-1:], references=references)
    await world.server.submit(alice.account_id, email)
    (mail,) = await world.arrived(bob)
    assert mail.references == references
    assert mail.in_reply_to == references[-1:]
    content = await world.content(bob, mail.document_id)
    raw = b"".join([c async for c in world.server.download(bob.account_id, content.raw_blob_id)])
    assert b"=?" not in raw
    assert max(len(line) for line in raw.splitlines()) <= 998


@covers("submit", "read")
async def test_text_beyond_ascii_survives_in_subject_names_and_bodies(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(
        alice,
        bob.address,
        sender=Address(alice.address, "Ägent Ønsker, der „Große“"),
        to=(Address(bob.address, "山田太郎"),),
        subject="Grüße — 日本語 🚀 " * 12,
        text="Zeile eins äöü\n\n.Punkt\nFrom hier\n日本語 🚀\n",
        html="<p>äöü 日本語 🚀</p>",
    )
    await world.server.submit(alice.account_id, email)
    (mail,) = await world.arrived(bob)
    assert mail.subject is not None
    assert mail.subject.strip() == email.subject.strip()
    assert mail.sender == email.sender
    assert mail.to == email.to
    content = await world.content(bob, mail.document_id)
    assert (content.text, content.html) == (email.text, email.html)


@covers("submit", "read")
@pytest.mark.parametrize(
    ("text", "html"), [("only text", None), (None, "<p>only html</p>"), ("both", "<p>both</p>")]
)
async def test_a_body_may_be_text_or_html_or_both(
    world: World, text: str | None, html: str | None
) -> None:
    alice, bob = await world.account(), await world.account()
    await world.server.submit(alice.account_id, an_email(alice, bob.address, text=text, html=html))
    (mail,) = await world.arrived(bob)
    content = await world.content(bob, mail.document_id)
    assert (content.text, content.html) == (text, html)
    assert content.attachments == ()
    assert not mail.has_attachment


@covers("submit", "read")
async def test_reply_to_and_own_headers_are_sent(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(
        alice,
        bob.address,
        reply_to=(Address("team@corp.test", "Team"), Address("two@corp.test")),
        headers=(("X-Campaign", "spring 2027"), ("List-Unsubscribe", "<https://corp.test/u?a=1>")),
    )
    await world.server.submit(alice.account_id, email)
    (mail,) = await world.arrived(bob)
    assert mail.reply_to == email.reply_to
    headers = (await world.content(bob, mail.document_id)).headers
    assert set(email.headers) <= set(headers)


@covers("submit", "upload", "read", "download")
async def test_attachments_are_sent_with_name_type_and_content_id(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    upload = world.server.upload
    pdf = await upload(alice.account_id, b"%PDF-1.7 \x00\xff" * 999, "application/pdf")
    png = await upload(alice.account_id, b"\x89PNG\r\n\x1a\n", "image/png")
    email = an_email(
        alice,
        bob.address,
        html='<img src="cid:logo">',
        attachments=(
            OutgoingAttachment(pdf, "application/pdf", "Rechnung März.pdf"),
            OutgoingAttachment(png, "image/png", "logo.png", "logo", inline=True),
        ),
    )
    await world.server.submit(alice.account_id, email)
    (mail,) = await world.arrived(bob)
    assert mail.has_attachment
    attachments = (await world.content(bob, mail.document_id)).attachments
    found = {each.filename: each for each in attachments}
    assert set(found) == {"Rechnung März.pdf", "logo.png"}
    first, second = found["Rechnung März.pdf"], found["logo.png"]
    assert (first.content_type, first.size, first.inline) == ("application/pdf", 10989, False)
    assert (second.content_id, second.inline, second.size) == ("logo", True, 8)
    parts = [part async for part in world.server.download(bob.account_id, first.blob_id)]
    assert b"".join(parts) == b"%PDF-1.7 \x00\xff" * 999


@covers("submit", Refusal.NO_BLOB)
async def test_an_attachment_that_was_never_uploaded_sends_nothing(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    missing = OutgoingAttachment(BlobId("never"), "text/plain", "a.txt")
    with refused(Refusal.NO_BLOB):
        await world.server.submit(
            alice.account_id, an_email(alice, bob.address, attachments=(missing,))
        )
    assert (await world.changed(alice)).present == ()


@covers("submit", "find_own")
async def test_a_mail_that_everybody_refuses_goes_nowhere(world: World) -> None:
    alice = await world.account()
    nobody, nobody_else = world.address("nobody"), world.address("nobody")
    email = an_email(alice, nobody, nobody_else)
    submitted = await world.server.submit(alice.account_id, email)
    assert submitted.refused_by_all
    assert [each.address for each in submitted.verdicts] == [nobody, nobody_else]
    assert all("550" in each.reply for each in submitted.verdicts)
    found = await world.server.find_own(alice.account_id, email.message_id, alice.state)
    assert found is not None
    assert found.document_id == submitted.document_id
    assert found.submitted is not None
    assert found.submitted.refused_by_all


@covers("submit")
async def test_a_mail_that_some_refuse_reaches_the_others(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    nobody = world.address("nobody")
    email = an_email(alice, bob.address, nobody)
    submitted = await world.server.submit(alice.account_id, email)
    assert not submitted.refused_by_all
    verdicts = {each.address: each.accepted for each in submitted.verdicts}
    assert verdicts == {bob.address: True, nobody: False}
    assert (await world.arrived(bob))[0].message_id == email.message_id


@covers("submit")
async def test_mail_to_another_domain_is_accepted_for_later(world: World) -> None:
    alice = await world.account()
    submitted = await world.server.submit(
        alice.account_id, an_email(alice, "somebody@elsewhere.test")
    )
    assert [each.accepted for each in submitted.verdicts] == [True]


@covers("submit", "find_own")
async def test_a_mail_to_oneself_is_there_twice_and_found_as_the_sent_one(world: World) -> None:
    alice = await world.account()
    email = an_email(alice, alice.address)
    submitted = await world.server.submit(alice.account_id, email)
    mails = await world.arrived(alice, 2)
    assert {mail.message_id for mail in mails} == {email.message_id}
    assert sorted(min(mail.folders) for mail in mails) == [Folder.INBOX, Folder.SENT]
    found = await world.server.find_own(alice.account_id, email.message_id, alice.state)
    assert found is not None
    assert found.document_id == submitted.document_id
    assert found.submitted is not None


@covers("submit", Refusal.SENDER_NOT_ALLOWED)
async def test_nobody_sends_as_somebody_else(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address, sender=Address(bob.address))
    with refused(Refusal.SENDER_NOT_ALLOWED):
        await world.server.submit(alice.account_id, email)
    assert (await world.changed(alice)).present == ()
    assert (await world.changed(bob)).present == ()


@covers("submit", Refusal.TOO_MANY_RECIPIENTS)
async def test_a_mail_to_too_many_sends_nothing(world: World) -> None:
    alice = await world.account()
    crowd = [f"user{number}@elsewhere.test" for number in range(world.max_recipients + 1)]
    with refused(Refusal.TOO_MANY_RECIPIENTS):
        await world.server.submit(alice.account_id, an_email(alice, *crowd))
    assert (await world.changed(alice)).present == ()


@covers("submit", "upload", Refusal.TOO_LARGE)
async def test_a_mail_beyond_the_servers_size_sends_nothing(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    upload = await world.server.upload(alice.account_id, bytes(world.max_size), "image/png")
    file = OutgoingAttachment(upload, "image/png", "large.png")
    with refused(Refusal.TOO_LARGE):
        await world.server.submit(
            alice.account_id, an_email(alice, bob.address, attachments=(file,))
        )
    assert (await world.changed(alice)).present == ()


@covers("submit", Refusal.INVALID_MAIL)
async def test_a_mail_to_nobody_is_refused(world: World) -> None:
    alice = await world.account()
    with refused(Refusal.INVALID_MAIL):
        await world.server.submit(alice.account_id, an_email(alice))
    assert (await world.changed(alice)).present == ()


@covers("submit", Refusal.NO_ACCOUNT)
async def test_an_account_that_is_gone_sends_nothing(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    await world.server.destroy_account(alice.account_id)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.submit(alice.account_id, an_email(alice, bob.address))


@covers("submit", "fault:reject", Refusal.OVER_QUOTA)
async def test_a_full_account_sends_nothing(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    async with world.backstage.over_quota(alice) as server:
        with refused(Refusal.OVER_QUOTA):
            await server.submit(alice.account_id, an_email(alice, bob.address))
    assert (await world.changed(alice)).present == ()


@covers("find_own")
async def test_a_sent_mail_is_found_by_its_message_id_from_any_state(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address)
    submitted = await world.server.submit(alice.account_id, email)
    for since in (alice.state, None, MailState("garbage")):
        found = await world.server.find_own(alice.account_id, email.message_id, since)
        assert found is not None
        assert found.document_id == submitted.document_id
        assert found.submitted is not None
        assert not found.submitted.refused_by_all


@covers("find_own")
async def test_nothing_is_found_that_was_not_sent_since(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address)
    assert await world.server.find_own(alice.account_id, email.message_id, alice.state) is None
    await world.server.submit(alice.account_id, email)
    (mail,) = await world.arrived(bob)
    assert mail.message_id is not None
    assert await world.server.find_own(bob.account_id, mail.message_id, bob.state) is None
    later = (await world.changed(alice)).state
    assert await world.server.find_own(alice.account_id, email.message_id, later) is None


@covers("find_own", "append")
async def test_a_mail_that_was_stored_and_never_handed_in_is_told_apart(world: World) -> None:
    alice = await world.account()
    raw = a_raw_mail("Message-ID: <draft-1@contract.test>")
    draft = await world.server.append(
        alice.account_id, raw, folder=Folder.DRAFTS, keywords=frozenset({"$draft"})
    )
    found = await world.server.find_own(alice.account_id, "draft-1@contract.test", alice.state)
    assert found is not None
    assert found.document_id == draft
    assert found.submitted is None


@covers("submit", "fault:refuse")
async def test_a_refused_recipient_comes_with_the_servers_own_words(world: World) -> None:
    """What a policy says at RCPT must reach the caller word for word."""
    alice, bob = await world.account(), await world.account()
    reply = "550 5.7.1 Recipient blocked by policy"
    async with world.backstage.refusing(bob.address, reply) as server:
        submitted = await server.submit(alice.account_id, an_email(alice, bob.address))
    assert submitted.refused_by_all
    assert submitted.verdicts[0].reply == reply
    assert (await world.changed(bob)).present == ()


@covers("submit", "fault:bounce")
async def test_a_bounce_comes_back_as_a_mail(world: World) -> None:
    alice = await world.account()
    recipient = world.address("bouncing")
    async with world.backstage.bouncing(recipient) as server:
        submitted = await server.submit(alice.account_id, an_email(alice, recipient))
        assert not submitted.refused_by_all
        mails = await world.arrived(alice, 2)
    (bounce,) = [mail for mail in mails if Folder.INBOX in mail.folders]
    assert bounce.subject == "Failed to deliver message"
    assert bounce.sender is not None
    assert bounce.sender.email.lower().startswith("mailer-daemon@")
    content = await world.content(alice, bounce.document_id)
    headers = dict(content.headers)
    assert headers["Content-Type"].startswith("multipart/report")
    assert headers["Auto-Submitted"] == "auto-generated"
    assert recipient in (content.text or "")
    kinds = [each.content_type for each in content.attachments]
    assert kinds == ["message/delivery-status", "message/rfc822"]
