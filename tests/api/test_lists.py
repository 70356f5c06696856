"""Lists over the API: what goes in is found again however it is spelt, and each scope has its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio

from agentmail_cp import limits, lists
from agentmail_cp.sandbox import MailSandbox
from tests import tenants
from tests.api.faults import fault, mistake
from tests.fix_app import Json, Service, serving

BLOCKED = "/v0/lists/send/block"
BAD_ENTRIES = [
    ("", "INVALID_DOMAIN"),
    ("   ", "INVALID_DOMAIN"),
    ("nonsense", "INVALID_DOMAIN"),
    ("*.example.com", "INVALID_DOMAIN"),
    ("exa mple.com", "INVALID_DOMAIN"),
    ("*@example.com", "INVALID_EMAIL"),
    ("ada*@example.com", "INVALID_EMAIL"),
    ("@example.com", "INVALID_EMAIL"),
    ("ada@", "INVALID_EMAIL"),
    ("ada@localhost", "INVALID_EMAIL"),
    ("Ada <ada@example.com>", "INVALID_EMAIL"),
    ("ada@example.com, bob@example.com", "INVALID_EMAIL"),
    ("ada@example.com\nbob@example.com", "HEADER_INJECTION"),
    (f"{'a' * 65}@example.com", "ADDRESS_TOO_LONG"),
]


async def add(client: httpx.AsyncClient, path: str, entry: str, **fields: str) -> Json:
    answer = await client.post(path, json={"entry": entry, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def entries(client: httpx.AsyncClient, path: str, **query: str) -> list[str]:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return [each["entry"] for each in answer.json()["entries"]]


async def test_an_entry_is_created_read_and_deleted(service: Service) -> None:
    """The whole life of one, with the fields the SDKs require."""
    made = await add(service.client, BLOCKED, " Ada@Example.COM ", reason="asked us to stop")
    assert made.pop("created_at").endswith("Z")
    assert made == {
        "entry": "ada@example.com",
        "organization_id": str(service.organization_id),
        "direction": "send",
        "list_type": "block",
        "entry_type": "email",
        "read_only": False,
        "reason": "asked us to stop",
    }
    found = await service.client.get(f"{BLOCKED}/ada@example.com")
    assert found.json()["reason"] == "asked us to stop"
    gone = await service.client.delete(f"{BLOCKED}/ada@example.com")
    assert (gone.status_code, gone.content) == (204, b"")
    fault(await service.client.get(f"{BLOCKED}/ada@example.com"), 404, "not_found")
    fault(await service.client.delete(f"{BLOCKED}/ada@example.com"), 404, "not_found")


async def test_creating_twice_gives_what_is_there(service: Service) -> None:
    """An agent that sets its lists at every start must not fail, nor change when an entry was made."""
    first = await add(service.client, BLOCKED, "example.com", reason="first")
    again = await service.client.post(BLOCKED, json={"entry": "EXAMPLE.com", "reason": "second"})
    assert (again.status_code, again.json()) == (200, first)


@pytest.mark.parametrize(
    ("given", "stored", "kind", "asked"),
    [
        ("ada@example.com", "ada@example.com", "email", "ada@example.com"),
        ("Ada@EXAMPLE.com", "ada@example.com", "email", "ADA%40example.COM"),
        ("example.com", "example.com", "domain", "Example.com"),
        ("bücher.example", "xn--bcher-kva.example", "domain", "bücher.example"),
        ("BÜCHER.example", "xn--bcher-kva.example", "domain", "xn--bcher-kva.example"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example", "email", "ada@BÜCHER.example"),
        ("ä@example.com", "ä@example.com", "email", "%C3%84@example.com"),
        ("a/b@example.com", "a/b@example.com", "email", "a/b@example.com"),
        ("a/b@example.com", "a/b@example.com", "email", "a%2Fb%40example.com"),
        ("a+b@example.com", "a+b@example.com", "email", "a+b@example.com"),
        ("a%b@example.com", "a%b@example.com", "email", "a%25b%40example.com"),
    ],
)
async def test_an_entry_is_found_however_it_is_spelt(
    service: Service, given: str, stored: str, kind: str, asked: str
) -> None:
    """The Python SDK puts an entry into the path as it is, the Node SDK encodes it."""
    made = await add(service.client, BLOCKED, given)
    assert (made["entry"], made["entry_type"]) == (stored, kind)
    answer = await service.client.get(f"{BLOCKED}/{asked}")
    assert answer.json()["entry"] == stored
    assert (await service.client.delete(f"{BLOCKED}/{asked}")).status_code == 204


@pytest.mark.parametrize(("entry", "detail"), BAD_ENTRIES)
async def test_a_bad_entry_is_refused_with_a_reason(
    service: Service, entry: str, detail: str
) -> None:
    """A block list that silently holds nonsense blocks nobody."""
    mistake(await service.client.post(BLOCKED, json={"entry": entry}), "entry", detail)
    path = f"{BLOCKED}/{quote(entry or 'x', safe='')}"
    assert (await service.client.get(path)).status_code in {200, 404}
    assert await entries(service.client, BLOCKED) == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v0/lists/sideways/block", "direction"),
        ("/v0/lists/send/grey", "type"),
        ("/v0/lists/SEND/block", "direction"),
    ],
)
async def test_a_list_that_does_not_exist_is_named(service: Service, path: str, field: str) -> None:
    """A typing mistake must not look like an empty list."""
    mistake(await service.client.get(path), field)
    mistake(await service.client.post(path, json={"entry": "example.com"}), field)
    mistake(await service.client.get(f"{path}/example.com"), field)
    mistake(await service.client.delete(f"{path}/example.com"), field)


@pytest.mark.parametrize("reason", ["x" * 513, "a\nb", "a\0b"])
async def test_a_bad_reason_is_refused(service: Service, reason: str) -> None:
    """A NUL would be a crash: PostgreSQL holds none."""
    mistake(
        await service.client.post(BLOCKED, json={"entry": "example.com", "reason": reason}),
        "reason",
    )


@pytest.mark.parametrize("body", [{}, {"entry": None}, {"entry": 7}, [], None])
async def test_a_body_that_is_none_is_refused(service: Service, body: object) -> None:
    fault(await service.client.post(BLOCKED, json=body), 400, "validation_error")


async def test_a_list_is_paged_by_its_entries(service: Service) -> None:
    """In order of the entries, which stays right while others come and go."""
    names = [f"{letter}.example.com" for letter in "gcaebfd"]
    for name in names:
        await add(service.client, BLOCKED, name)
    await add(service.client, "/v0/lists/send/allow", "z.example.com")
    page = (await service.client.get(BLOCKED, params={"limit": 3})).json()
    assert (page["count"], page["limit"]) == (3, 3)
    await service.client.delete(f"{BLOCKED}/c.example.com")
    seen = [each["entry"] for each in page["entries"]]
    while token := page.get("next_page_token"):
        page = (await service.client.get(BLOCKED, params={"limit": 3, "page_token": token})).json()
        seen += [each["entry"] for each in page["entries"]]
    assert seen == sorted(names)


async def test_a_page_token_of_another_list_is_refused(service: Service) -> None:
    """It would silently skip entries."""
    for name in "ab":
        await add(service.client, BLOCKED, f"{name}.example.com")
    token = (await service.client.get(BLOCKED, params={"limit": 1})).json()["next_page_token"]
    other = await service.client.get("/v0/lists/send/allow", params={"page_token": token})
    mistake(other, "page_token", "INVALID_PAGE_TOKEN")
    mistake(await service.client.get(BLOCKED, params={"limit": 0}), "limit", "INVALID_LIMIT")


async def test_each_scope_direction_and_type_is_a_list_of_its_own(service: Service) -> None:
    """What one inbox blocks is nothing to the others."""
    inbox = await service.inbox("alice")
    scopes = ["/v0", f"/v0/pods/{inbox['pod_id']}", f"/v0/inboxes/{inbox['inbox_id']}"]
    paths = [
        f"{scope}/lists/{direction}/{kind}"
        for scope in scopes
        for direction in ("send", "receive", "reply")
        for kind in ("allow", "block")
    ]
    for number, path in enumerate(paths):
        await add(service.client, path, f"d{number}.example.com")
    for number, path in enumerate(paths):
        assert await entries(service.client, path) == [f"d{number}.example.com"]


async def test_the_answer_says_whose_list_it_is(service: Service) -> None:
    """The SDKs require pod_id for lists of a pod and of an inbox."""
    inbox = await service.inbox("alice")
    of_pod = await add(service.client, f"/v0/pods/{inbox['pod_id']}/lists/send/block", "a.example")
    assert of_pod["pod_id"] == inbox["pod_id"]
    assert "inbox_id" not in of_pod
    path = f"/v0/inboxes/{inbox['inbox_id']}/lists/send/block"
    of_inbox = await add(service.client, path, "a.example")
    assert (of_inbox["pod_id"], of_inbox["inbox_id"]) == (inbox["pod_id"], "alice@agents.test")


async def test_a_narrower_key_finds_its_own_lists_on_the_organizations_path(
    service: Service,
) -> None:
    """As elsewhere: the path without a scope means all the key reaches. It must never write wider."""
    inbox = await service.inbox("alice")
    await add(service.client, BLOCKED, "of-organization.example")
    inbox_id = await tenants.uuid_of(service.db, inbox)
    pod_id = await tenants.default_pod(service.db, service.organization_id)
    of_pod = await tenants.key(service.db, service.organization_id, pod_id=pod_id)
    of_inbox = await tenants.key(service.db, service.organization_id, inbox_id=inbox_id)
    for key, name, scope in (
        (of_pod, "of-pod.example", f"/v0/pods/{pod_id}"),
        (of_inbox, "of-inbox.example", f"/v0/inboxes/{inbox['inbox_id']}"),
    ):
        client = tenants.client(service, key)
        await add(client, BLOCKED, name)
        assert await entries(client, BLOCKED) == [name]
        assert await entries(service.client, f"{scope}/lists/send/block") == [name]
    assert await entries(service.client, BLOCKED) == ["of-organization.example"]


async def test_lists_beyond_a_keys_reach_are_not_there(service: Service) -> None:
    """Who somebody writes to is their business."""
    inbox = await service.inbox("alice")
    stranger = await tenants.organization(service.db)
    other_pod = await tenants.pod(service.db, service.organization_id)
    keys = [
        await tenants.key(service.db, stranger),
        await tenants.key(service.db, service.organization_id, pod_id=other_pod),
    ]
    for key in keys:
        client = tenants.client(service, key)
        for scope in (f"/v0/pods/{inbox['pod_id']}", f"/v0/inboxes/{inbox['inbox_id']}"):
            path = f"{scope}/lists/send/block"
            fault(await client.get(path), 404, "not_found")
            fault(await client.post(path, json={"entry": "a.example"}), 404, "not_found")


async def test_each_call_needs_its_permission(service: Service) -> None:
    """A key that may look must not be able to open the door."""
    await add(service.client, BLOCKED, "a.example")
    calls = {
        "list_entry_read": [("GET", BLOCKED), ("GET", f"{BLOCKED}/a.example")],
        "list_entry_create": [("POST", BLOCKED)],
        "list_entry_delete": [("DELETE", f"{BLOCKED}/a.example")],
    }
    for permission, requests in calls.items():
        key = await tenants.key(
            service.db, service.organization_id, permissions=tenants.all_but(permission)
        )
        client = tenants.client(service, key)
        for method, path in requests:
            answer = await client.request(method, path, json={"entry": "b.example"})
            fault(answer, 403, "missing_permission")
    assert await entries(service.client, BLOCKED) == ["a.example"]


async def test_a_suppression_is_shown_and_stays(service: Service) -> None:
    """Whoever takes a bounced address off the list ruins the reputation of the whole server."""
    await add(service.client, BLOCKED, "gone@example.com", reason="mine")
    async with service.db.transaction() as tx:
        await lists.suppress(tx, service.organization_id, "Gone@Example.com", origin="bounce")
        await lists.suppress(tx, service.organization_id, "angry@example.com", origin="complaint")
        await lists.suppress(tx, service.organization_id, "gone@example.com", origin="complaint")
    found = (await service.client.get(BLOCKED)).json()["entries"]
    assert [(each["entry"], each["read_only"], each["reason"]) for each in found] == [
        ("angry@example.com", True, "complaint"),
        ("gone@example.com", True, "mine"),
    ]
    body = fault(await service.client.delete(f"{BLOCKED}/gone@example.com"), 403, "forbidden")
    assert "bounce" in body["message"]
    again = await service.client.post(BLOCKED, json={"entry": "gone@example.com"})
    assert (again.status_code, again.json()["read_only"]) == (200, True)
    assert len(await entries(service.client, BLOCKED)) == 2


async def test_lists_go_with_their_inbox(service: Service) -> None:
    """Nobody could take its entries off again, and they count."""
    inbox = await service.inbox("alice")
    await add(service.client, f"/v0/inboxes/{inbox['inbox_id']}/lists/send/block", "a.example")
    await add(service.client, BLOCKED, "b.example")
    await service.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    async with service.db.reading() as tx:
        left = await (await tx.execute("select entry from list_entry")).fetchall()
    assert [each["entry"] for each in left] == ["b.example"]


@pytest_asyncio.fixture
async def small(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> AsyncGenerator[Service]:
    """A service whose organisations have room for two entries."""
    sandbox, port = sandbox_server
    async with serving(
        database_url, sandbox, smtp_port=port, list_entries_per_organization=2
    ) as running:
        yield running


async def test_an_organization_may_have_room_for_more(small: Service) -> None:
    """The operator gives it to one without giving it to all."""
    for name in "ab":
        await add(small.client, BLOCKED, f"{name}.example")
    async with small.db.transaction() as tx:
        await limits.set_limit(tx, small.organization_id, "list_entries_per_organization", 3)
    await add(small.client, BLOCKED, "c.example")
    fault(await small.client.post(BLOCKED, json={"entry": "d.example"}), 403, "limit_exceeded")


async def test_an_organization_has_so_many_entries(small: Service) -> None:
    """Over all its lists. What is there already can be put again, and another tenant has its own."""
    await add(small.client, BLOCKED, "a.example")
    await add(small.client, "/v0/lists/receive/allow", "b.example")
    refused = await small.client.post(BLOCKED, json={"entry": "c.example"})
    fault(refused, 403, "limit_exceeded")
    assert (await small.client.post(BLOCKED, json={"entry": "a.example"})).status_code == 200
    async with small.db.transaction() as tx:
        await lists.suppress(tx, small.organization_id, "gone@example.com", origin="bounce")
    other = await tenants.key(small.db, await tenants.organization(small.db))
    await add(tenants.client(small, other), BLOCKED, "c.example")
    await small.client.delete(f"{BLOCKED}/a.example")
    await add(small.client, BLOCKED, "c.example")
