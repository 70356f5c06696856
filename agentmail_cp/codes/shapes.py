"""What in a text is shaped like a one-time code, and not like a date, a price, a number to call or a link."""

# ruff: noqa: RUF001  letters of other alphabets are what this module looks for

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

_MOST = 100
"""Candidates of a text that are looked at."""

_BEFORE = 200
_AFTER = 120
"""Characters around a candidate that are looked at."""

_FRAMED = 20
"""Characters on either side that may frame a code that stands alone on its line."""

_BLANK = "[ \t\u00a0\u2007\u202f]"
# Before and after a candidate. A dot or a dash ends a sentence, or joins it to more of the same.
_EDGE = r"(?<![#+])(?<![0-9A-Za-z][-./_=&?,:@])"
_STOP = r"(?![0-9A-Za-z])(?![-./_=&@:,][0-9A-Za-z])"
_MONEY = r"%|€|\$|£|¥|₩|₽|円|元|원|руб|eur\b|usd\b|gbp\b|chf\b|jpy\b|brl\b|kr\b"
_COUNTED = (
    r"min\b|minut|sec\b|second|sek|seg|stund|hour|heure|hora|uur\b|tage|day|jour|día|dia|giorn|dagen"
    r"|мин|час|г\.|km\b|kg\b|mb\b|gb\b|kb\b|px\b|points|people|users"
)
_TIMES = "年|月|日|分|秒|時|时|小时|天|년|월|일|분|초|시간"
_SHAPES = re.compile(
    rf"""
    (?<![0-9A-Za-z])
    (?=[0-9(+$€£¥₩₽]|[A-Z]{{2}}|[A-Za-z]{{0,12}}(?:[0-9:.-]|\ ?[0-9]))
    (?:
        (?:https?://|www\.)[^\s<>]{{1,4096}}
      | \+\d[\d\ ().\-/\u00a0]{{6,20}}\d
      | \(\d{{2,5}}\){_BLANK}?\d[\d\ \-]{{4,12}}
      | (?:1[-. ])?\d{{3}}[-. ]\d{{3}}[-. ]\d{{4}}{_STOP}
      | \d{{2,5}}(?:[-/ ]\d{{2,5}}){{3,6}}{_STOP}
      | 0\d{{1,4}}[-/ ]\d{{3,5}}[-/ ]\d{{3,5}}{_STOP}
      | \d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}
      | \d{{1,2}}:\d\d(?::\d\d)?
      | (?:[$€£¥₩₽]|(?i:eur|usd|gbp|chf|rs\.?)){_BLANK}?\d[\d.,]{{0,20}}
      | \d[\d.,]{{0,20}}{_BLANK}?(?i:{_MONEY}|{_COUNTED})
      | \d{{1,4}}{_BLANK}?(?:{_TIMES})
      | \d{{1,12}}(?:[.,]\d{{1,12}}){{1,4}}
      | \d{{3,5}}[-\ ]\d{{3,5}}[-\ ]\d{{3,5}}{_STOP}
      | [0-9A-Za-z]{{13,64}}
      | \d{{9,12}}
      | {_EDGE}(?P<code>
          \d(?:\s{{1,4}}\d){{3,7}}
        | \d{{3}}(?:{_BLANK}|-)\d{{3}}
        | \d{{4}}(?:{_BLANK}|-)\d{{4}}
        | \d{{2}}(?:{_BLANK}|-)\d{{2}}(?:{_BLANK}|-)\d{{2}}
        | \d{{4,8}}
        | [A-Z]{{1,3}}-\d{{4,8}}
        | [0-9A-Za-z]{{3,6}}(?:-[0-9A-Za-z]{{3,6}}){{1,3}}
        | [0-9A-Za-z]{{4,12}}
        ){_STOP}
    )
    """,
    re.VERBOSE,
)
"""What is no code is matched before, so that no part of it is taken for one. Most words fail at the
first look ahead.
"""

_WIDE = str.maketrans("０１２３４５６７８９－：", "0123456789-:")
_FRAME = " \t\r\u00a0*_-–—|:：\"'«»„“”‘’「」『』【】[](){}<>#.,•·=~`"
_COUNTING = "12345678"


class Seen(msgspec.Struct, frozen=True):
    """Something shaped like a code: as it is typed in, whether it stands alone on its line, and the words
    around it, folded.
    """

    typed: str
    alone: bool
    before: str
    after: str


def candidates(text: str) -> Iterator[Seen]:
    """The first candidates of a text, in their order."""
    text = text.translate(_WIDE)
    left = _MOST
    for match in _SHAPES.finditer(text):
        if match["code"] is None or not _plausible(match["code"]):
            continue
        start, end = match.span("code")
        yield Seen(
            _typed(match["code"]),
            _alone(text, start, end),
            text[max(0, start - _BEFORE) : start].casefold(),
            text[end : end + _AFTER].casefold(),
        )
        left -= 1
        if not left:
            return


def _plausible(raw: str) -> bool:
    """Whether this may be a code: a word may not, and neither may a list of numbered lines."""
    typed = _typed(raw)
    if typed.isdigit():
        return typed == raw or not _COUNTING.startswith(typed)
    return any(each.isdigit() for each in raw) or raw.isupper()


def _typed(raw: str) -> str:
    bare = re.sub(r"[\s-]", "", raw)
    return bare if bare.isdigit() else raw


def _alone(text: str, start: int, end: int) -> bool:
    """Whether nothing else stands on the line but what frames it."""
    left = text[max(text.rfind("\n", 0, start) + 1, start - _FRAMED) : start]
    stop = text.find("\n", end, end + _FRAMED)
    right = text[end : stop if stop >= 0 else end + _FRAMED]
    return not left.strip(_FRAME) and not right.strip(_FRAME)
