"""Whether the storm did harm: what the log, the endpoints and the listener say, beside the ledger.

Pure. Every complaint is one line for a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.failure.storm.consumers import TOLD, Endpoint
from tests.failure.storm.ledger import OUTSIDE, Ledger, Sent

LIVED_ON = 1.0
"""Seconds Stalwart must live past an outcome for it to be known."""

Told = Mapping[str, Any]
"""An event as it is told."""


def about(events: Iterable[Told], event_type: str, part: str) -> list[Mapping[str, Any]]:
    """What events of a type tell, in their order."""
    return [each[part] for each in events if each["event_type"] == event_type]


def received(events: Sequence[Told], ledger: Ledger) -> Iterator[str]:
    """Every accepted message gives exactly one `message.received`."""
    told = Counter(
        (each["inbox_id"], each["message_id"])
        for each in about(events, "message.received", "message")
    )
    wanted = ledger.arrivals()
    yield from (f"{each} was accepted and never announced" for each in wanted - told.keys())
    yield from (f"{each} was announced {count} times" for each, count in told.items() if count > 1)
    known = wanted | ledger.doubtful
    yield from (f"{each} was announced and never sent" for each in told.keys() - known)


def sent(events: Sequence[Told], ledger: Ledger) -> Iterator[str]:
    """Every send gives exactly one `message.sent`."""
    told = Counter(each["message_id"] for each in about(events, "message.sent", "send"))
    wanted = Counter(each.message_id for each in ledger.sent)
    yield from (
        f"{each} was sent, and told {told[each]} times"
        for each in told | wanted
        if told[each] != wanted[each]
    )


def outcomes(
    events: Sequence[Told], ledger: Ledger, deaths: Sequence[float], shown: Mapping[str, Told]
) -> Iterator[str]:
    """`delivered` and `bounced` never twice, and once where Stalwart lived on; else the message says that
    its outcome is unknown. `shown` has the messages by id as the API shows them.
    """
    delivered = Counter(
        (each["message_id"], to)
        for each in about(events, "message.delivered", "delivery")
        for to in each["recipients"]
    )
    bounced = Counter(
        (each["message_id"], to["address"])
        for each in about(events, "message.bounced", "bounce")
        for to in each["recipients"]
    )
    for kind, counts in (("delivered", delivered), ("bounced", bounced)):
        yield from (f"{each} {kind} {count} times" for each, count in counts.items() if count > 1)
    for each in ledger.sent:
        statuses = {
            one["address"]: one["status"] for one in shown[each.message_id].get("deliveries", ())
        }
        for to in each.recipients:
            told = bounced if to == OUTSIDE else delivered
            came = told[each.message_id, to]
            yield from _outcome(each, to, came, statuses.get(to), deaths)


def _outcome(
    each: Sent, to: str, came: int, status: str | None, deaths: Sequence[float]
) -> Iterator[str]:
    wanted = "bounced" if to == OUTSIDE else "delivered"
    struck = any(-LIVED_ON - 1 < death - each.at < 2 + LIVED_ON for death in deaths)
    # A Stalwart that was killed while it tried a mail tries it again ten minutes later.
    if struck and status in {"queued", "delayed"} and came == 0:
        return
    if status not in {wanted, "unknown"} or (status == wanted) != (came == 1):
        yield f"{each.message_id} to {to} shows {status} and was told {came} times"
    if status == "unknown" and not struck:
        yield f"{each.message_id} to {to} is unknown although Stalwart lived on"


def endpoints(events: Sequence[Told], receivers: Iterable[Endpoint]) -> Iterator[str]:
    """Every endpoint got each event at least once, with its one id."""
    wanted = {each["event_id"] for each in events if each["event_type"] in TOLD}
    for nth, each in enumerate(receivers):
        if missing := wanted - each.got.keys():
            yield f"endpoint {nth} missed {len(missing)} of {len(wanted)} events"
        if strange := each.got.keys() - wanted:
            yield f"endpoint {nth} was told {len(strange)} events that are not in the log"
        if each.forged:
            yield f"endpoint {nth} got {each.forged} requests with a wrong signature"


def listener(events: Sequence[Told], heard: Sequence[str]) -> Iterator[str]:
    """The WebSocket client saw each event once, in the order of the log."""
    wanted = [each["event_id"] for each in events if each["event_type"] in TOLD]
    if list(heard) == wanted:
        return
    twice = [each for each, count in Counter(heard).items() if count > 1]
    yield (
        f"the listener heard {len(heard)} of {len(wanted)} events, {len(twice)} of them twice,"
        f" {len(set(wanted) - set(heard))} never; in the log's order: {_ordered(heard, wanted)}"
    )


def _ordered(heard: Sequence[str], wanted: Sequence[str]) -> bool:
    places = {each: place for place, each in enumerate(wanted)}
    seen = [places[each] for each in heard if each in places]
    return seen == sorted(seen)
