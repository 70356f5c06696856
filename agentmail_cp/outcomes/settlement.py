"""Telling what became of mail: recipients moved on, events, labels and suppressions, all at once.

Takes rows of `outcome_report` and writes what they change in one transaction for each batch, in which they
are removed: a process that dies leaves them, and whoever takes them up again tells nothing twice, since a
recipient never moves back. A report may come before its message is in the index, or before its queue id is
known; it waits, longer each time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter

from agentmail_cp import events, filing, labels, lists, messages, recipients
from agentmail_cp.db import Database, Tx, fetch_all, fetch_only
from agentmail_cp.events import EventType, NewEvent
from agentmail_cp.filing import Place
from agentmail_cp.limits import Limits
from agentmail_cp.lists import Origin
from agentmail_cp.mailserver import DocumentId, Verdict
from agentmail_cp.messages import Filed
from agentmail_cp.outcomes import reputation
from agentmail_cp.outcomes.states import (
    Bounce,
    News,
    Outcome,
    Step,
    bounce,
    enhanced,
    is_believed,
    is_dead,
    labels_after,
    shortened,
    steps,
    whom,
)
from agentmail_cp.recipients import Standing

log = structlog.stdlib.get_logger(__name__)

AT_ONCE: Final = 200
"""Reports one transaction takes."""

FIRST_PAUSE: Final = timedelta(seconds=0.1)
LONGEST_PAUSE: Final = timedelta(minutes=1)

UNRECORDED: Final = timedelta(hours=24)
"""How long a report waits for its message: as long as mail handed in over SMTP may."""

UNCLAIMED: Final = timedelta(minutes=15)
"""How long a report waits for somebody to say which message its queue id is."""

TOLD: Final = Counter(
    "agentmail_outcomes", "Recipients of sent messages, by what became of them.", ["outcome"]
)


class _Due(msgspec.Struct, frozen=True, kw_only=True):
    """A report, and the message it is about, None while nobody knows."""

    report_id: int
    organization_id: UUID
    inbox_id: UUID
    pod_id: UUID
    domain: str
    message_id: str | None
    address: str
    outcome: Outcome
    code: str | None
    diagnostic: str | None
    by_mail: bool
    created_at: datetime

    @property
    def place(self) -> Place:
        return Place(self.inbox_id, self.organization_id, self.pod_id, self.domain)

    def news(self, message_id: str) -> News:
        return News(
            message_id=message_id,
            address=self.address,
            outcome=self.outcome,
            code=self.code,
            diagnostic=self.diagnostic,
            by_mail=self.by_mail,
        )

    @property
    def late(self) -> bool:
        patience = UNCLAIMED if self.message_id is None else UNRECORDED
        return self.created_at < datetime.now(UTC) - patience


class _Sent(msgspec.Struct, frozen=True):
    """A sent message in the index."""

    message_id: str
    thread_id: UUID
    document_id: DocumentId


class _Suppression(msgspec.Struct, frozen=True, order=True):
    organization_id: UUID
    address: str
    origin: Origin
    reason: str


async def apply_due(db: Database, defaults: Limits) -> int:
    """Tell on what is written down and due; returns how many reports were looked at. Inboxes of which more
    was bounced or complained about are judged afterwards: whoever deletes one locks it before its mail.
    """
    async with db.transaction() as tx:
        due = await _take_due(tx)
        suppressed: set[_Suppression] = set()
        for _, of_inbox in groupby(sorted(due, key=_by_inbox), key=lambda each: each.inbox_id):
            suppressed |= await _apply_alone(tx, list(of_inbox))
        await _suppress(tx, suppressed)
    for place in {each.place for each in due if each.outcome in {"failed", "complained"}}:
        await reputation.judge(db, place, defaults)
    return len(due)


async def _take_due(tx: Tx) -> list[_Due]:
    """Reports that nobody else is at; nobody else will be, until the transaction ends."""
    return await fetch_all(tx, _Due, _DUE, {"most": AT_ONCE})


def _by_inbox(report: _Due) -> tuple[UUID, int]:
    """Locks of inboxes are always taken in this order."""
    return report.inbox_id, report.report_id


_DUE = """
select report_id, outcome_report.organization_id, outcome_report.inbox_id, inbox.pod_id, inbox.domain,
    coalesce(outcome_report.message_id, queued_mail.message_id) as message_id,
    outcome_report.address, outcome, code, diagnostic, by_mail, outcome_report.created_at
