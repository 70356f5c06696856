"""Incoming mail as the index sees it, and the parts of a mail that are read on demand."""

from __future__ import annotations

import smtplib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

from agentmail_cp.labels import MAX_KEYWORD
from agentmail_cp.mailserver import (
    AccountId,
    Address,
    Attachment,
    BlobId,
    Changes,
    Cursor,
    DocumentId,
    Folder,
    Refusal,
    Relabel,
)
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, refused

MISSING = DocumentId(1_000_000)


def multipart(kind: str, *parts: str) -> bytes:
    """A multipart mail of ready-made parts."""
    body = "".join(f"--edge\r\n{part}\r\n" for part in parts) + "--edge--\r\n"
    return a_raw_mail(
        "MIME-Version: 1.0", f'Content-Type: multipart/{kind}; boundary="edge"', body=body
    )


@covers("changes", "fetch")
async def test_mail_from_outside_arrives_with_everything_the_index_needs(world: World) -> None:
    account = await world.account()
    raw = a_raw_mail(
        "Message-ID: <m1@remote.test>",
        "In-Reply-To: <m0@remote.test>",
        "References: <a@remote.test>\r\n <m0@remote.test>",
        "Cc: Carol <carol@remote.test>, dave@remote.test",
        "Reply-To: list@remote.test",
        "Content-Type: text/plain",
        subject="Invoice",
        body="Dear agent,\r\n\r\nplease pay.\r\n",
    )
    before = datetime.now(UTC) - timedelta(seconds=2)
    mail = await world.received(account, raw)
    assert mail.folders == {Folder.INBOX}
    assert mail.keywords == frozenset()
    assert mail.message_id == "m1@remote.test"
    assert mail.in_reply_to == ("m0@remote.test",)
    assert mail.references == ("a@remote.test", "m0@remote.test")
    assert mail.subject == "Invoice"
    assert mail.sender == Address("peer@remote.test", "Peer")
    assert mail.to == (Address("agent@contract.test"),)
    assert mail.cc == (Address("carol@remote.test", "Carol"), Address("dave@remote.test"))
    assert mail.reply_to == (Address("list@remote.test"),)
    assert mail.sent_at == datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
    assert mail.received_at.utcoffset() == timedelta(0)
    assert before <= mail.received_at <= datetime.now(UTC) + timedelta(seconds=2)
    assert mail.size > len(raw)
    assert " ".join(mail.preview.split()) == "Dear agent, please pay."
    assert not mail.has_attachment
    assert await world.server.fetch(account.account_id, [mail.document_id]) == (mail,)


HTML = "Content-Type: text/html; charset=utf-8"
HTML_ONLY: dict[str, Callable[[str], bytes]] = {
    "bare": lambda html: a_raw_mail("MIME-Version: 1.0", HTML, body=html),
    "alternative": lambda html: multipart("alternative", f"{HTML}\r\n\r\n{html}"),
    "with a file": lambda html: multipart(
        "mixed", f"{HTML}\r\n\r\n{html}", "Content-Type: application/pdf\r\n\r\n%PDF-"
    ),
}


@covers("changes", "fetch")
@pytest.mark.parametrize("shape", list(HTML_ONLY))
async def test_the_preview_of_html_only_mail_is_one_line_of_its_words(
    world: World, shape: str
) -> None:
    """Agents decide by previews: no words glued together at tags, no style sheets or scripts."""
    styles = "p{color:red}\r\n" * 1_000
    html = (
        f"<html><head><title>T</title><style>{styles}</style><script>alert(1)</script></head><body>"
        "<p>Click <b>here</b> to <i>go</i></p><p>Caf&eacute; &amp; more</p>" + "\r\n<td>text" * 200
    )
    account = await world.account()
    mail = await world.received(account, HTML_ONLY[shape](html))
    assert mail.preview.startswith("Click here to go Café & more text text")
    assert 190 < len(mail.preview) <= 200
    assert mail.preview.splitlines() == [mail.preview]
    assert await world.server.fetch(account.account_id, [mail.document_id]) == (mail,)


