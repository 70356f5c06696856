"""What became of sent mail, as an agent sees it: events, labels, and whom it may not write to any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agentmail_cp import events, outcomes
from agentmail_cp.events import Event, EventType
from agentmail_cp.inboxes import inbox_uuid
from agentmail_cp.sandbox import Faults, MailSandbox
from tests.fix_app import DOMAIN, Json, Service, a_mail, serving, serving_on_stalwart, until
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_stalwart import Mailbox, StalwartServer

ABOUT_SENT = {
    EventType.MESSAGE_SENT,
    EventType.MESSAGE_DELIVERED,
    EventType.MESSAGE_BOUNCED,
    EventType.MESSAGE_COMPLAINED,
    EventType.MESSAGE_REJECTED,
}
STRANGER = "grace@far.test"


async def told(service: Service, inbox: Json) -> list[Event]:
    """The events of an inbox that are not about labels."""
    async with service.db.reading() as tx:
        every = await events.list_of_inbox(
            tx, service.organization_id, inbox_uuid(inbox["inbox_id"])
        )
    return [each for each in every if not each.type.startswith("label.")]


async def told_of_sent(service: Service, inbox: Json, many: int) -> list[Event]:
    """So many events about what an inbox sent, as soon as there are."""

    async def look() -> list[Event]:
        return [each for each in await told(service, inbox) if each.type in ABOUT_SENT]

    return await until(look, lambda seen: len(seen) >= many, seconds=10)


async def labels(service: Service, inbox: Json, message_id: str) -> list[str]:
    answer = await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}/messages/{message_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()["labels"]


async def deliveries(service: Service, inbox: Json, message_id: str) -> dict[str, str]:
    async with service.db.reading() as tx:
        rows = await outcomes.of(
            tx,
            organization_id=service.organization_id,
            inbox_id=inbox_uuid(inbox["inbox_id"]),
            message_id=message_id,
        )
    return {each.address: each.status for each in rows}


async def test_a_delivery_is_told_and_labelled(anywhere: Service) -> None:
    """An agent would not know that its mail arrived."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    sent = await anywhere.send(alice, to=[bob["email"]], text="Hi")
    first, second = await told_of_sent(anywhere, alice, 2)
    assert (first.type, second.type) == (EventType.MESSAGE_SENT, EventType.MESSAGE_DELIVERED)
    assert second.message_id == sent["message_id"]
    assert second.facts == {"recipients": [bob["email"]]}
    assert await labels(anywhere, alice, sent["message_id"]) == ["delivered", "sent"]
    assert await deliveries(anywhere, alice, sent["message_id"]) == {bob["email"]: "delivered"}


async def test_a_refused_recipient_is_told_and_labelled(anywhere: Service) -> None:
    """Only the caller of the send would know, and whoever watches events would not."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    nobody = f"nobody{anywhere.suffix}@{DOMAIN}"
    sent = await anywhere.send(alice, to=[bob["email"], nobody], text="Hi")
    events_ = await told_of_sent(anywhere, alice, 3)
    (rejected,) = [each for each in events_ if each.type is EventType.MESSAGE_REJECTED]
    assert rejected.facts["reason"].startswith(f"{nobody}: 550")
    (delivered,) = [each for each in events_ if each.type is EventType.MESSAGE_DELIVERED]
    assert delivered.facts == {"recipients": [bob["email"]]}
    assert await labels(anywhere, alice, sent["message_id"]) == ["delivered", "rejected", "sent"]
    await anywhere.inbox("nobody")
    await anywhere.send(alice, to=[nobody], text="Hi")


async def test_a_send_that_all_refuse_tells_nothing(anywhere: Service) -> None:
    """It is 403 and leaves no trace, as ever."""
    alice = await anywhere.inbox("alice")
    answer = await anywhere.client.post(
        f"/v0/inboxes/{alice['inbox_id']}/messages/send",
        json={"to": [f"nobody{anywhere.suffix}@{DOMAIN}"], "text": "Hi"},
    )
    assert answer.status_code == 403
    assert await told(anywhere, alice) == []


@pytest.mark.stalwart
async def test_mail_a_script_hands_in_is_told_of_too(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor, porch: Porch
) -> None:
    """What became of mail would be known of the API's alone."""
    async with serving_on_stalwart(
        database_url, stalwart, front_door, porch, submission_copy_delay=0.1
    ) as service:
        alice, bob = await service.inbox("alice"), await service.inbox("bob")
        mailbox = Mailbox("", alice["email"], alice["credentials"]["password"])
        mail = a_mail(bob["email"], "By hand", From=alice["email"], Message_ID="<own@script.test>")

        def hand_in() -> None:
            with stalwart.submission(mailbox) as client:
                client.send_message(mail)

        await asyncio.to_thread(hand_in)
        first, second = await told_of_sent(service, alice, 2)
        assert (first.type, second.type) == (EventType.MESSAGE_SENT, EventType.MESSAGE_DELIVERED)
        assert second.message_id == "<own@script.test>"
        assert await labels(service, alice, "<own@script.test>") == ["delivered", "sent"]


