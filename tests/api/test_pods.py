"""Pods, and the inboxes in them, through the API: made, found, limited and deleted, and never seen from
beside.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from uuid import UUID, uuid4

import httpx
import pytest

from tests import tenants
from tests.api.faults import fault, mistake
from tests.fix_app import Json, Service, a_mail, until


async def make(client: httpx.AsyncClient, **fields: object) -> Json:
    answer = await client.post("/v0/pods", json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def make_inbox(client: httpx.AsyncClient, pod: str, **fields: object) -> Json:
    answer = await client.post(f"/v0/pods/{pod}/inboxes", json=fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient, path: str, **query: object) -> list[str]:
    """The ids on a page of `/v0/pods` or of inboxes."""
    params = {name: str(value) for name, value in query.items()}
    answer = await client.get(f"/v0/{path}", params=params)
    assert answer.status_code == 200, answer.text
    page: Json = answer.json()
    kind, name = ("inboxes", "inbox_id") if path.endswith("inboxes") else ("pods", "pod_id")
    assert page["count"] == len(page[kind])
    return [each[name] for each in page[kind]]


async def of_pod(service: Service, pod_id: str, **kwargs: object) -> httpx.AsyncClient:
    """A client with a key of this pod."""
    key = await tenants.key(service.db, service.organization_id, pod_id=UUID(pod_id))
    return tenants.client(service, key)


# --- pods


async def test_a_pod_shows_what_it_was_made_with(service: Service) -> None:
    made = await make(service.client, name="Acme Ünit", client_id="acme-1.x~y_z")
    assert UUID(made["pod_id"])
    created = made.pop("created_at")
    assert created.endswith("Z")
    assert datetime.fromisoformat(created) <= datetime.fromisoformat(made.pop("updated_at"))
    pod_id = made.pop("pod_id")
    assert made == {"name": "Acme Ünit", "client_id": "acme-1.x~y_z"}
    for name in (pod_id, pod_id.upper(), "acme-1.x~y_z"):
        assert (await service.client.get(f"/v0/pods/{name}")).json()["pod_id"] == pod_id


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"name": null, "client_id": null}'])
async def test_a_pod_made_with_nothing_has_a_name(service: Service, content: bytes) -> None:
    """`client.pods.create()` sends `{}`; the SDK's model wants a name."""
    answer = await service.client.post("/v0/pods", content=content)
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"]
    assert "client_id" not in answer.json()


async def test_a_repeated_client_id_gives_the_pod_there_is(service: Service) -> None:
    """A program that makes its customers' pods at start would fail on its second start."""
    made = await make(service.client, name="Acme", client_id="acme")
    again = await service.client.post("/v0/pods", json={"name": "Other", "client_id": "acme"})
    assert (again.status_code, again.json()) == (200, made)


async def test_pods_are_listed_newest_first_page_by_page(service: Service) -> None:
    made = [(await make(service.client))["pod_id"] for _ in range(4)]
    default = str(await tenants.default_pod(service.db, service.organization_id))
    assert await listed(service.client, "pods") == [*made[::-1], default]
    assert await listed(service.client, "pods", ascending=True) == [default, *made]
    first = (await service.client.get("/v0/pods?limit=3")).json()
    assert (first["limit"], first["count"]) == (3, 3)
    rest = await listed(service.client, "pods", limit=3, page_token=first["next_page_token"])
    assert rest == [made[0], default]
    token = {"page_token": first["next_page_token"], "ascending": "true"}
    answer = await service.client.get("/v0/pods", params=token)
    mistake(answer, "page_token", "INVALID_PAGE_TOKEN")