@covers("changes")
async def test_previews_of_html_and_text_mails_of_several_accounts_keep_apart(world: World) -> None:
    accounts = [await world.account() for _ in range(3)]
    wanted: list[list[str]] = []
    for account in accounts:
        names = [f"{account.address} {number}" for number in range(60)]
        for number, name in enumerate(names):
            kind = "text/html" if number % 5 else "text/plain"
            raw = a_raw_mail(f"Content-Type: {kind}", body=name)
            await world.server.append(account.account_id, raw, folder=Folder.INBOX)
        wanted.append(names)
    cursors = [Cursor(each.account_id, each.state) for each in accounts]
    answer = await world.server.changes(cursors)
    for account, names in zip(accounts, wanted, strict=True):
        changed = answer[account.account_id]
        assert isinstance(changed, Changes)
        assert [mail.preview for mail in changed.present] == names


@covers("changes")
async def test_mail_without_message_id_and_date_arrives(world: World) -> None:
    """The MX door gives it both, as RFC 5321 section 6.4 allows."""
    account = await world.account()
    mail = await world.received(account, b"Subject: bare\r\n\r\nbody")
    assert mail.subject == "bare"
    assert mail.sender is None
    assert mail.message_id
    assert mail.sent_at is not None


@covers("append", "fetch")
async def test_mail_that_a_client_stores_may_lack_every_header_it_should_have(
    world: World,
) -> None:
    account = await world.account()
    document_id = await world.server.append(
        account.account_id, b"MIME-Version: 1.0\r\n\r\nbody", folder=Folder.INBOX
    )
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.message_id is mail.sent_at is mail.subject is mail.sender is None
    assert mail.to == mail.references == mail.in_reply_to == ()


@covers("changes")
async def test_mails_that_share_a_message_id_are_all_kept_when_they_differ(
    world: World,
) -> None:
    """Lists and broken senders reuse ids. Stalwart drops only what has the same subject, too."""
    account = await world.account()
    same = "Message-ID: <same@remote.test>"
    for subject in ("One", "Two"):
        await world.deliver(a_raw_mail(same, subject=subject), account.address)
    await world.deliver(
        a_raw_mail(same, "References: <other@remote.test>", subject="One"), account.address
    )
    mails = await world.arrived(account, 3)
    assert {mail.message_id for mail in mails} == {"same@remote.test"}
    assert sorted(mail.subject or "" for mail in mails) == ["One", "One", "Two"]


@covers("changes", "append")
async def test_a_mail_delivered_twice_is_kept_once_and_one_stored_twice_is_kept_twice(
    world: World,
) -> None:
    """Documented behaviour of Stalwart 0.16 (`message-ingest.duplicate`)."""
    account = await world.account()
    raw = a_raw_mail("Message-ID: <twin@remote.test>", subject="Twin")
    for again in (raw, raw.replace(b"Subject: Twin", b"Subject: Re: Twin")):
        await world.deliver(again, account.address)
    await world.deliver(a_raw_mail(subject="Last"), account.address)
    mails = await world.arrived(account, 2)
    assert sorted(mail.subject or "" for mail in mails) == ["Last", "Twin"]
    for _ in range(2):
        await world.server.append(account.account_id, raw, folder=Folder.INBOX)
    assert len(await world.arrived(account, 4)) == 4


@covers("changes")
async def test_mail_to_a_tagged_address_reaches_the_account(world: World) -> None:
    account = await world.account()
    await world.deliver(a_raw_mail(), account.address.replace("@", "+news@"))
    await world.arrived(account)


@covers("changes")
async def test_a_bounce_from_outside_has_no_sender_and_arrives(world: World) -> None:
    account = await world.account()
    await world.deliver(a_raw_mail(subject="Undelivered"), account.address, mail_from="")
    (mail,) = await world.arrived(account)
    content = await world.content(account, mail.document_id)
    assert ("Return-Path", "<>") in content.headers


