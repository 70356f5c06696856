"""Deliveries when endpoints hang, refuse, redirect and lie, and when what we need ourselves is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

import pytest
import pytest_asyncio
import structlog.testing
from prometheus_client import REGISTRY
from psycopg.types.json import Jsonb

from agentmail_cp import jobs
from agentmail_cp.db import Database
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Event, EventType
from agentmail_cp.messages import Place
from agentmail_cp.outbound import OutboundError, Reason, Resolve
from agentmail_cp.settings import networks
from agentmail_cp.webhooks import Delivering, Webhook, delivering
from agentmail_cp.webhooks.claims import Claim
from tests.db.endpoints import Row, an_endpoint, claim, deliveries, happen, look_at
from tests.db.mailbox import an_inbox
from tests.fix_app import until
from tests.fix_proxy import Proxy, port_of, through
from tests.receiver import HANG, ON_LOOPBACK, Receiver, answer


class Words:
    """Puts events into words: for those in `away` it needs a mail server that is not there, for those in
    `unspeakable` it breaks, those in `unreadable` the mail server never gives, and before `allowed` it does
    not end.
    """

    def __init__(self) -> None:
        self.away: set[EventType] = set()
        self.unspeakable: set[str | None] = set()
        self.unreadable: set[str | None] = set()
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.calls: list[int] = []

    async def render(self, events: Sequence[Event]) -> list[bytes]:
        self.calls.append(len(events))
        await self.allowed.wait()
        if any(event.type in self.away for event in events):
            raise Unavailable("The mail server is not answering.")
        if any(event.message_id in self.unreadable for event in events):
            raise Unavailable("The mail server is not answering.")
        if any(event.message_id in self.unspeakable for event in events):
            raise KeyError
        return [f'{{"event_id":"{event.event_id}"}}'.encode() for event in events]


@pytest_asyncio.fixture
async def receiver() -> AsyncGenerator[Receiver]:
    async with Receiver.listening() as listening:
        yield listening


@pytest_asyncio.fixture
async def place(database: Database) -> Place:
    return await an_inbox(database)


@contextlib.asynccontextmanager
async def worker(
    db: Database,
    words: Words | None = None,
    allow: str = ON_LOOPBACK,
    resolve: Resolve | None = None,
) -> AsyncGenerator[Delivering]:
    """A worker that delivers while the context is open."""
    loop = Delivering(db, (words or Words()).render, networks(allow), resolve=resolve)
    running = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until_all(db: Database, webhook: Webhook, state: str, attempts: int = 1) -> list[Row]:
    return await until(
        lambda: deliveries(db, webhook),
        lambda rows: (
            bool(rows) and all((row.state, row.attempts) == (state, attempts) for row in rows)
        ),
    )


async def test_nobody_waits_for_an_endpoint_that_hangs_or_refuses(
    database: Database, place: Place, receiver: Receiver
) -> None:
    """Ten endpoints, one that never answers and one that is not there: everything for the other eight has
    arrived while the first attempt at the hanging one is still under way, and nothing is owed to anybody.
    """
    well = [await an_endpoint(database, place, receiver.url(f"/{name}")) for name in range(8)]
    receiver.answers["/hanging"] = HANG
    hanging = await an_endpoint(database, place, receiver.url("/hanging"))
    async with Receiver.listening() as closed:
        refusing = await an_endpoint(database, place, closed.url())
    async with worker(database):
        for first in range(1, 101, 25):
            await happen(database, place, *range(first, first + 25))
        for webhook in well:
            assert len(await until_all(database, webhook, "delivered")) == 100
        assert all(row.attempts == 0 for row in await deliveries(database, hanging))
        assert (await look_at(database, refusing)).failing_since is not None
    for name in range(8):
        assert len(receiver.at(f"/{name}")) == 100
    assert 1 <= len(receiver.at("/hanging")) <= 16


async def test_each_endpoint_gets_events_about_in_their_order(
    database: Database, place: Place, receiver: Receiver
) -> None:
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, *range(1, 61))
    async with worker(database):
        rows = await until_all(database, webhook, "delivered")
    order = [str(row.event_id) for row in rows]
    got = [each.event["event_id"] for each in receiver.got]
    assert sorted(got) == sorted(order)
    assert max(abs(got.index(each) - order.index(each)) for each in order) < 20


async def test_an_event_for_many_endpoints_is_put_into_words_once(
    database: Database, place: Place, receiver: Receiver
) -> None:
    for name in range(5):
        await an_endpoint(database, place, receiver.url(f"/{name}"))
    await happen(database, place, 1)
    words = Words()
    async with worker(database, words):
        for name in range(5):
            await receiver.until(1, f"/{name}")
    assert words.calls == [1]


async def test_deliveries_wait_for_the_mail_server_and_count_nothing(
    database: Database, place: Place, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour without it would use up the schedule, and the events were lost."""
    monkeypatch.setattr(delivering, "RECOVERY", 0.05)
    webhook = await an_endpoint(database, place, receiver.url())
    words = Words()
    words.away = set(EventType)
    await happen(database, place, 1, 2)
    async with worker(database, words):
        await until(lambda: _count(words.calls), lambda calls: calls >= 2)
        assert {row.attempts for row in await deliveries(database, webhook)} == {0}
        assert receiver.got == []
        words.away.clear()
        assert len(await until_all(database, webhook, "delivered")) == 2


