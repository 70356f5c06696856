"""Old events expire, and nobody is made to believe that they saw them all."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from agentmail_cp import events
from agentmail_cp.access import Reach
from agentmail_cp.db import Database
from agentmail_cp.errors import Gone
from agentmail_cp.events import Event, Subscribed
from agentmail_cp.messages import Place
from tests.db.event_log import EVERYTHING, append, everything, names, neighbour, publish, write
from tests.db.mailbox import an_inbox


async def age(db: Database, *old: str, days: int = 40) -> None:
    """Let these events have been written so many days ago."""
    async with db.transaction() as tx:
        await tx.execute(
            "update event set created_at = now() - %(days)s * interval '1 day'"
            " where message_id = any(%(old)s)",
            {"days": days, "old": list(old)},
        )


async def told(db: Database, place: Place, *texts: str) -> list[Event]:
    """Events that were written and published, in this order."""
    await write(db, place, *texts)
    await publish(db)
    return [each for each in await everything(db, place) if each.message_id in texts]


async def behind(db: Database, reach: Reach, cursor: str) -> list[str | None]:
    """What a reader finds behind a cursor."""
    async with db.reading() as tx:
        place = await events.place_of(tx, reach, cursor)
        page = await events.page(tx, Subscribed(reach=reach, types=EVERYTHING), place, limit=100)
    return [event.message_id for event in page.events]


async def test_old_events_expire_in_small_batches_and_new_ones_stay(database: Database) -> None:
    place = await an_inbox(database)
    texts = [f"m{number}" for number in range(12)]
    await told(database, place, *texts)
    await age(database, *texts[:8])
    assert await events.expire(database, days=30, batch=3) == 8
    assert await names(database, place) == texts[8:]
    assert await events.expire(database, days=30) == 0


async def test_what_nobody_was_told_of_does_not_expire(database: Database) -> None:
    """However long publication may have been away."""
    place = await an_inbox(database)
    await write(database, place, "late")
    await age(database, "late")
    assert await events.expire(database, days=30) == 0
    await publish(database)
    assert await names(database, place) == ["late"]


async def test_a_reader_who_saw_everything_before_it_expired_goes_on(database: Database) -> None:
    """A quiet inbox's cursor is still good after years."""
    place = await an_inbox(database)
    *_, last = await told(database, place, "one", "two", "three")
    await age(database, "one", "two", "three")
    assert await events.expire(database, days=30) == 3
    reaches = (
        Reach(place.organization_id),
        Reach(place.organization_id, place.pod_id),
        Reach(place.organization_id, place.pod_id, place.inbox_id),
    )
    for reach in reaches:
        assert await behind(database, reach, str(last.event_id)) == []
        async with database.reading() as tx:
            assert await events.newest(tx, reach) == str(last.event_id)
    await told(database, place, "four")
    for reach in reaches:
        assert await behind(database, reach, str(last.event_id)) == ["four"]


async def test_a_reader_who_did_not_is_told_and_shown_the_oldest(database: Database) -> None:
    place = await an_inbox(database)
    one, _, three = await told(database, place, "one", "two", "three")
    await age(database, "one", "two")
    await events.expire(database, days=30)
    for cursor in (one.event_id, uuid4()):
        with pytest.raises(Gone) as error:
            await behind(database, Reach(place.organization_id), str(cursor))
        assert error.value.reason == "cursor_expired"
        assert error.value.oldest == str(three.event_id)
    assert await behind(database, Reach(place.organization_id), "start") == ["three"]


async def test_a_known_cursor_does_not_hide_what_expired_behind_it(database: Database) -> None:
    """One quiet inbox's last event is remembered; what other inboxes had after it is lost all the same."""
    quiet = await an_inbox(database)
    busy = await neighbour(database, quiet)
    (last,) = await told(database, quiet, "quiet")
    await told(database, busy, "one", "two")
    await age(database, "quiet", "one")
    await events.expire(database, days=30)
    with pytest.raises(Gone):
        await behind(database, Reach(quiet.organization_id), str(last.event_id))
    own = Reach(quiet.organization_id, quiet.pod_id, quiet.inbox_id)
    assert await behind(database, own, str(last.event_id)) == []


async def test_now_is_good_when_everything_has_expired(database: Database) -> None:
    place = await an_inbox(database)
    await told(database, place, "one")
    await age(database, "one")
    await events.expire(database, days=30)
    assert await behind(database, Reach(place.organization_id), "now") == []
    with pytest.raises(Gone) as error:
        await behind(database, Reach(place.organization_id), str(uuid4()))
    assert error.value.oldest is None


async def test_erasing_an_inbox_breaks_no_reader(database: Database) -> None:
    """Organisations make and erase inboxes all day: their readers must not have to start over each time."""
    erased = await an_inbox(database)
    other = await neighbour(database, erased)
    (first,) = await told(database, other, "first")
    (last,) = await told(database, erased, "erased")
    async with database.transaction() as tx:
        await events.erase(tx, organization_id=erased.organization_id, inbox_id=erased.inbox_id)
    await told(database, other, "second")
    reach = Reach(erased.organization_id)
    assert await behind(database, reach, str(first.event_id)) == ["second"]
    assert await behind(database, reach, str(last.event_id)) == ["second"]


async def test_erasing_a_stranger_s_inbox_does_nothing(database: Database) -> None:
    place, stranger = await an_inbox(database), await an_inbox(database)
    await told(database, place, "one")
    async with database.transaction() as tx:
        await events.erase(tx, organization_id=stranger.organization_id, inbox_id=place.inbox_id)
    assert await names(database, place) == ["one"]


async def test_expiry_goes_on_beside_writers_and_publishers(database: Database) -> None:
    """It may neither wait for them nor hold them up."""
    place = await an_inbox(database)
    await told(database, place, "old")
    await age(database, "old")
    async with asyncio.timeout(5), database.transaction() as writer:
        await append(writer, place, "new")
        assert await events.expire(database, days=30) == 1
        async with database.transaction() as publisher:
            await events.publish(publisher, await events.unpublished(publisher, limit=10))
            assert await events.expire(database, days=30) == 0
    await publish(database)
    assert await names(database, place) == ["new"]
