"""Drafts: an unfinished mail is kept whole, a newer version takes an older one's place, once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from agentmail_cp.mailserver import (
    Address,
    BlobId,
    DocumentId,
    Folder,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    OutgoingAttachment,
    Refusal,
    Relabel,
    Stored,
)
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email, refused

DRAFT = frozenset({"$draft", "$seen"})


@covers("store_draft", "upload", "read", "changes")
async def test_a_draft_is_kept_with_everything_it_will_be_sent_with(world: World) -> None:
    """Whoever opens the account in a mail client goes on writing it; bcc must not get lost."""
    alice = await world.account()
    blob = await world.server.upload(alice.account_id, b"%PDF-1.7", "application/pdf")
    date = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    email = an_email(
        alice,
        date=date,
        to=(Address("bob@remote.test", "Bob"),),
        cc=(Address("carol@remote.test"),),
        bcc=(Address("dave@remote.test"), Address("eve@remote.test", "Eve Ä")),
        reply_to=(Address("team@remote.test"), Address("two@remote.test")),
        html="<p>Hi there</p>",
        in_reply_to=("parent@remote.test",),
        references=("root@remote.test", "parent@remote.test"),
        headers=(("X-Draft-Of", "7"),),
        attachments=(OutgoingAttachment(blob, "application/pdf", "Plan.pdf"),),
        keywords=frozenset({"Blue"}),
    )
    draft = await world.server.store_draft(alice.account_id, email)
    (mail,) = (await world.changed(alice)).present
    assert (mail.document_id, mail.size) == (draft.document_id, draft.size)
    assert (mail.folders, mail.keywords) == ({Folder.DRAFTS}, {*DRAFT, "blue"})
    assert (mail.message_id, mail.subject, mail.preview) == (email.message_id, "Hello", "Hi there")
    assert (mail.sender, mail.to, mail.cc, mail.bcc) == (
        email.sender,
        email.to,
        email.cc,
        email.bcc,
    )
    assert mail.reply_to == email.reply_to
    assert (mail.in_reply_to, mail.references) == (email.in_reply_to, email.references)
    assert mail.received_at == mail.sent_at == date
    assert mail.has_attachment
    content = await world.content(alice, draft.document_id)
    assert (content.text, content.html) == ("Hi there", "<p>Hi there</p>")
    assert ("X-Draft-Of", "7") in content.headers
    assert [each.filename for each in content.attachments] == ["Plan.pdf"]


@covers("store_draft")
async def test_a_draft_may_be_empty(world: World) -> None:
    """People begin with nothing: no recipient, no subject, no text."""
    alice = await world.account()
    email = an_email(alice, subject="", text=None)
    draft = await world.server.store_draft(alice.account_id, email)
    (mail,) = (await world.changed(alice)).present
    assert (mail.document_id, mail.to, mail.preview) == (draft.document_id, (), "")
    assert not mail.subject
    content = await world.content(alice, draft.document_id)
    assert not content.text
    assert content.html is None


@covers("store_draft")
async def test_a_draft_goes_nowhere(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    email = an_email(alice, bob.address)
    await world.server.store_draft(alice.account_id, email)
    found = await world.server.find_own(alice.account_id, email.message_id, alice.state)
    assert found is not None
    assert found.submitted is None
    assert (await world.changed(bob)).present == ()


@covers("store_draft", "listing")
async def test_a_new_version_takes_the_place_of_the_old_one(world: World) -> None:
    alice = await world.account()
    email = an_email(alice)
    old = await world.server.store_draft(alice.account_id, email)
    newer = msgspec.structs.replace(email, text="Better")
    draft = await world.server.store_draft(alice.account_id, newer, replaces=old.document_id)
    listing = await world.server.listing(alice.account_id)
    assert listing.document_ids == (draft.document_id,)
    assert (await world.content(alice, draft.document_id)).text == "Better"


@covers("store_draft", "upload")
async def test_a_new_version_keeps_the_attachments_of_the_old_one(world: World) -> None:
    """They are never uploaded again: the blob ids of the stored draft are used."""
    alice = await world.account()
    data = bytes(range(256)) * 40
    blob = await world.server.upload(alice.account_id, data, "image/png")
    first = OutgoingAttachment(blob, "image/png", "a.png")
    old = await world.server.store_draft(alice.account_id, an_email(alice, attachments=(first,)))
    (kept,) = (await world.content(alice, old.document_id)).attachments
    again = OutgoingAttachment(kept.blob_id, kept.content_type, kept.filename)
    draft = await world.server.store_draft(
        alice.account_id, an_email(alice, attachments=(again,)), replaces=old.document_id
    )
    (found,) = (await world.content(alice, draft.document_id)).attachments
    chunks = [part async for part in world.server.download(alice.account_id, found.blob_id)]
    assert b"".join(chunks) == data


@covers("store_draft", "destroy_mail", Refusal.NO_MAIL)
async def test_a_version_that_is_gone_is_not_replaced_and_nothing_is_kept(world: World) -> None:
    """It was sent or deleted: a draft must not rise again from an edit that came late."""
    alice = await world.account()
    old = await world.server.store_draft(alice.account_id, an_email(alice))
    await world.server.destroy_mail(alice.account_id, [old.document_id])
    for gone in (old.document_id, DocumentId(99_999)):
        with refused(Refusal.NO_MAIL):
            await world.server.store_draft(alice.account_id, an_email(alice), replaces=gone)
    assert (await world.server.listing(alice.account_id)).document_ids == ()


@covers("store_draft", Refusal.NO_MAIL)
async def test_of_many_edits_of_one_version_exactly_one_wins(world: World) -> None:
    """Two workers, or a user and the scheduler: with two winners a mail would be sent twice."""
    alice = await world.account()
    for _ in range(10):
        old = await world.server.store_draft(alice.account_id, an_email(alice))
        edits = [
            world.server.store_draft(alice.account_id, an_email(alice), replaces=old.document_id)
            for _ in range(8)
        ]
        outcomes = await asyncio.gather(*edits, return_exceptions=True)
        (winner,) = [each for each in outcomes if isinstance(each, Stored)]
        losers = [each for each in outcomes if isinstance(each, MailServerRejected)]
        assert [each.code for each in losers] == [Refusal.NO_MAIL] * 7
        left = (await world.server.listing(alice.account_id)).document_ids
        assert left == (winner.document_id,)
        await world.server.destroy_mail(alice.account_id, left)


@covers("store_draft", "relabel")
async def test_a_draft_that_is_relabelled_meanwhile_is_replaced_all_the_same(world: World) -> None:
    """A keyword is no edit: a mail client that marks the draft must not make ours fail."""
    alice = await world.account()
    for number in range(10):
        old = await world.server.store_draft(alice.account_id, an_email(alice))
        change = Relabel(old.document_id, add=frozenset({f"k{number}"}))
        draft, _ = await asyncio.gather(
            world.server.store_draft(alice.account_id, an_email(alice), replaces=old.document_id),
            world.server.relabel(alice.account_id, [change]),
            return_exceptions=True,
        )
        assert isinstance(draft, Stored)
        left = (await world.server.listing(alice.account_id)).document_ids
        assert left == (draft.document_id,)
        await world.server.destroy_mail(alice.account_id, left)


@covers("store_draft", Refusal.NO_BLOB, Refusal.TOO_LARGE, Refusal.NO_ACCOUNT)
async def test_a_refused_version_leaves_the_old_one_alone(world: World) -> None:
    """An edit that cannot be stored must not cost what was written before."""
    alice = await world.account()
    old = await world.server.store_draft(alice.account_id, an_email(alice))
    large = await world.server.upload(alice.account_id, bytes(world.max_size), "image/png")
    for blob_id, wanted in ((BlobId("never"), Refusal.NO_BLOB), (large, Refusal.TOO_LARGE)):
        file = OutgoingAttachment(blob_id, "image/png", "a.png")
        with refused(wanted):
            await world.server.store_draft(
                alice.account_id,
                an_email(alice, attachments=(file,)),
                replaces=old.document_id,
            )
    assert (await world.server.listing(alice.account_id)).document_ids == (old.document_id,)
    await world.server.destroy_account(alice.account_id)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.store_draft(alice.account_id, an_email(alice))


@covers("store_draft", "fault:reject", Refusal.OVER_QUOTA)
async def test_a_full_account_keeps_the_old_version(world: World) -> None:
    alice = await world.account()
    old = await world.server.store_draft(alice.account_id, an_email(alice))
    async with world.backstage.over_quota(alice) as server:
        with refused(Refusal.OVER_QUOTA):
            await server.store_draft(alice.account_id, an_email(alice), replaces=old.document_id)
    assert (await world.server.listing(alice.account_id)).document_ids == (old.document_id,)


@covers("store_draft", "find", "fault:lost_answer", MailServerUnavailable)
async def test_a_draft_whose_answer_was_lost_is_found(world: World) -> None:
    alice = await world.account()
    email = an_email(alice)
    async with world.backstage.lost_answer() as server:
        with pytest.raises(MailServerUnavailable) as caught:
            await server.store_draft(alice.account_id, email)
    assert caught.value.reached
    (found,) = await world.server.find(alice.account_id, email.message_id, alice.state)
    assert (found.folders, found.keywords) == ({Folder.DRAFTS}, DRAFT)


@covers("find", "append")
async def test_every_mail_with_a_message_id_is_found_wherever_it_lies(world: World) -> None:
    """Copies of one mail: a client's in Sent, ours in Drafts, the one that came in."""
    alice = await world.account()
    raw = a_raw_mail("Message-ID: <twin@contract.test>")
    folders = (Folder.SENT, Folder.DRAFTS, Folder.INBOX, Folder.TRASH)
    ids = [await world.server.append(alice.account_id, raw, folder=folder) for folder in folders]
    other = a_raw_mail("Message-ID: <other@contract.test>", "References: <twin@contract.test>")
    await world.server.append(alice.account_id, other, folder=Folder.INBOX)
    for since in (alice.state, None, MailState("garbage")):
        found = await world.server.find(alice.account_id, "twin@contract.test", since)
        assert [mail.document_id for mail in found] == ids
        assert [mail.folders for mail in found] == [{folder} for folder in folders]
        assert found[0].preview == "Hi there"


@covers("find", "destroy_mail")
async def test_nothing_is_found_that_is_old_or_gone(world: World) -> None:
    alice = await world.account()
    raw = a_raw_mail("Message-ID: <old@contract.test>")
    old = await world.server.append(alice.account_id, raw, folder=Folder.SENT)
    state = (await world.changed(alice)).state
    assert await world.server.find(alice.account_id, "old@contract.test", state) == ()
    await world.server.destroy_mail(alice.account_id, [old])
    assert await world.server.find(alice.account_id, "old@contract.test", alice.state) == ()
    assert await world.server.find(alice.account_id, "old@contract.test", None) == ()
    await world.server.destroy_account(alice.account_id)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.find(alice.account_id, "old@contract.test", None)
