"""Query values: every spelling the SDKs and people use means the same."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.errors import Invalid
from agentmail_cp.web import queries

VALUE = st.text("abcXYZ :@-é1", min_size=1, max_size=10).map(str.strip).filter(bool)
VALUES = st.lists(VALUE, min_size=1, max_size=6, unique=True)
ANY_PAIRS = st.lists(
    st.tuples(st.sampled_from(["labels", "labels[]", "labels[0]"]), st.text() | st.just('["a",1]'))
)


@given(VALUES)
def test_all_spellings_of_a_list_mean_the_same(values: list[str]) -> None:
    expected = tuple(values)
    spellings = [
        [("labels", json.dumps(values))],
        [("labels", json.dumps(values, separators=(",", ":"), ensure_ascii=False))],
        [("labels", ",".join(values))],
        [("labels", value) for value in values],
        [("labels[]", value) for value in values],
        [(f"labels[{index}]", value) for index, value in enumerate(values)],
    ]
    for pairs in spellings:
        assert queries.texts([("other", "x"), *pairs], "labels") == expected


@given(ANY_PAIRS)
def test_any_list_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    with suppress(Invalid):
        found = queries.texts(pairs, "labels")
        assert len(found) == len(set(found)) <= queries.MAX_VALUES
        assert all(0 < len(value) <= queries.MAX_VALUE and "\0" not in value for value in found)


def test_a_json_array_keeps_commas_and_spaces_inside_values() -> None:
    assert queries.texts([("subject", '["a, b", "c d"]')], "subject") == ("a, b", "c d")


def test_names_that_only_begin_alike_are_others() -> None:
    assert queries.texts([("labels_x", "a"), ("labels[x]", "b")], "labels") == ()


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        ('["a"', "INVALID_LIST"),
        ("[1]", "INVALID_LIST"),
        ("[" * 5000, "INVALID_LIST"),
        ("x" * 1001, "VALUE_TOO_LONG"),
        ("a\0b", "INVALID_VALUE"),
        (",".join(str(number) for number in range(101)), "TOO_MANY_VALUES"),
    ],
)
def test_bad_lists_are_refused(value: str, detail: str) -> None:
    with pytest.raises(Invalid) as caught:
        queries.texts([("labels", value)], "labels")
    assert caught.value.detail == detail


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("1", True), ("FALSE", False), ("0", False), ("", False)],
)
def test_flags(value: str, expected: bool) -> None:
    assert queries.flag([("ascending", value)], "ascending") is expected


def test_a_flag_that_is_neither_is_refused() -> None:
    with pytest.raises(Invalid) as caught:
        queries.flag([("ascending", "maybe")], "ascending")
    assert caught.value.detail == "INVALID_BOOLEAN"


OFFSET = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=OFFSET))  # noqa: DTZ001  hypothesis adds the zone
def test_times_keep_their_moment(moment: datetime) -> None:
    text = moment.isoformat()
    for spelling in (text, text.replace("+", " "), text.replace("+00:00", "Z")):
        found = queries.time([("before", spelling)], "before")
        assert found == moment
        assert found
        assert found.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21", datetime(2026, 11, 21, tzinfo=UTC)),
        ("2026-11-21T08:15:00", datetime(2026, 11, 21, 8, 15, tzinfo=UTC)),
        ("2026-11-21 08:15", datetime(2026, 11, 21, 8, 15, tzinfo=UTC)),
        ("2026-11-21T08:15:00.123Z", datetime(2026, 11, 21, 8, 15, 0, 123000, tzinfo=UTC)),
        ("", None),
    ],
)
def test_times_people_write(text: str, expected: datetime | None) -> None:
    assert queries.time([("after", text)], "after") == expected


@given(st.text(min_size=1) | st.just("0001-01-01T00:00:00+23:00"))
def test_any_time_is_read_or_refused(text: str) -> None:
    with suppress(Invalid):
        assert queries.time([("after", text)], "after") is not None


def test_the_last_of_a_repeated_value_counts() -> None:
    assert queries.text([("limit", "1"), ("limit", "2")], "limit") == "2"
    assert queries.text([], "limit") is None
