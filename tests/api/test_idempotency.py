"""Every request that makes something, repeated under its Idempotency-Key: made once, answered alike, told to
nobody beyond reach.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from tests import tenants
from tests.api.write_openapi import description
from tests.fix_app import OUTSIDER, Json, Service

REPLAYED = "Idempotent-Replayed"


class Stage(msgspec.Struct, frozen=True):
    """A service with an inbox and a second pod."""

    service: Service
    inbox: Json
    pod_id: UUID


class Making(msgspec.Struct, frozen=True):
    """One way to make something: where, with what body, what names it, and where it is then."""

    path: str
    body: Json
    id: str
    noun: str
    private: bool = False
    permission: str = ""

    @property
    def needs(self) -> str:
        return self.permission or f"{self.noun}_create"

    def at(self, stage: Stage) -> str:
        return self.path.format(inbox=stage.inbox["inbox_id"], pod=stage.pod_id)

    def made_at(self, stage: Stage, made: Json) -> str:
        where = "/v0/inboxes" if self.noun == "inbox" else self.at(stage)
        return f"{where}/{made[self.id]}"


ENTRY = {"entry": "spam.test", "reason": "Noise"}
DOMAIN = {"domain": "acme.test", "inbound_enabled": False}
HOOK = {"url": "https://hooks.test/", "event_types": ["domain.verified"]}
MAKINGS = {
    "inbox": Making("/v0/inboxes", {"display_name": "A"}, "inbox_id", "inbox", private=True),
    "inbox of a pod": Making("/v0/pods/{pod}/inboxes", {}, "inbox_id", "inbox", private=True),
    "pod": Making("/v0/pods", {"name": "Acme"}, "pod_id", "pod"),
    "key": Making("/v0/api-keys", {"name": "ci"}, "api_key_id", "api_key", private=True),
    "key of a pod": Making(
        "/v0/pods/{pod}/api-keys", {"name": "ci"}, "api_key_id", "api_key", private=True
    ),
    "key of an inbox": Making(
        "/v0/inboxes/{inbox}/api-keys", {"name": "ci"}, "api_key_id", "api_key", private=True
    ),
    "entry": Making("/v0/lists/send/block", ENTRY, "entry", "list_entry"),
    "entry of a pod": Making("/v0/pods/{pod}/lists/send/block", ENTRY, "entry", "list_entry"),
    "entry of an inbox": Making(
        "/v0/inboxes/{inbox}/lists/receive/allow", ENTRY, "entry", "list_entry"
    ),
    "webhook": Making("/v0/webhooks", HOOK, "webhook_id", "webhook"),
    "webhook of a pod": Making("/v0/pods/{pod}/webhooks", HOOK, "webhook_id", "webhook"),
    "webhook of an inbox": Making("/v0/inboxes/{inbox}/webhooks", HOOK, "webhook_id", "webhook"),
    "domain": Making("/v0/domains", DOMAIN, "domain_id", "domain"),
    "domain of a pod": Making(
        "/v0/pods/{pod}/domains", DOMAIN | {"domain": "pod.test"}, "domain_id", "domain"
    ),
    "app password": Making(
        *("/v0/inboxes/{inbox}/app-passwords", {"name": "phone"}, "app_password_id"),
        noun="app_password",
        private=True,
        permission="inbox_update",
    ),
    "draft": Making(
        "/v0/inboxes/{inbox}/drafts", {"to": OUTSIDER, "text": "Hi"}, "draft_id", "draft"
    ),
}
SHARED = [name for name, making in MAKINGS.items() if not making.private]
PRIVATE = [name for name, making in MAKINGS.items() if making.private]


@pytest.fixture
async def stage(service: Service) -> Stage:
    return await staged(service)


async def staged(service: Service) -> Stage:
    return Stage(
        service,
        await service.inbox("alice"),
        await tenants.pod(service.db, service.organization_id),
    )


@pytest.fixture(params=MAKINGS)
def making(request: pytest.FixtureRequest) -> Making:
    return MAKINGS[request.param]


async def post(
    stage: Stage,
    path: str,
    body: object = None,
    *,
    key: str | None = "k",
    by: httpx.AsyncClient | None = None,
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Idempotency-Key"] = key
    return await (by or stage.service.client).post(
        path, content=content if body is not None else b"", headers=headers
    )


def each() -> Iterator[tuple[str, Making]]:
    """Every way to make something, with an Idempotency-Key of its own."""
    return ((name.replace(" ", "-"), making) for name, making in MAKINGS.items())


async def make(stage: Stage, making: Making, **asked: Any) -> httpx.Response:
    return await post(stage, making.at(stage), making.body, **asked)


def assert_conflict(answer: httpx.Response, *, retry: bool = False) -> Json:
    assert answer.status_code == 409, answer.text
    assert answer.json()["code"] == "conflict"
    assert answer.json()["fix"]
    assert ("Retry-After" in answer.headers) == retry
    return answer.json()


# --- the same again


async def test_the_same_request_again_is_answered_alike_and_makes_nothing(
    stage: Stage, making: Making
) -> None:
    """A client that lost an answer would make a second one, or never get the secret of the first."""
    first = await make(stage, making)
    assert first.status_code == 201, first.text
    assert REPLAYED not in first.headers
    before = await rows(stage.service)
    again = await make(stage, making)
    assert again.status_code == 201
    assert again.headers[REPLAYED] == "true"
    assert again.json() == first.json()
    assert await rows(stage.service) == before


async def rows(service: Service) -> list[Json]:
    """How many rows there are of everything that can be made."""
    async with service.db.reading() as tx:
        return await (
            await tx.execute(
                "select (select count(*) from inbox) as inboxes, (select count(*) from pod) as pods,"
                " (select count(*) from api_key) as keys, (select count(*) from draft) as drafts,"
                " (select count(*) from list_entry) as entries,"
                " (select count(*) from webhook) as webhooks,"
                " (select count(*) from domain) as domains,"
                " (select count(*) from dkim_key) as dkim_keys,"
                " (select count(*) from idempotency_key) as claims"
            )
        ).fetchall()


@pytest.mark.parametrize("name", ["inbox", "draft"])
async def test_what_is_in_the_mail_server_is_made_once_in_either_world(
    anywhere: Service, name: str
) -> None:
    """Two mailboxes, or two drafts in a person's mail client, for one request."""
    stage = await staged(anywhere)
    making = MAKINGS[name]
    first, again = await make(stage, making), await make(stage, making)
    assert first.json() == again.json()
    assert again.headers[REPLAYED] == "true"
    if name == "draft":
        listed = await anywhere.client.get(making.at(stage))
        assert listed.json()["count"] == 1
    if name == "inbox" and anywhere.stalwart:
        with anywhere.imap(again.json()) as mailbox:
            assert mailbox.state == "AUTH"


