"""Every operation under generated requests, valid and invalid: no crash, and answers as described.

`python -m pytest tests/api -k schemathesis` runs these alone; SCHEMATHESIS_EXAMPLES asks for more.
`make fuzz` does the same at random, with keys of every reach, for FUZZ_MINUTES (10).
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import AsyncGenerator, Generator
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio
import structlog
from schemathesis import GenerationMode

from tests.api.fuzzing import OPERATIONS, at_random, nothing_unhandled, things, try_out
from tests.fix_pg import empty
from tests.fix_sdk import BESIDE_RECEIVERS, Live, on_sandbox, running

# The service runs in a thread of this process and draws random numbers while hypothesis watches.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))
MINUTES = float(os.environ.get("FUZZ_MINUTES", "0"))


@pytest_asyncio.fixture(scope="module")
async def shared_url(migrated_url: str) -> AsyncGenerator[str]:
    """One database for all operations: a service of its own for each would take most of the time."""
    yield migrated_url
    await empty(migrated_url)


@pytest.fixture(scope="module")
def shared(shared_url: str) -> Generator[Live]:
    """One service for all operations."""
    with running(shared_url, on_sandbox, **BESIDE_RECEIVERS) as found:
        yield found


@pytest.mark.parametrize("name", OPERATIONS)
def test_schemathesis(name: str, shared: Live) -> None:
    """A request nobody thought of could crash the service or get an answer no client expects."""
    there = things(shared)
    with nothing_unhandled():
        for mode in GenerationMode:
            try_out(shared, name, mode, there=there, reach="organization", examples=EXAMPLES)


@pytest.mark.parametrize(
    "logger", [structlog.stdlib.get_logger("agentmail_cp.jobs"), logging.getLogger("asyncio")]
)
@pytest.mark.parametrize("level", ["error", "exception", "critical"])
def test_what_nobody_handles_is_noticed(logger: Any, level: str) -> None:
    """Ten minutes without a finding would mean that nobody looked."""
    with pytest.raises(AssertionError, match="1 unhandled"):
        log_to(logger, "warning", level)
    log_to(logger, "warning")


def log_to(logger: Any, *levels: str) -> None:
    with nothing_unhandled():
        for level in levels:
            getattr(logger, level)("something")


@pytest.mark.skipif(not MINUTES, reason="FUZZ_MINUTES says for how long")
@pytest.mark.timeout(0)
def test_fuzz(shared: Live) -> None:
    """What twelve examples do not find, ten minutes may."""
    rng, ends = random.Random(), monotonic() + MINUTES * 60
    tried, found = 0, set[str]()
    with nothing_unhandled():
        while monotonic() < ends:
            tried += 1
            found.add(at_random(shared, rng, examples=EXAMPLES) or "")
    assert not found - {""}, "\n\n".join(found)
    assert tried > MINUTES
