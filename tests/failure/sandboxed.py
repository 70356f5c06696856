"""`agentmail-cp serve` on a mail sandbox, as a process of its own: its SMTP port goes into a file, and its
faults come out of one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import uvicorn

from agentmail_cp import settings
from agentmail_cp.app import configure_logging, create_app, http_config
from agentmail_cp.dev.hearing import hear
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import HEALTHY, Faults

LOOK = 0.02
PATIENCE = 0.5
"""Seconds after which a slow answer of the sandbox counts as lost."""


def program(folder: Path) -> str:
    """What Python is to run."""
    return f"from tests.failure import sandboxed; sandboxed.main({str(folder)!r})"


def main(folder: str) -> None:
    asyncio.run(_serve(Path(folder)))


async def _serve(folder: Path) -> None:
    loaded = settings.load()
    configure_logging(loaded)
    sandbox = MailSandbox(loaded.domain, patience=PATIENCE)
    app = create_app(loaded, server=sandbox)
    hear(sandbox, app.state["doorbell"], app.state["resources"].db)
    async with sandbox.listening() as door:
        (folder / "smtp").write_text(str(door.port), encoding="utf-8")
        obeying = asyncio.create_task(_obey(sandbox, folder))
        await uvicorn.Server(http_config(app, loaded)).serve()
        obeying.cancel()


async def _obey(sandbox: MailSandbox, folder: Path) -> None:
    while True:
        told = await asyncio.to_thread(_read, folder / "faults")
        sandbox.faults = msgspec.json.decode(told, type=Faults) if told else HEALTHY
        await asyncio.sleep(LOOK)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


async def fail(folder: Path, faults: Faults = HEALTHY) -> None:
    """Tell the sandbox of a process how to fail from now on."""
    written = folder / "faults.new"
    written.write_bytes(msgspec.json.encode(faults))
    written.rename(folder / "faults")
    await asyncio.sleep(LOOK * 5)
