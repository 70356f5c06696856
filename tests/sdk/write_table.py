"""Runs the tests of this folder and writes what they found: `python -m tests.sdk.write_table`."""

from __future__ import annotations

import sys

import pytest

from tests.sdk.whole import HERE, let_write


class Writing:
    """Lets the test of the table write it."""

    def pytest_configure(self, config: pytest.Config) -> None:
        let_write(config)


if __name__ == "__main__":
    sys.exit(pytest.main(["-q", str(HERE)], plugins=[Writing()]))
