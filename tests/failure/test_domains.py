"""Domains while the mail server is away, forgets to answer, or dies in the middle: nothing is lost, and no
name is ever two owners' at once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentmail_cp import domains
from agentmail_cp.access import Reach
from agentmail_cp.domains import Domain, NewDomain
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests import tenants
from tests.domains import claimed_domain, look, prove, settled, verified_domain, verify
from tests.fix_app import Json, Service, a_mail, until

NAME = "acme.test"
INSTALLING = frozenset({"install_domain"})


@pytest.fixture
def sandbox(sandbox_server: tuple[MailSandbox, int]) -> MailSandbox:
    """The sandbox behind `service`."""
    return sandbox_server[0]


async def state_of(service: Service, domain: Domain) -> Json:
    """What a domain's row says of its name, deleted or not."""
    async with service.db.reading() as tx:
        row = await (
            await tx.execute(
                "select proved_at is not null as proved, installed_at is not null as installed,"
                " unsettled_since is not null as unsettled, deleted_at is not null as deleted"
                " from domain where domain_id = %(id)s",
                {"id": domain.domain_id},
            )
        ).fetchone()
    assert row is not None
    return row


def was(**expected: bool) -> Callable[[Json], bool]:
    """Whether a row says these things."""

    def holds(row: Json) -> bool:
        return all(row[name] is value for name, value in expected.items())

    return holds


