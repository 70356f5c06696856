"""The guide to errors: a code a caller meets can be looked up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agentmail_cp.errors import AgentMailError

ROOT = Path(__file__).parents[2]
RAISED = re.compile(r'\bdetail(?:: str)? ?= ?"([A-Z_]+)"')
USED = re.compile(r'\bcode ?= ?"([a-z_]+)"')
KIND = re.compile(r"^\| \d+ \| `(\w+)` \| ([^|]+) \|", re.MULTILINE)
CODE = re.compile(r"`(\w+)`")
LISTED = re.compile(r"^\| `([A-Z_]+)` \|", re.MULTILINE)


def test_every_detail_code_is_explained_and_every_explained_one_exists() -> None:
    sources = (ROOT / "agentmail_cp").rglob("*.py")
    raised = {code for source in sources for code in RAISED.findall(source.read_text("utf-8"))}
    listed = LISTED.findall((ROOT / "docs" / "guide" / "errors.md").read_text("utf-8"))
    assert set(listed) == raised
    assert listed == sorted(set(listed))


def kinds(of: type[AgentMailError] = AgentMailError) -> Iterator[tuple[str, str]]:
    """Name and code of every kind of error."""
    yield of.name, of.code
    for each in of.__subclasses__():
        yield from kinds(each)


def test_every_kind_and_code_is_explained() -> None:
    """What a program has to look at would have to be guessed."""
    rows = KIND.findall((ROOT / "docs" / "guide" / "errors.md").read_text("utf-8"))
    told = {(name, code) for name, codes in rows for code in CODE.findall(codes)}
    assert set(kinds()) <= told
    sources = (ROOT / "agentmail_cp").rglob("*.py")
    used = {code for source in sources for code in USED.findall(source.read_text("utf-8"))}
    assert used <= {code for _, code in told}
    assert "missing_permission" in used
