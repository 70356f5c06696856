"""The official npm SDK 0.5.27, unmodified, against the service behind a real port."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fix_sdk import Live

HERE = Path(__file__).parent / "node"
NO_NODE = "NOT CHECKED WITH THE npm SDK: there is no `node` and `npm` on PATH"

pytestmark = pytest.mark.node


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the pinned SDK."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip(NO_NODE)
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "quickstart.mjs"):
        shutil.copy(HERE / name, folder)
    run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", at=folder)
    return folder


def run(*command: str, at: Path) -> None:
    """Run a command; what it printed is in the failure."""
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(120)
def test_quick_start(installed: Path, live: Live) -> None:
    """An agent written in JavaScript could not use us in place of the hosted service."""
    package = json.loads((installed / "node_modules/agentmail/package.json").read_text("utf-8"))
    assert package["version"] == "0.5.27"
    run("node", "quickstart.mjs", live.base_url, live.api_key, at=installed)
