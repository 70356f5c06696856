"""Looks at every statement the package executes in any test, as PostgreSQL gets it: also at those that are
put together at run time, which reading the source cannot see.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from types import FrameType
from typing import Any

import psycopg
import pytest

from tests import tenant_sql
from tests.tenant_sql import FOR_EVERY_TENANT, PACKAGE

_Execute = Any
"""psycopg's methods are generic over rows and parameters; here they are only handed on."""


class Watch:
    """Remembers what was looked at, and what was found since the last test."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.seen: set[str] = set()
        self._exempt = {
            each.text for each in tenant_sql.statements() if each.name in FOR_EVERY_TENANT
        }

    def look(self, query: object) -> None:
        """Note which of its tables a statement of the package does not hold to one organisation."""
        if not isinstance(query, str) or query in self.seen:
            return
        place = _package_place(inspect.currentframe())
        if place is None:
            return
        self.seen.add(query)
        if query in self._exempt or not tenant_sql.STATEMENT.match(query):
            return
        loose = tenant_sql.unheld(query, tenant_sql.tenant_tables())
        if loose:
            self.found.append(f"{place} touches any organization's {', '.join(loose)}: {query}")


def _package_place(frame: FrameType | None) -> str | None:
    """Where in the package a statement comes from; None when a test or a library asks for it."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path != __file__ and "/psycopg" not in path and not path.endswith("agentmail_cp/db.py"):
            ours = path.startswith(f"{PACKAGE}/")
            return f"{path[len(str(PACKAGE)) + 1 :]}:{frame.f_lineno}" if ours else None
        frame = frame.f_back
    return None


@pytest.fixture(scope="session")
def watch() -> Generator[Watch]:
    """What the whole run's statements are seen by."""
    seen = Watch()
    patch = pytest.MonkeyPatch()
    for name in ("execute", "executemany"):
        patch.setattr(psycopg.AsyncCursor, name, _watched(getattr(psycopg.AsyncCursor, name), seen))
    yield seen
    patch.undo()


def _watched(execute: _Execute, watch: Watch) -> _Execute:
    async def watched(self: _Execute, query: object, *arguments: Any, **options: Any) -> _Execute:
        watch.look(query)
        return await execute(self, query, *arguments, **options)

    return watched


@pytest.fixture(autouse=True)
def _every_statement_names_its_organization(watch: Watch) -> Generator[None]:
    """One forgotten condition shows one customer another's mail."""
    watch.found.clear()
    yield
    assert watch.found == []
