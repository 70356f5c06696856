"""Domains from the first record to the first mail, against a name server of the tests' own.

In both worlds: on the sandbox, and on a real Stalwart whose signatures are verified with what the owner
published.
"""

from __future__ import annotations

import asyncio
import email
import re
import smtplib
from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta
from typing import Any

import dkim
import httpx
import pytest
import pytest_asyncio

from agentmail_cp.domains import schedule
from agentmail_cp.sandbox import MailSandbox
from tests import tenants
from tests.domains import a_name, verified_domain
from tests.fix_app import Json, Service, a_mail, serving, serving_on_stalwart, until
from tests.fix_dns import DnsServer
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_stalwart import StalwartServer

TOGETHER = timedelta(0)
"""Instead of the seconds between two checks of a domain."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check as often as is asked for."""
    monkeypatch.setattr(schedule, "SPACING", TOGETHER)


@pytest_asyncio.fixture
async def asking_sandbox(
    database_url: str,
    sandbox_server: tuple[MailSandbox, int],
    porch: Porch,
    dns_server: DnsServer,
    soon: None,
) -> AsyncGenerator[Service]:
    """The service on a sandbox, asking the test's name server."""
    sandbox, port = sandbox_server
    asked = dns_server.setting
    async with serving(
        database_url, sandbox, smtp_port=port, porch=porch, dns_servers=asked
    ) as running:
        yield running


@pytest_asyncio.fixture
async def asking_stalwart(
    database_url: str,
    stalwart: StalwartServer,
    front_door: FrontDoor,
    porch: Porch,
    dns_server: DnsServer,
    soon: None,
) -> AsyncGenerator[Service]:
    """The service on the run's Stalwart, asking the test's name server."""
    asked = dns_server.setting
    async with serving_on_stalwart(
        database_url, stalwart, front_door, porch, dns_servers=asked
    ) as running:
        yield running


@pytest.fixture(
    params=[
        pytest.param("asking_sandbox", id="sandbox"),
        pytest.param("asking_stalwart", id="stalwart", marks=pytest.mark.stalwart),
    ]
)
def named(request: pytest.FixtureRequest) -> Service:
    """The service in both worlds, one after the other."""
    return request.getfixturevalue(request.param)


async def add(service: Service, name: str, **fields: object) -> Json:
    """Add a domain."""
    answer = await service.client.post("/v0/domains", json={"domain": name, **fields})
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def zone_file(service: Service, name: str) -> str:
    answer = await service.client.get(f"/v0/domains/{name}/zone-file")
    assert answer.status_code == 200, answer.text
    return answer.text


async def check(service: Service, name: str, *statuses: str) -> Json:
    """Have a domain checked now; the domain once a check that began after this has ended so."""
    before = await get(service, name)
    answer = await service.client.post(f"/v0/domains/{name}/verify")
    assert answer.status_code == 204, answer.text

    def is_checked(seen: Json) -> bool:
        return seen["checked_at"] != before["checked_at"] and seen["status"] in statuses

    return await until(lambda: get(service, name), is_checked, seconds=20)


