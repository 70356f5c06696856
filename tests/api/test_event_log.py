"""The log over HTTP: whoever goes on from a cursor misses nothing and gets nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator, Mapping
from time import monotonic
from uuid import uuid4

import httpx
import pytest

from agentmail_cp import events
from agentmail_cp.access import Reach
from agentmail_cp.app import HttpServer, create_app, http_config
from agentmail_cp.events import Event, EventType, Feed, Subscribed
from agentmail_cp.mailserver import Folder
from agentmail_cp.sandbox import Faults, MailSandbox
from tests import tenants
from tests.api.mailbox import arrive, at, ok, path_of, put, restricted
from tests.fix_app import Json, Service, a_mail, serving, settings_for, until
from tests.fix_process import free_port

EVERYWHERE = "/v0/events"


def paths(inbox: Json) -> list[str]:
    """The log of an inbox, of its pod and of everything."""
    return [f"{at(inbox)}/events", f"/v0/pods/{inbox['pod_id']}/events", EVERYWHERE]


async def log(service: Service, path: str = EVERYWHERE, **asked: object) -> Json:
    """One page of a log."""
    params = {name: str(value) for name, value in asked.items()}
    return await ok(await service.client.get(path, params={"after": "start", **params}))


def told(page: Json) -> list[tuple[str, str]]:
    """Types and the messages or labels they are about."""
    return [(each["event_type"], _what(each)) for each in page["events"]]


def _what(event: Json) -> str:
    if "label" in event:
        return event["label"]["label"]
    return next(event[each] for each in ("message", "send", "delivery") if each in event)[
        "message_id"
    ]


async def complete(service: Service, count: int, path: str = EVERYWHERE, **asked: object) -> Json:
    """The log once it has so many events."""
    return await until(lambda: log(service, path, **asked), lambda page: page["count"] >= count)


async def test_the_log_tells_in_order_what_happened(anywhere: Service) -> None:
    """As webhooks do, with labels besides; and the same at every scope."""
    inbox = await anywhere.inbox("ada")
    (message,) = await arrive(anywhere, inbox, a_mail(inbox["email"], "One", "The text."))
    await anywhere.client.patch(
        path_of(inbox, message), json={"add_labels": ["todo"], "remove_labels": ["unread"]}
    )
    page = await complete(anywhere, 3)
    first: Json = page["events"][0]
    for path in paths(inbox):
        page = await log(anywhere, path)
        (kind, about), *changes = told(page)
        assert (kind, about) == ("message.received", message["message_id"])
        assert sorted(changes) == [("label.added", "todo"), ("label.removed", "unread")]
        assert (page["count"], page["limit"]) == (3, 50)
        assert page["next_cursor"] == page["events"][-1]["event_id"]
    assert first["type"] == "event"
    assert first["message"]["text"].strip() == "The text."
    assert first["message"]["inbox_id"] == inbox["inbox_id"]
    assert first["thread"]["thread_id"] == message["thread_id"]


async def test_pages_join_without_gap_or_overlap(service: Service) -> None:
    inbox = await service.inbox("ada")
    messages = await arrive(
        service, inbox, *(a_mail(inbox["email"], f"{number}") for number in range(5))
    )
    await complete(service, 5)
    seen: list[str] = []
    cursor = "start"
    while True:
        page = await log(service, after=cursor, limit=2)
        cursor = page["next_cursor"]
        if not page["count"]:
            break
        assert page["count"] <= 2
        seen += [each["message"]["message_id"] for each in page["events"]]
    assert seen == [each["message_id"] for each in messages]
    assert (await log(service, after=cursor))["next_cursor"] == cursor


@pytest.mark.parametrize("start", ["start", "now"])
async def test_an_empty_page_of_an_empty_log_leads_on(service: Service, start: str) -> None:
    """What happens between it and the next call must be in the answer to that."""
    inbox = await service.inbox("ada")
    page = await log(service, after=start)
    assert (page["count"], page["events"]) == (0, [])
    await arrive(service, inbox, a_mail(inbox["email"]))
    page = await complete(service, 1, after=page["next_cursor"])
    assert [each["event_type"] for each in page["events"]] == ["message.received"]


async def test_a_cursor_moves_over_what_is_not_wanted(service: Service) -> None:
    """Else it would point at what has expired when the first wanted event comes after a month."""
    inbox = await service.inbox("ada")
    await arrive(service, inbox, a_mail(inbox["email"]))
    everything = await complete(service, 1)
    page = await log(service, event_types="message.sent")
    assert page["count"] == 0
    assert page["next_cursor"] == everything["events"][-1]["event_id"]


async def test_now_is_behind_everything(service: Service) -> None:
    inbox = await service.inbox("ada")
    await arrive(service, inbox, a_mail(inbox["email"], "Old"))
    await complete(service, 1)
    page = await log(service, after="now")
    assert page["count"] == 0
    (new,) = await arrive(service, inbox, a_mail(inbox["email"], "New"))
    page = await complete(service, 1, after=page["next_cursor"])
    assert told(page) == [("message.received", new["message_id"])]


async def test_a_filter_names_inboxes_and_pods(service: Service) -> None:
    """They add up, as for webhooks."""
    one, two = await service.inbox("one"), await service.inbox("two")
    pod = (await service.client.post("/v0/pods", json={"name": "Beside"})).json()["pod_id"]
    beside = await tenants.inbox_in(service, pod, "beside")
    for inbox in (one, two, beside):
        await arrive(service, inbox, a_mail(inbox["email"]))
    await complete(service, 3)

    async def of(**asked: str) -> list[str]:
        page = await log(service, **asked)
        return [each["message"]["inbox_id"] for each in page["events"]]

    assert await of(inbox_ids=one["inbox_id"]) == [one["inbox_id"]]
    assert await of(inbox_ids=f'["{one["inbox_id"]}","{two["inbox_id"]}"]') == [
        one["inbox_id"],
        two["inbox_id"],
    ]
    assert await of(pod_ids=pod) == [beside["inbox_id"]]
    assert await of(pod_ids=pod, inbox_ids=one["inbox_id"]) == [
        one["inbox_id"],
        beside["inbox_id"],
    ]


REFUSED = (
    ("after=yesterday", "INVALID_CURSOR"),
    ("after=%00", "INVALID_VALUE"),
    (f"after={'x' * 5000}", "VALUE_TOO_LONG"),
    ("wait=61", "INVALID_SECONDS"),
    ("wait=-1", "INVALID_SECONDS"),
    ("wait=1e1", "INVALID_SECONDS"),
    ("wait=nan", "INVALID_SECONDS"),
    ("limit=0", "INVALID_LIMIT"),
    ("event_types=message.eaten", "UNKNOWN_EVENT_TYPE"),
    ("event_types=message.sent,calendar.event.created", "HOSTED_EVENT_TYPE"),
    ("event_types=[1]", "INVALID_LIST"),
)


async def test_what_makes_no_sense_is_refused_with_a_reason(service: Service) -> None:
    inbox = await service.inbox("ada")
    for query, code in REFUSED:
        for path in paths(inbox):
            mixed = "after=start&" if path.startswith(at(inbox)) else ""
            answer = await service.client.get(f"{path}?{mixed}{query}")
            assert answer.status_code == 400, answer.text
            assert answer.json()["error"]["details"]["code"] == code
            assert answer.json()["fix"]


async def test_inboxes_and_pods_of_others_are_not_there(service: Service) -> None:
    other = await tenants.organization(service.db)
    pod = await tenants.default_pod(service.db, other)
    for query in ("inbox_ids=nobody@agents.test", f"pod_ids={pod}", f"pod_ids={uuid4()}"):
        answer = await service.client.get(f"{EVERYWHERE}?{query}")
        assert answer.status_code == 404, query


async def test_an_unknown_cursor_is_gone_and_the_oldest_is_named(service: Service) -> None:
    """Silently starting anywhere would repeat or lose events."""
    inbox = await service.inbox("ada")
    await arrive(service, inbox, a_mail(inbox["email"]))
    page = await complete(service, 1)
    for path in paths(inbox):
        answer = await service.client.get(path, params={"after": str(uuid4())})
        assert answer.status_code == 410
        body = answer.json()
        assert (body["name"], body["code"]) == ("GoneError", "cursor_expired")
        assert body["oldest"] == page["events"][0]["event_id"]
        assert "after=start" in body["fix"]


async def test_an_event_of_somebody_else_is_a_cursor_nobody_knows(service: Service) -> None:
    """Whether it is, and when it happened, could be tried out."""
    victim = await service.inbox("ada")
    await arrive(service, victim, a_mail(victim["email"]))
    event = (await complete(service, 1))["events"][0]["event_id"]
    other = await tenants.organization(service.db)
    pod = await tenants.pod(service.db, service.organization_id)
    for key in (
        await tenants.key(service.db, other),
        await tenants.key(service.db, service.organization_id, pod_id=pod),
    ):
        unknown, known = [
            await tenants.client(service, key).get(EVERYWHERE, params={"after": cursor})
            for cursor in (str(uuid4()), event)
        ]
        assert known.status_code == unknown.status_code == 410
        assert told_apart(known) == told_apart(unknown)


def told_apart(answer: httpx.Response) -> Json:
    """What an answer says but for the id of its request."""
    return {name: value for name, value in answer.json().items() if name != "request_id"}


async def test_an_expired_cursor_is_gone(service: Service) -> None:
    inbox = await service.inbox("ada")
    await arrive(service, inbox, *(a_mail(inbox["email"], f"{number}") for number in range(3)))
    first, second, third = (await complete(service, 3))["events"]
    async with service.db.transaction() as tx:
        await tx.execute(
            "update event set created_at = now() - interval '31 days' where event_id = any(%(old)s)",
            {"old": [first["event_id"], second["event_id"]]},
        )
    await events.expire(service.db, days=30)
    answer = await service.client.get(EVERYWHERE, params={"after": first["event_id"]})
    assert answer.status_code == 410
    assert answer.json()["oldest"] == third["event_id"]
    assert told(await log(service, after=second["event_id"])) == told(await log(service))


async def test_hidden_mail_is_told_to_those_only_who_name_it_and_may(anywhere: Service) -> None:
    inbox = await anywhere.inbox("ada")
    bad = await put(anywhere, inbox, a_mail(inbox["email"], "Bad"), Folder.JUNK)
    may = await restricted(anywhere, "message_read", "label_spam_read")
    may_not = await restricted(anywhere, "message_read")
    spam = f"{EVERYWHERE}?event_types=message.received.spam"
    page = await until(lambda: _page(anywhere, spam, may), lambda page: page["count"] == 1)
    assert told(page) == [("message.received.spam", bad["message_id"])]
    assert told(await log(anywhere)) == []
    answer = await anywhere.client.get(spam, headers=may_not)
    assert answer.status_code == 403
    assert answer.json()["name"] == "ForbiddenError"
    assert answer.json()["message"] == "label_spam_read is forbidden"


async def _page(service: Service, url: str, headers: Mapping[str, str]) -> Json:
    return await ok(await service.client.get(url, headers=headers))


async def test_a_key_kept_from_hidden_mail_is_told_nothing_of_it(service: Service) -> None:
    """Neither its text from when it was not hidden yet, nor what became of its labels."""
    inbox = await service.inbox("ada")
    good, bad, gone = await arrive(
        service, inbox, *(a_mail(inbox["email"], each) for each in ("Good", "Bad", "Gone"))
    )
    await service.client.patch(path_of(inbox, bad), json={"add_labels": ["trash", "todo"]})
    await service.client.delete(path_of(inbox, gone))
    poor = await restricted(service, "message_read")
    everything = await complete(service, 5)
    assert len({about for kind, about in told(everything) if kind == "message.received"}) == 3
    for path in paths(inbox):
        page = await _page(service, f"{path}?after=start", poor)
        assert told(page) == [("message.received", good["message_id"])]
        assert page["next_cursor"] == everything["next_cursor"]
    assert [str(each.message_id) for each in await visible(service)] == [good["message_id"]]


async def visible(service: Service) -> list[Event]:
    """Of all events those that whoever follows them may be told without any permission."""
    organization_id = service.organization_id
    everything = Subscribed(reach=Reach(organization_id), types=frozenset(EventType))
    async with service.db.reading() as tx:
        log = await events.after(tx, everything, 0, limit=100)
        assert log
        shown = await events.visible(tx, organization_id, log, (0,))
        read = await events.after(tx, everything, 0, limit=100, masks=(0,))
    assert shown == read
    return shown


async def test_label_events_can_be_asked_for_alone(service: Service) -> None:
    inbox = await service.inbox("ada")
    (message,) = await arrive(service, inbox, a_mail(inbox["email"]))
    await service.client.patch(path_of(inbox, message), json={"add_labels": ["todo"]})
    page = await complete(service, 1, event_types="label.added,label.removed")
    (event,) = page["events"]
    assert event["label"].pop("timestamp")
    assert event["label"] == {
        "inbox_id": inbox["inbox_id"],
        "thread_id": message["thread_id"],
        "message_id": message["message_id"],
        "label": "todo",
    }


async def test_an_inbox_s_events_are_the_contract_s_list_of_labels_by_default(
    service: Service,
) -> None:
    """What the SDKs call must stay as it is."""
    inbox = await service.inbox("ada")
    (message,) = await arrive(service, inbox, a_mail(inbox["email"]))
    await service.client.patch(path_of(inbox, message), json={"add_labels": ["todo"]})
    page = await ok(await service.client.get(f"{at(inbox)}/events?limit=10&ascending=true"))
    assert [(each["event_type"], each["label"]) for each in page["events"]] == [
        ("label.added", "todo")
    ]
    assert "next_cursor" not in page
    answer = await service.client.get(f"{at(inbox)}/events?after=start&page_token=abc")
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["code"] == "INVALID_PAGE_TOKEN"


async def test_whoever_waits_is_answered_as_soon_as_something_happens(anywhere: Service) -> None:
    inbox = await anywhere.inbox("ada")
    begun = monotonic()
    waiting = asyncio.create_task(log(anywhere, after="now", wait=30))
    await subscribed(anywhere, 1)
    (message,) = await arrive(anywhere, inbox, a_mail(inbox["email"]))
    page = await waiting
    assert monotonic() - begun < 10
    assert told(page) == [("message.received", message["message_id"])]
    assert page["next_cursor"] == page["events"][-1]["event_id"]


async def test_whoever_waits_in_vain_loses_nothing(service: Service) -> None:
    """The cursor of the empty answer goes on before whatever happens right after it."""
    inbox = await service.inbox("ada")
    page = await log(service, after="now", wait=0.05)
    assert page["count"] == 0
    (message,) = await arrive(service, inbox, a_mail(inbox["email"]))
    page = await log(service, after=page["next_cursor"], wait=5)
    assert told(page) == [("message.received", message["message_id"])]


async def test_only_what_is_wanted_ends_a_wait(service: Service) -> None:
    one, two = await service.inbox("one"), await service.inbox("two")
    waiting = asyncio.create_task(log(service, after="now", wait=30, inbox_ids=two["inbox_id"]))
    await subscribed(service, 1)
    await arrive(service, one, a_mail(one["email"], "Unwanted"))
    (wanted,) = await arrive(service, two, a_mail(two["email"], "Wanted"))
    assert told(await waiting) == [("message.received", wanted["message_id"])]


async def test_many_may_wait_at_once(service: Service) -> None:
    """They hold no connection to the database, of which there are ten."""
    inbox = await service.inbox("ada")
    waiting = [asyncio.create_task(log(service, after="now", wait=30)) for _ in range(40)]
    await subscribed(service, 40)
    (message,) = await arrive(service, inbox, a_mail(inbox["email"]))
    for page in await asyncio.gather(*waiting):
        assert told(page) == [("message.received", message["message_id"])]
    await subscribed(service, 0)


async def subscribed(service: Service, count: int) -> None:
    """Wait until so many requests wait."""
    feed = feed_of(service)

    async def subscribers() -> int:
        return feed.subscribers

    await until(subscribers, lambda seen: seen == count)


def feed_of(service: Service) -> Feed:
    """The feed of the service under test."""
    assert service.feed is not None
    return service.feed


async def test_who_leaves_is_waited_for_no_longer(sandbox_service: Service) -> None:
    """Agents are killed while they wait; the next one waits anew each time."""
    async with httpx.AsyncClient(base_url=sandbox_service.url) as client:
        headers = {"Authorization": f"Bearer {sandbox_service.key}"}
        with pytest.raises(httpx.ReadTimeout):
            await client.get(f"{EVERYWHERE}?wait=60", headers=headers, timeout=0.3)
    await subscribed(sandbox_service, 0)


class Unsignalled(HttpServer):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Ctrl-C stays pytest's."""
        yield


