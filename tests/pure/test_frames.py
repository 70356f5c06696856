"""What clients send over a WebSocket, and what they are answered."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.errors import Forbidden, Gone, Invalid
from agentmail_cp.web import frames
from agentmail_cp.web.frames import MOST_IDS, Subscribe

NODE = {"type": "subscribe", "event_types": ["message.sent"], "inbox_ids": ["a@b.test"]}
PYTHON = {"type": "subscribe", "pod_ids": ["p"]}


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ({"type": "subscribe"}, Subscribe()),
        (NODE, Subscribe(event_types=("message.sent",), inbox_ids=("a@b.test",))),
        (PYTHON, Subscribe(pod_ids=("p",))),
        ({"type": "subscribe", "inboxIds": ["a"]}, Subscribe(inbox_ids=("a",))),
        (
            {"type": "subscribe", "eventTypes": "message.sent"},
            Subscribe(event_types=("message.sent",)),
        ),
        ({"type": "subscribe", "inbox_ids": ["a", "b", "a"]}, Subscribe(inbox_ids=("a", "b"))),
        ({"type": "subscribe", "pod_ids": None, "event_types": []}, Subscribe()),
        ({"type": "subscribe", "after": "start"}, Subscribe(after="start")),
        ({"type": "subscribe", "something": {"new": 1}}, Subscribe()),
    ],
)
def test_a_subscription_is_read_as_it_is_meant(frame: dict[str, Any], expected: Subscribe) -> None:
    """A program written for the hosted service would hear of nothing, or of too much."""
    text = json.dumps(frame)
    assert frames.parse(text) == expected
    assert frames.parse(text.encode()) == expected


@pytest.mark.parametrize(
    ("frame", "field", "code"),
    [
        ("", "frame", "MALFORMED_JSON"),
        ("subscribe", "frame", "MALFORMED_JSON"),
        (b"\xff\xfe", "frame", "MALFORMED_JSON"),
        ('{"type": "subscribe"', "frame", "MALFORMED_JSON"),
        ("[" * 50_000, "frame", "MALFORMED_JSON"),
        ("[]", "frame", "INVALID_TYPE"),
        ("null", "frame", "INVALID_TYPE"),
        ("{}", "type", "REQUIRED"),
        ('{"type": "unsubscribe"}', "type", "UNKNOWN_FRAME"),
        ('{"type": 1}', "type", "INVALID_TYPE"),
        ('{"type": "subscribe", "inbox_ids": [1]}', "inbox_ids.0", "INVALID_TYPE"),
        ('{"type": "subscribe", "pod_ids": {"a": 1}}', "pod_ids", "INVALID_TYPE"),
        ('{"type": "subscribe", "after": 7}', "after", "INVALID_TYPE"),
        (
            json.dumps({"type": "subscribe", "inbox_ids": [str(n) for n in range(MOST_IDS + 1)]}),
            "inbox_ids",
            "TOO_MANY",
        ),
    ],
)
def test_what_is_no_subscription_is_refused_by_field(
    frame: str | bytes, field: str, code: str
) -> None:
    """A developer would look for the mistake in the wrong place."""
    with pytest.raises(Invalid) as refused:
        frames.parse(frame)
    assert (refused.value.field, refused.value.detail) == (field, code)


@given(st.binary() | st.text() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_nothing_a_client_sends_breaks_the_socket(frame: str | bytes) -> None:
    """One odd client could end its own connection with an error of ours."""
    with contextlib.suppress(Invalid):
        assert isinstance(frames.parse(frame), Subscribe)


def test_a_subscription_is_echoed_with_the_cursor_to_come_back_to() -> None:
    """A client that is cut off before its first event could not tell where it was."""
    asked = Subscribe(inbox_ids=("a@b.test",), after="now")
    assert json.loads(frames.subscribed(asked, "c")) == {
        "type": "subscribed",
        "inbox_ids": ["a@b.test"],
        "cursor": "c",
    }


def test_an_error_has_the_fields_of_the_contract_and_those_of_http() -> None:
    """The SDKs read `name` and `message`; `code`, `fix` and `oldest` say what to do."""
    told = json.loads(frames.error(Forbidden("label_spam_read is forbidden", fix="Do.")))
    assert told["type"] == "error"
    assert (told["name"], told["message"]) == ("ForbiddenError", "label_spam_read is forbidden")
    assert (told["code"], told["fix"]) == ("forbidden", "Do.")
    assert json.loads(frames.error(Gone("Over.", oldest="e1")))["oldest"] == "e1"
