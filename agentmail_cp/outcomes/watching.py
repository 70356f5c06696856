"""Watching over mail of which nothing is heard: asking the queue, and taking complaints in.

Reports get lost with Stalwart's memory, so a recipient of whom nothing is known for a while is asked about:
first `recipients.FIRST_LOOK` after the mail was handed in, then twice as late each time. What the queue
says is written down as if it had been reported. A mail that has left the queue without a word and lies in a
mailbox here was delivered. Of any other, a report by mail may still be on its way for `GRACE`; then it is
`unknown`, which only later news ends.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Final, Literal
from uuid import UUID

import msgspec
import structlog

from agentmail_cp import filing, recipients
from agentmail_cp.db import Database, Tx, fetch_all
from agentmail_cp.errors import Unavailable
from agentmail_cp.filing import Place
from agentmail_cp.limits import Limits
from agentmail_cp.mailserver import (
    Complaint,
    Enqueued,
    MailServer,
    MailServerError,
    Outcome,
    QueuedMail,
    QueuedRecipient,
    QueueStatus,
    Report,
)
from agentmail_cp.outcomes.record import note, queued, tell
from agentmail_cp.outcomes.settlement import UNRECORDED, apply_due, next_due
from agentmail_cp.outcomes.states import COMPLAINTS, News, untagged, whom
from agentmail_cp.recipients import Waiting
from agentmail_cp.rounds import Rounds, Standstill

log = structlog.stdlib.get_logger(__name__)

CHANNEL: Final = "outcome"
GRACE: Final = timedelta(seconds=60)
LEASE: Final = timedelta(seconds=60)
"""How long a worker may take to ask about a batch before another does."""

AT_ONCE: Final = 100
LOOK: Final = 5.0
"""Seconds after which somebody looks although nothing was announced and nothing is due."""

SHORTEST: Final = 0.02
"""Seconds between two looks: what is due may be in another worker's hands."""

ASKING: Final = 5.0
"""Seconds between two looks for recipients to ask about."""

LISTENING: Final = 60.0
"""Seconds between two looks for complaints."""

RECOVERY: Final = 2.0

_SAYS: Final[Mapping[QueueStatus, Outcome]] = {
    QueueStatus.DELAYED: Outcome.DELAYED,
    QueueStatus.FAILED: Outcome.FAILED,
    QueueStatus.DELIVERED: Outcome.DELIVERED,
}


async def ask(db: Database, server: MailServer) -> int:
    """Ask about recipients of whom nothing is known for a while; returns how many. Raises the mail
    server's errors: they are asked about again when their lease is over.
    """
    async with db.transaction() as tx:
        waiting = await recipients.claim(tx, lease=LEASE, most=AT_ONCE)
    if not waiting:
        return 0
    waiting = await _drop_unrecorded(db, waiting)
    mails = await _find(db, server, waiting)
    for each in waiting:
        await _decide(db, each, mails.get((each.inbox_id, each.message_id), []))
    return len(waiting)


class _Name(msgspec.Struct, frozen=True):
    inbox_id: UUID
    message_id: str


async def _drop_unrecorded(db: Database, waiting: Sequence[Waiting]) -> list[Waiting]:
    """Those whose messages are in the index. The others wait, and are forgotten once no copy of the mail
    is expected any more (`submissions`).
    """
    async with db.transaction() as tx:
        there = await _recorded(tx, waiting)
        unrecorded = [each for each in waiting if (each.inbox_id, each.message_id) not in there]
        old = datetime.now(UTC) - UNRECORDED
        for each in unrecorded:
            if each.created_at < old:
                await recipients.forget(
                    tx,
                    organization_id=each.organization_id,
                    inbox_id=each.inbox_id,
                    message_ids=[each.message_id],
                )
        await recipients.ask_again(tx, unrecorded, gone=False)
    return [each for each in waiting if (each.inbox_id, each.message_id) in there]


async def _recorded(tx: Tx, waiting: Sequence[Waiting]) -> set[tuple[UUID, str]]:
    rows = await fetch_all(tx, _Name, _RECORDED, _keys(waiting))
    return {(row.inbox_id, row.message_id) for row in rows}