async def _count(calls: list[int]) -> int:
    return len(calls)


async def test_what_carries_no_mail_need_not_wait_for_the_mail_server(
    database: Database, place: Place, receiver: Receiver
) -> None:
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1, 2)
    async with database.transaction() as tx:
        await tx.execute(
            "update event set type = 'message.sent' where message_id = '<m2@elsewhere.test>'"
        )

    words = Words()
    words.away = {EventType.MESSAGE_RECEIVED}
    async with worker(database, words):
        await receiver.until(1)
    assert [row.state for row in await deliveries(database, webhook)] == ["pending", "delivered"]


async def test_a_mail_that_cannot_be_read_keeps_no_other_waiting(
    database: Database, place: Place, receiver: Receiver
) -> None:
    """Anybody may send a mail that takes the mail server longer to read than it may: whatever was claimed
    with it, of whichever tenant, waited with it for ever.
    """
    other = await an_inbox(database)
    bad = await an_endpoint(database, place, receiver.url("/bad"))
    good = await an_endpoint(database, other, receiver.url("/good"))
    words = Words()
    words.unreadable = {"<m1@elsewhere.test>"}
    await happen(database, place, 1, 2, 3)
    await happen(database, other, 4, 5)
    async with worker(database, words):
        await until_all(database, good, "delivered")
        await until(lambda: deliveries(database, bad), lambda rows: all_delivered(rows[1:]))
        before = len(words.calls)
        await happen(database, other, 6)
        assert len(await until_all(database, good, "delivered")) == 3
        # Together once more would have been divided again.
        assert len([calls for calls in words.calls[before:] if calls == 1]) <= 2
        unread, *read = await deliveries(database, bad)
        assert (unread.state, unread.attempts) == ("pending", 0)
        assert all_delivered(read)
        words.unreadable.clear()
        await until(lambda: deliveries(database, bad), all_delivered, seconds=30.0)


def all_delivered(rows: list[Row]) -> bool:
    return all(row.state == "delivered" for row in rows)


async def test_an_event_that_cannot_be_told_harms_no_other(
    database: Database, place: Place, receiver: Receiver
) -> None:
    webhook = await an_endpoint(database, place, receiver.url())
    words = Words()
    words.unspeakable = {"<m2@elsewhere.test>"}
    await happen(database, place, 1, 2, 3)
    async with worker(database, words):
        await receiver.until(2)
        rows = await until(
            lambda: deliveries(database, webhook), lambda rows: all(row.attempts for row in rows)
        )
    assert [row.state for row in rows] == ["delivered", "pending", "delivered"]
    assert (await look_at(database, webhook)).failing_since is None


