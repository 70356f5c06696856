"""What a check is, what it may find, and in which order checks are made. Knows none of them.

A check is one function; its docstring is its help text. What it finds is ok, warning, failed or skipped.
It is made as soon as those it `needs` have passed, beside all others. Where one of those failed, it is
skipped, and says which: one fault is named once. A failure that another may have caused (`blames`) is
skipped as well when the other has failed, but tells what was seen. Each has its own time limit.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final, Generic, TypeVar

import msgspec

P = TypeVar("P")
"""Whom checks are made of."""

LIMIT: Final = 5.0
"""Seconds a check may take that names no other limit."""


class Status(StrEnum):
    """What came of a check."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a check has seen, in a sentence or two, and what to do about it. `because` names the check whose
    failure is the reason for a skipped one.
    """

    status: Status
    seen: str
    mend: str | None = None
    because: str | None = None


class Cause(Exception):
    """A check cannot go on. Carries what it found."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.seen)
        self.finding = finding


def ok(seen: str) -> Finding:
    return Finding(Status.OK, seen)


def warning(seen: str, mend: str) -> Finding:
    return Finding(Status.WARNING, seen, mend)


def failed(seen: str, mend: str) -> Finding:
    return Finding(Status.FAILED, seen, mend)


def skipped(seen: str, mend: str | None = None) -> Finding:
    """Nothing to look at here; whoever needs this check is made all the same."""
    return Finding(Status.SKIPPED, seen, mend)


class Check(msgspec.Struct, Generic[P], frozen=True):
    """One check, by the name of its function. `after`: those it only waits for. `then`: those that have to be
    made whenever this one is. `seconds` is its limit.
    """

    look: Callable[[P], Awaitable[Finding]]
    needs: tuple[str, ...] = ()
    blames: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    seconds: float = LIMIT

    @property
    def name(self) -> str:
        return self.look.__name__

    @property
    def help(self) -> str:
        """What it looks at and how to mend it."""
        return inspect.getdoc(self.look) or ""

    @property
    def waits_for(self) -> tuple[str, ...]:
        return (*self.needs, *self.blames, *self.after)


def chosen(checks: Sequence[Check[P]], names: Collection[str]) -> list[Check[P]]:
    """The checks of these names and all they need, in their order. No names: all."""
    if not names:
        return list(checks)
    wanted = set(names)
    for each in reversed(checks):
        if each.name in wanted:
            wanted |= {*each.needs, *each.then}
    return [each for each in checks if each.name in wanted]


async def examine(
    patient: P,
    checks: Sequence[Check[P]],
    told: Callable[[str, Finding], None] = lambda _name, _finding: None,
) -> dict[str, Finding]:
    """Make the checks, each as soon as it may be, and tell each finding when it is there. A check comes
    behind those it waits for in `checks`. Returns the findings in the order of `checks`.
    """
    tasks: dict[str, asyncio.Task[Finding]] = {}

    async def make(check: Check[P]) -> Finding:
        before = {name: await tasks[name] for name in check.waits_for if name in tasks}
        finding = await _find(patient, check, before)
        told(check.name, finding)
        return finding

    async with asyncio.TaskGroup() as group:
        for check in checks:
            tasks[check.name] = group.create_task(make(check))
    return {name: task.result() for name, task in tasks.items()}


async def _find(patient: P, check: Check[P], before: Mapping[str, Finding]) -> Finding:
    for name in check.needs:
        root = _root(name, before.get(name))
        if root is not None:
            return Finding(Status.SKIPPED, f"skipped because {root} failed", because=root)
    finding = await _look(patient, check)
    if finding.status is not Status.FAILED:
        return finding
    roots = (_root(name, before.get(name)) for name in check.blames)
    root = next((each for each in roots if each is not None), None)
    if root is None:
        return finding
    seen = f"skipped because {root} failed, which may be why: {finding.seen}"
    return Finding(Status.SKIPPED, seen, because=root)


def _root(name: str, finding: Finding | None) -> str | None:
    """Which check's failure stands behind this one's; None when it passed, or had nothing to look at."""
    if finding is None:
        return None
    return name if finding.status is Status.FAILED else finding.because


async def _look(patient: P, check: Check[P]) -> Finding:
    try:
        async with asyncio.timeout(check.seconds):
            return await check.look(patient)
    except Cause as found:
        return found.finding
    except TimeoutError:
        return failed(
            f"no answer within {check.seconds:g} s",
            f"Look at how busy the machine is, then run `agentmail-cp doctor --only {check.name}`.",
        )
    except Exception as error:  # noqa: BLE001 - whatever it was, the other checks are made
        return failed(
            f"the check could not be made ({type(error).__name__}: {error})",
            "This is a mistake in the doctor or something it does not know; please report it.",
        )