async def test_the_secret_told_again_is_a_key_that_works(stage: Stage) -> None:
    """The repetition would tell a secret that opens nothing."""
    await make(stage, MAKINGS["key"])
    secret = (await make(stage, MAKINGS["key"])).json()["api_key"]
    assert secret.startswith("inai_")
    assert len(bytes.fromhex(secret.removeprefix("inai_"))) == 32
    answer = await stage.service.client.get(
        "/v0/auth/me", headers={"Authorization": f"Bearer {secret}"}
    )
    assert answer.status_code == 200


async def test_without_a_key_every_request_makes_its_own(stage: Stage) -> None:
    """Ten agents asking for an inbox each would share one."""
    path = MAKINGS["inbox"].path
    made = [(await post(stage, path, {}, key=None)).json() for _ in range(3)]
    assert len({each["inbox_id"] for each in made}) == 3
    assert len({each["credentials"]["password"] for each in made}) == 3


@pytest.mark.parametrize("name", ["inbox", "pod", "key", "draft"])
async def test_other_keys_make_others(stage: Stage, name: str) -> None:
    """A pool of agents that ask alike would share one."""
    making = MAKINGS[name]
    made = [(await make(stage, making, key=key)).json()[making.id] for key in ("k", "l")]
    assert len(set(made)) == 2