async def test_an_event_that_is_not_kept_any_longer_is_given_up(
    database: Database, place: Place, receiver: Receiver
) -> None:
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1)
    async with database.transaction() as tx:
        await tx.execute("delete from event")
    async with worker(database):
        await until_all(database, webhook, "failed")
    assert receiver.got == []


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer(301, Location="/elsewhere"), "redirect"),
        (answer(307, Location="http://127.0.0.1:1/"), "redirect"),
        (answer(404), "refused"),
        (answer(500), "refused"),
        (b"SSH-2.0-OpenSSH_9.7\r\n\r\n", "broken"),
    ],
)
async def test_anything_but_2xx_is_a_failure(
    database: Database, place: Place, receiver: Receiver, said: bytes, error: str
) -> None:
    """A redirect among them: it would carry the event past the check of its address."""
    receiver.answers["/hook"] = said
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1)
    async with worker(database):
        await until_all(database, webhook, "pending")
    assert await errors_of(database) == [error]
    assert [each.path for each in receiver.got] == ["/hook"]


async def errors_of(db: Database) -> list[str | None]:
    async with db.reading() as tx:
        rows = await (await tx.execute("select error from delivery_attempt")).fetchall()
    return [row["error"] for row in rows]


async def test_an_answer_is_read_no_further_than_2_kb(
    database: Database, place: Place, receiver: Receiver
) -> None:
    """An endpoint could fill our memory, or keep an attempt going for ever."""
    receiver.answers["/hook"] = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"y" * 9000
    )
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1)
    async with worker(database):
        await until_all(database, webhook, "delivered")
    async with database.reading() as tx:
        row = await (await tx.execute("select response from delivery_attempt")).fetchone()
    assert row == {"response": "y" * 2048}


async def test_what_is_not_even_asked_for_is_no_attempt(
    database: Database, place: Place, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of other tenants that nobody answers for made a healthy endpoint fail, of having no address."""
    monkeypatch.setattr(delivering, "BUSY", 0.05)
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        if len(asked) == 1:
            raise OutboundError(Reason.BUSY, "Too many names are being looked up.")
        return ["127.0.0.1"]

    webhook = await an_endpoint(database, place, f"http://well.test:{receiver.port}/hook")
    await happen(database, place, 1)
    async with worker(database, resolve=resolve):
        await until_all(database, webhook, "delivered", attempts=1)
    assert len(asked) == 2
    assert await errors_of(database) == [None]
    assert (await look_at(database, webhook)).failing_since is None


async def test_an_endpoint_that_hangs_costs_fifteen_seconds(
    database: Database, place: Place, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert delivering.TIMEOUT == 15
    monkeypatch.setattr(delivering, "TIMEOUT", 0.1)
    receiver.answers["/hook"] = HANG
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1)
    counted = timeouts()
    async with worker(database):
        await until_all(database, webhook, "pending")
    assert await errors_of(database) == ["timeout"]
    assert timeouts() == counted + 1


def timeouts() -> float:
    """What an operator sees of them."""
    name = "agentmail_webhook_attempts_total"
    return REGISTRY.get_sample_value(name, {"outcome": "timeout"}) or 0.0


async def test_private_addresses_are_refused_when_they_are_delivered_to(
    database: Database, place: Place, receiver: Receiver
) -> None:
    """What a name leads to shows only then, and may be the operator's own network (SSRF)."""
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1)
    async with worker(database, allow=""):
        await until_all(database, webhook, "pending")
    assert await errors_of(database) == ["not_allowed"]
    assert receiver.got == []


async def test_own_headers_cannot_replace_ours(
    database: Database, place: Place, receiver: Receiver
) -> None:
    """A forged signature, or a second length, would make a delivery mean something else."""
    forged = {
        "svix-id": "forged",
        "Webhook-Signature": "v1,forged",
        "content-type": "text/plain",
        "Content-Length": "1",
        "Host": "elsewhere.test",
        "Transfer-Encoding": "chunked",
        "X-Mine": "kept",
    }
    webhook = await an_endpoint(database, place, receiver.url(), headers={"X-Mine": "kept"})
    async with database.transaction() as tx:
        await tx.execute("update webhook set headers = %(headers)s", {"headers": Jsonb(forged)})
    await happen(database, place, 1)
    async with worker(database):
        (got,) = await receiver.until(1)
    got.verify(webhook.secret)
    assert got.headers["content-type"] == "application/json"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert "transfer-encoding" not in got.headers
    assert got.headers["x-mine"] == "kept"