async def test_a_pod_is_renamed_limited_and_freed(service: Service) -> None:
    at = f"/v0/pods/{(await make(service.client, name='Acme'))['pod_id']}"
    changed = (await service.client.patch(at, json={"name": "Acme Ltd"})).json()
    assert changed["name"] == "Acme Ltd"
    assert changed["updated_at"] > changed["created_at"]
    limited = (await service.client.patch(at, json={"inbox_limit": 2})).json()
    assert (limited["name"], limited["inbox_limit"]) == ("Acme Ltd", 2)
    freed = (await service.client.patch(at, json={"inbox_limit": None})).json()
    assert "inbox_limit" not in freed


async def test_a_mistake_with_a_pod_is_said(service: Service) -> None:
    pod = await make(service.client)
    at = f"/v0/pods/{pod['pod_id']}"
    mistake(await service.client.post("/v0/pods", json={"name": ""}), "name")
    mistake(await service.client.post("/v0/pods", json={"name": 7}), "name", "INVALID_TYPE")
    for client_id in ("a b", ".", ".."):
        mistake(await service.client.post("/v0/pods", json={"client_id": client_id}), "client_id")
    mistake(await service.client.patch(at, json={}), "name", "REQUIRED")
    mistake(await service.client.patch(at, json={"name": None}), "name", "INVALID_TYPE")
    mistake(await service.client.patch(at, json={"inbox_limit": 0}), "inbox_limit")
    mistake(await service.client.patch(at, json={"inbox_limit": 10**20}), "inbox_limit")
    for missing in (str(uuid4()), "acme", "%00", "%ff", "a%2Fb"):
        fault(await service.client.get(f"/v0/pods/{missing}"), 404, "not_found")
        fault(await service.client.delete(f"/v0/pods/{missing}"), 404, "not_found")


async def test_a_pod_goes_when_its_inboxes_are_gone(service: Service) -> None:
    """A customer who left could not be removed, or would take mail along that was to be kept."""
    pod = (await make(service.client, client_id="acme"))["pod_id"]
    inbox = await make_inbox(service.client, pod, username="acme")
    await service.deliver(a_mail(inbox["email"], "Kept"))
    await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)
    body = fault(await service.client.delete(f"/v0/pods/{pod}"), 409, "cannot_delete")
    assert body["name"] == "ConflictError"
    await service.client.delete(f"/v0/pods/{pod}/inboxes/{inbox['inbox_id']}")
    own = await of_pod(service, pod)
    assert (await service.client.delete("/v0/pods/acme")).status_code == 204
    fault(await service.client.get(f"/v0/pods/{pod}"), 404, "not_found")
    fault(await service.client.get(f"/v0/pods/{pod}/threads"), 404, "not_found")
    fault(await own.get("/v0/inboxes"), 401, "unknown_api_key")
    threads = (await service.client.get("/v0/threads?include_deleted=true")).json()["threads"]
    assert [each["subject"] for each in threads] == ["Kept"]
    read = await service.client.get(f"/v0/threads/{threads[0]['thread_id']}?include_deleted=true")
    assert read.json()["messages"][0]["text"].strip() == "Hi there."


async def test_the_default_pod_cannot_be_deleted(service: Service) -> None:
    default = await tenants.default_pod(service.db, service.organization_id)
    fault(await service.client.delete(f"/v0/pods/{default}"), 409, "cannot_delete")


async def test_what_is_put_into_a_pod_that_is_being_deleted_goes_with_it(service: Service) -> None:
    """Keys and list entries nobody can see any more would count and stay for ever."""
    statuses: set[tuple[int, int, int]] = set()
    for number in range(10):
        at = f"/v0/pods/{(await make(service.client))['pod_id']}"
        answers = await asyncio.gather(
            service.client.post(f"{at}/lists/send/block", json={"entry": f"a{number}@x.test"}),
            service.client.post(f"{at}/api-keys", json={"name": "late"}),
            service.client.delete(at),
        )
        statuses.add((answers[0].status_code, answers[1].status_code, answers[2].status_code))
    assert statuses <= {(a, b, 204) for a in (201, 404) for b in (200, 201, 404)}, statuses
    async with service.db.reading() as tx:
        left = await tx.execute(
            "select pod_id from list_entry where pod_id is not null"
            " union all select pod_id from api_key where pod_id is not null"
        )
        assert await left.fetchall() == []