SPELLINGS = [
    b'{"username": "ada", "metadata": {"a": 1, "b": true}}',
    b'{"metadata": {"b": true, "a": 1.0}, "username": "ada"}',
    b'{"username":"\\u0061da","metadata":{"a":1e0,"b":true},"client_id":null,"display_name":null}',
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_how_a_body_is_written_does_not_count(stage: Stage, spelling: bytes) -> None:
    """An SDK that writes 1.0 for 1, or leaves out what is null, would be told of a conflict."""
    first = await post(stage, "/v0/inboxes", SPELLINGS[0])
    again = await post(stage, "/v0/inboxes", spelling)
    assert first.json() == again.json()
    assert again.headers[REPLAYED] == "true"


async def test_no_body_is_an_empty_one(stage: Stage) -> None:
    """The Python SDK sends no body where the Node SDK sends `{}`."""
    first = await post(stage, "/v0/inboxes")
    assert (await post(stage, "/v0/inboxes", {})).json() == first.json()


async def test_known_by_its_client_id_it_is_answered_200_again(stage: Stage) -> None:
    """The repetition would claim to have made what was there before."""
    for path, body in (
        ("/v0/inboxes", {"client_id": "c"}),
        ("/v0/pods", {"client_id": "c"}),
        (MAKINGS["draft"].at(stage), {"client_id": "c", "text": "x"}),
        ("/v0/webhooks", HOOK | {"client_id": "c"}),
    ):
        made = await post(stage, path, body, key=None)
        for replayed in (False, True):
            known = await post(stage, path, body, key=f"k{len(path)}")
            assert known.status_code == 200, known.text
            assert (REPLAYED in known.headers) == replayed
            secret = made.json() | {"credentials": None}
            assert known.json() | {"credentials": None} == secret
            assert "credentials" not in known.json()


async def test_many_at_once_make_one(stage: Stage, making: Making) -> None:
    """A client with a short patience would make as many as it has tries."""
    answers = await asyncio.gather(*(make(stage, making) for _ in range(8)))
    told = [answer for answer in answers if answer.status_code == 201]
    assert told
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.text for answer in told}) == 1
    assert sum(REPLAYED not in answer.headers for answer in told) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert_conflict(answer, retry=True)
    assert (await make(stage, making)).json() == told[0].json()


# --- something else under the same key


async def test_another_body_is_a_conflict(stage: Stage) -> None:
    """A key used twice by mistake would swallow the second request."""
    changed = {
        "inbox": {"username": "other"},
        "domain": {"domain": "other.test"},
        "draft": {"text": "Other"},
        "webhook": HOOK | {"client_id": "other"},
    }
    for key, making in each():
        await make(stage, making, key=key)
        body = changed.get(making.noun, {"name": "other", "entry": "other.test"})
        assert_conflict(await post(stage, making.at(stage), body, key=key))


async def test_another_path_is_a_conflict(stage: Stage) -> None:
    """A key for a pod would be answered with one for the organisation."""
    first, *others = (MAKINGS[name] for name in ("key", "key of a pod", "key of an inbox"))
    await make(stage, first)
    for other in others:
        assert_conflict(await make(stage, other))
    await make(stage, MAKINGS["entry"], key="l")
    for path in ("/v0/lists/send/allow", "/v0/lists/receive/block"):
        assert_conflict(await post(stage, path, ENTRY, key="l"))


async def test_another_endpoint_is_a_conflict(stage: Stage) -> None:
    """A request for a pod would be answered with an API key."""
    await post(stage, "/v0/api-keys", {"name": "x"})
    assert_conflict(await post(stage, "/v0/pods", {"name": "x"}))


async def send(stage: Stage, **asked: Any) -> httpx.Response:
    path = f"/v0/inboxes/{stage.inbox['inbox_id']}/messages/send"
    return await post(stage, path, {"to": OUTSIDER}, **asked)


async def test_a_sends_key_makes_nothing(stage: Stage) -> None:
    """One key would stand for two requests, and its owner would not know which one was repeated."""
    sent = await send(stage)
    for _, making in each():
        assert_conflict(await make(stage, making))
    assert (await send(stage)).json() == sent.json()


async def test_a_creations_key_sends_nothing(stage: Stage) -> None:
    """The other way round."""
    draft = await post(stage, MAKINGS["draft"].at(stage), {"to": OUTSIDER}, key=None)
    draft_path = f"{MAKINGS['draft'].at(stage)}/{draft.json()['draft_id']}/send"
    for key, making in each():
        made = await make(stage, making, key=key)
        assert_conflict(await send(stage, key=key))
        assert_conflict(await post(stage, draft_path, {}, key=key))
        assert (await make(stage, making, key=key)).json() == made.json()
    assert await stage.service.messages(stage.inbox) == []


@pytest.mark.parametrize("key", ["", "k" * 257, "two words", "k,l", "k/l", '"k"'])
async def test_an_odd_key_is_refused(stage: Stage, key: str) -> None:
    """The request would be carried out each time it is repeated, or the key be cut off somewhere."""
    before = await rows(stage.service)
    for answer in [await send(stage, key=key), *[await make(stage, m, key=key) for _, m in each()]]:
        assert answer.status_code == 400, answer.text
        assert answer.json()["errors"][0]["path"] == ["Idempotency-Key"]
    assert await rows(stage.service) == before