_RECORDED = """
select message.inbox_id, message.message_id
from unnest(%(organizations)s::uuid[], %(inboxes)s::uuid[], %(message_ids)s::text[])
    as waiting (organization_id, inbox_id, message_id)
join message using (organization_id, inbox_id, message_id)
"""


def _keys(waiting: Sequence[Waiting]) -> dict[str, list[object]]:
    return {
        "organizations": [each.organization_id for each in waiting],
        "inboxes": [each.inbox_id for each in waiting],
        "message_ids": [each.message_id for each in waiting],
    }


class _QueueId(msgspec.Struct, frozen=True):
    inbox_id: UUID
    message_id: str
    queue_id: int


_Mails = dict[tuple[UUID, str], list[QueuedMail]]


async def _find(db: Database, server: MailServer, waiting: Sequence[Waiting]) -> _Mails:
    """What is in the queue of these messages."""
    if not waiting:
        return {}
    async with db.reading() as tx:
        ids = await _queue_ids(tx, waiting)
    named = {(each.inbox_id, each.message_id) for each in ids}
    lost = [each for each in waiting if (each.inbox_id, each.message_id) not in named]
    if lost:
        ids += await _find_again(db, server, lost)
    if not ids:
        return {}
    there = await server.queue({each.queue_id for each in ids})
    found: _Mails = defaultdict(list)
    for each in ids:
        if each.queue_id in there:
            found[each.inbox_id, each.message_id].append(there[each.queue_id])
    return found


async def _queue_ids(tx: Tx, waiting: Sequence[Waiting]) -> list[_QueueId]:
    return await fetch_all(tx, _QueueId, _QUEUE_IDS, _keys(waiting))


_QUEUE_IDS = """
select queued_mail.inbox_id, queued_mail.message_id, queue_id
from unnest(%(organizations)s::uuid[], %(inboxes)s::uuid[], %(message_ids)s::text[])
    as waiting (organization_id, inbox_id, message_id)
join queued_mail using (organization_id, inbox_id, message_id)
"""


async def _find_again(db: Database, server: MailServer, lost: Sequence[Waiting]) -> list[_QueueId]:
    """Nobody told us the queue ids of these: we were away. Look through the queue for them."""
    wanted = {(each.sender, each.message_id): each.inbox_id for each in lost}
    found: list[_QueueId] = []
    for sender in sorted({each.sender for each in lost}):
        for mail in await server.queued_by(sender):
            message_id = filing.id_of(mail.message_id or "")
            if inbox_id := wanted.get((sender, message_id)):
                found.append(_QueueId(inbox_id, message_id, mail.queue_id))
                async with db.reading() as tx:
                    await queued(tx, Enqueued(mail.queue_id, sender, mail.message_id or ""))
    return found


async def _decide(db: Database, waiting: Waiting, mails: Sequence[QueuedMail]) -> None:
    """What the queue says about one recipient."""
    standing = [
        (mail, mail.recipients[address])
        for mail in mails
        if (address := whom(mail.recipients, waiting.address))
    ]
    async with db.transaction() as tx:
        if standing:
            reports = [_report(mail, waiting, each) for mail, each in standing]
            await note(tx, [each for each in reports if each is not None])
            await recipients.ask_again(tx, [waiting], gone=False)
        elif await _arrived(tx, waiting):
            await _conclude(tx, waiting, "delivered")
        elif waiting.gone_at is None:
            await recipients.ask_again(tx, [waiting], gone=True, pause=GRACE)
        else:
            await _conclude(tx, waiting, "unknown")


def _report(mail: QueuedMail, waiting: Waiting, there: QueuedRecipient) -> Report | None:
    outcome = _SAYS.get(there.status)
    if outcome is None:
        return None
    return Report(
        queue_id=mail.queue_id,
        sender=waiting.sender,
        recipient=waiting.address,
        outcome=outcome,
        at=datetime.now(UTC),
        code=there.code,
        diagnostic=there.diagnostic,
    )


