"""The two worlds of the contract suite: the sandbox, and a real Stalwart where one is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.contract import witness
from tests.contract.sandbox_world import sandbox_world
from tests.contract.stalwart_world import stalwart_world

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from tests.contract.world import World
    from tests.fix_front_door import FrontDoor
    from tests.fix_stalwart import StalwartServer


@pytest_asyncio.fixture(scope="session")
async def sandbox() -> AsyncGenerator[World]:
    """The sandbox, set up as this product sets up Stalwart."""
    async with sandbox_world("agents.test") as made:
        yield made


@pytest_asyncio.fixture(scope="session")
async def real(stalwart: StalwartServer, front_door: FrontDoor) -> AsyncGenerator[World]:
    """A real server."""
    async with stalwart_world(stalwart, front_door) as made:
        yield made


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("sandbox", id="sandbox"),
        pytest.param("real", id="stalwart", marks=pytest.mark.stalwart),
    ],
)
def world(request: pytest.FixtureRequest) -> World:
    """The server under test; every case runs in both worlds."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def _true_to_its_declaration(request: pytest.FixtureRequest) -> Generator[None]:
    """Fail a case that declares with `covers` what it did not do."""
    witness.seen.clear()
    yield
    if "world" in request.fixturenames:
        in_sandbox = request.node.callspec.params["world"] == "sandbox"
        assert witness.unproved(request.function, faults=in_sandbox) == frozenset()
