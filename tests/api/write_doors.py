"""Tries every door and writes what they said to docs/doors.md: `python -m tests.api.write_doors`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.api.doors_page import WRITING


class Writing:
    """Lets the test of the page write it."""

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[WRITING] = True


if __name__ == "__main__":
    test = Path(__file__).with_name("test_doors.py")
    sys.exit(pytest.main(["-q", f"{test}::test_every_door_says_the_same"], plugins=[Writing()]))
