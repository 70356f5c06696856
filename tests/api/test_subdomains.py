"""Names below a domain: its sub-domains, claims of their own, and the service's own domain."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from agentmail_cp import domains
from agentmail_cp.access import Reach
from agentmail_cp.dev.stalwart import LocalStalwart
from agentmail_cp.domains import Domain
from agentmail_cp.mailserver import MailServerUnavailable
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.stalwart import StalwartMailServer
from agentmail_cp.stalwart.jmap import JmapClient, bearer
from tests import tenants
from tests.domains import a_name, claimed_domain, look, settled, verified_domain, verify
from tests.fix_app import Json, Service, a_mail, serving, until
from tests.fix_stalwart import private_folder

ABOVE = "acme.test"
OWN = f"agents.{ABOVE}"


@pytest_asyncio.fixture(params=["sandbox", pytest.param("stalwart", marks=pytest.mark.stalwart)])
async def below(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    database_url: str,
) -> AsyncGenerator[Service]:
    """A service whose own domain is a sub-domain of a name that an organisation may have."""
    if request.param == "sandbox":
        sandbox = MailSandbox(OWN)
        async with (
            sandbox.listening() as door,
            serving(database_url, sandbox, smtp_port=door.port, domain=OWN) as service,
        ):
            yield service
        return
    async with LocalStalwart(private_folder(tmp_path_factory), domain=OWN) as process:
        server = StalwartMailServer(JmapClient(process.url, bearer(process.key)))
        async with serving(
            database_url, server, smtp_port=process.ports.smtp, domain=OWN
        ) as service:
            yield service
        await server.close()


async def ask(service: Service, domain: str, username: str = "ada") -> Json:
    """A new inbox on a domain."""
    body = {"domain": domain, "username": username}
    answer = await service.client.post("/v0/inboxes", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def subjects(service: Service, inbox: Json) -> list[str]:
    """The subjects of an inbox's messages."""
    return [each["subject"] for each in await service.messages(inbox)]


async def works(service: Service, inbox: Json, subject: str) -> None:
    """Hold an inbox to sending, and to receiving from outside and from here."""
    await service.send(inbox, to=inbox["email"], subject=f"{subject} from here", text="x")
    await service.deliver(a_mail(inbox["email"], f"{subject} from outside"))
    wanted = {f"{subject} from here", f"{subject} from outside"}
    await until(lambda: subjects(service, inbox), lambda seen: wanted <= set(seen))


async def let_go(service: Service, domain: Domain) -> None:
    """Delete a domain, and wait until the mail server has let it go."""
    answer = await service.client.delete(f"/v0/domains/{domain.name}")
    assert answer.status_code == 204, answer.text

    async def proved() -> bool:
        async with service.db.reading() as tx:
            cursor = await tx.execute(
                "select from domain where domain_id = %(id)s and proved_at is not null",
                {"id": domain.domain_id},
            )
            return cursor.rowcount == 1

    await until(proved, lambda held: not held)


# --- the service's own domain below a claim


