"""What the mail server says of mail on its way, written down while it waits for our answer.

Owns the tables `queued_mail` and `outcome_report`. Nothing is decided here: `settlement` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from agentmail_cp import filing
from agentmail_cp.db import Tx
from agentmail_cp.mailserver import Enqueued, Report
from agentmail_cp.outcomes.states import LONGEST_DIAGNOSTIC

KEPT: Final = timedelta(days=7)
"""How long a queue id is known; Stalwart 0.16 gives a mail up after three days."""

LARGEST_ID: Final = 2**63 - 1
LONGEST_ADDRESS: Final = 320
LONGEST_CODE: Final = 16


async def queued(tx: Tx, *mails: Enqueued) -> None:
    """Remember which messages these mails in the queue are. One statement; repeating has no effect.

    The sender says whose; mail of a sender that is no inbox of ours is left out.
    """
    known = [each for each in mails if _is_id(each.queue_id) and filing.usable(each.message_id)]
    if not known:
        return
    await tx.execute(
        "insert into queued_mail (queue_id, organization_id, inbox_id, message_id)"
        " select distinct on (queue_id) queue_id, organization_id, inbox_id, message_id"
        " from unnest(%(queue_ids)s::bigint[], %(senders)s::text[], %(message_ids)s::text[])"
        " as mail (queue_id, sender, message_id) join inbox on address = sender"
        " on conflict (queue_id) do nothing",
        {
            "queue_ids": [each.queue_id for each in known],
            "senders": [each.sender.lower() for each in known],
            "message_ids": [f"<{each.message_id}>" for each in known],
        },
    )


async def note(tx: Tx, reports: Sequence[Report]) -> None:
    """Write down what became of queued mails, and wake whoever tells it on. What is written already, and
    what is about mail of nobody here, is left out: the mail server repeats itself, and reports on mail
    that comes in as well.
    """
    known = [
        each
        for each in reports
        if each.sender and _is_id(each.queue_id) and len(each.recipient) <= LONGEST_ADDRESS
    ]
    if not known:
        return
    await tx.execute(
        "insert into outcome_report (organization_id, inbox_id, queue_id, address, outcome, code,"
        " diagnostic)"
        " select organization_id, inbox_id, queue_id, recipient, outcome, code, diagnostic"
        " from unnest(%(queue_ids)s::bigint[], %(senders)s::text[], %(recipients)s::text[],"
        " %(outcomes)s::text[], %(codes)s::text[], %(diagnostics)s::text[])"
        " as report (queue_id, sender, recipient, outcome, code, diagnostic)"
        " join inbox on address = sender where state = 'active' on conflict do nothing",
        _columns(known),
    )
    await tx.execute("select pg_notify('outcome', '')")


def _columns(reports: Iterable[Report]) -> dict[str, list[Any]]:
    rows = list(reports)
    return {
        "queue_ids": [each.queue_id for each in rows],
        "senders": [each.sender.lower() for each in rows],
        "recipients": [filing.clean(each.recipient).lower() for each in rows],
        "outcomes": [each.outcome.value for each in rows],
        "codes": [filing.clean(each.code)[:LONGEST_CODE] or None for each in rows],
        "diagnostics": [
            filing.clean(each.diagnostic)[:LONGEST_DIAGNOSTIC] or None for each in rows
        ],
    }


def _is_id(queue_id: int) -> bool:
    return 0 <= queue_id <= LARGEST_ID


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a mail says became of a message at one recipient. `message_id` is in brackets."""

    message_id: str
    address: str
    outcome: str
    code: str | None = None
    diagnostic: str | None = None
    by_mail: bool = True
