"""Download links and what their answers say of a file. Links are the only way to mail without a key."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email import policy
from email.parser import Parser
from urllib.parse import unquote
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import downloads
from agentmail_cp.downloads import ExpiredLink, ForgedLink, Link, Span, Unsatisfiable
from agentmail_cp.mailserver import DocumentId

KEY = downloads.signing_key("a secret")
NOW = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
LINK = Link(UUID(int=1), UUID(int=2), DocumentId(7), "3", int(downloads.expiry(NOW).timestamp()))


def test_a_link_works_for_an_hour_and_not_a_second_longer() -> None:
    token = downloads.sign(LINK, KEY)
    assert re.fullmatch(r"[\w-]+", token)
    assert downloads.verify(token, KEY, NOW + timedelta(minutes=59, seconds=59)) == LINK
    with pytest.raises(ExpiredLink):
        downloads.verify(token, KEY, NOW + timedelta(hours=1))


def test_a_link_to_a_raw_message_is_no_link_to_a_part() -> None:
    raw = msgspec.structs.replace(LINK, part_id=None)
    assert downloads.verify(downloads.sign(raw, KEY), KEY, NOW) == raw
    assert downloads.entity_tag(raw) != downloads.entity_tag(LINK)


@pytest.mark.parametrize("position", [0, 10, -1, -20])
def test_a_changed_link_is_forged(position: int) -> None:
    """One changed character must not lead to another document, inbox or time."""
    token = downloads.sign(LINK, KEY)
    at = position % len(token)
    # The lowest bits of the last character are padding; change the highest.
    other = "A" if token[at] not in "ABCDEFGHIJKLMNOP" else "g"
    with pytest.raises(ForgedLink):
        downloads.verify(token[:at] + other + token[at + 1 :], KEY, NOW)


@pytest.mark.parametrize("token", ["", "A", "====", "é", "a" * 300, "../../etc/passwd", "\0"])
def test_what_is_no_token_is_forged(token: str) -> None:
    with pytest.raises(ForgedLink):
        downloads.verify(token, KEY, NOW)


@given(st.text(max_size=300))
def test_no_text_is_a_link_by_chance_or_breaks_the_check(token: str) -> None:
    with pytest.raises(ForgedLink):
        downloads.verify(token, KEY, NOW)


def test_a_link_of_another_key_is_forged() -> None:
    with pytest.raises(ForgedLink):
        downloads.verify(downloads.sign(LINK, downloads.signing_key("other")), KEY, NOW)


def test_the_key_of_links_does_not_sign_anything_else() -> None:
    """The secret may be Stalwart's API key; what signs links must not reveal or equal it."""
    assert downloads.signing_key("a secret") != b"a secret"


HOSTILE = [
    ("report.pdf", "report.pdf"),
    ("../../etc/passwd", "_.._etc_passwd"),
    ("C:\\Windows\\evil.exe", "C__Windows_evil.exe"),
    ('a"; filename="b.html', "a_; filename=_b.html"),
    ("a\r\nSet-Cookie: x=1", "aSet-Cookie_ x=1"),
    ("photo\u202egpj.exe", "photogpj.exe"),
    ("...", ""),
    ("  .hidden", "hidden"),
    ("naïve café.txt", "naïve café.txt"),
    ("発注書.pdf", "発注書.pdf"),
    ("a\udcffb", "a_b"),
    ("\0", ""),
]


@pytest.mark.parametrize(("name", "safe"), HOSTILE)
def test_a_strangers_file_name_becomes_a_safe_one(name: str, safe: str) -> None:
    assert downloads.file_name(name) == safe


def named(header: str) -> str | None:
    """The file name an RFC 6266 reader takes from the header."""
    if found := re.search(r"filename\*=UTF-8''(\S+)$", header):
        return unquote(found[1], errors="strict")
    text = f"Content-Disposition: {header}\n\n"
    return Parser(policy=policy.HTTP).parsestr(text).get_filename()


@given(st.text(max_size=400))
def test_any_name_makes_one_ascii_header_line_that_says_attachment(name: str) -> None:
    """Response splitting, or a page of a stranger on our origin, would start here."""
    header = downloads.content_disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.startswith('attachment; filename="')
    assert len(header) < 2500
    assert header.count('"') == 2
    assert named(header) == (downloads.file_name(name) or "attachment")


def test_a_long_name_keeps_its_ending() -> None:
    name = downloads.file_name("x" * 500 + ".pdf")
    assert name.endswith("x.pdf")
    assert len(name) == downloads.MAX_NAME


def test_a_name_with_percent_signs_is_not_decoded_by_old_clients() -> None:
    header = downloads.content_disposition("100%41.txt")
    assert 'filename="100_41.txt"' in header
    assert header.endswith("filename*=UTF-8''100%2541.txt")


@pytest.mark.parametrize(
    ("given_type", "served"),
    [
        ("application/pdf", "application/pdf"),
        ("Text/HTML; charset=utf-8", "text/html"),
        ("text/html\r\nX: y", "application/octet-stream"),
        ("nonsense", "application/octet-stream"),
        ("", "application/octet-stream"),
        (None, "application/octet-stream"),
    ],
)
def test_only_a_media_type_is_served_as_one(given_type: str | None, served: str) -> None:
    assert downloads.media_type(given_type) == served


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=50-", (50, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=90-1000", (90, 100)),
        ("BYTES = 1-2", None),
        ("Bytes=1-2", (1, 3)),
        ("bytes=99-" + "9" * 5000, (99, 100)),
        ("bytes=" + "0" * 5000 + "1-2", (1, 3)),
        ("bytes=0-1,5-6", None),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=\u0661-2", None),
        ("lines=1-2", None),
        ("", None),
        (None, None),
    ],
)
def test_a_range_is_read_as_rfc_9110_says(header: str | None, span: tuple[int, int] | None) -> None:
    assert downloads.parse_range(header, 100) == (Span(*span, 100) if span else None)


@pytest.mark.parametrize(
    "header", ["bytes=100-", "bytes=100-200", "bytes=-0", f"bytes={'9' * 99}-"]
)
def test_a_range_behind_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        downloads.parse_range(header, 100)


@given(st.text(max_size=40), st.integers(0, 1000))
def test_any_range_header_is_within_the_file_or_refused(header: str, size: int) -> None:
    try:
        span = downloads.parse_range(f"bytes={header}", size)
    except Unsatisfiable:
        return
    assert span is None or 0 <= span.start < span.stop <= size
