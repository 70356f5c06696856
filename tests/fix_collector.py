"""Python's garbage collector in a run of thousands of tests.

What importing and collecting left stays until the end. Without `freeze` every full collection, of which
pytest itself makes several a test once something is awry, walks through all of it.
"""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Take what is there now for needed for ever."""
    gc.collect()
    gc.freeze()