async def test_a_worker_that_stops_gives_back_what_it_has(
    database: Database, place: Place, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each release, deliveries would otherwise be late by the length of a lease."""
    monkeypatch.setattr(delivering, "GRACE", 0.05)
    receiver.answers["/hook"] = HANG
    await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1)
    async with worker(database):
        await receiver.until(1)
    (again,) = await claim(database)
    assert again.failures == 0


async def test_what_is_under_way_may_end_when_a_worker_stops(
    database: Database, place: Place, receiver: Receiver
) -> None:
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, *range(1, 31))
    async with worker(database):
        await receiver.until(3)
    rows = await deliveries(database, webhook)
    done = [row for row in rows if row.state == "delivered"]
    assert len(done) == len({each.headers["svix-id"] for each in receiver.got})


async def test_what_takes_a_second_may_end_when_a_worker_stops(
    database: Database, place: Place, receiver: Receiver
) -> None:
    """With each release, whatever endpoints answer slowly would be delivered twice."""
    receiver.answers["/slow"] = HANG
    webhook = await an_endpoint(database, place, receiver.url("/slow"))
    await happen(database, place, 1)
    loop = Delivering(database, Words().render, networks(ON_LOOPBACK))
    running = asyncio.create_task(jobs.for_ever("deliveries", loop.run))
    await receiver.until(1, "/slow")
    asyncio.get_running_loop().call_later(1.2, receiver.let_go.set)
    await jobs.end([running])
    rows = await deliveries(database, webhook)
    assert [(row.state, row.attempts) for row in rows] == [("delivered", 1)]


async def test_outcomes_are_kept_while_the_database_is_away(
    database_url: str,
    database: Database,
    place: Place,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else everything that was delivered then would be delivered twice."""
    monkeypatch.setattr(delivering, "RECOVERY", 0.05)
    webhook = await an_endpoint(database, place, receiver.url())
    await happen(database, place, 1)
    async with Proxy(port_of(database_url)) as proxy:
        db = Database(through(database_url, proxy), size=4)
        await db.open()
        words = Words()
        words.allowed.clear()
        async with worker(db, words):
            await until(lambda: _count(words.calls), bool)
            proxy.refuse()
            words.allowed.set()
            await receiver.until(1)
            await proxy.heal()
            await until_all(database, webhook, "delivered")
        await db.close()
    assert len(receiver.got) == 1


async def test_logs_tell_the_host_and_nothing_else(
    database: Database, place: Place, receiver: Receiver
) -> None:
    """Query strings and headers hold the secrets of customers."""
    receiver.answers["/hook?token=s3cret"] = answer(500, b"an0ther")
    webhook = await an_endpoint(
        database, place, receiver.url("/hook?token=s3cret"), headers={"X-Token": "th1rd"}
    )
    await happen(database, place, 1)
    with structlog.testing.capture_logs() as logs:
        async with worker(database):
            await until_all(database, webhook, "pending")
    (said,) = [each for each in logs if each["event"] == "delivery.failed"]
    assert said["host"] == "127.0.0.1"
    assert said["status"] == 500
    for secret in ("s3cret", "an0ther", "th1rd", webhook.secret, "/hook"):
        assert secret not in str(logs)


def test_a_claim_shows_no_secret(place: Place) -> None:
    shown = Claim(
        delivery_id=place.inbox_id,
        number=1,
        organization_id=place.organization_id,
        webhook_id=place.inbox_id,
        event_id=None,
        event_type=EventType.MESSAGE_SENT,
        failures=0,
        claim_id=place.inbox_id,
        url="https://hooks.test/?token=s3cret",
        headers={"X-Token": "th1rd"},
        secrets=["whsec_c2VjcmV0"],
        failing=False,
    )
    assert not [each for each in ("s3cret", "th1rd", "whsec") if each in repr(shown)]
