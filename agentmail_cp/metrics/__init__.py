"""Metrics: how many events there were, what there is, and how much of the sent mail went wrong, over time.

Owns no table and changes nothing: it counts rows of the event log, messages, threads, inboxes and pods
within somebody's reach, by PostgreSQL's clock.

- *Events* are counted from the log, which keeps those of mail and inboxes deleted since, and loses them
  when an inbox is erased.
- *Usage* is counted from what exists now, as nobody keeps a history of deletions: a point in the past
  says how much of it was there already. A message counts from its `timestamp`, a thread from that of its
  first message, an inbox or pod from its creation. The retained mail of a deleted inbox exists until
  it is erased; the inbox itself does not. Hidden messages (spam, trash, …) take their room like others.
- *Rates* are the bounced or complained recipients for each recipient of sent mail, over a window that
  rolls; unknown where nothing was sent.
"""

from __future__ import annotations

from agentmail_cp.metrics.counting import (
    EVENT_TYPES,
    RATE_TYPES,
    USAGE_TYPES,
    Bucket,
    Rate,
    Total,
    events,
    now,
    rates,
    usage,
    usage_types,
)
from agentmail_cp.metrics.spans import (
    LONGEST_PERIOD,
    LONGEST_WINDOW,
    MOST_POINTS,
    Grid,
    Span,
    grid,
    span,
)

__all__ = [
    "EVENT_TYPES",
    "LONGEST_PERIOD",
    "LONGEST_WINDOW",
    "MOST_POINTS",
    "RATE_TYPES",
    "USAGE_TYPES",
    "Bucket",
    "Grid",
    "Rate",
    "Span",
    "Total",
    "events",
    "grid",
    "now",
    "rates",
    "span",
    "usage",
    "usage_types",
]