from outcome_report
    join inbox on inbox.inbox_id = outcome_report.inbox_id
    left join queued_mail on queued_mail.queue_id = outcome_report.queue_id
        and queued_mail.inbox_id = outcome_report.inbox_id
where due_at <= now() order by due_at, report_id limit %(most)s
for update of outcome_report skip locked
"""


async def _apply_alone(tx: Tx, due: Sequence[_Due]) -> set[_Suppression]:
    """Tell what became of one inbox's mail, in a savepoint, so that its trouble stays its own."""
    try:
        async with tx.transaction():
            return await _apply(tx, due)
    except Exception:
        if tx.closed:
            raise
        log.exception("outcome.inbox_failed", inbox_id=str(due[0].inbox_id))
        await _wait(tx, due)
        return set()


async def _apply(tx: Tx, due: Sequence[_Due]) -> set[_Suppression]:
    place = due[0].place
    there = await messages.lock(tx, place.organization_id, place.inbox_id)
    names = {each.message_id for each in due if each.message_id is not None}
    sent = {each.message_id: each for each in await _sent(tx, place, names)} if there else {}
    waiting = [each for each in due if there and each.message_id not in sent and not each.late]
    news = [each.news(each.message_id) for each in due if each.message_id in sent]
    suppressed = await _tell(tx, place, sent, news)
    if waiting:
        await _wait(tx, waiting)
    await _forget(tx, set(due) - set(waiting))
    return suppressed


async def _sent(tx: Tx, place: Place, message_ids: Iterable[str]) -> list[_Sent]:
    return await fetch_all(
        tx,
        _Sent,
        "select message_id, thread_id, document_id from message where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and message_id = any(%(message_ids)s)"
        " and direction = 'sent'",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "message_ids": list(message_ids),
        },
    )


async def _tell(
    tx: Tx, place: Place, sent: Mapping[str, _Sent], news: Sequence[News]
) -> set[_Suppression]:
    """What the news change about messages that are in the index. Written for all of them at once, as the
    inbox's lock is held.
    """
    whose = {"organization_id": place.organization_id, "inbox_id": place.inbox_id}
    every = await recipients.of_messages(tx, **whose, message_ids=sent.keys())
    changed = [
        _Changed(message, standings, taken)
        for message in sent.values()
        if (standings := [each for each in every if each.message_id == message.message_id])
        and (taken := steps(standings, [n for n in news if n.message_id == message.message_id]))
    ]
    suppressed = set(_from_queue(place, every, news))
    if not changed:
        return suppressed
    await recipients.move(tx, **whose, standings=[now for each in changed for now in each.now])
    new = [event for each in changed for event in told(each.message, each.taken)]
    await events.append(tx, **whose, events=new)
    await _label(tx, place, changed)
    for each in changed:
        for step in each.taken:
            TOLD.labels(step.now.status).inc()
    quoted = await _quoted(tx, place, changed)
    return suppressed.union(*(_to_suppress(place, each, quoted) for each in changed))


class _Changed(msgspec.Struct, frozen=True):
    """A message something became of: where it stood, and what happened."""

    message: _Sent
    standings: list[Standing]
    taken: list[Step]

    @property
    def now(self) -> list[Standing]:
        return list({step.now.address: step.now for step in self.taken}.values())

    @property
    def change(self) -> labels.Change:
        gained, lost = labels_after(self.standings, self.taken)
        return labels.Change(frozenset(gained), frozenset(lost))


async def _label(tx: Tx, place: Place, changed: Iterable[_Changed]) -> None:
    """The mail server does not have these labels: they are kept."""
    alike: defaultdict[labels.Change, list[DocumentId]] = defaultdict(list)
    for each in changed:
        alike[each.change].append(each.message.document_id)
    for change, document_ids in alike.items():
        kept = dict.fromkeys(document_ids, change.add)
        await messages.relabel(tx, place, document_ids, change, kept)


