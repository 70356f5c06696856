"""One visit of the doctor at a terminal: checks chosen, findings told as they come, and an exit status.

On a terminal there are colours and a line that says what is still awaited; anywhere else plain rows. With
JSON nothing is printed before the end.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
from collections.abc import Collection
from signal import SIGINT, SIGTERM, raise_signal
from time import monotonic
from typing import Final

import click
import msgspec
import structlog

from agentmail_cp import settings
from agentmail_cp.doctor import CHECKS, report
from agentmail_cp.doctor.checking import Check, Finding, chosen, examine
from agentmail_cp.doctor.patient import Kind, Patient

PLAIN_WIDTH: Final = 110
ERASE: Final = "\r\x1b[2K"
ALL: Final = "all"


class UnknownCheck(ValueError):
    """There is no check of this name. The message lists those there are."""


class _Table:
    """Rows of the table as they come. `live`: on a terminal."""

    def __init__(self, names: Collection[str], *, live: bool) -> None:
        self._awaited = dict.fromkeys(names)
        self._live = live
        self._width = shutil.get_terminal_size().columns if live else PLAIN_WIDTH

    def begin(self) -> None:
        self._show_awaited()

    def tell(self, name: str, finding: Finding) -> None:
        """Print a row, above what is still awaited."""
        self._awaited.pop(name, None)
        row = report.line(name, finding, width=self._width)
        click.echo(f"{ERASE}{row}" if self._live else row)
        self._show_awaited()

    def end(self, summary: str) -> None:
        click.echo(f"{ERASE}\n{summary}" if self._live else f"\n{summary}")

    def _show_awaited(self) -> None:
        if self._live and self._awaited:
            text = f"… {', '.join(self._awaited)}"
            click.echo(ERASE + text[: self._width - 1], nl=False)


def explained(names: Collection[str]) -> str:
    """The help texts of these checks, or of `all`. Raises `UnknownCheck`."""
    checks = CHECKS if ALL in names else _named(names)
    return "\n\n".join(f"{check.name}\n\n{_indented(check.help)}" for check in checks)


async def consult(names: Collection[str], kind: Kind, *, as_json: bool) -> int:
    """Make the checks and tell what they find; returns the exit status. Raises `UnknownCheck`."""
    _named(names)
    _be_quiet()
    # As Ctrl-C does: so that what was made is removed.
    asyncio.get_running_loop().add_signal_handler(SIGTERM, raise_signal, SIGINT)
    checks = chosen(CHECKS, names)
    table = _Table([check.name for check in checks], live=sys.stdout.isatty())
    started = monotonic()
    async with Patient(settings.load, kind) as patient:
        if not as_json:
            table.begin()
        findings = await examine(patient, checks, _silent if as_json else table.tell)
    seconds = monotonic() - started
    if as_json:
        click.echo(msgspec.json.encode(report.as_json(findings, seconds)).decode())
    else:
        table.end(report.summary(findings, seconds))
    return 1 if report.failures(findings) else 0


def _named(names: Collection[str]) -> list[Check[Patient]]:
    known = {check.name: check for check in CHECKS}
    for name in names:
        if name not in known:
            raise UnknownCheck(f"There is no check {name!r}; there are {', '.join(known)}.")
    return [known[name] for name in names]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _silent(_name: str, _finding: Finding) -> None:
    """For a machine, that reads the whole at the end."""


def _be_quiet() -> None:
    """What the parts log of a failure is what the checks find."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
