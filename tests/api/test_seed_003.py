"""Seed 003's own spellings: `/api/v1`, `inb_` ids, and lists under `data`, with requests as curl makes them.

Its host, key, domains and ids are replaced by ours. Its SDKs and its `ap_sk_` keys are another product's.
"""

from __future__ import annotations

import httpx
import pytest

from tests.api.faults import fault
from tests.fix_app import DOMAIN, Json, Service, a_mail, until

PROPERTIES = (
    "id",
    "email",
    "username",
    "display_name",
    "domain",
    "client_id",
    "send_paused",
)
"""The table of key properties."""

DEPLOY_ALERTS = '{"username": "deploy-alerts", "display_name": "Deployment Alerts"}'
TICKET_ROUTING = (
    '{"username": "ticket-routing", "display_name": "Ticket Router",'
    ' "client_id": "ticket-router-prod-v1"}'
)


class Curl:
    """Requests as the seed's curl lines make them: `-d` with its text, a key, a content type."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(
        self, path: str, data: str | None = None, method: str | None = None
    ) -> httpx.Response:
        service = self._service
        headers = {"Authorization": f"Bearer {service.key}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        async with httpx.AsyncClient(base_url=service.url) as client:
            return await client.request(
                method or ("GET" if data is None else "POST"),
                f"/api/v1{path}",
                content=data,
                headers=headers,
            )

    async def json(self, path: str, data: str | None = None, method: str | None = None) -> Json:
        """The body of a success."""
        answer = await self(path, data, method)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    def named(self, body: str, *usernames: str) -> str:
        """A body whose usernames are this test's own."""
        for username in usernames:
            body = body.replace(f'"{username}"', f'"{username}{self._service.suffix}"')
        return body


@pytest.fixture
def curl(anywhere: Service) -> Curl:
    return Curl(anywhere)


async def test_create(curl: Curl, anywhere: Service) -> None:
    inbox = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    assert inbox["id"].startswith("inb_")
    assert inbox["email"] == f"deploy-alerts{anywhere.suffix}@{DOMAIN}"
    assert inbox["display_name"] == "Deployment Alerts"
    assert inbox["send_paused"] is False


async def test_creating_again_with_client_id_gives_the_same_inbox(curl: Curl) -> None:
    body = curl.named(TICKET_ROUTING, "ticket-routing")
    first, again = await curl.json("/inboxes", body), await curl.json("/inboxes", body)
    assert first["id"] == again["id"]
    assert [name for name in PROPERTIES if name not in again] == []


async def test_list_and_get(curl: Curl) -> None:
    made = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    page = await curl.json("/inboxes?limit=20")
    assert [each["id"] for each in page["data"]] == [made["id"]]
    assert page["data"] == page["inboxes"]
    assert (await curl.json(f"/inboxes/{made['id']}"))["email"] == made["email"]


async def test_update(curl: Curl) -> None:
    made = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    changed = await curl.json(f"/inboxes/{made['id']}", '{"display_name": "Alerts"}', "PATCH")
    assert changed["display_name"] == "Alerts"
    assert changed["email"] == made["email"], "addresses are immutable"


async def test_delete_retains_messages(curl: Curl, anywhere: Service) -> None:
    made = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    await anywhere.deliver(a_mail(made["email"]))
    path = f"/inboxes/{made['id']}"
    await until(lambda: curl.json(f"{path}/messages"), lambda page: page["count"] == 1)
    assert (await curl(path, method="DELETE")).status_code == 204
    fault(await curl(path), 404, "not_found")
    kept = await curl.json("/threads?include_deleted=true")
    assert kept["data"][0]["inbox_id"] == made["email"]


