"""How a body becomes plain objects: base64 as agents' tools write it, and nothing else by chance."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.errors import Invalid
from agentmail_cp.web import requests
from agentmail_cp.web.requests import decode


def body(content: object, name: str = "attachments") -> bytes:
    return json.dumps({"to": "a@b.test", name: [{"filename": "x"}, {"content": content}]}).encode()


def content(raw: bytes, name: str = "attachments") -> Any:
    return decode(raw)[name][1]["content"]


@given(st.binary(max_size=3000))
def test_any_bytes_come_through_in_every_dress(data: bytes) -> None:
    """Python wraps at 76, browsers and JWT libraries use the other alphabet, some drop the padding."""
    plain = base64.b64encode(data).decode()
    wrapped = base64.encodebytes(data).decode()
    url_safe = base64.urlsafe_b64encode(data).decode()
    for text in (plain, wrapped, wrapped.replace("\n", "\r\n"), url_safe, url_safe.rstrip("=")):
        assert content(body(text)) == data


def test_wrapped_content_larger_than_a_slice_comes_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytes(range(256)) * 50
    for size in (60, 64, 1000, 10**6):
        monkeypatch.setattr(requests, "_SLICE", size)
        assert content(body(base64.encodebytes(data).decode())) == data
        assert content(body(base64.b64encode(data).decode())) == data


@pytest.mark.parametrize("text", ["QUI=QUJD", "QUI=\nQUJD", "QUJDQUI=QUJD"])
def test_padding_where_a_slice_ends_is_no_end(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_SLICE", 4)
    with pytest.raises(Invalid, match="not base64"):
        decode(body(text))


@pytest.mark.parametrize(
    "text",
    [
        "%%%",
        "data:application/pdf;base64,QUJD",
        "QUJD=QUJD",
        "Q",
        "QUJDR",
        "QUJD\u00e4",
        "QU=JD",
        "==",
        "{}",
    ],
)
@pytest.mark.parametrize("name", ["attachments", "add_attachments"])
def test_what_is_no_base64_is_said_at_its_field(text: str, name: str) -> None:
    with pytest.raises(Invalid, match="not base64") as caught:
        decode(body(text, name))
    assert caught.value.field == f"{name}.1.content"


@pytest.mark.parametrize("value", [None, 5, True, ["QUJD"], {"a": "QUJD"}])
def test_content_that_is_no_text_is_left_for_the_check_of_types(value: object) -> None:
    assert content(body(value)) == value


@pytest.mark.parametrize("value", [None, 5, "x", {"content": "QUJD"}, ["x"], [None], [[]]])
def test_attachments_that_are_none_are_left_for_the_check_of_types(value: object) -> None:
    raw = json.dumps({"attachments": value}).encode()
    assert decode(raw) == {"attachments": value}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_other_json_is_what_json_says(value: object) -> None:
    for shape in (value, {"attachments": "x", "other": value}, [value, '"attachments"']):
        assert decode(json.dumps(shape).encode()) == shape


@pytest.mark.parametrize("raw", [b'{"attachments"', b'{"attachments": [}', b'{"attachments":[]} x'])
def test_broken_json_stays_broken(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(raw)


def test_no_body_is_null() -> None:
    assert decode(b"") is None


@pytest.mark.parametrize("name", ["attachments", "add_attachments"])
def test_more_attachments_than_a_mail_takes_are_not_decoded(name: str) -> None:
    """A body of 20 MB holds 900,000 of them, each of which would be looked at."""
    one = {"content": "no base64"}
    with pytest.raises(Invalid) as caught:
        decode(json.dumps({name: [one] * 101}).encode())
    assert (caught.value.field, caught.value.detail) == (name, "TOO_MANY_ATTACHMENTS")
