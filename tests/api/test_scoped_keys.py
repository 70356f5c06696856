"""API keys of an organisation, a pod and an inbox: what each reaches, gives away, lists and survives."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import pytest_asyncio

from agentmail_cp import access
from agentmail_cp.app import create_app
from agentmail_cp.mailserver import Folder
from agentmail_cp.sandbox import MailSandbox
from tests import tenants
from tests.api.drafting import ahead, change, look, make, path
from tests.api.faults import fault, mistake
from tests.api.mailbox import arrive, at, ok, path_of, put, restricted
from tests.fix_app import DOMAIN, Json, Service, a_mail, settings_for, started, until
from tests.tenants import Key, all_but, only

SCOPES = ("organization", "pod", "inbox")


class Tenant(msgspec.Struct, frozen=True):
    """An inbox, a pod, and a key for each scope it is in."""

    service: Service
    inbox: Json
    keys: dict[str, Key]

    def keys_at(self, scope: str) -> str:
        return keys_at(self.inbox, scope)

    async def call(self, scope: str, method: str, path: str, **body: object) -> httpx.Response:
        """A request with the key of a scope."""
        return await self.service.client.request(
            method, path, json=body or None, headers=self.keys[scope].headers
        )


def keys_at(inbox: Json, scope: str) -> str:
    return {
        "organization": "/v0/api-keys",
        "pod": f"/v0/pods/{inbox['pod_id']}/api-keys",
        "inbox": f"{at(inbox)}/api-keys",
    }[scope]


async def a_tenant(service: Service, username: str = "desk") -> Tenant:
    """One with a pod of its own."""
    pod_id = await tenants.pod(service.db, service.organization_id)
    inbox = await tenants.inbox_in(service, pod_id, username)
    inbox_id = await tenants.uuid_of(service.db, inbox)
    keys = {
        "organization": await tenants.key(service.db, service.organization_id),
        "pod": await tenants.key(service.db, service.organization_id, pod_id=pod_id),
        "inbox": await tenants.key(service.db, service.organization_id, inbox_id=inbox_id),
    }
    return Tenant(service, inbox, keys)


@pytest_asyncio.fixture
async def tenant(service: Service) -> Tenant:
    return await a_tenant(service)


def using(key: Json) -> dict[str, str]:
    return {"Authorization": f"Bearer {key['api_key']}"}


async def me(service: Service, key: Json) -> Json:
    return await ok(await service.client.get("/v0/auth/me", headers=using(key)))


async def made(tenant: Tenant, by: str, scope: str, **fields: object) -> Json:
    """A key that another made on the path of a scope."""
    answer = await tenant.call(by, "POST", tenant.keys_at(scope), name="made", **fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_says_how_far_it_reaches(tenant: Tenant, scope: str) -> None:
    """A client could not tell which inbox it was given."""
    key = await made(tenant, "organization", scope)
    inbox, organization_id = tenant.inbox, str(tenant.service.organization_id)
    named: Json = {
        "organization": {},
        "pod": {"pod_id": inbox["pod_id"]},
        "inbox": {"pod_id": inbox["pod_id"], "inbox_id": inbox["inbox_id"]},
    }[scope]
    assert {name: key[name] for name in key.keys() & {"pod_id", "inbox_id"}} == named
    assert await me(tenant.service, key) == {
        "scope_type": scope,
        "scope_id": named.get(f"{scope}_id", organization_id),
        "organization_id": organization_id,
        "api_key_id": key["api_key_id"],
        **named,
    }


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_key_made_without_a_scope_reaches_as_far_as_its_maker(
    tenant: Tenant, scope: str
) -> None:
    """The key of one tenant would make itself one for all."""
    key = await made(tenant, scope, "organization")
    assert (await me(tenant.service, key))["scope_type"] == scope


async def test_no_key_is_made_beyond_its_makers_reach(tenant: Tenant) -> None:
    other = await a_tenant(tenant.service, "other")
    for by, scope, status in (
        ("pod", "pod", 404),
        ("pod", "inbox", 404),
        ("inbox", "inbox", 404),
        ("inbox", "pod", 403),
    ):
        answer = await tenant.call(by, "POST", other.keys_at(scope))
        fault(answer, status, {404: "not_found", 403: "forbidden"}[status])
    fault(await tenant.call("inbox", "POST", tenant.keys_at("pod")), 403, "forbidden")
    assert len(await listed(other, "organization", "pod")) == 2


async def listed(tenant: Tenant, by: str, scope: str, query: str = "?limit=100") -> set[str]:
    """The ids of the keys a key is shown on the path of a scope."""
    page = await ok(await tenant.call(by, "GET", tenant.keys_at(scope) + query))
    assert "limit" not in page
    assert page["count"] == len(page["api_keys"])
    return {each["api_key_id"] for each in page["api_keys"]}


def ids(tenant: Tenant, *scopes: str) -> set[str]:
    return {str(tenant.keys[each].api_key_id) for each in scopes}


async def test_a_list_shows_its_scope_and_what_is_narrower(tenant: Tenant) -> None:
    """Somebody who cleans up would miss keys, or see another tenant's."""
    other = await a_tenant(tenant.service, "other")
    everything = await listed(tenant, "organization", "organization")
    assert everything >= ids(tenant, *SCOPES) | ids(other, *SCOPES)
    assert len(everything) == 7, "and that of the test"
    pod, inbox = ids(tenant, "pod", "inbox"), ids(tenant, "inbox")
    assert await listed(tenant, "organization", "pod") == pod
    assert await listed(tenant, "pod", "pod") == pod
    assert await listed(tenant, "pod", "organization") == pod
    for by in SCOPES:
        assert await listed(tenant, by, "inbox") == inbox
    assert await listed(tenant, "inbox", "organization") == inbox


