"""What became of sent mail, as rows, events and labels: told once, whoever says it how often and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from agentmail_cp import events, filing, limits, lists, messages, outcomes, recipients
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx
from agentmail_cp.events import Event, EventType
from agentmail_cp.limits import Limits
from agentmail_cp.lists import NamedList
from agentmail_cp.mailserver import (
    Complaint,
    DocumentId,
    Enqueued,
    Folder,
    MailServerUnavailable,
    Outcome,
    QueuedMail,
    QueuedRecipient,
    QueueStatus,
    Report,
    Verdict,
)
from agentmail_cp.messages import MessageFilter, Place
from agentmail_cp.outcomes import watching
from agentmail_cp.outcomes.record import tell
from agentmail_cp.outcomes.states import News
from agentmail_cp.sandbox import MailSandbox
from tests.db.mailbox import a_mail, an_inbox, record
from tests.fix_app import until

UNLIMITED = Limits(**dict.fromkeys(limits.NAMES, 0))
QUEUE_ID = 341724319889492480
MESSAGE = "<m1@elsewhere.test>"
ADA, BOB = "ada@elsewhere.test", "bob@far.test"


class Mailing:
    """An inbox of which the queue, the mail server and mails have something to say."""

    def __init__(self, db: Database, place: Place) -> None:
        self.db = db
        self.place = place
        self.limits = UNLIMITED
        self.sender = f"{place.inbox_id.hex}@agents.test"
        self.whose = {"organization_id": place.organization_id, "inbox_id": place.inbox_id}

    async def queue(self, queue_id: int = QUEUE_ID) -> None:
        async with self.db.reading() as tx:
            await outcomes.queued(tx, Enqueued(queue_id, self.sender, MESSAGE.strip("<>")))

    async def send(self, *to: str, refused: Sequence[str] = (), **fields: Any) -> None:
        """What recording a send does."""
        verdicts = [Verdict(each, accepted=True, reply="250 OK") for each in to]
        verdicts += [Verdict(each, accepted=False, reply="550 5.1.1 Unknown") for each in refused]
        own = {"folders": frozenset({Folder.SENT}), "keywords": frozenset({"$seen"})}
        mail = a_mail(1, **own, **fields)
        async with self.db.transaction() as tx:
            await messages.lock(tx, self.place.organization_id, self.place.inbox_id)
            filed = await messages.record(tx, self.place, present=[mail])
            await outcomes.sent(tx, self.place, filed[DocumentId(1)], DocumentId(1), verdicts)

    async def report(self, outcome: Outcome, to: str = ADA, **fields: Any) -> None:
        fields = {"queue_id": QUEUE_ID, "sender": self.sender, "recipient": to, **fields}
        report = Report(outcome=outcome, at=datetime.now(UTC), **fields)
        async with self.db.transaction() as tx:
            await outcomes.note(tx, [report])

    async def hear_by_mail(self, to: str, about: str = MESSAGE) -> None:
        """What a mail does that says so."""
        news = News(message_id=about, address=to, outcome="failed", code="5.1.1", by_mail=True)
        async with self.db.transaction() as tx:
            await tell(tx, self.place, [news])

    async def told(self) -> list[Event]:
        """The events about what became of mail, after everything due was told."""
        while await outcomes.apply_due(self.db, self.limits):
            pass
        async with self.db.reading() as tx:
            every = await events.list_of_inbox(tx, self.place.organization_id, self.place.inbox_id)
        kept = {
            EventType.MESSAGE_DELIVERED,
            EventType.MESSAGE_BOUNCED,
            EventType.MESSAGE_COMPLAINED,
            EventType.MESSAGE_REJECTED,
        }
        return [each for each in every if each.type in kept]

    async def labels(self) -> list[str]:
        async with self.db.reading() as tx:
            page, _ = await messages.list_page(
                tx, **self.whose, where=MessageFilter(), limit=1, page_token=None
            )
        return page[0].labels

    async def statuses(self) -> dict[str, str]:
        async with self.db.reading() as tx:
            rows = await outcomes.of(tx, **self.whose, message_id=MESSAGE)
        return {each.address: each.status for each in rows}

    async def suppressed(self) -> dict[str, str | None]:
        named = NamedList(Reach(self.place.organization_id), "send", "block")
        async with self.db.reading() as tx:
            page, _ = await lists.list_page(tx, named, limit=100, page_token=None)
        return {each.entry: each.origin for each in page}

    async def waiting(self) -> int:
        """Reports that nobody has told on yet."""
        async with self.db.reading() as tx:
            row = await (
                await tx.execute("select count(*) as reports from outcome_report")
            ).fetchone()
        assert row is not None
        return row["reports"]

    async def hurry(self) -> None:
        """Let what waits be due."""
        async with self.db.reading() as tx:
            await tx.execute("update outcome_report set due_at = now()")
            await tx.execute("update recipient set due_at = now() where due_at is not null")


@pytest_asyncio.fixture
async def mailing(database: Database) -> AsyncGenerator[Mailing]:
    yield Mailing(database, await an_inbox(database))


async def test_a_delivery_is_told_once(mailing: Mailing) -> None:
    """An agent would act twice on one delivery: Stalwart repeats its batches."""
    await mailing.queue()
    await mailing.send(ADA)
    for _ in range(2):
        await mailing.report(Outcome.DELIVERED)
        await mailing.report(Outcome.DELIVERED)
        await mailing.told()
    (event,) = await mailing.told()
    assert event.type is EventType.MESSAGE_DELIVERED
    assert (event.recipients, event.facts) == (1, {"recipients": [ADA]})
    assert await mailing.labels() == ["delivered", "sent"]
    assert await mailing.statuses() == {ADA: "delivered"}
    assert await mailing.waiting() == 0


async def test_recipients_of_one_message_are_told_together(mailing: Mailing) -> None:
    """A message to a hundred people would make a hundred events."""
    await mailing.queue()
    await mailing.send(ADA, BOB)
    await mailing.report(Outcome.DELIVERED, ADA)
    await mailing.report(Outcome.DELIVERED, BOB)
    (event,) = await mailing.told()
    assert (event.recipients, event.facts) == (2, {"recipients": [ADA, BOB]})


async def test_a_report_may_come_before_the_message_is_recorded(mailing: Mailing) -> None:
    """Stalwart delivers within milliseconds: a delivery would be lost whenever it was faster than we."""
    await mailing.queue()
    await mailing.report(Outcome.DELIVERED)
    assert await mailing.told() == []
    await mailing.send(ADA)
    await mailing.hurry()
    assert [each.type for each in await mailing.told()] == [EventType.MESSAGE_DELIVERED]


async def test_a_report_may_come_before_its_queue_id_is_known(mailing: Mailing) -> None:
    """As when the database was away while Stalwart asked, and the queue told us later."""
    await mailing.send(ADA)
    await mailing.report(Outcome.DELIVERED)
    assert await mailing.told() == []
    await mailing.queue()
    await mailing.hurry()
    assert [each.type for each in await mailing.told()] == [EventType.MESSAGE_DELIVERED]


async def test_mail_that_comes_in_is_not_noted(mailing: Mailing) -> None:
    """Stalwart reports on every mail it delivers; the table would grow with all that arrives."""
    await mailing.report(Outcome.DELIVERED, sender="ada@elsewhere.test")
    await mailing.report(Outcome.DELIVERED, sender="")
    await mailing.report(Outcome.DELIVERED, queue_id=2**64 - 1)
    assert await mailing.waiting() == 0


async def test_a_dead_address_is_told_of_labelled_and_never_written_to_again(
    mailing: Mailing,
) -> None:
    await mailing.queue()
    await mailing.send(ADA, BOB)
    await mailing.report(Outcome.FAILED, code="5.1.1", diagnostic="550 5.1.1 no\r\nsuch user")
    await mailing.report(Outcome.FAILED, BOB, code="4.4.7", diagnostic="gave up")
    first, second = await mailing.told()
    assert {first.type, second.type} == {EventType.MESSAGE_BOUNCED}
    assert first.facts == {
        "type": "Permanent",
        "sub_type": "NoEmail",
        "recipients": [{"address": ADA, "status": "bounced"}],
    }
    assert (second.facts["type"], second.facts["sub_type"]) == ("Transient", "General")
    assert await mailing.labels() == ["bounced", "sent"]
    assert await mailing.suppressed() == {ADA: "bounce"}
    async with mailing.db.reading() as tx:
        ada, _ = await outcomes.of(tx, **mailing.whose, message_id=MESSAGE)
    assert (ada.code, ada.diagnostic) == ("5.1.1", "550 5.1.1 no such user")


async def test_what_a_mail_said_the_queue_may_confirm(mailing: Mailing) -> None:
    """A forged report that came first would keep a dead address alive for good."""
    await mailing.queue()
    await mailing.send(ADA, BOB)
    await mailing.hear_by_mail(ADA)
    assert [each.type for each in await mailing.told()] == [EventType.MESSAGE_BOUNCED]
    assert await mailing.suppressed() == {}
    await mailing.report(Outcome.FAILED, code="5.1.1")
    assert len(await mailing.told()) == 1
    assert await mailing.suppressed() == {ADA: "bounce"}


@pytest.mark.parametrize(
    ("name", "quotes"),
    [
        ("m1@elsewhere.test", {"references": ("m1@elsewhere.test",)}),
        ("m#1@elsewhere.test", {"references": ("m#1@elsewhere.test",)}),
        ("m1@elsewhere.test", {}),
    ],
    ids=["quoted", "quoted by an id it does not go by", "not quoted"],
)
async def test_who_was_sent_an_answer_cannot_bar_whom_it_quotes(
    mailing: Mailing, name: str, quotes: dict[str, Any]
) -> None:
    """The id of a message to Ada alone stands in every answer, and Bob may get one of those."""
    await mailing.send(ADA, message_id=name)
    answer = a_mail(2, message_id="m2@elsewhere.test", folders=frozenset({Folder.SENT}), **quotes)
    async with mailing.db.transaction() as tx:
        await messages.lock(tx, mailing.place.organization_id, mailing.place.inbox_id)
        await messages.record(tx, mailing.place, present=[answer])
    await mailing.hear_by_mail(ADA, filing.id_of(name))
    assert [each.type for each in await mailing.told()] == [EventType.MESSAGE_BOUNCED]
    assert await mailing.suppressed() == ({} if quotes else {ADA: "bounce"})


async def test_an_address_of_the_own_domain_is_not_suppressed(mailing: Mailing) -> None:
    """An inbox that is made tomorrow could not be written to by those who were too early."""
    await mailing.queue()
    own = f"later@{mailing.place.domain}"
    await mailing.send(own)
    await mailing.report(Outcome.FAILED, own, code="5.1.2")
    assert [each.type for each in await mailing.told()] == [EventType.MESSAGE_BOUNCED]
    assert await mailing.suppressed() == {}


async def test_a_delay_is_a_label_for_as_long_as_it_lasts(mailing: Mailing) -> None:
    """Nobody could tell mail that is late from mail that was."""
    await mailing.queue()
    await mailing.send(ADA)
    await mailing.report(Outcome.DELAYED, code="4.4.1")
    assert await mailing.told() == []
    assert await mailing.labels() == ["delayed", "sent"]
    assert await mailing.statuses() == {ADA: "delayed"}
    await mailing.report(Outcome.DELIVERED)
    assert len(await mailing.told()) == 1
    assert await mailing.labels() == ["delivered", "sent"]


async def test_reading_the_mailbox_again_keeps_what_became_of_mail(mailing: Mailing) -> None:
    """Stalwart knows nothing of these labels: whatever a person does to the mail would take them away."""
    await mailing.queue()
    await mailing.send(ADA)
    await mailing.report(Outcome.DELIVERED)
    await mailing.told()
    for keywords in ({"$flagged"}, {"$delivered", "$seen"}, {"$seen"}):
        again = a_mail(1, folders=frozenset({Folder.SENT}), keywords=frozenset(keywords))
        await record(mailing.db, mailing.place, again)
        assert "delivered" in await mailing.labels()


async def test_a_refused_recipient_is_told_of_at_once(mailing: Mailing) -> None:
    """The caller got an answer; whoever listens to events would never hear of it."""
    await mailing.send(ADA, refused=[BOB])
    await mailing.send(ADA, refused=[BOB])
    (event,) = await mailing.told()
    assert event.type is EventType.MESSAGE_REJECTED
    assert (event.recipients, event.facts) == (1, {"reason": f"{BOB}: 550 5.1.1 Unknown"})
    assert await mailing.labels() == ["rejected", "sent"]
    assert await mailing.statuses() == {ADA: "queued", BOB: "rejected"}
    assert await mailing.suppressed() == {BOB: "reject"}


async def test_two_workers_tell_everything_once(mailing: Mailing) -> None:
    """Each of two workers would tell the same."""
    await mailing.queue()
    everybody = [f"r{number}@elsewhere.test" for number in range(20)]
    await mailing.send(*everybody)
    for each in everybody:
        await mailing.report(Outcome.DELIVERED, each)
    await asyncio.gather(*(outcomes.apply_due(mailing.db, mailing.limits) for _ in range(4)))
    told = await mailing.told()
    assert sorted(to for event in told for to in event.facts["recipients"]) == sorted(everybody)
    assert await mailing.waiting() == 0


async def test_one_inbox_in_trouble_holds_up_no_other(
    mailing: Mailing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row that cannot be written would stop everybody's outcomes."""
    other = Mailing(mailing.db, await an_inbox(mailing.db))
    for each, queue_id in ((mailing, QUEUE_ID), (other, QUEUE_ID + 1)):
        await each.queue(queue_id)
        await each.send(ADA)
        await each.report(Outcome.DELIVERED, queue_id=queue_id)
    append = events.append

    async def trouble(tx: Tx, *, inbox_id: UUID, **fields: Any) -> None:
        if inbox_id == mailing.place.inbox_id:
            raise ValueError
        await append(tx, inbox_id=inbox_id, **fields)

    with monkeypatch.context() as patched:
        patched.setattr(events, "append", trouble)
        assert len(await other.told()) == 1
        assert await mailing.told() == []
    await mailing.hurry()
    assert len(await mailing.told()) == 1


