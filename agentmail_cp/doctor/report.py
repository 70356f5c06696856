"""What the doctor says: lines as checks finish, a summary, or JSON. Pure.

Colours are only marked here: `click.echo` takes them away where nobody would see them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, Final

import click

from agentmail_cp.doctor.checking import Finding, Status

COLOURS: Final = {
    Status.OK: "green",
    Status.WARNING: "yellow",
    Status.FAILED: "red",
    Status.SKIPPED: "cyan",
}
STATUS_WIDTH: Final = 9
NAME_WIDTH: Final = 14


def line(name: str, finding: Finding, *, width: int) -> str:
    """A check's row of the table, with what to do below it."""
    indent = " " * (STATUS_WIDTH + NAME_WIDTH)
    status = click.style(f"{finding.status:<{STATUS_WIDTH}}", fg=COLOURS[finding.status])
    rows = _wrapped(finding.seen, width, indent)
    if finding.mend:
        rows += _wrapped(f"-> {finding.mend}", width, indent)
    return "\n".join([f"{status}{name:<{NAME_WIDTH}}{rows[0].strip()}", *rows[1:]])


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    paragraphs = [
        textwrap.wrap(
            each,
            max(width, len(indent) + 40),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for each in text.splitlines()
    ]
    return [row for rows in paragraphs for row in rows] or [indent]


def summary(findings: Mapping[str, Finding], seconds: float) -> str:
    """The last line: how many of each, and how long it took."""
    counts = dict.fromkeys(Status, 0)
    for finding in findings.values():
        counts[finding.status] += 1
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{told} in {seconds:.1f} s"


def failures(findings: Mapping[str, Finding]) -> list[str]:
    """The names of the checks that failed."""
    return [name for name, each in findings.items() if each.status is Status.FAILED]


def as_json(findings: Mapping[str, Finding], seconds: float) -> dict[str, Any]:
    """The whole result for a machine; `ok` says what the exit status says."""
    return {
        "ok": not failures(findings),
        "seconds": round(seconds, 3),
        "checks": [
            {
                "name": name,
                "status": str(each.status),
                "seen": each.seen,
                "mend": each.mend,
                "because": each.because,
            }
            for name, each in findings.items()
        ],
    }
