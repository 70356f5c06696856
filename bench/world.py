"""PostgreSQL (durable, as in production), Stalwart and the service with its worker, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx

from agentmail_cp import access, db
from agentmail_cp.dev.postgres import LocalPostgres
from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.stalwart import mtahook
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.setup import Doorbell
from bench.jmap import RawJmap
from bench.measuring import Target

DOMAIN = "agents.test"
HOOK_SECRET = "bench-secret"


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncGenerator[Target]:
    """Everything, on loopback."""
    port = free_port()
    postgres = LocalPostgres(folder / "postgres", durable=True)
    postgres.start()
    doorbell = Doorbell(f"http://127.0.0.1:{port}{DOORBELL_PATH}", HOOK_SECRET, 20)
    hook = mtahook.hook_at(f"http://127.0.0.1:{port}", HOOK_SECRET)
    stalwart = LocalStalwart(folder / "stalwart", domain=DOMAIN, doorbell=doorbell, hook=hook)
    url = postgres.database("agentmail")
    processes: list[subprocess.Popen[bytes]] = []
    try:
        await stalwart.start()
        await db.migrate(url)
        key = await _first_key(url)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
        ) as api:

            async def begin() -> int:
                processes.append(_serve(url, stalwart, port))
                await _until_healthy(api)
                return processes[-1].pid

            pid = await begin()
            async with RawJmap(stalwart.url, stalwart.key, DOMAIN) as raw:
                await raw.leave_out()
                yield Target(api, raw, stalwart.ports.smtp, pid, url, begin)
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)
        await stalwart.stop()
        postgres.stop()


def _serve(url: str, stalwart: LocalStalwart, port: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "AGENTMAIL_CP_DATABASE_URL": url,
        "AGENTMAIL_CP_STALWART_URL": stalwart.url,
        "AGENTMAIL_CP_STALWART_KEY": stalwart.key,
        "AGENTMAIL_CP_STALWART_WEBHOOK_SECRET": HOOK_SECRET,
        "AGENTMAIL_CP_DOMAIN": DOMAIN,
        "AGENTMAIL_CP_DOMAIN_SHARED": "false",
        "AGENTMAIL_CP_PORT": str(port),
        "AGENTMAIL_CP_LOG_LEVEL": "warning",
        "AGENTMAIL_CP_REQUESTS_PER_MINUTE": "0",
        "AGENTMAIL_CP_OUTBOUND_ALLOW": "127.0.0.1/32",
        # Counted as ever, but never refused.
        "AGENTMAIL_CP_SENDS_PER_DAY": "1000000",
        "AGENTMAIL_CP_THREAD_SENDS_PER_HOUR": "1000000",
    }
    command = [str(Path(sys.executable).parent / "agentmail-cp"), "serve"]
    return subprocess.Popen(command, env=environment)


async def _first_key(url: str) -> str:
    database = db.Database(url)
    await database.open()
    async with database.transaction() as tx:
        organization = await access.create_organization(tx, "Bench")
        made = await access.create_key(
            tx, access.Reach(organization.organization_id), prefix="inai_", name="bench"
        )
    await database.close()
    return made.secret


async def _until_healthy(api: httpx.AsyncClient) -> None:
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            if (await api.get("/health")).status_code == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("The service did not become healthy.")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
