"""Whether a run of the tests is whole: only then does it know what works and what does not.

The tests of the table come last, and are skipped when others of this folder were left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = "test_endpoints_table.py"

_MISSING = pytest.StashKey[set[str]]()
_WRITES = pytest.StashKey[bool]()


def put_last(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Move the tests of the table to the end, and note which others will not run."""
    table = [item for item in items if item.path == HERE / TABLE]
    items[:] = [item for item in items if item.path != HERE / TABLE] + table
    config.stash[_MISSING] = _written() - {_name(item) for item in items}


def require_all(config: pytest.Config) -> None:
    """Skip this test when others of this folder do not run."""
    if missing := config.stash[_MISSING]:
        pytest.skip(f"only a part of tests/sdk ran; {len(missing)} tests did not")


def let_write(config: pytest.Config) -> None:
    """Write the table instead of comparing it."""
    config.stash[_WRITES] = True


def writes(config: pytest.Config) -> bool:
    """Whether this run writes the table."""
    return config.stash.get(_WRITES, False)


def _written() -> set[str]:
    """Every test of the SDKs' calls there is, by file and name."""
    return {
        f"{path.name}:{name}"
        for path in HERE.glob("test_endpoints_*.py")
        if path.name != TABLE
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }


def _name(item: pytest.Item) -> str:
    return f"{item.path.name}:{item.name.partition('[')[0]}"