async def test_a_list_can_be_turned_around_and_narrowed_to_a_type(tenant: Tenant) -> None:
    """The SDKs have both."""
    for scope in SCOPES:
        path = tenant.keys_at(scope)
        newest = (await ok(await tenant.call("organization", "GET", path)))["api_keys"]
        oldest = await ok(await tenant.call("organization", "GET", f"{path}?ascending=true"))
        assert oldest["api_keys"] == newest[::-1]
        bearer = await ok(await tenant.call("organization", "GET", f"{path}?type=bearer"))
        assert bearer["api_keys"] == newest
        public = await ok(await tenant.call("organization", "GET", f"{path}?type=public_key"))
        assert public == {"count": 0, "api_keys": []}
        mistake(await tenant.call("organization", "GET", f"{path}?type=else"), "type")


async def test_a_page_token_leads_nowhere_but_on(tenant: Tenant) -> None:
    """The token of one list must not open another."""
    page = await ok(await tenant.call("organization", "GET", "/v0/api-keys?limit=1"))
    token = page["next_page_token"]
    for by, elsewhere in (("pod", "/v0/api-keys"), ("organization", tenant.keys_at("pod"))):
        answer = await tenant.call(by, "GET", f"{elsewhere}?page_token={token}")
        mistake(answer, "page_token", "INVALID_PAGE_TOKEN")


async def test_a_key_is_found_only_in_scopes_that_hold_it(tenant: Tenant) -> None:
    """A pod's path would lead to the organisation's keys."""
    other = await a_tenant(tenant.service, "other")
    for scope, held in (("organization", SCOPES), ("pod", SCOPES[1:]), ("inbox", SCOPES[2:])):
        for kind, key in tenant.keys.items():
            path = f"{tenant.keys_at(scope)}/{key.api_key_id}"
            answer = await tenant.call("organization", "GET", path)
            if kind in held:
                assert (await ok(answer))["api_key_id"] == str(key.api_key_id)
                renamed = await tenant.call("organization", "PATCH", path, name="renamed")
                assert (await ok(renamed))["name"] == "renamed"
                continue
            fault(answer, 404, "not_found")
            for method in ("PATCH", "DELETE"):
                refused = await tenant.call("organization", method, path, name="renamed")
                fault(refused, 404, "not_found")
        foreign = f"{tenant.keys_at(scope)}/{other.keys['inbox'].api_key_id}"
        by = "organization" if scope == "pod" else "inbox"
        if scope != "organization":
            fault(await tenant.call(by, "GET", foreign), 404, "not_found")


