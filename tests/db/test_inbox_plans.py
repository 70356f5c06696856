"""Lists of inboxes and pods, and the counts behind quotas, stay fast among a hundred thousand inboxes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
import pytest_asyncio

from agentmail_cp import domains, inboxes, pods
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx
from agentmail_cp.domains import subdomains
from agentmail_cp.inboxes import inbox

ORGANIZATION, POD = UUID(int=1), UUID(int=7)
ACTIVE, IN_POD = 20_000, 40

FILL = """
insert into pod (pod_id, organization_id, name)
select lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(1 + n / 500), 32, '0')::uuid, n::text
from generate_series(1, 5000) as n;
insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, state, created_at)
select lpad(to_hex(n), 32, '0')::uuid, lpad('1', 32, '0')::uuid,
    lpad(to_hex(1 + n % 500), 32, '0')::uuid, n || '@agents.test', n::text, 'agents.test',
    case when n > 20000 then 'deleted' else 'active' end, '2026-01-01'::timestamptz + n * interval '1 s'
from generate_series(1, 100000) as n;
analyze pod;
analyze inbox;
"""
"""Of an organisation's 100,000 inboxes the newest 80,000 are deleted, as where agents come and go."""


@pytest_asyncio.fixture
async def tx(database: Database) -> AsyncGenerator[Tx]:
    """A transaction on a database of that size; everything in it is rolled back."""
    async with (
        database.transaction(patience=60.0) as connection,
        connection.transaction(force_rollback=True),
    ):
        for statement in FILL.strip().split(";\n"):
            await connection.execute(statement)
        yield connection


async def read(tx: Tx, ask: Callable[[], Awaitable[object]]) -> int:
    """How many rows of pods and inboxes PostgreSQL looked at for what was asked."""
    looked_at = 0
    execute = tx.execute

    async def explained(query: str, parameters: dict[str, Any], **_: object) -> Any:
        nonlocal looked_at
        analyzed = await execute(f"explain (analyze, format json) {query}", parameters)  # pyright: ignore[reportArgumentType]
        row = await analyzed.fetchone()
        assert row is not None
        answer = row["QUERY PLAN"]
        plan = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]
        looked_at += sum(rows_of(node) for node in flat(plan))
        return await execute(query, parameters)  # pyright: ignore[reportArgumentType]

    async def fetch_all(tx: Tx, _kind: object, query: str, parameters: dict[str, Any]) -> list[Any]:
        await explained(query, parameters)
        return []

    with (
        patch.object(tx, "execute", explained),
        patch.object(inbox, "fetch_all", fetch_all),
        patch.object(pods, "fetch_all", fetch_all),
    ):
        await ask()
    assert looked_at
    return looked_at


def rows_of(node: dict[str, Any]) -> int:
    """The rows a node took from a table; the index of a bitmap scan names those of the scan above it."""
    if "Scan" not in node["Node Type"] or node["Node Type"] == "Bitmap Index Scan":
        return 0
    seen = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return int(seen * node["Actual Loops"])


def flat(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in flat(child))]


@pytest.mark.timeout(60)
async def test_no_list_and_no_count_looks_at_inboxes_it_does_not_show(tx: Tx) -> None:
    """One busy customer would slow down every list, and every creation under a quota."""
    whole, pod = Reach(ORGANIZATION), Reach(ORGANIZATION, POD)
    for reach in (whole, pod):
        for ascending in (False, True):
            page = inboxes.list_page(tx, reach, limit=20, page_token=None, ascending=ascending)
            assert await read(tx, lambda page=page: page) <= IN_POD, (reach, ascending)
    assert await read(tx, lambda: inboxes.count(tx, ORGANIZATION, POD)) <= IN_POD
    assert await read(tx, lambda: inboxes.count(tx, ORGANIZATION)) <= ACTIVE
    pods_page = pods.list_page(tx, whole, limit=20, page_token=None)
    assert await read(tx, lambda: pods_page) <= IN_POD


STANDING = """
insert into domain (domain_id, organization_id, name, token, proved_at)
select lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(n), 32, '0')::uuid,
    case n when 1 then 'acme.test' else 'eu.acme.test' end, '', case n when 1 then now() end
from generate_series(1, 2) as n;
insert into subdomain (organization_id, above, name)
values (lpad('1', 32, '0')::uuid, 'acme.test', 'eu.acme.test')
"""
"""A large organisation's domain, and another organisation's claim on a name below it."""


@pytest.mark.timeout(60)
async def test_no_question_about_sub_domains_looks_at_inboxes_elsewhere(tx: Tx) -> None:
    """An organisation with a million inboxes on the shared domain would keep a name from its owner, and its
    own from being let go, for as long as looking at all of them takes too long.
    """
    for statement in STANDING.strip().split(";\n"):
        await tx.execute(statement)
    above = await domains.get(tx, Reach(ORGANIZATION), "acme.test")
    below = await domains.get(tx, Reach(UUID(int=2)), "eu.acme.test")
    assert await read(tx, lambda: domains.prove(tx, below)) <= IN_POD
    assert await read(tx, lambda: subdomains.forget_empty(tx, above)) <= IN_POD
