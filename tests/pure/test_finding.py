"""Where the words of an address begin, as the contract's own examples say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.inboxes.finding import begins


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("support@example.com", "sup", True),
        ("support@example.com", "port", False),
        ("support@example.com", "example", True),
        ("support@example.com", "xample", False),
        ("support@example.com", "support@example.com", True),
        ("support@example.com", "@example.com", True),
        ("sales.eu+q4_new-york@x.test", "eu", True),
        ("sales.eu+q4_new-york@x.test", "q4", True),
        ("sales.eu+q4_new-york@x.test", "new", True),
        ("sales.eu+q4_new-york@x.test", "york@x", True),
        ("sales.eu+q4_new-york@x.test", "4_new", False),
        ("port@x.test support", "port", True),
        ("support port@x.test", "port", True),
        ("x@x.test größe", "grö", True),
        ("x@x.test größe", "ße", False),
        ("", "x", False),
    ],
)
def test_a_word_matches_where_a_word_begins(text: str, word: str, *, expected: bool) -> None:
    assert begins(text, word) is expected


@given(st.text(), st.text(min_size=1))
def test_a_beginning_is_a_part_and_a_whole_text_is_a_beginning(text: str, word: str) -> None:
    assert begins(word, word)
    assert not begins(text, word) or word in text
