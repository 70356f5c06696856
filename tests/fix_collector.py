"""Python's garbage collector in a run of thousands of tests.

What importing and collecting left stays until the end. Without `freeze` every full collection, of which
pytest itself makes several a test once something is awry, walks through all of it. What a failed test left
open is collected at once and without a word: pytest would make another test pay for it, whose failure says
nothing.
"""

from __future__ import annotations

import gc
import sys
import warnings

import pytest

_failed: set[str] = set()


def pytest_collection_finish() -> None:
    """Take what is there now for needed for ever."""
    gc.collect()
    gc.freeze()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed.add(report.nodeid)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Collect what a failure kept."""
    if nodeid not in _failed:
        return
    _failed.discard(nodeid)
    # pytest keeps the last traceback for debuggers, and with it everything the test had.
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
