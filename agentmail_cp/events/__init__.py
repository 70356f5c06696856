"""The event log: what happened to an inbox, append-only, in an order without gaps.

Owns the table `event`.
"""

from __future__ import annotations

from agentmail_cp.events.event import (
    DEFAULT_TYPES,
    LABEL_TYPES,
    PROTECTED,
    Event,
    EventType,
    LabelEvent,
    NewEvent,
)
from agentmail_cp.events.log import append, erase, list_labels, list_of_inbox

__all__ = [
    "DEFAULT_TYPES",
    "LABEL_TYPES",
    "PROTECTED",
    "Event",
    "EventType",
    "LabelEvent",
    "NewEvent",
    "append",
    "erase",
    "list_labels",
    "list_of_inbox",
]
