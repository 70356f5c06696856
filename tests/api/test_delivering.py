"""From a mail to a signed request at its receiver, in both worlds, and what the log says of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from agentmail import MessageReceivedEvent

from tests.fix_app import Json, Service, a_mail, serving, serving_on_stalwart, until
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_stalwart import StalwartServer
from tests.receiver import ON_LOOPBACK, Receiver, answer


@pytest_asyncio.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with Receiver.listening() as listening:
        yield listening


@pytest_asyncio.fixture
async def in_the_sandbox(
    database_url: str, sandbox_server: tuple[Any, int]
) -> AsyncGenerator[Service]:
    sandbox, port = sandbox_server
    async with serving(
        database_url, sandbox, smtp_port=port, outbound_allow=ON_LOOPBACK
    ) as running:
        yield running


@pytest_asyncio.fixture
async def on_stalwart(
    database_url: str, stalwart: StalwartServer, front_door: FrontDoor, porch: Porch
) -> AsyncGenerator[Service]:
    async with serving_on_stalwart(
        database_url, stalwart, front_door, porch, outbound_allow=ON_LOOPBACK
    ) as running:
        yield running


@pytest.fixture(
    params=[
        pytest.param("in_the_sandbox", id="sandbox"),
        pytest.param("on_stalwart", id="stalwart", marks=pytest.mark.stalwart),
    ]
)
def telling(request: pytest.FixtureRequest) -> Service:
    """A service that delivers to this machine, in both worlds."""
    return request.getfixturevalue(request.param)


async def endpoint(service: Service, url: str, **fields: Any) -> Json:
    answer = await service.client.post("/v0/webhooks", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def log_of(service: Service, webhook: Json) -> list[Json]:
    """Its deliveries with their attempts, newest first."""
    path = f"/v0/webhooks/{webhook['webhook_id']}/deliveries"
    listed = (await service.client.get(path)).json()["deliveries"]
    return [(await service.client.get(f"{path}/{each['delivery_id']}")).json() for each in listed]


async def until_told(service: Service, webhook: Json, state: str, attempts: int = 1) -> Json:
    """The only delivery of an endpoint, once it came to this."""
    (delivery,) = await until(
        lambda: log_of(service, webhook),
        lambda log: [(each["state"], each["attempt_count"]) for each in log] == [(state, attempts)],
    )
    return delivery


async def test_a_mail_arrives_as_a_signed_event(telling: Service, receiver: Receiver) -> None:
    """The whole way, read by the customer's own libraries."""
    webhook = await endpoint(
        telling, receiver.url(), event_types=["message.received"], headers={"X-Token": "t0ken"}
    )
    inbox = await telling.inbox("alice")
    await telling.deliver(a_mail(inbox["email"], "Hello", "Your words."))
    (got,) = await receiver.until(1)
    got.verify(webhook["secret"])
    event = MessageReceivedEvent.model_validate(got.event)
    assert event.event_type == "message.received"
    assert event.message.subject == "Hello"
    assert (event.message.text or "").strip() == "Your words."
    assert event.thread.thread_id == event.message.thread_id
    assert got.headers["svix-id"] == got.headers["webhook-id"] == event.event_id
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-token"] == "t0ken"
    delivery = await until_told(telling, webhook, "delivered")
    assert delivery["event_id"] == event.event_id
    (attempt,) = delivery["attempts"]
    assert (attempt["status_code"], attempt["response"]) == (200, "thanks")


async def test_a_receiver_that_comes_back_gets_it_with_the_same_id(
    telling: Service, receiver: Receiver
) -> None:
    webhook = await endpoint(telling, receiver.url(), event_types=["message.received"])
    inbox = await telling.inbox("alice")
    receiver.answers["/hook"] = answer(500, b"\xff\x00broken")
    await telling.deliver(a_mail(inbox["email"]))
    delivery = await until_told(telling, webhook, "pending")
    (attempt,) = delivery["attempts"]
    assert (attempt["status_code"], attempt["error"]) == (500, "refused")
    assert attempt["response"].endswith("broken")
    assert delivery["next_attempt_at"] > delivery["updated_at"]
    receiver.answers["/hook"] = answer(204)
    path = f"/v0/webhooks/{webhook['webhook_id']}/deliveries/{delivery['delivery_id']}/resend"
    await telling.client.post(path)
    first, second = await receiver.until(2)
    second.verify(webhook["secret"])
    assert second.headers["svix-id"] == first.headers["svix-id"]
    assert second.body == first.body
    await until_told(telling, webhook, "delivered", attempts=2)


async def test_a_test_event_is_delivered_and_signed(
    in_the_sandbox: Service, receiver: Receiver
) -> None:
    webhook = await endpoint(in_the_sandbox, receiver.url(), event_types=["message.bounced"])
    sent = await in_the_sandbox.client.post(f"/v0/webhooks/{webhook['webhook_id']}/test")
    (got,) = await receiver.until(1)
    got.verify(webhook["secret"])
    assert got.event["event_type"] == "message.bounced"
    assert got.headers["svix-id"] == got.event["event_id"] == sent.json()["delivery_id"]


async def test_410_ends_it(in_the_sandbox: Service, receiver: Receiver) -> None:
    """How a receiver unsubscribes; its owner sees why it is told nothing."""
    webhook = await endpoint(in_the_sandbox, receiver.url(), event_types=["message.received"])
    receiver.answers["/hook"] = answer(410)
    inbox = await in_the_sandbox.inbox("alice")
    await in_the_sandbox.deliver(a_mail(inbox["email"]))
    await until_told(in_the_sandbox, webhook, "failed")
    shown = (await in_the_sandbox.client.get(f"/v0/webhooks/{webhook['webhook_id']}")).json()
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "gone")


async def test_an_address_inside_is_not_reached(
    service: Service, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """Else anybody could talk to the operator's own services by way of a webhook (SSRF). A name shows where
    it leads only when it is delivered to.
    """
    webhook = await endpoint(service, "http://example.invalid/", event_types=["message.received"])
    async with service.db.transaction() as tx:
        await tx.execute("update webhook set url = %(url)s", {"url": receiver.url()})
    await service.client.post(f"/v0/webhooks/{webhook['webhook_id']}/test")
    delivery = await until_told(service, webhook, "pending")
    (attempt,) = delivery["attempts"]
    assert attempt["error"] == "not_allowed"
    assert attempt["message"].startswith("The endpoint has no address on the internet")
    assert "status_code" not in attempt
    assert receiver.got == []


async def test_a_deleted_mail_is_told_all_the_same(
    in_the_sandbox: Service, receiver: Receiver
) -> None:
    """Its text is gone, and the receiver still learns that it came."""
    receiver.answers["/hook"] = answer(503)
    webhook = await endpoint(in_the_sandbox, receiver.url(), event_types=["message.received"])
    inbox = await in_the_sandbox.inbox("alice")
    await in_the_sandbox.deliver(a_mail(inbox["email"], text="Secret words."))
    delivery = await until_told(in_the_sandbox, webhook, "pending")
    (message,) = await in_the_sandbox.messages(inbox)
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}"
    assert (await in_the_sandbox.client.delete(path)).status_code == 204
    receiver.answers["/hook"] = answer(200)
    await in_the_sandbox.client.post(
        f"/v0/webhooks/{webhook['webhook_id']}/deliveries/{delivery['delivery_id']}/resend"
    )
    _, second = await receiver.until(2)
    assert "Secret words." not in second.body.decode()
    assert second.event["message"]["message_id"] == message["message_id"]
