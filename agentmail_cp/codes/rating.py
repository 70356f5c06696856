"""How sure it is that something is a one-time code, by the words around it."""

# ruff: noqa: RUF001  letters of other alphabets are what this module looks for

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from agentmail_cp.codes import words
from agentmail_cp.codes.shapes import Seen

_NEAR = 45
"""Characters between a code and the word that announces it, in one sentence."""

_NAMING = 25
"""Characters between a number and the name of what else it is."""

_ANNOUNCED = 0.85
"""Confidence of what words for codes announce."""

_NOT_ONE = 0.2
"""Confidence of what is something else, as far as its words tell."""

_YEAR = re.compile(r"(?:19|20)\d\d")
_SENTENCE = re.compile(r"[.!?](?:\s+(?!\d)|$)|[。！？]")
_IS = r"is|are|was|ist|lautet|est|es|é|è|är|er|は|が|是|为|為|는|은|이"
_BETWEEN = re.compile(rf"[\W_]*(?:(?:{_IS})[\W_]*)?")
"""What stands between the word for a code and the code right after it."""

_FOLLOWED = re.compile(rf"\s*(?:(?:{_IS})\b|\s[—–-]|은|는|が|は|是|为|為)")
"""How a sentence goes on that began with the code."""

_LEADS_ON = re.compile(rf"(?:[:：]|\b(?:{_IS}))\W*\Z")
"""How a sentence goes on to the code after another number."""


class Rating(msgspec.Struct, frozen=True):
    """How sure it is that something is a code, and whether words next to it say so."""

    confidence: float
    named: bool


