"""Fixture plug-ins every test may use; each lives in its own `fix_*.py`."""

from __future__ import annotations

import os

# What a person has set for their own use must not decide what the tests do.
for name in [each for each in os.environ if each.startswith("AGENTMAIL_")]:
    if name != "AGENTMAIL_TEST_DATABASE_URL":
        del os.environ[name]

# In the order of their imports: pytest rewrites the assertions of those it loads itself only.
pytest_plugins = [
    "tests.fix_collector",
    "tests.fix_failures",
    "tests.fix_leftovers",
    "tests.fix_parallel",
    "tests.fix_front_door",
    "tests.fix_stalwart",
    "tests.fix_pg",
    "tests.fix_process",
    "tests.fix_proxy",
    "tests.fix_tenant_sql",
    "tests.fix_dns",
    "tests.fix_app",
    "tests.fix_remote",
    "tests.fix_sdk",
]
