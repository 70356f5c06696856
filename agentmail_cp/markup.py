"""PURE: a quick reading of HTML: its words line by line, and where its anchors lead.

It lays nothing out and mends nothing, so that it costs one pass over input of any kind; the text people
are shown comes from `extract`.
"""

from __future__ import annotations

import re
from html import unescape

import msgspec

MAX_INPUT = 256 * 1024
"""Characters looked at."""

MOST_ANCHORS = 300
LONGEST_TAG = 16 * 1024

_UNSEEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style|title|template|noscript)\b[^<>]*>.*?(?:</\1\s*>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)([^<>]*)>|<[!?/][^<>]*>")
_HREF = re.compile(r"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_ALT = re.compile(r"""\balt\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_LINES = frozenset(
    "address article blockquote br center dd div dl dt footer form h1 h2 h3 h4 h5 h6 header hr li main ol"
    " p pre section table tbody tr ul".split()
)
_CELLS = frozenset("td th".split())


class Anchor(msgspec.Struct, frozen=True):
    """A link and the words it stands behind, or the text in place of its picture."""

    href: str
    text: str


class Markup(msgspec.Struct, frozen=True):
    """What a piece of HTML says, a block a line, and its first anchors in their order."""

    text: str
    anchors: tuple[Anchor, ...]


class _Open(msgspec.Struct):
    """An anchor whose end is still to come: where its words begin, and its picture's text."""

    href: str
    start: int
    alt: str = ""


def read(html: str) -> Markup:
    """The words and anchors of the first `MAX_INPUT` characters."""
    seen = _UNSEEN.sub(" ", html[:MAX_INPUT])
    words: list[str] = []
    anchors: list[Anchor] = []
    inside: _Open | None = None
    last = 0
    for tag in _TAG.finditer(seen):
        words.append(seen[last : tag.start()])
        last = tag.end()
        name = (tag[2] or "").lower()
        if name == "a":
            _close(inside, words, anchors)
            inside = None if tag[1] else _opened(tag[3], len(words))
        elif name == "img" and inside is not None:
            inside.alt = inside.alt or _value(_ALT, tag[3])
        words.append("\n" if name in _LINES else "\t" if name in _CELLS else "")
    words.append(seen[last:])
    _close(inside, words, anchors)
    return Markup(unescape("".join(words)), tuple(anchors))


def _opened(attributes: str, start: int) -> _Open | None:
    href = _value(_HREF, attributes)
    return _Open(href, start) if href else None


def _close(inside: _Open | None, words: list[str], anchors: list[Anchor]) -> None:
    if inside is None or len(anchors) >= MOST_ANCHORS:
        return
    shown = " ".join(unescape("".join(words[inside.start :])).split())
    anchors.append(Anchor(inside.href, shown or " ".join(inside.alt.split())))


def _value(attribute: re.Pattern[str], attributes: str) -> str:
    found = attribute.search(attributes[:LONGEST_TAG])
    return unescape(next((each for each in found.groups() if each), "")) if found else ""
