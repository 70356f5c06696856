"""PURE: where a message stands at one recipient, and what news changes that.

A recipient moves on in one direction only, `ORDER`, so that reports that are repeated, come in any order or
are lost end in the same place, and each news is told once at most.
"""

from __future__ import annotations

from typing import Final, Literal

Status = Literal["queued", "delayed", "unknown", "delivered", "bounced", "complained", "rejected"]

ORDER: Final[tuple[Status, ...]] = (
    "queued",
    "delayed",
    "unknown",
    "delivered",
    "bounced",
    "complained",
)

LONGEST_DIAGNOSTIC: Final = 500
"""Characters kept of what a mail server said."""
