"""Events of no inbox: told to whoever reaches their pod or the whole organisation, and to nobody else."""

from __future__ import annotations

import dataclasses
from uuid import UUID, uuid4

import pytest

from agentmail_cp import events
from agentmail_cp.access import Reach
from agentmail_cp.db import Database
from agentmail_cp.errors import Gone
from agentmail_cp.events import Event, EventType, Subscribed
from agentmail_cp.messages import Place
from tests.db.event_log import EVERYTHING, publish, write
from tests.db.mailbox import an_inbox


@dataclasses.dataclass(frozen=True)
class Audience:
    """Who asks, and for what part of it."""

    reach: Reach
    inbox_ids: frozenset[UUID] = frozenset()
    pod_ids: frozenset[UUID] = frozenset()


async def happen(db: Database, organization_id: UUID, pod_id: UUID | None) -> None:
    async with db.transaction() as tx:
        await events.append_of_scope(
            tx,
            organization_id=organization_id,
            pod_id=pod_id,
            type=EventType.DOMAIN_VERIFIED,
            facts={"domain": "acme.test"},
        )
    await publish(db)


async def told(db: Database, audience: Audience, *, position: int = 0) -> list[str]:
    """What a reader of the log is shown, and what a live subscriber takes of the same: never two answers."""
    wanted = Subscribed(
        reach=audience.reach,
        types=EVERYTHING,
        inbox_ids=audience.inbox_ids,
        pod_ids=audience.pod_ids,
    )
    async with db.reading() as tx:
        shown = await events.after(tx, wanted, position, limit=100)
        everything = await events.published_since(tx, position, limit=1000)
    assert [each for each in everything if wanted.wants(each)] == shown
    assert all(each.type is EventType.DOMAIN_VERIFIED for each in shown)
    return [each.facts["domain"] for each in shown]


def audiences(place: Place) -> dict[str, Audience]:
    whole, pod = Reach(place.organization_id), Reach(place.organization_id, place.pod_id)
    return {
        "organization": Audience(whole),
        "organization, the inbox named": Audience(whole, inbox_ids=frozenset({place.inbox_id})),
        "organization, the pod named": Audience(whole, pod_ids=frozenset({place.pod_id})),
        "pod": Audience(pod),
        "another pod": Audience(Reach(place.organization_id, uuid4())),
        "inbox": Audience(Reach(place.organization_id, place.pod_id, place.inbox_id)),
        "another organization": Audience(Reach(uuid4())),
    }


@pytest.mark.parametrize(
    ("of_pod", "hearing"),
    [
        (False, {"organization"}),
        (True, {"organization", "organization, the pod named", "pod"}),
    ],
)
async def test_who_is_told_of_an_event_without_an_inbox(
    database: Database,
    of_pod: bool,
    hearing: set[str],
) -> None:
    """A key of one customer's pod must not learn what happens elsewhere; who reaches it all hears it."""
    place = await an_inbox(database)
    await happen(database, place.organization_id, place.pod_id if of_pod else None)
    heard = {name: await told(database, audience) for name, audience in audiences(place).items()}
    assert {name for name, types in heard.items() if types} == hearing


async def test_it_takes_no_number_of_an_inbox(database: Database) -> None:
    """A gap in an inbox's numbers is a lost event to whoever counts."""
    place = await an_inbox(database)
    await write(database, place, "<1@x>")
    await happen(database, place.organization_id, place.pod_id)
    await write(database, place, "<2@x>")
    async with database.reading() as tx:
        log = await events.list_of_inbox(tx, place.organization_id, place.inbox_id)
    assert [each.seq for each in log] == [1, 2]


async def expire_all(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute("update event set created_at = created_at - interval '90 days'", {})
    await events.expire(db, days=30)


async def positions(db: Database, reach: Reach) -> list[Event]:
    async with db.reading() as tx:
        return await events.after(tx, Subscribed(reach=reach, types=EVERYTHING), 0, limit=100)


@pytest.mark.parametrize("of_pod", [False, True])
async def test_a_reader_who_missed_an_expired_one_is_told(
    database: Database,
    of_pod: bool,
) -> None:
    """Silence would let a consumer believe that its domain was never verified."""
    place = await an_inbox(database)
    pod_id = place.pod_id if of_pod else None
    await happen(database, place.organization_id, pod_id)
    await happen(database, place.organization_id, pod_id)
    reach = Reach(place.organization_id)
    first, second = await positions(database, reach)
    await expire_all(database)
    with pytest.raises(Gone):
        await told(database, Audience(reach), position=first.position or 0)
    assert await told(database, Audience(reach), position=second.position or 0) == []
    async with database.reading() as tx:
        assert (await events.place_of(tx, reach, str(second.event_id))).position == second.position
