"""`agentmail-cp keys create`: an operator's keys reach as far, may do what, and live as long as was said."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from agentmail_cp import access, inboxes, pods
from agentmail_cp.access import Keyring, Reach
from agentmail_cp.cli import main
from agentmail_cp.db import Database
from tests.db.mailbox import an_inbox
from tests.tenants import pod


async def keys_create(db: Database, *arguments: str) -> Result:
    """What the command does, in a process-like thread of its own: it has its own event loop."""
    env = {"AGENTMAIL_CP_DATABASE_URL": db.url, "AGENTMAIL_CP_DOMAIN": "agents.test"}
    return await asyncio.to_thread(
        CliRunner().invoke, main, ["keys", "create", *arguments], env=env
    )


async def made(db: Database, *arguments: str) -> access.Principal:
    """The key a command printed, as it works."""
    done = await keys_create(db, *arguments)
    assert done.exit_code == 0, done.output
    return await Keyring(db).authenticate(done.stdout.strip())


async def only_organization(db: Database) -> UUID:
    async with db.transaction() as tx:
        return (await access.create_organization(tx, "Test")).organization_id


async def test_a_key_without_more_words_may_do_everything_for_ever(database: Database) -> None:
    """The first thing an operator does after the installation."""
    organization_id = await only_organization(database)
    key = await made(database)
    assert (key.reach, key.permissions, key.expires_at) == (Reach(organization_id), None, None)


async def test_a_key_is_for_the_pod_or_inbox_named(database: Database) -> None:
    """A key handed to one tenant would reach all."""
    place = await an_inbox(database)
    other = await pod(database, place.organization_id, client_id="other")
    inbox = inboxes.public_id(place.inbox_id)
    assert (await made(database, "--pod", "other")).reach == Reach(place.organization_id, other)
    whole = Reach(place.organization_id, place.pod_id, place.inbox_id)
    assert (await made(database, "--inbox", inbox)).reach == whole
    assert (await made(database, "--pod", str(place.pod_id), "--inbox", inbox)).reach == whole
    for wrong in (
        ("--inbox", "nobody@agents.test"),
        ("--pod", "nowhere"),
        ("--pod", "other", "--inbox", inbox),
    ):
        refused = await keys_create(database, *wrong)
        assert refused.exit_code == 1
        assert "There is no such" in refused.output


async def test_a_key_may_do_what_was_named(database: Database) -> None:
    """A typo in a permission must not make a key that may do nothing."""
    await only_organization(database)
    key = await made(database, "--permission", "message_read", "--permission", "metrics_read")
    assert key.permissions == {"message_read", "metrics_read"}
    refused = await keys_create(database, "--permission", "mesage_read")
    assert refused.exit_code == 2
    assert "message_read" in refused.output


@pytest.mark.parametrize(
    "given",
    ["2046-01-31", "2046-01-31T00:00:00", "2046-01-31T00:00:00Z", "2046-01-31T01:00:00+01:00"],
)
async def test_a_key_ends_when_it_was_said(database: Database, given: str) -> None:
    await only_organization(database)
    key = await made(database, "--expires", given)
    assert key.expires_at == datetime(2046, 1, 31, tzinfo=UTC)


async def test_a_key_ends_after_so_many_days(database: Database) -> None:
    await only_organization(database)
    key = await made(database, "--expires-in-days", "7")
    assert key.expires_at is not None
    assert abs(key.expires_at - datetime.now(UTC) - timedelta(days=7)) < timedelta(minutes=1)


async def test_an_end_in_the_past_or_two_are_refused(database: Database) -> None:
    """The operator would hand out a key that never works."""
    await only_organization(database)
    assert (await keys_create(database, "--expires", "2020-01-31")).exit_code == 1
    both = await keys_create(database, "--expires", "2046-01-31", "--expires-in-days", "7")
    assert both.exit_code == 2


async def test_no_key_outlives_a_pod_that_is_deleted_meanwhile(database: Database) -> None:
    """It would read the mail that deleted inboxes of the pod left, which the pod's keys must not."""
    organization_id = await only_organization(database)
    gone = str(await pod(database, organization_id, client_id="gone"))
    async with database.transaction() as tx:
        await pods.delete(tx, Reach(organization_id), gone)
        making = asyncio.create_task(keys_create(database, "--pod", gone))
        await asyncio.sleep(1.0)
    done = await making
    assert done.exit_code == 1, done.output
    assert "There is no such pod." in done.output
