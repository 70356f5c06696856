"""Paths: a message id reaches its handler as it was, whatever it holds and however it was encoded."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.web.paths import MARK, message_id_candidates, normalise, restore

ID = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0" + MARK),
    min_size=1,
    max_size=30,
).filter(lambda text: text not in {".", ".."})
RAW_ID = st.text("ab/+=@.", min_size=1, max_size=12).map(lambda text: f"<{text}>")
PREFIX = st.sampled_from(["/v0/inboxes/", "/api/v1/inboxes/"])
SUFFIX = st.sampled_from(["", "/reply", "/reply-all", "/forward", "/raw", "/attachments/3"])


def routed(path: str) -> tuple[list[str], str]:
    """The segments a router sees, and the message id a handler restores."""
    segments = path.split("/")
    return segments, restore(segments[segments.index("messages") + 1])


@given(PREFIX, ID, SUFFIX)
def test_encoded_ids_arrive(prefix: str, message_id: str, suffix: str) -> None:
    """The Node SDK encodes every character."""
    raw = f"{prefix}a%40b.c/messages/{quote(message_id, safe='')}{suffix}"
    segments, found = routed(normalise(raw.encode()))
    assert found == message_id
    assert len(segments) == len(raw.split("/"))


@given(PREFIX, RAW_ID, SUFFIX)
def test_unencoded_slashes_in_ids_arrive(prefix: str, message_id: str, suffix: str) -> None:
    """The Python SDK encodes only the brackets."""
    encoded = message_id.replace("<", "%3C").replace(">", "%3E")
    path = normalise(f"{prefix}a@b.c/messages/{encoded}{suffix}".encode())
    segments, found = routed(path)
    assert found == message_id
    assert "/".join(segments[segments.index("messages") + 2 :]) == suffix.removeprefix("/")


@given(st.binary())
def test_no_path_is_a_crash(raw: bytes) -> None:
    assert "\0" not in normalise(raw)
    assert "\0" not in normalise(b"/v0/inboxes/a/messages/" + raw)


@given(st.text())
def test_lookup_starts_with_the_id_as_given(value: str) -> None:
    candidates = message_id_candidates(value)
    assert len(candidates) == len(set(candidates))
    assert candidates[:1] == (() if "\0" in value else (value,))
    assert not any("\0" in each for each in candidates)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/v0/inboxes/a+b@c.d/messages", "/v0/inboxes/a+b@c.d/messages"),
        (b"/v0/inboxes/a%2Bb%40c.d", "/v0/inboxes/a+b@c.d"),
        (b"/v0/inboxes/a@b.c/messages/send", "/v0/inboxes/a@b.c/messages/send"),
        (b"/v0/inboxes/a@b.c/messages/send/", "/v0/inboxes/a@b.c/messages/send"),
        (b"/v0/inboxes/a@b.c/messages/100%", "/v0/inboxes/a@b.c/messages/100%"),
        (b"/v0/inboxes/a@b.c/threads/x/y", "/v0/inboxes/a@b.c/threads/x/y"),
        (b"/v0/inboxes/a@b.c/messages/x%2Fraw", f"/v0/inboxes/a@b.c/messages/x{MARK}raw"),
        (b"/", "/"),
        (b"", ""),
    ],
)
def test_paths_stay_what_they_are(raw: bytes, path: str) -> None:
    assert normalise(raw) == path


def test_ids_are_looked_up_with_and_without_brackets_and_encoding() -> None:
    assert message_id_candidates("%3Ca@b%3E") == ("%3Ca@b%3E", "<%3Ca@b%3E>", "<a@b>")
    assert message_id_candidates("a@b") == ("a@b", "<a@b>")
