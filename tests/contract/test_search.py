"""Search: which mails hold the words, the newest first, and the piece of the body that shows it."""

# ruff: noqa: RUF001  other alphabets have letters that look like Latin ones

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from agentmail_cp.mailserver import Address, DocumentId, Folder, Refusal
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email, refused

if TYPE_CHECKING:
    from agentmail_cp.mailserver import Account

INDEXED = 15.0
"""Seconds an index may lag before a case fails; some ms are usual."""
LAST = "zzindexed"
"""A word of the mail stored last: once it is found, so is everything before it."""


async def stored(world: World, account: Account, *raws: bytes) -> list[DocumentId]:
    """Store mails and wait until the index has them; their ids in order."""
    ids = [
        await world.server.append(account.account_id, raw, folder=Folder.INBOX)
        for raw in (*raws, a_raw_mail(body=LAST))
    ]
    await found_at_last(world, account, LAST, ids[-1])
    return ids[:-1]


async def found_at_last(world: World, account: Account, text: str, document_id: DocumentId) -> None:
    deadline = time.monotonic() + INDEXED
    while document_id not in await found(world, account, text):
        assert time.monotonic() < deadline, "the index lags"
        await asyncio.sleep(0.01)


async def found(
    world: World, account: Account, text: str, limit: int = 50
) -> tuple[DocumentId, ...]:
    answer = await world.server.search([account.account_id], text, limit=limit)
    return answer[account.account_id]


@covers("search")
async def test_words_are_found_in_bodies_subjects_and_addresses(world: World) -> None:
    alice = await world.account()
    letter = (
        b"From: Zo\xc3\xab Peer <zoe.peer@remote.test>\r\nTo: Team <team@corp.test>\r\n"
        b"Cc: carol@other.test\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Subject: Quarterly figures\r\n\r\nThe zebra-crossing costs 12345 EUR in Stra\xc3\x9fburg.\r\n"
    )
    html = a_raw_mail(
        "MIME-Version: 1.0",
        "Content-Type: text/html",
        subject="Newsletter",
        body="<p>Click <b>warmly</b> to go</p><p>farewell</p>",
    )
    first, second = await stored(world, alice, letter, html)
    for text in (
        "zebra",
        "ZEBRA",
        "12345",
        "straßburg",
        "zebra-crossing",
        "Quarterly",
        "zoe.peer@remote.test",
        "corp.test",
        "carol",
        "team figures zebra",
        "  figures \t\n zebra ",
        "figures, (zebra)!",
    ):
        assert await found(world, alice, text) == (first,), text
    assert await found(world, alice, "warmly newsletter") == (second,)
    for text in ("zebra warmly", "giraffe", "zebr", "zebra giraffe", "giraffe zebra"):
        assert await found(world, alice, text) == (), text


@covers("search")
async def test_what_is_no_word_does_not_narrow_a_search(world: World) -> None:
    """People type dashes, quotes and colons; none of them may hide a mail or mean a language."""
    alice = await world.account()
    (document_id,) = await stored(world, alice, a_raw_mail(body="it is about money: de facto"))
    for text in ('"about money"', "about - money", "& money", "it:about", "de:facto", "money:"):
        assert await found(world, alice, text) == (document_id,), text
    for text in ("", "   ", "-", "…", '""'):
        assert await found(world, alice, text) == (), text


@covers("search")
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("Die Übermittlung der Verträge erfolgt am Donnerstag.", "verträge ÜBERMITTLUNG"),
        ("Счёт за октябрь прилагается к письму.", "октябрь счёт"),
        ("Το τιμολόγιο του Οκτωβρίου", "τιμολόγιο"),
        ("您好，附件是十月份的发票。", "发票"),
        ("明日の会議について確認したいと思います。", "会議"),
    ],
)
async def test_words_of_other_languages_are_found(world: World, body: str, text: str) -> None:
    alice = await world.account()
    raw = a_raw_mail("MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", body=body)
    (document_id,) = await stored(world, alice, raw)
    assert await found(world, alice, text) == (document_id,)


