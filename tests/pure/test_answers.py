"""Replies and forwards: they reach whom they should, stay in their thread, and carry what they must."""

# ruff: noqa: RUF001  subjects as other languages write them

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentmail_cp import addresses, extract
from agentmail_cp.compose import (
    MAX_RECIPIENTS,
    MAX_SUBJECT,
    Parent,
    SendMessage,
    Stamp,
    compose_forward,
    compose_reply,
    is_automatic,
)
from agentmail_cp.compose.subjects import forward_subject, reply_subject
from agentmail_cp.errors import Invalid, Unprocessable
from agentmail_cp.mailserver import Address, Attachment, BlobId, OutgoingAttachment, OutgoingEmail

NOW = datetime(2026, 11, 21, 8, 15, tzinfo=UTC)
OWN = Address("agent@example.com", "Agent")
STAMP = Stamp(OWN, "new@example.com", NOW)
ADA = Address("ada@elsewhere.test", "Ada")
BOB = Address("bob@elsewhere.test", "Bob")
EVE = Address("eve@elsewhere.test")
HI = SendMessage(text="Hi")


def a_parent(**fields: Any) -> Parent:
    known: dict[str, Any] = {
        "date": NOW,
        "sender": ADA,
        "message_id": "parent@elsewhere.test",
        "subject": "Offer",
        "to": (OWN,),
        **fields,
    }
    return Parent(**known)


def emails(several: tuple[Address, ...]) -> list[str]:
    return [each.email for each in several]


# --- Recipients ------------------------------------------------------------------------------------


def test_a_reply_goes_to_the_sender() -> None:
    assert compose_reply(HI, a_parent(cc=(BOB,)), STAMP).to == (ADA,)


def test_a_reply_goes_where_the_sender_asks_for_it() -> None:
    """A mailing desk would get no answers, the robot that writes for it all of them."""
    reply = compose_reply(HI, a_parent(reply_to=(BOB, EVE)), STAMP)
    assert reply.to == (BOB, EVE)
    assert reply.cc == ()


def test_a_reply_to_an_own_mail_goes_on_to_its_recipients() -> None:
    """An agent that follows up would write to itself."""
    own = a_parent(own=True, sender=OWN, reply_to=(OWN,), to=(BOB, OWN), cc=(EVE,))
    assert compose_reply(HI, own, STAMP).to == (BOB,)
    everyone = compose_reply(HI, own, STAMP, everyone=True)
    assert (everyone.to, everyone.cc) == ((BOB,), (EVE,))


def test_a_note_to_oneself_is_answered_to_oneself() -> None:
    note = a_parent(own=True, sender=OWN)
    assert compose_reply(HI, note, STAMP).to == (OWN,)
    arrived = a_parent(sender=Address("AGENT@Example.com"))
    assert compose_reply(HI, arrived, STAMP).to == (OWN,)


def test_a_form_that_writes_in_our_name_is_answered_to_who_filled_it_in() -> None:
    """Contact forms send From the inbox itself with the visitor in Reply-To."""
    assert compose_reply(HI, a_parent(sender=OWN, reply_to=(EVE,)), STAMP).to == (EVE,)


def test_a_mail_that_wants_the_inbox_to_answer_itself_is_answered_to_its_sender() -> None:
    """Whoever can write to an agent could set it talking to itself."""
    parent = a_parent(reply_to=(Address("Agent+x@example.com"),))
    assert compose_reply(HI, parent, STAMP).to == (ADA,)


def test_a_reply_to_all_leaves_the_inbox_out_in_every_spelling() -> None:
    """The inbox would answer itself, and an agent then answer that."""
    parent = a_parent(
        to=(Address("Agent@EXAMPLE.com"), BOB, Address("BOB@elsewhere.test")),
        cc=(Address("agent+sales@example.com"), EVE, ADA),
    )
    reply = compose_reply(HI, parent, STAMP, everyone=True)
    assert reply.to == (ADA, BOB)
    assert reply.cc == (EVE,)


def test_given_recipients_replace_each_its_own() -> None:
    """A cc given to a reply must neither be lost nor take the place of the sender."""
    only_cc = compose_reply(SendMessage(cc=(BOB,), bcc=(EVE,)), a_parent(), STAMP)
    assert (only_cc.to, only_cc.cc, only_cc.bcc) == ((ADA,), (BOB,), (EVE,))
    given_to = compose_reply(SendMessage(to=(BOB,)), a_parent(cc=(EVE,)), STAMP)
    assert (given_to.to, given_to.cc) == ((BOB,), ())