# --- who may


async def test_a_key_of_a_pod_sees_and_changes_that_pod_only(service: Service) -> None:
    mine, other = await make(service.client), await make(service.client, client_id="other")
    own = await of_pod(service, mine["pod_id"])
    assert await listed(own, "pods") == [mine["pod_id"]]
    at = f"/v0/pods/{mine['pod_id']}"
    assert (await own.get(at)).json() == mine
    assert (await own.patch(at, json={"name": "Mine"})).json()["name"] == "Mine"
    fault(await own.patch(at, json={"inbox_limit": 5}), 403, "forbidden")
    fault(await own.delete(at), 403, "forbidden")
    fault(await own.post("/v0/pods", json={}), 403, "forbidden")
    fault(await own.get("/v0/organizations"), 403, "forbidden")
    for name in (other["pod_id"], "other"):
        fault(await own.get(f"/v0/pods/{name}"), 404, "not_found")
        fault(await own.patch(f"/v0/pods/{name}", json={"name": "X"}), 404, "not_found")
        fault(await own.delete(f"/v0/pods/{name}"), 404, "not_found")
        fault(await own.get(f"/v0/pods/{name}/inboxes"), 404, "not_found")
        fault(await own.post(f"/v0/pods/{name}/inboxes", json={}), 404, "not_found")


async def test_a_key_of_an_inbox_knows_no_pods(service: Service) -> None:
    inbox = await service.inbox()
    key = await tenants.key(
        service.db, service.organization_id, inbox_id=await tenants.uuid_of(service.db, inbox)
    )
    one = tenants.client(service, key)
    at = f"/v0/pods/{inbox['pod_id']}"
    for method, path in (
        *(("POST", "/v0/pods"), ("GET", "/v0/pods"), ("GET", at), ("PATCH", at), ("DELETE", at)),
        *(("POST", f"{at}/inboxes"), ("GET", f"{at}/inboxes"), ("GET", "/v0/organizations")),
        ("GET", f"{at}/inboxes/{inbox['inbox_id']}"),
    ):
        body = {"name": "X"} if method in {"POST", "PATCH"} else None
        fault(await one.request(method, path, json=body), 403, "forbidden")
    fault(await one.post("/v0/inboxes", json={}), 403, "forbidden")
    assert await listed(one, "inboxes") == [inbox["inbox_id"]]


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", "/v0/pods", "pod_create"),
        ("GET", "/v0/pods", "pod_read"),
        ("GET", "/v0/pods/acme", "pod_read"),
        ("PATCH", "/v0/pods/acme", "pod_update"),
        ("DELETE", "/v0/pods/acme", "pod_delete"),
        ("POST", "/v0/pods/acme/inboxes", "inbox_create"),
        ("GET", "/v0/pods/acme/inboxes", "inbox_read"),
    ],
)
async def test_each_call_takes_its_permission(
    service: Service, method: str, path: str, permission: str
) -> None:
    await make(service.client, client_id="acme")
    body = {"name": "X"} if method == "PATCH" else None
    for granted, passes in (
        (tenants.all_but(permission), False),
        (tenants.only(permission), True),
    ):
        key = await tenants.key(service.db, service.organization_id, permissions=granted)
        answer = await tenants.client(service, key).request(method, path, json=body)
        if passes:
            assert answer.is_success, answer.text
        else:
            fault(answer, 403, "missing_permission")


# --- inboxes in pods


