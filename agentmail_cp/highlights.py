"""PURE: how a search query is read, what it matches, and how a hit is shown.

A query is words parted by blanks; quotes, brackets and commas around a word mean nothing, and there are no
operators. A word matches a text that contains it, where both are folded: compatibility forms (NFKC) and
case (Unicode casefold) make no difference, accents do. Shown are the original characters, each hit
between `**`; asterisks of the text's own that could pass for such a mark are shown as one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from agentmail_cp.errors import Invalid

LONGEST_QUERY = 1_000
MOST_WORDS = 16
LONGEST_FRAGMENT = 250
"""Characters of a text that are shown, its marks not counted."""

MOST_FRAGMENTS = 5
"""Fragments one field of a hit is shown with."""

_LEAD = 60
_AROUND = "\"'“”„‘’«»()[]{}<>,;"  # noqa: RUF001

_MARKS = re.compile(r"\*{2,}")

Span = tuple[int, int]


class Words(msgspec.Struct, frozen=True):
    """The words of a query: as `typed`, for the mail server, and `folded`, for our own index; both are
    in one order and of one length. `spoken` is False when no word has a letter or digit: such words
    stand in no full-text index.
    """

    typed: tuple[str, ...]
    folded: tuple[str, ...]
    spoken: bool


def parse(query: str | None, *, shortest: int = 1, longest: int = LONGEST_QUERY) -> Words:
    """The words of the parameter `q`, each once. Without a letter or digit a word counts only where
    none has one, so a lone dash or ampersand hides nothing.

    Raises `Invalid`: REQUIRED, TOO_SHORT, TOO_LONG, TOO_MANY.
    """
    text = (query or "").strip()
    if not text:
        raise Invalid(
            "q", "q is missing or blank.", fix="Give the words to look for.", detail="REQUIRED"
        )
    if len(text) < shortest:
        raise Invalid("q", "q is too short.", fix=f"Use {shortest} or more.", detail="TOO_SHORT")
    if len(text) > longest:
        raise Invalid(
            "q",
            f"q has {len(text)} characters.",
            fix=f"Use {longest} or fewer.",
            detail="TOO_LONG",
        )
    return _read(text.split())


def _read(pieces: Sequence[str]) -> Words:
    bare = [each for each in (piece.strip(_AROUND) for piece in pieces) if each]
    found: dict[str, str] = {}
    for typed in bare or pieces:
        found.setdefault(fold(typed), typed)
    spoken = {folded: typed for folded, typed in found.items() if any(map(str.isalnum, folded))}
    kept = spoken or found
    if len(kept) > MOST_WORDS:
        raise Invalid(
            "q",
            f"q has {len(kept)} words.",
            fix=f"Use the {MOST_WORDS} most telling ones, or fewer.",
            detail="TOO_MANY",
        )
    return Words(tuple(kept.values()), tuple(kept), bool(spoken))


def fold(text: str) -> str:
    """What comparing looks at."""
    if text.isascii():
        return text.lower()
    return "".join(_fold(cluster) for cluster in _clusters(text))


def _fold(cluster: str) -> str:
    folded = unicodedata.normalize("NFKC", cluster).casefold()
    return unicodedata.normalize("NFKC", folded)


def _clusters(text: str) -> Iterator[str]:
    """The text in pieces that can be folded one by one: a character with the marks on it. A blank takes
    no marks, so a word is folded alike on its own and inside a text.
    """
    start = 0
    for at in range(1, len(text)):
        if not unicodedata.combining(text[at]) or text[at - 1].isspace():
            yield text[start:at]
            start = at
    if text:
        yield text[start:]


def mark(text: str, words: Sequence[str]) -> str | None:
    """The part of `text` around its first hit with every hit between `**`; None without a hit.

    `words` are folded. Hits that overlap or touch are one.
    """
    hits = _merged(_hits(text, words))
    if not hits:
        return None
    start = max(0, hits[0][0] - _LEAD) if len(text) > LONGEST_FRAGMENT else 0
    stop = min(start + LONGEST_FRAGMENT, len(text))
    pieces: list[str] = []
    at = start
    for first, last in hits:
        if first < stop:
            pieces += [text[at:first], text[first : min(last, stop)]]
            at = min(last, stop)
    # Every second piece is a hit.
    shown = "**".join(_MARKS.sub("*", piece) for piece in [*pieces, text[at:stop]])
    return f"{'…' if start else ''}{shown}{'…' if stop < len(text) else ''}"


def marked(texts: Iterable[str], words: Sequence[str]) -> list[str] | None:
    """The fragments of those texts that have hits, each once, at most `MOST_FRAGMENTS`; None without."""
    found = dict.fromkeys(shown for text in texts if (shown := mark(text, words)))
    return list(islice(found, MOST_FRAGMENTS)) or None


def _hits(text: str, words: Sequence[str]) -> list[Span]:
    folded = fold(text)
    found = [word for word in words if word in folded]
    if not found:
        return []
    spans = _spans(text)
    return [
        (spans[at][0], spans[at + len(word) - 1][1])
        for word in found
        for at in _occurrences(folded, word)
    ]


def _occurrences(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + 1)


def _spans(text: str) -> list[Span]:
    """For each character of the folded text, which part of `text` it comes from."""
    spans: list[Span] = []
    at = 0
    for cluster in _clusters(text):
        width = 1 if cluster.isascii() else len(_fold(cluster))
        spans += [(at, at + len(cluster))] * width
        at += len(cluster)
    return spans


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