@pytest.mark.parametrize("field", ["to", "cc", "bcc"])
def test_a_reply_to_all_takes_no_recipients(field: str) -> None:
    message = msgspec.structs.replace(HI, **{field: (BOB,)})
    with pytest.raises(Invalid) as caught:
        compose_reply(message, a_parent(), STAMP, everyone=True)
    assert caught.value.field == "reply_all"


@pytest.mark.parametrize(
    "parent",
    [
        a_parent(sender=None),
        a_parent(sender=Address("undisclosed-recipients:;")),
        a_parent(sender=Address("no domain")),
        a_parent(own=True, sender=OWN, to=(), cc=(BOB,)),
    ],
)
def test_a_reply_to_nobody_is_unprocessable(parent: Parent) -> None:
    with pytest.raises(Unprocessable) as caught:
        compose_reply(HI, parent, STAMP)
    assert caught.value.field == "to"
    assert caught.value.fix
    assert compose_reply(SendMessage(to=(BOB,)), parent, STAMP).to == (BOB,)


def test_a_reply_to_all_of_a_talk_with_oneself_is_unprocessable() -> None:
    with pytest.raises(Unprocessable):
        compose_reply(HI, a_parent(sender=OWN), STAMP, everyone=True)


def test_a_reply_to_all_of_a_crowd_is_refused() -> None:
    crowd = tuple(Address(f"a{number}@elsewhere.test") for number in range(MAX_RECIPIENTS))
    with pytest.raises(Invalid) as caught:
        compose_reply(HI, a_parent(cc=crowd), STAMP, everyone=True)
    assert caught.value.detail == "TOO_MANY_RECIPIENTS"


def test_a_forward_needs_a_recipient() -> None:
    with pytest.raises(Unprocessable):
        compose_forward(HI, a_parent(), STAMP)
    assert compose_forward(HI, a_parent(), STAMP, draft=True).recipients == ()


NAMES = st.sampled_from(["ada", "Ada", "bob", "agent", "AGENT", "agent+x", "no one", "", "zoë"])
DOMAINS = st.sampled_from(["example.com", "Elsewhere.test", "bücher.test"])
PEOPLE: st.SearchStrategy[tuple[Address, ...]] = st.lists(
    st.tuples(NAMES, DOMAINS).map(lambda parts: Address("@".join(parts), "N\r\nBcc: x")), max_size=5
).map(tuple)
PARENTS = st.builds(
    Parent,
    date=st.just(NOW),
    sender=st.none() | PEOPLE.filter(bool).map(lambda several: several[0]),
    to=PEOPLE,
    cc=PEOPLE,
    reply_to=PEOPLE,
    own=st.booleans(),
    subject=st.text(),
    message_id=st.none() | st.text(min_size=1),
    stand_in=st.none() | st.just("document-1@example.com"),
    in_reply_to=st.lists(st.text()).map(tuple),
    references=st.lists(st.text()).map(tuple),
)


@given(PARENTS)
def test_a_reply_to_all_is_well_addressed(parent: Parent) -> None:
    """Whatever a stranger's headers hold: nobody twice, never the inbox, only what mail can be sent to."""
    try:
        reply = compose_reply(HI, parent, STAMP, everyone=True)
    except Unprocessable:
        return
    everyone = emails((*reply.to, *reply.cc))
    assert len({each.casefold() for each in everyone}) == len(everyone)
    for each in (*reply.to, *reply.cc):
        local, _, domain = each.email.casefold().partition("@")
        assert (local.partition("+")[0], domain) != ("agent", "example.com")
        assert addresses.parse(addresses.display(each), "to") == each
    assert set(emails(reply.to)) <= {
        fit.email
        for other in (parent.sender, *parent.reply_to, *parent.to)
        if other is not None and (fit := addresses.mailable(other))
    }


@given(PARENTS)
def test_whatever_the_parent_holds_an_answer_can_be_written(parent: Parent) -> None:
    """A hostile mail must not make it impossible to answer or forward it."""
    reply = compose_reply(SendMessage(to=(BOB,)), parent, STAMP)
    forward = compose_forward(SendMessage(to=(BOB,)), parent, STAMP)
    for email in (reply, forward):
        assert not re.search(r"[\r\n\0]", email.subject)
        assert len(email.subject) <= MAX_SUBJECT
        for each in (*email.in_reply_to, *email.references):
            assert not re.search(r"[\s\x00-\x1f<>]", each)


