"""Words of a search, and the piece of a mail's body around them. Pure.

The mail server says which mails match; why one does is shown from its body, here, for every server
alike. Stalwart's own SearchSnippet is left aside: it glues the cells of an HTML table into one word
and marks words that merely contain what was asked for.
Works on hostile input: nothing raises, and the time taken grows with the length of the text only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import unescape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST: Final = 220
"""Characters of the body in an excerpt, without its marks."""
BEFORE: Final = 60
"""Characters shown before the first hit at most."""
MARK: Final = "**"

MAX_WORDS: Final = 16
"""Words of a search that count; more make the mail server look up what nobody misses."""
MAX_HITS: Final = 200
_SHORTEST_STEM: Final = 4
_ENDING: Final = 2
"""Letters at the end of a word that its other forms may lack: `invoices` shows `invoice`."""

# Python counts vowel signs and accents that stand by themselves to no word.
_LETTER = "(?:[^\\W_]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0980-\u0dff])"
_TOKEN = re.compile(f"{_LETTER}+")
_SPACES = re.compile(r"\s+")
_MARKS = re.compile(r"\*{2,}")
_UNSEEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style|title|template)\b[^<>]*>.*?(?:</\1\s*>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)[^<>]*>")
_INLINE = frozenset(
    "a abbr b bdi bdo cite code del em font i ins kbd mark q s samp small span strong sub sup tt u var"
    " wbr".split()
)
# Letters of scripts that write no spaces between words (Thai to Khmer, Chinese, Japanese, Korean).
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]"
)


def words(text: str) -> tuple[str, ...]:
    """The words of a search in lower case: what stands between spaces and holds a letter or digit."""
    found = dict.fromkeys(word for word in text.lower().split() if _TOKEN.search(word))
    return tuple(found)[:MAX_WORDS]


def holds(field: str, word: str) -> bool:
    """Whether each run of letters and digits of a word is one in the text, too."""
    found = frozenset(_TOKEN.findall(field.lower()))
    return all(
        token in found or bool(_UNSPACED.search(token) and token in field.lower())
        for token in _TOKEN.findall(word.lower())
    )


def excerpt(body: str, text: str) -> str | None:
    """The piece of a body with most of the searched words, each hit between `**`; None without any."""
    shown = _MARKS.sub("*", _SPACES.sub(" ", body.replace("\0", ""))).strip()
    exact, similar = _patterns(text)
    hits = _hits(exact, shown) or _hits(similar, shown)
    if not hits:
        return None
    start, stop = _window(shown, hits)
    piece = _marked(shown, [hit for hit in hits if start <= hit[0] and hit[1] <= stop], start, stop)
    return f"{'…' if start else ''}{piece}{'…' if stop < len(shown) else ''}"


def html_words(html: str) -> str:
    """The text of HTML in one line, good enough to find words in; much faster than rendering it."""
    return unescape(_TAG.sub(_gap, _UNSEEN.sub(" ", html)))


def _gap(tag: re.Match[str]) -> str:
    return "" if tag[1].lower() in _INLINE else " "


@lru_cache(maxsize=64)
def _patterns(text: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What matches the words of a search as they are, and in another form."""
    asked = sorted({token for word in words(text) for token in _TOKEN.findall(word)}, key=len)
    exact = [_whole(re.escape(token), token) for token in reversed(asked)]
    similar = [_similar(token) for token in reversed(asked)]
    return _any_of(exact), _any_of(similar)


def _any_of(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)


def _whole(pattern: str, token: str) -> str:
    return pattern if _UNSPACED.search(token) else rf"(?<!{_LETTER}){pattern}(?!{_LETTER})"


def _similar(token: str) -> str:
    if len(token) < _SHORTEST_STEM:
        return _whole(re.escape(token), token)
    stem = token[: max(_SHORTEST_STEM, len(token) - _ENDING)]
    most = len(token) - len(stem) + _ENDING
    return _whole(rf"{re.escape(stem)}{_LETTER}{{0,{most}}}", token)


def _hits(pattern: re.Pattern[str], shown: str) -> list[tuple[int, int]]:
    return [
        match.span() for match, _ in zip(pattern.finditer(shown), range(MAX_HITS), strict=False)
    ]


def _window(shown: str, hits: list[tuple[int, int]]) -> tuple[int, int]:
    """Where the excerpt begins and ends: at the hit from which most different words are in reach."""
    best = max(range(len(hits)), key=lambda at: (len(set(_reached(shown, hits, at))), -at))
    first = hits[best][0]
    start = max(0, first - BEFORE)
    if start:
        start = shown.find(" ", start, first) + 1 or start
    stop = min(len(shown), max(start + LONGEST, hits[best][1]))
    if stop < len(shown):
        space = shown.rfind(" ", hits[best][1], stop)
        stop = space if space > 0 else stop
    return start, stop


def _reached(shown: str, hits: list[tuple[int, int]], at: int) -> Iterator[str]:
    for start, stop in hits[at:]:
        if stop > hits[at][0] - BEFORE + LONGEST:
            return
        yield shown[start:stop].lower()


def _marked(shown: str, hits: list[tuple[int, int]], start: int, stop: int) -> str:
    pieces: list[str] = []
    for first, last in hits:
        pieces += [shown[start:first], MARK, shown[first:last], MARK]
        start = last
    return "".join([*pieces, shown[start:stop]])