async def test_labels_of_outcomes_are_the_servers(service: Service) -> None:
    """A caller could make mail look delivered."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    sent = await service.send(alice, to=[bob["email"]], text="Hi")
    await told_of_sent(service, alice, 2)
    path = f"/v0/inboxes/{alice['inbox_id']}/messages/{sent['message_id']}"
    for change in ({"add_labels": ["bounced"]}, {"remove_labels": ["delivered"]}):
        answer = await service.client.patch(path, json=change)
        assert answer.status_code == 400, answer.text
    answer = await service.client.patch(path, json={"add_labels": ["mine"]})
    assert answer.json()["labels"] == ["delivered", "mine", "sent"]
    assert [each["message_id"] for each in await service.messages(alice, labels="delivered")] == [
        sent["message_id"]
    ]


class Bouncing(msgspec.Struct, frozen=True):
    """A service whose mail server can be told what becomes of mail."""

    service: Service
    sandbox: MailSandbox

    async def bounced(self, *to: str) -> tuple[Json, Json]:
        """An inbox and a message of which every recipient bounced."""
        alice = await self.service.inbox("alice")
        self.sandbox.faults = Faults(bounce=frozenset(to))
        sent = await self.service.send(alice, to=list(to), text="Hi")
        await told_of_sent(self.service, alice, 2)
        self.sandbox.faults = Faults()
        return alice, sent


@pytest_asyncio.fixture
async def bouncing(service: Service) -> AsyncGenerator[Bouncing]:
    assert isinstance(service.server, MailSandbox)
    yield Bouncing(service, service.server)


async def settled(service: Service, inbox: Json) -> None:
    """Wait until everything in the mailbox was read: what arrives last is in the index."""
    before = len(await service.messages(inbox, include_blocked="true"))
    await service.deliver(a_mail(inbox["email"], "Last"))
    await until(lambda: service.messages(inbox), lambda seen: len(seen) > before)


async def test_a_bounce_is_one_event_and_no_message(bouncing: Bouncing) -> None:
    """The queue tells it, and a mail does: an agent would read a machine's mail, and count two bounces."""
    alice, sent = await bouncing.bounced(STRANGER)
    await settled(bouncing.service, alice)
    _, bounce, *rest = await told(bouncing.service, alice)
    assert bounce.type is EventType.MESSAGE_BOUNCED
    assert bounce.facts == {
        "type": "Permanent",
        "sub_type": "NoEmail",
        "recipients": [{"address": STRANGER, "status": "bounced"}],
    }
    assert [each.type for each in rest] == [EventType.MESSAGE_RECEIVED]
    assert [each["subject"] for each in await bouncing.service.messages(alice)] == ["Last", ""]
    assert await labels(bouncing.service, alice, sent["message_id"]) == ["bounced", "sent"]


async def test_reading_the_mailbox_from_scratch_tells_nothing_again(bouncing: Bouncing) -> None:
    """After a long outage every bounce would be told again, or turn into a message."""
    alice, sent = await bouncing.bounced(STRANGER)
    service = bouncing.service
    await settled(service, alice)
    before = await told(service, alice)
    path = f"/v0/inboxes/{alice['inbox_id']}/messages/{sent['message_id']}"
    for delete in (False, True):
        if delete:
            assert (await service.client.delete(path)).status_code < 300
        async with service.db.transaction() as tx:
            await tx.execute("update inbox_sync set state = null, due_at = now()")
            await tx.execute("select pg_notify('intake', '')")
        await settled(service, alice)
        every = await told(service, alice)
        assert [each.type for each in every[len(before) :]] == [EventType.MESSAGE_RECEIVED]
        before = every


async def test_who_bounced_is_not_written_to_again(bouncing: Bouncing) -> None:
    """Mail to dead addresses ruins the sender's reputation."""
    alice, _ = await bouncing.bounced(STRANGER)
    answer = await bouncing.service.client.post(
        f"/v0/inboxes/{alice['inbox_id']}/messages/send", json={"to": [STRANGER], "text": "Again"}
    )
    assert answer.status_code == 403
    assert STRANGER in answer.json()["message"]
    entries = (await bouncing.service.client.get("/v0/lists/send/block")).json()["entries"]
    assert [(each["entry"], each["read_only"]) for each in entries] == [(STRANGER, True)]