# --- Subjects --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parent", "reply"),
    [
        ("Offer", "Re: Offer"),
        ("Re: Offer", "Re: Offer"),
        ("RE: Offer", "Re: Offer"),
        ("re:Offer", "Re: Offer"),
        ("Re : Offer", "Re: Offer"),
        ("Re[2]: Offer", "Re: Offer"),
        ("Re(4): Offer", "Re: Offer"),
        ("Re: Re: RE: Offer", "Re: Offer"),
        ("AW: Offer", "Re: Offer"),
        ("Antw: Offer", "Re: Offer"),
        ("SV: AW: Re: Offer", "Re: Offer"),
        ("回复：Offer", "Re: Offer"),
        ("Отв: Offer", "Re: Offer"),
        ("Fwd: Offer", "Re: Fwd: Offer"),
        ("Re: Fwd: Re: Offer", "Re: Fwd: Re: Offer"),
        ("", "Re:"),
        ("Re:", "Re:"),
        ("Report: Q3", "Re: Report: Q3"),
        ("Ref: 4711", "Re: Ref: 4711"),
        ("I: robot", "Re: I: robot"),
        ("Regarding", "Re: Regarding"),
        (" \tOffer\r\n Bcc: x ", "Re: Offer   Bcc: x"),
    ],
)
def test_a_reply_has_one_re(parent: str, reply: str) -> None:
    assert reply_subject(parent) == reply


@pytest.mark.parametrize(
    ("parent", "forward"),
    [
        ("Offer", "Fwd: Offer"),
        ("Fwd: Offer", "Fwd: Offer"),
        ("FW: WG: TR: Offer", "Fwd: Offer"),
        ("Re: Offer", "Fwd: Re: Offer"),
        ("转发：Offer", "Fwd: Offer"),
        ("", "Fwd:"),
        ("Forward: march", "Fwd: Forward: march"),
    ],
)
def test_a_forward_has_one_fwd(parent: str, forward: str) -> None:
    assert forward_subject(parent) == forward


@given(st.text())
def test_a_long_conversation_keeps_one_subject(subject: str) -> None:
    """Every answer would make the subject longer, and clients that thread by it would part them."""
    once, forwarded = reply_subject(subject), forward_subject(subject)
    assert reply_subject(once) == once
    assert forward_subject(forwarded) == forwarded


def test_a_given_subject_is_taken() -> None:
    message = SendMessage(to=(BOB,), subject="Mine")
    assert compose_forward(message, a_parent(), STAMP).subject == "Mine"
    assert compose_reply(message, a_parent(), STAMP).subject == "Mine"


def test_a_hostile_subject_takes_no_time() -> None:
    started = time.perf_counter()
    for evil in ("Re" + " " * 500_000, "Re: " * 200_000, "Re[1" * 200_000):
        reply_subject(evil)
    assert time.perf_counter() - started < 1


# --- Threads ---------------------------------------------------------------------------------------

ID = st.text("abc019.$+@-", min_size=1, max_size=60)


@given(ID, st.lists(ID, max_size=40), st.sampled_from([compose_reply, compose_forward]))
def test_an_answer_is_in_its_parents_thread(parent_id: str, older: list[str], how: Any) -> None:
    parent = a_parent(message_id=parent_id, references=tuple(older))
    email: OutgoingEmail = how(SendMessage(to=(BOB,)), parent, STAMP)
    assert email.in_reply_to == (parent_id,)
    assert email.references[-1] == parent_id
    assert email.references[0] == next((each for each in older if each != parent_id), parent_id)


def test_a_parent_without_references_is_linked_through_what_it_answers() -> None:
    """RFC 5322 section 3.6.4; old clients send In-Reply-To only."""
    parent = a_parent(in_reply_to=("root@x",))
    assert compose_reply(HI, parent, STAMP).references == ("root@x", "parent@elsewhere.test")


def test_a_parent_without_an_id_is_named_by_the_one_made_for_it() -> None:
    """The reply would begin a thread of its own."""
    parent = a_parent(message_id=None, stand_in="document-7@example.com")
    reply = compose_reply(HI, parent, STAMP)
    assert reply.in_reply_to == ("document-7@example.com",)
    assert reply.references == ("document-7@example.com",)


def test_a_parent_with_an_id_we_cannot_keep_is_named_by_both() -> None:
    """Its author's client knows the one, our index the other."""
    long = "x" * 600 + "@elsewhere.test"
    parent = a_parent(message_id=long, stand_in="document-7@example.com")
    reply = compose_reply(HI, parent, STAMP)
    assert reply.in_reply_to == (long,)
    assert reply.references == ("document-7@example.com", long)


