"""Waiting for a message: agents that sign up somewhere get the mail they asked for, and no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from copy import copy
from typing import Any

import httpx
import pytest

from agentmail_cp import arrivals
from agentmail_cp.arrivals import Since, Wanted
from agentmail_cp.db import Tx
from agentmail_cp.events import Feed
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import AccountId, DocumentId, Folder, MailContent
from agentmail_cp.sandbox import Faults, MailSandbox
from tests.api.faults import fault, mistake
from tests.api.mailbox import arrive, at, path_of, put, restricted, rows
from tests.fix_app import Json, Service, a_mail, serving, until

LONG_AGO = "2026-01-01T00:00:00Z"


async def wait(
    service: Service,
    inbox: Json,
    since: str = LONG_AGO,
    timeout: float = 0,  # noqa: ASYNC109 - a query parameter
    **query: str,
) -> httpx.Response:
    return await service.client.get(
        f"{at(inbox)}/messages/wait",
        params={"since": since, "timeout": timeout, **query},
        timeout=70,
    )


async def subject_of(answer: httpx.Response) -> str | None:
    """The subject of the message that was answered; None for 204."""
    if answer.status_code == 204:
        assert answer.content == b""
        return None
    assert answer.status_code == 200, answer.text
    return answer.json()["subject"]


class Waits:
    """Requests that wait, from when they do."""

    def __init__(self) -> None:
        self.feeds = set[Feed]()
        self.looked = 0

    def note(self, feed: Feed) -> None:
        self.feeds.add(feed)

    async def open(self) -> int:
        """How many are subscribed to what happens."""
        return sum(each.subscribers for each in self.feeds)

    @contextlib.asynccontextmanager
    async def waiting(
        self, service: Service, inbox: Json, **query: str
    ) -> AsyncGenerator[asyncio.Task[httpx.Response]]:
        before = self.looked
        task = asyncio.create_task(wait(service, inbox, timeout=20, **query))

        async def looked() -> int:
            return self.looked

        try:
            await until(looked, lambda now: now > before or task.done())
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    known = Waits()
    first, subscribe = arrivals.first, Feed.subscribe

    async def looked(tx: Tx, place: Place, since: Since, wanted: Wanted) -> object:
        found = await first(tx, place, since, wanted)
        known.looked += 1
        return found

    def subscribed(self: Feed, *args: Any, **kwargs: Any) -> object:
        known.note(self)
        return subscribe(self, *args, **kwargs)

    monkeypatch.setattr(arrivals, "first", looked)
    monkeypatch.setattr(Feed, "subscribe", subscribed)
    return known


async def test_a_message_that_comes_while_somebody_waits_ends_the_wait(
    anywhere: Service, waits: Waits
) -> None:
    """Whole, with its code, so that an agent needs no second request."""
    inbox = await anywhere.inbox("sign-up")
    async with waits.waiting(anywhere, inbox) as task:
        await anywhere.deliver(a_mail(inbox["email"], "Welcome", "Your code is 482913."))
        answer = await task
    assert await subject_of(answer) == "Welcome"
    message = answer.json()
    assert message["extracted_codes"] == [{"code": "482913", "confidence": 0.9}]
    whole = await anywhere.client.get(path_of(inbox, message))
    assert message == whole.json()
    thread = await anywhere.client.get(f"{at(inbox)}/threads/{message['thread_id']}")
    assert thread.json()["messages"] == [message]


async def test_a_message_that_came_before_the_request_is_found(anywhere: Service) -> None:
    """However many came after it: what was asked for is not the newest."""
    inbox = await anywhere.inbox("late")
    mails = [a_mail(inbox["email"], f"{number}") for number in range(30)]
    await arrive(anywhere, inbox, *mails)
    assert await subject_of(await wait(anywhere, inbox)) == "0"
    assert await subject_of(await wait(anywhere, inbox, subject="17")) == "17"


async def test_only_what_arrived_after_since_counts(service: Service) -> None:
    inbox = await service.inbox("since")
    first, second = await arrive(
        service,
        inbox,
        a_mail(inbox["email"], "first"),
        a_mail(inbox["email"], "second", Date="Thu, 1 Jan 2032 00:00:00 +0000"),
    )
    for since, expected in ((LONG_AGO, "first"), (first["created_at"], "second")):
        assert await subject_of(await wait(service, inbox, since)) == expected
    assert await subject_of(await wait(service, inbox, second["created_at"])) is None
    log = await rows(service, "select event_id from event order by seq")
    first_event, second_event = (str(row["event_id"]) for row in log)
    assert await subject_of(await wait(service, inbox, first_event)) == "second"
    assert await subject_of(await wait(service, inbox, second_event)) is None


async def test_a_date_header_does_not_decide_when_a_message_came(
    service: Service, waits: Waits
) -> None:
    """Strangers write it."""
    inbox = await service.inbox("dates")
    await arrive(service, inbox, a_mail(inbox["email"], "old"))
    async with waits.waiting(service, inbox, since=await moment(service)) as task:
        mail = a_mail(inbox["email"], "Ancient", Date="Thu, 1 Jan 1998 00:00:00 +0000")
        await service.deliver(mail)
        assert await subject_of(await task) == "Ancient"


async def moment(service: Service) -> str:
    """What time it is for the database."""
    ((row),) = await rows(service, "select clock_timestamp() as now")
    return row["now"].isoformat()


async def test_a_time_ahead_of_ours_is_now(service: Service, waits: Waits) -> None:
    """An agent's clock may be fast; its mail has come all the same."""
    inbox = await service.inbox("fast")
    await arrive(service, inbox, a_mail(inbox["email"], "before"))
    async with waits.waiting(service, inbox, since="2999-01-01T00:00:00+02:00") as task:
        await service.deliver(a_mail(inbox["email"], "after"))
        assert await subject_of(await task) == "after"


