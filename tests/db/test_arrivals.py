"""What came first after a moment: the question an agent asks that waits for a mail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentmail_cp import arrivals, events, messages
from agentmail_cp.access import Reach
from agentmail_cp.arrivals import Arrival, Since, Wanted
from agentmail_cp.db import Database
from agentmail_cp.errors import Gone
from agentmail_cp.mailserver import Folder
from agentmail_cp.messages import Place
from tests.db.event_log import neighbour, publish
from tests.db.mailbox import a_mail, an_inbox, record

VISIBLE = Wanted(masks=(0,))
ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)


async def first_after(
    db: Database, place: Place, since: Since, wanted: Wanted = VISIBLE
) -> Arrival | None:
    async with db.reading() as tx:
        return await arrivals.first(tx, place, since, wanted)


async def subjects(
    db: Database, place: Place, since: Since, wanted: Wanted = VISIBLE
) -> list[str | None]:
    """Everything there is after a moment, one after the other."""
    seen: list[str | None] = []
    while found := await first_after(db, place, since, wanted):
        seen.append(found.subject)
        since = Since(found.seq, since.at)
    return seen


async def since_time(db: Database, place: Place, at: datetime) -> Since:
    async with db.reading() as tx:
        return await arrivals.since_time(tx, place, at)


async def test_messages_are_found_in_the_order_they_came_in(database: Database) -> None:
    """Not in that of their dates, which a stranger may have made up."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1, subject="new", received_at=datetime.now(UTC)))
    await record(database, place, a_mail(2, subject="old", received_at=ALWAYS))
    since = await since_time(database, place, ALWAYS)
    assert await subjects(database, place, since) == ["new", "old"]


async def test_of_mails_recorded_together_each_has_a_moment(database: Database) -> None:
    """The last one an agent saw would hide its neighbours."""
    place = await an_inbox(database)
    await record(database, place, *(a_mail(number, subject=f"{number}") for number in (1, 2, 3)))
    found = await first_after(database, place, Since(0))
    assert found is not None
    since = await since_time(database, place, found.created_at)
    assert await subjects(database, place, since) == ["2", "3"]


async def test_a_transaction_that_began_early_is_not_passed_over(database: Database) -> None:
    """It waited for its turn while somebody looked at the clock."""
    place = await an_inbox(database)
    async with database.transaction() as early:
        row = await (await early.execute("select now() as began")).fetchone()
        await record(database, place, a_mail(1, subject="first"))
        seen = await first_after(database, place, Since(0))
        await messages.lock(early, place.organization_id, place.inbox_id)
        await messages.record(early, place, present=[a_mail(2, subject="second")])
    assert row is not None
    assert seen is not None
    assert row["began"] < seen.created_at
    since = await since_time(database, place, seen.created_at)
    assert await subjects(database, place, since) == ["second"]


async def test_a_clock_that_was_set_back_hides_nothing(database: Database) -> None:
    """A second or two, as time servers do."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1, subject="first"), a_mail(2, subject="second"))
    async with database.transaction() as tx:
        await tx.execute("update event set created_at = created_at - interval '3 s' where seq = 2")
    first = await first_after(database, place, Since(0))
    assert first is not None
    since = await since_time(database, place, first.created_at - timedelta(seconds=1))
    assert await subjects(database, place, since) == ["first", "second"]


async def test_what_was_looked_at_need_not_be_looked_at_again(database: Database) -> None:
    """An inbox with a hundred thousand mails would be read anew for each that comes."""
    place = await an_inbox(database)
    await record(database, place, *(a_mail(number) for number in (1, 2, 3)))
    assert await subjects(database, place, Since(2)) == ["Subject 3"]
    assert await subjects(database, place, Since(3)) == []


async def test_an_event_of_another_inbox_is_a_moment_too(database: Database) -> None:
    """An agent with several inboxes keeps one cursor."""
    one = await an_inbox(database)
    other = await neighbour(database, one)
    await record(database, one, a_mail(1, subject="before"))
    await publish(database)
    await record(database, other, a_mail(1))
    await publish(database)
    await record(database, one, a_mail(2, subject="after"))
    for _ in range(2):
        async with database.reading() as tx:
            (event,) = await events.list_of_inbox(tx, other.organization_id, other.inbox_id)
            since = await arrivals.since_event(tx, Reach(one.organization_id), one, event.event_id)
        assert await subjects(database, one, since) == ["after"]
        # Published or not: it came after.
        await publish(database)


async def test_a_cursor_behind_which_mail_expired_is_refused(database: Database) -> None:
    """The first mail that fits may have been among it."""
    place = await an_inbox(database)
    await record(database, place, a_mail(1), a_mail(2))
    await publish(database)
    async with database.transaction() as tx:
        known, _ = await events.list_of_inbox(tx, place.organization_id, place.inbox_id)
        await tx.execute("update event set created_at = now() - interval '40 days'")
    await events.expire(database, days=30)
    await record(database, place, a_mail(3))
    await publish(database)
    async with database.reading() as tx:
        with pytest.raises(Gone):
            await arrivals.since_event(tx, Reach(place.organization_id), place, known.event_id)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"sender": ("ADA@",)}, ["Subject 1", "Subject 2"]),
        ({"sender": ("ada@", "bob")}, []),
        ({"subject": ("subject", "2")}, ["Subject 2"]),
        ({"subject": ("%",)}, []),
        ({"masks": (0, 1)}, ["Subject 1", "Subject 2", "Subject 3"]),
    ],
)
async def test_every_condition_has_to_hold(
    database: Database, wanted: dict[str, Any], expected: list[str]
) -> None:
    place = await an_inbox(database)
    junk = frozenset({Folder.JUNK})
    await record(database, place, a_mail(1), a_mail(2), a_mail(3, folders=junk))
    fields: dict[str, Any] = {"masks": (0,), **wanted}
    assert await subjects(database, place, Since(0), Wanted(**fields)) == expected
