"""Events without mail: written, published and read as the service does it."""

from __future__ import annotations

from agentmail_cp import events, messages
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx
from agentmail_cp.events import Event, EventType, NewEvent, Subscribed
from agentmail_cp.messages import Place
from agentmail_cp.publication import Publication
from tests.db.mailbox import an_inbox

EVERYTHING = frozenset(EventType)


async def append(
    tx: Tx,
    place: Place,
    *names: str,
    type: EventType = EventType.MESSAGE_SENT,  # noqa: A002
) -> None:
    """Events of an inbox, called after their Message-IDs, in a transaction of the test's own."""
    await messages.lock(tx, place.organization_id, place.inbox_id)
    await events.append(
        tx,
        organization_id=place.organization_id,
        inbox_id=place.inbox_id,
        events=[
            NewEvent(type=type, thread_id=place.inbox_id, message_id=name, document_id=1)
            for name in names
        ],
    )


async def write(db: Database, place: Place, *names: str, **kind: EventType) -> None:
    """The same, committed."""
    async with db.transaction() as tx:
        await append(tx, place, *names, **kind)


async def publish(db: Database) -> int:
    """Publish one batch; how many events that were."""
    return await Publication(db).publish_batch()


async def everything(db: Database, place: Place, position: int = 0) -> list[Event]:
    """All that an organisation's reader sees behind a position."""
    async with db.reading() as tx:
        wanted = Subscribed(reach=Reach(place.organization_id), types=EVERYTHING)
        return await events.after(tx, wanted, position, limit=10_000)


async def names(db: Database, place: Place, position: int = 0) -> list[str | None]:
    """What the same are called."""
    return [event.message_id for event in await everything(db, place, position)]


async def neighbour(db: Database, place: Place) -> Place:
    """Another inbox of the same pod."""
    other = await an_inbox(db)
    beside = Place(other.inbox_id, place.organization_id, place.pod_id, other.domain)
    async with db.transaction() as tx:
        for table in ("inbox", "inbox_sync"):
            await tx.execute(
                f"update {table} set organization_id = %(organization_id)s, pod_id = %(pod_id)s"
                " where inbox_id = %(inbox_id)s",
                {
                    "organization_id": beside.organization_id,
                    "pod_id": beside.pod_id,
                    "inbox_id": beside.inbox_id,
                },
            )
    return beside