async def test_the_life_of_an_inbox_in_a_pod(anywhere: Service) -> None:
    """Every call of `client.pods.inboxes`, in both worlds."""
    pod = (await make(anywhere.client, client_id="acme"))["pod_id"]
    made = await make_inbox(anywhere.client, "acme", username=f"acme{anywhere.suffix}")
    elsewhere = await anywhere.inbox("elsewhere")
    assert made["pod_id"] == pod != elsewhere["pod_id"]
    assert made["credentials"]["password"]
    at = f"/v0/pods/{pod}/inboxes"
    assert await listed(anywhere.client, f"pods/{pod}/inboxes") == [made["inbox_id"]]
    assert set(await listed(anywhere.client, "inboxes")) >= {
        made["inbox_id"],
        elsewhere["inbox_id"],
    }
    one = f"{at}/{made['inbox_id']}"
    changed = await anywhere.client.patch(one, json={"display_name": "Acme"})
    assert changed.json()["display_name"] == "Acme"
    assert (await anywhere.client.get(one)).json() == changed.json()
    await anywhere.send(made, to=elsewhere["email"], subject="Hi", text="Hi")
    got = await until(lambda: anywhere.messages(elsewhere), lambda seen: len(seen) == 1)
    assert got[0]["subject"] == "Hi"
    await anywhere.send(elsewhere, to=made["email"], subject="Re", text="Hi")
    await until(lambda: anywhere.messages(made), lambda seen: len(seen) == 2)
    threads = (await anywhere.client.get(f"/v0/pods/{pod}/threads")).json()["threads"]
    assert {each["inbox_id"] for each in threads} == {made["inbox_id"]}
    stray = f"{at}/{elsewhere['inbox_id']}"
    fault(await anywhere.client.get(stray), 404, "not_found")
    fault(await anywhere.client.patch(stray, json={"display_name": "X"}), 404, "not_found")
    fault(await anywhere.client.delete(stray), 404, "not_found")
    assert (await anywhere.client.delete(one)).status_code == 204
    fault(await anywhere.client.get(one), 404, "not_found")
    assert await listed(anywhere.client, f"pods/{pod}/inboxes") == []
    assert (await anywhere.client.delete(f"/v0/pods/{pod}")).status_code == 204


async def test_a_pods_inboxes_are_listed_page_by_page(service: Service) -> None:
    pod = (await make(service.client))["pod_id"]
    made = [(await make_inbox(service.client, pod))["inbox_id"] for _ in range(3)]
    await service.inbox()
    path = f"pods/{pod}/inboxes"
    assert await listed(service.client, path) == made[::-1]
    assert await listed(service.client, path, ascending=True) == made
    first = (await service.client.get(f"/v0/{path}?limit=2")).json()
    token = first["next_page_token"]
    assert await listed(service.client, path, limit=2, page_token=token) == made[:1]
    everywhere = await service.client.get("/v0/inboxes", params={"page_token": token})
    mistake(everywhere, "page_token", "INVALID_PAGE_TOKEN")


async def test_where_an_inbox_lands(service: Service) -> None:
    """A customer's agent would get an address in another customer's pod."""
    mine = (await make(service.client, client_id="mine"))["pod_id"]
    other = (await make(service.client, client_id="other"))["pod_id"]
    default = str(await tenants.default_pod(service.db, service.organization_id))
    own = await of_pod(service, mine)
    for client, body, pod in (
        (service.client, {}, default),
        (service.client, {"pod_id": mine}, mine),
        (service.client, {"pod_id": "other"}, other),
        (service.client, {"pod_id": None}, default),
        (own, {}, mine),
        (own, {"pod_id": "mine"}, mine),
    ):
        answer = await client.post("/v0/inboxes", json=body)
        assert (answer.status_code, answer.json()["pod_id"]) == (201, pod), answer.text
    stranger = await tenants.organization(service.db)
    theirs = str(await tenants.default_pod(service.db, stranger))
    fault(await service.client.post("/v0/inboxes", json={"pod_id": theirs}), 404, "not_found")
    for pod in (other, "other", default, theirs):
        fault(await own.post("/v0/inboxes", json={"pod_id": pod}), 404, "not_found")
        fault(await own.post(f"/v0/pods/{mine}/inboxes", json={"pod_id": pod}), 404, "not_found")
    fault(await service.client.post("/v0/inboxes", json={"pod_id": "none"}), 404, "not_found")
    assert len(await listed(own, "inboxes")) == 3


