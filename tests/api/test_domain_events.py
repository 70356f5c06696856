"""`domain.verified`, the one event of no inbox: who is told of it, and what they are told."""

from __future__ import annotations

from typing import Any

import msgspec
from agentmail import DomainVerifiedEvent
from agentmail.core.pydantic_utilities import parse_obj_as

from agentmail_cp.access import Reach
from tests import tenants
from tests.domains import announce, verified_domain
from tests.fix_app import Json, Service, until
from tests.sockets import listening

NAME = "acme.test"


async def log_of(service: Service, path: str = "", **query: str) -> list[Json]:
    """The events of a path in the log."""
    answer = await service.client.get(f"/v0{path}/events", params={"after": "start", **query})
    assert answer.status_code == 200, answer.text
    return [each for each in answer.json()["events"] if each["event_type"] == "domain.verified"]


async def test_the_event_is_what_the_sdk_expects(service: Service) -> None:
    """The official SDK takes an event that lacks a field for a received message."""
    domain = await verified_domain(service, NAME)
    await announce(service, domain)
    (event,) = await until(lambda: log_of(service), bool)
    told = parse_obj_as(DomainVerifiedEvent, event)
    assert told.domain.domain_id == str(domain.domain_id)
    assert (told.domain.domain, told.domain.status) == (NAME, "VERIFIED")
    shown = (await service.client.get(f"/v0/domains/{NAME}")).json()
    assert {each["name"] for each in event["domain"]["records"]} == {
        each["name"] for each in shown["records"]
    }


async def test_readers_of_a_pod_hear_of_its_own_domains_alone(service: Service) -> None:
    """A customer would learn of the names of all others."""
    pods = [await tenants.pod(service.db, service.organization_id) for _ in "ab"]
    inbox = await tenants.inbox_in(service, pods[0])
    scope = Reach(service.organization_id, pods[0])
    await announce(service, await verified_domain(service, NAME))
    await announce(service, await verified_domain(service, "pod.test", scope=scope))
    everything = await until(lambda: log_of(service), lambda seen: len(seen) == 2)
    assert [each["domain"]["domain"] for each in everything] == [NAME, "pod.test"]
    (of_pod,) = await log_of(service, f"/pods/{pods[0]}")
    assert of_pod["domain"]["pod_id"] == str(pods[0])
    assert await log_of(service, f"/pods/{pods[1]}") == []
    assert await log_of(service, f"/inboxes/{inbox['inbox_id']}") == []
    assert await log_of(service, inbox_ids=inbox["inbox_id"]) == []
    (named,) = await log_of(service, pod_ids=str(pods[0]))
    assert named["event_id"] == of_pod["event_id"]


async def test_endpoints_are_told_by_the_same_rule(service: Service) -> None:
    """A webhook would tell what the log hides, or miss what it shows."""
    pod = await tenants.pod(service.db, service.organization_id)
    inbox = await tenants.inbox_in(service, pod)
    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        "organization": ("", {}),
        "organization, the pod named": ("", {"pod_ids": [str(pod)]}),
        "organization, the inbox named": ("", {"inbox_ids": [inbox["inbox_id"]]}),
        "pod": (f"/pods/{pod}", {}),
        "inbox": (f"/inboxes/{inbox['inbox_id']}", {}),
    }
    endpoints: dict[str, str] = {}
    for name, (path, filters) in wanted.items():
        body = {"url": "https://hooks.test/", "event_types": ["domain.verified"], **filters}
        answer = await service.client.post(f"/v0{path}/webhooks", json=body)
        assert answer.status_code == 201, answer.text
        endpoints[answer.json()["webhook_id"]] = name
    scope = Reach(service.organization_id, pod)
    await announce(service, await verified_domain(service, "all.test"))
    await announce(service, await verified_domain(service, "pod.test", scope=scope))

    async def told() -> list[tuple[str, str]]:
        async with service.db.reading() as tx:
            rows = await (
                await tx.execute(
                    "select webhook_id::text, facts->>'domain' as domain from delivery"
                    " join event using (event_id)"
                )
            ).fetchall()
        return sorted((row["domain"], endpoints[row["webhook_id"]]) for row in rows)

    assert await until(told, lambda seen: len(seen) >= 4) == [
        ("all.test", "organization"),
        ("pod.test", "organization"),
        ("pod.test", "organization, the pod named"),
        ("pod.test", "pod"),
    ]


async def test_a_socket_hears_of_it_at_once(sandbox_service: Service) -> None:
    """A console would go on showing that the domain is pending."""
    domain = await verified_domain(sandbox_service, NAME)
    async with listening(sandbox_service.url, sandbox_service.key) as listener:
        await listener.subscribe()
        await announce(sandbox_service, domain)
        told = await listener.event()
    assert (told["event_type"], told["domain"]["domain"]) == ("domain.verified", NAME)
    assert msgspec.json.decode(msgspec.json.encode(told)) == told
