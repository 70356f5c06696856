"""Every operation under generated requests, valid and invalid: no crash, and answers as described.

`python -m pytest tests/api -k schemathesis` runs these alone; SCHEMATHESIS_EXAMPLES asks for more.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis.openapi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis import checks as any_api
from schemathesis.specs.openapi import checks as openapi

from tests.api.write_openapi import description
from tests.fix_sdk import Live

# The service runs in a thread of this process and draws random numbers while hypothesis watches.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "12"))
CHECKS: list[Any] = [
    any_api.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
]

OPERATIONS = tuple(
    operation["operationId"]
    for item in description()["paths"].values()
    for operation in item.values()
)


SCHEMA: Any = schemathesis.openapi.from_dict(description())
"""schemathesis 4 leaves its types open, hence `Any`."""


def requests_to(name: str, mode: GenerationMode) -> st.SearchStrategy[Any]:
    """Generated requests to one operation."""
    return SCHEMA.find_operation_by_id(name).as_strategy(generation_mode=mode)


@pytest.fixture
def real(live: Live) -> dict[str, str]:
    """Ids that exist, so that generated requests get past the first 404."""
    with httpx.Client(
        base_url=live.base_url, headers={"Authorization": f"Bearer {live.api_key}"}
    ) as client:
        inbox = client.post("/v0/inboxes", json={"username": "real"}).json()
        sent = client.post(
            f"/v0/inboxes/{inbox['inbox_id']}/messages", json={"to": inbox["email"], "text": "Hi"}
        ).json()
        key = client.post("/v0/api-keys", json={}).json()
    return {
        "inbox_id": inbox["inbox_id"],
        "pod_id": inbox["pod_id"],
        "message_id": quote(sent["message_id"], safe=""),
        "thread_id": sent["thread_id"],
        "api_key_id": key["api_key_id"],
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_schemathesis(name: str, live: Live, real: dict[str, str]) -> None:
    """A request nobody thought of could crash the service or get an answer no client expects."""
    for mode in GenerationMode:
        try_out(name, mode, live, real)


def try_out(name: str, mode: GenerationMode, live: Live, real: dict[str, str]) -> None:
    """Send an operation valid or invalid requests."""
    headers = {"Authorization": f"Bearer {live.api_key}"}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
        ],
    )
    @given(case=requests_to(name, mode), known=st.sampled_from([True, True, True, False]))
    def check(case: Any, *, known: bool) -> None:
        if known:
            names: dict[str, Any] = case.path_parameters or {}
            case.path_parameters = {each: real.get(each, names[each]) for each in names}
        case.call_and_validate(base_url=live.base_url, headers=headers, checks=CHECKS)

    check()
