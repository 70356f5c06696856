"""What only the hosted service has is refused as the SDKs expect, and never with an unknown path."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from agentmail_cp import access
from agentmail_cp.web.refusals import REFUSALS, Refusal
from tests.api.faults import fault, without_key
from tests.fix_app import Json, Service

NOWHERE = {"inbox_id": "nobody@agents.test", "pod_id": "0197a1b2-0000-7000-8000-000000000000"}
CASES = [
    pytest.param(each, method, id=f"{method} {each.path}")
    for each in REFUSALS
    for method in each.methods
]
NAMED = [
    pytest.param(each, method, id=f"{method} {each.path}")
    for each in REFUSALS
    for method in each.methods
    if "{inbox_id" in each.path or "{pod_id" in each.path
]


def at(refusal: Refusal, **named: str) -> str:
    """A path of this refusal; ids that exist in no table are made up."""
    names = {"message_id": "<a/b@elsewhere.test>", **named}
    return "/v0" + re.sub(
        r"\{(\w+):str\}", lambda found: names.get(found[1], "no/such"), refusal.path
    ).replace("no/such", "no%2Fsuch")


async def ask(service: Service, method: str, path: str) -> httpx.Response:
    body: dict[str, Any] = {} if method in {"GET", "DELETE"} else {"json": {"title": "x"}}
    return await service.client.request(method, path, **body)


@pytest.mark.parametrize(("refusal", "method"), CASES)
async def test_it_is_a_polite_answer(service: Service, refusal: Refusal, method: str) -> None:
    """A program that looks around would stop at an error it cannot read."""
    inbox = await service.inbox("ada")
    path = at(refusal, inbox_id=inbox["inbox_id"], pod_id=inbox["pod_id"])
    answer = await ask(service, method, path)
    if answer.status_code == 200:
        assert answer.json() == {"enabled": False, "available": False} or empty_page(answer.json())
        return
    body = fault(answer, answer.status_code)
    assert (answer.status_code, body["name"], body["code"]) in {
        (403, "ForbiddenError", "forbidden"),
        (404, "NotFoundError", "not_found"),
    }
    assert "path" not in body["message"]
    assert body["fix"]


def empty_page(body: Json) -> bool:
    """Whether this is a page with nothing in it, under one name."""
    (_items,) = [value for value in body.values() if value == []]
    return body["count"] == 0 and body["limit"] == 50 and len(body) == 3


@pytest.mark.parametrize(("refusal", "method"), CASES)
async def test_it_needs_a_key(service: Service, refusal: Refusal, method: str) -> None:
    """A stranger could find out which inboxes exist."""
    fault(await without_key(service.client, method, at(refusal, **NOWHERE)), 401)


@pytest.mark.parametrize(("refusal", "method"), NAMED)
async def test_an_inbox_or_pod_that_is_not_there_comes_first(
    service: Service, refusal: Refusal, method: str
) -> None:
    """A caller would look for the reason in the feature and not in the mistyped address."""
    answer = await ask(service, method, at(refusal, **NOWHERE))
    body = fault(answer, 404, "not_found")
    if "{inbox_id" in refusal.path:
        assert body["message"] == "There is no such inbox."
    if "{pod_id" in refusal.path:
        assert body["message"] == "There is no such pod."


async def test_another_organization_s_pod_is_not_there(service: Service) -> None:
    """Pods could be found out by trying."""
    inbox = await service.inbox("ada")
    async with service.db.transaction() as tx:
        stranger = await access.create_organization(tx, "Somebody else")
        made = await access.create_key(
            tx, access.Reach(stranger.organization_id), prefix="inai_", name="x"
        )
    path = f"/v0/pods/{inbox['pod_id']}/accounts"
    assert (await service.client.get(path)).status_code == 200
    theirs = {"Authorization": f"Bearer {made.secret}"}
    fault(await service.client.get(path, headers=theirs), 404, "not_found")
    fault(await service.client.get("/v0/pods/not-a-pod/accounts"), 404, "not_found")


async def test_a_page_too_large_is_cut_and_a_wrong_one_refused(service: Service) -> None:
    """An empty list would hide a mistake that others tell."""
    page = (await service.client.get("/v0/apps", params={"limit": 7})).json()
    assert page == {"count": 0, "limit": 7, "apps": []}
    fault(await service.client.get("/v0/apps", params={"limit": "x"}), 400, "validation_error")


async def test_they_stand_in_no_description(service: Service) -> None:
    """A generated client would offer calls that never work."""
    described = (await service.client.get("/openapi.json")).json()["paths"]
    assert not [each for each in REFUSALS if "/v0" + each.path.replace(":str", "") in described]
