"""Inboxes on an organisation's own domains: made, caught for, paused by what becomes of the domain, kept."""

from __future__ import annotations

from uuid import UUID

import httpx
import pytest

from agentmail_cp import domains
from agentmail_cp.access import Reach
from agentmail_cp.db import Database
from agentmail_cp.domains import Domain, DomainPatch, dkim
from agentmail_cp.errors import Forbidden
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests import tenants
from tests.domains import a_name, claimed_domain, settled, verified_domain, verify
from tests.fix_app import DOMAIN, OUTSIDER, Json, Service, a_mail, serving, until

NAME = "acme.test"


def fault(answer: httpx.Response, status: int, code: str, detail: str | None = None) -> Json:
    """The body of a refusal."""
    body: Json = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), answer.text
    if detail is not None:
        assert body["error"]["details"]["code"] == detail
    return body


async def ask(client: httpx.AsyncClient, domain: str, username: str = "ada") -> httpx.Response:
    """Ask for an inbox on a domain."""
    return await client.post("/v0/inboxes", json={"domain": domain, "username": username})


async def subjects(service: Service, inbox: Json) -> list[str]:
    """The subjects of an inbox's messages."""
    return sorted(each.get("subject", "") for each in await service.messages(inbox))


async def breaks(db: Database, domain: Domain) -> None:
    """The records of a verified domain were wrong for a while."""
    async with db.transaction() as tx:
        await tx.execute(
            "update domain set broken_since = now(), reason = 'MX acme.test: it is gone.'"
            " where domain_id = %(id)s",
            {"id": domain.domain_id},
        )


# --- made


async def test_a_custom_domain_has_exact_usernames(anywhere: Service) -> None:
    """People print them on cards."""
    name = a_name(anywhere)
    await verified_domain(anywhere, name)
    made = (await ask(anywhere.client, name, "support")).json()
    assert made["email"] == f"support@{name}"
    random = (await anywhere.client.post("/v0/inboxes", json={"domain": name})).json()
    assert random["email"].endswith(f"@{name}")
    fault(await ask(anywhere.client, name.upper(), "support"), 403, "resource_taken")
    await anywhere.deliver(a_mail(made["email"], "Hello"))
    assert await until(lambda: subjects(anywhere, made), bool) == ["Hello"]
    await anywhere.send(made, to=random["email"], subject="Between us", text="Hi.")
    assert await until(lambda: subjects(anywhere, random), bool) == ["Between us"]