@covers("changes")
async def test_a_busy_sender_hands_in_many_mails_at_once_and_each_to_many(world: World) -> None:
    """Stalwart by itself ends a session after ten mails and slows down after five a second."""
    alice, bob = await world.account(), await world.account()
    mails = [a_raw_mail(f"Message-ID: <{each}@remote.test>") for each in range(30)]
    await world.deliver_all(mails, [alice.address, bob.address])
    for account in (alice, bob):
        arrived = await world.arrived(account, 30)
        assert {mail.message_id for mail in arrived} == {f"{n}@remote.test" for n in range(30)}


async def test_mail_to_nobody_is_refused_at_rcpt(world: World) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        await world.deliver(a_raw_mail(), world.address("nobody"))
    ((code, text),) = caught.value.recipients.values()
    assert (code, text.split()[0]) == (550, b"5.1.2")


async def test_the_mx_door_relays_nothing(world: World) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        await world.deliver(a_raw_mail(), "somebody@elsewhere.test")
    ((code, _),) = caught.value.recipients.values()
    assert code == 550


@covers("read")
async def test_mail_from_outside_shows_where_it_came_from(world: World) -> None:
    account = await world.account()
    mail = await world.received(account, a_raw_mail("X-Twice: 1", "X-Twice: 2"))
    content = await world.content(account, mail.document_id)
    names = [name.lower() for name, _ in content.headers]
    headers = {name.lower(): value for name, value in content.headers}
    assert headers["delivered-to"] == account.address
    assert headers["return-path"] == "<peer@remote.test>"
    assert "client.test" in headers["received"]
    assert names.index("received") < names.index("from") < names.index("subject")
    assert [value for name, value in content.headers if name == "X-Twice"] == ["1", "2"]


@covers("read", "fetch")
async def test_missing_mails_are_left_out(world: World) -> None:
    account = await world.account()
    mail = await world.received(account, a_raw_mail())
    wanted = [MISSING, mail.document_id]
    assert await world.server.fetch(account.account_id, wanted) == (mail,)
    assert set(await world.server.read(account.account_id, wanted)) == {mail.document_id}
    assert await world.server.fetch(account.account_id, []) == ()
    assert await world.server.read(account.account_id, []) == {}


@covers("read")
async def test_headers_are_decoded_text_in_order(world: World) -> None:
    account = await world.account()
    raw = a_raw_mail(
        "X-Folded: one\r\n two",
        "X-Words: =?utf-8?q?Gr=C3=BC=C3=9Fe?= =?utf-8?b?8J+agA==?=",
        "X-Last: =?x",
    )
    mail = await world.received(account, raw)
    headers = (await world.content(account, mail.document_id)).headers
    own = [(name, " ".join(value.split())) for name, value in headers if name.startswith("X-")]
    assert own == [("X-Folded", "one two"), ("X-Words", "Grüße🚀"), ("X-Last", "=?x")]


@covers("read")
async def test_html_only_mail_has_no_text_and_text_only_mail_no_html(world: World) -> None:
    account = await world.account()
    raw = a_raw_mail("Content-Type: text/html; charset=utf-8", body="<p>ä</p>")
    for stored, expected in (
        (raw, (None, "<p>ä</p>")),
        (a_raw_mail("Content-Type: text/plain; charset=utf-8", body="ä"), ("ä", None)),
        (a_raw_mail(body=""), ("", None)),
    ):
        document_id = await world.server.append(account.account_id, stored, folder=Folder.INBOX)
        content = await world.content(account, document_id)
        assert (content.text, content.html) == expected


@covers("read")
async def test_line_ends_of_bodies_are_single_line_feeds(world: World) -> None:
    account = await world.account()
    raw = multipart(
        "alternative",
        "Content-Type: text/plain\r\n\r\none\r\ntwo",
        "Content-Type: text/html\r\n\r\n<p>one\r\ntwo</p>",
    )
    mail = await world.received(account, raw)
    content = await world.content(account, mail.document_id)
    assert (content.text, content.html) == ("one\ntwo", "<p>one\ntwo</p>")


