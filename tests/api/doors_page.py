"""docs/doors.md: what each door said of each refused mail, as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "doors.md"
COMMAND = "python -m tests.api.write_doors"
NAMES = ("API", "Scheduled draft", "SMTP 587", "SMTP 465")

WRITING = pytest.StashKey[bool]()
"""Whether the page is to be written."""


class Said(msgspec.Struct, frozen=True):
    """What a door says: how it puts it (`403 inbox_paused`, `RCPT 550 5.7.1`), its words, and the code of the
    API that stands for it, which a draft does not tell.
    """

    how: str
    words: str
    code: str | None = None


class Row(msgspec.Struct, frozen=True):
    """A case, and what each door said."""

    case: str
    said: Mapping[str, Said]

    def shown(self, changing: Mapping[str, str]) -> str:
        words = plain(self.said["SMTP 587"].words, changing)
        cells = [self.case, words, *(each.how for each in self.said.values())]
        return f"| {' | '.join(cells)} |"


def plain(words: str, changing: Mapping[str, str]) -> str:
    """Words without what is another in each run: addresses and times."""
    for found, shown in changing.items():
        words = words.replace(found, shown)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "*time*", words)


HEAD = f"""# One policy, every door

What became of the same mail at each way out of an inbox, written by the test that tried it
(`{COMMAND}`), which fails where this page says anything else. The words are the same at
every door; SMTP puts the API's code behind them in brackets. Where one of several recipients is refused, the
API sends to none, and SMTP refuses that one at RCPT.

| Case | What is said | {" | ".join(NAMES)} |
|---|---|{"---|" * len(NAMES)}
"""


def page(rows: list[str]) -> str:
    return HEAD + "\n".join(rows) + "\n"
