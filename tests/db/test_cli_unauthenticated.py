"""`agentmail-cp org unauthenticated`: an operator says what becomes of forged mail of one organisation."""

from __future__ import annotations

import asyncio

from click.testing import CliRunner, Result

from agentmail_cp import access
from agentmail_cp.cli import main
from agentmail_cp.db import Database
from agentmail_cp.settings import Unauthenticated
from tests.db.mailbox import an_inbox


async def unauthenticated(
    db: Database, *arguments: str, setting: Unauthenticated = "label"
) -> Result:
    env = {"AGENTMAIL_CP_DATABASE_URL": db.url, "AGENTMAIL_CP_UNAUTHENTICATED": setting}
    return await asyncio.to_thread(
        CliRunner().invoke, main, ["org", "unauthenticated", *arguments], env=env
    )


async def test_an_organisations_own_wish_stands_before_the_setting(database: Database) -> None:
    """One customer may want forged mail gone where all others want to look at it."""
    place = await an_inbox(database)
    done = await unauthenticated(database, "set", "drop")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"unauthenticated of {place.organization_id} is drop.\n"
    assert (await unauthenticated(database, "show")).stdout == "drop  own\n"
    async with database.reading() as tx:
        assert await access.on_unauthenticated(tx, place.organization_id) == "drop"


async def test_the_setting_holds_again_once_the_wish_is_cleared(database: Database) -> None:
    """An operator could never go back to what holds for everybody."""
    place = await an_inbox(database)
    await unauthenticated(database, "set", "none")
    done = await unauthenticated(database, "clear", setting="drop")
    assert done.stdout == f"unauthenticated of {place.organization_id} is the setting's: drop.\n"
    assert (await unauthenticated(database, "show", setting="drop")).stdout == "drop  setting\n"


async def test_a_wish_of_one_organisation_is_nobody_elses(database: Database) -> None:
    """Another customer's mail would be erased."""
    one, other = await an_inbox(database), await an_inbox(database)
    done = await unauthenticated(database, "set", "drop", "--org", str(one.organization_id))
    assert done.exit_code == 0, done.output
    shown = await unauthenticated(database, "show", "--org", str(other.organization_id))
    assert shown.stdout == "label  setting\n"


async def test_what_is_no_wish_is_refused(database: Database) -> None:
    """A typing mistake must not end in mail that is erased."""
    await an_inbox(database)
    done = await unauthenticated(database, "set", "delete")
    assert done.exit_code == 2
    assert "none" in done.output