async def test_a_complaint_is_told_and_ends_the_correspondence(bouncing: Bouncing) -> None:
    """Whoever calls our mail spam must never get more of it."""
    service, sandbox = bouncing.service, bouncing.sandbox
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    sandbox.faults = Faults(complain=frozenset({bob["email"]}))
    sent = await service.send(alice, to=[bob["email"]], text="Buy!")
    seen = await told_of_sent(service, alice, 3)
    complaint = next(each for each in seen if each.type is EventType.MESSAGE_COMPLAINED)
    assert complaint.facts["recipients"] == [bob["email"]]
    assert complaint.facts["type"] == "abuse"
    assert "complained" in await labels(service, alice, sent["message_id"])
    answer = await service.client.post(
        f"/v0/inboxes/{alice['inbox_id']}/messages/send", json={"to": [bob["email"]], "text": "?"}
    )
    assert answer.status_code == 403


async def test_a_delay_is_seen_and_then_its_end(bouncing: Bouncing) -> None:
    service, sandbox = bouncing.service, bouncing.sandbox
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    sandbox.faults = Faults(delay=frozenset({bob["email"]}))
    sent = await service.send(alice, to=[bob["email"]], text="Hi")
    path = (alice, sent["message_id"])
    await until(lambda: labels(service, *path), lambda seen: "delayed" in seen)
    assert await deliveries(service, *path) == {bob["email"]: "delayed"}
    sandbox.faults = Faults()
    sandbox.retry()
    await until(lambda: labels(service, *path), lambda seen: seen == ["delivered", "sent"])
    assert [each.type for each in await told(service, alice)] == [
        EventType.MESSAGE_SENT,
        EventType.MESSAGE_DELIVERED,
    ]


def a_bounce(to: str, message_id: str, recipient: str, **headers: str) -> bytes:
    """A delivery report as another server writes it, and as anybody can."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"From: MAILER-DAEMON@far.test\r\nTo: {to}\r\nSubject: Undelivered\r\n{more}"
        "MIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; boundary="b"; report-type=delivery-status\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.far.test\r\n\r\n"
        f"Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
        f"--b\r\nContent-Type: text/rfc822-headers\r\n\r\nMessage-ID: {message_id}\r\n--b--\r\n"
    ).encode()


async def test_a_late_bounce_by_mail_is_an_outcome(anywhere: Service) -> None:
    """Many servers take mail first and refuse it later; an agent would get a machine's mail to read."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    sent = await anywhere.send(alice, to=[bob["email"]], text="Hi")
    await told_of_sent(anywhere, alice, 2)
    raw = a_bounce(alice["email"], sent["message_id"], bob["email"])
    await anywhere.deliver(raw, alice["email"])
    await settled(anywhere, alice)
    every = await told_of_sent(anywhere, alice, 3)
    assert [each.type for each in every][1:] == [
        EventType.MESSAGE_DELIVERED,
        EventType.MESSAGE_BOUNCED,
    ]
    shown = await anywhere.messages(alice)
    assert [each["subject"] for each in shown] == ["Last", ""]


async def test_a_forged_bounce_is_no_outcome(service: Service) -> None:
    """Whoever knows a mail's Message-ID could keep an agent from ever writing there again, in the name of
    the other's own server.
    """
    assert isinstance(service.server, MailSandbox)
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    sent = await service.send(alice, to=[bob["email"]], text="Hi")
    await told_of_sent(service, alice, 2)
    service.server.authentication_results = (
        "mail.agents.test; spf=fail smtp.mailfrom=far.test; dmarc=fail policy.dmarc=reject"
    )
    raw = a_bounce(alice["email"], sent["message_id"], bob["email"])
    await service.deliver(raw, alice["email"])
    shown = await until(
        lambda: service.messages(alice, include_unauthenticated="true"),
        lambda seen: len(seen) == 2,
    )
    assert shown[0]["subject"] == "Undelivered"
    assert "unauthenticated" in shown[0]["labels"]
    assert await labels(service, alice, sent["message_id"]) == ["delivered", "sent"]
    assert (await service.client.get("/v0/lists/send/block")).json()["entries"] == []


async def test_one_recipient_cannot_bar_another(service: Service) -> None:
    """A customer who got a mail with others could hand in a report on them, and nobody in the sender's
    organisation could write to them again. Mail that is handed in has no Received header.
    """
    alice = await service.inbox("alice")
    grace, mallory = STRANGER, "mallory@elsewhere.test"
    sent = await service.send(alice, to=[grace, mallory], text="Hi")
    await service.deliver(a_bounce(alice["email"], sent["message_id"], grace), alice["email"])

    async def bounced() -> list[str]:
        return await labels(service, alice, sent["message_id"])

    await until(bounced, lambda seen: "bounced" in seen)
    await settled(service, alice)
    assert (await service.client.get("/v0/lists/send/block")).json()["entries"] == []


