"""How a run shares its tests out among several processes (`pytest -n 2`).

Each process has a PostgreSQL and a Stalwart of its own, so that tests need to know nothing of it. A file
stays in one process, whose fixtures it shares, and so do files that must see each other's results or would
disturb each other's clocks.
"""

from __future__ import annotations

import os

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/sdk/test_endpoints_", "tests/failure/")
"""Beginnings of paths. The table of the SDKs' calls is made of what all tests of those calls found; tests
of failures measure time, with processes of their own on top.
"""


def number() -> int:
    """Which of the processes of this run this is, from 0."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


class ByFile(LoadScopeScheduling):
    """What belongs together stays together; what takes longest begins first."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return next((each for each in TOGETHER if path.startswith(each)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)
