"""Stalwart in a container, where a Docker engine answers but no `stalwart` is installed.

The same server in the same kind of folder as `LocalStalwart`; only the program is started through
`docker run`, in the foreground, so that stopping one stops the other. The container is named after
the folder, and one left by a killed run is removed by the next start. It uses the network of this
machine (Linux), so that it listens on 127.0.0.1 only, and reaches the doorbell there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agentmail_cp.dev.errors import DevError
from agentmail_cp.dev.stalwart import LocalStalwart

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGE = "stalwartlabs/stalwart:v0.16.18"
PATIENCE = 3.0
"""Seconds a Docker engine has to answer before there counts as none."""


async def engine_answers() -> bool:
    """Whether a Docker engine on Linux can be used; elsewhere containers have no host network."""
    docker = shutil.which("docker")
    if docker is None or not sys.platform.startswith("linux"):
        return False
    asking = await asyncio.create_subprocess_exec(
        docker, "info", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        return await asyncio.wait_for(asking.wait(), PATIENCE) == 0
    except TimeoutError:
        asking.kill()
        await asking.wait()
        return False


class DockerStalwart(LocalStalwart):
    """A Stalwart container and its folder."""

    @property
    def container(self) -> str:
        """Name of the container: the same for the same folder."""
        return f"agentmail-cp-{hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:12]}"

    async def start(self) -> None:
        """Start it, fetching the image if it is not there. Raises DevError."""
        await self._remove()
        if await _docker("image", "inspect", IMAGE) != 0:
            print(f"Fetching the image {IMAGE}.", flush=True)
            if await _docker("pull", "--quiet", IMAGE) != 0:
                raise DevError(
                    f"Docker could not fetch {IMAGE}; put `stalwart` on PATH, or stop the Docker "
                    "engine to use the built-in sandbox."
                )
        await super().start()

    async def stop(self) -> None:
        """Stop and remove it; may be repeated."""
        await super().stop()
        await self._remove()

    def _binary(self) -> Path:
        return Path(shutil.which("docker") or "docker")

    def _command(self, binary: Path, environment: Mapping[str, str]) -> list[str | Path]:
        names = [name for name in environment if name.startswith("STALWART_")]
        return [
            *(binary, "run", "--rm", "--name", self.container, "--network", "host"),
            *("--user", f"{os.getuid()}:{os.getgid()}", "--workdir", self._folder),
            *("--volume", f"{self._folder}:{self._folder}"),
            # By name only: values would show in the list of processes.
            *(word for name in names for word in ("--env", name)),
            *("--entrypoint", "stalwart", IMAGE, "--config", self._folder / "config.json"),
        ]

    async def _remove(self) -> None:
        await _docker("rm", "--force", self.container)


async def _docker(*arguments: str) -> int:
    running = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return await running.wait()