@covers("search")
async def test_attachments_are_not_searched(world: World) -> None:
    """A highlight could not show why such a mail was found."""
    alice = await world.account()
    body = (
        "--b\r\n\r\noutside\r\n--b\r\nContent-Type: text/plain\r\n"
        "Content-Disposition: attachment; filename=a.txt\r\n\r\ninside\r\n--b--\r\n"
    )
    raw = a_raw_mail("MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=b", body=body)
    (document_id,) = await stored(world, alice, raw)
    assert await found(world, alice, "outside") == (document_id,)
    assert await found(world, alice, "inside") == ()


@covers("search", "append")
async def test_the_newest_mails_are_found_first_and_no_more_than_asked_for(world: World) -> None:
    alice = await world.account()
    now = datetime.now(UTC).replace(microsecond=0)
    ages = (3, 1, 4, 2)
    ids = {
        age: await world.server.append(
            alice.account_id,
            a_raw_mail(body="needle"),
            folder=Folder.INBOX,
            received_at=now - timedelta(days=age),
        )
        for age in ages
    }
    for document_id in ids.values():
        await found_at_last(world, alice, "needle", document_id)
    assert await found(world, alice, "needle") == tuple(ids[age] for age in sorted(ages))
    assert await found(world, alice, "needle", limit=2) == (ids[1], ids[2])


@covers("search", "submit", "store_draft", "destroy_mail")
async def test_sent_mail_and_drafts_are_found_until_they_are_gone(world: World) -> None:
    alice = await world.account()
    sent = await world.server.submit(
        alice.account_id, an_email(alice, "x@elsewhere.test", text="walrus one")
    )
    bcc = (Address("secret@elsewhere.test"),)
    draft = await world.server.store_draft(
        alice.account_id, an_email(alice, text="walrus two", bcc=bcc)
    )
    await found_at_last(world, alice, "walrus", sent.document_id)
    await found_at_last(world, alice, "walrus secret", draft.document_id)
    await world.server.destroy_mail(alice.account_id, [sent.document_id])
    assert await found(world, alice, "walrus") == (draft.document_id,)


@covers("search")
async def test_many_accounts_are_searched_at_once_and_keep_apart(world: World) -> None:
    accounts = [await world.account() for _ in range(5)]
    ids = {
        each.account_id: (await stored(world, each, a_raw_mail(body="shared walrus")))[0]
        for each in accounts[:3]
    }
    await world.server.destroy_account(accounts[4].account_id)
    answer = await world.server.search(
        [each.account_id for each in (*accounts, accounts[0])], "walrus", limit=9
    )
    assert answer == {
        **{account_id: (document_id,) for account_id, document_id in ids.items()},
        accounts[3].account_id: (),
    }
    assert await world.server.search([], "walrus", limit=9) == {}


@covers("excerpts", "append")
async def test_an_excerpt_shows_the_words_in_one_line_of_plain_text(world: World) -> None:
    alice = await world.account()
    long = "lorem ipsum " * 60
    bodies = {
        "text": a_raw_mail(body=f"{long}\r\nthe Zebra\r\n  costs 5 > 3 & more {long}"),
        "html": a_raw_mail(
            "MIME-Version: 1.0",
            "Content-Type: text/html",
            body="<style>zebra{}</style><table><tr><td>a</td><td>ze<b>bra</b></td></tr></table>&lt;x&gt;",
        ),
        "no hit": a_raw_mail(body="nothing here", subject="zebra"),
        "no body": a_raw_mail(body=""),
    }
    ids = {
        name: await world.server.append(alice.account_id, raw, folder=Folder.INBOX)
        for name, raw in bodies.items()
    }
    wanted = [*ids.values(), DocumentId(1_000_000), ids["text"]]
    pieces = await world.server.excerpts(alice.account_id, wanted, "zebra COSTS")
    assert pieces.keys() == {ids["text"], ids["html"]}
    assert "the **Zebra** **costs** 5 > 3 & more lorem" in pieces[ids["text"]]
    assert len(pieces[ids["text"]]) <= 250
    assert pieces[ids["html"]] == "a **zebra** <x>"
    assert await world.server.excerpts(alice.account_id, [], "zebra") == {}
    assert await world.server.excerpts(alice.account_id, wanted, "-") == {}


@covers("excerpts", Refusal.NO_ACCOUNT)
async def test_an_account_that_is_gone_has_no_excerpts(world: World) -> None:
    alice = await world.account()
    await world.server.destroy_account(alice.account_id)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.excerpts(alice.account_id, [DocumentId(1)], "zebra")