async def an_inbox(service: Service, username: str = "ada") -> Json:
    """A new inbox on the domain."""
    body = {"domain": NAME, "username": username}
    answer = await service.client.post("/v0/inboxes", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize("fault", ["down", "lost_answer"])
async def test_what_the_mail_server_missed_it_is_told_when_it_is_back(
    service: Service, sandbox: MailSandbox, fault: str
) -> None:
    """A proved domain would never receive, and nobody would know why."""
    domain = await claimed_domain(service, NAME)
    asked: list[str] = []

    async def note() -> None:
        asked.append(NAME)

    sandbox.before["install_domain"] = note
    sandbox.faults = Faults(
        down=fault == "down", lost_answer=fault == "lost_answer", methods=INSTALLING
    )
    await prove(service, domain)
    await until(lambda: tried(asked), lambda times: times >= 2)
    assert was(proved=True, installed=False, unsettled=True)(await state_of(service, domain))
    sandbox.faults = Faults()
    await until(lambda: state_of(service, domain), was(installed=True, unsettled=False))
    assert await sandbox.find_domain(NAME) is not None


async def tried(asked: list[str]) -> int:
    return len(asked)


async def test_private_keys_are_kept_until_the_mail_server_has_them_and_no_longer(
    service: Service, sandbox: MailSandbox
) -> None:
    """Lost too early, the records in DNS would be for keys nobody has; kept, a dump would sign mail."""

    async def kept() -> int:
        async with service.db.reading() as tx:
            row = await (
                await tx.execute("select count(private_key) as kept from dkim_key")
            ).fetchone()
        return row["kept"] if row else 0

    domain = await claimed_domain(service, NAME)
    sandbox.faults = Faults(lost_answer=True, methods=INSTALLING)
    await prove(service, domain)
    assert await kept() == 2
    sandbox.faults = Faults()
    await until(kept, lambda left: left == 0)
    found = await sandbox.find_domain(NAME)
    assert found is not None
    assert len(found.dkim) == 2


async def test_a_domain_is_deleted_while_the_mail_server_is_away(
    service: Service, sandbox: MailSandbox
) -> None:
    """A name would stay taken, or mail go on being taken for inboxes of a domain that is gone."""
    domain = await verified_domain(service, NAME)
    sandbox.faults = Faults(down=True)
    answer = await service.client.delete(f"/v0/domains/{NAME}")
    assert answer.status_code == 204
    assert (await service.client.get(f"/v0/domains/{NAME}")).status_code == 404
    assert (await state_of(service, domain))["proved"] is True
    sandbox.faults = Faults()
    await until(lambda: state_of(service, domain), was(proved=False, unsettled=False))
    assert await sandbox.find_domain(NAME) is None


async def test_a_name_is_not_given_away_before_it_is_let_go(
    service: Service, sandbox: MailSandbox
) -> None:
    """The next owner's domain would be switched off with the last one's."""
    domain = await verified_domain(service, NAME)
    other = await tenants.organization(service.db)
    next_claim = await claimed_domain(service, NAME, scope=Reach(other))
    sandbox.faults = Faults(down=True)
    await service.client.delete(f"/v0/domains/{NAME}")
    async with service.db.transaction() as tx:
        assert not await domains.prove(tx, next_claim)
    sandbox.faults = Faults()
    await until(lambda: state_of(service, domain), was(proved=False))
    assert (await verify(service, next_claim)).works


async def test_a_name_is_not_let_go_while_an_inbox_is_being_made_on_it(
    service: Service, sandbox: MailSandbox
) -> None:
    """The inbox of the last owner would come to be on the next one's domain, and get its mail."""
    domain = await verified_domain(service, NAME)
    asked: list[int] = []

    async def delete_now() -> None:
        asked.append((await service.client.delete(f"/v0/domains/{NAME}")).status_code)
        assert (await state_of(service, domain))["proved"] is True

    sandbox.before["create_account"] = delete_now
    answer = await service.client.post("/v0/inboxes", json={"domain": NAME, "username": "ada"})
    assert asked == [204]
    assert answer.status_code in {201, 403}, answer.text
    await until(lambda: state_of(service, domain), was(proved=False), seconds=20)


async def test_a_change_made_while_the_last_one_is_told_is_told_too(
    service: Service, sandbox: MailSandbox
) -> None:
    """The mail server would keep what was taken back a moment later."""
    domain = await verified_domain(service, NAME)
    path = f"/v0/domains/{NAME}"

    async def change_again() -> None:
        del sandbox.before["install_domain"]
        answer = await service.client.patch(path, json={"inbound_enabled": True})
        assert answer.status_code == 200

    sandbox.before["install_domain"] = change_again
    await service.client.patch(path, json={"inbound_enabled": False})
    await settled(service, domain)
    found = await sandbox.find_domain(NAME)
    assert found is not None
    assert found.inbound is True


async def test_a_deletion_that_died_half_way_still_ends_the_catch_all(
    service: Service, sandbox: MailSandbox
) -> None:
    """Mail for everybody on the domain would go on landing in a mailbox that is gone."""
    domain = await verified_domain(service, NAME)
    inbox = await an_inbox(service)
    await service.client.patch(f"/v0/domains/{NAME}", json={"catch_all": inbox["email"]})
    await settled(service, domain)
    sandbox.faults = Faults(
        lost_answer=True, methods=frozenset({"set_catch_all", "retire_account"})
    )
    answer = await service.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 204
    sandbox.faults = Faults()

    async def gone() -> str:
        async with service.db.transaction() as tx:
            await tx.execute("update inbox set lease_until = now() where state = 'deleting'")
            row = await (
                await tx.execute(
                    "select state from inbox where address = %(address)s",
                    {"address": inbox["email"]},
                )
            ).fetchone()
        return row["state"] if row else ""

    await until(gone, lambda state: state == "deleted")
    found = await sandbox.find_domain(NAME)
    assert found is not None
    assert found.catch_all is None


async def test_another_pods_inboxes_stay_readable_and_get_nothing_of_the_next_pod(
    service: Service,
) -> None:
    """Pods are customers: one that takes a name over must not write to the other's mailbox."""
    pods, clients = await tenants.two_pods(service)
    first = await verified_domain(service, NAME, scope=Reach(service.organization_id, pods[0]))
    body = {"domain": NAME, "username": "ada"}
    inbox = (await clients[0].post("/v0/inboxes", json=body)).json()
    await service.deliver(a_mail(inbox["email"], "Old"))
    await until(lambda: service.messages(inbox), bool)
    await clients[0].delete(f"/v0/domains/{NAME}")
    await until(lambda: state_of(service, first), was(proved=False))
    second = await verified_domain(service, NAME, scope=Reach(service.organization_id, pods[1]))
    theirs = (await clients[1].post("/v0/inboxes", json=body | {"username": "bob"})).json()
    await clients[1].patch(f"/v0/domains/{NAME}", json={"catch_all": theirs["email"]})
    await settled(service, second)
    await service.deliver(a_mail(theirs["email"], "New"))
    await until(lambda: service.messages(theirs), bool)
    assert [each["subject"] for each in await service.messages(inbox)] == ["Old"]


async def test_who_proves_a_name_second_does_not_have_it(service: Service) -> None:
    other = await tenants.organization(service.db)
    claims = [
        await claimed_domain(service, NAME),
        await claimed_domain(service, NAME, scope=Reach(other)),
    ]
    async with service.db.transaction() as tx:
        assert await domains.prove(tx, claims[0])
    async with service.db.transaction() as tx:
        assert not await domains.prove(tx, claims[1])
        # The transaction goes on: the check has its findings to write.
        await domains.create(tx, Reach(other), NewDomain(name="more.test"), most=0)
    assert (await look(service, claims[0])).proved_at is not None
