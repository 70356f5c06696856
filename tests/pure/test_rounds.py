"""Loops: nothing they are told of is forgotten, and an outage is one line in the log."""

from __future__ import annotations

import asyncio

import pytest
import structlog
from structlog.testing import capture_logs

from agentmail_cp.rounds import Rounds, Standstill

FOREVER = 3600.0


async def test_word_that_comes_while_a_loop_looks_begins_another_round() -> None:
    """Otherwise what was written just behind its look would wait for the end of the pause."""
    rounds, steps = Rounds(), 0

    async def step() -> float:
        nonlocal steps
        steps += 1
        if steps == 1:
            rounds.wake()
        else:
            raise asyncio.CancelledError
        return FOREVER

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(rounds.run(step), 5)
    assert steps == 2


async def test_a_loop_looks_although_it_was_told_of_nothing() -> None:
    """A notification that PostgreSQL could not send costs a pause, not an event."""
    rounds, pauses = Rounds(), iter((0.0, 0.001))

    async def step() -> float:
        for pause in pauses:
            return pause
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(rounds.run(step), 5)


def test_an_outage_is_said_once_and_its_end_too() -> None:
    """A log that repeats itself each second hides what else goes wrong."""
    with capture_logs() as lines:
        standstill = Standstill(structlog.stdlib.get_logger(), "publication")
        standstill.is_over()
        for _ in range(3):
            standstill.begins("The database is not answering.")
        standstill.is_over()
        standstill.is_over()
    assert [line["event"] for line in lines] == ["publication.waiting", "publication.resumed"]
