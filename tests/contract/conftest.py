"""The two worlds of the contract suite: the sandbox, and a real Stalwart where one is installed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.contract.sandbox_world import sandbox_world

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.contract.world import World

DOMAIN = "contract.test"


@pytest_asyncio.fixture(
    scope="session", params=["sandbox", pytest.param("stalwart", marks=pytest.mark.stalwart)]
)
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    """The server under test; every case runs in both worlds."""
    if request.param == "sandbox":
        async with sandbox_world(DOMAIN) as made:
            yield made
        return
    if shutil.which("stalwart") is None:
        pytest.skip("NOT CHECKED AGAINST A REAL SERVER: there is no `stalwart` on PATH")
    raise AssertionError(request.param)
