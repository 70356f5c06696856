"""PURE: what a mail that claims to be a report says (RFC 3464 delivery status, RFC 5965 feedback).

Anybody can send one, so nothing in it is more than a claim, everything is bounded, and what cannot be read is
no report. Reads the beginning of a mail just as well as the whole.
"""

from __future__ import annotations

import binascii
import quopri
import re
from base64 import b64decode
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from email.policy import compat32
from itertools import islice
from typing import cast

import msgspec

from agentmail_cp import addresses, filing
from agentmail_cp.outcomes.states import COMPLAINTS, LONGEST_DIAGNOSTIC, Outcome, enhanced

MOST_READ = 512 * 1024
"""Bytes of a mail that are looked at: a report comes before the mail that it returns."""

MOST_CLAIMS = 100
MOST_BOUNDARIES = 40
"""The parser's work grows with how deeply parts are nested."""

MOST_LINES = 20_000
"""Of a mail: the parser makes an object of each empty one in a status."""

LONGEST_TYPE = 1_000
"""Bytes of a Content-Type: what its parameters cost grows with the square of it, 140 s for 400 kB."""

MOST_PARTS = 50
MOST_IDS = 20
LONGEST_BODY = 64 * 1024

_ID = re.compile(r"<([^<>\s]{1,500})>")
_BARE_ID = re.compile(r"[^<>\s@]{1,250}@[^<>\s@]{1,250}")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_TYPE = re.compile(rb"(?i)(?:\A|[\r\n])content-type:[^\r\n]*(?:(?:\r\n|\r|\n)[ \t][^\r\n]*)*")
_BLANK = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(r"\b([245])\.\d{1,3}\.\d{1,3}\b")

_ACTIONS: dict[str, Outcome] = {
    "failed": "failed",
    "delayed": "delayed",
    "delivered": "delivered",
    "relayed": "delivered",
    "expanded": "delivered",
}
_CLASSES: dict[str, Outcome] = {"5": "failed", "4": "delayed", "2": "delivered"}
_STATUS_TYPES = {"message/delivery-status", "message/global-delivery-status"}
_RETURNED = {
    *("message/rfc822", "message/global", "text/rfc822-headers"),
    *("message/rfc822-headers", "message/global-headers"),
}
_ENCODINGS = {"base64", "quoted-printable"}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one recipient. `addresses`: as whom it was written to, and as whom it was found;
    empty when the report hides it. `code` of a complaint is its kind.
    """

    addresses: tuple[str, ...]
    outcome: Outcome
    code: str | None = None
    diagnostic: str | None = None


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What a mail says became of another one. `message_ids` (no brackets) are those the other may have, the
    likeliest first.
    """

    message_ids: tuple[str, ...]
    claims: tuple[Claim, ...]


def read(raw: bytes) -> Feedback | None:
    """What a mail reports; None when it reports nothing that can be used."""
    beginning = _first_lines(raw[:MOST_READ])
    if beginning.lower().count(b"boundary") > MOST_BOUNDARIES:
        return None
    if any(len(found[0]) > LONGEST_TYPE for found in _TYPE.finditer(beginning)):
        return None
    try:
        return _read(BytesParser(policy=compat32).parsebytes(beginning))
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        # The parser of the standard library trips over some hostile mails.
        return None


def _first_lines(raw: bytes) -> bytes:
    last = next(islice(_LINE_END.finditer(raw), MOST_LINES, None), None)
    return raw if last is None else raw[: last.end()]


def _read(mail: Message) -> Feedback | None:
    parts = list(_parts(mail))
    claims = tuple(_claims(parts))[:MOST_CLAIMS]
    message_ids = tuple(dict.fromkeys(_message_ids(mail, parts)))[:MOST_IDS]
    if not claims or not message_ids:
        return None
    return Feedback(message_ids=message_ids, claims=claims)


def _parts(mail: Message) -> Iterator[Message]:
    """The report's own parts: what people send on is a report inside a mail of theirs."""
    if not mail.is_multipart() or mail.get_content_type() != "multipart/report":
        return
    payload: object = mail.get_payload()
    for part in cast("list[object]", payload)[:MOST_PARTS]:
        if isinstance(part, Message):
            yield part


def _claims(parts: list[Message]) -> Iterator[Claim]:
    for part in parts:
        kind = part.get_content_type()
        if kind in _STATUS_TYPES:
            for fields in _blocks(part)[:MOST_CLAIMS]:
                yield from _status(fields)
        elif kind == "message/feedback-report":
            for fields in _blocks(part)[:1]:
                yield from _complaints(fields)


