"""The WebSocket: events as they happen, to whoever may have them, once each and in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from agentmail_cp.mailserver import Folder
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import HEALTHY, Faults
from agentmail_cp.web import wire
from tests import tenants
from tests.api.faults import fault
from tests.api.mailbox import ok, path_of, put
from tests.fix_app import Json, Service, a_mail, serving, until
from tests.fix_front_door import Porch
from tests.sockets import Listener, listening, not_opened


@pytest_asyncio.fixture
async def service(sandbox_service: Service) -> Service:
    """The service on the sandbox, behind a port."""
    return sandbox_service


@pytest_asyncio.fixture
async def listener(service: Service) -> AsyncGenerator[Listener]:
    """A socket with the organisation's key."""
    async with listening(service.url, service.key) as opened:
        yield opened


async def send(service: Service, inbox: Json, *subjects: str, **headers: str) -> None:
    """Let mails arrive, one after the other."""
    for each in subjects:
        await service.deliver(a_mail(inbox["email"], each, **headers))


async def test_a_mail_that_arrives_is_told_whole(anywhere: Service) -> None:
    """An agent on a laptop would have to poll, or to ask again for what the mail says."""
    inbox = await anywhere.inbox("alice")
    async with listening(anywhere.url, anywhere.key) as listener:
        assert await listener.subscribe() == {"type": "subscribed", "cursor": "start"}
        await send(anywhere, inbox, "Hello")
        told = await listener.event()
        assert told["event_type"] == "message.received"
        assert told["message"]["text"].strip() == "Hi there."
        assert told["thread"]["message_count"] == 1
        await anywhere.send(inbox, to="nobody@elsewhere.test", text="Hi")
        sent = await listener.event()
        assert (sent["event_type"], sent["send"]["recipients"]) == (
            "message.sent",
            ["nobody@elsewhere.test"],
        )


async def test_the_key_may_stand_in_header_or_query(service: Service) -> None:
    """A browser sends no header, the Python SDK no query, and the Node SDK both."""
    socket = service.url.replace("http", "ws", 1) + "/v0"
    right, wrong = {"Authorization": f"Bearer {service.key}"}, {"Authorization": "Bearer none"}
    for url, headers in (
        (socket, right),
        (f"{socket}/", right),
        (f"{socket}?api_key={service.key}", {}),
        (f"{socket}?api_key={service.key}", right),
        # A key for this socket alone, as both SDKs let one say.
        (f"{socket}?x=1&api_key={service.key}", wrong),
    ):
        async with connect(url, additional_headers=headers, proxy=None) as connection:
            await Listener(connection).subscribe()


async def test_without_a_live_key_nothing_is_opened(service: Service) -> None:
    """The Python SDK raises `ApiError` for an answer, and hangs on a socket that closes at once."""
    at = f"{service.url}/v0"
    late = await tenants.key(service.db, service.organization_id, expires_at=tenants.long_ago())
    for url, headers, code in (
        (at, {}, "missing_authorization"),
        (at, {"Authorization": "Basic x"}, "invalid_token_type"),
        (at, {"Authorization": "Bearer inai_wrong"}, "unknown_api_key"),
        (f"{at}?api_key=inai_wrong", {}, "unknown_api_key"),
        (f"{at}?api_key={late.secret}", {}, "api_key_expired"),
        (f"{at}?api_key=", {}, "missing_authorization"),
    ):
        status, told, body = await not_opened(url, additional_headers=headers)
        assert (status, body["code"]) == (401, code)
        assert told["www-authenticate"] == "Bearer"
        assert told["x-request-id"] == body["request_id"]


