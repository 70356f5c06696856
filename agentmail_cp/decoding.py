"""PURE: from the bytes of a mail part or header to what a person reads, however its sender spelt them.

Labels of charsets mean what browsers take them to mean (WHATWG Encoding), as senders do: `iso-8859-1` is
Windows-1252, `gb2312` is GB 18030, `us-ascii` is anything. Bad bytes become U+FFFD and bad escapes stay as
they are: nothing here raises, and nothing is lost because something beside it is broken.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import groupby

_MEANT = {
    **dict.fromkeys(["iso-8859-1", "iso8859-1", "iso_8859-1", "latin1", "latin-1", "l1"], "cp1252"),
    **dict.fromkeys(["iso-8859-9", "iso8859-9", "latin5"], "cp1254"),
    **dict.fromkeys(["iso-8859-11", "tis-620"], "cp874"),
    **dict.fromkeys(["iso-8859-8-i", "iso-8859-8-e"], "iso-8859-8"),
    **dict.fromkeys(["gb2312", "gbk", "x-gbk", "gb_2312-80", "chinese"], "gb18030"),
    **dict.fromkeys(["shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j"], "cp932"),
    **dict.fromkeys(["euc-kr", "ks_c_5601-1987", "ks_c_5601", "ksc5601", "korean"], "cp949"),
    **dict.fromkeys(["big5", "big-5", "x-x-big5"], "big5hkscs"),
    **dict.fromkeys(["unicode-1-1-utf-7", "x-unicode-2-0-utf-7"], "utf-7"),
    **dict.fromkeys(["macintosh", "x-mac-roman"], "mac_roman"),
    "x-mac-cyrillic": "mac_cyrillic",
}
_ANYTHING = frozenset({"us-ascii", "ascii", "ansi_x3.4-1968", "iso646-us"})
_NO_CHARSETS = frozenset({"unicode_escape", "raw_unicode_escape", "punycode", "idna", "undefined"})
"""Codecs of Python that no mail is written in."""

_WORD = r"=\?([^?\s*]+)(?:\*[^?\s]*)?\?([BbQq])\?([^?\r\n]*)\?="
_WORDS = re.compile(rf"{_WORD}(?:[ \t\r\n]*(?={_WORD}))?")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_LONE = re.compile("[\ud800-\udfff]")
"""Half characters, which UTF-7 can spell and UTF-8 cannot."""
_HOLES = "agentmail_cp.holes"
_LOOKS_MISREAD = re.compile("[\u0080-\u00ff\u0152-\u2122]")


def text(data: bytes, charset: str | None) -> str:
    """Bytes as text, by what their label means; UTF-8 without one, or with one nobody knows."""
    label = (charset or "").strip().strip("\"'").lower()
    if label in _ANYTHING:
        return _guessed(data)
    if label and label not in _NO_CHARSETS:
        try:
            return _LONE.sub("\ufffd", data.decode(_MEANT.get(label, label), errors="replace"))
        except (LookupError, ValueError):
            pass
    return data.decode("utf-8", errors="replace")


def payload(data: bytes, encoding: str | None) -> bytes:
    """What a `Content-Transfer-Encoding` wraps; the bytes as they are where it wraps nothing."""
    match (encoding or "").strip().lower():
        case "base64":
            return _from_base64(data)
        case "quoted-printable":
            # RFC 2045 section 6.7: white space at the end of a line was added on the way.
            lines = [_without_padding(line) for line in data.split(b"\n")]
            return binascii.a2b_qp(b"\n".join(lines))
        case _:
            return data


def words(value: str) -> str:
    """A header with its encoded words (RFC 2047) decoded; what cannot be decoded stays as it is.

    Bytes of neighbours in one charset are decoded together: many senders cut inside a character.
    """
    if "=?" not in value:
        return value
    return "".join(
        piece if isinstance(piece, str) else text(piece[1], piece[0])
        for piece in _merged(_pieces(value))
    )


def reread(shown: str) -> str:
    """Text that was called ASCII and read as Windows-1252, as what it is: UTF-8, if it is that."""
    if not _LOOKS_MISREAD.search(shown):
        return shown
    try:
        return shown.encode("cp1252", errors=_HOLES).decode()
    except UnicodeError:
        return shown


def _guessed(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _hole(error: UnicodeError) -> tuple[bytes, int]:
    """What five bytes without a character in Windows-1252 are read as: the character of their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return error.object[error.start : error.end].encode("latin-1"), error.end


codecs.register_error(_HOLES, _hole)


def _from_base64(data: bytes) -> bytes:
    """As much as can be decoded: whatever is no base64 is skipped, what was cut off is left out."""
    letters = _NOT_BASE64.sub(b"", data)
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return base64.b64decode(letters + b"=" * (-len(letters) % 4))


def _without_padding(line: bytes) -> bytes:
    bare = line.rstrip(b" \t\r")
    return bare + b"\r" if line.endswith(b"\r") else bare


def _pieces(value: str) -> Iterator[str | tuple[str, bytes]]:
    """Plain text and encoded words in order; white space between two words is neither."""
    end = 0
    for found in _WORDS.finditer(value):
        if found.start() > end:
            yield value[end : found.start()]
        charset, encoding, encoded = found[1], found[2], found[3]
        data = _word(encoding, encoded)
        yield found[0] if data is None else (charset.lower(), data)
        end = found.end()
    if end < len(value):
        yield value[end:]


def _word(encoding: str, encoded: str) -> bytes | None:
    raw = encoded.encode(errors="replace")
    if encoding in "Qq":
        return binascii.a2b_qp(raw, header=True)
    letters = b"".join(raw.split()).rstrip(b"=")
    if _NOT_BASE64.search(letters) or len(letters) % 4 == 1:
        return None
    return base64.b64decode(letters + b"=" * (-len(letters) % 4))


def _merged(pieces: Iterable[str | tuple[str, bytes]]) -> Iterator[str | tuple[str, bytes]]:
    """The pieces, neighbours in one charset as one. Joined once each: a header may have a million."""
    for charset, run in groupby(pieces, lambda piece: None if isinstance(piece, str) else piece[0]):
        if charset is None:
            yield from run
        else:
            yield charset, b"".join(piece[1] for piece in run if not isinstance(piece, str))