async def test_lists_do_not_keep_a_bounce_out(anywhere: Service) -> None:
    """An inbox that hears from friends alone would never learn that its mail came back."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    for direction in ("receive", "reply"):
        answer = await anywhere.client.post(
            f"/v0/inboxes/{alice['inbox_id']}/lists/{direction}/allow",
            json={"entry": "friend@elsewhere.test"},
        )
        assert answer.status_code == 201, answer.text
    sent = await anywhere.send(alice, to=[bob["email"]], text="Hi")
    await told_of_sent(anywhere, alice, 2)
    raw = a_bounce(alice["email"], sent["message_id"], bob["email"])
    await anywhere.deliver(raw, alice["email"])
    every = await told_of_sent(anywhere, alice, 3)
    assert every[-1].type is EventType.MESSAGE_BOUNCED
    assert len(await anywhere.messages(alice, include_blocked="true")) == 1


@pytest.mark.parametrize(
    ("message_id", "recipient"),
    [("<unknown@agents.test>", "bob"), (None, "eve"), ("<one@else.test>", "eve")],
    ids=["unknown-mail", "another-recipient", "neither"],
)
async def test_a_report_about_something_else_is_ordinary_mail(
    service: Service, message_id: str | None, recipient: str
) -> None:
    """A stranger could make mail vanish, or say what became of mail it knows nothing about."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    carol = await service.inbox("carol")
    sent = await service.send(alice, to=[bob["email"], carol["email"]], text="Hi")
    await told_of_sent(service, alice, 2)
    about = message_id or sent["message_id"]
    await service.deliver(a_bounce(alice["email"], about, f"{recipient}@{DOMAIN}"), alice["email"])
    shown = await until(lambda: service.messages(alice), lambda seen: len(seen) == 2)
    assert shown[0]["subject"] == "Undelivered"
    assert "bounced" not in await labels(service, alice, sent["message_id"])


async def test_a_report_about_another_inbox_s_mail_is_ordinary_mail(service: Service) -> None:
    """A customer could say what became of another's mail."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    sent = await service.send(alice, to=[bob["email"]], text="Hi")
    await told_of_sent(service, alice, 2)
    await service.deliver(a_bounce(bob["email"], sent["message_id"], bob["email"]), bob["email"])
    await until(lambda: service.messages(bob), lambda seen: len(seen) == 2)
    assert await labels(service, alice, sent["message_id"]) == ["delivered", "sent"]


async def test_a_stranger_s_report_bars_nobody_else(service: Service) -> None:
    """One of several recipients could bar the others from a customer's mail."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    server = service.server
    assert isinstance(server, MailSandbox)
    sent = await service.send(alice, to=[bob["email"], STRANGER], text="Hi")
    await told_of_sent(service, alice, 2)
    await service.deliver(a_bounce(alice["email"], sent["message_id"], STRANGER), alice["email"])
    await until(lambda: labels(service, alice, sent["message_id"]), lambda seen: "bounced" in seen)
    await service.send(alice, to=[STRANGER], text="Are you there?")


async def test_feedback_can_be_messages_as_well(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """Who reads bounces in the mailbox would miss them."""
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, feedback_enabled=True) as service:
        alice, _ = await Bouncing(service, sandbox).bounced(STRANGER)
        shown = await until(lambda: service.messages(alice), lambda seen: len(seen) == 2)
        assert shown[0]["subject"] == "Failed to deliver message"
        every = await told(service, alice)
        assert sorted(each.type for each in every) == [
            EventType.MESSAGE_BOUNCED,
            EventType.MESSAGE_RECEIVED,
            EventType.MESSAGE_SENT,
        ]


async def test_rates_count_recipients_for_whom_it_went_wrong(bouncing: Bouncing) -> None:
    """A customer would learn from its mail provider that half of its mail bounces."""
    service = bouncing.service
    alice, _ = await bouncing.bounced(STRANGER, "carl@far.test")
    bob = await service.inbox("bob")
    await service.send(alice, to=[bob["email"], "ok@far.test"], text="Hi")
    answer = await service.client.get(f"/v0/inboxes/{alice['inbox_id']}/metrics/rates")
    assert answer.status_code == 200, answer.text
    rates: dict[str, Any] = answer.json()
    assert rates["bounce"][-1]["rate"] == 0.5
    counted = (await service.client.get(f"/v0/inboxes/{alice['inbox_id']}/metrics/events")).json()
    assert [each["count"] for each in counted["message.bounced"]] == [1]