async def test_a_refusal_is_no_error_of_ours(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever tries out keys would fill the log with errors, and wake whoever is called for those."""
    for _ in range(3):
        status, _, _ = await not_opened(f"{service.url}/v0?api_key=inai_wrong")
        assert status == 401
    # An answer comes before its task has ended.
    async with listening(service.url, service.key) as listener:
        await listener.subscribe()
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_key_hears_of_no_message_it_may_not_read(service: Service) -> None:
    """The labels of spam would tell of it to a key that may not see it, as they happen and afterwards."""
    inbox = await service.inbox("desk")
    permissions = {"message_read": True}
    poor = await tenants.key(service.db, service.organization_id, permissions=permissions)
    types = ["message.received", "label.added"]
    async with listening(service.url, poor.secret) as hearing:
        await hearing.subscribe(event_types=types)
        bad = await put(service, inbox, a_mail(inbox["email"], "Bad"), Folder.JUNK)
        good = await put(service, inbox, a_mail(inbox["email"], "Good"), Folder.INBOX)
        told = [await hearing.event()]
        for each, label in ((bad, "not-for-you"), (good, "for-you")):
            path = path_of(inbox, each)
            await ok(await service.client.patch(path, json={"add_labels": [label]}))
        told.append(await hearing.event())
    async with listening(service.url, poor.secret) as late:
        await late.subscribe(event_types=types, after="start")
        again = [await late.event(), await late.event()]
    assert told == again
    assert [each["event_type"] for each in told] == types
    assert told[0]["message"]["subject"] == "Good"
    assert told[1]["label"]["label"] == "for-you"


async def test_there_is_one_socket_only(service: Service) -> None:
    """Whoever mistypes the address would be told of a forbidden key."""
    for path in ("/", "/v0/inboxes", "/v1", "/health"):
        status, _, body = await not_opened(f"{service.url}{path}?api_key={service.key}")
        assert (status, body["code"]) == (404, "not_found")


async def test_whoever_asks_without_an_upgrade_is_told_so(service: Service) -> None:
    """Behind a proxy that takes the header away, all a client would see is a wrong path."""
    for path in ("/v0", "/v0/", "/api/v1"):
        answer = await service.client.get(path)
        assert fault(answer, 426, "upgrade_required")["fix"]
        assert answer.headers["upgrade"] == "websocket"
    fault(await service.client.post("/v0"), 405, "method_not_allowed")


async def test_opening_counts_as_a_request(
    database_url: str, sandbox_server: tuple[MailSandbox, int], porch: Porch
) -> None:
    """A client that reconnects as fast as it can would keep the service busy."""
    sandbox, _ = sandbox_server
    async with serving(database_url, sandbox, porch=porch, requests_per_minute=2) as service:
        for _ in range(2):
            async with listening(service.url, service.key):
                pass
        status, told, body = await not_opened(f"{service.url}/v0?api_key={service.key}")
        assert (status, body["code"]) == (429, "rate_limit_exceeded")
        assert told["x-ratelimit-remaining"] == "0"
        assert 0 < int(told["retry-after"]) <= 60


async def test_an_organization_has_so_many_open(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One customer's loop that forgets to close would take the memory of all; requests count once."""
    monkeypatch.setattr("agentmail_cp.web.live.MOST_OPEN", 1)
    other = await tenants.key(service.db, await tenants.organization(service.db))
    async with listening(service.url, service.key), listening(service.url, other.secret):
        status, told, body = await not_opened(f"{service.url}/v0?api_key={service.key}")
        assert (status, body["code"]) == (429, "rate_limit_exceeded")
        assert told["retry-after"] == "60"

    async def opened() -> bool:
        with contextlib.suppress(InvalidStatus):
            async with listening(service.url, service.key):
                return True
        return False

    await until(opened, bool)


async def test_whoever_says_much_is_heard_slowly(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same subscription over and over would keep the sockets of others from the database."""
    monkeypatch.setattr("agentmail_cp.web.live.FRAMES_AT_ONCE", 2)
    monkeypatch.setattr("agentmail_cp.web.live.BETWEEN_FRAMES", 0.2)
    inbox = await service.inbox("alice")
    async with listening(service.url, service.key) as listener:
        began = monotonic()
        for _ in range(5):
            await listener.subscribe()
        assert monotonic() - began >= 0.4
        # What it is told does not wait.
        await send(service, inbox, "Hello")
        assert await listener.subjects(1) == ["Hello"]


async def test_filters_hold_and_subscriptions_add_up(service: Service, listener: Listener) -> None:
    """An agent would act on mail of another inbox, or twice on the same."""
    pod = await tenants.pod(service.db, service.organization_id)
    alice, bob, carol = [await service.inbox(name) for name in ("alice", "bob", "carol")]
    made = await service.client.post(f"/v0/pods/{pod}/inboxes", json={})
    dave = made.json()
    assert await listener.subscribe(inbox_ids=[alice["inbox_id"]]) == {
        "type": "subscribed",
        "inbox_ids": [alice["inbox_id"]],
        "cursor": "start",
    }
    await listener.subscribe(inbox_ids=[alice["inbox_id"], bob["inbox_id"]])
    await listener.subscribe(pod_ids=[str(pod)], event_types=["message.received"])
    for inbox, subject in ((carol, "no"), (alice, "1"), (bob, "2"), (carol, "no"), (dave, "3")):
        await send(service, inbox, subject)
    # Inboxes have no order among each other.
    assert sorted(await listener.subjects(3)) == ["1", "2", "3"]


async def test_only_what_was_named_of_what_must_be_named(
    service: Service, listener: Listener
) -> None:
    """An agent that asked for mail would be told of every label, and read what a list had blocked."""
    inbox = await service.inbox("alice")
    await service.client.post("/v0/lists/receive/block", json={"entry": "mallory@elsewhere.test"})
    async with listening(service.url, service.key) as curious:
        await curious.subscribe(event_types=["message.received.blocked", "label.added"])
        await listener.subscribe()
        await send(service, inbox, "blocked", From="mallory@elsewhere.test")
        blocked = await curious.event()
        assert blocked["event_type"] == "message.received.blocked"
        await service.client.patch(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/{blocked['message']['message_id']}",
            json={"add_labels": ["seen"]},
        )
        labelled = await curious.event()
        assert (labelled["event_type"], labelled["label"]["label"]) == ("label.added", "seen")
    await send(service, inbox, "plain")
    assert await listener.subjects(1) == ["plain"]


async def test_mistakes_are_told_and_the_socket_stays_open(
    service: Service, listener: Listener
) -> None:
    """A typing error in one subscription would end all the others."""
    narrow = await tenants.key(
        service.db, service.organization_id, permissions={"message_read": True}
    )
    other = await tenants.organization(service.db)
    async with listening(service.url, narrow.secret) as limited:
        for wanted, name, message in (
            (
                {"event_types": ["message.received.spam"]},
                "ForbiddenError",
                "label_spam_read is forbidden",
            ),
            ({"event_types": ["message.opened"]}, "ValidationError", "hosted service"),
            ({"event_types": ["message.eaten"]}, "ValidationError", "does not exist"),
            ({"inbox_ids": ["nobody@agents.test"]}, "NotFoundError", "no such inbox"),
            (
                {"pod_ids": [str(await tenants.default_pod(service.db, other))]},
                "NotFoundError",
                "no such pod",
            ),
            ({"after": "yesterday"}, "ValidationError", "after"),
        ):
            told = await limited.refused({"type": "subscribe", **wanted})
            assert told["name"] == name
            assert message in told["message"]
        assert (await limited.refused("{"))["errors"][0]["code"] == "MALFORMED_JSON"
        assert (await limited.refused({"type": "ping"}))["errors"][0]["path"] == ["type"]
        await limited.subscribe()


async def test_a_key_without_message_read_may_not_subscribe(service: Service) -> None:
    """A key for metrics alone would read all mail."""
    narrow = await tenants.key(
        service.db, service.organization_id, permissions={"metrics_read": True}
    )
    async with listening(service.url, narrow.secret) as listener:
        told = await listener.refused({"type": "subscribe"})
        assert (told["name"], told["code"]) == ("ForbiddenError", "missing_permission")


async def test_a_client_that_errs_again_and_again_is_sent_away(listener: Listener) -> None:
    """A broken loop would fill the line in both directions for good."""
    for _ in range(32):
        await listener.say("x")
    assert await listener.end() == 1008


async def test_too_many_subscriptions_and_too_large_frames(
    service: Service, listener: Listener
) -> None:
    """One client could fill the memory of a process that others share."""
    for each in ("message.sent", "message.received"):
        for number in range(16):
            inbox = await service.inbox(f"a{number}{each[-4:]}")
            await listener.subscribe(inbox_ids=[inbox["inbox_id"]], event_types=[each])
    assert (await listener.refused({"type": "subscribe"}))["errors"][0]["code"] == "TOO_MANY"
    await listener.say("x" * (wire.LARGEST_FRAME + 1))
    assert await listener.end() == 1009


@pytest.mark.parametrize("scope", ["other", "pod", "inbox"])
async def test_nobody_hears_beyond_their_reach(service: Service, scope: str) -> None:
    """One customer would read another's mail as it arrives."""
    inbox = await service.inbox("alice")
    key, own = await reaching(service, scope)
    async with (
        listening(service.url, service.key) as everything,
        listening(service.url, key.secret) as listener,
    ):
        await everything.subscribe()
        await listener.subscribe(after="start")
        await send(service, inbox, "not for them")
        theirs = await everything.event()
        if own is not None:
            await send(service, own, "theirs")
            assert await listener.subjects(1) == ["theirs"]
        told = await listener.refused({"type": "subscribe", "inbox_ids": [inbox["inbox_id"]]})
        assert told["name"] == "NotFoundError"
        told = await listener.refused({"type": "subscribe", "after": theirs["event_id"]})
        assert told["name"] == "GoneError"


async def reaching(service: Service, scope: str) -> tuple[tenants.Key, Json | None]:
    """A key that does not reach Alice's inbox, and an inbox it reaches, if there is one."""
    if scope == "other":
        return await tenants.key(service.db, await tenants.organization(service.db)), None
    pod = await tenants.pod(service.db, service.organization_id)
    own = (await service.client.post(f"/v0/pods/{pod}/inboxes", json={})).json()
    if scope == "pod":
        return await tenants.key(service.db, service.organization_id, pod_id=pod), own
    uuid = await tenants.uuid_of(service.db, own)
    return await tenants.key(service.db, service.organization_id, inbox_id=uuid), own


async def test_a_client_comes_back_to_where_it_was(anywhere: Service) -> None:
    """Mail that arrives while an agent restarts would never be answered."""
    inbox = await anywhere.inbox("alice")
    async with listening(anywhere.url, anywhere.key) as listener:
        began = (await listener.subscribe())["cursor"]
        await send(anywhere, inbox, "1", "2")
        first = await listener.event()
    await send(anywhere, inbox, "3")
    for cursor, expected in (
        (first["event_id"], ["2", "3"]),
        (began, ["1", "2", "3"]),
        ("start", ["1", "2", "3"]),
    ):
        async with listening(anywhere.url, anywhere.key) as listener:
            await listener.subscribe(after=cursor)
            assert await listener.subjects(len(expected)) == expected
    async with listening(anywhere.url, anywhere.key) as listener:
        last = await listener.subscribe(after="now")
        assert last["cursor"] == "now"
        await send(anywhere, inbox, "4")
        assert await listener.subjects(1) == ["4"]


async def test_nothing_is_missed_or_told_twice_while_it_catches_up(
    service: Service, listener: Listener
) -> None:
    """Between the log and what happens now an event could fall through, or come from both."""
    inbox = await service.inbox("alice")
    await listener.subscribe(event_types=["message.sent"])
    before = [f"before {number}" for number in range(10)]
    await send(service, inbox, *before)
    arriving = asyncio.create_task(send(service, inbox, *(f"now {n}" for n in range(20))))
    told: list[str] = []
    for number in range(10):
        await listener.say(
            {
                "type": "subscribe",
                "after": "start",
                "event_types": ["message.received"],
                "inbox_ids": [inbox["inbox_id"]] if number % 2 else [],
            }
        )
    subscribed = 0
    while len(told) < 30:
        frame = await listener.hear()
        subscribed += frame["type"] == "subscribed"
        if frame["type"] == "event":
            told.append(frame["message"]["subject"])
    await arriving
    assert told == [*before, *(f"now {number}" for number in range(20))]
    while subscribed < 10:
        assert (await listener.hear())["type"] == "subscribed"
        subscribed += 1
    await send(service, inbox, "last")
    assert await listener.subjects(1) == ["last"]


async def test_a_cursor_that_is_not_kept_is_gone(service: Service, listener: Listener) -> None:
    """A client that was away for too long would not know that something is missing."""
    inbox = await service.inbox("alice")
    await listener.subscribe()
    await send(service, inbox, "1", "2")
    first, second = await listener.event(), await listener.event()
    async with service.db.transaction() as tx:
        await tx.execute("delete from event where event_id = %s", [first["event_id"]])
    told = await listener.refused({"type": "subscribe", "after": first["event_id"]})
    assert (told["name"], told["oldest"]) == ("GoneError", second["event_id"])


async def test_while_the_mail_server_is_away_events_wait(
    service: Service, listener: Listener
) -> None:
    """During a restart of Stalwart mail would be told without its text, or not at all."""
    assert isinstance(service.server, MailSandbox)
    inbox = await service.inbox("alice")
    await listener.subscribe()
    async with listening(service.url, service.key) as witness:
        await witness.subscribe(event_types=["label.added", "message.sent"])
        service.server.faults = Faults(lost_answer=True, methods=frozenset({"read"}))
        await send(service, inbox, "1", "2")
        # So that what is sent comes after them.
        await until(lambda: service.messages(inbox), lambda seen: len(seen) == 2)
        await service.send(inbox, to="nobody@elsewhere.test", text="Hi")
        # The second reader needs nothing of the mail server, so that its events do not wait.
        await witness.event()
        service.server.faults = HEALTHY
    told = [await listener.event() for _ in range(3)]
    assert [each["event_type"] for each in told] == ["message.received"] * 2 + ["message.sent"]
    assert all(each["message"]["text"] for each in told[:2])


async def test_a_revoked_key_ends_its_sockets(service: Service) -> None:
    """Whoever had a stolen key open would go on reading."""
    gone, stays = [await tenants.key(service.db, service.organization_id) for _ in range(2)]
    async with (
        listening(service.url, gone.secret) as silent,
        listening(service.url, gone.secret) as subscribed,
        listening(service.url, stays.secret) as other,
    ):
        await subscribed.subscribe()
        await other.subscribe()
        began = asyncio.get_running_loop().time()
        await service.client.delete(f"/v0/api-keys/{gone.api_key_id}")
        assert [await silent.end(), await subscribed.end()] == [1008, 1008]
        assert asyncio.get_running_loop().time() - began < 2
        await other.subscribe(event_types=["message.sent"])


async def test_a_narrowed_or_expired_key_ends_what_it_may_not_have(service: Service) -> None:
    """The same for a key that may do less from now on."""
    soon = datetime.now(UTC) + timedelta(seconds=1)
    expiring = await tenants.key(service.db, service.organization_id, expires_at=soon)
    narrowed = await tenants.key(service.db, service.organization_id)
    async with (
        listening(service.url, expiring.secret) as late,
        listening(service.url, narrowed.secret) as greedy,
        listening(service.url, narrowed.secret) as modest,
    ):
        await greedy.subscribe(event_types=["message.received.spam"])
        await modest.subscribe()
        await service.client.patch(
            f"/v0/api-keys/{narrowed.api_key_id}", json={"permissions": {"message_read": True}}
        )
        assert [await late.end(), await greedy.end()] == [1008, 1008]
        told = await modest.refused({"type": "subscribe", "event_types": ["message.received.spam"]})
        assert told["message"] == "label_spam_read is forbidden"
