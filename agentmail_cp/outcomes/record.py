"""What the mail server says of mail on its way, written down while it waits for our answer.

Owns the tables `queued_mail` and `outcome_report`. Nothing is decided here: `settlement` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, LiteralString

from agentmail_cp import filing
from agentmail_cp.db import Tx
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import Enqueued, Report
from agentmail_cp.outcomes.states import News, shortened

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
            "message_ids": [filing.id_of(each.message_id or "") for each in known],
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
    noted = await tx.execute(
        "insert into outcome_report (organization_id, inbox_id, queue_id, address, outcome, code,"
        " diagnostic)"
        " select organization_id, inbox_id, queue_id, recipient, outcome, code, diagnostic"
        " from unnest(%(queue_ids)s::bigint[], %(senders)s::text[], %(recipients)s::text[],"
        " %(outcomes)s::text[], %(codes)s::text[], %(diagnostics)s::text[])"
        " as report (queue_id, sender, recipient, outcome, code, diagnostic)"
        " join inbox on address = sender where state = 'active' on conflict do nothing",
        _columns(known),
    )
    if noted.rowcount:
        await tx.execute("select pg_notify('outcome', '')")


def _columns(reports: Iterable[Report]) -> dict[str, list[Any]]:
    rows = list(reports)
    return {
        "queue_ids": [each.queue_id for each in rows],
        "senders": [each.sender.lower() for each in rows],
        "recipients": [filing.clean(each.recipient).lower() for each in rows],
        "outcomes": [each.outcome.value for each in rows],
        "codes": [filing.clean(each.code)[:LONGEST_CODE] or None for each in rows],
        "diagnostics": [shortened(each.diagnostic or "") or None for each in rows],
    }


def _is_id(queue_id: int) -> bool:
    return 0 <= queue_id <= LARGEST_ID


async def tell(tx: Tx, place: Place, news: Sequence[News]) -> None:
    """Write down news of messages of one inbox that came otherwise than with a queue id, and wake whoever
    tells it on. What is written already is left out.
    """
    await tx.execute(
        "insert into outcome_report (organization_id, inbox_id, message_id, address, outcome, code,"
        " diagnostic, by_mail)"
        " select %(organization_id)s, %(inbox_id)s, message_id, address, outcome, code, diagnostic,"
        " by_mail from unnest(%(message_ids)s::text[], %(addresses)s::text[], %(outcomes)s::text[],"
        " %(codes)s::text[], %(diagnostics)s::text[], %(by_mail)s::boolean[])"
        " as news (message_id, address, outcome, code, diagnostic, by_mail) on conflict do nothing",
        {
            "organization_id": place.organization_id,
            "inbox_id": place.inbox_id,
            "message_ids": [each.message_id for each in news],
            "addresses": [each.address for each in news],
            "outcomes": [each.outcome for each in news],
            "codes": [each.code for each in news],
            "diagnostics": [each.diagnostic for each in news],
            "by_mail": [each.by_mail for each in news],
        },
    )
    await tx.execute("select pg_notify('outcome', '')")


async def forget_old(tx: Tx) -> int:
    """Forget queue ids nobody reports on any more; returns how many. Those that something is still asked
    about stay.
    """
    cursor = await tx.execute(
        "delete from queued_mail where created_at < now() - %(kept)s and not exists (select from recipient"
        " where recipient.inbox_id = queued_mail.inbox_id"
        " and recipient.organization_id = queued_mail.organization_id"
        " and recipient.message_id = queued_mail.message_id and due_at is not null)",
        {"kept": KEPT},
    )
    return cursor.rowcount


async def erase(tx: Tx, place: Place) -> None:
    """Forget what is written about an inbox's mail."""
    whose = {"inbox_id": place.inbox_id, "organization_id": place.organization_id}
    for forget in (_ERASE_REPORTS, _ERASE_QUEUED, _ERASE_FEEDBACK):
        await tx.execute(forget, whose)


_WHERE: Final = "where inbox_id = %(inbox_id)s and organization_id = %(organization_id)s"
_ERASE_REPORTS: Final[LiteralString] = f"delete from outcome_report {_WHERE}"
_ERASE_QUEUED: Final[LiteralString] = f"delete from queued_mail {_WHERE}"
_ERASE_FEEDBACK: Final[LiteralString] = f"delete from feedback_mail {_WHERE}"
