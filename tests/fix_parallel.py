"""How a run shares its tests out among several processes (`pytest -n 3`).

Each process has a PostgreSQL and a Stalwart of its own, so that tests need to know nothing of it. A file
stays in one process, whose fixtures it shares, and so do files that must see each other's results or would
disturb each other's clocks. What takes longest begins first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TOGETHER: Mapping[str, tuple[str, ...]] = {
    # Mail under way while processes are killed: they compete for the same machine.
    "killing": (
        "tests/failure/test_storm",
        "tests/failure/test_killed",
        "tests/failure/test_handed_in",
        "tests/failure/test_day_limit",
        "tests/failure/test_live",
        "tests/failure/test_dispatch",
    ),
    # What takes seconds even when nothing is wrong: starts, large mails, outages.
    "waiting": (
        "tests/failure/test_dev_command",
        "tests/failure/test_large_mail",
        "tests/failure/test_outages",
        "tests/failure/test_logs",
        "tests/failure/test_local_stalwart",
    ),
    # The table of the SDKs' calls is made of what all tests of those calls found.
    "sdk": (
        "tests/sdk/test_endpoints_",
        "tests/sdk/test_node",
        "tests/sdk/test_python",
        "tests/sdk/test_websockets",
    ),
}
"""Beginnings of paths, by what they are for."""

LONGEST = (
    "waiting",
    "killing",
    "sdk",
    "tests/api/test_schemathesis.py",
    "tests/failure/test_drafts_in_clients.py",
    "tests/failure/test_idempotency.py",
    "tests/api/test_drafts.py",
    "tests/api/test_messages.py",
    "tests/api/test_bad_input.py",
    "tests/api/test_isolation.py",
    "tests/api/test_metrics.py",
    "tests/api/test_inboxes.py",
    "tests/api/test_bodies.py",
)
"""What takes a minute and more, the longest first."""


def number() -> int:
    """Which of the processes of this run this is, from 0."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def scope(nodeid: str) -> str:
    """What stays in one process with this test: a name in `TOGETHER`, or its file."""
    path = nodeid.partition("::")[0]
    return next((name for name, some in TOGETHER.items() if path.startswith(some)), path)


class ByScope(LoadScopeScheduling):
    """Hands scopes out in the order in which they were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByScope:
    # xdist would begin with the scopes that have most tests, which are the quickest.
    config.option.loadscopereorder = False
    return ByScope(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; all else stays in the order it has, which is a random one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    place = scope(item.nodeid)
    return LONGEST.index(place) if place in LONGEST else len(LONGEST)