@covers("read")
@pytest.mark.parametrize(
    ("charset", "encoded", "text"),
    [
        ("iso-8859-1", "Grüße".encode("latin-1"), "Grüße"),
        ("shift_jis", "日本語".encode("shift-jis"), "日本語"),
        ("utf-8", b"broken \xff\xfe end", "broken \ufffd\ufffd end"),
        ("no-such-charset", b"plain ascii", "plain ascii"),
        ("us-ascii", "Grüße".encode(), "Gr"),
    ],
)
async def test_every_charset_is_text(world: World, charset: str, encoded: bytes, text: str) -> None:
    account = await world.account()
    head = a_raw_mail(f"Content-Type: text/plain; charset={charset}", body="")
    mail = await world.received(account, head + encoded)
    content = await world.content(account, mail.document_id)
    assert content.text is not None
    assert content.text.strip().startswith(text)


@covers("read", "download")
async def test_attachments_are_told_from_bodies(world: World) -> None:
    account = await world.account()
    raw = multipart(
        "mixed",
        "Content-Type: text/plain\r\n\r\nSee attached.",
        'Content-Type: application/pdf; name="a.pdf"\r\n'
        'Content-Disposition: attachment; filename="Bericht.pdf"\r\n'
        "Content-Transfer-Encoding: base64\r\n\r\nJVBERi0=",
        "Content-Type: image/png\r\nContent-Disposition: inline\r\nContent-ID: <logo@x>\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=",
        "Content-Type: text/plain\r\n"
        "Content-Disposition: attachment; filename*=utf-8''%C3%BCbersicht.txt\r\n\r\nnotes",
        "Content-Type: text/calendar; charset=utf-8; method=REQUEST\r\n\r\nBEGIN:VCALENDAR",
        "Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner body",
    )
    mail = await world.received(account, raw)
    assert mail.has_attachment
    content = await world.content(account, mail.document_id)
    assert content.text == "See attached."
    found = {each.content_type: each for each in content.attachments}
    pdf, png, notes = found["application/pdf"], found["image/png"], found["text/plain"]
    assert (pdf.filename, pdf.size, pdf.inline) == ("Bericht.pdf", 5, False)
    assert (png.filename, png.size) == (None, 8)
    assert (png.content_id, png.inline) == ("logo@x", True)
    assert (notes.filename, notes.size) == ("übersicht.txt", 5)
    assert found["text/calendar"].size == 15
    charsets = {each.content_type: each.charset for each in content.attachments if each.charset}
    assert charsets == {"text/calendar": "utf-8"}
    assert len(content.attachments) == len({each.part_id for each in content.attachments}) == 5

    async def content_of(attachment: Attachment) -> bytes:
        stream = world.server.download(account.account_id, attachment.blob_id)
        return b"".join([part async for part in stream])

    assert await content_of(pdf) == b"%PDF-"
    assert await content_of(png) == b"\x89PNG\r\n\x1a\n"
    assert await content_of(notes) == b"notes"
    assert await content_of(found["text/calendar"]) == b"BEGIN:VCALENDAR"
    assert (await content_of(found["message/rfc822"])).startswith(b"Subject: inner\r\n")


@covers("read", "changes")
async def test_a_picture_in_a_signature_is_listed_with_its_content_id(world: World) -> None:
    account = await world.account()
    raw = multipart(
        "related",
        'Content-Type: text/html\r\n\r\n<img src="cid:logo">',
        "Content-Type: image/png\r\nContent-ID: <logo>\r\n\r\nPNG",
    )
    mail = await world.received(account, raw)
    content = await world.content(account, mail.document_id)
    assert mail.has_attachment
    assert (content.text, content.html) == (None, '<img src="cid:logo">')
    assert [(each.content_id, each.content_type) for each in content.attachments] == [
        ("logo", "image/png")
    ]


@covers("read")
async def test_a_body_of_several_texts_is_read_whole(world: World) -> None:
    """Apple Mail puts text before and after a picture."""
    account = await world.account()
    raw = multipart(
        "mixed",
        "Content-Type: text/plain\r\n\r\nBefore.",
        "Content-Type: image/jpeg\r\nContent-Disposition: inline\r\n\r\nJPG",
        "Content-Type: text/plain\r\n\r\nAfter.",
    )
    mail = await world.received(account, raw)
    assert mail.has_attachment
    content = await world.content(account, mail.document_id)
    assert content.text == "Before.\nAfter."
    assert [each.content_type for each in content.attachments] == ["image/jpeg"]