async def test_sender_and_subject_are_matched_like_those_of_lists(
    service: Service, waits: Waits
) -> None:
    inbox = await service.inbox("picky")
    async with waits.waiting(
        service, inbox, **{"from": "no-reply@shop.test", "subject": "VERIFY"}
    ) as task:
        shop = "Shop <No-Reply@shop.test>"
        for mail in (
            a_mail(inbox["email"], "Verify your address"),
            a_mail(inbox["email"], "Sale: 100%_off", From=shop),
            a_mail(inbox["email"], "Please verify your address", From=shop),
        ):
            await service.deliver(mail)
        assert await subject_of(await task) == "Please verify your address"
    assert await subject_of(await wait(service, inbox, subject="100%_OFF")) == "Sale: 100%_off"
    assert await subject_of(await wait(service, inbox, subject="100__off")) is None


async def test_what_the_inbox_sends_is_not_waited_for(service: Service) -> None:
    inbox = await service.inbox("talker")
    await service.send(inbox, to="ada@elsewhere.test", subject="Mine", text="Hi.")
    assert await subject_of(await wait(service, inbox)) is None


async def test_hidden_mail_is_found_by_those_only_who_ask_and_may(service: Service) -> None:
    inbox = await service.inbox("hidden")
    await put(service, inbox, a_mail(inbox["email"], "Pills"), Folder.JUNK)
    assert await subject_of(await wait(service, inbox)) is None
    assert await subject_of(await wait(service, inbox, include_spam="true")) == "Pills"
    service.client.headers.update(await restricted(service, "message_read"))
    assert await subject_of(await wait(service, inbox, include_spam="true")) is None


