"""Pausing an inbox for sending when too much of its mail bounces or is complained about.

Large providers judge a sender's whole server by such mail, so one inbox that goes on would cost the others
theirs. Counted are recipients of the last days, by what became of them; once more of a thousand than the
limits allow bounced for good or complained, the inbox is paused and says why. A person ends that, and from
then on only mail sent later counts (`inbox.bounces_from`). Mail that was refused when it was handed in never
left and does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

import msgspec
import structlog

from agentmail_cp import limits, pauses, recipients
from agentmail_cp.db import Database
from agentmail_cp.filing import Place
from agentmail_cp.limits import Limits
from agentmail_cp.outcomes.states import bounce
from agentmail_cp.recipients import Tally

log = structlog.stdlib.get_logger(__name__)

FEWEST: Final = 3
"""A single complaint, or two, say nothing about an inbox however little it sends."""


class Reputation(msgspec.Struct, frozen=True):
    """How many recipients an inbox wrote to, and for how many of them that ended badly."""

    recipients: int
    bounced: int
    complained: int


def reputation(tallies: Iterable[Tally]) -> Reputation:
    """What recipients' states say of an inbox. Pure."""
    every = list(tallies)
    return Reputation(
        recipients=sum(each.count for each in every),
        bounced=sum(
            each.count
            for each in every
            if each.status == "bounced" and bounce(each.code).type == "Permanent"
        ),
        complained=sum(each.count for each in every if each.status == "complained"),
    )


def too_bad(found: Reputation, may: Limits) -> str | None:
    """Why the inbox is to be paused, as a sentence; None while it may go on. Pure."""
    if found.recipients < may.pause_least_recipients:
        return None
    for number, most, verb in (
        (found.complained, may.pause_complaints_per_thousand, "complained"),
        (found.bounced, may.pause_bounces_per_thousand, "bounced"),
    ):
        if most and number >= FEWEST and number * 1000 > most * found.recipients:
            return (
                f"{number:,} of the {found.recipients:,} recipients of the last {may.pause_days} days"
                f" {verb}; at most {most / 10:g} % may."
            )
    return None


async def judge(db: Database, place: Place, defaults: Limits) -> None:
    """Pause the inbox for sending if its mail ends too badly. `defaults` hold where the organisation has no
    limits of its own. Repeating has no effect.
    """
    async with db.transaction() as tx:
        inbox = await pauses.counting(tx, place)
        if inbox is None or inbox.send_paused:
            return
        own = await limits.list_own(tx, place.organization_id)
        may = limits.with_own(defaults, {each.name: each.value for each in own})
        tallies = await recipients.tally(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            lately=timedelta(days=may.pause_days),
            since=inbox.bounces_from,
        )
        reason = too_bad(reputation(tallies), may)
        if reason is not None and await pauses.stop_sending(tx, place, reason):
            log.warning("inbox.send_paused", inbox_id=str(place.inbox_id), reason=reason)
