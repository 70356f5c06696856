"""`agentmail-cp org suppressions`: an operator sees who may not be written to, and lets them be again."""

from __future__ import annotations

import asyncio

import pytest_asyncio
from click.testing import CliRunner, Result

from agentmail_cp import lists
from agentmail_cp.access import Reach
from agentmail_cp.cli import main
from agentmail_cp.db import Database
from agentmail_cp.filing import Place
from agentmail_cp.lists import Origin, Verdict
from tests.db.mailbox import an_inbox

ADA, BOB = "ada@elsewhere.test", "bob@elsewhere.test"


@pytest_asyncio.fixture
async def place(database: Database) -> Place:
    """An inbox of an organisation with two suppressions and an entry of its own."""
    place = await an_inbox(database)
    origins: dict[str, Origin] = {BOB: "complaint", ADA: "bounce"}
    async with database.transaction() as tx:
        for address, origin in origins.items():
            await lists.suppress(
                tx, place.organization_id, address, origin=origin, reason=f"because of {address}"
            )
        named = lists.NamedList(Reach(place.organization_id), "send", "block")
        await lists.create(tx, named, "eve@elsewhere.test", None, most=0)
    return place


async def suppressions(db: Database, *arguments: str) -> Result:
    env = {"AGENTMAIL_CP_DATABASE_URL": db.url, "AGENTMAIL_CP_DOMAIN": "agents.test"}
    return await asyncio.to_thread(
        CliRunner().invoke, main, ["org", "suppressions", *arguments], env=env
    )


async def verdict(db: Database, place: Place, address: str) -> Verdict:
    reach = Reach(place.organization_id, place.pod_id, place.inbox_id)
    async with db.reading() as tx:
        return (await lists.verdicts(tx, reach, "send", [address]))[address]


async def test_suppressions_are_listed_with_their_reasons(database: Database, place: Place) -> None:
    """An operator who is asked why mail is refused would have no answer."""
    assert place
    done = await suppressions(database, "list")
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first.split()[0] == ADA
    assert first.endswith(f"bounce  because of {ADA}")
    assert second.endswith(f"complaint  because of {BOB}")


async def test_a_lifted_address_can_be_written_to(database: Database, place: Place) -> None:
    """A mailbox that was closed by mistake would be lost to the customer for good."""
    assert await verdict(database, place, ADA) is Verdict.BLOCKED
    done = await suppressions(database, "remove", ADA.upper())
    assert done.exit_code == 0, done.output
    assert await verdict(database, place, ADA) is Verdict.ALLOWED
    assert await verdict(database, place, BOB) is Verdict.BLOCKED


async def test_only_suppressions_are_lifted(database: Database, place: Place) -> None:
    """An operator would undo what a customer decided."""
    done = await suppressions(database, "remove", "eve@elsewhere.test")
    assert done.exit_code == 1
    assert "not suppressed" in done.output
    assert await verdict(database, place, "eve@elsewhere.test") is Verdict.BLOCKED
