"""Worlds to break."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from agentmail_cp import inboxes, sending
from tests.failure.world import World, new_sandbox, quiet
from tests.fix_proxy import Proxy, port_of, through


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second looks without the pause, which only a frozen server needs."""
    monkeypatch.setattr(sending, "SECOND_LOOK", 0.001)
    monkeypatch.setattr(inboxes, "SECOND_LOOK", 0.001)


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
