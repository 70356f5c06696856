"""The subject of a reply or a forward: the parent's, with one `Re:` or `Fwd:` before it."""

# ruff: noqa: RUF001  letters of other alphabets are what this module looks for

from __future__ import annotations

import re

from agentmail_cp.addresses import tame

MAX_SUBJECT = 998
"""Characters in a subject."""

# What mail clients of many languages put before a subject. Single letters (R:, I:) and English words
# (Ref:) are left out: they begin too many subjects of their own.
_REPLIES = (
    "re|aw|antw|antwort|sv|vs|odp|res|rif|ynt|atb|vá|απ|отв|ответ|השב|回复|回覆|答复|答覆|返信|답장"
)
_FORWARDS = (
    "fwd?|wg|tr|rv|enc|vb|vl|pd|prz|doorst|ilt|i̇lt|továbbítás|fs|πρθ|пересл|הועבר|转发|轉寄|轉發|転送"
    "|전달"
)


def _prefixes(words: str) -> re.Pattern[str]:
    """Any number of these before a subject, each with a count or not: `Re[2]:`, `RE :`, `Aw(2):`."""
    count = r"(?:\[\d{1,4}\]|\(\d{1,4}\)|\^\d{1,4})?"
    return re.compile(rf"(?:(?:{words}){count} ?[:：]\s*)+", re.IGNORECASE)


_REPLY, _FORWARD = _prefixes(_REPLIES), _prefixes(_FORWARDS)


def reply_subject(parent: str) -> str:
    """`Re:` and the parent's subject without any sign of a reply of its own."""
    return _with("Re:", _REPLY, parent)


def forward_subject(parent: str) -> str:
    """`Fwd:` and the parent's subject without any sign of a forward of its own."""
    return _with("Fwd:", _FORWARD, parent)


def _with(prefix: str, same: re.Pattern[str], parent: str) -> str:
    subject = tame(parent)[:MAX_SUBJECT]
    found = same.match(subject)
    rest = subject[found.end() :] if found else subject
    return f"{prefix} {rest}"[:MAX_SUBJECT].rstrip()
