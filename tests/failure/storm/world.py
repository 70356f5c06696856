"""What the storm rages in: Stalwart, PostgreSQL behind a proxy, an API process and a worker process.

Both processes reach Stalwart and PostgreSQL through proxies that can be cut; Stalwart reaches the API
directly.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agentmail_cp.db import Database
from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.stalwart import mtahook
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.setup import Doorbell
from tests.failure.storm.strikes import Blow
from tests.failure.world import new_organization
from tests.fix_app import DOMAIN
from tests.fix_process import HOST, ServiceProcess, free_port
from tests.fix_proxy import Proxy, port_of, through

SECRET = "the storm's own secret"


@dataclass
class World:
    """Everything that runs, and when Stalwart was killed (loop time)."""

    stalwart: LocalStalwart
    to_database: Proxy
    to_mail: Proxy
    api: ServiceProcess
    worker: ServiceProcess
    database: Database
    client: httpx.AsyncClient
    key: str
    deaths: list[float]

    async def strike(self, blow: Blow, lasts: float) -> None:
        """Let a blow fall, and what it hit come back after so many seconds."""
        async with self._struck(blow):
            await asyncio.sleep(lasts)

    @contextlib.asynccontextmanager
    async def _struck(self, blow: Blow) -> AsyncGenerator[None]:
        match blow:
            case "kill the API" | "kill the worker":
                process = self.api if blow == "kill the API" else self.worker
                process.kill()
                yield
                process.launch()
            case "kill Stalwart":
                async with self.stalwart_away():
                    yield
            case "take PostgreSQL away":
                self.to_database.refuse()
                yield
                await self.to_database.heal()
            case "stall Stalwart":
                self.to_mail.stall()
                yield
                await self.to_mail.heal()
            case "cut PostgreSQL" | "cut Stalwart":
                (self.to_database if blow == "cut PostgreSQL" else self.to_mail).cut()
                yield

    @contextlib.asynccontextmanager
    async def stalwart_away(self) -> AsyncGenerator[None]:
        """Kill Stalwart; it is back when the block ends."""
        self.deaths.append(asyncio.get_running_loop().time())
        await self.stalwart.kill()
        yield
        await self.stalwart.start()

    async def inbox(self) -> str:
        """A new inbox; its address."""
        return (await self.post("/v0/inboxes", {}))["email"]

    async def endpoint(self, url: str, types: list[str]) -> str:
        """A new webhook endpoint; its secret."""
        return (await self.post("/v0/webhooks", {"url": url, "event_types": types}))["secret"]

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.client.post(path, json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        answer = await self.client.get(path, params=query)
        assert answer.is_success, answer.text
        return answer.json()


@contextlib.asynccontextmanager
async def running(folder: Path, database_url: str) -> AsyncGenerator[World]:
    """A world at peace, with one organisation; `database_url` is an empty, migrated database."""
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        stalwart = await stack.enter_async_context(_stalwart(folder / "stalwart", port))
        to_database = await stack.enter_async_context(Proxy(port_of(database_url)))
        to_mail = await stack.enter_async_context(Proxy(port_of(stalwart.url)))
        settings = {
            "database_url": through(database_url, to_database),
            "stalwart_url": through(stalwart.url, to_mail),
            "stalwart_key": stalwart.key,
            "stalwart_webhook_secret": SECRET,
            "domain": DOMAIN,
            "domain_shared": False,
            "requests_per_minute": 0,
            "sends_per_day": 0,
            "thread_sends_per_hour": 0,
            "outbound_allow": f"{HOST}/32",
        }
        database = Database(database_url, size=2)
        await database.open()
        stack.push_async_callback(database.close)
        _, key = await new_organization(database)
        api = _process(folder / "api", settings, "serve", "--no-worker", port=port)
        worker = _process(folder / "worker", settings, "worker")
        await stack.enter_async_context(api)
        await stack.enter_async_context(worker)
        client = httpx.AsyncClient(
            base_url=api.url, headers={"Authorization": f"Bearer {key}"}, timeout=20
        )
        await stack.enter_async_context(client)
        yield World(stalwart, to_database, to_mail, api, worker, database, client, key, [])


def _stalwart(folder: Path, port: int) -> LocalStalwart:
    folder.mkdir(mode=0o700, parents=True)
    base = f"http://{HOST}:{port}"
    return LocalStalwart(
        folder,
        domain=DOMAIN,
        doorbell=Doorbell(url=base + DOORBELL_PATH, secret=SECRET, throttle=20),
        hook=mtahook.hook_at(base, SECRET),
    )


def _process(
    folder: Path, settings: Mapping[str, object], *arguments: str, port: int = 0
) -> ServiceProcess:
    folder.mkdir(parents=True)
    return ServiceProcess(folder, settings, *arguments, port=port)
