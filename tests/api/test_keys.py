"""API keys: made, shown once, limited, revoked; and what a caller without a good one is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from agentmail_cp import access
from tests.api.faults import fault, mistake, without_key
from tests.api.write_openapi import description
from tests.fix_app import Json, Service, until

HEX_OF_256_BITS = 64


async def make(service: Service, **fields: object) -> Json:
    answer = await service.client.post("/v0/api-keys", json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def using(
    service: Service, secret: str, method: str, path: str, **body: object
) -> httpx.Response:
    """The same request as somebody else."""
    return await service.client.request(
        method, path, json=body or None, headers={"Authorization": f"Bearer {secret}"}
    )


async def test_a_new_key_shows_its_secret_once(service: Service) -> None:
    """Whoever may list keys could use them all."""
    made = await make(service, name="ci")
    secret: str = made.pop("api_key")
    assert secret.startswith("inai_")
    assert len(bytes.fromhex(secret.removeprefix("inai_"))) * 8 >= 256
    assert secret.startswith(made["prefix"])
    assert len(made["prefix"]) < 20
    assert made["name"] == "ci"
    assert made["type"] == "bearer"
    shown = (await service.client.get(f"/v0/api-keys/{made['api_key_id']}")).json()
    assert shown == made
    for path in ("/v0/api-keys", f"/v0/api-keys/{made['api_key_id']}"):
        assert secret not in (await service.client.get(path)).text


async def test_no_two_keys_are_alike(service: Service) -> None:
    """A guessable key is no key."""
    secrets = {(await make(service))["api_key"] for _ in range(20)}
    assert len(secrets) == 20
    assert {len(each) for each in secrets} == {len("inai_") + HEX_OF_256_BITS}


async def test_a_secret_is_not_stored(service: Service) -> None:
    """A copy of the database would open every inbox."""
    made = await make(service)
    async with service.db.transaction() as tx:
        rows = await (await tx.execute("select api_key::text as row from api_key")).fetchall()
    assert len(rows) == 2
    assert not [each for each in rows if made["api_key"][len("inai_") :] in each["row"]]


async def test_a_new_key_works_at_once_and_its_use_shows(service: Service) -> None:
    """An operator could not tell a used key from a forgotten one."""
    made = await make(service)
    assert "used_at" not in made
    me = await using(service, made["api_key"], "GET", "/v0/auth/me")
    assert me.status_code == 200
    shown = (await service.client.get(f"/v0/api-keys/{made['api_key_id']}")).json()
    used = datetime.fromisoformat(shown["used_at"])
    assert abs((datetime.now(UTC) - used).total_seconds()) < 60


async def test_auth_me_says_whose_key_it_is(service: Service) -> None:
    """A client could not find out what it may reach."""
    made = await make(service)
    me = (await using(service, made["api_key"], "GET", "/v0/auth/me")).json()
    assert me == {
        "scope_type": "organization",
        "scope_id": str(service.organization_id),
        "organization_id": str(service.organization_id),
        "api_key_id": made["api_key_id"],
    }


async def test_keys_are_listed_newest_first_in_pages(service: Service) -> None:
    """A key to revoke could not be found."""
    made = [(await make(service, name=f"k{index}"))["api_key_id"] for index in range(4)]
    first = (await service.client.get("/v0/api-keys", params={"limit": 3})).json()
    assert [each["api_key_id"] for each in first["api_keys"]] == made[::-1][:3]
    assert first["count"] == 3
    params = {"limit": 3, "page_token": first["next_page_token"]}
    second = (await service.client.get("/v0/api-keys", params=params)).json()
    assert [each["api_key_id"] for each in second["api_keys"]][:1] == made[:1]
    assert second["count"] == 2
    assert "next_page_token" not in second


async def test_name_and_permissions_can_be_changed(service: Service) -> None:
    """A key would have to be replaced to be renamed or limited."""
    made = await make(service, name="old", permissions={"inbox_read": True})
    at = f"/v0/api-keys/{made['api_key_id']}"
    renamed = (await service.client.patch(at, json={"name": "new"})).json()
    assert renamed["name"] == "new"
    assert renamed["permissions"] == {"inbox_read": True}
    limited = await service.client.patch(at, json={"permissions": {"message_read": True}})
    assert limited.json()["permissions"] == {"message_read": True}
    freed = (await service.client.patch(at, json={"permissions": None})).json()
    assert "permissions" not in freed
    mistake(await service.client.patch(at, json={}), "name", "REQUIRED")


async def test_a_limit_set_later_is_in_force_within_two_seconds(service: Service) -> None:
    """A key that leaked could go on doing what it was just forbidden."""
    made = await make(service)
    at = f"/v0/api-keys/{made['api_key_id']}"
    assert (await using(service, made["api_key"], "GET", "/v0/inboxes")).status_code == 200
    await service.client.patch(at, json={"permissions": {}})
    await until(
        lambda: using(service, made["api_key"], "GET", "/v0/inboxes"),
        lambda answer: answer.status_code == 403,
        seconds=2.5,
    )


async def test_a_deleted_key_stops_within_two_seconds(service: Service) -> None:
    """A key that leaked would stay a way in."""
    made = await make(service)
    at = f"/v0/api-keys/{made['api_key_id']}"
    assert (await using(service, made["api_key"], "GET", "/v0/auth/me")).status_code == 200
    answer = await service.client.delete(at)
    assert answer.status_code == 204
    assert answer.content == b""
    refused = await until(
        lambda: using(service, made["api_key"], "GET", "/v0/auth/me"),
        lambda answer: answer.status_code == 401,
        seconds=2.5,
    )
    fault(refused, 401, "unknown_api_key")
    fault(await service.client.get(at), 404, "not_found")
    fault(await service.client.delete(at), 404, "not_found")
    fault(await service.client.patch(at, json={"name": "x"}), 404, "not_found")


async def test_a_key_that_is_not_there_is_404(service: Service) -> None:
    """A wrong id must not look like a crash."""
    for key in (str(uuid4()), "not-a-uuid"):
        fault(await service.client.get(f"/v0/api-keys/{key}"), 404, "not_found")


@pytest.mark.parametrize("ago", [timedelta(0), timedelta(days=1), timedelta(days=365 * 100)])
async def test_a_key_cannot_end_before_it_begins(service: Service, ago: timedelta) -> None:
    """The caller would wonder why its key never worked."""
    past = (datetime.now(UTC) - ago).isoformat()
    answer = await service.client.post("/v0/api-keys", json={"expires_at": past})
    mistake(answer, "expires_at", "TIME_OUT_OF_RANGE")


@pytest.mark.parametrize(
    "far", ["3000-01-01T00:00:01Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00"]
)
async def test_a_key_ends_within_a_thousand_years_or_never(service: Service, far: str) -> None:
    """Where PostgreSQL keeps another time zone, the end of the year 9999 is a time that cannot be read: no
    key of the organisation would be listed any more.
    """
    answer = await service.client.post("/v0/api-keys", json={"expires_at": far})
    assert "leave it out" in mistake(answer, "expires_at", "TIME_OUT_OF_RANGE")["fix"]
    last = await make(service, expires_at="3000-01-01T00:00:00Z")
    assert last["expires_at"] == "3000-01-01T00:00:00Z"


@pytest.mark.parametrize("given", ["2036-01-01T00:00:00Z", "2036-01-01T00:00:00"])
async def test_a_time_without_an_offset_is_utc(service: Service, given: str) -> None:
    """A key would end hours off, or its creation crash."""
    assert (await make(service, expires_at=given))["expires_at"] == "2036-01-01T00:00:00Z"


async def test_an_expired_key_is_told_so(service: Service) -> None:
    """Somebody would look for a typo in a key that simply ran out."""
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    made = await make(service, expires_at=soon.isoformat())
    assert (await using(service, made["api_key"], "GET", "/v0/auth/me")).status_code == 200
    await asyncio.sleep(0.6)
    answer = await using(service, made["api_key"], "GET", "/v0/auth/me")
    fault(answer, 401, "api_key_expired")


NEEDED = {
    "inbox_create": ("POST", "/v0/inboxes"),
    "inbox_read": ("GET", "/v0/inboxes"),
    "inbox_update": ("PATCH", "/v0/inboxes/{inbox}"),
    "inbox_delete": ("DELETE", "/v0/inboxes/{inbox}"),
    "message_send": ("POST", "/v0/inboxes/{inbox}/messages/send"),
    "message_read": ("GET", "/v0/inboxes/{inbox}/messages"),
    "message_update": ("PATCH", "/v0/inboxes/{inbox}/messages/x"),
    "api_key_create": ("POST", "/v0/api-keys"),
    "api_key_read": ("GET", "/v0/api-keys"),
    "api_key_update": ("PATCH", "/v0/api-keys/{key}"),
    "api_key_delete": ("DELETE", "/v0/api-keys/{key}"),
}


@pytest.mark.parametrize("permission", NEEDED)
async def test_a_key_may_do_only_what_it_lists(service: Service, permission: str) -> None:
    """A key handed to one tool could be used for everything."""
    inbox = await service.inbox("limited")
    everything = dict.fromkeys(access.PERMISSIONS, True)
    without = await make(service, permissions={**everything, permission: False})
    only = await make(service, permissions={permission: True})
    method, path = NEEDED[permission]
    path = path.format(inbox=inbox["inbox_id"], key=without["api_key_id"])
    refused = await using(service, without["api_key"], method, path)
    body = fault(refused, 403, "missing_permission")
    assert permission in body["message"]
    assert body["fix"]
    allowed = await using(service, only["api_key"], method, path)
    assert "missing_permission" not in allowed.text


async def test_reading_threads_needs_the_permission_for_messages(service: Service) -> None:
    """A key without messages could read them as threads."""
    inbox = await service.inbox("limited")
    key = await make(service, permissions={"inbox_read": True})
    at = f"/v0/inboxes/{inbox['inbox_id']}/threads"
    for path in (at, f"{at}/{uuid4()}", "/v0/threads", f"/v0/threads/{uuid4()}"):
        fault(await using(service, key["api_key"], "GET", path), 403, "missing_permission")


async def test_an_unknown_permission_is_kept_and_grants_nothing(service: Service) -> None:
    """A newer client's list must not be refused, nor open anything."""
    key = await make(service, permissions={"calendar_read": True})
    assert key["permissions"] == {"calendar_read": True}
    assert (await using(service, key["api_key"], "GET", "/v0/auth/me")).status_code == 200
    fault(await using(service, key["api_key"], "GET", "/v0/inboxes"), 403, "missing_permission")


