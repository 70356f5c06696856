"""PURE: a mail as its client handed it in, and what of it belongs into Sent."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from email.utils import format_datetime

import msgspec

from agentmail_cp import addresses, filing
from agentmail_cp.errors import Invalid, MessageRejected

VISIBLE = frozenset({"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"})
"""Headers that name recipients."""

TRACE = frozenset({"authentication-results", "date", "received", "return-path"})
"""Headers that the mail server may have put there, each time with something else."""

LONGEST_FROM = 2_000
"""Characters of a From or Sender header that is looked at; none of ours comes near."""

_ID = re.compile(r"\s*<([^<>\r\n]+)>")
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"]+@[^\s<>()\[\],;:\"]+")
_IDS = re.compile(r"<([^<>\s]+)>")
_BARE_ID = re.compile(r"\s*([^<>\s()\"]+)\s*")


class HandedIn(msgspec.Struct, frozen=True, kw_only=True):
    """A mail as its client handed it in. `login` is the address of the account, `recipients` is the SMTP
    envelope. `headers` are raw values with their line ends, `body` is all that follows.
    """

    login: str
    recipients: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def values(self, *names: str) -> list[str]:
        """The values of all headers with one of these names (lower case), in order."""
        return [value for name, value in self.headers if name.lower() in names]


class GivenId(msgspec.Struct, frozen=True):
    """The Message-ID a mail must get, without brackets. `replaces`: it has one that is none."""

    message_id: str
    replaces: bool


def ensure_own(mail: HandedIn, address: str) -> None:
    """Raise `MessageRejected` unless the mail is from this address and from nobody else (RFC 5322 section
    3.6.2: From is there once; Sender, where it is, names who sends). What DMARC vouches for and people see is
    the header, not the envelope that the mail server checks.
    """
    _ensure_sound(mail)
    found = mail.values("from")
    if len(found) != 1 or not all(
        _only(address, each) for each in [*found, *mail.values("sender")]
    ):
        raise MessageRejected(
            f"Message rejected: From is not {address}.",
            fix=f"Send from {address}, the inbox's own address.",
        )


_NAME = re.compile(r"[!-9;-~]+")
_STRAY = re.compile(r"\r(?!\n)|\0")


def _ensure_sound(mail: HandedIn) -> None:
    """Raise `MessageRejected` for a header that some readers find more in than others: blanks behind a name
    (RFC 5322 section 4.5), a bare CR, NUL.
    """
    if not all(_NAME.fullmatch(name) and not _STRAY.search(value) for name, value in mail.headers):
        raise MessageRejected(
            "Message rejected: its header has a name or a character that no header may have.",
            fix="Write headers as RFC 5322 section 2.2 has them.",
        )


_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|[()"]|[^()"]+', re.DOTALL)


def _only(address: str, header: str) -> bool:
    """Whether every address in a header is this one. Names and comments are none; whatever else looks like
    one counts, so that no reader of a broken header finds another.
    """
    text = _unnamed(header) if len(header) <= LONGEST_FROM else None
    if text is None:
        return False
    found = _ADDRESS.findall(text)
    # An @ of no address here may be one of an address to others: `"eve"@x.test`, `<@x.test:bob@y.test>`.
    return len(found) == text.count("@") and {_spelt(each) for each in found} == {_spelt(address)}


def _unnamed(header: str) -> str | None:
    """A header without quoted names and comments; None where readers may differ about what those are."""
    kept: list[str] = []
    depth = 0
    for piece in _PIECE.findall(header):
        depth += {"(": 1, ")": -1}.get(piece, 0)
        quoted = piece.startswith('"')
        if depth < 0 or (quoted and (depth or len(piece) == 1)) or (not quoted and "\\" in piece):
            return None
        if not depth:
            kept.append(" " if quoted or piece == ")" else piece)
    return None if depth else "".join(kept)


def _spelt(address: str) -> str:
    try:
        return addresses.bare(address, "from").lower()
    except Invalid:
        return address


def references_of(mail: HandedIn) -> tuple[str, ...]:
    """The Message-IDs it refers to, without brackets, its parent last."""
    every = [*mail.values("references"), *mail.values("in-reply-to")]
    found = dict.fromkeys(each for value in every for each in _IDS.findall(value))
    return tuple(each for each in found if filing.usable(each))[-filing.MOST_REFERENCES :]


def answers_machine(mail: HandedIn) -> bool:
    """Whether it says that it is an automatic answer (RFC 3834 section 5)."""
    said = [value.strip().lower() for value in mail.values("auto-submitted")]
    return bool(mail.values("in-reply-to")) and any(not each.startswith("no") for each in said)


def message_id_of(mail: HandedIn) -> str | None:
    """The Message-ID without brackets, as Stalwart reads it; None when there is none to find it by."""
    for value in mail.values("message-id")[:1]:
        found = _ID.match(value) or _BARE_ID.fullmatch(value)
        if found and filing.usable(found[1]):
            return found[1]
    return None


def digest_of(mail: HandedIn) -> bytes:
    """What tells a mail that comes again from another mail under its Message-ID."""
    kept = [each for each in mail.headers if each[0].lower() not in TRACE]
    head = "".join(f"{name}:{value}" for name, value in kept).encode("utf-8", "replace")
    return hashlib.sha256(hashlib.sha256(head).digest() + mail.body).digest()


def hidden_recipients(mail: HandedIn) -> tuple[str, ...]:
    """Whom the envelope names and no header does: blind copies (RFC 5322 section 3.6.3)."""
    # Not taken apart: what matters is who could be read there, in however broken a header.
    named = set(_ADDRESS.findall(" ".join(mail.values(*VISIBLE)).lower()))
    return tuple(dict.fromkeys(to for to in mail.recipients if to.lower() not in named))


def copy_of(mail: HandedIn, given: GivenId | None, now: datetime) -> bytes:
    """What belongs into Sent: the mail as it was handed in, with the Message-ID and Date it is sent
    with, and with a Bcc header for the blind copies, which the mail that is sent never has.
    """
    added: list[str] = []
    if given is not None:
        added.append(f"Message-ID: <{given.message_id}>\r\n")
    if not mail.values("date"):
        added.append(f"Date: {format_datetime(now)}\r\n")
    if hidden := ",\r\n ".join(hidden_recipients(mail)):
        added.append(f"Bcc: {hidden}\r\n")
    kept = [
        f"{name}:{value}"
        for name, value in mail.headers
        if not (given is not None and name.lower() == "message-id")
    ]
    head = "".join(added + kept)
    return f"{head}\r\n".encode("utf-8", "replace") + mail.body