@covers("append", "relabel", "fetch")
async def test_the_longest_keyword_a_label_is_spelt_as_is_kept_whole(world: World) -> None:
    """Stalwart cuts longer ones off without a word, so two labels could become one."""
    account = await world.account()
    first, second = ["k" * (MAX_KEYWORD - 1) + end for end in "ab"]
    document_id = await world.server.append(
        account.account_id, a_raw_mail(), folder=Folder.INBOX, keywords=frozenset({first})
    )
    change = Relabel(document_id, add=frozenset({second}))
    await world.server.relabel(account.account_id, [change])
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == {first, second}
    away = Relabel(document_id, remove=frozenset({first, second}))
    await world.server.relabel(account.account_id, [away])
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == frozenset()


@covers("read", "fetch")
@pytest.mark.parametrize(
    "raw",
    [
        (
            b"From: \xff\xfe <x@@y>, ,;:\r\nTo: undisclosed-recipients:;\r\nDate: yesterday\r\n"
            b"Message-ID: <a b>\r\nSubject: =?utf-8?b?!!!?= =?bad\r\n\r\n\x00\x01\xff"
        ),
        b'From: a@b.test\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\nno parts at all',
        b'From: a@b.test\r\nContent-Type: multipart/mixed; boundary=""\r\n\r\n--\r\n\r\nx',
        b"From: a@b.test\r\nContent-Type: ;;;=\r\nContent-Transfer-Encoding: base64\r\n\r\n%%%",
        b"From: a@b.test\r\nReferences: " + b"<a@b> " * 3000 + b"\r\n\r\nbody",
        b"From: a@b.test\nSubject: bare line feeds\n\nbody\n",
    ],
    ids=["headers", "no-parts", "no-boundary", "content-type", "references", "line-feeds"],
)
async def test_hostile_mail_is_listed_and_read(world: World, raw: bytes) -> None:
    account = await world.account()
    document_id = await world.server.append(account.account_id, raw, folder=Folder.JUNK)
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.size == len(raw)
    content = await world.content(account, document_id)
    assert content.headers


@covers("append", "read", "download")
async def test_a_stored_mail_is_kept_byte_for_byte_with_folder_and_keywords(
    world: World,
) -> None:
    """Clients store their own sent mail."""
    account = await world.account()
    raw = a_raw_mail("Message-ID: <own@contract.test>", body="Grüße\r\n")
    document_id = await world.server.append(
        account.account_id, raw, folder=Folder.SENT, keywords=frozenset({"$Seen", "Mine"})
    )
    (mail,) = (await world.changed(account)).present
    assert mail.document_id == document_id
    assert mail.folders == {Folder.SENT}
    assert mail.keywords == {"$seen", "mine"}
    assert mail.size == len(raw)
    blob_id = (await world.content(account, document_id)).raw_blob_id
    parts = [part async for part in world.server.download(account.account_id, blob_id)]
    assert b"".join(parts) == raw


@covers("append", "upload", "find")
async def test_an_upload_becomes_a_mail_with_its_own_date(world: World) -> None:
    """A copy in Sent made an hour late still shows when the mail was sent."""
    account = await world.account()
    raw = a_raw_mail("Message-ID: <copy@contract.test>")
    moment = datetime(2026, 11, 20, 7, 5, 9, tzinfo=timezone(timedelta(hours=2)))
    blob_id = await world.server.upload(account.account_id, raw, "message/rfc822")
    document_id = await world.server.append(
        account.account_id, blob_id, folder=Folder.SENT, received_at=moment
    )
    (mail,) = await world.server.find(account.account_id, "copy@contract.test", account.state)
    assert (mail.document_id, mail.size, mail.received_at) == (document_id, len(raw), moment)


