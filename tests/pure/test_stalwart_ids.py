"""A wrong id would show one mail as another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.mailserver import DocumentId
from agentmail_cp.stalwart.ids import ALPHABET, decode, document_of, email_id, encode


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "a"),
        (1, "b"),
        (31, "3"),
        (32, "ba"),
        (2**32 - 1, "d333333"),
        (20080258862541, "singleton"),
    ],
)
def test_ids_are_spelled_as_stalwart_spells_them(number: int, text: str) -> None:
    assert encode(number) == text
    assert decode(text) == number


@given(st.integers(0, 2**64 - 1))
def test_every_id_survives_the_round_trip(number: int) -> None:
    text = encode(number)
    assert decode(text) == number
    assert set(text) <= set(ALPHABET)
    assert text == "a" or not text.startswith("a")


@given(thread=st.integers(0, 2**32 - 1), document=st.integers(0, 2**32 - 1))
def test_a_thread_merge_does_not_change_which_mail_it_is(thread: int, document: int) -> None:
    full = encode(thread << 32 | document)
    assert document_of(full) == document
    assert document_of(email_id(DocumentId(document))) == document


@given(st.text(max_size=20))
def test_what_is_no_id_is_refused_and_nothing_else_happens(text: str) -> None:
    try:
        number = decode(text)
    except ValueError:
        return
    assert encode(number) == text.lstrip("a") or (set(text) == {"a"} and number == 0)


@pytest.mark.parametrize("text", ["", "A", "8", "zzzzzzzzzzzzzzzzzzzz", "a b"])
def test_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="is not an id"):
        decode(text)