async def test_paused_sending_while_receiving_continues(curl: Curl, anywhere: Service) -> None:
    """The seed's life of an inbox: active, paused, active again; its fields stay what they were."""
    made = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    path = f"/inboxes/{made['id']}"
    paused = await curl.json(path, '{"send_paused": true}', "PATCH")
    assert (paused["send_paused"], paused["email"]) == (True, made["email"])
    assert paused["send_paused_reason"]
    body = '{"to": "ada@elsewhere.test", "subject": "Deployed", "text": "Version 4 runs."}'
    fault(await curl(f"{path}/messages", body), 403, "inbox_paused")
    await anywhere.deliver(a_mail(made["email"], "Disk full"))
    await until(lambda: curl.json(f"{path}/messages"), lambda page: page["count"] == 1)
    again = await curl.json(path, '{"send_paused": false}', "PATCH")
    assert again["send_paused"] is False
    assert "send_paused_reason" not in again
    assert (await curl.json(f"{path}/messages", body))["message_id"]


async def test_environments_scope_inboxes(curl: Curl) -> None:
    """An environment is a pod: what is made in one is not in the list of another."""
    for name in ("staging", "production"):
        await curl.json("/pods", f'{{"name": "{name}", "client_id": "{name}"}}')
    made = await curl.json("/inboxes", '{"environment": "staging"}')
    page = await curl.json("/inboxes?environment=staging")
    assert [each["id"] for each in page["data"]] == [made["id"]]
    assert page == await curl.json(f"/inboxes?pod_id={made['pod_id']}")
    assert (await curl.json("/inboxes?environment=production"))["data"] == []
    both = await curl.json("/inboxes", '{"environment": "staging", "pod_id": "staging"}')
    assert both["pod_id"] == made["pod_id"]
    two = '{"environment": "staging", "pod_id": "production"}'
    body = fault(await curl("/inboxes", two), 400, "validation_error")
    assert body["error"]["details"]["field"] == "environment"
    fault(await curl("/inboxes?environment=nowhere"), 404, "not_found")
    fault(await curl("/inboxes", '{"environment": "nowhere"}'), 404, "not_found")


async def test_messages_and_threads_of_an_inbox(curl: Curl, anywhere: Service) -> None:
    """Messages belong to an inbox and have an inbox_id; threads are listed for one inbox."""
    made = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    await anywhere.deliver(a_mail(made["email"], "Disk full"))
    path = f"/inboxes/{made['id']}"
    page = await until(lambda: curl.json(f"{path}/messages"), lambda page: page["count"] == 1)
    assert page["data"] == page["messages"]
    assert page["data"][0]["inbox_id"] == made["email"]
    threads = await curl.json(f"{path}/threads")
    assert threads["data"] == threads["threads"]
    assert threads["data"][0]["subject"] == "Disk full"


async def test_sending_from_an_inbox(curl: Curl) -> None:
    made = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    body = '{"to": "ada@elsewhere.test", "subject": "Deployed", "text": "Version 4 runs."}'
    sent = await curl.json(f"/inboxes/{made['id']}/messages", body)
    page = await curl.json(f"/inboxes/{made['id']}/messages")
    assert page["data"][0]["message_id"] == sent["message_id"]


async def test_drafts_of_an_inbox(curl: Curl) -> None:
    made = await curl.json("/inboxes", curl.named(DEPLOY_ALERTS, "deploy-alerts"))
    body = '{"to": "ada@elsewhere.test", "subject": "Deployed", "text": "Version 4 runs."}'
    draft = await curl.json(f"/inboxes/{made['id']}/drafts", body)
    page = await curl.json(f"/inboxes/{made['id']}/drafts")
    assert page["data"] == page["drafts"]
    assert [each["draft_id"] for each in page["data"]] == [draft["draft_id"]]


@pytest.mark.parametrize(
    "username",
    ["", "-a", "a.", "_a", "a..b", "a--b", "A", "a b", "ä", "x" * 65],
)
async def test_usernames_that_break_a_rule_are_refused(curl: Curl, username: str) -> None:
    body = fault(await curl("/inboxes", f'{{"username": "{username}"}}'), 400, "validation_error")
    assert body["error"]["details"] == {"field": "username", "code": "INVALID_USERNAME"}