@pytest.mark.parametrize("by", ["pod", "inbox"])
async def test_a_narrow_key_sees_no_wider_one(tenant: Tenant, by: str) -> None:
    """It could rename, limit or revoke the key of its owner."""
    wider = SCOPES[: SCOPES.index(by)]
    for kind in wider:
        path = f"/v0/api-keys/{tenant.keys[kind].api_key_id}"
        for method in ("GET", "PATCH", "DELETE"):
            fault(await tenant.call(by, method, path, name="mine"), 404, "not_found")
    own = f"/v0/api-keys/{tenant.keys[by].api_key_id}"
    assert (await tenant.call(by, "PATCH", own, name="mine")).status_code == 200


async def test_a_stronger_key_is_neither_changed_nor_deleted(service: Service) -> None:
    """A key that may manage keys could get rid of whoever limits it."""
    weak = await restricted(service, "api_key_read", "api_key_update", "api_key_delete")
    for permissions, code in (
        (None, "unrestricted_key_required"),
        ({"api_key_read": True, "message_send": True}, "permission_escalation"),
    ):
        answer = await service.client.post("/v0/api-keys", json={"permissions": permissions})
        key = f"/v0/api-keys/{answer.json()['api_key_id']}"
        changes: list[Json] = [{"name": "x"}, {"permissions": {}}]
        for each in changes:
            refused = await service.client.patch(key, json=each, headers=weak)
            fault(refused, 403, code)
        fault(await service.client.delete(key, headers=weak), 403, code)
        assert (await service.client.get(key)).json()["name"] == "API key"


async def test_a_key_for_a_day_puts_nothing_into_one_for_ever(service: Service) -> None:
    """What it may do would outlive it."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    day = (await service.client.post("/v0/api-keys", json={"expires_at": tomorrow})).json()
    ever = (await service.client.post("/v0/api-keys", json={"permissions": {}})).json()
    key = f"/v0/api-keys/{ever['api_key_id']}"
    for permissions in (None, {"message_read": True}):
        answer = await service.client.patch(
            key, json={"permissions": permissions}, headers=using(day)
        )
        fault(answer, 403, "permission_escalation")
    less = await service.client.patch(
        key, json={"name": "less", "permissions": {"message_read": False}}, headers=using(day)
    )
    assert less.status_code == 200


async def test_the_end_of_a_key_stays(service: Service) -> None:
    """Silence about a refused wish would leave a key alive that was meant to end."""
    key = (await service.client.post("/v0/api-keys", json={})).json()
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    answer = await service.client.patch(
        f"/v0/api-keys/{key['api_key_id']}", json={"name": "x", "expires_at": soon}
    )
    mistake(answer, "expires_at")


async def test_the_seeds_permissions_are_the_contracts(service: Service) -> None:
    """Seed 004's `messages:read` and `messages:write`."""
    inbox = await service.inbox("desk")
    answer = await service.client.post(
        "/v0/api-keys", json={"permissions": {"messages:read": True, "messages:write": True}}
    )
    key = answer.json()
    assert key["permissions"] == {"message_read": True, "message_send": True}
    read = await service.client.get(f"{at(inbox)}/messages", headers=using(key))
    assert read.status_code == 200
    sent = await service.client.post(
        f"{at(inbox)}/messages/send",
        json={"to": inbox["email"], "text": "Hi"},
        headers=using(key),
    )
    assert sent.status_code == 200
    changed = await service.client.patch(
        f"/v0/api-keys/{key['api_key_id']}", json={"permissions": {"messages:read": True}}
    )
    assert changed.json()["permissions"] == {"message_read": True}


