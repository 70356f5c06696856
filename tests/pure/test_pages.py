"""Page tokens: they continue exactly where a page ended, and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import pages
from agentmail_cp.errors import Invalid

TIME = st.datetimes(timezones=st.just(UTC))
NUMBER = st.integers(-(2**63), 2**63 - 1)
KEY = st.tuples(TIME, NUMBER)
Shape = tuple[datetime, int]


@given(st.text(), KEY, st.text())
def test_a_token_gives_back_its_key_to_the_microsecond(scope: str, key: Shape, text: str) -> None:
    assert pages.decode(scope, pages.encode(scope, key), Shape) == key
    token = pages.encode(scope, (*key, text))
    assert pages.decode(scope, token, tuple[datetime, int, str]) == (*key, text)


@given(st.text(), st.text(), KEY)
def test_a_token_of_another_list_is_refused(scope: str, other: str, key: Shape) -> None:
    if scope != other:
        assert_refused(other, pages.encode(scope, key))


@given(KEY, st.data())
def test_a_damaged_token_is_refused(key: Shape, data: st.DataObject) -> None:
    token = pages.encode("messages", key)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCdef019-_ .").filter(lambda char: char != token[place]))
    assert_refused("messages", token[:place] + other + token[place + 1 :])
    assert_refused("messages", token[:place])


@given(st.text())
def test_rubbish_is_refused(token: str) -> None:
    assert_refused("messages", token)


@given(st.tuples(st.text(), st.text()) | st.tuples(NUMBER))
def test_a_key_of_another_shape_is_refused(key: tuple[str | int, ...]) -> None:
    """The checksum is no secret, so a token can be forged; it must not become a 500."""
    assert_refused("messages", pages.encode("messages", key))


@pytest.mark.parametrize("text", [b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xa9short"])
def test_a_forged_key_that_is_no_text_is_refused(text: bytes) -> None:
    """As before: what is no UTF-8, or ends early, is no key of a list of texts."""
    forged = cast("tuple[str]", (msgspec.Raw(text),))
    with pytest.raises(Invalid):
        pages.decode("lists", pages.encode("lists", forged), tuple[pages.Text])


def assert_refused(scope: str, token: str) -> None:
    with pytest.raises(Invalid) as caught:
        pages.decode(scope, token, Shape)
    assert caught.value.field == "page_token"
    assert caught.value.detail == "INVALID_PAGE_TOKEN"


@pytest.mark.parametrize(
    ("value", "expected"), [(None, 50), (1, 1), ("20", 20), (100, 100), (101, 100), ("9" * 30, 100)]
)
def test_page_sizes(value: int | str | None, expected: int) -> None:
    assert pages.limit(value) == expected


@pytest.mark.parametrize("value", [0, -1, "", "ten", "1.5", "9" * 5000])
def test_impossible_page_sizes_are_refused(value: int | str) -> None:
    with pytest.raises(Invalid) as caught:
        pages.limit(value)
    assert caught.value.detail == "INVALID_LIMIT"