async def _arrived(tx: Tx, waiting: Waiting) -> bool:
    """Whether the message lies in the recipient's mailbox, if that is one of ours."""
    found = await fetch_all(
        tx,
        _Name,
        _ARRIVED,
        {
            "addresses": [waiting.address, untagged(waiting.address)],
            "message_id": waiting.message_id,
        },
    )
    return bool(found)


_ARRIVED = """
select message.inbox_id, message.message_id from inbox
join message on message.inbox_id = inbox.inbox_id and message.organization_id = inbox.organization_id
where inbox.address = any(%(addresses)s) and message.message_id = %(message_id)s
    and direction = 'received'
"""


async def _conclude(tx: Tx, waiting: Waiting, outcome: Literal["delivered", "unknown"]) -> None:
    place = Place(waiting.inbox_id, waiting.organization_id, waiting.pod_id, waiting.domain)
    news = News(message_id=waiting.message_id, address=waiting.address, outcome=outcome)
    await tell(tx, place, [news])
    await recipients.ask_again(tx, [waiting], gone=True)


async def take_complaints(db: Database, server: MailServer) -> int:
    """Take in the complaints that reached the mail server, and have it forget them; returns how many.
    Those that are about no message of ours come to nothing.
    """
    complaints = await server.complaints()
    if not complaints:
        return 0
    async with db.transaction() as tx:
        for each in complaints:
            await _complain(tx, each)
    await server.forget_complaints([each.complaint_id for each in complaints])
    return len(complaints)


class _Owner(msgspec.Struct, frozen=True):
    inbox_id: UUID
    organization_id: UUID
    pod_id: UUID
    domain: str


async def _complain(tx: Tx, complaint: Complaint) -> None:
    if complaint.kind not in COMPLAINTS or not complaint.message_id or not complaint.sender:
        return
    owners = await fetch_all(tx, _Owner, _OWNER, {"sender": complaint.sender.lower()})
    for owner in owners:
        place = Place(owner.inbox_id, owner.organization_id, owner.pod_id, owner.domain)
        await _complain_about(tx, place, complaint, filing.id_of(complaint.message_id))


_OWNER = """
select inbox_id, organization_id, pod_id, domain from inbox
where address = %(sender)s and state = 'active'
"""


async def _complain_about(tx: Tx, place: Place, complaint: Complaint, message_id: str) -> None:
    standings = await recipients.of_messages(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        message_ids=[message_id],
    )
    went_to = {each.address for each in standings}
    claimed = {whom(went_to, each) for each in complaint.recipients or (None,)}
    news = [
        News(
            message_id=message_id,
            address=address,
            outcome="complained",
            code=complaint.kind[:16],
            by_mail=True,
        )
        for address in sorted(each for each in claimed if each)
    ]
    if news:
        await tell(tx, place, news)


class Watching:
    """The loops that tell what became of mail. One per worker process."""

    def __init__(self, db: Database, server: MailServer, defaults: Limits) -> None:
        self._db = db
        self._server = server
        self._defaults = defaults
        self._rounds = Rounds()
        self._complaints_at = monotonic()
        self._standstill = Standstill(log, "outcome")

    async def run(self) -> None:
        """Tell on what is reported, and ask about the rest, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds.listen(self._db, CHANNEL))
            group.create_task(self._rounds.run(self._tell))
            group.create_task(self._ask())

    async def _tell(self) -> float:
        """Tell what is due; how many seconds to wait for a report before the next is."""
        try:
            while await apply_due(self._db, self._defaults):
                pass
            return max(SHORTEST, await next_due(self._db, most=LOOK))
        except Unavailable:
            return RECOVERY
        except Exception:
            log.exception("outcome.failed")
            return RECOVERY

    async def _ask(self) -> None:
        while True:
            try:
                await self._ask_once()
            except (Unavailable, MailServerError) as error:
                self._standstill.begins(type(error).__name__)
            except Exception:
                log.exception("outcome.not_asked")
            else:
                self._standstill.is_over()
            await asyncio.sleep(ASKING)

    async def _ask_once(self) -> None:
        while await ask(self._db, self._server) == AT_ONCE:
            pass
        if monotonic() >= self._complaints_at:
            await take_complaints(self._db, self._server)
            self._complaints_at = monotonic() + LISTENING