async def test_a_key_cannot_make_one_that_may_more_than_itself(service: Service) -> None:
    """A limited key would be no limit."""
    mine = {"api_key_create": True, "api_key_update": True, "inbox_read": True}
    key = await make(service, permissions=mine)
    secret = key["api_key"]

    async def creating(**fields: object) -> httpx.Response:
        return await using(service, secret, "POST", "/v0/api-keys", **fields)

    fault(await creating(name="everything"), 403, "permission_escalation")
    more = {**mine, "inbox_delete": True}
    fault(await creating(permissions=more), 403, "permission_escalation")
    less = await creating(permissions={"inbox_read": True, "inbox_delete": False})
    assert less.status_code == 201, less.text
    at = f"/v0/api-keys/{key['api_key_id']}"
    for widened in (None, more):
        answer = await using(service, secret, "PATCH", at, permissions=widened)
        fault(answer, 403, "permission_escalation")


async def test_only_an_unrestricted_key_changes_an_unrestricted_one(service: Service) -> None:
    """A limited key could lock its owner out."""
    target = await make(service)
    key = await make(service, permissions={"api_key_update": True})
    at = f"/v0/api-keys/{target['api_key_id']}"
    changes: list[Json] = [{"permissions": {}}, {"name": "mine now"}]
    for change in changes:
        answer = await service.client.patch(
            at, json=change, headers={"Authorization": f"Bearer {key['api_key']}"}
        )
        fault(answer, 403, "unrestricted_key_required")