async def get(service: Service, name: str) -> Json:
    answer = await service.client.get(f"/v0/domains/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def verified_events(service: Service) -> list[Json]:
    answer = await service.client.get("/v0/events", params={"event_types": '["domain.verified"]'})
    assert answer.status_code == 200, answer.text
    return answer.json()["events"]


def reasons(domain: Json) -> Mapping[str, str]:
    """What is said of each record that is not right, by type and name."""
    return {
        f"{each['type']} {each['name']}": each.get("reason", "")
        for each in domain["records"]
        if each["status"] != "VALID" and each["required"]
    }


def with_mistakes(zone: str, name: str) -> str:
    """The same zone by somebody who left their provider's SPF and MX, and whose web form cut the long key."""
    lines = [
        line[: line.index("p=") + 200] + '"' if "k=rsa" in line else line
        for line in zone.splitlines()
    ]
    return "\n".join(
        [
            *lines,
            f'{name}. IN TXT "v=spf1 include:_spf.google.com ~all"',
            f"{name}. IN MX 1 aspmx.l.google.com.",
            "",
        ]
    )


async def test_a_domain_from_its_first_record_to_its_first_mail(
    named: Service, dns_server: DnsServer
) -> None:
    name = a_name(named, "first")
    added = await add(named, name)
    assert added["status"] == "PENDING"
    zone = await zone_file(named, name)

    dns_server.publish(name, with_mistakes(zone, name))
    wrong = await check(named, name, "INVALID")
    told = reasons(wrong)
    assert len(told) == 3
    assert "Publish in their place: v=spf1 a:" in told[f"TXT {name}"]
    assert "Google Workspace (aspmx.l.google.com)" in told[f"MX {name}"]
    assert "cut off after" in next(each for key, each in told.items() if "_domainkey" in key)
    assert await inbox_refused(named, name)

    dns_server.publish(name, zone)
    right = await check(named, name, "VERIFIED")
    assert reasons(right) == {}
    assert "reason" not in right
    (event,) = await until(lambda: verified_events(named), lambda seen: len(seen) > 0)
    assert event["domain"]["domain"] == name

    sender = await named.inbox("ada", domain=name)
    assert sender["email"] == f"ada{named.suffix}@{name}"
    receiver = await named.inbox("bob")
    sent = await named.send(sender, to=receiver["email"], subject="First", text="Hello.")
    (received,) = await until(lambda: named.messages(receiver), lambda seen: len(seen) == 1)
    assert received["from"].endswith(f"<{sender['email']}>") or received["from"] == sender["email"]
    if named.stalwart is not None:
        raw = await raw_of(named, receiver, sent["message_id"])
        assert verifies(raw, dns_server) == {"ed25519-sha256": True, "rsa-sha256": True}


async def inbox_refused(service: Service, name: str) -> bool:
    answer = await service.client.post("/v0/inboxes", json={"username": "x", "domain": name})
    return answer.status_code == 403 and "domain_not_verified" in answer.text


async def raw_of(service: Service, inbox: Json, message_id: str) -> bytes:
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{message_id}/raw"
    answer = await service.client.get(path)
    assert answer.status_code == 200, answer.text
    async with httpx.AsyncClient() as client:
        return (await client.get(answer.json()["download_url"])).content


def verifies(raw: bytes, dns_server: DnsServer) -> Mapping[str, bool]:
    """Which signatures of a mail are good, by their algorithm, with the keys that are published."""
    found: dict[str, bool] = {}

    def published(name: bytes, **_: object) -> bytes:
        return dns_server.text(name.decode())

    head = email.message_from_bytes(raw)
    for place, signature in enumerate(head.get_all("DKIM-Signature", [])):
        algorithm = re.search(r"\ba=([\w-]+)", signature)
        assert algorithm is not None
        mail: Any = dkim.DKIM(raw)
        found[algorithm[1]] = mail.verify(idx=place, dnsfunc=published)
    return found


def answer_to(port: int, recipient: str) -> int:
    """What a stranger's mail server is told of a recipient (RFC 5321 section 4.2)."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="out.test", timeout=20) as smtp:
        smtp.ehlo()
        smtp.mail("eve@elsewhere.test")
        return smtp.rcpt(recipient)[0]


async def test_whoever_only_claims_a_name_gets_nobodys_mail(
    named: Service, dns_server: DnsServer
) -> None:
    """Mail to a name that somebody merely added must go where it always went."""
    await add(named, "gmail.com")
    assert await named.server.find_domain("gmail.com") is None
    assert await inbox_refused(named, "gmail.com")
    code = await asyncio.to_thread(answer_to, named.smtp_port, "anybody@gmail.com")
    assert code >= 500
    assert reasons(await check(named, "gmail.com", "PENDING"))


async def test_the_first_that_proves_a_name_has_it(named: Service, dns_server: DnsServer) -> None:
    """Two organisations add a name and publish their tokens: one gets it, the other is told, without being
    told who has it, and gets it when it is free.
    """
    name = a_name(named, "shared")
    rival = tenants.client(named, await tenants.key(named.db, await tenants.organization(named.db)))
    await add(named, name)
    answer = await rival.post("/v0/domains", json={"domain": name})
    assert answer.status_code in {200, 201}, answer.text
    theirs = (await rival.get(f"/v0/domains/{name}/zone-file")).text
    dns_server.publish(name, f"{await zone_file(named, name)}\n{only_keys(theirs)}")
    await check(named, name, "VERIFIED")

    assert (await rival.post(f"/v0/domains/{name}/verify")).status_code == 204
    path = f"/v0/domains/{name}"
    seen = await until(
        lambda: _json(rival, path), lambda seen: seen["status"] == "INVALID", seconds=20
    )
    assert "another organization has verified this domain" in seen["reason"]
    refused = await rival.post("/v0/inboxes", json={"username": "x", "domain": name})
    assert refused.status_code == 403

    assert (await named.client.delete(path)).status_code == 204
    await rival.post(f"{path}/verify")
    await until(lambda: _json(rival, path), lambda seen: seen["status"] == "VERIFIED", seconds=20)
    await rival.aclose()


async def test_a_name_with_inboxes_of_whoever_has_the_domain_above_is_not_free(
    named: Service, dns_server: DnsServer
) -> None:
    """Two organisations' domains would be one on the mail server: the second would wait for ever, and not be
    told why, or the first's inboxes would lose their mail.
    """
    above = a_name(named, "above")
    name = f"mail.{above}"
    await verified_domain(named, above, subdomains_enabled=True)
    inbox = await named.inbox("ada", domain=name)
    answer = await named.client.patch(f"/v0/domains/{above}", json={"subdomains_enabled": False})
    assert answer.status_code == 200, answer.text

    other = await tenants.organization(named.db)
    rival = tenants.client(named, await tenants.key(named.db, other))
    answer = await rival.post("/v0/domains", json={"domain": name})
    assert answer.status_code in {200, 201}, answer.text
    path = f"/v0/domains/{name}"
    dns_server.publish(name, (await rival.get(f"{path}/zone-file")).text)

    async def has_become(status: str) -> Json:
        assert (await rival.post(f"{path}/verify")).status_code == 204
        return await until(
            lambda: _json(rival, path), lambda seen: seen["status"] == status, seconds=20
        )

    refused = await has_become("INVALID")
    assert "delete the domain or those inboxes there" in refused["reason"]
    assert above not in refused["reason"].replace(name, "")
    await named.deliver(a_mail(inbox["email"], "Still here"))
    await until(lambda: named.messages(inbox), bool)

    answer = await named.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 204, answer.text
    await has_become("VERIFIED")
    made = await rival.post("/v0/inboxes", json={"username": "bob", "domain": name})
    assert made.status_code == 201, made.text
    await rival.aclose()


def only_keys(zone: str) -> str:
    """The records of a zone file that are the claim's own."""
    lines = zone.splitlines()
    return "\n".join(
        [
            lines[0],
            *(line for line in lines if line.startswith("_agentmail") or "_domainkey" in line),
        ]
    )


async def _json(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_new_keys_sign_once_their_records_are_there(
    named: Service, dns_server: DnsServer
) -> None:
    """Rotation in front of a receiver: every mail verifies, before and after."""
    name = a_name(named, "turning")
    await add(named, name)
    first = await zone_file(named, name)
    dns_server.publish(name, first)
    await check(named, name, "VERIFIED")

    answer = await named.client.post(f"/v0/domains/{name}/dkim/rotate")
    assert answer.status_code == 200, answer.text
    assert (await check(named, name, "VERIFIED"))["status"] == "VERIFIED"
    before = selectors(first)
    assert await signing(named, name) == before

    both = await zone_file(named, name)
    assert selectors(both) > before
    dns_server.publish(name, both)
    await check(named, name, "VERIFIED")
    await until(
        lambda: signing(named, name), lambda seen: seen == selectors(both) - before, seconds=20
    )
    assert selectors(await zone_file(named, name)) == selectors(both)


def selectors(zone: str) -> frozenset[str]:
    return frozenset(
        line.partition("._domainkey")[0] for line in zone.splitlines() if "._domainkey" in line
    )


async def signing(service: Service, name: str) -> frozenset[str]:
    """The keys the mail server signs with."""
    installed = await service.server.find_domain(name)
    assert installed is not None
    return frozenset(key.selector for key in installed.dkim if key.active)


async def test_a_deleted_domain_takes_no_mail(named: Service, dns_server: DnsServer) -> None:
    name = a_name(named, "gone")
    await add(named, name)
    dns_server.publish(name, await zone_file(named, name))
    await check(named, name, "VERIFIED")
    assert (await named.client.delete(f"/v0/domains/{name}")).status_code == 204
    installed = await named.server.find_domain(name)
    assert installed is None
    assert await inbox_refused(named, name)