async def test_a_deleted_message_takes_its_recipients_along(mailing: Mailing) -> None:
    """Addresses would stay for ever of mail that its owner deleted."""
    await mailing.queue()
    await mailing.send(ADA)
    await record(mailing.db, mailing.place, destroyed=(1,))
    assert await mailing.statuses() == {}
    await mailing.report(Outcome.FAILED, code="5.1.1")
    assert await mailing.told() == []


async def test_erasing_an_inbox_erases_what_became_of_its_mail(mailing: Mailing) -> None:
    """Retention promises that nothing is left."""
    await mailing.queue()
    await mailing.send(ADA)
    await mailing.report(Outcome.DELIVERED)
    async with mailing.db.transaction() as tx:
        await messages.erase(tx, mailing.place)
        await outcomes.erase(tx, mailing.place)
        for table in ("recipient", "queued_mail", "outcome_report", "feedback_mail"):
            cursor = await tx.execute(f"select from {table}")
            assert cursor.rowcount == 0, table


async def test_queue_ids_are_forgotten_when_nothing_is_asked_any_more(mailing: Mailing) -> None:
    """The table would grow with every mail."""
    await mailing.queue()
    await mailing.send(ADA)
    async with mailing.db.transaction() as tx:
        await tx.execute("update queued_mail set created_at = now() - interval '8 days'")
        assert await outcomes.forget_old(tx) == 0
    await mailing.report(Outcome.DELIVERED)
    await mailing.told()
    async with mailing.db.transaction() as tx:
        assert await outcomes.forget_old(tx) == 1