def _status(fields: Message) -> Iterator[Claim]:
    """A group of fields about one recipient (RFC 3464 section 2.3)."""
    found = tuple(
        address
        for name in ("Original-Recipient", "Final-Recipient")
        if (address := _address(_field(fields, name)))
    )
    status = _STATUS.search(_field(fields, "Status"))
    action = _field(fields, "Action").partition(" ")[0].lower()
    outcome = _ACTIONS.get(action) or (_CLASSES[status[1]] if status else None)
    if not found or outcome is None:
        return
    diagnostic = _field(fields, "Diagnostic-Code")
    said = diagnostic.partition(";")[2].strip() or diagnostic
    yield Claim(
        addresses=found,
        outcome=outcome,
        code=_code(status[0] if status else None, said),
        diagnostic=said[:LONGEST_DIAGNOSTIC] or None,
    )


def _code(status: str | None, said: str) -> str | None:
    """`5.0.0` says less than what the other server said."""
    vague = status is None or status.endswith(".0.0")
    better = enhanced(said) if vague else None
    return better or status


def _complaints(fields: Message) -> Iterator[Claim]:
    """A complaint (RFC 5965 section 3). Many hide who complains."""
    kind = (_field(fields, "Feedback-Type") or "other").lower()
    if kind not in COMPLAINTS:
        return
    given = [
        address
        for value in fields.get_all("Original-Rcpt-To", [])[:MOST_CLAIMS]
        if (address := _address(_tame(value)))
    ]
    for whom in [(each,) for each in given] or [()]:
        yield Claim(addresses=whom, outcome="complained", code=kind[:16])


def _message_ids(mail: Message, parts: list[Message]) -> Iterator[str]:
    """The mail that is returned says its own id; the envelope's id is ours where we gave one; some servers
    only answer.
    """
    for part in parts:
        if part.get_content_type() in _RETURNED:
            for inner in _blocks(part)[:1]:
                yield from _ids(_field(inner, "Message-ID"))
    for part in parts:
        if part.get_content_type() in {*_STATUS_TYPES, "message/feedback-report"}:
            for fields in _blocks(part)[:1]:
                yield from _ids(_field(fields, "Original-Envelope-Id"))
    yield from _ids(_field(mail, "In-Reply-To"))
    yield from reversed(list(_ids(_field(mail, "References"))))


def _ids(value: str) -> Iterator[str]:
    found = _ID.findall(value) or [each for each in (value.strip(),) if _BARE_ID.fullmatch(each)]
    return (each for each in found if filing.usable(each))


def _blocks(part: Message) -> list[Message]:
    """The groups of header fields a part consists of, whatever it is encoded in."""
    payload: object = part.get_payload()
    inner = cast("list[object]", payload) if isinstance(payload, list) else [payload]
    return [block for each in inner[:MOST_CLAIMS] for block in _blocks_in(part, each)]


def _blocks_in(part: Message, payload: object) -> Iterator[Message]:
    """What the parser took for fields, and the fields in what it left alone. An encoded part, which RFC 2046
    section 5.2.1 forbids and Stalwart 0.16 writes, it read without decoding: where it lost its way is no
    more than a place in the text.
    """
    encoding = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    if isinstance(payload, Message):
        head = cast("Message[str, str]", payload)
        payload = cast("object", head.get_payload())
        if encoding in _ENCODINGS and isinstance(payload, str):
            payload = "".join(f"{name}: {value}\n" for name, value in head.items()) + payload
        elif head.keys():
            yield head
    if isinstance(payload, str):
        for block in _BLANK.split(_decoded(encoding, payload), maxsplit=MOST_CLAIMS):
            if b":" in block:
                yield BytesParser(policy=compat32).parsebytes(block, headersonly=True)


def _decoded(encoding: str, text: str) -> bytes:
    raw = text[:LONGEST_BODY].encode("utf-8", "surrogateescape")
    if encoding == "base64":
        try:
            return b64decode(raw)
        except binascii.Error:
            return b""
    return quopri.decodestring(raw) if encoding == "quoted-printable" else raw


def _field(fields: Message, name: str) -> str:
    return _tame(fields.get(name, ""))


def _tame(value: object) -> str:
    text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(addresses.tame(filing.clean(text)).split())[:2_000]


def _address(value: str) -> str | None:
    """The address of a field like `rfc822; ada@elsewhere.test`."""
    found = value.rpartition(";")[2].strip().strip("<>").lower()
    local, _, domain = found.rpartition("@")
    fits = local and domain and len(found) <= addresses.MAX_ADDRESS and " " not in found
    return found if fits else None
