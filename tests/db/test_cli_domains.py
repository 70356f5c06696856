"""`agentmail-cp domains`: an operator sees whose names are verified, and takes one from its organisation."""

from __future__ import annotations

import asyncio

import pytest_asyncio
from click.testing import CliRunner, Result

from agentmail_cp import access, domains
from agentmail_cp.access import Reach
from agentmail_cp.cli import main
from agentmail_cp.db import Database
from agentmail_cp.domains import Domain, NewDomain

NAME, CLAIMED = "acme.test", "claimed.test"


async def command(db: Database, *arguments: str) -> Result:
    env = {
        "AGENTMAIL_CP_DATABASE_URL": db.url,
        "AGENTMAIL_CP_DOMAIN": "agents.test",
        "AGENTMAIL_CP_DKIM_SECRET": "one",
    }
    return await asyncio.to_thread(CliRunner().invoke, main, ["domains", *arguments], env=env)


@pytest_asyncio.fixture
async def held(database: Database) -> Domain:
    """A domain that Acme verified, beside one that it only claims."""
    async with database.transaction() as tx:
        owner = Reach((await access.create_organization(tx, "Acme")).organization_id)
        made = await domains.create(tx, owner, NewDomain(name=NAME), most=0)
        await domains.create(tx, owner, NewDomain(name=CLAIMED), most=0)
        assert await domains.prove(tx, made)
        await tx.execute(
            "update domain set verified_at = '2026-11-02T12:00Z', broken_since = '2026-11-20T12:00Z'"
            " where domain_id = %(id)s",
            {"id": made.domain_id},
        )
        return await domains.get(tx, owner, NAME)


async def test_domains_are_listed_with_owner_and_status(database: Database, held: Domain) -> None:
    """An operator who is asked who has a name would have to read tables."""
    done = await command(database, "list")
    assert done.exit_code == 0, done.output
    owner = str(held.organization_id)
    assert [line.split() for line in done.stdout.splitlines()] == [
        [NAME, owner, "PENDING", "2026-11-02", "2026-11-20"],
        [CLAIMED, owner, "PENDING", "-", "-"],
    ]


async def test_a_released_name_is_left_as_a_claim_that_proves_nothing(
    database: Database, held: Domain
) -> None:
    """A domain that was sold would be its former owner's for ever."""
    done = await command(database, "release", NAME.upper())
    assert done.exit_code == 0, done.output
    assert f"{NAME} was of Acme ({held.organization_id}) since" in done.output
    async with database.reading() as tx:
        left = await domains.get(tx, Reach(held.organization_id), NAME)
    assert (left.proved_at, left.verified_at, left.installed_at) == (None, None, None)
    assert left.token != held.token
    assert (await command(database, "release", NAME)).exit_code == 1


async def test_what_nobody_proved_is_not_released(database: Database, held: Domain) -> None:
    """A misspelled name would look as if it were free now."""
    assert held
    for name in (CLAIMED, "unknown.test", "no name"):
        done = await command(database, "release", name)
        assert done.exit_code == 1
        assert "Traceback" not in done.output
        assert len(done.output.splitlines()) == 1
