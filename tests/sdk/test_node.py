"""The official npm SDK 0.5.27, unmodified, against the service behind a real port."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Literal
from uuid import UUID

import msgspec
import pytest

from agentmail_cp.events import LABEL_TYPES, EventType
from agentmail_cp.web.paths import normalise
from agentmail_cp.webhooks import samples
from tests.failure import sandboxed
from tests.failure.real import running
from tests.fix_app import DOMAIN
from tests.fix_process import ServiceProcess
from tests.fix_sdk import Live
from tests.sdk.endpoints import endpoint_of, note

HERE = Path(__file__).parent / "node"
NO_NODE = "NOT CHECKED WITH THE npm SDK: there is no `node` and `npm` on PATH"

pytestmark = pytest.mark.node

Call = tuple[Literal["GET", "POST", "PATCH", "DELETE"], str, int]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts and the pinned SDK."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip(NO_NODE)
    folder = tmp_path_factory.mktemp("node")
    for each in (HERE / "package.json", *HERE.glob("*.mjs")):
        shutil.copy(each, folder)
    run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", at=folder)
    return folder


def run(*command: str, at: Path) -> str:
    """Run a command and return what it printed, which is in the failure, too."""
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(120)
def test_quick_start(installed: Path, live: Live) -> None:
    """An agent written in JavaScript could not use us in place of the hosted service."""
    package = json.loads((installed / "node_modules/agentmail/package.json").read_text("utf-8"))
    assert package["version"] == "0.5.27"
    run("node", "quickstart.mjs", live.base_url, live.api_key, at=installed)


@pytest.mark.timeout(120)
async def test_its_socket_comes_back_after_a_restart(
    installed: Path, database_url: str, tmp_path: Path
) -> None:
    """An agent would hear of nothing any more after our next release: it gives up after code 1000."""
    settings = {"database_url": database_url, "domain": DOMAIN, "domain_shared": False}
    service = ServiceProcess(tmp_path, settings, program=sandboxed.program(tmp_path))
    async with service:
        here = await running(service, database_url)
        node = await asyncio.create_subprocess_exec(
            *("node", "reconnect.mjs", service.url, here.key), cwd=installed, stdout=PIPE
        )
        service.closing.push_async_callback(_end, node)
        assert await _line(node) == "subscribed"
        await service.terminate()
        assert await _line(node) == "closed 1012"
        await service.start()
        while (line := await _line(node)) != "subscribed":
            assert line.startswith("closed")
        inbox = await here.inbox()
        await here.post(inbox, to="nobody@elsewhere.test")
        assert await _line(node) == "told message.sent"
        assert await node.wait() == 0


async def _line(node: Process) -> str:
    assert node.stdout is not None
    return (await asyncio.wait_for(node.stdout.readline(), 30)).decode().strip()


async def _end(node: Process) -> None:
    if node.returncode is None:
        node.kill()
    await node.wait()


SCRIPTS = ["domains.mjs", "endpoints.mjs", "live.mjs", "tenants.mjs", "webhooks.mjs"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_call_there_is(installed: Path, live_anywhere: Live, script: str) -> None:
    """What works in Python could fail in JavaScript, where unions are held to strictly."""
    live = live_anywhere
    printed = run("node", script, live.base_url, live.api_key, at=installed)
    for method, path, status in msgspec.json.decode(printed, type=list[Call]):
        note("npm", endpoint_of(method, normalise(path.encode())), status)


@pytest.mark.timeout(120)
def test_every_event_passes_its_schemas(installed: Path) -> None:
    """Strictly: whatever does not is handed to programs with names they do not know."""
    told = [each for each in EventType if each not in LABEL_TYPES]
    bodies = [msgspec.Raw(samples.body(each, UUID(int=1))) for each in told]
    (installed / "told.json").write_bytes(msgspec.json.encode(bodies))
    run("node", "schemas.mjs", "told.json", at=installed)