async def test_nothing_is_asked_about_a_deleted_inbox(mailing: Mailing) -> None:
    """A worker would ask about it every hour, for ever."""
    await mailing.send(ADA)
    async with mailing.db.transaction() as tx:
        await recipients.give_up(tx, **mailing.whose)
    await mailing.hurry()
    async with mailing.db.transaction() as tx:
        assert await recipients.claim(tx, lease=recipients.FIRST_LOOK, most=10) == []
    assert await mailing.statuses() == {ADA: "unknown"}


class Queue(MailSandbox):
    """A mail server that is asked about its queue and its complaints, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: dict[int, QueuedMail] = {}
        self.heard: dict[str, Complaint] = {}
        self.away = False

    def hold(self, mailing: Mailing, status: QueueStatus, to: str = ADA) -> None:
        """Have the mail in the queue, with this status for one recipient."""
        there = QueuedRecipient(status=status, code="4.4.1", diagnostic="try later")
        self.mails[QUEUE_ID] = QueuedMail(
            queue_id=QUEUE_ID,
            sender=mailing.sender,
            message_id=MESSAGE.strip("<>"),
            recipients={to: there},
        )

    async def queue(self, queue_ids: Collection[int]) -> Mapping[int, QueuedMail]:
        if self.away:
            raise MailServerUnavailable("away")
        return {each: self.mails[each] for each in queue_ids if each in self.mails}

    async def queued_by(self, sender: str) -> tuple[QueuedMail, ...]:
        return tuple(mail for mail in self.mails.values() if mail.sender == sender)

    async def complaints(self) -> tuple[Complaint, ...]:
        return tuple(self.heard.values())

    async def forget_complaints(self, complaint_ids: Collection[str]) -> None:
        for each in complaint_ids:
            del self.heard[each]


async def asked(mailing: Mailing, queue: Queue) -> list[Event]:
    """What is told after the mail server was asked once."""
    await mailing.hurry()
    await outcomes.ask(mailing.db, queue)
    return await mailing.told()


async def test_nothing_is_asked_before_its_time(mailing: Mailing) -> None:
    """Every mail would cost a question although Stalwart reports on nearly all."""
    await mailing.send(ADA)
    assert await outcomes.ask(mailing.db, Queue()) == 0


@pytest.mark.parametrize(
    ("status", "told", "statuses"),
    [
        (QueueStatus.DELIVERED, [EventType.MESSAGE_DELIVERED], "delivered"),
        (QueueStatus.FAILED, [EventType.MESSAGE_BOUNCED], "bounced"),
        (QueueStatus.DELAYED, [], "delayed"),
        (QueueStatus.SCHEDULED, [], "queued"),
    ],
)
async def test_the_queue_tells_what_reports_did_not(
    mailing: Mailing, status: QueueStatus, told: list[EventType], statuses: str
) -> None:
    """A Stalwart that was killed forgets what it had not told yet."""
    queue = Queue()
    await mailing.queue()
    await mailing.send(ADA)
    queue.hold(mailing, status)
    for _ in range(3):
        assert [each.type for each in await asked(mailing, queue)] == told
    assert await mailing.statuses() == {ADA: statuses}


async def test_mail_that_left_without_a_word_is_unknown_after_a_while(mailing: Mailing) -> None:
    """A customer would wait for ever, or be told something that nobody knows."""
    queue = Queue()
    await mailing.queue()
    await mailing.send(ADA, BOB)
    await mailing.report(Outcome.DELIVERED, BOB)
    assert len(await asked(mailing, queue)) == 1
    assert await mailing.statuses() == {ADA: "queued", BOB: "delivered"}
    assert len(await asked(mailing, queue)) == 1
    assert await mailing.statuses() == {ADA: "unknown", BOB: "delivered"}
    assert await mailing.labels() == ["delivered", "sent"]
    await mailing.hurry()
    assert await outcomes.ask(mailing.db, queue) == 0


@pytest.mark.parametrize("tag", ["", "+news"])
async def test_mail_that_lies_in_a_mailbox_here_was_delivered(mailing: Mailing, tag: str) -> None:
    """After an outage in which Stalwart was restarted too, nobody would know what everybody can see."""
    other = await an_inbox(mailing.db)
    bob = f"{other.inbox_id.hex}{tag}@agents.test"
    await record(mailing.db, other, a_mail(7, message_id=MESSAGE.strip("<>")))
    await mailing.send(bob, ADA)
    told = [await asked(mailing, Queue()) for _ in range(3)][-1]
    assert [each.facts for each in told] == [{"recipients": [bob]}]
    assert await mailing.statuses() == {bob: "delivered", ADA: "unknown"}


async def test_a_late_report_ends_what_was_unknown(mailing: Mailing) -> None:
    """Stalwart repeats what it could not tell for a day: an outage of ours must not be the last word."""
    queue = Queue()
    await mailing.queue()
    await mailing.send(ADA)
    for _ in range(2):
        await asked(mailing, queue)
    await mailing.report(Outcome.DELIVERED)
    assert len(await mailing.told()) == 1
    assert await mailing.statuses() == {ADA: "delivered"}


async def test_mail_nobody_told_us_of_is_found_in_the_queue(mailing: Mailing) -> None:
    """When we were away while Stalwart queued it, its reports would never be understood."""
    queue = Queue()
    await mailing.send(ADA)
    queue.hold(mailing, QueueStatus.SCHEDULED)
    assert await asked(mailing, queue) == []
    queue.mails.clear()
    await mailing.report(Outcome.DELIVERED)
    assert len(await mailing.told()) == 1


async def test_a_mail_server_that_is_away_is_asked_again(mailing: Mailing) -> None:
    """One outage, and nobody would ask any more."""
    queue = Queue()
    await mailing.queue()
    await mailing.send(ADA)
    queue.away = True
    await mailing.hurry()
    with pytest.raises(MailServerUnavailable):
        await outcomes.ask(mailing.db, queue)
    queue.away = False
    queue.hold(mailing, QueueStatus.DELIVERED)
    assert len(await asked(mailing, queue)) == 1


async def test_two_workers_do_not_ask_about_the_same(mailing: Mailing) -> None:
    """Ten workers would ask ten times."""
    await mailing.queue()
    await mailing.send(ADA)
    await mailing.hurry()
    counts = await asyncio.gather(*(outcomes.ask(mailing.db, Queue()) for _ in range(3)))
    assert sorted(counts) == [0, 0, 1]


async def test_recipients_of_mail_that_never_showed_up_are_forgotten(mailing: Mailing) -> None:
    """A client's mail that Stalwart refused after we had noted it would be asked about for ever."""
    async with mailing.db.transaction() as tx:
        await outcomes.handed_in(tx, **mailing.whose, message_id=MESSAGE, addresses=[ADA.upper()])
    assert await asked(mailing, Queue()) == []
    assert await mailing.statuses() == {ADA: "queued"}
    async with mailing.db.transaction() as tx:
        await tx.execute("update recipient set created_at = now() - interval '25 hours'")
    await asked(mailing, Queue())
    assert await mailing.statuses() == {}


