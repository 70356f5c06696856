"""The hidden inboxes of the doctor: nobody sees them, and nothing is left of them, whenever it was killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from agentmail_cp import access, inboxes
from agentmail_cp.access import HIDDEN, Reach
from agentmail_cp.doctor import Finding, Patient, hidden, trip
from agentmail_cp.doctor.checking import Cause, Status
from agentmail_cp.doctor.hidden import HiddenPair
from agentmail_cp.domains import MailDomain
from agentmail_cp.errors import NotFound
from agentmail_cp.inboxes import NewInbox
from agentmail_cp.limits import defaults
from agentmail_cp.mailserver import MailServerUnavailable
from agentmail_cp.sandbox import MailSandbox
from tests.fix_app import Service, serving
from tests.fix_front_door import Porch


async def made(service: Service) -> HiddenPair:
    return await hidden.make(service.db, service.server, service.settings)


async def test_nobody_sees_them(service: Service) -> None:
    """Not the organisation's keys, nor the operator's lists, which still know of one organisation only."""
    pair = await made(service)
    listed = await service.client.get("/v0/inboxes")
    assert listed.json()["inboxes"] == []
    for address in pair.addresses:
        assert (await service.client.get(f"/v0/inboxes/{address}")).status_code == 404
    async with service.db.reading() as tx:
        known = await access.list_organizations(tx)
        assert [each.organization_id for each in known] == [service.organization_id]
        assert await access.only_organization(tx, None) == service.organization_id
        with pytest.raises(NotFound):
            await access.only_organization(tx, HIDDEN)
    await hidden.remove(service.db, service.server)


async def test_what_a_killed_doctor_left_is_removed_by_the_next(service: Service) -> None:
    """Accounts as well, and one that was made while its inbox was not finished yet."""
    first = await made(service)
    half_made = await half_an_inbox(service)
    second = await made(service)
    for address in (*first.addresses, half_made):
        assert await service.server.find_account(address) is None
    assert await hidden.remains(service.db, service.server, second.addresses) != []

    assert set(await hidden.remove(service.db, service.server)) == set(second.addresses)
    assert await hidden.remains(service.db, service.server, second.addresses) == []
    async with service.db.transaction() as tx:
        assert await access.erase_organization(tx, HIDDEN) == 0


async def test_an_interrupted_doctor_leaves_nothing(service: Service) -> None:
    """Ctrl-C, and a time limit of whoever runs it: its inboxes would stay until somebody runs another."""
    async with Patient(lambda: service.settings) as patient:
        patient.settings, patient.db, patient.server = service.settings, service.db, service.server
        finding = await trip.hidden_inbox(patient)
        assert finding.status is Status.OK, finding
        assert patient.hidden is not None
        addresses = patient.hidden.addresses
    assert await hidden.remains(service.db, service.server, addresses) == []


async def half_an_inbox(service: Service) -> str:
    """An inbox whose account is made, and whose maker died before it could write that down."""
    new = NewInbox(username="doctor-half")
    domain = MailDomain(service.settings.domain, shared=False)
    limits = defaults(service.settings)
    created = await inboxes.create(
        service.db, service.server, reach=Reach(HIDDEN), domain=domain, new=new, limits=limits
    )
    async with service.db.transaction() as tx:
        await tx.execute(
            "update inbox set state = 'creating', account_id = null,"
            " lease_until = now() + interval '1 minute'"
            " where organization_id = %s and inbox_id = %s",
            (HIDDEN, created.inbox.inbox_id),
        )
    return created.inbox.address


async def test_rows_stay_while_an_account_cannot_be_destroyed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise nobody would know of the account any more."""
    pair = await made(service)

    async def away(_account_id: object) -> None:
        raise MailServerUnavailable("It is away.", reached=False)

    with monkeypatch.context() as patch:
        patch.setattr(service.server, "destroy_account", away)
        with pytest.raises(MailServerUnavailable):
            await hidden.remove(service.db, service.server)
    assert set(await hidden.remove(service.db, service.server)) == set(pair.addresses)


async def test_only_one_doctor_is_at_work(service: Service) -> None:
    """Each would remove the other's inboxes; a doctor that is gone is in nobody's way."""
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        assert await hidden.hold(service.db.url, first)
        assert not await hidden.hold(service.db.url, second)
    async with AsyncExitStack() as third:
        assert await hidden.hold(service.db.url, third)


async def test_erasing_an_organization_leaves_all_others_alone(service: Service) -> None:
    inbox = await service.inbox("ada")
    await made(service)
    await hidden.remove(service.db, service.server)
    assert (await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).status_code == 200


@pytest.mark.parametrize("ask", [trip.doorbell, trip.hook], ids=["doorbell", "hook"])
@pytest.mark.parametrize(
    ("secret", "word"), [(None, "(404)"), ("another", "(401)")], ids=["none", "another"]
)
async def test_a_secret_that_differs_is_told_as_that(
    database_url: str,
    sandbox_server: tuple[MailSandbox, int],
    porch: Porch,
    ask: Callable[[Patient], Awaitable[Finding]],
    secret: str | None,
    word: str,
) -> None:
    """The network is well, and whoever looks there looks in vain."""
    given: dict[str, Any] = {"stalwart_webhook_secret": secret} if secret else {}
    async with serving(database_url, sandbox_server[0], porch=porch, **given) as running:
        patient = Patient(lambda: running.settings)
        patient.settings = msgspec.structs.replace(
            running.settings, stalwart_webhook_url=porch.url, stalwart_webhook_secret="ours"
        )
        with pytest.raises(Cause) as told:
            await ask(patient)
    assert word in told.value.finding.seen
    assert "AGENTMAIL_CP_STALWART_WEBHOOK_SECRET" in (told.value.finding.mend or "")
