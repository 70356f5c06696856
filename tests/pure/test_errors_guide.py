"""The guide to errors: a code a caller meets can be looked up."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAISED = re.compile(r'\bdetail(?:: str)? ?= ?"([A-Z_]+)"')
LISTED = re.compile(r"^\| `([A-Z_]+)` \|", re.MULTILINE)


def test_every_detail_code_is_explained_and_every_explained_one_exists() -> None:
    sources = (ROOT / "agentmail_cp").rglob("*.py")
    raised = {code for source in sources for code in RAISED.findall(source.read_text("utf-8"))}
    listed = LISTED.findall((ROOT / "docs" / "guide" / "errors.md").read_text("utf-8"))
    assert set(listed) == raised
    assert listed == sorted(set(listed))