async def test_a_shared_domain_tells_usernames_apart(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """Two customers who both want `support` each get one (seed 003); their own domains stay exact."""
    sandbox, port = sandbox_server
    async with serving(database_url, sandbox, smtp_port=port, domain_shared=True) as service:
        await verified_domain(service, NAME)
        addresses = {(await ask(service.client, DOMAIN, "support")).json()["email"] for _ in "ab"}
        assert len(addresses) == 2
        assert all(each.startswith("support-") for each in addresses)
        assert (await ask(service.client, NAME, "support")).json()["email"] == f"support@{NAME}"
        refused = await service.client.patch(f"/v0/domains/{DOMAIN}", json={"catch_all": "x@y.z"})
        fault(refused, 404, "not_found")


async def test_no_inbox_is_made_on_a_domain_that_is_not_proved(service: Service) -> None:
    """It would take other people's mail."""
    await claimed_domain(service, NAME)
    for name in (NAME, f"mail.{NAME}", "other.test", "nonsense", f"x.{DOMAIN}"):
        fault(await ask(service.client, name), 403, "domain_not_verified", "UNKNOWN_DOMAIN")


@pytest.mark.parametrize("name", ["a\0.test", "a." * 20_000 + "test", "." * 9_000, "x" * 40_000])
async def test_what_is_no_domain_name_is_not_looked_for(service: Service, name: str) -> None:
    """One small request would hold up everybody for half a minute, or end in a crash."""
    fault(await ask(service.client, name), 403, "domain_not_verified", "UNKNOWN_DOMAIN")


async def test_a_domain_serves_its_own_organization_alone(service: Service) -> None:
    other = await tenants.key(service.db, await tenants.organization(service.db))
    await verified_domain(service, NAME)
    fault(await ask(tenants.client(service, other), NAME), 403, "domain_not_verified")


async def test_a_pods_domain_serves_its_own_pod_and_one_of_all_serves_each(
    service: Service,
) -> None:
    """An agent of one customer would write in the name of another."""
    pods, clients = await tenants.two_pods(service)
    await verified_domain(service, "one.test", scope=Reach(service.organization_id, pods[0]))
    await verified_domain(service, "all.test")
    assert (await ask(clients[0], "one.test")).status_code == 201
    fault(await ask(clients[1], "one.test", "bob"), 403, "domain_not_verified")
    elsewhere = fault(await ask(service.client, "one.test", "bob"), 403, "domain_not_verified")
    assert "pod" in elsewhere["fix"]
    for client in (*clients, service.client):
        assert (await client.post("/v0/inboxes", json={"domain": "all.test"})).status_code == 201


async def test_a_retry_under_a_client_id_gets_its_inbox_whatever_became_of_the_domain(
    service: Service,
) -> None:
    """An agent that starts again would be told that its mailbox is not there."""
    domain = await verified_domain(service, NAME)
    body = {"domain": NAME, "client_id": "agent-1"}
    first = await service.client.post("/v0/inboxes", json=body)
    await breaks(service.db, domain)
    again = await service.client.post("/v0/inboxes", json=body)
    assert (again.status_code, again.json()["inbox_id"]) == (200, first.json()["inbox_id"])
    fault(await ask(service.client, NAME), 403, "domain_not_verified")


# --- sub-domains


async def test_inboxes_stand_on_sub_domains_where_these_are_enabled(anywhere: Service) -> None:
    """One domain for a thousand customers, each with a name of its own."""
    name = a_name(anywhere)
    domain = await verified_domain(anywhere, name)
    below = f"eu.mail.{name}"
    fault(await ask(anywhere.client, below), 403, "domain_not_verified")
    await anywhere.client.patch(f"/v0/domains/{name}", json={"subdomains_enabled": True})
    fault(await ask(anywhere.client, below), 403, "domain_not_verified")
    await verify(anywhere, domain)
    made = (await ask(anywhere.client, below)).json()
    assert made["email"] == f"ada@{below}"
    await anywhere.deliver(a_mail(made["email"], "Below"))
    assert await until(lambda: subjects(anywhere, made), bool) == ["Below"]
    await anywhere.send(made, to=made["email"], subject="Myself", text="Hi.")
    await until(lambda: subjects(anywhere, made), lambda seen: "Myself" in seen)


async def test_a_sub_domain_somebody_else_proved_is_theirs(service: Service) -> None:
    """Whoever has the domain above could read their mail."""
    other = await tenants.organization(service.db)
    await verified_domain(service, NAME, subdomains_enabled=True, scope=Reach(other))
    late = await claimed_domain(service, f"mail.{NAME}")
    with pytest.raises(AssertionError, match="another organization"):
        await verify(service, late)
    await verified_domain(service, "early.below.test")
    key = await tenants.key(service.db, other)
    await verified_domain(service, "below.test", subdomains_enabled=True, scope=Reach(other))
    refused = await ask(tenants.client(service, key), "early.below.test")
    fault(refused, 403, "domain_not_verified")
    assert (await ask(service.client, "early.below.test")).status_code == 201


async def test_an_inbox_on_a_sub_domain_is_not_begun_once_somebody_else_proved_it(
    service: Service,
) -> None:
    """Between looking for the domain and reserving the address it may have become another's."""
    above = await verified_domain(service, NAME, subdomains_enabled=True)
    reach = Reach(service.organization_id)
    async with service.db.reading() as tx:
        found = await domains.for_inboxes(tx, reach, service.settings, f"mail.{NAME}")
    async with service.db.transaction() as tx:
        await domains.hold(tx, service.organization_id, found)
        await domains.update(tx, reach, above.name, DomainPatch(subdomains_enabled=False))
    other = await tenants.organization(service.db)
    await verified_domain(service, f"mail.{NAME}", scope=Reach(other))
    async with service.db.transaction() as tx:
        with pytest.raises(Forbidden, match="another organization"):
            await domains.hold(tx, service.organization_id, found)


# --- catch-all


async def test_mail_to_nobody_lands_in_the_inbox_that_catches_it(anywhere: Service) -> None:
    """A typing mistake in an address would cost a customer."""
    name = a_name(anywhere)
    domain = await verified_domain(anywhere, name)
    inbox = (await ask(anywhere.client, name)).json()
    body = {"catch_all": inbox["inbox_id"]}
    changed = (await anywhere.client.patch(f"/v0/domains/{name}", json=body)).json()
    assert changed["catch_all"] == inbox["email"]
    await settled(anywhere, domain)
    await anywhere.deliver(a_mail(f"nobody@{name}", "Lost"))
    assert await until(lambda: subjects(anywhere, inbox), bool) == ["Lost"]
    changed = await anywhere.client.patch(f"/v0/domains/{name}", json={"catch_all": None})
    assert changed.json()["catch_all"] is None
    await settled(anywhere, domain)
    found = await anywhere.server.find_domain(name)
    assert found is not None
    assert found.catch_all is None


async def test_only_an_inbox_on_the_domain_itself_catches(service: Service) -> None:
    """Mail of one customer's domain would land in the mailbox of another."""
    await verified_domain(service, NAME)
    await verified_domain(service, "other.test")
    elsewhere = (await ask(service.client, "other.test")).json()
    shared = await service.inbox("ada")
    for address in (elsewhere["email"], shared["email"], f"nobody@{NAME}", "", "\x00"):
        answer = await service.client.patch(f"/v0/domains/{NAME}", json={"catch_all": address})
        fault(answer, 400, "validation_error", "NOT_ON_DOMAIN")


async def test_an_inbox_that_is_deleted_catches_nothing_any_more(anywhere: Service) -> None:
    """Mail would go on being taken for a mailbox that nobody reads."""
    name = a_name(anywhere)
    domain = await verified_domain(anywhere, name)
    inbox = (await ask(anywhere.client, name)).json()
    await anywhere.client.patch(f"/v0/domains/{name}", json={"catch_all": inbox["email"]})
    await settled(anywhere, domain)
    answer = await anywhere.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 204, answer.text
    shown = (await anywhere.client.get(f"/v0/domains/{name}")).json()
    assert shown["catch_all"] is None
    found = await anywhere.server.find_domain(name)
    assert found is not None
    assert found.catch_all is None


async def test_an_inbox_that_could_not_be_deleted_catches_as_before(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """503 means that nothing has changed."""
    sandbox, _ = sandbox_server
    domain = await verified_domain(service, NAME)
    inbox = (await ask(service.client, NAME)).json()
    await service.client.patch(f"/v0/domains/{NAME}", json={"catch_all": inbox["email"]})
    await settled(service, domain)
    sandbox.faults = Faults(down=True)
    answer = await service.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 503
    sandbox.faults = Faults()
    assert (await settled(service, domain)).catch_all_inbox_id is not None
    await service.deliver(a_mail(f"nobody@{NAME}", "Lost"))
    assert await until(lambda: subjects(service, inbox), bool) == ["Lost"]


# --- broken and deleted


async def test_inboxes_of_a_broken_domain_receive_and_do_not_send(service: Service) -> None:
    """What they sent would be refused or called spam everywhere, and cost the domain its name."""
    domain = await verified_domain(service, NAME)
    inbox = (await ask(service.client, NAME)).json()
    await breaks(service.db, domain)
    refused = await service.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/send", json={"to": OUTSIDER, "text": "Hi."}
    )
    assert "it is gone" in fault(refused, 403, "inbox_paused")["message"]
    shown = (await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert shown["send_paused"] is True
    await service.deliver(a_mail(inbox["email"], "Still here"))
    assert await until(lambda: subjects(service, inbox), bool) == ["Still here"]


async def test_inboxes_of_a_deleted_domain_are_read_and_neither_send_nor_receive(
    anywhere: Service,
) -> None:
    """Deleting a domain must not delete anybody's mail, nor leave anybody writing in its name."""
    name = a_name(anywhere)
    domain = await verified_domain(anywhere, name)
    inbox = (await ask(anywhere.client, name)).json()
    await anywhere.deliver(a_mail(inbox["email"], "Before"))
    (message,) = await until(lambda: anywhere.messages(inbox), bool)
    answer = await anywhere.client.delete(f"/v0/domains/{name}")
    assert answer.status_code == 204
    await let_go(anywhere, domain)
    assert await anywhere.server.find_domain(name) is None
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    read = await anywhere.client.get(f"{path}/{message['message_id']}")
    assert read.json()["text"].strip() == "Hi there."
    refused = await anywhere.client.post(f"{path}/send", json={"to": OUTSIDER, "text": "Hi."})
    assert "was deleted" in fault(refused, 403, "inbox_paused")["message"]
    fault(await ask(anywhere.client, name, "bob"), 403, "domain_not_verified")


async def let_go(service: Service, domain: Domain) -> None:
    """Wait until the name of a deleted domain is free again."""

    async def proved() -> list[UUID]:
        async with service.db.reading() as tx:
            rows = await (
                await tx.execute(
                    "select domain_id from domain where domain_id = %(id)s and proved_at is not null",
                    {"id": domain.domain_id},
                )
            ).fetchall()
        return [row["domain_id"] for row in rows]

    await until(proved, lambda left: not left)


async def test_who_adds_their_domain_again_has_their_inboxes_back(anywhere: Service) -> None:
    """A domain that was deleted by mistake would have cost every address on it."""
    name = a_name(anywhere)
    first = await verified_domain(anywhere, name)
    inbox = (await ask(anywhere.client, name)).json()
    await anywhere.client.delete(f"/v0/domains/{name}")
    await let_go(anywhere, first)
    await verified_domain(anywhere, name)
    await anywhere.deliver(a_mail(inbox["email"], "Back"))
    assert await until(lambda: subjects(anywhere, inbox), bool) == ["Back"]
    await anywhere.send(inbox, to=inbox["email"], subject="And again", text="Hi.")
    await until(lambda: subjects(anywhere, inbox), lambda seen: "And again" in seen)


async def test_whoever_has_a_name_next_gets_neither_its_mail_nor_its_addresses(
    anywhere: Service,
) -> None:
    """A domain changes hands: the old owner's mail stays theirs, and the new owner's never reaches them."""
    name = a_name(anywhere)
    first = await verified_domain(anywhere, name)
    inbox = (await ask(anywhere.client, name)).json()
    await anywhere.deliver(a_mail(inbox["email"], "Old"))
    await until(lambda: subjects(anywhere, inbox), bool)
    await anywhere.client.delete(f"/v0/domains/{name}")
    await let_go(anywhere, first)
    other = await tenants.organization(anywhere.db)
    client = tenants.client(anywhere, await tenants.key(anywhere.db, other))
    second = await verified_domain(anywhere, name, scope=Reach(other))
    fault(await ask(client, name, "ada"), 403, "resource_taken")
    theirs = (await ask(client, name, "bob")).json()
    await client.patch(f"/v0/domains/{name}", json={"catch_all": theirs["email"]})
    await settled(anywhere, second)
    await anywhere.deliver(a_mail(inbox["email"], "New"))
    listed = f"/v0/inboxes/{theirs['inbox_id']}/messages"

    async def caught() -> list[str]:
        return [each["subject"] for each in (await client.get(listed)).json()["messages"]]

    assert await until(caught, bool) == ["New"]
    assert await subjects(anywhere, inbox) == ["Old"]
    refused = await anywhere.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/send", json={"to": OUTSIDER, "text": "Hi."}
    )
    fault(refused, 403, "inbox_paused")


async def test_a_released_name_is_free_as_after_a_deletion(anywhere: Service) -> None:
    """The operator would free a name on which the last owner's inboxes go on taking mail."""
    name = a_name(anywhere)
    first = await verified_domain(anywhere, name, feedback_enabled=False)
    inbox = (await ask(anywhere.client, name)).json()
    async with anywhere.db.transaction() as tx:
        pairs, sealing_key = await dkim.new_pairs(), dkim.sealing_key(anywhere.settings)
        held = await domains.release(tx, f"{name.upper()}.", pairs, sealing_key)
    assert held.domain_id == first.domain_id
    await let_go(anywhere, first)
    assert await anywhere.server.find_domain(name) is None
    left = (await anywhere.client.get(f"/v0/domains/{name}")).json()
    assert (left["status"], left["feedback_enabled"]) == ("PENDING", False)
    refused = await anywhere.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/send", json={"to": OUTSIDER, "text": "Hi."}
    )
    assert "not verified" in fault(refused, 403, "inbox_paused")["message"]
    other = await tenants.organization(anywhere.db)
    assert (await verified_domain(anywhere, name, scope=Reach(other))).works


# --- feedback


async def test_each_domain_says_whether_bounces_are_messages(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """Agents that read their bounces want them; those that do not would answer them."""
    sandbox, _ = sandbox_server
    sandbox.faults = Faults(bounce=frozenset({"ada@gone.test", "bob@gone.test"}))
    await verified_domain(service, "with.test")
    await verified_domain(service, "without.test", feedback_enabled=False)
    for name, to, kept in (("with.test", "ada@gone.test", 1), ("without.test", "bob@gone.test", 0)):
        inbox = (await ask(service.client, name)).json()
        await service.send(inbox, to=to, subject="Out", text="Hi.")
        await until(
            lambda at=inbox: service.messages(at),
            lambda seen: any("bounced" in each["labels"] for each in seen),
        )
        await service.deliver(a_mail(inbox["email"], "After"))
        seen = await until(lambda at=inbox: subjects(service, at), lambda s: "After" in s)
        assert len(seen) - 2 == kept
