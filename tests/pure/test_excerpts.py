"""Excerpts: a reader sees at a glance why a mail was found, whatever the mail looks like."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.excerpts import LONGEST, MAX_WORDS, excerpt, holds, html_words, words

FILLER = "lorem ipsum dolor " * 40


@pytest.mark.parametrize(
    ("body", "text", "shown"),
    [
        ("the Zebra crossing", "zebra", "the **Zebra** crossing"),
        ("a zebra, a zebra", "ZEBRA", "a **zebra**, a **zebra**"),
        ("zebras and zebra", "zebra", "zebras and **zebra**"),
        ("two invoices", "invoice", "two **invoices**"),
        ("one invoice", "invoices", "one **invoice**"),
        ("involved", "invoice", None),
        ("the pan", "pa", None),
        (
            "foo_bar x-ray user@example.test",
            "bar ray example",
            "foo_**bar** x-**ray** user@**example**.test",
        ),
        ("a b\r\n\r\n\tc\xa0d", "c", "a b **c** d"),
        ('5 > 3 & 2 < 4 "q"', "q", '5 > 3 & 2 < 4 "**q**"'),
        ("**bold** and ***", "bold", "***bold*** and *"),
        ("nothing", "zebra", None),
        ("nothing", "", None),
        ("nothing", "- …", None),
        ("", "zebra", None),
        ("Straße nach Ärger", "straße ÄRGER", "**Straße** nach **Ärger**"),
        ("明日の会議について", "会議", "明日の**会議**について"),
        ("यह नमस्ते है", "नमस्ते", "यह **नमस्ते** है"),
        ("не счёт", "счёт", "не **счёт**"),
        ("a.*b (c", ".* (c", "a.*b (**c**"),
        ("nul\0byte", "nulbyte", "**nulbyte**"),
    ],
)
def test_hits_are_marked_in_one_line(body: str, text: str, shown: str | None) -> None:
    assert excerpt(body, text) == shown


def test_a_long_body_is_cut_at_words_around_the_hit() -> None:
    piece = excerpt(f"{FILLER}the zebra crosses {FILLER}", "zebra")
    assert piece is not None
    assert piece.startswith("…")
    assert piece.endswith("…")
    assert " the **zebra** crosses lorem " in piece
    assert set(piece.strip("…").replace("**", "").split()) <= {
        *FILLER.split(),
        "the",
        "zebra",
        "crosses",
    }


def test_the_piece_with_most_of_the_words_is_shown() -> None:
    """The first hit alone often is a word like `the`."""
    piece = excerpt(f"the beginning {FILLER} the zebra crosses {FILLER}", "the zebra crosses")
    assert piece is not None
    assert "**the** **zebra** **crosses**" in piece


def test_one_endless_word_is_cut() -> None:
    piece = excerpt("x" * 5000 + " zebra " + "y" * 5000, "zebra")
    assert piece is not None
    assert "**zebra**" in piece
    assert len(piece) <= LONGEST + 10


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>one</p><p>two</p>", "one two"),
        ("<td>a</td><td>b</td>", "a b"),
        ("z<b>eb</b>ra", "zebra"),
        ("a<br>b", "a b"),
        ("<style>p{zebra}</style>x<script>zebra</script><!-- zebra -->", "x"),
        ("<style>never closed zebra", ""),
        ("&lt;b&gt; &amp; &eacute;", "<b> & é"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
    ],
)
def test_words_of_html_are_what_is_seen(html: str, text: str) -> None:
    assert html_words(html).split() == text.split()


def test_words_of_a_search_are_few_and_have_letters() -> None:
    assert words(' Zebra - "crossing" ZEBRA & ') == ("zebra", '"crossing"')
    assert words("…  -") == ()
    assert len(words(" ".join(f"w{number}" for number in range(99)))) == MAX_WORDS


def test_a_field_holds_whole_words() -> None:
    assert holds("user@Example.test", "example.TEST")
    assert not holds("examples", "example")
    assert not holds("zoe@remote.test", "zoe@other.test")
    assert holds("明日の会議", "会議")


@pytest.mark.parametrize(
    "body",
    [
        "<" * 300_000,
        "<a" * 150_000,
        "<!--" * 80_000,
        "<style>" * 40_000,
        "z " * 150_000,
        "z" * 300_000,
    ],
)
def test_hostile_bodies_take_no_time(body: str) -> None:
    """The search of everybody else waits for it."""
    began = time.process_time()
    excerpt(html_words(body), "z zz zebra")
    assert time.process_time() - began < 1.0


@given(st.text(max_size=2000), st.text(max_size=60))
def test_an_excerpt_is_a_piece_of_the_body_with_marks(body: str, text: str) -> None:
    piece = excerpt(body, text)
    if piece is None:
        return
    assert piece.count("**") >= 2
    plain = piece.replace("*", "").removeprefix("…").removesuffix("…")
    assert plain in " ".join(body.replace("\0", "").split()).replace("*", "") or "…" in body
