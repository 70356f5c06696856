"""PURE: one-time codes in a mail, and how sure it is that they are ones.

A code is known by the words around it ("Your code is 482913", "482913 ist Ihr Bestätigungscode",
"認証コード: 482913"), by standing alone on its line below such words, and by its shape. What is something
else by its own shape (a date, a price, a phone number) is passed over; what has a name of its own (an
order, an invoice, a postal code) is taken at its word. Works on hostile input: everything is one pass, and
words are looked for around a bounded number of candidates only.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agentmail_cp.codes.rating import Vocabulary, rate
from agentmail_cp.codes.shapes import candidates

MAX_INPUT = 64 * 1024
"""Characters of a text that are looked at."""

LONGEST_SUBJECT = 1000
MOST = 5
"""Codes a mail gives at most, the surest of them."""

LEAST = 0.3
"""Confidence below which something is not called a code."""

SURE = 0.8
"""Confidence from which on a mail's words are explained by a code."""


class Code(msgspec.Struct, frozen=True):
    """A code as it is typed in: without the blanks and dashes that only make digits easier to read.
    `confidence` is between 0 and 1.
    """

    code: str
    confidence: float


def find(subject: str, *texts: str) -> list[Code]:
    """The codes of a mail, the surest first: of its subject and of its texts, of which a later one is
    only looked at when nothing sure is in those before.
    """
    found: list[Code] = []
    for text in texts or ("",):
        found = _merged([*found, *_of(f"{subject[:LONGEST_SUBJECT]}\n\n{text[:MAX_INPUT]}")])
        if found and found[0].confidence >= SURE:
            break
    return found[:MOST]


def _merged(found: Iterable[Code]) -> list[Code]:
    """Each code once, the surest first, otherwise in their order."""
    best: dict[str, Code] = {}
    for each in found:
        if each.code not in best or best[each.code].confidence < each.confidence:
            best[each.code] = each
    return sorted(best.values(), key=lambda each: -each.confidence)


def _of(text: str) -> list[Code]:
    seen = list(candidates(text))
    if not seen:
        return []
    known = Vocabulary.of(text)
    rated = [(each, rate(each, known)) for each in seen]
    explained = any(rating.confidence >= SURE for _, rating in rated)
    return [
        Code(each.typed, round(rating.confidence, 2))
        for each, rating in rated
        # Words that speak of a code speak of one: what only stands somewhere near them is something else.
        if rating.confidence >= LEAST and (rating.named or not explained)
    ]
