"""The description of the API as a file: `python -m tests.api.write_openapi` writes docs/openapi.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentmail_cp.app import create_app
from agentmail_cp.sandbox import MailSandbox
from tests.fix_app import DOMAIN, settings_for

FILE = Path(__file__).parents[2] / "docs" / "openapi.json"


def description() -> dict[str, Any]:
    """The OpenAPI document this code serves under /openapi.json."""
    app = create_app(settings_for("postgresql://unused/unused"), server=MailSandbox(DOMAIN))
    return app.openapi_schema.to_schema()


def text() -> str:
    """The file's content, in one order whatever the order of the code."""
    return json.dumps(description(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
