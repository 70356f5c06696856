"""Worlds to break."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.inboxes import creation
from agentmail_cp.sending import settlement
from agentmail_cp.stalwart.hooks import DOORBELL_PATH
from agentmail_cp.stalwart.setup import Doorbell
from tests.failure.real import SECRET, Ringing, Running, running, service
from tests.failure.world import World, new_sandbox, quiet
from tests.fix_app import DOMAIN
from tests.fix_proxy import BellRelay, Proxy, port_of, through
from tests.fix_stalwart import needs_stalwart, private_folder


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second looks without the pause, which only a frozen server needs."""
    monkeypatch.setattr(settlement, "SECOND_LOOK", 0.001)
    monkeypatch.setattr(creation, "SECOND_LOOK", 0.001)


@pytest_asyncio.fixture
async def world(database_url: str, hasty: None) -> AsyncGenerator[World]:
    """The service on a sandbox of its own, its worker stopped."""
    async with quiet(database_url, new_sandbox()) as here:
        yield here


@pytest_asyncio.fixture
async def pg_proxy(database_url: str) -> AsyncGenerator[Proxy]:
    """What stands between a `proxied` world and PostgreSQL."""
    async with Proxy(port_of(database_url)) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def proxied(database_url: str, pg_proxy: Proxy, hasty: None) -> AsyncGenerator[World]:
    """A world whose PostgreSQL can be taken away."""
    async with quiet(through(database_url, pg_proxy), new_sandbox()) as here:
        yield here


@pytest_asyncio.fixture(scope="session")
async def stalwart_with_bells(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[Ringing]:
    """One Stalwart for all tests of this folder; each leaves it running."""
    needs_stalwart()
    relay = BellRelay()
    async with relay.listening():
        bell = Doorbell(
            url=f"http://127.0.0.1:{relay.port}{DOORBELL_PATH}", secret=SECRET, throttle=20
        )
        folder = private_folder(tmp_path_factory)
        async with LocalStalwart(folder, domain=DOMAIN, doorbell=bell) as process:
            yield Ringing(process, relay)


@pytest_asyncio.fixture
async def ringing(stalwart_with_bells: Ringing) -> AsyncGenerator[Ringing]:
    """The same server with an honest relay."""
    yield stalwart_with_bells
    stalwart_with_bells.relay.times = 1
    stalwart_with_bells.relay.target = None


@pytest_asyncio.fixture
async def live(ringing: Ringing, database_url: str, tmp_path: Path) -> AsyncGenerator[Running]:
    """A running service beside it, whose sweep comes too late to help."""
    process = service(tmp_path, ringing, database_url, sweep_interval=3600)
    async with process:
        here = await running(process, database_url)
        yield here
        await here.close()