@pytest.mark.parametrize("scope", SCOPES)
async def test_public_keys_are_refused_politely(tenant: Tenant, scope: str) -> None:
    """A client that registers one must not believe it has a key."""
    jwk = {"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}
    before = await listed(tenant, "organization", scope)
    answer = await tenant.call("organization", "POST", tenant.keys_at(scope), public_key=jwk)
    mistake(answer, "public_key")
    assert await listed(tenant, "organization", scope) == before
    for method in ("GET", "PATCH", "DELETE"):
        literal = f"{tenant.keys_at(scope)}/public-keys"
        fault(await tenant.call("organization", method, literal, name="x"), 404, "not_found")


async def test_keys_of_a_deleted_inbox_are_dead(anywhere: Service) -> None:
    """Whoever has one could go on asking."""
    tenant = await a_tenant(anywhere)
    spare = await tenants.key(
        anywhere.db, anywhere.organization_id, pod_id=UUID(tenant.inbox["pod_id"])
    )
    assert (await tenant.call("inbox", "GET", at(tenant.inbox))).status_code == 200
    assert (await tenant.call("organization", "DELETE", at(tenant.inbox))).status_code == 204
    refused = await until(
        lambda: tenant.call("inbox", "GET", "/v0/auth/me"),
        lambda answer: answer.status_code == 401,
        seconds=2.0,
    )
    fault(refused, 401, "unknown_api_key")
    assert await listed(tenant, "organization", "pod") == {
        str(spare.api_key_id),
        *ids(tenant, "pod"),
    }


async def test_keys_of_a_deleted_pod_are_dead(service: Service) -> None:
    """A customer who left would keep a way in."""
    pod_id = await tenants.pod(service.db, service.organization_id)
    key = await tenants.key(service.db, service.organization_id, pod_id=pod_id)
    assert (await service.client.get("/v0/auth/me", headers=key.headers)).status_code == 200
    assert (await service.client.delete(f"/v0/pods/{pod_id}")).status_code == 204
    refused = await until(
        lambda: service.client.get("/v0/auth/me", headers=key.headers),
        lambda answer: answer.status_code == 401,
        seconds=2.0,
    )
    fault(refused, 401, "unknown_api_key")


async def test_two_services_agree_about_a_key_within_two_seconds(
    service: Service, database_url: str
) -> None:
    """A leaked key would go on working on the replica that saw it last."""
    app = create_app(settings_for(database_url), server=MailSandbox(DOMAIN), worker=False)
    async with started(app) as second:
        replicas = (service.client, second)
        revoked, narrowed = [
            (await service.client.post("/v0/api-keys", json={})).json() for _ in range(2)
        ]

        async def answers(key: Json) -> list[int]:
            return [
                (await each.get("/v0/inboxes", headers=using(key))).status_code for each in replicas
            ]

        assert await answers(revoked) == await answers(narrowed) == [200, 200]
        gone = await second.delete(f"/v0/api-keys/{revoked['api_key_id']}", headers=using(revoked))
        assert gone.status_code == 204
        key = f"/v0/api-keys/{narrowed['api_key_id']}"
        await ok(await service.client.patch(key, json={"permissions": {}}))
        await asyncio.sleep(1.9)
        assert await answers(revoked) == [401, 401]
        assert await answers(narrowed) == [403, 403]
        await ok(await service.client.patch(key, json={"permissions": None}))
        await asyncio.sleep(1.9)
        assert await answers(narrowed) == [200, 200]


async def test_a_key_that_may_not_send_leaves_a_scheduled_draft_as_it_is(
    anywhere: Service,
) -> None:
    """A key that writes drafts for a person to look at could rewrite one that goes out by itself."""
    inbox = await anywhere.inbox("desk")
    key = await tenants.key(
        anywhere.db, anywhere.organization_id, permissions=all_but("draft_send")
    )
    draft = await make(anywhere, inbox, to="a@o.test", text="as agreed", send_at=ahead(3600))
    file = {"filename": "x", "content": "eA=="}
    changes: list[Json] = [
        {"text": "changed"},
        {"html": "<p>changed</p>"},
        {"subject": "changed"},
        {"to": "b@o.test"},
        {"cc": "b@o.test"},
        {"bcc": "b@o.test"},
        {"reply_to": "b@o.test"},
        {"add_attachments": [file]},
        {"text": "changed", "add_labels": ["x"]},
    ]
    for each in changes:
        answer = await anywhere.client.patch(path(inbox, draft), json=each, headers=key.headers)
        assert "draft_send" in fault(answer, 403, "missing_permission")["message"], each
    assert (await look(anywhere, inbox, draft))["text"].strip() == "as agreed"
    labelled = await anywhere.client.patch(
        path(inbox, draft), json={"add_labels": ["mine"]}, headers=key.headers
    )
    assert labelled.status_code == 200, labelled.text
    assert (await look(anywhere, inbox, draft))["send_status"] == "scheduled"
    taken = await anywhere.client.patch(
        path(inbox, draft), json={"text": "changed", "send_at": None}, headers=key.headers
    )
    assert taken.status_code == 200, taken.text
    after = await look(anywhere, inbox, draft)
    assert after["text"].strip() == "changed"
    assert "send_status" not in after
    await change(anywhere, inbox, draft, text="and again")


async def test_what_is_written_about_a_message_takes_reading_it(anywhere: Service) -> None:
    """A key that may not read could have a mail forwarded to itself, or put into its drafts."""
    inbox = await anywhere.inbox("desk")
    (message,) = await arrive(anywhere, inbox, a_mail(inbox["email"], "Secret"))
    blind = await tenants.key(
        anywhere.db, anywhere.organization_id, permissions=all_but("message_read")
    )
    asked: list[tuple[str, Json]] = [
        (f"{path_of(inbox, message)}/forward", {"to": "thief@elsewhere.test"}),
        (path(inbox), {"forward_of": message["message_id"], "to": "thief@elsewhere.test"}),
        (path(inbox), {"in_reply_to": message["message_id"], "text": "Hi"}),
    ]
    for where, body in asked:
        answer = await anywhere.client.post(where, json=body, headers=blind.headers)
        assert "message_read" in fault(answer, 403, "missing_permission")["message"]
    replying = await tenants.key(
        anywhere.db, anywhere.organization_id, permissions=only("message_reply")
    )
    reply = await anywhere.client.post(
        f"{path_of(inbox, message)}/reply", json={"text": "Hi"}, headers=replying.headers
    )
    assert reply.status_code == 200, reply.text


async def test_a_drafted_forward_goes_to_nobody_else_without_reading(anywhere: Service) -> None:
    """It is sent with the words of its message, which a key that may not read them would send itself."""
    inbox = await anywhere.inbox("desk")
    (message,) = await arrive(anywhere, inbox, a_mail(inbox["email"], "Secret"))
    hidden = await put(anywhere, inbox, a_mail(inbox["email"], "Spam"), Folder.JUNK)
    for about, needed, status, code in (
        (message, "message_read", 403, "missing_permission"),
        (hidden, "label_spam_read", 404, "not_found"),
    ):
        draft = await make(anywhere, inbox, forward_of=about["message_id"], to="a@o.test")
        key = await tenants.key(anywhere.db, anywhere.organization_id, permissions=all_but(needed))
        for field in ("to", "cc", "bcc"):
            answer = await anywhere.client.patch(
                path(inbox, draft), json={field: "thief@o.test"}, headers=key.headers
            )
            fault(answer, status, code)
        assert "thief" not in str(await look(anywhere, inbox, draft))
        for whose, body in ((key.headers, {"text": "Please read"}), ({}, {"to": "b@o.test"})):
            answer = await anywhere.client.patch(path(inbox, draft), json=body, headers=whose)
            assert answer.status_code == 200, answer.text


async def test_writing_a_draft_is_not_reading_it(anywhere: Service) -> None:
    """A key that may not read drafts would be shown one by labelling it, by its client_id, or by repeating
    a request after a person has changed what came of it.
    """
    inbox = await anywhere.inbox("desk")
    said = {"to": "secret@o.test", "subject": "secret", "text": "secret", "client_id": "d-1"}
    draft = await make(anywhere, inbox, **said)
    key = await tenants.key(
        anywhere.db, anywhere.organization_id, permissions=only("draft_create", "draft_update")
    )
    once = key.headers | {"Idempotency-Key": "once"}
    own = await anywhere.client.post(path(inbox), json={"text": "mine"}, headers=once)
    assert own.status_code == 201, own.text
    assert own.json()["text"].strip() == "mine"
    await change(anywhere, inbox, own.json(), text="secret", subject="secret")
    for answer in (
        await anywhere.client.patch(
            path(inbox, draft), json={"add_labels": ["x"]}, headers=key.headers
        ),
        await anywhere.client.post(path(inbox), json={"client_id": "d-1"}, headers=key.headers),
        await anywhere.client.post(path(inbox), json={"text": "mine"}, headers=once),
    ):
        assert answer.status_code in {200, 201}, answer.text
        assert "secret" not in answer.text
        assert answer.json()["draft_id"] in {draft["draft_id"], own.json()["draft_id"]}
    assert (await look(anywhere, inbox, draft))["labels"] == ["draft", "x"]


async def test_a_mail_password_goes_to_no_key_that_may_do_less(service: Service) -> None:
    """With the password everything in the mailbox can be done: it would be a stronger key."""
    weaker = [
        await tenants.key(service.db, service.organization_id, permissions=all_but(withheld))
        for withheld in sorted(access.MAIL_CLIENT)
    ]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    weaker.append(await tenants.key(service.db, service.organization_id, expires_at=tomorrow))
    for made in weaker:
        async with tenants.client(service, made) as client:
            answer = await client.post("/v0/inboxes", json={})
        assert answer.status_code == 201, answer.text
        assert "credentials" not in answer.json()


async def test_a_key_that_may_do_what_a_mail_client_does_is_told_the_password(
    service: Service,
) -> None:
    permissions = only("inbox_create", *access.MAIL_CLIENT)
    made = await tenants.key(service.db, service.organization_id, permissions=permissions)
    async with tenants.client(service, made) as enough:
        answer = await enough.post("/v0/inboxes", json={})
    assert answer.json()["credentials"]["password"]


async def test_an_inbox_key_has_no_way_out_of_its_inbox(tenant: Tenant) -> None:
    """Seed 002: it can only access that inbox's threads, messages and drafts."""
    other = await a_tenant(tenant.service, "other")
    for where in (at(other.inbox), f"{at(other.inbox)}/messages", f"{at(other.inbox)}/drafts"):
        fault(await tenant.call("inbox", "GET", where), 404, "not_found")
    for where in ("/v0/inboxes", "/v0/threads", "/v0/drafts", "/v0/api-keys"):
        page = await ok(await tenant.call("inbox", "GET", where))
        assert page["count"] == (1 if where in {"/v0/inboxes", "/v0/api-keys"} else 0)
    fault(await tenant.call("inbox", "POST", "/v0/inboxes"), 403, "forbidden")
    fault(await tenant.call("inbox", "DELETE", at(tenant.inbox)), 403, "forbidden")
    missing = f"/v0/api-keys/{uuid4()}"
    fault(await tenant.call("inbox", "GET", missing), 404, "not_found")