@pytest.mark.parametrize("how", [compose_reply, compose_forward])
@pytest.mark.parametrize("name", ["In-Reply-To", "references"])
def test_the_headers_of_threads_are_not_the_callers_on_an_answer(name: str, how: Any) -> None:
    with pytest.raises(Invalid) as caught:
        how(SendMessage(to=(BOB,), headers={name: "<a@b>"}), a_parent(), STAMP)
    assert caught.value.detail == "RESERVED_HEADER"
    assert caught.value.field == f"headers.{name}"


# --- Answers to machines ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "automatic"),
    [
        (("Auto-Submitted", "auto-replied"), True),
        (("AUTO-SUBMITTED", " Auto-Generated; x=y"), True),
        (("Auto-Submitted", "no"), False),
        (("Auto-Submitted", "No (a person)"), False),
        (("Precedence", "bulk"), True),
        (("precedence", "List"), True),
        (("Precedence", "junk"), True),
        (("Precedence", "first-class"), False),
        (("Return-Path", "<>"), True),
        (("Return-Path", "<ada@elsewhere.test>"), False),
        (("Subject", "auto-replied"), False),
    ],
)
def test_machines_are_told_from_people(header: tuple[str, str], automatic: bool) -> None:
    assert is_automatic([("From", "x@y.z"), header]) is automatic


def test_an_answer_to_a_machine_says_that_it_is_one() -> None:
    """Two machines would answer each other for ever."""
    reply = compose_reply(HI, a_parent(automatic=True), STAMP)
    assert reply.headers == (("Auto-Submitted", "auto-replied"),)
    assert compose_reply(HI, a_parent(), STAMP).headers == ()


def test_what_the_caller_says_of_itself_stands() -> None:
    said = SendMessage(headers={"auto-submitted": "no", "X-A": "b"})
    reply = compose_reply(said, a_parent(automatic=True), STAMP)
    assert reply.headers == (("auto-submitted", "no"), ("X-A", "b"))


# --- What a forward holds --------------------------------------------------------------------------


def forwarded(message: SendMessage, **fields: Any) -> OutgoingEmail:
    to = SendMessage(to=(BOB,), text=message.text, html=message.html)
    return compose_forward(to, a_parent(**fields), STAMP)


def test_a_forward_shows_the_callers_words_and_then_the_mail() -> None:
    email = forwarded(SendMessage(text="See below.\n"), cc=(EVE,), text="Buy\nnow")
    assert email.text == (
        "See below.\n"
        "\n"
        "---------- Forwarded message ---------\n"
        "From: Ada <ada@elsewhere.test>\n"
        "Date: Sat, 21 Nov 2026 08:15:00 +0000\n"
        "Subject: Offer\n"
        "To: Agent <agent@example.com>\n"
        "Cc: eve@elsewhere.test\n"
        "\n"
        "Buy\nnow"
    )
    assert email.html is None


def test_a_forward_without_words_is_the_mail_alone() -> None:
    email = forwarded(SendMessage(), text="Buy", html="<p>Buy</p>")
    assert email.text is not None
    assert email.text.startswith("---------- Forwarded")
    assert email.html is not None
    assert email.html.startswith('<div class="gmail_quote">')


def test_html_on_either_side_makes_html() -> None:
    """A forward of a newsletter would be bare text, or the caller's own markup lost."""
    theirs = forwarded(SendMessage(text="a < b"), text="Buy", html="<p>Buy <b>now</b></p>")
    assert theirs.html is not None
    assert theirs.html.startswith("<div>a &lt; b</div>")
    assert "<p>Buy <b>now</b></p>" in theirs.html
    assert theirs.text is not None
    ours = forwarded(SendMessage(html="<i>See</i>"), text="1 < 2\nBuy")
    assert ours.html is not None
    assert ours.html.startswith("<i>See</i><br>")
    assert "<div>1 &lt; 2<br>\nBuy</div>" in ours.html
    assert ours.text is None, "a text without the caller's words would hide them"


def test_html_alone_is_forwarded_as_text_as_well() -> None:
    """Whoever reads plain text would get the names of a mail and none of its words."""
    email = forwarded(SendMessage(text="See"), html="<p>Total: <b>12&nbsp;€</b></p>")
    assert email.text is not None
    assert email.text.replace("\xa0", " ").endswith("\n\nTotal: 12 €")


def test_a_callers_whole_document_stays_one() -> None:
    email = forwarded(
        SendMessage(html="<html><body><p>See</p></BODY></html>"), html="<p>Buy</p>", text="Buy"
    )
    assert email.html is not None
    assert email.html.startswith("<html><body><p>See</p><br>")
    assert email.html.endswith("<p>Buy</p></div></BODY></html>")


