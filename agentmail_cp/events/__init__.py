"""The event log: what happened to an inbox, append-only, in an order without gaps.

Owns the tables `event` and `event_horizon`. An event is written (`append`) with its inbox's next number, then
published, which gives it a place in the order of all events (`publishing`). Everybody reads it in that order:
from a cursor (`reading`), or as it is published (`feed`), held to what they may see and want (`filters`).
What is old expires (`retention`).
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
from agentmail_cp.events.feed import Closed, Feed, Overrun, Subscription
from agentmail_cp.events.filters import LOGGED_TYPES, Subscribed, check_types
from agentmail_cp.events.log import append, append_of_scope, list_labels, list_of_inbox
from agentmail_cp.events.publishing import (
    WRITTEN,
    Unpublished,
    newest_position,
    oldest_unpublished,
    publish,
    published_since,
    unpublished,
)
from agentmail_cp.events.reading import (
    NOW,
    START,
    VISIBLE,
    Page,
    Place,
    after,
    newest,
    page,
    place_of,
    position_of,
    visible,
    visible_ids,
)
from agentmail_cp.events.retention import erase, expire

__all__ = [
    "DEFAULT_TYPES",
    "LABEL_TYPES",
    "LOGGED_TYPES",
    "NOW",
    "PROTECTED",
    "START",
    "VISIBLE",
    "WRITTEN",
    "Closed",
    "Event",
    "EventType",
    "Feed",
    "LabelEvent",
    "NewEvent",
    "Overrun",
    "Page",
    "Place",
    "Subscribed",
    "Subscription",
    "Unpublished",
    "after",
    "append",
    "append_of_scope",
    "check_types",
    "erase",
    "expire",
    "list_labels",
    "list_of_inbox",
    "newest",
    "newest_position",
    "oldest_unpublished",
    "page",
    "place_of",
    "position_of",
    "publish",
    "published_since",
    "unpublished",
    "visible",
    "visible_ids",
]