class Vocabulary(msgspec.Struct, frozen=True):
    """The words of a mail that tell something of its numbers, so that the others need not be looked for
    around each.
    """

    codes: tuple[str, ...]
    other: tuple[str, ...]
    offers: tuple[str, ...]
    speaks: bool

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Those that stand in a text, as parts of words too."""
        folded = text.casefold()
        strong, weak, other, offers = (
            tuple(word for word in each if word in folded)
            for each in (words.STRONG, words.WEAK, words.OTHER, words.OFFERS)
        )
        return cls((*strong, *weak), other, offers, speaks=bool(strong))


class _Label(msgspec.Struct, frozen=True):
    """A word that says what a number is, and what stands between the two."""

    word: str
    gap: str
    near: bool
    tight: bool

    @property
    def strong(self) -> bool:
        return self.word in _STRONG


_STRONG = frozenset(words.STRONG)
_COMPOUNDS = frozenset({"code", "codes", "kod", "kode", "koodi", "kód"})
_SYLLABLES = "\u0900"
"""From here on words stand without blanks between them."""


def rate(seen: Seen, known: Vocabulary) -> Rating:
    """Rate a candidate of a mail with these words."""
    other = _last(seen.before, known.other)
    before, after = _before(seen.before, known, other), _after(seen.after, known)
    labels = [each for each in (before, after) if each is not None]
    if other is not None and _names(other) and not _nearer(before, after, other):
        return Rating(0.1, named=False)
    score = max((_told(each, alone=seen.alone) for each in labels), default=0.0)
    if not score and seen.alone:
        score = 0.8 if known.speaks else 0.3
    named = seen.alone or any(each.near for each in labels)
    return Rating(_shaped(seen, score, labels, known), named=named)


def _nearer(before: _Label | None, after: _Label | None, other: _Label) -> bool:
    """Whether a word for a code stands nearer than the name of something else."""
    if after is not None and after.near:
        return True
    return before is not None and len(before.gap) <= len(other.gap)


def _names(label: _Label) -> bool:
    """Whether a number is called so: nothing much stands between the two, and no other number."""
    gap = label.gap
    return len(gap) <= _NAMING and not _SENTENCE.search(gap) and not any(map(str.isdigit, gap))


def _told(label: _Label, *, alone: bool) -> float:
    """What one label tells of a candidate."""
    if label.near:
        return 0.95 if label.strong else 0.9 if label.tight or alone else _ANNOUNCED
    if alone:
        return 0.9 if label.strong else _ANNOUNCED
    return 0.5 if label.strong else 0.35


def _shaped(seen: Seen, score: float, labels: Sequence[_Label], known: Vocabulary) -> float:
    """The confidence of something of this shape: the less it looks like a code, the more it has to be
    announced.
    """
    strong = any(each.strong for each in labels)
    if not strong and any(each in seen.before or each in seen.after for each in known.offers):
        return min(score, _NOT_ONE)
    announced = any(each.tight for each in labels) or (seen.alone and score >= _ANNOUNCED)
    if seen.typed.isdigit():
        likely = announced or not _YEAR.fullmatch(seen.typed)
        return score if likely else min(score, _NOT_ONE)
    if not any(each.isdigit() for each in seen.typed):
        # A word in capitals, a button's perhaps.
        return score - (0.1 if "-" in seen.typed else 0.4) if announced and seen.alone else 0.0
    if seen.typed.upper() == seen.typed:
        return score if announced or any(each.near for each in labels) else 0.0
    return score - 0.1 if announced else 0.0


def _before(text: str, known: Vocabulary, other: _Label | None) -> _Label | None:
    """The last word for a code that is no part of the name of something else."""
    found = _last(text, known.codes)
    if found is None or other is None:
        return found
    end, end_of_other = len(text) - len(found.gap), len(text) - len(other.gap)
    inside = end_of_other - len(other.word) <= end - len(found.word) and end <= end_of_other
    return None if inside else found


def _last(text: str, vocabulary: Sequence[str]) -> _Label | None:
    """The word nearest to the end, the longest of several that end there."""
    best, stop = "", -1
    for word in vocabulary:
        at = text.rfind(word)
        while at >= 0 and not _whole(text, at, word):
            at = text.rfind(word, 0, at)
        if at >= 0 and (at + len(word), len(word)) > (stop, len(best)):
            best, stop = word, at + len(word)
    if not best:
        return None
    gap = text[stop:]
    tight = bool(_BETWEEN.fullmatch(gap))
    return _Label(best, gap, near=tight or _leads_to(gap), tight=tight)


def _leads_to(gap: str) -> bool:
    """Whether what a word announces comes after this: in its sentence, and not another number."""
    if len(gap) > _NEAR or _SENTENCE.search(gap):
        return False
    return not any(map(str.isdigit, gap)) or bool(_LEADS_ON.search(gap))


def _after(text: str, known: Vocabulary) -> _Label | None:
    """The first word for a code in what follows, unless it is part of the name of something else."""
    word, start = _first(text, known.codes)
    other, start_of_other = _first(text, known.other)
    inside = start_of_other <= start and start + len(word) <= start_of_other + len(other)
    if not word or inside:
        return None
    gap = text[:start]
    near = len(gap) <= _NEAR and not _SENTENCE.search(gap) and "\n\n" not in gap
    tight = near and bool(_FOLLOWED.match(gap))
    return _Label(word, gap, near=tight, tight=tight)


def _first(text: str, vocabulary: Sequence[str]) -> tuple[str, int]:
    """The word nearest to the beginning, the longest of several that begin there, and where it begins."""
    best, start = "", len(text)
    for word in vocabulary:
        at = text.find(word)
        while at >= 0 and not _whole(text, at, word):
            at = text.find(word, at + 1)
        if at >= 0 and (at, -len(word)) < (start, -len(best)):
            best, start = word, at
    return best, start


def _whole(text: str, at: int, word: str) -> bool:
    """Whether a word stands there, not a part of one; a word for a code may end a compound."""
    if word[0] >= _SYLLABLES or not word[-1].isalpha():
        return True
    end = at + len(word)
    begins = at == 0 or word in _COMPOUNDS or not text[at - 1].isalpha()
    return begins and (end >= len(text) or not text[end].isalpha())
