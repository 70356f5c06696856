"""Finding inboxes through the API: by the beginnings of words, the exact address first, page by page."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch
from uuid import uuid4

from agentmail_cp import access
from agentmail_cp.inboxes import finding
from tests.api.faults import fault, mistake
from tests.fix_app import Json, Service


async def found(service: Service, q: str, path: str = "inboxes", **query: object) -> Json:
    params = {"q": q, **{name: str(value) for name, value in query.items()}}
    answer = await service.client.get(f"/v0/{path}/search", params=params)
    assert answer.status_code == 200, answer.text
    page: Json = answer.json()
    assert page["count"] == len(page["inboxes"])
    return page


async def names(service: Service, q: str, path: str = "inboxes") -> list[str]:
    """The usernames found, in their order."""
    page = await found(service, q, path)
    assert "next_page_token" not in page
    return [each["username"] for each in page["inboxes"]]


async def every(service: Service, q: str, limit: int) -> list[str]:
    """The usernames on all pages."""
    shown: list[str] = []
    token: dict[str, Any] = {}
    while True:
        page = await found(service, q, limit=limit, **token)
        shown += [each["username"] for each in page["inboxes"]]
        assert page["count"] <= limit
        assert len(shown) < 50, "the pages go round"
        if "next_page_token" not in page:
            return shown
        token = {"page_token": page["next_page_token"]}


async def test_inboxes_are_found_by_the_beginnings_of_words(service: Service) -> None:
    """An agent knows the name of a desk, or half of it."""
    await service.inbox("support", display_name="Help Desk")
    await service.inbox("sales.eu", display_name="Größe & Söhne")
    await service.inbox("port-office", display_name="Support in port")
    for q, expected in {
        "sup": ["port-office", "support"],
        "SUPPORT": ["port-office", "support"],
        "port": ["port-office"],
        "eu": ["sales.eu"],
        "help de": ["support"],
        "elp": [],
        "grösse": ["sales.eu"],
        "GRÖS sal": ["sales.eu"],
        "öhne": [],
        "agents.test": ["port-office", "sales.eu", "support"],
        "@agents.test": ["port-office", "sales.eu", "support"],
        "support@agents.test": ["support"],
        "support nobody": [],
        "%%": [],
        "__": [],
        "\\\\": [],
        "'; --": [],
        "🦄🦄": [],
    }.items():
        assert await names(service, q) == expected, q


async def test_an_exact_address_comes_first_and_the_rest_newest_first(service: Service) -> None:
    """Whoever knows the address means this inbox, however many others it is a part of."""
    for name in ("ada", "ada-1", "ada-2", "ada-3"):
        await service.inbox(name, display_name=f"ada@agents.test {name}")
    expected = ["ada", "ada-3", "ada-2", "ada-1"]
    for limit in (1, 2, 3, 4, 50):
        assert await every(service, "ADA@agents.test", limit) == expected
        assert await every(service, "ada", limit) == ["ada-3", "ada-2", "ada-1", "ada"]


async def test_a_page_that_read_its_share_goes_on_by_its_token(service: Service) -> None:
    """In a large organisation a rare name must be found at last, and no page may take for ever."""
    for number in range(4):
        await service.inbox(f"desk{number}")
    await service.inbox("x-desk0")
    for number in range(3):
        await service.inbox(f"help{number}desk")
    with patch.object(finding, "MOST_READ", 2):
        first = await found(service, "desk")
        assert first["inboxes"] == []
        assert first["next_page_token"]
        expected = ["x-desk0", "desk3", "desk2", "desk1", "desk0"]
        assert await every(service, "desk", 1) == expected
        assert await every(service, "desk", 50) == expected


async def test_only_active_inboxes_of_the_caller_are_found(service: Service) -> None:
    """A deleted inbox cannot be used, and another customer's must not be known of."""
    inbox = await service.inbox("desk")
    gone = await service.inbox("desk-gone")
    await service.client.delete(f"/v0/inboxes/{gone['inbox_id']}")
    assert await names(service, "desk") == ["desk"]
    assert await names(service, gone["email"]) == []
    assert await names(service, "desk", f"pods/{inbox['pod_id']}/inboxes") == ["desk"]
    fault(await service.client.get(f"/v0/pods/{uuid4()}/inboxes/search?q=desk"), 404, "not_found")
    async with service.db.transaction() as tx:
        stranger = await access.create_organization(tx, "Stranger")
        key = await access.create_key(
            tx, access.Reach(stranger.organization_id), prefix="inai_", name="x"
        )
        elsewhere = await access.default_pod(tx, stranger.organization_id)
        mine = await tx.execute(
            "insert into pod (pod_id, organization_id, name) values (%s, %s, 'Empty')"
            " returning pod_id",
            (uuid4(), service.organization_id),
        )
        empty = await mine.fetchone()
    assert empty is not None
    assert await names(service, "desk", f"pods/{empty['pod_id']}/inboxes") == []
    fault(await service.client.get(f"/v0/pods/{elsewhere}/inboxes/search?q=desk"), 404)
    headers = {"Authorization": f"Bearer {key.secret}"}
    answer = await service.client.get("/v0/inboxes/search?q=desk", headers=headers)
    assert answer.json()["inboxes"] == []


async def test_a_mistake_in_a_search_for_inboxes_is_said(service: Service) -> None:
    at = "/v0/inboxes/search"
    mistake(await service.client.get(at), "q", "REQUIRED")
    mistake(await service.client.get(f"{at}?q=+"), "q", "REQUIRED")
    mistake(await service.client.get(f"{at}?q=x"), "q", "TOO_SHORT")
    mistake(await service.client.get(f"{at}?q={'x' * 257}"), "q", "TOO_LONG")
    mistake(await service.client.get(f"{at}?q=xx&limit=none"), "limit", "INVALID_LIMIT")
    mistake(await service.client.get(f"{at}?q=xx&page_token=x"), "page_token", "INVALID_PAGE_TOKEN")
    await service.inbox("desk-1")
    await service.inbox("desk-2")
    token = (await found(service, "desk", limit=1))["next_page_token"]
    answer = await service.client.get(at, params={"q": "other", "page_token": token})
    mistake(answer, "page_token", "INVALID_PAGE_TOKEN")
    assert (await found(service, "x" * 256))["inboxes"] == []
