"""The Python of README and guide is run as it stands, against a running service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.fix_sdk import Live

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def beside_dev(live_anywhere: Live, tmp_path: Path) -> Path:
    """A folder in which `make dev` seems to run."""
    live = live_anywhere
    state = tmp_path / ".agentmail"
    state.mkdir()
    (state / "dev.json").write_bytes(
        msgspec.json.encode(
            {
                "base_url": live.base_url,
                "websocket_url": live.websocket_url,
                "api_key": live.api_key,
            }
        )
    )
    return tmp_path


def run(page: str, at: Path) -> str:
    """What a page's blocks print, as one program."""
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=at,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PAGES = [
    str(page.relative_to(ROOT))
    for page in (ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md")))
    if BLOCK.search(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES)
def test_its_python_runs_as_it_stands(beside_dev: Path, page: str) -> None:
    """The first thing a newcomer pastes would fail."""
    assert "It works." in run(page, beside_dev)