# --- failures and ends


async def test_after_a_refusal_the_key_is_free(stage: Stage) -> None:
    """A client that mends its request would be told of a conflict with the broken one."""
    taken = {"username": stage.inbox["username"]}
    for number, (path, bad, status, good) in enumerate(
        (
            ("/v0/inboxes", taken, 403, {"username": "free"}),
            ("/v0/pods", {"name": ""}, 400, {"name": "Acme"}),
            ("/v0/api-keys", {"expires_at": "2020-01-01T00:00:00Z"}, 400, {}),
            ("/v0/lists/send/block", {"entry": "no domain"}, 400, ENTRY),
            (MAKINGS["draft"].at(stage), {"to": "nobody"}, 400, {"to": OUTSIDER}),
            ("/v0/webhooks", {"url": "nowhere"}, 400, HOOK),
        )
    ):
        key = f"k{number}"
        assert (await post(stage, path, bad, key=key)).status_code == status, path
        made = await post(stage, path, good, key=key)
        assert made.status_code == 201, made.text
        assert REPLAYED not in made.headers


async def test_what_is_gone_is_not_made_again(stage: Stage) -> None:
    """What somebody deleted would come back with a late repetition."""
    for key, making in each():
        made = await make(stage, making, key=key)
        gone = await stage.service.client.delete(making.made_at(stage, made.json()))
        assert gone.status_code == 204, gone.text
        before = await rows(stage.service)
        answer = await make(stage, making, key=key)
        assert answer.status_code == 404
        assert "Idempotency-Key" in answer.json()["message"]
        assert answer.json()["fix"]
        assert await rows(stage.service) == before


async def test_a_draft_that_was_sent_is_not_made_again(stage: Stage) -> None:
    """Sent once more, its recipients would have it twice."""
    draft = (await make(stage, MAKINGS["draft"])).json()
    path = f"{MAKINGS['draft'].at(stage)}/{draft['draft_id']}"
    assert (await post(stage, f"{path}/send", {}, key=None)).status_code == 200
    assert (await make(stage, MAKINGS["draft"])).status_code == 404
    assert len(await stage.service.messages(stage.inbox)) == 1


async def test_a_repetition_shows_what_there_is_now(stage: Stage) -> None:
    """No answer is kept: an old name would come out of some copy of it."""
    pod = (await make(stage, MAKINGS["pod"])).json()
    await stage.service.client.patch(f"/v0/pods/{pod['pod_id']}", json={"name": "Renamed"})
    assert (await make(stage, MAKINGS["pod"])).json()["name"] == "Renamed"


# --- other API keys


async def other(stage: Stage, **reach: Any) -> httpx.AsyncClient:
    """A client with another key of the organisation."""
    service = stage.service
    return tenants.client(service, await tenants.key(service.db, service.organization_id, **reach))


@pytest.mark.parametrize("name", SHARED)
async def test_another_key_of_the_organization_is_told_too(stage: Stage, name: str) -> None:
    """A worker with a key of its own that takes over a job would do it twice."""
    first = await make(stage, MAKINGS[name])
    again = await make(stage, MAKINGS[name], by=await other(stage))
    assert again.json() == first.json()
    assert again.headers[REPLAYED] == "true"


@pytest.mark.parametrize("name", PRIVATE)
async def test_a_secret_is_told_to_the_key_that_asked_first_only(stage: Stage, name: str) -> None:
    """Whoever guesses a request could have another's password."""
    making = MAKINGS[name]
    made = (await make(stage, making)).json()
    body = assert_conflict(await make(stage, making, by=await other(stage)))
    assert "secret" in body["message"]
    assert made[making.id] not in json.dumps(body)


@pytest.mark.parametrize("name", SHARED)
async def test_another_key_has_to_be_one_that_may_read(stage: Stage, name: str) -> None:
    """A key that can only make things would read what others made."""
    making = MAKINGS[name]
    await make(stage, making)
    blind = await other(stage, permissions=tenants.all_but(f"{making.noun}_read"))
    answer = await make(stage, making, by=blind)
    assert answer.status_code == 403
    assert answer.json()["code"] == "missing_permission"
    ready = await other(stage, permissions=tenants.only(f"{making.noun}_create"))
    if making.noun == "domain":
        # There is one of each name.
        making = msgspec.structs.replace(making, body=making.body | {"domain": "mine.test"})
    assert (await make(stage, making, key="mine", by=ready)).status_code in {200, 201}
    assert (await make(stage, making, key="mine", by=ready)).headers[REPLAYED] == "true"


