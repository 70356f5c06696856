"""Mail that is erased because it was forged: it goes without a trace, and nothing else goes with it."""

from __future__ import annotations

import contextlib

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from agentmail_cp import access
from agentmail_cp.intake import Intake
from agentmail_cp.mailserver import MailServerUnavailable, Relabel
from agentmail_cp.sandbox import Faults
from agentmail_cp.settings import Unauthenticated
from tests.api.mailbox import shown
from tests.failure.world import World
from tests.fix_app import Json, a_mail

FORGED = (
    "mail.agents.test; spf=fail smtp.mailfrom=ceo@bank.test;"
    " dmarc=none header.from=bank.test policy.dmarc=reject"
)


async def deliver(world: World, inbox: Json, *subjects: str) -> None:
    """Mails that nobody checked."""
    for subject in subjects:
        mail = a_mail(inbox["email"], subject, From="ceo@bank.test")
        await world.deliver_to(inbox["email"], raw=mail.as_bytes())


async def forge(world: World, inbox: Json, *subjects: str) -> None:
    """Mails of a bank that are none."""
    world.sandbox.authentication_results = FORGED
    await deliver(world, inbox, *subjects)
    world.sandbox.authentication_results = None


async def forget_state(world: World) -> None:
    """Have every inbox read from scratch."""
    await world.rows("update inbox_sync set state = null, due_at = now() returning 1")


def erased() -> float:
    return REGISTRY.get_sample_value("agentmail_intake_erased_mails_total") or 0.0


def reader(world: World, wish: Unauthenticated = "drop") -> Intake:
    return Intake(world.db, world.server, unauthenticated=wish)


async def drain(intake: Intake) -> None:
    while await intake.read_batch():
        pass


async def there(world: World, inbox: Json) -> list[str]:
    """The subjects of all mail that is left in the mail server."""
    account = await world.account(inbox)
    listing = await world.sandbox.listing(account)
    mails = await world.sandbox.fetch(account, listing.document_ids)
    return sorted(mail.subject or "" for mail in mails)


async def test_forged_mail_is_gone_and_told_to_nobody(world: World) -> None:
    """An event would name what the organisation never wants to see; the log would keep its words."""
    inbox = await world.inbox("alice")
    await forge(world, inbox, "Secret one", "Secret two")
    await deliver(world, inbox, "Hello")
    before = erased()
    with capture_logs() as logs:
        await drain(reader(world))
    assert await there(world, inbox) == ["Hello"]
    assert [each["subject"] for each in await shown(world, inbox)] == ["Hello"]
    assert [event.type.value for event in await world.events_of(inbox)] == ["message.received"]
    assert erased() == before + 2
    (told,) = [each for each in logs if each["event"] == "intake.erased"]
    assert told["mails"] == 2
    assert "Secret" not in str(logs)
    assert "bank.test" not in str(logs)


async def test_mail_that_was_there_before_the_wish_stays(world: World) -> None:
    """To flag an old mail in a mail client would erase it."""
    inbox = await world.inbox("alice")
    await forge(world, inbox, "Old")
    await drain(reader(world, "label"))
    account = await world.account(inbox)
    (document_id,) = (await world.sandbox.listing(account)).document_ids
    await world.sandbox.relabel(account, [Relabel(document_id, add=frozenset({"$flagged"}))])
    await drain(reader(world))
    assert await there(world, inbox) == ["Old"]
    (message,) = await shown(world, inbox)
    assert message["labels"] == ["flagged", "received", "unauthenticated", "unread"]


async def test_an_organisation_that_wants_to_see_it_keeps_it(world: World) -> None:
    """The setting is the operator's, the mail the customer's."""
    inbox = await world.inbox("alice")
    async with world.db.transaction() as tx:
        await access.set_on_unauthenticated(tx, world.organization_id, "label")
    await forge(world, inbox, "Shown")
    await drain(reader(world))
    (message,) = await shown(world, inbox)
    assert "unauthenticated" in message["labels"]


async def test_a_worker_that_dies_after_erasing_leaves_nothing_to_finish(world: World) -> None:
    """The mail would come back, or its erasure would be tried for ever."""
    inbox = await world.inbox("alice")
    await forge(world, inbox, "Forged")
    await deliver(world, inbox, "Hello")
    await world.crash(world.sandbox.after, "destroy_mail", reader(world).read_batch())
    await world.let_leases_end()
    await drain(reader(world))
    assert [each["subject"] for each in await shown(world, inbox)] == ["Hello"]
    assert await there(world, inbox) == ["Hello"]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(down=True, methods=frozenset({"destroy_mail"})), id="away"),
        pytest.param(Faults(confused=True, methods=frozenset({"destroy_mail"})), id="confused"),
    ],
)
async def test_mail_that_cannot_be_erased_yet_is_shown_to_nobody(
    world: World, faults: Faults
) -> None:
    """It would be announced because the mail server was away for a moment."""
    inbox = await world.inbox("alice")
    await forge(world, inbox, "Forged")
    world.sandbox.faults = faults
    with contextlib.suppress(MailServerUnavailable):
        await reader(world).read_batch()
    assert await shown(world, inbox) == []
    world.sandbox.faults = Faults()
    await world.rows("update inbox_sync set due_at = now(), claimed_until = null returning 1")
    await drain(reader(world))
    assert await there(world, inbox) == []
    assert await world.events_of(inbox) == []


async def test_an_inbox_read_from_scratch_erases_nothing(world: World) -> None:
    """What came in before anybody wanted it erased would be lost with the index, not found again."""
    inbox = await world.inbox("alice")
    await forge(world, inbox, "Old")
    await forget_state(world)
    await drain(reader(world))
    assert await there(world, inbox) == ["Old"]
    (message,) = await shown(world, inbox)
    assert "unauthenticated" in message["labels"]