async def test_an_inbox_never_moves(service: Service) -> None:
    """What one customer wrote would be read by another."""
    inbox = await service.inbox()
    other = (await make(service.client))["pod_id"]
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    changed = await service.client.patch(at, json={"display_name": "X", "pod_id": other})
    assert changed.json()["pod_id"] == inbox["pod_id"]
    assert (await service.client.get(at)).json()["pod_id"] == inbox["pod_id"]


async def test_a_client_id_in_use_in_another_pod_tells_nothing(service: Service) -> None:
    """A key for one customer would be shown another's inbox, or even given it."""
    mine = (await make(service.client))["pod_id"]
    other = (await make(service.client))["pod_id"]
    theirs = await make_inbox(service.client, other, username="secret", client_id="agent-1")
    own = await of_pod(service, mine)
    wanted = {"client_id": "agent-1"}
    for client, path, body in (
        (own, "/v0/inboxes", wanted),
        (own, f"/v0/pods/{mine}/inboxes", wanted),
        (service.client, f"/v0/pods/{mine}/inboxes", wanted),
        (service.client, "/v0/inboxes", wanted | {"pod_id": mine}),
        (own, "/v0/inboxes", wanted | {"username": "free"}),
    ):
        answer = await client.post(path, json=body)
        fault(answer, 409, "conflict")
        assert "secret" not in answer.text
        assert other not in answer.text
    for client, path in (
        (service.client, "/v0/inboxes"),
        (service.client, f"/v0/pods/{other}/inboxes"),
        (await of_pod(service, other), "/v0/inboxes"),
    ):
        again = await client.post(path, json=wanted)
        assert (again.status_code, again.json()["inbox_id"]) == (200, theirs["inbox_id"])
    assert await listed(own, "inboxes") == []


# --- the organisation and its limits


async def test_a_quota_holds_in_both_worlds(anywhere: Service) -> None:
    """An account would be made on the mail server for which there is no inbox."""
    pod = (await make(anywhere.client))["pod_id"]
    at = f"/v0/pods/{pod}"
    await anywhere.client.patch(at, json={"inbox_limit": 3})
    answers = await asyncio.gather(
        *(
            anywhere.client.post(f"{at}/inboxes", json={"client_id": f"c-{n % 6}"})
            for n in range(12)
        )
    )
    made = {each.json()["inbox_id"] for each in answers if each.is_success}
    assert len(made) == 3
    for refused in (each for each in answers if not each.is_success):
        fault(refused, 403, "limit_exceeded")
    assert set(await listed(anywhere.client, f"pods/{pod}/inboxes")) == made
    await anywhere.client.delete(f"{at}/inboxes/{min(made)}")
    assert (await anywhere.client.post(f"{at}/inboxes", json={})).status_code == 201
    fault(await anywhere.client.post("/v0/inboxes", json={"pod_id": pod}), 403, "limit_exceeded")


async def test_the_organization_says_what_it_has(service: Service) -> None:
    answer = await service.client.get("/v0/organizations")
    body: Json = answer.json()
    assert body.pop("created_at").endswith("Z")
    assert body.pop("updated_at").endswith("Z")
    assert body.pop("limits")["sends_per_day"] == 10_000
    assert body == {
        "organization_id": str(service.organization_id),
        "name": "Test",
        "inbox_count": 0,
        "domain_count": 0,
        "domain_limit": 1000,
        "pod_count": 1,
    }
    pod = (await make(service.client))["pod_id"]
    first = await make_inbox(service.client, pod)
    await service.inbox()
    await service.client.delete(f"/v0/inboxes/{first['inbox_id']}")
    body = (await service.client.get("/v0/organizations")).json()
    assert (body["inbox_count"], body["pod_count"]) == (1, 2)
