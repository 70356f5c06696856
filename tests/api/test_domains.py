"""Adding domains, being told what they need, changing and deleting them, and whose they are."""

from __future__ import annotations

import asyncio
from uuid import UUID

import httpx
import pytest

from agentmail_cp.access import Reach
from tests import tenants
from tests.domains import a_name, claimed_domain, look, settled, verified_domain
from tests.fix_app import DOMAIN, Json, Service, until
from tests.tenants import Key

NAME = "acme.test"
SEND_ONLY = {"inbound_enabled": False}
"""So that nobody looks for another provider's mail servers."""


async def add(client: httpx.AsyncClient, name: str = NAME, **fields: object) -> Json:
    """A new domain."""
    answer = await client.post("/v0/domains", json={"domain": name, **SEND_ONLY, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def fault(answer: httpx.Response, status: int, code: str, detail: str | None = None) -> Json:
    """The body of a refusal."""
    body: Json = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    if detail is not None:
        assert body["error"]["details"]["code"] == detail
    assert body["fix"]
    return body


async def in_pod(service: Service) -> tuple[UUID, httpx.AsyncClient]:
    """A new pod and a client that reaches nothing else."""
    pod = await tenants.pod(service.db, service.organization_id)
    key = await tenants.key(service.db, service.organization_id, pod_id=pod)
    return pod, tenants.client(service, key)


# --- adding


async def test_every_record_is_told_at_once(service: Service) -> None:
    """A person could not publish what they are not shown."""
    made = await add(service.client, inbound_enabled=True, allow_conflicting_provider=True)
    records = {(each["type"], each["name"].removesuffix(NAME)): each for each in made["records"]}
    keys = [name for _, name in records if "._domainkey." in name]
    assert len(keys) == 2
    assert {("TXT", "_agentmail."), ("MX", ""), ("TXT", ""), ("TXT", "_dmarc.")} <= records.keys()
    assert {each["status"] for each in made["records"]} == {"MISSING"}
    assert records["MX", ""]["priority"] == 10
    assert all(each["purpose"] for each in made["records"])
    assert {each["type"] for each in made["records"]} <= {"TXT", "CNAME", "MX"}
    assert made["status"] == "PENDING"
    assert made["catch_all"] is None
    assert "pod_id" not in made


async def test_a_domain_that_only_sends_needs_no_mx(service: Service) -> None:
    """Its mail stays where it is."""
    made = await add(service.client)
    assert made["inbound_enabled"] is False
    assert not [each for each in made["records"] if each["type"] == "MX"]


async def test_what_is_unsaid_is_what_the_contract_says(service: Service) -> None:
    answer = await service.client.post(
        "/v0/domains", json={"domain": NAME, "allow_conflicting_provider": True}
    )
    made = answer.json()
    flags = {name: value for name, value in made.items() if name.endswith("_enabled")}
    assert flags == {
        "feedback_enabled": True,
        "inbound_enabled": True,
        "subdomains_enabled": False,
        "tracking_enabled": False,
    }


async def test_one_name_has_one_spelling(service: Service) -> None:
    """Two rows of one name could both be verified."""
    spellings = {
        "acme.test": ["ACME.Test", "acme.test.", " acme.test "],
        "xn--bcher-kva.test": ["bücher.test", "XN--bcher-kva.test"],
    }
    for stored, written in spellings.items():
        assert (await add(service.client, written[0]))["domain"] == stored
        for each in (*written, stored):
            again = await service.client.post("/v0/domains", json={"domain": each, **SEND_ONLY})
            fault(again, 403, "resource_taken", "DOMAIN_TAKEN")


NO_NAMES = [
    *(
        "acme",
        "",
        "a b.test",
        "127.0.0.1",
        "10.0.0.1",
        "*.acme.test",
        "-acme.test",
        "ada@acme.test",
    ),
    *("https://acme.test", "acme..test", f"{'a' * 64}.test", "acme.test\x00", "acme.123"),
    ".".join(["abcdefg"] * 28) + ".test",
]


async def test_what_is_no_name_is_refused_with_a_reason(service: Service) -> None:
    """A row of a name that can never be looked up would stay PENDING for ever."""
    for name in NO_NAMES:
        answer = await service.client.post("/v0/domains", json={"domain": name, **SEND_ONLY})
        fault(answer, 400, "validation_error", "INVALID_DOMAIN")
    for body in ({}, {"domain": 5}, {"domain": None}, {"domain": NAME, "inbound_enabled": "no"}):
        answer = await service.client.post("/v0/domains", json=body)
        assert answer.status_code == 400, answer.text
    assert (await service.client.get("/v0/domains")).json()["count"] == 0


async def test_the_servers_own_names_are_nobodys_to_add(service: Service) -> None:
    """Whoever proved one would get everybody's mail."""
    stalwarts = "bob.test.send-only.control-plane.internal"
    for name in (DOMAIN, DOMAIN.upper(), f"mail.{DOMAIN}", f"a.b.{DOMAIN}.", stalwarts):
        answer = await service.client.post("/v0/domains", json={"domain": name, **SEND_ONLY})
        fault(answer, 403, "forbidden", "OWN_DOMAIN")


async def test_tracking_is_not_offered(service: Service) -> None:
    """It would be believed in."""
    body = {"domain": NAME, "tracking_enabled": True, **SEND_ONLY}
    answer = await service.client.post("/v0/domains", json=body)
    fault(answer, 400, "validation_error", "NOT_OFFERED")
    await add(service.client, tracking_enabled=False)
    answer = await service.client.patch(f"/v0/domains/{NAME}", json={"tracking_enabled": True})
    fault(answer, 400, "validation_error", "NOT_OFFERED")


async def test_adding_a_name_takes_nothing_from_anybody(anywhere: Service) -> None:
    """Whoever adds gmail.com must not get mail that is meant for people there."""
    name = a_name(anywhere, "gmail")
    other = await tenants.organization(anywhere.db)
    await claimed_domain(anywhere, name)
    await claimed_domain(anywhere, name, scope=Reach(other))
    assert await anywhere.server.find_domain(name) is None
    refused = await anywhere.client.post("/v0/inboxes", json={"domain": name, "username": "ada"})
    fault(refused, 403, "domain_not_verified", "UNKNOWN_DOMAIN")


async def test_several_organizations_may_add_a_name_and_learn_nothing_of_each_other(
    service: Service,
) -> None:
    """Whoever adds a name first without owning it would keep its owner out."""
    mine = await add(service.client)
    key = await tenants.key(service.db, await tenants.organization(service.db))
    theirs = await add(tenants.client(service, key))
    assert {each["name"] for each in theirs["records"]}.isdisjoint(
        {each["name"] for each in mine["records"] if "_domainkey" in each["name"]}
    )
    tokens = [
        each["value"]
        for made in (mine, theirs)
        for each in made["records"]
        if each["name"].startswith("_agentmail.")
    ]
    assert len(set(tokens)) == 2


async def test_many_requests_at_once_add_a_name_once(service: Service) -> None:
    """Two rows would ask for two tokens, of which one can never be the other's."""
    answers = await asyncio.gather(
        *(service.client.post("/v0/domains", json={"domain": NAME, **SEND_ONLY}) for _ in range(4))
    )
    assert sorted(each.status_code for each in answers) == [201, 403, 403, 403]


async def test_the_limit_of_domains_holds_against_many_at_once(service: Service) -> None:
    """A program in a loop would fill the tables and every name server's log."""
    async with service.db.transaction() as tx:
        await tx.execute(
            "insert into organization_limit (organization_id, name, value)"
            " values (%(id)s, 'domains_per_organization', 2)",
            {"id": service.organization_id},
        )
    answers = await asyncio.gather(
        *(
            service.client.post("/v0/domains", json={"domain": f"a{n}.test", **SEND_ONLY})
            for n in range(5)
        )
    )
    refused = [each for each in answers if each.status_code != 201]
    assert len(refused) == 3
    for each in refused:
        fault(each, 403, "limit_exceeded")
    organization = (await service.client.get("/v0/organizations")).json()
    assert (organization["domain_count"], organization["domain_limit"]) == (2, 2)


# --- reading


async def test_a_domain_goes_by_its_id_and_by_its_name(service: Service) -> None:
    made = await add(service.client)
    for name in (made["domain_id"], NAME, NAME.upper(), f"{NAME}."):
        answer = await service.client.get(f"/v0/domains/{name}")
        assert answer.json() == made, answer.text


async def test_what_is_no_domain_of_mine_is_not_there(service: Service) -> None:
    await add(service.client)
    for name in ("other.test", "acme", "%00", "'", "0" * 36):
        for path in ("", "/zone-file", "/setup-link"):
            fault(await service.client.get(f"/v0/domains/{name}{path}"), 404, "not_found")


async def test_lists_have_pages_and_an_order(service: Service) -> None:
    """A console that shows a page at a time would leave some out."""
    names = [f"a{n}.test" for n in range(5)]
    for name in names:
        await claimed_domain(service, name)
    seen: list[str] = []
    token: str | None = None
    while True:
        query = {"limit": 2} | ({"page_token": token} if token else {})
        page = (await service.client.get("/v0/domains", params=query)).json()
        seen += [each["domain"] for each in page["domains"]]
        assert not {"records"} & {key for each in page["domains"] for key in each}
        token = page.get("next_page_token")
        if token is None:
            break
    assert seen == names[::-1]
    upward = (await service.client.get("/v0/domains?ascending=true")).json()
    assert [each["domain"] for each in upward["domains"]] == names


async def test_the_zone_file_has_every_record(service: Service) -> None:
    """Whoever imports it would miss one, and look for it for days."""
    made = await add(service.client)
    answer = await service.client.get(f"/v0/domains/{NAME}/zone-file")
    assert answer.headers["content-type"].startswith("text/plain")
    assert f"{NAME}.zone" in answer.headers["content-disposition"]
    lines = [line for line in answer.text.splitlines() if " IN " in line]
    assert len(lines) >= len(made["records"])
    assert f"$ORIGIN {NAME}." in answer.text


async def test_no_dns_provider_is_told_by_itself(service: Service) -> None:
    """The SDK's callers fall back to the records when they are told so."""
    await add(service.client)
    answer = await service.client.get(f"/v0/domains/{NAME}/setup-link")
    assert answer.json() == {"supported": False}


async def test_a_check_is_asked_for_and_comes(service: Service) -> None:
    """Nobody would wait a day after mending a record. Nobody answers for DNS here: that says nothing."""
    await add(service.client)
    answer = await service.client.post(f"/v0/domains/{NAME}/verify")
    assert (answer.status_code, answer.content) == (204, b"")

    async def seen() -> Json:
        return (await service.client.get(f"/v0/domains/{NAME}")).json()

    found = await until(seen, lambda each: each["checked_at"] is not None, seconds=30)
    assert found["status"] in {"PENDING", "VERIFYING"}


# --- changing


async def test_a_flag_is_changed_and_the_others_stay(service: Service) -> None:
    await add(service.client, feedback_enabled=False)
    answer = await service.client.patch(
        f"/v0/domains/{NAME}", json={"subdomains_enabled": True, "feedback_enabled": None}
    )
    changed = answer.json()
    assert (changed["subdomains_enabled"], changed["feedback_enabled"]) == (True, False)


async def test_a_change_of_nothing_is_refused(service: Service) -> None:
    await add(service.client)
    for body in ({}, {"feedback_enabled": None}, {"domain": "other.test"}):
        answer = await service.client.patch(f"/v0/domains/{NAME}", json=body)
        fault(answer, 400, "validation_error", "REQUIRED")


@pytest.mark.parametrize("flag", ["inbound_enabled", "subdomains_enabled"])
async def test_a_verified_domain_that_needs_another_record_is_pending_and_goes_on_working(
    service: Service, flag: str
) -> None:
    """Its inboxes must not fall silent because one more thing was asked for."""
    before = await verified_domain(service, NAME, inbound_enabled=flag != "inbound_enabled")
    inbox = await service.inbox("ada", domain=NAME)
    answer = await service.client.patch(f"/v0/domains/{NAME}", json={flag: True})
    assert answer.json()["status"] == "PENDING"
    now = await settled(service, before)
    assert now.works
    await service.send(inbox, to=inbox["email"], text="Still here.")
    assert (await service.inbox("bob", domain=NAME))["email"] == f"bob@{NAME}"


async def test_what_needs_no_other_record_leaves_a_domain_verified(service: Service) -> None:
    await verified_domain(service, NAME, subdomains_enabled=True)
    body = {"feedback_enabled": False, "inbound_enabled": False, "subdomains_enabled": False}
    answer = await service.client.patch(f"/v0/domains/{NAME}", json=body)
    assert answer.json()["status"] == "VERIFIED"


async def test_the_mail_server_is_told_of_a_change(anywhere: Service) -> None:
    """A domain that was to stop receiving would go on."""
    name = a_name(anywhere)
    domain = await verified_domain(anywhere, name)
    await anywhere.client.patch(f"/v0/domains/{name}", json={"inbound_enabled": False})
    await settled(anywhere, domain)
    found = await anywhere.server.find_domain(name)
    assert found is not None
    assert found.inbound is False


async def test_new_keys_are_shown_beside_those_in_use(service: Service) -> None:
    """Mail would go unsigned, or fail, between one key and the next."""
    domain = await verified_domain(service, NAME)
    first = (await service.client.get(f"/v0/domains/{NAME}")).json()
    rotated = (await service.client.post(f"/v0/domains/{NAME}/dkim/rotate")).json()
    keys = [
        {each["name"] for each in shown["records"] if "_domainkey" in each["name"]}
        for shown in (first, rotated)
    ]
    assert (len(keys[0]), len(keys[1])) == (2, 4)
    assert keys[0] < keys[1]
    assert rotated["status"] == "VERIFIED"
    again = (await service.client.post(f"/v0/domains/{NAME}/dkim/rotate")).json()
    assert {each["name"] for each in again["records"]} == {
        each["name"] for each in rotated["records"]
    }
    assert (await look(service, domain)).works


# --- deleting


async def test_a_deleted_domain_is_gone_and_can_be_added_anew(service: Service) -> None:
    first = await add(service.client)
    answer = await service.client.delete(f"/v0/domains/{NAME}")
    assert (answer.status_code, answer.content) == (204, b"")
    fault(await service.client.delete(f"/v0/domains/{NAME}"), 404, "not_found")
    fault(await service.client.get(f"/v0/domains/{first['domain_id']}"), 404, "not_found")
    again = await add(service.client)
    assert again["domain_id"] != first["domain_id"]
    assert again["records"] != first["records"]
    assert (await service.client.get("/v0/domains")).json()["count"] == 1


# --- whose it is


async def test_a_domain_of_a_pod_is_that_pods_alone(service: Service) -> None:
    """A customer's domain would be changed by the next customer."""
    pod, own = await in_pod(service)
    _, other = await in_pod(service)
    made = await add(own)
    assert made["pod_id"] == str(pod)
    assert (await other.get("/v0/domains")).json()["count"] == 0
    fault(await other.get(f"/v0/domains/{NAME}"), 404, "not_found")
    fault(await other.delete(f"/v0/domains/{NAME}"), 404, "not_found")
    seen = (await service.client.get(f"/v0/pods/{pod}/domains/{NAME}")).json()
    assert seen["domain_id"] == made["domain_id"]
    assert (await service.client.get("/v0/domains")).json()["count"] == 1


async def test_a_domain_of_all_pods_is_seen_by_each_and_changed_by_none(service: Service) -> None:
    """Each would be able to silence the others."""
    pod, key = await in_pod(service)
    await add(service.client)
    assert (await key.get("/v0/domains")).json()["count"] == 1
    assert (await service.client.get(f"/v0/pods/{pod}/domains")).json()["count"] == 1
    assert (await key.get(f"/v0/domains/{NAME}")).status_code == 200
    path = f"/v0/domains/{NAME}"
    for refused in (
        await key.delete(path),
        await key.patch(path, json={"feedback_enabled": False}),
        await key.post(f"{path}/dkim/rotate"),
        await service.client.delete(f"/v0/pods/{pod}{path.removeprefix('/v0')}"),
    ):
        fault(refused, 403, "forbidden")
    assert (await key.post(f"{path}/verify")).status_code == 204


async def test_a_key_of_one_inbox_has_no_domains(service: Service) -> None:
    inbox = await service.inbox("ada")
    key: Key = await tenants.key(
        service.db,
        service.organization_id,
        inbox_id=await tenants.uuid_of(service.db, inbox),
    )
    await add(service.client)
    client = tenants.client(service, key)
    for refused in (
        await client.get("/v0/domains"),
        await client.get(f"/v0/domains/{NAME}"),
        await client.post("/v0/domains", json={"domain": "b.test"}),
    ):
        fault(refused, 403, "forbidden")


async def test_a_pod_with_a_domain_is_not_deleted(service: Service) -> None:
    """Its domain would be nobody's, and known to the mail server for ever."""
    pod, own = await in_pod(service)
    await add(own)
    fault(await service.client.delete(f"/v0/pods/{pod}"), 409, "cannot_delete")
    await own.delete(f"/v0/domains/{NAME}")
    assert (await service.client.delete(f"/v0/pods/{pod}")).status_code == 204
