"""Which blows fall when. Pure: the same seed gives the same storm."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final, Literal

Blow = Literal[
    "kill the API",
    "kill the worker",
    "cut PostgreSQL",
    "take PostgreSQL away",
    "kill Stalwart",
    "cut Stalwart",
    "stall Stalwart",
]

LASTS: Final[dict[Blow, tuple[float, float]]] = {
    "kill the API": (0.0, 1.5),
    "kill the worker": (0.0, 3.0),
    "cut PostgreSQL": (0.0, 0.0),
    "take PostgreSQL away": (0.5, 3.0),
    "kill Stalwart": (0.2, 2.0),
    "cut Stalwart": (0.0, 0.0),
    "stall Stalwart": (0.5, 4.0),
}
"""How many seconds what was struck stays away, at least and at most."""


@dataclass(frozen=True)
class Strike:
    """After `pause` seconds of peace `blow` falls, and what it hits comes back after `lasts` seconds."""

    pause: float
    blow: Blow
    lasts: float


def strikes(seed: int, count: int, *, pause: float) -> list[Strike]:
    """So many strikes, `pause` seconds apart on average. Every blow falls before one falls again."""
    choose = random.Random(seed)
    blows: list[Blow] = []
    while len(blows) < count:
        blows += choose.sample(sorted(LASTS), len(LASTS))
    return [
        Strike(choose.uniform(0.3, 1.7) * pause, blow, choose.uniform(*LASTS[blow]))
        for blow in blows[:count]
    ]