@covers("append", "read")
async def test_a_mail_attached_to_another_is_stored_by_itself(world: World) -> None:
    account = await world.account()
    inner = a_raw_mail("Message-ID: <inner@contract.test>")
    outer = a_raw_mail(
        'Content-Type: multipart/mixed; boundary="b"',
        body="--b\r\n\r\nfwd\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
        f"{inner.decode()}\r\n--b--\r\n",
    )
    outer_id = await world.server.append(account.account_id, outer, folder=Folder.INBOX)
    (part,) = (await world.content(account, outer_id)).attachments
    document_id = await world.server.append(account.account_id, part.blob_id, folder=Folder.INBOX)
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert (mail.message_id, mail.preview) == ("inner@contract.test", "Hi there")


@covers("append", Refusal.NO_BLOB)
async def test_an_upload_that_never_was_becomes_no_mail(world: World) -> None:
    account = await world.account()
    for name in ("never", "zzzzzzzz", ""):
        with refused(Refusal.NO_BLOB):
            await world.server.append(account.account_id, BlobId(name), folder=Folder.INBOX)
    assert (await world.changed(account)).present == ()


@covers("attachments", "read", "append")
async def test_attachments_of_many_mails_and_accounts_come_without_their_bodies(
    world: World,
) -> None:
    """Lists of messages name the attachments of each."""
    plain = a_raw_mail()
    files = multipart(
        "mixed",
        "\r\ntext",
        "Content-Type: image/png; name=a.png\r\nContent-ID: <a>\r\n\r\nPNG",
        "Content-Type: application/pdf\r\n"
        "Content-Disposition: attachment; filename=b.pdf\r\n\r\nPDF!",
    )
    wanted: dict[AccountId, list[DocumentId]] = {}
    for _ in range(3):
        account_id = (await world.account()).account_id
        wanted[account_id] = [
            await world.server.append(account_id, raw, folder=Folder.INBOX)
            for raw in (files, plain, files)
        ]
    found = await world.server.attachments(wanted)
    assert found.keys() == wanted.keys()
    for account_id, document_ids in wanted.items():
        contents = await world.server.read(account_id, document_ids)
        assert found[account_id] == {each: contents[each].attachments for each in document_ids}
        first = found[account_id][document_ids[0]]
        assert [(each.filename, each.size) for each in first] == [("a.png", 3), ("b.pdf", 4)]


@covers("attachments")
async def test_attachments_of_what_is_gone_are_left_out(world: World) -> None:
    kept, gone = await world.account(), await world.account()
    ids = [
        await world.server.append(kept.account_id, a_raw_mail(), folder=Folder.INBOX)
        for _ in range(2)
    ]
    await world.server.destroy_mail(kept.account_id, ids[:1])
    await world.server.destroy_account(gone.account_id)
    found = await world.server.attachments({kept.account_id: ids, gone.account_id: ids})
    assert found == {kept.account_id: {ids[1]: ()}}
    assert await world.server.attachments({}) == {}


@covers("append", Refusal.INVALID_MAIL)
@pytest.mark.parametrize("raw", [b"", b"\r\nbody", b"no colon", b"X-Unknown: only\r\n\r\nbody"])
async def test_bytes_that_are_no_mail_are_not_stored(world: World, raw: bytes) -> None:
    account = await world.account()
    with refused(Refusal.INVALID_MAIL):
        await world.server.append(account.account_id, raw, folder=Folder.INBOX)
    assert (await world.changed(account)).present == ()


@covers("append", "fetch", "read", "relabel", "destroy_mail", "find_own", Refusal.NO_ACCOUNT)
async def test_an_account_that_is_gone_has_no_mail(world: World) -> None:
    account = await world.account()
    gone = account.account_id
    await world.server.destroy_account(gone)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.append(gone, a_raw_mail(), folder=Folder.INBOX)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.fetch(gone, [DocumentId(1)])
    with refused(Refusal.NO_ACCOUNT):
        await world.server.read(gone, [DocumentId(1)])
    with refused(Refusal.NO_ACCOUNT):
        await world.server.destroy_mail(gone, [DocumentId(1)])
    with refused(Refusal.NO_ACCOUNT):
        await world.server.relabel(gone, [Relabel(DocumentId(1), add=frozenset({"x"}))])
    with refused(Refusal.NO_ACCOUNT):
        await world.server.find_own(gone, "m@contract.test", None)