def complaint(mailing: Mailing, **fields: Any) -> Complaint:
    known: dict[str, Any] = {
        "complaint_id": "c1",
        "kind": "abuse",
        "at": datetime.now(UTC),
        "message_id": MESSAGE.strip("<>"),
        "sender": mailing.sender.upper(),
        "recipients": (ADA,),
        **fields,
    }
    return Complaint(**known)


async def test_a_complaint_is_told_once_and_forgotten(mailing: Mailing) -> None:
    """Whoever complained would hear from the customer again; Stalwart would keep it for a month."""
    queue = Queue()
    await mailing.send(ADA)
    for _ in range(2):
        queue.heard = {"c1": complaint(mailing)}
        await outcomes.take_complaints(mailing.db, queue)
        assert queue.heard == {}
        (event,) = await mailing.told()
        assert event.facts == {"type": "abuse", "sub_type": "General", "recipients": [ADA]}
    assert await mailing.suppressed() == {ADA: "complaint"}


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "not-spam"},
        {"kind": "auth-failure"},
        {"message_id": None},
        {"message_id": "other@agents.test"},
        {"sender": None},
        {"sender": "else@agents.test"},
        {"recipients": ("eve@elsewhere.test",)},
        {"recipients": ()},
    ],
)
async def test_a_complaint_about_nothing_of_ours_comes_to_nothing(
    mailing: Mailing, fields: dict[str, Any]
) -> None:
    """Anybody can complain about anything; it must not pile up either."""
    queue = Queue()
    await mailing.send(ADA, BOB)
    queue.heard = {"c1": complaint(mailing, **fields)}
    assert await outcomes.take_complaints(mailing.db, queue) == 1
    assert queue.heard == {}
    assert await mailing.told() == []


async def test_the_loops_tell_at_once_ask_later_and_live_through_outages(
    mailing: Mailing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that ends with the first trouble would be a service that never hears of its mail again."""
    monkeypatch.setattr(watching, "ASKING", 0.01)
    queue = Queue()
    queue.away = True
    await mailing.queue()
    await mailing.send(ADA, BOB)
    await mailing.hurry()
    task = asyncio.create_task(outcomes.Watching(mailing.db, queue, mailing.limits).run())
    try:
        await mailing.report(Outcome.DELIVERED)
        await until(mailing.statuses, lambda seen: seen[ADA] == "delivered")
        queue.away = False
        queue.hold(mailing, QueueStatus.FAILED, BOB)
        await mailing.hurry()
        await until(mailing.statuses, lambda seen: seen[BOB] == "bounced")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
