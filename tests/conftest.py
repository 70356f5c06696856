"""Fixture plug-ins every test may use; each lives in its own `fix_*.py`."""

from __future__ import annotations

pytest_plugins = [
    "tests.fix_app",
    "tests.fix_pg",
    "tests.fix_stalwart",
]