async def test_a_key_that_may_not_make_it_is_told_nothing(stage: Stage) -> None:
    """Repeating a request would be a way around the permission to make it."""
    for key, making in each():
        await make(stage, making, key=key)
        reader = await other(stage, permissions=tenants.all_but(making.needs))
        assert (await make(stage, making, key=key, by=reader)).status_code == 403


async def test_a_narrower_key_is_told_of_nothing_beyond_its_reach(stage: Stage) -> None:
    """A customer's key would learn of the inboxes, keys and lists of the whole organisation."""
    pod_key = await other(stage, pod_id=stage.pod_id)
    for number, (path, body) in enumerate(
        (
            ("/v0/inboxes", {"display_name": "A"}),
            ("/v0/api-keys", {"name": "ci"}),
            ("/v0/lists/send/block", ENTRY),
        )
    ):
        made = await post(stage, path, body, key=f"k{number}")
        answer = await post(stage, path, body, key=f"k{number}", by=pod_key)
        assert_conflict(answer)
        for secret in (made.json().get("inbox_id"), made.json().get("api_key_id")):
            assert str(secret) not in answer.text


async def test_a_key_of_the_inbox_repeats_what_is_in_it(stage: Stage) -> None:
    """And that of another inbox does not even find it."""
    draft = await make(stage, MAKINGS["draft"])
    own = await tenants.uuid_of(stage.service.db, stage.inbox)
    stranger = await tenants.uuid_of(stage.service.db, await stage.service.inbox("mallory"))
    assert (await make(stage, MAKINGS["draft"], by=await other(stage, inbox_id=own))).json() == (
        draft.json()
    )
    foreign = await make(stage, MAKINGS["draft"], by=await other(stage, inbox_id=stranger))
    assert foreign.status_code == 404
    assert draft.json()["draft_id"] not in foreign.text


async def test_a_send_is_told_to_whom_reaches_its_inbox_only(stage: Stage) -> None:
    """Message and thread of an inbox would be told to the key of another."""
    sent = await send(stage)
    own = await tenants.uuid_of(stage.service.db, stage.inbox)
    stranger = await tenants.uuid_of(stage.service.db, await stage.service.inbox("mallory"))
    same = await send(stage, by=await other(stage, inbox_id=own))
    assert same.json() == sent.json()
    assert same.headers[REPLAYED] == "true"
    for reach in ({"inbox_id": stranger}, {"pod_id": stage.pod_id}):
        refused = await send(stage, by=await other(stage, **reach))
        assert refused.status_code == 404
        assert sent.json()["message_id"] not in refused.text
    reader = await other(stage, permissions=tenants.only("message_read"))
    assert (await send(stage, by=reader)).status_code == 403


async def test_a_key_that_may_do_less_by_now_is_not_told_the_secret(stage: Stage) -> None:
    """Narrowing a stolen key would leave it the way to the keys it made."""
    maker = await tenants.key(stage.service.db, stage.service.organization_id)
    client = tenants.client(stage.service, maker)
    assert (await make(stage, MAKINGS["key"], by=client)).status_code == 201
    narrowed = await stage.service.client.patch(
        f"/v0/api-keys/{maker.api_key_id}", json={"permissions": {"api_key_create": True}}
    )
    assert narrowed.status_code == 200
    answer = await make(stage, MAKINGS["key"], by=client)
    assert answer.status_code == 403
    assert answer.json()["code"] == "permission_escalation"


async def test_other_organizations_have_keys_of_their_own(stage: Stage) -> None:
    """One customer could block, or read, what another makes."""
    service = stage.service
    theirs = await tenants.key(service.db, await tenants.organization(service.db))
    made = await make(stage, MAKINGS["pod"])
    foreign = await make(stage, MAKINGS["pod"], by=tenants.client(service, theirs))
    assert foreign.status_code == 201
    assert REPLAYED not in foreign.headers
    assert foreign.json()["pod_id"] != made.json()["pod_id"]


# --- what is asked of something that is there

WEBHOOKS = [making for making in MAKINGS.values() if making.noun == "webhook"]
ASKED: dict[str, Json | None] = {
    "/secret/rotate": None,
    "/test": None,
    "/replay": {"since": "2026-01-01T00:00:00Z"},
    "/deliveries/{delivery_id}/resend": None,
}
"""Requests to a webhook whose repetition would do something twice."""


