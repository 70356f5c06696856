"""Reading a query and marking hits: what a user typed matches what they mean, and marks stand around it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentmail_cp import highlights
from agentmail_cp.errors import Invalid
from agentmail_cp.highlights import LONGEST_FRAGMENT, MOST_FRAGMENTS, fold, mark, marked, parse

TEXT = st.text(st.characters(exclude_characters="*"), max_size=80) | st.text(
    alphabet="aAbB ßẞéÉ\u0301İ\u0131\u017f🦄ﬁΑΣς", max_size=40
)
WORDS = st.lists(TEXT.map(fold).filter(lambda word: bool(word.strip())), max_size=4)


@pytest.mark.parametrize(
    ("query", "typed"),
    [
        ("Invoice", ("Invoice",)),
        ("  two\twords\n", ("two", "words")),
        ("again AGAIN Again", ("again",)),
        ('"quoted words"', ("quoted", "words")),
        ("<ada@x.test>, (bob)", ("ada@x.test", "bob")),
        ("profit & loss", ("profit", "loss")),
        ("- %", ("-", "%")),
        ('""', ('""',)),
        ("🦄 party", ("party",)),
        ("100% #4711 $5", ("100%", "#4711", "$5")),
        ("STRASSE straße", ("STRASSE",)),
    ],
)
def test_words_are_what_a_person_means(query: str, typed: tuple[str, ...]) -> None:
    """A comma after a name or quotes around two words must not hide the mail."""
    words = parse(query)
    assert words.typed == typed
    assert words.folded == tuple(map(fold, typed))
    assert words.spoken is any(character.isalnum() for character in "".join(typed))


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        (None, "REQUIRED"),
        ("", "REQUIRED"),
        (" \t\n\u2003", "REQUIRED"),
        ("x" * 1001, "TOO_LONG"),
        (" ".join(map(str, range(17))), "TOO_MANY"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(query: str | None, detail: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(query)
    assert (refused.value.field, refused.value.detail) == ("q", detail)
    assert refused.value.fix


def test_a_query_of_the_largest_size_is_answered() -> None:
    assert len(parse(" ".join(map(str, range(16)))).folded) == highlights.MOST_WORDS
    assert parse("x" * 1000).folded == ("x" * 1000,)
    with pytest.raises(Invalid):
        parse("x", shortest=2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Invoice", "INVOICE"),
        ("Straße", "STRASSE"),
        ("ΑΣ", "ας"),
        ("e\u0301", "É"),
        ("ﬁne", "FINE"),
        ("\uff14\uff17\uff11\uff11", "4711"),
        ("Ω", "\u2126"),
    ],
)
def test_case_and_form_make_no_difference(one: str, other: str) -> None:
    """Mail clients write the same word in different bytes."""
    assert fold(one) == fold(other)


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5), st.data())
def test_a_word_is_folded_alike_alone_and_inside_a_text(
    pieces: list[str], data: st.DataObject
) -> None:
    """Otherwise a user could copy a word out of a subject and not find the mail by it."""
    text = " ".join(pieces)
    words = text.split()
    if words:
        assert fold(data.draw(st.sampled_from(words))) in fold(text)


@given(TEXT)
def test_folding_twice_is_folding_once_for_ascii(text: str) -> None:
    bare = text.encode("ascii", "ignore").decode()
    assert fold(fold(bare)) == fold(bare) == bare.casefold()


@given(TEXT, WORDS)
@example("aaa", ["aa", "a"])
@example("ß", ["s"])
def test_marks_stand_around_hits_and_change_nothing_else(text: str, words: list[str]) -> None:
    shown = mark(text, words)
    found = [word for word in words if word in fold(text)]
    assert (shown is not None) == bool(found)
    if shown is None:
        return
    pieces = shown.split("**")
    assert len(pieces) % 2 == 1, "each hit has two marks"
    assert "".join(pieces) == text[:LONGEST_FRAGMENT]
    assert all(pieces[1::2]), "no mark is empty"
    assert all(pieces[2:-1:2]), "hits that touch are one"
    hits = [fold(hit) for hit in pieces[1::2]]
    assert all(any(set(word) & set(hit) for word in found) for hit in hits)


def test_asterisks_of_a_text_do_not_pass_for_marks() -> None:
    """An agent reads what stands between them as what it asked for."""
    assert mark("**sale** today", ["today"]) == "*sale* **today**"
    assert mark("a****b", ["b"]) == "a***b**"


@given(st.text(alphabet="xy ", min_size=300, max_size=900), st.integers(0, 800))
def test_a_long_text_is_cut_around_its_first_hit(noise: str, at: int) -> None:
    """A subject of 2,000 characters would fill an agent's context once for each hit."""
    text = f"{noise[:at]}needle{noise[at:]} needle"
    shown = mark(text, ["needle"])
    assert shown is not None
    assert "**needle**" in shown
    assert len(shown.replace("**", "").strip("…")) <= LONGEST_FRAGMENT
    assert shown.replace("**", "").strip("…") in text


def test_fragments_are_distinct_and_few() -> None:
    """A mail to a thousand people at one company would show them all."""
    people = [f"p{n % 50}@company.test" for n in range(1000)]
    shown = marked(people, ["company"])
    assert shown == [f"p{n}@**company**.test" for n in range(MOST_FRAGMENTS)]
    assert marked(people, ["nobody"]) is None
    assert marked([], ["x"]) is None


def test_a_hostile_text_takes_no_time() -> None:
    """16 words of one letter in a subject of 2,000: the answer waits for this."""
    shown = mark("aß" * 1000, [fold(letter) for letter in "aßbcdefghijklmno"])
    assert shown is not None
    spans = [match.span() for match in re.finditer(r"\*\*", shown)]
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
