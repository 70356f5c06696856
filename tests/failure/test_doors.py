"""While nobody answers for policy, nothing leaves by any door of a real Stalwart, and mail still comes in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from tests.api import drafting
from tests.api.mailbox import at, rows, stored
from tests.fix_app import Json, Service, a_mail, until
from tests.fix_front_door import HOST, FrontDoor
from tests.fix_stalwart import Mailbox

pytestmark = pytest.mark.stalwart

SOON = 30.0


@pytest_asyncio.fixture(params=["unreachable", "mute"])
async def nobody(request: pytest.FixtureRequest) -> AsyncGenerator[int]:
    """A port at which Stalwart gets no answer: nobody listens, or whoever does says nothing."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(connected, HOST, 0)
    port: int = server.sockets[0].getsockname()[1]
    if request.param == "unreachable":
        server.close()
    yield port
    server.close()


@contextlib.contextmanager
def away(front_door: FrontDoor, port: int) -> Generator[None]:
    """Whatever Stalwart asks or tells gets there."""
    service, front_door.target = front_door.target, port
    try:
        yield
    finally:
        front_door.target = service


async def pair(service: Service) -> tuple[Json, Json]:
    return await service.inbox("alice"), await service.inbox("bob")


async def states(service: Service) -> list[str]:
    return [each["state"] for each in await rows(service, "select state from send")]


async def test_a_send_is_taken_back_and_can_be_repeated(
    real_service: Service, front_door: FrontDoor, nobody: int
) -> None:
    """Sent without anybody's leave it would pass every limit; refused for good, an agent would give up."""
    alice, bob = await pair(real_service)
    fields = {"to": bob["email"], "subject": "Once", "text": "Hello."}

    async def send() -> tuple[int, Json, str | None]:
        answer = await real_service.client.post(
            f"{at(alice)}/messages/send", json=fields, headers={"Idempotency-Key": "one"}
        )
        return answer.status_code, answer.json(), answer.headers.get("Retry-After")

    with away(front_door, nobody):
        status, body, retry_after = await send()
        assert (status, body["code"]) == (503, "service_unavailable")
        assert retry_after
        await until(lambda: states(real_service), lambda seen: seen == ["abandoned"], seconds=SOON)
        assert await stored(real_service, alice) == {}
        assert await rows(real_service, "select from send_count where count > 0") == []
    assert (await send())[0] == 200
    (message,) = await until(lambda: real_service.messages(bob), lambda seen: seen != [])
    assert message["subject"] == "Once"
    assert (await stored(real_service, alice)).keys() == {"Once"}


async def test_a_scheduled_draft_stays_and_is_tried_again(
    real_service: Service, front_door: FrontDoor, nobody: int
) -> None:
    """It would have failed for good because this service was away for a moment."""
    alice, bob = await pair(real_service)
    with away(front_door, nobody):
        made = await drafting.make(
            real_service,
            alice,
            to=bob["email"],
            subject="Later",
            text="Hello.",
            send_at=datetime.now(UTC).isoformat(),
        )
        await until(lambda: states(real_service), lambda seen: "abandoned" in seen, seconds=SOON)
        seen = await drafting.look(real_service, alice, made)
        assert seen["send_status"] == "scheduled"
        assert "send_error" not in seen
    (message,) = await until(
        lambda: real_service.messages(bob), lambda seen: seen != [], seconds=SOON
    )
    assert message["subject"] == "Later"


async def test_mail_clients_keep_their_mail_and_mail_comes_in(
    real_service: Service, front_door: FrontDoor
) -> None:
    """An outage of ours must cost nobody a mail: neither whom we serve nor who writes to them."""
    alice, bob = await pair(real_service)
    assert real_service.stalwart is not None
    mailbox = Mailbox("", alice["email"], alice["credentials"]["password"])
    with front_door.barring("/stalwart/hook"):

        def hand_in() -> tuple[int, int]:
            assert real_service.stalwart is not None
            with real_service.stalwart.submission(mailbox) as client:
                client.mail(alice["email"])
                refused, _ = client.rcpt(bob["email"])
                return refused, client.noop()[0]

        assert await asyncio.to_thread(hand_in) == (451, 250)
        await real_service.deliver(a_mail(bob["email"], "From outside"))
        (message,) = await until(lambda: real_service.messages(bob), lambda seen: seen != [])
    assert message["subject"] == "From outside"
