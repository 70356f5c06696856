"""The limit on requests holds over real processes that share nothing but the database."""

from __future__ import annotations

from pathlib import Path

from agentmail_cp import limits
from agentmail_cp.db import Database
from tests import replicas, tenants

CLIENTS = 200
LIMIT = 40
OWN = 1000
"""Of one organisation: large enough for leases of several requests."""
WINDOW = 600.0


async def test_two_processes_give_each_of_200_clients_its_limit_and_no_more(
    tmp_path: Path, database_url: str, database: Database
) -> None:
    """A limit that each replica counts by itself doubles with every replica that is added."""
    async with replicas.running(tmp_path, database_url, limit=LIMIT, window=WINDOW) as processes:
        for each in await replicas.clients_at_the_limit(processes, database, CLIENTS):
            replicas.hold(each, LIMIT)


async def test_one_key_that_many_clients_use_at_once_gets_its_limit_and_no_more(
    tmp_path: Path, database_url: str, database: Database
) -> None:
    """All of them wait for leases of the same window."""
    organization_id = await tenants.organization(database)
    key = await tenants.key(database, organization_id)
    async with database.transaction() as tx:
        await limits.set_limit(tx, organization_id, "requests_per_minute", OWN)
    async with replicas.running(tmp_path, database_url, limit=LIMIT, window=WINDOW) as processes:
        replicas.hold(await replicas.one_key_from_everywhere(processes, key.secret, 50), OWN)