async def test_a_key_cannot_make_one_that_outlives_it(service: Service) -> None:
    """A key for a day would be a key for ever."""
    now = datetime.now(UTC)
    key = await make(service, expires_at=(now + timedelta(days=1)).isoformat())
    later = (now + timedelta(days=2)).isoformat()
    answer = await using(service, key["api_key"], "POST", "/v0/api-keys", expires_at=later)
    fault(answer, 403, "permission_escalation")
    sooner = (now + timedelta(hours=1)).isoformat()
    answer = await using(service, key["api_key"], "POST", "/v0/api-keys", expires_at=sooner)
    assert answer.status_code == 201


async def test_a_key_ends_with_its_maker_unless_told_when(service: Service) -> None:
    """The SDK says so; programs that hand keys on name no end."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    key = await make(service, expires_at=tomorrow)
    for body in ({"name": "x"}, {"expires_at": None}):
        answer = await using(service, key["api_key"], "POST", "/v0/api-keys", **body)
        assert answer.status_code == 201, answer.text
        assert answer.json()["expires_at"] == key["expires_at"]
    answer = await service.client.post("/v0/api-keys", json={"name": "x"})
    assert "expires_at" not in answer.json()


async def test_one_organisation_never_sees_another(service: Service) -> None:
    """The worst that can happen."""
    inbox = await service.inbox("mine")
    sent = await service.send(inbox, to=inbox["email"], text="secret")
    async with service.db.transaction() as tx:
        other = await access.create_organization(tx, "Other")
        made = await access.create_key(
            tx, access.Reach(other.organization_id), prefix="inai_", name="other"
        )
    keys = (await service.client.get("/v0/api-keys")).json()["api_keys"]
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    hidden = [
        ("GET", at),
        ("PATCH", at),
        ("DELETE", at),
        ("GET", f"/v0/inboxes/{inbox['id']}"),
        ("GET", f"{at}/messages"),
        ("POST", f"{at}/messages/send"),
        ("GET", f"{at}/messages/{sent['message_id']}"),
        ("PATCH", f"{at}/messages/{sent['message_id']}"),
        ("GET", f"{at}/threads"),
        ("GET", f"{at}/threads/{sent['thread_id']}"),
        ("GET", f"/v0/threads/{sent['thread_id']}"),
        ("GET", f"/v0/api-keys/{keys[0]['api_key_id']}"),
        ("DELETE", f"/v0/api-keys/{keys[0]['api_key_id']}"),
    ]
    body = {"display_name": "x", "to": "a@b.test", "add_labels": "x", "name": "x"}
    for method, path in hidden:
        answer = await using(service, made.secret, method, path, **body)
        fault(answer, 404, "not_found")
    empty = {"/v0/inboxes": "inboxes", "/v0/threads": "threads"}
    for path, name in empty.items():
        answer = await using(service, made.secret, "GET", f"{path}?include_deleted=true")
        assert answer.json()[name] == []
    answer = await using(service, made.secret, "POST", "/v0/inboxes", username="mine")
    fault(answer, 403, "resource_taken")


ROUTES = [
    (method.upper(), path)
    for path, item in description()["paths"].items()
    for method in item
    if method in {"get", "post", "put", "patch", "delete"}
]
WRONG_KEYS: dict[str, tuple[bytes | None, str]] = {
    "no header": (None, "missing_authorization"),
    "wrong scheme": (b"Basic YTpi", "invalid_token_type"),
    "bare key": (b"inai_" + b"0" * 64, "invalid_token_type"),
    "empty": (b"Bearer ", "invalid_token_type"),
    "unknown key": (b"Bearer inai_" + b"0" * 64, "unknown_api_key"),
    "not even text": (b"Bearer \xe9\x01", "unknown_api_key"),
}


@pytest.mark.parametrize(("header", "code"), WRONG_KEYS.values(), ids=WRONG_KEYS)
async def test_every_route_is_closed_without_a_good_key(
    service: Service, header: bytes | None, code: str
) -> None:
    """One forgotten route would be open to everybody."""
    assert len(ROUTES) > 15
    for method, path in ROUTES:
        where = re.sub(r"{\w+}", str(uuid4()), path)
        request = service.client.build_request(
            method, where, headers={b"Authorization": header or b""}
        )
        if header is None:
            del request.headers["Authorization"]
        answer = await service.client.send(request)
        body = fault(answer, 401, code)
        assert body["name"] == "UnauthorizedError"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_read_in_any_case(service: Service, scheme: str) -> None:
    """RFC 9110 section 11.1: the name of a scheme has no case."""
    answer = await without_key(
        service.client, "GET", "/v0/auth/me", Authorization=f"{scheme} {service.key}"
    )
    assert answer.status_code == 200


async def test_a_body_without_a_key_is_not_even_read(service: Service) -> None:
    """A stranger could keep the service busy with its bodies."""
    read = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b"x" * 100_000

    answer = await service.client.post(
        "/v0/inboxes", content=endless(), headers={"Authorization": "Bearer wrong"}
    )
    fault(answer, 401, "unknown_api_key")
    assert read < 5
