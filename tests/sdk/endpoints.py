"""Every call of the official SDKs, and what came of those the tests made.

`endpoints.json` names each endpoint of the contract with its tier: `must`, `should`, `nice`, or `skip` for
what only the hosted service has. `CALLS` fills while tests run; `test_endpoints_table.py` holds
docs/endpoints.md to it at the end.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Literal

import msgspec

World = Literal["sandbox", "stalwart", "npm"]


class Endpoint(msgspec.Struct, frozen=True):
    """One call. `sdk_call` is the Python SDK's, or in parentheses what else makes it; `npm` says whether
    the npm SDK 0.5.27 has it, too.
    """

    method: str
    path: str
    sdk_call: str
    tier: Literal["must", "should", "nice", "skip"]
    npm: bool

    @property
    def is_of_python(self) -> bool:
        """Whether the Python SDK 2.0.18 has this call."""
        return self.sdk_call.startswith("client.")

    @property
    def literal_segments(self) -> int:
        return sum("{" not in each for each in self.path.split("/"))

    def is_at(self, path: str) -> bool:
        """Whether a request path leads here, with each id in one piece."""
        pattern = re.sub(r"\{\w+\}", "[^/]+", self.path)
        return re.fullmatch(pattern, path) is not None


ENDPOINTS = msgspec.json.decode(
    Path(__file__).with_name("endpoints.json").read_bytes(), type=list[Endpoint]
)

CALLS: dict[World, dict[Endpoint, set[int]]] = defaultdict(lambda: defaultdict(set))
"""The statuses each endpoint answered with, by where it was called."""


def endpoint_of(method: str, path: str) -> Endpoint:
    """The endpoint a request goes to: of several that fit, the one that names most of the path."""
    fitting = [each for each in ENDPOINTS if each.method in {method, "ANY"} and each.is_at(path)]
    assert fitting, f"{method} {path} is no call of the SDKs"
    return max(fitting, key=lambda each: each.literal_segments)


def note(world: World, endpoint: Endpoint, status: int) -> None:
    """Remember that a call was made and how it was answered."""
    CALLS[world][endpoint].add(status)
