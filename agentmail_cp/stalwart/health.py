"""How a Stalwart is: what it is, what time it has, how long mail waits in its queue. Changes nothing.

What to make of it, `doctor` decides.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import msgspec

from agentmail_cp.stalwart.calls import Call, GetAnswer, reference
from agentmail_cp.stalwart.setup import SCHEMAS

if TYPE_CHECKING:
    from agentmail_cp.stalwart.jmap import JmapClient

SCHEMA_PATH: Final = "/api/schema"


class Introduction(msgspec.Struct, frozen=True):
    """What a server says of itself before it knows who is asking.

    `release` is the release this version was made for, None for another one of 0.16; `is_stalwart` False:
    something else answers, or a Stalwart older than 0.16. `time` has whole seconds.
    """

    is_stalwart: bool
    release: str | None
    time: datetime | None


class Waiting(msgspec.Struct, frozen=True):
    """Mail in the queue: how much, and since when the one is due that is due longest."""

    count: int
    due_since: datetime | None


class _Found(msgspec.Struct):
    total: int = 0


class _Due(msgspec.Struct, rename="camel"):
    next_retry: datetime | None = None


async def introduction(client: JmapClient) -> Introduction:
    """Ask who it is. A wrong key is no obstacle: Stalwart 0.16 names itself while it refuses."""
    headers = await client.headers(SCHEMA_PATH)
    place, realm = headers.get("Location", ""), headers.get("WWW-Authenticate", "")
    return Introduction(
        is_stalwart=place.startswith(f"{SCHEMA_PATH}/") or "Stalwart" in realm,
        release=SCHEMAS.get(place.rpartition("/")[2]),
        time=_time(headers.get("Date")),
    )


async def waiting(client: JmapClient) -> Waiting:
    """What is in the queue."""
    query = {
        "sort": [{"property": "due", "isAscending": True}],
        "limit": 1,
        "calculateTotal": True,
    }
    ids = reference("query", "x:QueuedMessage/query", "/ids")
    answers = await client.call(
        Call("x:QueuedMessage/query", {"filter": {}, **query}, "query"),
        Call("x:QueuedMessage/get", {"#ids": ids, "properties": ["id", "nextRetry"]}, "get"),
        repeat=True,
    )
    found = answers["get"].into(GetAnswer[_Due]).found
    return Waiting(
        count=answers["query"].into(_Found).total,
        due_since=found[0].next_retry if found else None,
    )


def _time(date: str | None) -> datetime | None:
    try:
        return None if date is None else parsedate_to_datetime(date).astimezone(UTC)
    except ValueError:
        return None
