"""No statement reads or changes rows of more than one organisation, unless it is one of a few that may.

What is put together at run time is looked at by `tests/fix_tenant_sql.py` in every test that executes it.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
import sqlglot

from tests import tenant_sql
from tests.fix_tenant_sql import Watch
from tests.tenant_sql import FOR_EVERY_TENANT, TENANTLESS, all_tables, tenant_tables, unheld

OPEN_ENDED = {
    "search/ranking.named",
    "search/ranking.list_messages",
    "search/ranking.list_threads",
}
"""Beginnings of statements that are none by themselves."""

HELD = "organization_id = %(organization_id)s"
TABLES = {"message", "thread", "inbox", "pod"}


def test_statements_are_found() -> None:
    """The test below would pass on an empty list."""
    assert len(tenant_sql.statements()) > 150
    found = {
        table
        for each in tenant_sql.statements()
        for table in tenant_tables()
        if f" {table} " in each.text
    }
    assert found >= tenant_tables()


def test_every_table_belongs_to_an_organization() -> None:
    """Rows nobody owns can't be kept from anybody."""
    assert all_tables() - tenant_tables() == TENANTLESS.keys()


def test_every_statement_names_the_organization_of_each_table() -> None:
    """One forgotten condition shows one customer another's mail."""
    loose: dict[str, list[str]] = {}
    for each in tenant_sql.statements():
        if each.name in FOR_EVERY_TENANT:
            continue
        try:
            loose[each.name] = unheld(each.text, tenant_tables())
        except sqlglot.ParseError:
            assert each.name in OPEN_ENDED, f"{each.name} can't be read: {each.text}"
    assert {name: tables for name, tables in loose.items() if tables} == {}


def test_no_exception_outlives_its_statement() -> None:
    """A name that stays in the list would let a later statement of the same name through."""
    loose = {
        each.name
        for each in tenant_sql.statements()
        if each.name in FOR_EVERY_TENANT and unheld(each.text, tenant_tables())
    }
    assert loose == FOR_EVERY_TENANT.keys()
    assert {each.name for each in tenant_sql.statements()} >= OPEN_ENDED


@pytest.mark.parametrize(
    ("statement", "loose"),
    [
        ("select 1 from message", ["message"]),
        ("select organization_id from message", ["message"]),
        (f"select 1 from message where inbox_id = %(i)s or {HELD}", ["message"]),
        (f"select 1 from message where not ({HELD})", ["message"]),
        ("select 1 from message where organization_id <> %(o)s", ["message"]),
        ("select 1 from message where organization_id = organization_id", ["message"]),
        ("select 1 from message where organization_id is not null", ["message"]),
        (f"select 1 from message m join thread t using (thread_id) where m.{HELD}", ["t"]),
        (f"select 1 from message m, thread t where m.{HELD}", ["t"]),
        (f"select 1 from message m, thread t where {HELD}", ["m", "t"]),
        (f"select 1 from message m left join thread t on m.{HELD} where t.{HELD}", ["m"]),
        (f"select 1 from message m full join thread t on m.{HELD} and t.{HELD}", ["m", "t"]),
        (f"select (select count(*) from thread) from message where {HELD}", ["thread"]),
        (
            (
                f"select 1 from message m where {HELD} and exists"
                " (select from thread t where t.thread_id = m.thread_id)"
            ),
            ["t"],
        ),
        (
            (
                f"with old as (select thread_id from thread) select 1 from message where {HELD}"
                " and thread_id in (select thread_id from old)"
            ),
            ["thread"],
        ),
        (f"select 1 from thread where {HELD} union select 1 from message", ["message"]),
        ("update message set labels = '{}' where inbox_id = %(i)s", ["message"]),
        ("update message set organization_id = %(o)s", ["message"]),
        (f"update message set x = 1 from thread where message.{HELD}", ["thread"]),
        ("delete from message where inbox_id = %(i)s", ["message"]),
        (f"delete from message using thread where thread.{HELD}", ["message"]),
        ("insert into message (inbox_id) values (%(i)s)", ["message"]),
        ("insert into message values (%(i)s)", ["message"]),
        ("insert into message (organization_id) select organization_id from thread", ["thread"]),
        (
            (
                "insert into thread (thread_id, organization_id) values (%(t)s, %(o)s)"
                " on conflict (thread_id) do update set subject = excluded.subject"
            ),
            ["thread"],
        ),
    ],
)
def test_a_forgotten_condition_is_found(statement: str, loose: list[str]) -> None:
    assert unheld(statement, TABLES) == loose


@pytest.mark.parametrize(
    "statement",
    [
        "select 1 from migration",
        f"select 1 from message where {HELD} and (a = 1 or b = 2)",
        f"select 1 from message where (({HELD}))",
        "select 1 from message where %(o)s::uuid = message.organization_id",
        f"select 1 from message m join thread t using (organization_id, thread_id) where m.{HELD}",
        (
            f"select 1 from message m left join thread t on t.organization_id = m.organization_id"
            f" where m.{HELD}"
        ),
        (
            "select 1 from message m, thread t, inbox i where m.organization_id = t.organization_id"
            " and t.organization_id = i.organization_id and i.organization_id = %(o)s"
        ),
        (
            f"select 1 from message m where m.{HELD} and exists (select from thread t"
            " where t.thread_id = m.thread_id and t.organization_id = m.organization_id)"
        ),
        "select 1 from message where (organization_id, inbox_id) = (%(o)s, %(i)s)",
        (
            "select 1 from message where (organization_id, inbox_id) in"
            f" (select organization_id, inbox_id from inbox where {HELD})"
        ),
        f"with old as (delete from thread where {HELD} returning thread_id) select 1 from old",
        (
            "insert into message (inbox_id, organization_id) values (%(i)s, %(o)s)"
            " on conflict do nothing"
        ),
        (
            "insert into pod (organization_id, name) values (%(o)s, %(n)s)"
            " on conflict (organization_id, name) do update set name = excluded.name"
        ),
        (
            "insert into thread (thread_id, organization_id) values (%(t)s, %(o)s) on conflict"
            " (thread_id) do update set subject = excluded.subject"
            " where thread.organization_id = excluded.organization_id"
        ),
    ],
)
def test_a_statement_of_one_organization_passes(statement: str) -> None:
    assert unheld(statement, TABLES) == []


async def test_a_statement_put_together_at_run_time_is_seen(
    watch: Watch, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most conditions of lists and searches are added when somebody asks."""
    monkeypatch.setattr("tests.fix_tenant_sql.PACKAGE", tenant_sql.PACKAGE.parent / "tests")
    async with database.reading() as tx:
        assert isinstance(tx, psycopg.AsyncConnection)
        await tx.execute("select 1 from message" + " where inbox_id = %(i)s", {"i": None})
    found = watch.found.pop()
    assert "pure/test_tenant_sql.py" in found
    assert "any organization's message" in found