def test_what_names_the_mail_is_escaped() -> None:
    """A stranger's name would be markup in the reader's mail client."""
    email = forwarded(
        SendMessage(html="See"),
        sender=Address("x@y.test", "<script>alert(1)</script>\r\nTo: all"),
        subject='<img src=x onerror="boom">',
    )
    assert email.html is not None
    assert "<script" not in email.html
    assert "<img" not in email.html
    assert "\r" not in email.html


class Seen(HTMLParser):
    """The elements of a document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


HOSTILE = (
    "<!DOCTYPE html><html><head><title>Shop</title><meta http-equiv=refresh content=0>"
    "<base href='https://evil.test/'><style>p{color:red}</style><script>alert(1)</script></head>"
    "<body bgcolor=red><!-- note --><p>Buy</p><!-- left open"
)


def test_a_document_is_taken_out_of_its_frame() -> None:
    """Its base would bend the caller's links, its open comment hide what comes after."""
    email = forwarded(SendMessage(html="See"), html=HOSTILE, text="Buy")
    assert email.html is not None
    assert Seen(email.html).tags == ["br", "div", "div", "br", *["b", "br"] * 4, "br", "style", "p"]
    assert email.html.endswith("<p>Buy</p></div>")


PIECES = (
    "<body> </body> <html > <!-- --> <base href=x <script> </script> < hi <p> </div> <! <? <title"
    " <scr ipt> </title> \0"
)
MARKUP = st.lists(st.sampled_from(PIECES.split(" ")), max_size=12).map("".join)


@given(MARKUP)
@example("<html<!-- -->>")
@example("<<!-- -->base href=x>")
@example("<ba<p <!-- -->se href=x>")
@example("<html<p <!-- -->>")
def test_no_markup_reaches_out_of_its_place(html: str) -> None:
    email = forwarded(SendMessage(html="<p>Mine</p>"), html=html, text="x")
    assert email.html is not None
    assert email.html.startswith("<p>Mine</p><br>\n<div class=")
    assert not {"base", "body", "html", "meta", "title"} & set(Seen(email.html).tags)


@pytest.mark.parametrize(
    "piece", ["<!--", "<script>", "<body", "<!", "<?", "<title>", "<base <", "</body", "<html\n"]
)
def test_hostile_markup_takes_no_time(piece: str) -> None:
    """One mail could hold a worker for minutes."""
    html = piece * (1_000_000 // len(piece))
    started = time.perf_counter()
    forwarded(SendMessage(html="x"), html=html, text="x")
    assert time.perf_counter() - started < 2


def test_the_other_side_finds_the_new_words() -> None:
    """Our own forwards and what they quote must be told apart by our own reader."""
    email = forwarded(SendMessage(text="See.", html="<p>See.</p>"), text="Buy", html="<p>Buy</p>")
    assert email.text is not None
    assert email.html is not None
    assert extract.reply_text(email.text) == "See."
    assert "Buy" not in extract.reply_html(email.html)
    assert "See." in extract.reply_html(email.html)


def test_attachments_travel_with_a_forward_but_not_with_a_reply() -> None:
    mine = OutgoingAttachment(BlobId("mine"), "text/plain", "note.txt")
    logo = Attachment(
        part_id="2",
        blob_id=BlobId("logo"),
        size=5,
        content_type="image/png",
        content_id="logo",
        inline=True,
    )
    evil = Attachment(
        part_id="3",
        blob_id=BlobId("evil"),
        size=5,
        content_type="text/plain\r\nX: y",
        filename="a\r\nX: y" + "z" * 300,
        content_id="bad id",
        charset="utf-8",
    )
    table = Attachment(
        part_id="4", blob_id=BlobId("table"), size=5, content_type="text/csv", charset="koi8-r"
    )
    message = SendMessage(to=(BOB,), attachments=(mine,))
    parent = a_parent(attachments=(logo, evil, table))
    assert compose_reply(message, parent, STAMP).attachments == (mine,)
    assert compose_forward(message, parent, STAMP).attachments == (
        mine,
        OutgoingAttachment(BlobId("logo"), "image/png", None, "logo", inline=True, size=5),
        OutgoingAttachment(
            BlobId("evil"),
            "application/octet-stream",
            ("a  X: y" + "z" * 300)[:255],
            size=5,
        ),
        OutgoingAttachment(BlobId("table"), "text/csv; charset=koi8-r", size=5),
    )


def test_a_draft_is_not_marked_as_sent() -> None:
    draft = compose_reply(SendMessage(labels=("Work",)), a_parent(sender=None), STAMP, draft=True)
    assert draft.recipients == ()
    assert draft.keywords == {"work"}
