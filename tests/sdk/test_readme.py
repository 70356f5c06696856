"""README's Python is run as it stands, against a running service."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.fix_sdk import Live

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_readme_s_python_runs_as_it_stands(live: Live, tmp_path: Path) -> None:
    """The first thing a newcomer pastes would fail."""
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
    (program,) = BLOCK.findall(README.read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "It works." in done.stdout
