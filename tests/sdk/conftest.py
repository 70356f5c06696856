"""The official SDK in both worlds; the test of the table runs after all the others of this folder."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.fix_sdk import Live
from tests.sdk import whole
from tests.sdk.official import Sdk, connected


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    whole.put_last(config, items)


@pytest.fixture
def sandbox_sdk(live: Live) -> Generator[Sdk]:
    """The SDK against the service on the sandbox."""
    with connected(live, "sandbox") as sdk:
        yield sdk


@pytest.fixture
def stalwart_sdk(live_on_stalwart: Live) -> Generator[Sdk]:
    """The SDK against the service on a real Stalwart."""
    with connected(live_on_stalwart, "stalwart") as sdk:
        yield sdk


@pytest.fixture(params=["sandbox", pytest.param("stalwart", marks=pytest.mark.stalwart)])
def sdk(request: pytest.FixtureRequest) -> Sdk:
    """Both, one after the other."""
    return request.getfixturevalue(f"{request.param}_sdk")
