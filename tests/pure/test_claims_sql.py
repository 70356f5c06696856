"""Claims take no more rows than they say, whatever plan PostgreSQL finds best."""

from __future__ import annotations

import re

import pytest

from tests import tenant_sql

LOCKING = re.compile(r"skip\s+locked")


def before_group(text: str, end: int) -> str:
    """The word before the parenthesis that is open at `end`."""
    depth = 0
    for place in range(end - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(text[place], 0)
        if depth < 0:
            return text[:place].rstrip().rpartition(" ")[2].lower()
    return ""


def repeatable(text: str) -> bool:
    """Whether rows are chosen and locked by what may be looked through once for each row of a table: every
    time it locks others, as those it took are done with.
    """
    return any(before_group(text, found.start()) == "in" for found in LOCKING.finditer(text))


def test_rows_are_chosen_and_locked_once() -> None:
    """A worker would take all the work there is, of tables so small that a nested loop is best."""
    claims = [each for each in tenant_sql.statements() if LOCKING.search(each.text)]
    assert len(claims) > 10
    assert [each.name for each in claims if repeatable(each.text)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("update a set b = 1 where a in (select a from b limit 1 for update skip locked)", True),
        ("update a where a in ( select a from (select 1) limit 1 for update skip locked)", True),
        ("update a where a = any(array(select a limit 1 for update skip locked))", False),
        ("with due as (select a for update skip locked) update a from due", False),
    ],
)
def test_a_claim_that_may_be_repeated_is_seen(text: str, expected: bool) -> None:
    assert repeatable(text) == expected