async def test_whoever_adds_the_name_above_the_services_own_goes_on_sending(
    below: Service,
) -> None:
    """One request to add the company's own domain would stop every agent on the shared one for good: deleting
    the domain again would not bring them back.
    """
    inbox = await below.inbox("ada")
    claimed = await claimed_domain(below, ABOVE)
    await works(below, inbox, "Added")
    await verify(below, claimed)
    await works(below, inbox, "Verified")
    async with below.db.transaction() as tx:
        await tx.execute("update domain set broken_since = now()")
    await works(below, inbox, "Broken")
    await let_go(below, claimed)
    await works(below, inbox, "Deleted")
    shown = (await below.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert shown["send_paused"] is False


async def test_the_name_above_the_services_own_is_proved_like_any(below: Service) -> None:
    """Who runs a server at agents.acme.test wants acme.test first of all, and would wait for ever."""
    shared = await below.inbox("ada")
    domain = await verified_domain(below, ABOVE, subdomains_enabled=True)
    assert (domain.works, domain.unsettled_since) == (True, None)
    boss, eu = await ask(below, ABOVE, "boss"), await ask(below, f"eu.{ABOVE}")
    answer = await below.client.patch(f"/v0/domains/{ABOVE}", json={"catch_all": boss["email"]})
    assert answer.status_code == 200, answer.text
    assert (await settled(below, domain)).catch_all_inbox_id is not None
    for inbox in (shared, boss, eu):
        await works(below, inbox, inbox["email"])
    own = await below.server.find_domain(OWN)
    assert own is not None
    assert (own.owner, own.catch_all, own.parent) == (None, None, None)
    refused = await below.client.post("/v0/inboxes", json={"domain": f"x.{OWN}"})
    assert refused.json()["code"] == "domain_not_verified"


async def test_a_pod_that_proves_the_name_above_takes_nobodys_mailbox(below: Service) -> None:
    """Retired accounts do not come back: every other pod's agents on the shared domain would be gone."""
    inbox = await below.inbox("ada")
    pod = await tenants.pod(below.db, below.organization_id)
    domain = await verified_domain(below, ABOVE, scope=Reach(below.organization_id, pod))
    assert domain.works
    await works(below, inbox, "Still here")


async def test_nobody_else_says_whether_bounces_on_the_services_own_domain_are_messages(
    service: Service,
) -> None:
    """An organisation would switch everybody's bounces on or off."""
    other = await tenants.organization(service.db)
    await verified_domain(service, ABOVE, scope=Reach(other))
    await verified_domain(service, "mine.test", subdomains_enabled=True, feedback_enabled=False)
    await ask(service, "eu.mine.test")
    async with service.db.reading() as tx:
        assert await domains.keeps_feedback(tx, service.organization_id, OWN) is None
        assert await domains.keeps_feedback(tx, other, OWN) is None
        assert await domains.keeps_feedback(tx, other, ABOVE) is True
        assert await domains.keeps_feedback(tx, service.organization_id, ABOVE) is None
        assert await domains.keeps_feedback(tx, service.organization_id, "eu.mine.test") is False
        assert await domains.keeps_feedback(tx, other, "eu.mine.test") is None


async def test_a_name_above_the_services_own_is_free_for_others_below_a_claim(
    database_url: str,
) -> None:
    """An inbox on the shared domain would hold a name for whoever has the one above it."""
    own = f"agents.eu.{ABOVE}"
    sandbox = MailSandbox(own)
    async with (
        sandbox.listening() as door,
        serving(database_url, sandbox, smtp_port=door.port, domain=own) as service,
    ):
        await service.inbox("ada")
        await verified_domain(service, ABOVE)
        other = await tenants.organization(service.db)
        assert (await verified_domain(service, f"eu.{ABOVE}", scope=Reach(other))).works


async def test_no_inbox_stands_on_the_hosts_of_the_service_below_a_claim(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """`mailer-daemon` of the mail host would get the answers to everybody's bounces."""
    sandbox, port = sandbox_server
    async with serving(
        database_url,
        sandbox,
        smtp_port=port,
        mail_host=f"mx.{ABOVE}",
        sending_host=f"Out.{ABOVE}",
        public_url=f"https://api.{ABOVE}",
    ) as service:
        await verified_domain(service, ABOVE, subdomains_enabled=True)
        for name in (f"mx.{ABOVE}", f"out.{ABOVE}", f"api.{ABOVE}", f"x.mx.{ABOVE}"):
            answer = await service.client.post("/v0/inboxes", json={"domain": name})
            assert (answer.status_code, answer.json()["code"]) == (403, "domain_not_verified")
            assert await sandbox.find_domain(name) is None
        await works(service, await ask(service, ABOVE), "Above them")


# --- a sub-domain that was a claim of its own


async def test_a_deleted_sub_domain_is_not_taken_up_by_the_domain_above(anywhere: Service) -> None:
    """A name that was handed on would take mail here again: its new owner's mail would land in a mailbox
    of the last one's, for one PATCH of another domain.
    """
    name = a_name(anywhere)
    above = await verified_domain(anywhere, name)
    below = await verified_domain(anywhere, f"eu.{name}")
    inbox, boss = await ask(anywhere, below.name), await ask(anywhere, name, "boss")
    await let_go(anywhere, below)
    answer = await anywhere.client.patch(f"/v0/domains/{name}", json={"catch_all": boss["email"]})
    assert answer.status_code == 200, answer.text
    await settled(anywhere, above)
    assert await anywhere.server.find_domain(below.name) is None
    shown = (await anywhere.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert shown["send_paused_reason"] == f"The domain {below.name} was deleted."
    await verified_domain(anywhere, below.name)
    await works(anywhere, inbox, "Back")


async def test_a_sub_domain_that_is_proved_by_itself_leaves_the_domain_above_for_good(
    anywhere: Service,
) -> None:
    """What was deleted would come back by itself, and with it all that stands below it."""
    name = a_name(anywhere)
    above = await verified_domain(anywhere, name, subdomains_enabled=True)
    first, deeper = await ask(anywhere, f"eu.{name}"), await ask(anywhere, f"x.eu.{name}")
    below = await verified_domain(anywhere, f"eu.{name}")
    await works(anywhere, first, "Own")
    await works(anywhere, deeper, "Below it")
    await let_go(anywhere, below)
    await anywhere.client.patch(f"/v0/domains/{name}", json={"inbound_enabled": False})
    await settled(anywhere, above)
    assert await anywhere.server.find_domain(below.name) is None
    assert await anywhere.server.find_domain(deeper["domain"]) is None
    for inbox in (first, deeper):
        shown = (await anywhere.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
        assert shown["send_paused_reason"] == f"The domain {below.name} was deleted."


async def test_the_domain_above_has_a_deleted_sub_domain_once_an_inbox_is_made_there(
    anywhere: Service,
) -> None:
    """With sub-domains enabled a new inbox says that the name is wanted: the old ones are whole again."""
    name = a_name(anywhere)
    await verified_domain(anywhere, name, subdomains_enabled=True)
    below = await verified_domain(anywhere, f"eu.{name}")
    first = await ask(anywhere, below.name)
    await let_go(anywhere, below)
    second = await ask(anywhere, below.name, "bob")
    for inbox in (first, second):
        await works(anywhere, inbox, inbox["username"])


async def test_no_inbox_is_made_through_the_domain_above_while_a_sub_domain_is_let_go(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """The name would be put away under an inbox that was made a moment ago, and it would never get a mail."""
    sandbox, _ = sandbox_server
    await verified_domain(service, ABOVE, subdomains_enabled=True)
    below = await verified_domain(service, f"eu.{ABOVE}")
    body = {"domain": below.name, "username": "ada"}
    answers: list[int] = []

    async def make_one() -> None:
        if not answers:
            answers.append((await service.client.post("/v0/inboxes", json=body)).status_code)

    sandbox.before["disable_domain"] = make_one
    await let_go(service, below)
    assert answers == [403]
    await works(service, await ask(service, below.name), "Made")


async def test_a_sub_domain_others_proved_does_not_come_back_when_they_let_it_go(
    anywhere: Service,
) -> None:
    """Their name would take mail here, for an organisation that has no inbox there."""
    name = a_name(anywhere)
    above = await verified_domain(anywhere, name, subdomains_enabled=True)
    inbox = await ask(anywhere, f"eu.{name}")
    await anywhere.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    await anywhere.client.patch(f"/v0/domains/{name}", json={"subdomains_enabled": False})
    await settled(anywhere, above)
    other = await tenants.organization(anywhere.db)
    theirs = await verified_domain(anywhere, f"eu.{name}", scope=Reach(other))
    found = await anywhere.server.find_domain(theirs.name)
    assert found is not None
    assert found.owner == str(other)
    client = tenants.client(anywhere, await tenants.key(anywhere.db, other))
    await client.delete(f"/v0/domains/{theirs.name}")
    await until(lambda: anywhere.server.find_domain(theirs.name), lambda seen: seen is None)
    await anywhere.client.patch(f"/v0/domains/{name}", json={"inbound_enabled": False})
    await settled(anywhere, above)
    assert await anywhere.server.find_domain(theirs.name) is None


async def test_a_pod_makes_no_inbox_beside_another_pods_on_a_name_below_its_domain(
    service: Service,
) -> None:
    """Pods are customers: one that let its name go would write and be written to in the name of the next."""
    pods, clients = await tenants.two_pods(service)
    first, second = (Reach(service.organization_id, pod) for pod in pods)
    await verified_domain(service, ABOVE, scope=second, subdomains_enabled=True)
    below = await verified_domain(service, f"eu.{ABOVE}", scope=first)
    body = {"domain": below.name, "username": "ada"}
    theirs: Json = (await clients[0].post("/v0/inboxes", json=body)).json()
    await let_go(service, below)
    body |= {"username": "bob"}
    refused = await clients[1].post("/v0/inboxes", json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "domain_not_verified")
    assert "of its own" in refused.json()["fix"]
    assert await service.server.find_account(theirs["email"]) is None
    await verified_domain(service, below.name, scope=second)
    assert (await clients[1].post("/v0/inboxes", json=body)).status_code == 201
    assert await service.server.find_account(theirs["email"]) is None


# --- a domain that is let go


async def test_an_inbox_that_could_not_be_made_leaves_no_sub_domain_behind(
    anywhere: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name's next owner could make no inbox there, ever: the server has it for the last one."""
    name = a_name(anywhere)
    first = await verified_domain(anywhere, name, subdomains_enabled=True)

    async def away(*_: object) -> None:
        raise MailServerUnavailable("away", reached=False)

    with monkeypatch.context() as patch:
        patch.setattr(anywhere.server, "create_account", away)
        body = {"domain": f"eu.{name}", "username": "ada"}
        assert (await anywhere.client.post("/v0/inboxes", json=body)).status_code == 503
    assert await anywhere.server.find_domain(f"eu.{name}") is not None
    await let_go(anywhere, first)
    assert await anywhere.server.find_domain(f"eu.{name}") is None
    other = await tenants.organization(anywhere.db)
    await verified_domain(anywhere, name, subdomains_enabled=True, scope=Reach(other))
    client = tenants.client(anywhere, await tenants.key(anywhere.db, other))
    answer = await client.post("/v0/inboxes", json={"domain": f"eu.{name}", "username": "bob"})
    assert answer.status_code == 201, answer.text


async def test_who_adds_their_domain_again_has_its_sub_domains_back(anywhere: Service) -> None:
    """A domain that was deleted by mistake would have cost the addresses below it; those on which no inbox
    ever came to be are nothing to bring back.
    """
    name = a_name(anywhere)
    first = await verified_domain(anywhere, name, subdomains_enabled=True)
    inbox, gone = await ask(anywhere, f"eu.{name}"), await ask(anywhere, f"us.{name}")
    await anywhere.client.delete(f"/v0/inboxes/{gone['inbox_id']}")
    await let_go(anywhere, first)
    shown = (await anywhere.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert shown["send_paused_reason"] == f"The domain {name} was deleted."
    again = await verified_domain(anywhere, name)
    assert (await look(anywhere, again)).works
    await works(anywhere, inbox, "Back")
    assert await anywhere.server.find_domain(f"us.{name}") is None
