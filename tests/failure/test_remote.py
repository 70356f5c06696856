"""Mail to another mail server: delivered, delayed, refused or given up, and what an agent hears of it.

Against a real Stalwart that delivers over SMTP to a server of the tests' own (`fix_remote.py`).
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from agentmail_cp import events, outcomes
from agentmail_cp.events import Event, EventType
from agentmail_cp.inboxes import inbox_uuid
from agentmail_cp.recipients import Recipient
from agentmail_cp.sandbox.reports import delivery_report
from tests.fix_app import Json, Service, until
from tests.fix_remote import FarService

pytestmark = pytest.mark.stalwart

NO_SUCH_USER = "550 5.1.1 No such user here"
FULL = "452 4.2.2 The mailbox is full"
COME_AGAIN = "451 4.7.1 Come again"
PATIENCE = 15.0


async def standing(service: Service, inbox: Json, sent: Json) -> dict[str, Recipient]:
    async with service.db.reading() as tx:
        found = await outcomes.of(
            tx,
            organization_id=service.organization_id,
            inbox_id=inbox_uuid(inbox["inbox_id"]),
            message_id=sent["message_id"],
        )
    return {each.address: each for each in found}


async def told(service: Service, inbox: Json, sent: Json) -> list[Event]:
    """The events about this message, but for those about labels."""
    async with service.db.reading() as tx:
        every = await events.list_of_inbox(
            tx, service.organization_id, inbox_uuid(inbox["inbox_id"])
        )
    about = [each for each in every if each.message_id == sent["message_id"]]
    return [each for each in about if not each.type.startswith("label.")]


async def labels(service: Service, inbox: Json, sent: Json) -> list[str]:
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{sent['message_id']}"
    answer = await service.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()["labels"]


def people(event: Event) -> list[str]:
    """Whom an event is about."""
    found: list[Any] = event.facts["recipients"]
    return [each if isinstance(each, str) else each["address"] for each in found]


async def test_each_recipient_has_its_own_fate(far_service: FarService) -> None:
    """The whole of it at once: taken, refused for good, taken at the second try, given up, and local."""
    service, remote = far_service.service, far_service.remote
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    taken, refused = far_service.recipient(), far_service.recipient(always=NO_SUCH_USER)
    late, never = far_service.recipient(COME_AGAIN), far_service.recipient(always=FULL)
    sent = await service.send(alice, to=[bob["email"], taken, refused, late, never], text="Hi")

    async def look() -> dict[str, Recipient]:
        return await standing(service, alice, sent)

    delayed = await until(look, lambda seen: seen[never].status == "delayed", seconds=PATIENCE)
    assert (delayed[never].code, delayed[never].diagnostic) == ("4.2.2", "The mailbox is full")
    assert "delayed" in await labels(service, alice, sent)
    final = await until(look, lambda seen: seen[never].status == "bounced", seconds=PATIENCE)
    assert {to: each.status for to, each in final.items()} == {
        **dict.fromkeys([bob["email"], taken, late], "delivered"),
        **dict.fromkeys([refused, never], "bounced"),
    }
    assert (final[refused].code, final[refused].diagnostic) == ("5.1.1", "No such user here")
    assert await labels(service, alice, sent) == ["bounced", "delivered", "sent"]
    arrived = [mail for mail in remote.taken if sent["message_id"].encode() in mail.raw]
    assert [mail.recipients for mail in arrived] == [(taken,), (late,)]

    seen = await told(service, alice, sent)
    delivered = [each for each in seen if each.type is EventType.MESSAGE_DELIVERED]
    bounced = [each for each in seen if each.type is EventType.MESSAGE_BOUNCED]
    assert seen[0].type is EventType.MESSAGE_SENT
    assert len(seen) == 1 + len(delivered) + len(bounced)
    assert sorted(to for each in delivered for to in people(each)) == sorted(
        [bob["email"], taken, late]
    )
    assert [people(each) for each in bounced] == [[refused], [never]]
    assert [each.facts["type"] for each in bounced] == ["Permanent", "Transient"]


async def test_a_bounce_mailed_by_the_other_server_is_an_outcome(far_service: FarService) -> None:
    """Many servers take a mail first and find out later that they cannot deliver it."""
    service = far_service.service
    alice, to = await service.inbox("alice"), far_service.recipient()
    sent = await service.send(alice, to=[to], text="Hi")

    async def look() -> list[EventType]:
        return [each.type for each in await told(service, alice, sent)]

    await until(look, lambda seen: EventType.MESSAGE_DELIVERED in seen, seconds=PATIENCE)
    mail = next(each for each in far_service.remote.taken if to in each.recipients)
    message_id = sent["message_id"].strip("<>")
    await asyncio.to_thread(_mail_report, service, mail.raw, mail.sender, to, message_id)
    await until(look, lambda seen: EventType.MESSAGE_BOUNCED in seen, seconds=PATIENCE)
    assert [each["message_id"] for each in await service.messages(alice)] == [sent["message_id"]]


def _mail_report(service: Service, raw: bytes, to: str, recipient: str, message_id: str) -> None:

    assert service.stalwart is not None
    report = delivery_report(
        raw,
        sender=to,
        recipient=recipient,
        hostname="mx.remote.test",
        now=datetime.now(UTC),
        message_id=message_id,
    )
    with service.stalwart.mx() as client:
        client.sendmail("", [to], report)


async def test_a_mail_nobody_heard_being_queued_is_found_in_the_queue(
    far_service: FarService,
) -> None:
    """The worker sends scheduled drafts while the API is away: Stalwart tells it to nobody."""
    service = far_service.service
    alice, to = await service.inbox("alice"), far_service.recipient(always=FULL)
    with far_service.front_door.closed():
        sent = await service.send(alice, to=[to], text="Hi")
        await service.server.ring()
    async with service.db.transaction() as tx:
        await tx.execute("delete from queued_mail")
        await tx.execute("update recipient set due_at = now()")

    async def look() -> str:
        await outcomes.ask(service.db, service.server)
        return (await standing(service, alice, sent))[to].status

    await until(look, lambda seen: seen in {"delayed", "bounced"}, seconds=PATIENCE)


async def test_a_large_mail_is_delivered_and_told(far_service: FarService) -> None:
    """Its headers alone tell whose it is; the hook must not take as long as the mail is large."""
    service = far_service.service
    alice, to = await service.inbox("alice"), far_service.recipient()
    content = "QUJD" * 2_500_000
    attached = [{"filename": "big.bin", "content": content, "content_type": "application/x-bin"}]
    sent = await service.send(alice, to=[to], text="Hi", attachments=attached)

    async def look() -> str:
        return (await standing(service, alice, sent))[to].status

    await until(look, lambda seen: seen == "delivered", seconds=PATIENCE)
