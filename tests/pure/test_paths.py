"""Paths: a message id reaches its handler as it was, whatever it holds and however it was encoded."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentmail_cp import filing
from agentmail_cp.web.paths import MARK, message_id_candidates, normalise, restore

ID = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0" + MARK),
    min_size=1,
    max_size=30,
).filter(lambda text: text not in {".", ".."})
RAW_ID = st.text("ab/+=@.", min_size=1, max_size=12).map(lambda text: f"<{text}>")
PREFIX = st.sampled_from(["/v0/inboxes/", "/api/v1/inboxes/"])
SUFFIXES = [
    "",
    "/reply",
    "/reply-all",
    "/forward",
    "/raw",
    "/attachments/3",
    "/agent-armor/feedback",
    "/agent-armor/release",
]
SUFFIX = st.sampled_from(SUFFIXES)
BARE_ID = st.text("ab/+=@.", min_size=1, max_size=12).filter(
    lambda text: not text.endswith("/") and "//" not in text
)
KEYWORDS = ["send", "search", "batch-get", "batch-update"]


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
    assert "/".join(segments[segments.index("messages") + 2 :]) == suffix.removeprefix("/")


@given(PREFIX, RAW_ID, SUFFIX)
def test_unencoded_slashes_in_ids_arrive(prefix: str, message_id: str, suffix: str) -> None:
    """The Python SDK encodes only the brackets."""
    encoded = message_id.replace("<", "%3C").replace(">", "%3E")
    path = normalise(f"{prefix}a@b.c/messages/{encoded}{suffix}".encode())
    segments, found = routed(path)
    assert found == message_id
    assert "/".join(segments[segments.index("messages") + 2 :]) == suffix.removeprefix("/")


ANY_ID = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)
ODD_ID = st.text("a/.%2fF?#>\t\x7f@" + MARK, min_size=1, max_size=12)


@given(st.one_of(ANY_ID, ODD_ID), SUFFIX)
@example("a?b", "")
@example("a#b", "/raw")
@example("a/../b", "")
@example("a/./b", "/reply")
@example("%41", "")
@example("a\tb", "")
@example("../a/..", "")
def test_a_mail_goes_by_its_message_id_just_when_the_python_sdk_gets_there_with_it(
    message_id: str, suffix: str
) -> None:
    """A stranger's mail could neither be read nor marked as read, so an agent met it for ever; or another
    mail was read and deleted in its place. The SDK puts ids into paths as they are.
    """
    own = filing.id_of(message_id)
    assert found_by_the_sdk(own, suffix)
    assert (own == f"<{message_id}>") == found_by_the_sdk(f"<{message_id}>", suffix)


def found_by_the_sdk(message_id: str, suffix: str) -> bool:
    try:
        url = httpx.URL(f"http://api.test/v0/inboxes/a@b.c/messages/{message_id}{suffix}")
    except httpx.InvalidURL:
        return False
    raw_path, _, query = url.raw_path.partition(b"?")
    head, _, rest = normalise(raw_path).partition("/messages/")
    value, _, after = rest.partition("/")
    there = head == "/v0/inboxes/a@b.c" and not query and after == suffix.removeprefix("/")
    return there and restore(value) == message_id


@given(PREFIX, BARE_ID, SUFFIX)
def test_ids_without_brackets_keep_their_slashes(prefix: str, bare: str, suffix: str) -> None:
    """Callers leave the brackets out, because shells and templates choke on them."""
    path = normalise(f"{prefix}a@b.c/messages/{bare}{suffix}".encode())
    segments, found = routed(path)
    assert found == bare
    assert "/".join(segments[segments.index("messages") + 2 :]) == suffix.removeprefix("/")


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_an_id_in_brackets_may_end_like_a_route(suffix: str) -> None:
    """A foreign Message-ID would be cut, and another message answered or a mail sent."""
    for raw in (f"<x{suffix}>", f"<x{suffix}>{suffix}"):
        _, found = routed(normalise(f"/v0/inboxes/a@b.c/messages/{raw}".encode()))
        assert found == f"<x{suffix}>"


@pytest.mark.parametrize("word", KEYWORDS)
def test_a_message_id_may_look_like_a_route(word: str) -> None:
    """`<search>` is a message; `search` is the search."""
    assert normalise(f"/v0/inboxes/a/messages/{word}".encode()).endswith(f"/messages/{word}")
    assert normalise(f"/v0/inboxes/a/messages/%3C{word}%3E".encode()).endswith(f"/<{word}>")


@given(st.binary())
def test_no_path_is_a_crash(raw: bytes) -> None:
    assert "\0" not in normalise(raw)
    assert "\0" not in normalise(b"/v0/inboxes/a/messages/" + raw)


@given(st.binary())
def test_both_prefixes_lead_to_the_same_place(rest: bytes) -> None:
    """A program written for one would behave otherwise than one for the other."""
    assert normalise(b"/api/v1/" + rest) == normalise(b"/v0/" + rest)


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
        (b"/v0/inboxes/a@b.c/messages/x%3Fy", "/v0/inboxes/a@b.c/messages/x?y"),
        (b"/v0/inboxes/inb_1/drafts/a%2Fb/send", f"/v0/inboxes/inb_1/drafts/a{MARK}b/send"),
        (b"/v0/threads/a%2Fb", f"/v0/threads/a{MARK}b"),
        (b"/api/v1", "/v0"),
        (b"/api/v1/", "/v0/"),
        (b"/api/v1/inboxes", "/v0/inboxes"),
        (b"/api/v1/inboxes/inb_1/drafts", "/v0/inboxes/inb_1/drafts"),
        (b"/api/v1/threads/x", "/v0/threads/x"),
        (b"/api/v12/inboxes", "/api/v12/inboxes"),
        (b"/api/v1%2Finboxes", f"/api/v1{MARK}inboxes"),
        (b"/api/v2/inboxes", "/api/v2/inboxes"),
        (b"/", "/"),
        (b"", ""),
    ],
)
def test_paths_stay_what_they_are(raw: bytes, path: str) -> None:
    assert normalise(raw) == path


def test_ids_are_looked_up_with_and_without_brackets_and_encoding() -> None:
    assert message_id_candidates("%3Ca@b%3E") == ("%3Ca@b%3E", "<%3Ca@b%3E>", "<a@b>")
    assert message_id_candidates("a@b") == ("a@b", "<a@b>")


ENTRY = st.text("ab/+=@.%é", min_size=1, max_size=12).filter(
    lambda text: text.strip("/") == text and "//" not in text and text not in {".", ".."}
)
OWNERS = ["/v0", "/v0/inboxes/a@b.c", "/v0/pods/customer-1", "/api/v1/inboxes/a%40b.c", "/api/v1"]


@given(st.sampled_from(OWNERS), ENTRY)
def test_an_entry_of_a_list_arrives_however_it_was_encoded(owner: str, entry: str) -> None:
    """The Python SDK sends it as it is, but for `%` and what is not ASCII; the Node SDK encodes it all."""
    for safe in ("", "/@+="):
        path = normalise(f"{owner}/lists/send/block/{quote(entry, safe=safe)}".encode())
        *_, lists, direction, kind, found = path.split("/")
        assert (lists, direction, kind, restore(found)) == ("lists", "send", "block", entry)


@pytest.mark.parametrize("path", ["/v0/lists/send/block", "/v0/lists/send/block/", "/v0/lists/"])
def test_a_path_of_a_list_stays_as_it_is(path: str) -> None:
    """Only an entry is put together."""
    assert normalise(path.encode()) == path
