"""Decoding: words come through whatever their sender did to them, and nothing hostile breaks or stalls."""

from __future__ import annotations

import base64
import quopri
import time
from email.header import Header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import decoding
from agentmail_cp.stalwart import rescue

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
LABELS = (
    st.none() | st.text() | st.sampled_from(["utf-8", "us-ascii", "gb2312", "idna", "hex", "utf-7"])
)


@given(st.binary(), LABELS, st.none() | st.text() | st.sampled_from(["base64", "quoted-printable"]))
def test_no_part_is_a_crash(data: bytes, charset: str | None, encoding: str | None) -> None:
    shown = decoding.text(decoding.payload(data, encoding), charset)
    assert shown.encode().decode() == shown


@given(
    st.text()
    | st.lists(st.sampled_from(["=?utf-8?q?", "?=", "=C3", "=?x?b?", " ", "YQ"])).map("".join)
)
def test_no_header_is_a_crash(value: str) -> None:
    assert isinstance(decoding.words(value), str)


@given(TEXT.filter(lambda text: "\r" not in text and "\n" not in text))
def test_a_header_python_wrote_is_read_back(text: str) -> None:
    written = Header(text, "utf-8", maxlinelen=75).encode(linesep="\n")
    assert " ".join(decoding.words(written).split()) == " ".join(text.split())


@given(st.binary())
def test_what_is_wrapped_well_is_unwrapped(data: bytes) -> None:
    assert decoding.payload(base64.encodebytes(data), " BASE64 ") == data
    quoted = quopri.encodestring(data, quotetabs=True)
    assert decoding.payload(quoted, "Quoted-Printable") == data
    assert decoding.payload(data, "x-unknown") == data


@pytest.mark.parametrize(
    ("label", "written", "read"),
    [
        ("iso-8859-1", b"\x93\x80\x94", "“€”"),
        ("ISO-8859-1", b"\x93\x80\x94", "“€”"),
        ('"us-ascii"', "Süß".encode(), "Süß"),
        ("us-ascii", b"S\xfc\xdf", "Süß"),
        ("gb2312", "㐀".encode("gb18030"), "㐀"),
        ("ks_c_5601-1987", "똠".encode("cp949"), "똠"),
        ("shift_jis", "①".encode("cp932"), "①"),
        ("nobody-knows", "Süß".encode(), "Süß"),
        (None, b"\xff", "\ufffd"),
        ("utf-7", b"+2AA-", "\ufffd"),
    ],
)
def test_labels_mean_what_senders_mean(label: str | None, written: bytes, read: str) -> None:
    assert decoding.text(written, label) == read


def test_what_was_misread_is_read_again_only_if_it_was() -> None:
    """UTF-8 called ASCII comes from Stalwart as Windows-1252."""
    for text in ("Süß ✓", "日本語", "plain"):
        assert decoding.reread(decoding.text(text.encode(), "iso-8859-1")) == text
    for text in ("Süß", "Ã", "5 €", "Ã\x81 日"):
        assert decoding.reread(text) == text
    assert decoding.reread("Ã\x81Ã\x8dÃ\x8fÃ\x90Ã\x9d \u00e2\u201a\u00ac") == "ÁÍÏÐÝ €"


@pytest.mark.parametrize("piece", ["=?a?q?", "=?utf-8?q?a?= ", "=? ", "=?utf-8?q?a", " ", "=\n"])
def test_hostile_text_takes_no_time(piece: str) -> None:
    long = piece * (2_000_000 // len(piece))
    started = time.perf_counter()
    decoding.words(long)
    decoding.payload(long.encode(), "quoted-printable")
    decoding.reread(long)
    assert time.perf_counter() - started < 5


def test_a_header_of_megabytes_in_encoded_words_takes_no_time() -> None:
    """Anybody can send one, and everybody's mail waits while it is read."""
    word = f"=?utf-8?q?{'a' * 50}?= "
    started = time.perf_counter()
    assert decoding.words(word * 120_000) == "a" * 6_000_000 + " "
    assert time.perf_counter() - started < 5


NESTED = b"""\
Content-Type: multipart/mixed; boundary=a

--a
Content-Type: multipart/alternative; boundary=b

--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

s=C3=BC=C3=9F =ZZ a=b
--b
Content-Type: text/html

<p>x</p>
--b--
--a
Content-Type: message/rfc822

Content-Type: multipart/mixed; boundary=c

--c

inner
--c--
--a
Content-Transfer-Encoding: base64

bG!!FzdA==
--a--
"""


def test_parts_are_rescued_by_stalwart_s_numbers() -> None:
    """The words of another part would stand where the lost ones were."""
    assert rescue.texts(NESTED, ["2", "3", "5", "9"]) == {
        "2": "süß =ZZ a=b",
        "3": "<p>x</p>",
        "5": "last",
    }


def test_a_mail_nested_without_end_is_not_rescued() -> None:
    """It would take the answer for every mail beside it along."""
    raw = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level)
        for level in range(3000)
    )
    assert rescue.texts(raw, ["1"]) == {}


@pytest.mark.parametrize("parameter", [b";", b"; a=b", b'; a*0="'])
def test_a_million_parameters_take_no_time(parameter: bytes) -> None:
    """Whoever reads such a mail would keep one of few threads busy for minutes."""
    head = b"Content-Type: text/plain; charset=utf-8" + parameter * 500_000
    started = time.perf_counter()
    assert rescue.texts(head + b"\n\n" + "Süß".encode(), {"0"}) == {"0": "Süß"}
    assert time.perf_counter() - started < 5