async def test_a_message_deleted_meanwhile_is_passed_over(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the API, or by a mail client of which we have not heard yet."""
    inbox = await service.inbox("gone")
    known, unknown, _ = await arrive(
        service, inbox, *(a_mail(inbox["email"], each) for each in ("known", "unknown", "there"))
    )
    await service.client.delete(path_of(inbox, known))
    read, calls = service.server.read, 0

    async def gone_once(
        account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> Mapping[DocumentId, MailContent]:
        nonlocal calls
        calls += 1
        return {} if calls == 1 else await read(account_id, document_ids)

    monkeypatch.setattr(service.server, "read", gone_once)
    assert unknown["subject"] == "unknown"
    assert await subject_of(await wait(service, inbox)) == "there"


async def test_nothing_in_time_is_no_content(service: Service) -> None:
    inbox = await service.inbox("empty")
    started = asyncio.get_running_loop().time()
    assert await subject_of(await wait(service, inbox, timeout=0.2)) is None
    assert asyncio.get_running_loop().time() - started >= 0.2


async def test_waiting_takes_no_connection(service: Service, waits: Waits) -> None:
    """A hundred agents that wait would keep everybody else out of the database."""
    inbox = await service.inbox("crowd")
    async with contextlib.AsyncExitStack() as stack:
        tasks = [await stack.enter_async_context(waits.waiting(service, inbox)) for _ in range(40)]
        assert (await service.client.get(at(inbox))).status_code == 200
        await service.deliver(a_mail(inbox["email"], "For all"))
        assert {await subject_of(await task) for task in tasks} == {"For all"}


async def test_a_wait_ends_when_the_service_stops(service: Service, waits: Waits) -> None:
    """A deployment would take a minute, or cut off whoever waits."""
    inbox = await service.inbox("stopped")
    async with waits.waiting(service, inbox) as task:
        for feed in waits.feeds:
            feed.close()
        answer = await task
    fault(answer, 503)
    assert answer.headers["retry-after"] == "1"


async def test_mail_that_another_replica_hears_of_ends_the_wait(
    service: Service, waits: Waits
) -> None:
    """The bell rings there; here is who waits."""
    inbox = await service.inbox("far")
    async with (
        waits.waiting(service, inbox) as task,
        # The last service that is started is the one the sandbox rings at.
        serving(service.db.url, service.server, sweep_interval=60.0),
    ):
        await service.deliver(a_mail(inbox["email"], "From afar"))
        assert await subject_of(await task) == "From afar"


async def test_a_wait_ends_when_its_client_leaves(sandbox_service: Service, waits: Waits) -> None:
    """Clients that hang up and ask again would add up to a crowd that nobody waits with."""
    inbox = await sandbox_service.inbox("impatient")
    async with httpx.AsyncClient(
        base_url=sandbox_service.url, headers=sandbox_service.client.headers
    ) as client:
        over_http = copy(sandbox_service)
        over_http.client = client
        async with waits.waiting(over_http, inbox):
            assert await waits.open() > 0
    await until(waits.open, lambda count: count == 0)


async def test_the_mail_server_away_is_said(service: Service) -> None:
    """Rather than that there is no mail."""
    inbox = await service.inbox("away")
    await arrive(service, inbox, a_mail(inbox["email"], "Welcome"))
    assert isinstance(service.server, MailSandbox)
    service.server.faults = Faults(down=True)
    answer = await wait(service, inbox)
    fault(answer, 503)
    assert answer.headers["retry-after"]
    service.server.faults = Faults()
    assert await subject_of(await wait(service, inbox)) == "Welcome"


async def test_an_event_that_is_not_known_is_gone(service: Service) -> None:
    """Mail may have come after it that we cannot tell of."""
    inbox = await service.inbox("forgotten")
    fault(await wait(service, inbox, "0193b1a7-0000-7000-8000-000000000000"), 410)


@pytest.mark.parametrize(
    ("query", "field", "detail"),
    [
        ("", "since", "REQUIRED"),
        ("since=", "since", "REQUIRED"),
        ("since=yesterday", "since", "INVALID_TIME"),
        ("since=now", "since", "INVALID_TIME"),
        ("since=2026-01-01&timeout=61", "timeout", "INVALID_SECONDS"),
        ("since=2026-01-01&timeout=-1", "timeout", "INVALID_SECONDS"),
        ("since=2026-01-01&timeout=soon", "timeout", "INVALID_SECONDS"),
        ("since=2026-01-01&timeout=nan", "timeout", "INVALID_SECONDS"),
        ("since=2026-01-01&include_spam=perhaps", "include_spam", "INVALID_BOOLEAN"),
        ("since=2026-01-01&subject=%00", "subject", "INVALID_VALUE"),
    ],
)
async def test_mistakes_are_told(service: Service, query: str, field: str, detail: str) -> None:
    inbox = await service.inbox("mistaken")
    mistake(await service.client.get(f"{at(inbox)}/messages/wait?{query}"), field, detail)