def told(message: _Sent, taken: Sequence[Step]) -> list[NewEvent]:
    """The events of what happened to a message: one for all recipients to whom the same did. Pure."""
    return [
        NewEvent(
            type=kind,
            thread_id=message.thread_id,
            message_id=message.message_id,
            document_id=message.document_id,
            recipients=recipients_of(facts),
            facts=facts,
        )
        for kind, facts in _grouped(taken)
    ]


def recipients_of(facts: Mapping[str, Any]) -> int:
    return len(facts["recipients"])


def _grouped(taken: Sequence[Step]) -> Iterable[tuple[EventType, dict[str, Any]]]:
    delivered = [step.now.address for step in taken if step.now.status == "delivered"]
    if delivered:
        yield EventType.MESSAGE_DELIVERED, {"recipients": delivered}
    bounced: dict[Bounce, list[str]] = {}
    complained: dict[str, list[str]] = {}
    for step in taken:
        if step.now.status == "bounced":
            bounced.setdefault(bounce(step.now.code), []).append(step.now.address)
        elif step.now.status == "complained":
            complained.setdefault(step.now.code or "abuse", []).append(step.now.address)
    for kind, addresses in bounced.items():
        yield (
            EventType.MESSAGE_BOUNCED,
            {
                "type": kind.type,
                "sub_type": kind.sub_type,
                "recipients": [{"address": each, "status": "bounced"} for each in addresses],
            },
        )
    for kind, addresses in complained.items():
        yield (
            EventType.MESSAGE_COMPLAINED,
            {"type": kind, "sub_type": "General", "recipients": addresses},
        )


async def _quoted(tx: Tx, place: Place, changed: Iterable[_Changed]) -> frozenset[str]:
    """Those of the messages that others of their threads may mention. Only asked of what came by mail."""
    doubtful = [each.message for each in changed if any(step.news.by_mail for step in each.taken)]
    if not doubtful:
        return frozenset()
    names = [each.message_id for each in doubtful]
    rows = await fetch_all(
        tx,
        _Mention,
        "select name as message_id from unnest(%(names)s::text[]) as named (name) where exists"
        " (select from message where message.inbox_id = %(inbox_id)s"
        " and message.organization_id = %(organization_id)s"
        " and message.thread_id = any(%(thread_ids)s)"
        ' and (name = any(message."references") or name = message.in_reply_to))',
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "thread_ids": [each.thread_id for each in doubtful],
            "names": names,
        },
    )
    # What others would mention of these is the Message-ID, which their names do not say.
    unknown = (each for each in names if filing.SYNTHETIC.fullmatch(each))
    return frozenset([*(row.message_id for row in rows), *unknown])


class _Mention(msgspec.Struct, frozen=True):
    message_id: str


def _to_suppress(
    place: Place, changed: _Changed, quoted: Collection[str]
) -> Iterable[_Suppression]:
    mentioned = changed.message.message_id in quoted
    for step in changed.taken:
        if not is_believed(step.news, len(changed.standings), quoted=mentioned):
            continue
        if step.now.status == "complained":
            yield _suppression(place, step.now, "complaint")
        elif step.now.status == "bounced" and _is_dead(place, step.now):
            yield _suppression(place, step.now, "bounce")


def _from_queue(
    place: Place, every: Sequence[Standing], news: Iterable[News]
) -> Iterable[_Suppression]:
    """Addresses that our own queue found to be none, also where a mail said so before, which was told then
    and not believed.
    """
    for each in news:
        if each.by_mail or each.outcome != "failed":
            continue
        went_to = {at.address: at for at in every if at.message_id == each.message_id}
        address = whom(went_to, each.address)
        if address is None:
            continue
        found = msgspec.structs.replace(
            went_to[address], code=each.code, diagnostic=each.diagnostic
        )
        if _is_dead(place, found):
            yield _suppression(place, found, "bounce")


def _is_dead(place: Place, standing: Standing) -> bool:
    """An address of the inbox's own domain may be somebody's tomorrow, and costs no reputation until then."""
    own = standing.address.endswith(f"@{place.domain}")
    return not own and is_dead(standing.code)


