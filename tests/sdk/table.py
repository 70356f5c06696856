"""docs/endpoints.md: what became of each call of the SDKs, as the tests of one run found it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Literal, get_args

from tests.sdk.endpoints import CALLS, ENDPOINTS, Endpoint, World

FILE = Path(__file__).parents[2] / "docs" / "endpoints.md"
PYTHON: tuple[World, ...] = ("sandbox", "stalwart")
COMPLETE = re.compile(
    r"^/v0/(inboxes/\{inbox_id\}/|pods/\{pod_id\}/|)(threads|drafts|api-keys|lists|metrics|webhooks|domains)\b"
    r"|^/v0/inboxes/\{inbox_id\}/(messages|events)\b"
    r"|^/v0/(pods/\{pod_id\}/|)inboxes(/search|/\{inbox_id\})?$"
    r"|^/v0(/(pods(/\{pod_id\})?|organizations|auth/me))?$"
)
"""Paths of what is complete: the mail API, events, and what keeps many tenants apart."""

SUCCESSES = {101, 200, 201, 204}
Result = Literal["works", "polite refusal", "not yet"]

HEAD = """\
# Endpoints

Every call of the official SDKs, agentmail 2.0.18 for Python and 0.5.27 for npm, and what this server makes
of it. The tests write this table from the calls they made, through the unmodified SDKs, on the mail
sandbox and on a real Stalwart: `python -m tests.sdk.write_table` makes it anew, and a test compares it.

`works`: every answer had all fields the SDK's own models require. `polite refusal`: only the hosted
service has it, or, of polling webhooks, the log of events does what they do; an empty list, 403 or 404 that
the SDK has a type for. `not yet`: 404. An empty field in the last column: that SDK has no such call. Calls in
parentheses are not the Python SDK's.

"""


def result(endpoint: Endpoint, worlds: tuple[World, ...]) -> Result:
    """What became of a call where it was made: it has to work wherever tests ran."""
    ran: list[World] = [world for world in worlds if CALLS[world]]
    answers = [CALLS[world].get(endpoint, set[int]()) for world in ran]
    if not all(answers) or not ran:
        return "not yet"
    if endpoint.tier == "skip" or "/webhooks/polling" in endpoint.path:
        return "polite refusal"
    return "works" if all(SUCCESSES & each for each in answers) else "not yet"


def _npm(endpoint: Endpoint, committed: dict[str, str]) -> str:
    """The same for the npm SDK; without Node.js, what the file says."""
    if not endpoint.npm:
        return ""
    if not CALLS["npm"]:
        return committed.get(_name(endpoint), "")
    return result(endpoint, ("npm",))


def _name(endpoint: Endpoint) -> str:
    return f"{endpoint.method} `{endpoint.path}`"


def committed(text: str) -> dict[str, str]:
    """The last column of a table, by method and path."""
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| ") and "`" in line]
    return {f"{row[1].strip()} {row[2].strip()}": row[6].strip() for row in rows}


def text(before: str) -> str:
    """The file as this run found it; `before` is the file there is."""
    npm = committed(before)
    results = {endpoint: result(endpoint, PYTHON) for endpoint in ENDPOINTS}
    counts = Counter(results.values())
    summary = ", ".join(f"{counts[each]} {each}" for each in get_args(Result))
    lines = [
        f"{HEAD}Of {len(ENDPOINTS)}: {summary}.",
        "",
        _row("Method", "Path", "Call", "Tier", "Python", "npm"),
        "|---|---|---|---|---|---|",
    ]
    for each in ENDPOINTS:
        path, last = f"`{each.path}`", _npm(each, npm)
        lines.append(_row(each.method, path, _call(each), each.tier, results[each], last))
    return "\n".join([*lines, ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells).rstrip()} |"


def _call(endpoint: Endpoint) -> str:
    return f"`{endpoint.sdk_call}`" if endpoint.is_of_python else endpoint.sdk_call
