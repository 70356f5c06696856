"""What PostgreSQL says of a row it does not take is not for the log: the row is somebody's mail."""

from __future__ import annotations

from typing import LiteralString

import psycopg
import pytest

from agentmail_cp.db import Database

WORD = "canary-subject"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("insert into kept values (%(word)s, 1)", 'violates check constraint "low"'),
        (
            "insert into kept values (%(word)s, 0), (%(word)s, 0)",
            'unique constraint "kept_word_key"',
        ),
        ("insert into kept values (%(word)s, null)", "violates not-null constraint"),
        ("select %(word)s::text::uuid", "A value does not fit."),
        ("select %(word)s::text::jsonb", "A value does not fit."),
        ("select nothing from kept where word = %(word)s", 'column "nothing" does not exist'),
    ],
)
async def test_an_error_tells_what_is_wrong_and_of_no_row(
    database: Database, statement: LiteralString, told: str
) -> None:
    """Whoever reads the log would read subjects, addresses and previews."""
    with pytest.raises(psycopg.Error, match=told) as caught:
        await execute(database, statement)
    assert WORD not in repr(caught.value) + str(caught.value)


async def test_who_asks_for_the_details_still_gets_them(database: Database) -> None:
    """Code that turns a broken constraint into an answer must know which."""
    with pytest.raises(psycopg.errors.CheckViolation) as caught:
        await execute(database, "insert into kept values (%(word)s, 1)")
    assert caught.value.diag.constraint_name == "low"
    assert caught.value.diag.message_detail == f"Failing row contains ({WORD}, 1)."


async def execute(database: Database, statement: LiteralString) -> None:
    async with database.transaction() as tx:
        await tx.execute(
            "create temporary table kept"
            " (word text unique, number int not null constraint low check (number < 1))"
            " on commit drop"
        )
        await tx.execute(statement, {"word": WORD})