async def quiet(stage: Stage, making: Making) -> tuple[str, str]:
    """Where a webhook is that leads nowhere, and something that is to be delivered to it."""
    made = (await make(stage, making, key=None)).json()
    path = making.made_at(stage, made)
    async with stage.service.db.transaction() as tx:
        # An address that is refused before there is any connection.
        await tx.execute("update webhook set url = 'http://127.0.0.1:9000/'")
    return path, (await post(stage, f"{path}/test", key=None)).json()["delivery_id"]


@pytest.mark.parametrize("making", WEBHOOKS, ids=lambda each: each.path)
async def test_what_is_asked_of_a_webhook_is_done_once(stage: Stage, making: Making) -> None:
    """A client that lost an answer would rotate the secret once more, or have an event delivered twice."""
    path, delivery_id = await quiet(stage, making)
    for number, (tail, body) in enumerate(ASKED.items()):
        key, where = f"k{number}", path + tail.format(delivery_id=delivery_id)
        first = await post(stage, where, body, key=key)
        assert first.status_code == 200, first.text
        before = await webhooks_now(stage)
        again = await post(stage, where, body, key=key)
        assert (again.status_code, again.headers[REPLAYED]) == (200, "true")
        assert named(again) == named(first)
        assert await webhooks_now(stage) == before
        assert_conflict(await post(stage, path + "/test", {"event_type": "x"}, key=key))
        blind = await other(stage, permissions=tenants.all_but("webhook_read"))
        assert (await post(stage, where, body, key=key, by=blind)).status_code == 403


def named(answer: httpx.Response) -> dict[str, object]:
    """What an answer says of what was done, but not how far it is."""
    told: Json = answer.json()
    kept = ("webhook_id", "secret", "delivery_id", "count", "previous_secret_until")
    return {name: told[name] for name in kept if name in told}


async def webhooks_now(stage: Stage) -> list[Json]:
    async with stage.service.db.reading() as tx:
        return await (
            await tx.execute(
                "select webhook_id, secret, previous_secret, (select count(*) from delivery) as sent"
                " from webhook order by webhook_id"
            )
        ).fetchall()


async def test_what_was_asked_of_a_webhook_that_is_gone(stage: Stage) -> None:
    """A late repetition would be answered with what is not there."""
    path, delivery_id = await quiet(stage, MAKINGS["webhook"])
    for number, (tail, body) in enumerate(ASKED.items()):
        where = path + tail.format(delivery_id=delivery_id)
        assert (await post(stage, where, body, key=f"k{number}")).status_code == 200
    assert (await stage.service.client.delete(path)).status_code == 204
    for number, (tail, body) in enumerate(ASKED.items()):
        where = path + tail.format(delivery_id=delivery_id)
        assert (await post(stage, where, body, key=f"k{number}")).status_code == 404


# --- none is forgotten

MAKE_NOTHING = {
    *("messages.batch_get", "messages.batch_update"),
    *(f"{scope}domains.{each}" for scope in ("", "pods.") for each in ("verify", "rotate_dkim")),
}
"""POST operations whose repetition makes nothing new."""


def keyed(operation: Json) -> bool:
    return any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))


def test_every_request_that_makes_something_takes_the_key() -> None:
    """A new route would make things twice: give it `once`, or say above that it makes nothing."""
    posts = [item["post"] for item in description()["paths"].values() if "post" in item]
    without = {each["operationId"] for each in posts if not keyed(each)}
    assert without - MAKE_NOTHING == set()
    assert without >= MAKE_NOTHING


def test_every_one_of_them_is_tried_here() -> None:
    """The tests above would not look at a new route."""
    tried = {shape(making.path) for making in MAKINGS.values()}
    # `test_credentials.py` has these: what they set they tell again only while it works.
    tried |= {"/v0/inboxes/…/credentials/rotate", "/v0/inboxes/credentials/export"}
    tried |= {"/v0/pods/…/inboxes/credentials/export"}
    tried |= {shape(f"{making.path}/{{webhook_id}}{each}") for making in WEBHOOKS for each in ASKED}
    for path, item in description()["paths"].items():
        operation = item.get("post", {})
        if keyed(operation) and not {"messages", "send"} & set(path.split("/")):
            assert shape(path) in tried, path


def shape(path: str) -> str:
    """A path without what stands for something in it."""
    return re.sub(r"{\w+}", "…", re.sub(r"/lists/.*", "/lists", path))
