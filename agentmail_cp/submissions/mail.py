"""PURE: a mail as its client handed it in, and what of it belongs into Sent."""

from __future__ import annotations

import re
from datetime import datetime
from email.utils import format_datetime

import msgspec

from agentmail_cp import filing

VISIBLE = frozenset({"to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"})
"""Headers that name recipients."""

_ID = re.compile(r"\s*<([^<>\r\n]+)>")
_ADDRESS = re.compile(r"[^\s<>()\[\],;:\"]+@[^\s<>()\[\],;:\"]+")
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


def message_id_of(mail: HandedIn) -> str | None:
    """The Message-ID without brackets, as Stalwart reads it; None when there is none to find it by."""
    for value in mail.values("message-id")[:1]:
        found = _ID.match(value) or _BARE_ID.fullmatch(value)
        if found and filing.usable(found[1]):
            return found[1]
    return None


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