def _suppression(place: Place, standing: Standing, origin: Origin) -> _Suppression:
    reason = standing.diagnostic or standing.code or origin
    return _Suppression(place.organization_id, standing.address, origin, reason)


async def _suppress(tx: Tx, suppressed: Iterable[_Suppression]) -> None:
    # In one order, so that no two transactions wait for each other's rows.
    for each in sorted(suppressed):
        await lists.suppress(
            tx, each.organization_id, each.address, origin=each.origin, reason=each.reason
        )


async def _wait(tx: Tx, due: Iterable[_Due]) -> None:
    """Look at these again later, each time later. Not by itself: the transaction ends first."""
    await tx.execute(
        "update outcome_report set tries = least(tries + 1, 30),"
        " due_at = now() + least(%(longest)s, %(first)s * power(2, tries))"
        " where report_id = any(%(report_ids)s)",
        {
            "first": FIRST_PAUSE,
            "longest": LONGEST_PAUSE,
            "report_ids": [each.report_id for each in due],
        },
    )


async def _forget(tx: Tx, done: Iterable[_Due]) -> None:
    await tx.execute(
        "delete from outcome_report where report_id = any(%(report_ids)s)",
        {"report_ids": [each.report_id for each in done]},
    )


class _Pause(msgspec.Struct, frozen=True):
    seconds: float


async def next_due(db: Database, *, most: float) -> float:
    """Seconds until a report that waits is due, or until somebody should look all the same."""
    async with db.reading() as tx:
        found = await fetch_only(
            tx,
            _Pause,
            "select least(%(most)s::float, coalesce(extract(epoch from min(due_at) - now()), %(most)s))"
            "::float as seconds from outcome_report",
            {"most": most},
        )
    return max(0.0, found.seconds)


async def sent(
    tx: Tx,
    place: Place,
    filed: Filed,
    document_id: DocumentId,
    verdicts: Sequence[Verdict],
) -> None:
    """Note to whom a message went when it was handed in, and tell of those who were refused. The message is
    in the index, and the caller holds the inbox's lock. Repeating has no effect.
    """
    new = await recipients.add(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        standings=[_handed_in(filed.message_id, each) for each in verdicts],
    )
    refused = [each for each in verdicts if not each.accepted and each.address.lower() in new]
    if not refused:
        return
    message = _Sent(filed.message_id, filed.thread_id, document_id)
    await events.append(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        events=[_rejection(message, refused)],
    )
    rejected = labels.Change(frozenset({"rejected"}), frozenset())
    await messages.relabel(tx, place, [document_id], rejected, {document_id: rejected.add})
    gone = [_handed_in(filed.message_id, each) for each in refused]
    dead = {_suppression(place, each, "reject") for each in gone if _is_dead(place, each)}
    await _suppress(tx, dead)
    TOLD.labels("rejected").inc(len(refused))


async def handed_in(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID,
    message_id: str,
    addresses: Sequence[str],
) -> None:
    """Note to whom a mail is about to go that a client hands in, before its message is in the index.
    `message_id` is in brackets. One statement; repeating has no effect.
    """
    await recipients.add(
        tx,
        organization_id=organization_id,
        inbox_id=inbox_id,
        standings=[
            Standing(message_id=message_id, address=each.lower(), status="queued")
            for each in addresses
        ],
    )


def _handed_in(message_id: str, verdict: Verdict) -> Standing:
    refused = None if verdict.accepted else verdict.reply
    return Standing(
        message_id=message_id,
        address=verdict.address.lower(),
        status="queued" if verdict.accepted else "rejected",
        code=enhanced(refused),
        diagnostic=refused and shortened(refused),
    )


def _rejection(message: _Sent, refused: Sequence[Verdict]) -> NewEvent:
    reason = "; ".join(f"{each.address}: {shortened(each.reply)}" for each in refused)
    return NewEvent(
        type=EventType.MESSAGE_REJECTED,
        thread_id=message.thread_id,
        message_id=message.message_id,
        document_id=message.document_id,
        recipients=len(refused),
        facts={"reason": reason},
    )
