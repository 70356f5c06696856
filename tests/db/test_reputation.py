"""An inbox whose mail ends badly too often is stopped from sending, and goes on when a person says so."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
import pytest_asyncio

from agentmail_cp import inboxes, limits, outcomes, pauses, recipients
from agentmail_cp.access import Reach
from agentmail_cp.db import Database
from agentmail_cp.errors import InboxPaused
from agentmail_cp.filing import Place
from agentmail_cp.inboxes import Inbox, InboxPatch
from agentmail_cp.limits import Limits
from agentmail_cp.mailserver import Folder
from agentmail_cp.outcomes import reputation
from agentmail_cp.outcomes.record import tell
from agentmail_cp.outcomes.states import News, Outcome
from agentmail_cp.recipients import Standing, Status
from agentmail_cp.sandbox import MailSandbox
from tests.db.mailbox import a_mail, an_inbox, record

NOTHING = dict.fromkeys(limits.NAMES, 0)
MAY = Limits(
    **{
        **NOTHING,
        "pause_bounces_per_thousand": 100,
        "pause_complaints_per_thousand": 5,
        "pause_days": 7,
        "pause_least_recipients": 20,
    }
)


class Sender:
    """An inbox and the recipients of its mail."""

    def __init__(self, db: Database, place: Place) -> None:
        self.db = db
        self.place = place
        self.sent = 0

    async def send(self, **counts: int) -> None:
        """Write to so many people, for whom that ended like this (`delivered=90, bounced=10`)."""
        standings = [
            Standing(
                message_id=f"<{status}-{self.sent + number}@agents.test>",
                address=f"r{number}@elsewhere.test",
                status=_status(status),
                code="5.1.1" if status == "bounced" else None,
            )
            for status, count in counts.items()
            for number in range(count)
        ]
        self.sent += len(standings)
        async with self.db.transaction() as tx:
            await recipients.add(
                tx,
                organization_id=self.place.organization_id,
                inbox_id=self.place.inbox_id,
                standings=standings,
            )

    async def judge(self, may: Limits = MAY) -> None:
        await reputation.judge(self.db, self.place, may)

    async def look(self) -> Inbox:
        async with self.db.reading() as tx:
            return await inboxes.get(tx, Reach(self.place.organization_id), self.name)

    @property
    def name(self) -> str:
        return inboxes.public_id(self.place.inbox_id)

    async def age(self, days: int) -> None:
        """Let what was sent be so much older."""
        async with self.db.transaction() as tx:
            await tx.execute(
                "update recipient set created_at = created_at - %(age)s", {"age": timedelta(days)}
            )


def _status(name: str) -> Status:
    assert name in {"delivered", "bounced", "complained", "rejected", "queued"}
    return name  # pyright: ignore[reportReturnType]


@pytest_asyncio.fixture
async def sender(database: Database) -> AsyncGenerator[Sender]:
    yield Sender(database, await an_inbox(database))


async def test_too_many_bounces_stop_an_inbox(sender: Sender) -> None:
    """One agent with a bought list would cost every inbox of the server its name."""
    await sender.send(delivered=18, bounced=2)
    await sender.judge()
    assert not (await sender.look()).send_paused
    await sender.send(bounced=1)
    await sender.judge()
    reason = "3 of the 21 recipients of the last 7 days bounced; at most 10 % may."
    stopped = await sender.look()
    assert (stopped.send_paused, stopped.send_paused_reason) == (True, reason)
    async with sender.db.reading() as tx:
        with pytest.raises(InboxPaused, match="3 of the 21 recipients"):
            await pauses.ensure_none(tx, sender.place)


async def test_what_never_left_and_what_is_long_ago_does_not_count(sender: Sender) -> None:
    await sender.send(delivered=20, rejected=20)
    await sender.judge()
    assert not (await sender.look()).send_paused
    await sender.send(bounced=20)
    await sender.age(8)
    await sender.judge()
    assert not (await sender.look()).send_paused


async def test_a_person_lets_it_go_on_and_counting_starts_anew(sender: Sender) -> None:
    """The next bounce of the old list would stop it again within a minute."""
    await sender.send(delivered=10, bounced=10)
    await sender.judge()
    patch = InboxPatch(send_paused=False)
    reach = Reach(sender.place.organization_id)
    changed = await inboxes.update(
        sender.db, MailSandbox("agents.test"), reach=reach, inbox=sender.name, patch=patch
    )
    assert (changed.send_paused, changed.send_paused_reason) == (False, None)
    await sender.judge()
    assert not (await sender.look()).send_paused
    await sender.send(bounced=20)
    await sender.judge()
    assert (await sender.look()).send_paused


async def test_a_reason_that_is_there_stays(sender: Sender) -> None:
    """A person who paused it would find another reason than theirs."""
    await sender.send(delivered=10, bounced=10)
    patch = InboxPatch(send_paused=True)
    reach = Reach(sender.place.organization_id)
    await inboxes.update(
        sender.db, MailSandbox("agents.test"), reach=reach, inbox=sender.name, patch=patch
    )
    await sender.judge()
    assert (await sender.look()).send_paused_reason == pauses.BY_REQUEST


async def test_an_organisation_may_have_limits_of_its_own(sender: Sender) -> None:
    async with sender.db.transaction() as tx:
        await limits.set_limit(tx, sender.place.organization_id, "pause_bounces_per_thousand", 0)
    await sender.send(delivered=10, bounced=10)
    await sender.judge()
    assert not (await sender.look()).send_paused


async def test_other_inboxes_go_on(sender: Sender, database: Database) -> None:
    other = Sender(database, await an_inbox(database))
    await sender.send(bounced=30)
    await other.send(delivered=30)
    await other.judge()
    await sender.judge()
    assert (await sender.look()).send_paused
    assert not (await other.look()).send_paused


@pytest.mark.parametrize("outcome", ["failed", "complained"])
async def test_it_is_judged_when_news_of_that_kind_come(sender: Sender, outcome: Outcome) -> None:
    """Nobody would look before the next send."""
    await sender.send(delivered=22, bounced=2, complained=2)
    mail = a_mail(1, folders=frozenset({Folder.SENT}), keywords=frozenset({"$seen"}))
    await record(sender.db, sender.place, mail)
    async with sender.db.transaction() as tx:
        await outcomes.handed_in(
            tx,
            organization_id=sender.place.organization_id,
            inbox_id=sender.place.inbox_id,
            message_id="<m1@elsewhere.test>",
            addresses=["gone@elsewhere.test"],
        )
        news = News(
            message_id="<m1@elsewhere.test>",
            address="gone@elsewhere.test",
            outcome=outcome,
            code="5.1.1",
        )
        await tell(tx, sender.place, [news])
    while await outcomes.apply_due(sender.db, MAY):
        pass
    assert (await sender.look()).send_paused