async def test_a_stopping_service_answers_whoever_waits(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """An update must not take a minute, nor cost anybody their place."""
    settings = settings_for(database_url, port=free_port())
    app = create_app(settings, server=sandbox_server[0])
    server = Unsignalled(app, http_config(app, settings))
    serving = asyncio.create_task(server.serve())
    await until(_began(server), bool)
    key = await tenants.key(
        app.state["resources"].db, await tenants.organization(app.state["resources"].db)
    )
    async with httpx.AsyncClient(base_url=settings.base_url, headers=key.headers) as client:
        waiting = asyncio.create_task(client.get(f"{EVERYWHERE}?wait=60", timeout=60))
        await until(_waits(app.state["feed"]), bool)
        begun = monotonic()
        server.should_exit = True
        page = (await waiting).json()
    await serving
    assert monotonic() - begun < 3
    assert (page["count"], page["next_cursor"]) == (0, "start")


def _began(server: HttpServer) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return server.started

    return look


def _waits(feed: Feed) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return feed.subscribers > 0

    return look


async def test_a_wait_is_one_request(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """A client that waits all day stays within its limit."""
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, requests_per_minute=9) as service:
        inbox = await service.inbox("ada")
        for number in range(3):
            await service.deliver(a_mail(inbox["email"], f"{number}"))
        answer = await service.client.get(f"{EVERYWHERE}?after=now&wait=0.2")
        assert answer.headers["x-ratelimit-remaining"] == "7"


async def test_while_the_mail_server_is_away_nothing_is_skipped(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """The text would be missing: the reader is asked to come again, with the cursor it has."""
    sandbox, _ = sandbox_server
    inbox = await service.inbox("ada")
    await arrive(service, inbox, a_mail(inbox["email"]))
    await complete(service, 1)
    sandbox.faults = Faults(down=True)
    answer = await service.client.get(EVERYWHERE)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    sandbox.faults = Faults()
    assert (await log(service))["count"] == 1


async def test_a_large_page_ends_early_and_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred messages of a megabyte must not come in one answer."""
    monkeypatch.setattr("agentmail_cp.web.tail.LARGEST", 1)
    monkeypatch.setattr("agentmail_cp.web.tail.AT_ONCE", 2)
    inbox = await service.inbox("ada")
    messages = await arrive(
        service, inbox, *(a_mail(inbox["email"], f"{number}") for number in range(3))
    )
    page = await until(lambda: log(service, after="start"), lambda page: page["count"] == 2)
    rest = await complete(service, 1, after=page["next_cursor"])
    assert [about for _, about in told(page) + told(rest)] == [
        each["message_id"] for each in messages
    ]


async def test_a_long_log_of_unwanted_events_is_looked_through_in_parts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One rare event among millions must neither be missed nor take one long query."""
    inbox = await service.inbox("ada")
    await arrive(service, inbox, *(a_mail(inbox["email"], f"{number}") for number in range(8)))
    sent = await service.send(inbox, to=["bob@elsewhere.test"], subject="s", text="t")
    await complete(service, 9)
    monkeypatch.setattr("agentmail_cp.events.reading.SCAN", 3)
    page = await log(service, event_types="message.sent")
    assert told(page) == [("message.sent", sent["message_id"])]
    monkeypatch.setattr("agentmail_cp.web.tail.PATIENCE", -1.0)
    page = await log(service, event_types="message.sent")
    assert page["count"] == 0, "it took too long, and the reader is to come again"
    page = await log(service, event_types="message.sent", after=page["next_cursor"])
    page = await log(service, event_types="message.sent", after=page["next_cursor"])
    assert told(page) == [("message.sent", sent["message_id"])]
