"""What other mail servers replied, as Stalwart 0.16 tells it. Pure.

Stalwart puts a failed attempt into one sentence (`queue/mod.rs`, `Display for Error`): the other server's
reply with its codes, or what went wrong before there was one. An enhanced code of 0.0.0 means that the
other server gave none.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

NO_CODE: Final = "0.0.0"

TROUBLES: Final = {
    "DNS lookup failed": "4.4",
    "Connection failed": "4.1",
    "TLS error": "7.5",
    "DANE authentication failure": "7.5",
    "MTA-STS auth failed": "7.5",
    "Rate limited": "4.5",
    "Too many concurrent connections": "4.5",
    "Concurrency limited": "4.5",
}
"""Subject and detail (RFC 3463) of what went wrong before the other server said anything."""

_REPLY = re.compile(
    r"\bCode: (?P<code>\d{3}), Enhanced code: (?P<enhanced>\d\.\d{1,3}\.\d{1,3}), Message: (?P<text>.*)",
    re.DOTALL,
)


class Reply(NamedTuple):
    """An enhanced status code or a reply code, and a sentence; None for what is not known."""

    code: str | None
    text: str | None


def reply_in(details: str, *, lasting: bool) -> Reply:
    """The reply in one of Stalwart's sentences. `lasting` says that trying again is no use: that alone
    tells a 5 from a 4 where there was no reply.
    """
    found = _REPLY.search(details)
    if found is None:
        return Reply(trouble(details, lasting=lasting), details or None)
    return reply(int(found["code"]), found["enhanced"], found["text"])


def reply(code: int | None, enhanced: str | None, text: str | None) -> Reply:
    """A reply of another server: its enhanced code where it gave one, its lines as one."""
    if enhanced is None or enhanced == NO_CODE:
        enhanced = None if code is None else str(code)
    return Reply(enhanced, " ".join((text or "").split()) or None)


def trouble(details: str, *, lasting: bool) -> str | None:
    """The status code of what went wrong without a reply, None for what has none."""
    known = (what for begins, what in TROUBLES.items() if details.startswith(begins))
    what = next(known, None)
    return None if what is None else f"{5 if lasting else 4}.{what}"
