"""Download links and what an HTTP download says of a file. Pure.

Owns the signed token of a link: an attachment or a whole raw message of one stored mail, until a time.
A token is in one of three states: valid, expired, or forged (anything we did not sign). It carries no
blob id, no address and no key, and the mail it names is looked up again at each download, so a link
dies with its mail. Also here: the file name in `Content-Disposition` (RFC 6266, RFC 8187) and `Range`
(RFC 9110 section 14), both of which come from strangers.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as BinasciiError
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote
from uuid import UUID

import msgspec

from agentmail_cp.mailserver import DocumentId

LIFETIME: Final = timedelta(hours=1)
MAX_NAME: Final = 150
"""Characters of a file name; percent-encoded it stays within what proxies let through in a header."""

OCTETS: Final = "application/octet-stream"

_SIGNATURE = 32
_PURPOSE = b"agentmail-cp download link"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w.+-]{0,126}/[A-Za-z0-9][\w.+-]{0,126}", re.ASCII)
_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.ASCII | re.IGNORECASE)
# Control characters, and the invisible ones that reorder text, so that "gpj.exe" could read "exe.jpg".
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+")
_UNSAFE_IN_NAME = re.compile(r'[/\\:*?"<>|]')
_ATTR_CHARS = "!#$&+-.^_`|~"
"""What RFC 8187 leaves bare beside letters and digits."""
_MOST_DIGITS = 18


class Link(msgspec.Struct, frozen=True, array_like=True):
    """What a link leads to. `part_id` None is the raw message; `expires` is in seconds since 1970.

    `retained` tells that the inbox was deleted when the link was made, for whoever may read such mail.
    """

    organization_id: UUID
    inbox_id: UUID
    document_id: DocumentId
    part_id: str | None
    expires: int
    retained: bool = False


class ForgedLink(Exception):
    """We did not make this link, or made it with another key."""


class ExpiredLink(Exception):
    """The link was good once."""


_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(Link)


def signing_key(secret: str) -> bytes:
    """A key for links alone, from a secret that may also serve something else."""
    return hmac.digest(secret.encode(), _PURPOSE, hashlib.sha256)


def expiry(now: datetime) -> datetime:
    """When a link made now ends, in whole seconds."""
    return (now + LIFETIME).astimezone(UTC).replace(microsecond=0)


def sign(link: Link, key: bytes) -> str:
    """The link as a token of URL-safe characters."""
    payload = _encoder.encode(link)
    signed = payload + hmac.digest(key, payload, hashlib.sha256)
    return urlsafe_b64encode(signed).rstrip(b"=").decode()


def verify(token: str, key: bytes, now: datetime) -> Link:
    """The link behind a token. Raises `ForgedLink` or `ExpiredLink`."""
    try:
        signed = urlsafe_b64decode(token.encode("ascii") + b"=" * (-len(token) % 4))
    except (BinasciiError, ValueError):
        raise ForgedLink from None
    payload, signature = signed[:-_SIGNATURE], signed[-_SIGNATURE:]
    if not hmac.compare_digest(signature, hmac.digest(key, payload, hashlib.sha256)):
        raise ForgedLink
    try:
        link = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Signed by an older version, in a form of its own: its time is over.
        raise ExpiredLink from None
    if now.timestamp() >= link.expires:
        raise ExpiredLink
    return link


def entity_tag(link: Link) -> str:
    """A strong ETag (RFC 9110 section 8.8.3): a stored mail and its parts never change."""
    name = f"{link.inbox_id}/{link.document_id}/{link.part_id}"
    return f'"{hashlib.sha256(name.encode()).hexdigest()[:24]}"'


def media_type(content_type: str | None) -> str:
    """`type/subtype` of a stranger's mail, if it is one."""
    bare = (content_type or "").partition(";")[0].strip().lower()
    return bare if _MEDIA_TYPE.fullmatch(bare) else OCTETS


def content_disposition(filename: str | None, fallback: str = "attachment") -> str:
    """Always `attachment`, so that no browser shows a stranger's file as a page of ours.

    Both forms of the name are given (RFC 6266 appendix D): ASCII for old clients, then UTF-8.
    """
    name = file_name(filename) or fallback
    # Some clients decode percent signs in the plain form.
    plain = "".join(c if c.isascii() and c != "%" else "_" for c in name)
    disposition = f'attachment; filename="{plain}"'
    if plain == name:
        return disposition
    return f"{disposition}; filename*=UTF-8''{quote(name, safe=_ATTR_CHARS)}"


def file_name(text: str | None) -> str:
    """A name that is safe as a file's: no path, nothing invisible, no reserved character."""
    visible = _INVISIBLE.sub("", (text or "").encode("utf-8", "replace").decode())
    cleaned = _UNSAFE_IN_NAME.sub("_", visible).strip(" .")
    if len(cleaned) <= MAX_NAME:
        return cleaned
    stem, dot, suffix = cleaned.rpartition(".")
    if not dot or len(suffix) > MAX_NAME // 10:
        return cleaned[:MAX_NAME].rstrip(" .")
    return f"{stem[: MAX_NAME - len(suffix) - 1].rstrip(' .')}.{suffix}"


class Span(msgspec.Struct, frozen=True):
    """Bytes `start` to `stop` (exclusive) of a whole of `size` bytes."""

    start: int
    stop: int
    size: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    @property
    def content_range(self) -> str:
        return f"bytes {self.start}-{self.stop - 1}/{self.size}"


class Unsatisfiable(Exception):
    """The range begins behind the end (RFC 9110 section 15.5.17)."""


def parse_range(header: str | None, size: int) -> Span | None:
    """The range a request asks for; None means the whole.

    What is malformed, in another unit or several ranges is ignored, as RFC 9110 section 14.2 allows.
    Raises `Unsatisfiable`.
    """
    found = _RANGE.fullmatch((header or "").strip())
    if found is None or found.groups() == ("", ""):
        return None
    first, last = (_number(text) for text in found.groups())
    if first is None:
        start, stop = max(0, size - (last or 0)), size
    else:
        if last is not None and last < first:
            return None
        start, stop = first, size if last is None else min(last + 1, size)
    if start >= stop:
        raise Unsatisfiable
    return Span(start, stop, size)


def _number(digits: str) -> int | None:
    """A count of bytes; one longer than any file is as good as the longest."""
    if not digits:
        return None
    significant = digits.lstrip("0") or "0"
    return int(significant) if len(significant) <= _MOST_DIGITS else 10**_MOST_DIGITS
