"""docs/endpoints.md says what the other tests of this folder found. It runs after them."""

from __future__ import annotations

import pytest

from tests.sdk.endpoints import CALLS, ENDPOINTS
from tests.sdk.table import COMPLETE, FILE, PYTHON, result, text
from tests.sdk.whole import require_all, writes


def test_the_table_in_docs_is_what_this_run_found(request: pytest.FixtureRequest) -> None:
    """Readers of docs/ would build on what does not work: run `python -m tests.sdk.write_table`."""
    require_all(request.config)
    before = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    found = text(before)
    if writes(request.config):
        FILE.write_text(found, encoding="utf-8")
    else:
        assert before == found


def test_nothing_is_missing_where_it_is_complete(request: pytest.FixtureRequest) -> None:
    """A program written for the hosted service would stop at the first call that is missing."""
    require_all(request.config)
    wanted = [
        each for each in ENDPOINTS if COMPLETE.search(each.path) and each.tier in {"must", "should"}
    ]
    assert len(wanted) == 130
    assert [each.sdk_call for each in wanted if result(each, PYTHON) != "works"] == []
    if CALLS["npm"]:
        shared = [each for each in wanted if each.npm]
        assert [each.sdk_call for each in shared if result(each, ("npm",)) != "works"] == []


def test_everything_the_hosted_service_alone_has_is_refused(
    request: pytest.FixtureRequest,
) -> None:
    """A program that looks around would meet a path that nobody thought of."""
    require_all(request.config)
    skipped = [each for each in ENDPOINTS if each.tier == "skip"]
    assert [each.path for each in skipped if result(each, PYTHON) != "polite refusal"] == []
    for world in PYTHON:
        for each in skipped:
            assert CALLS[world].get(each, set[int]()) <= {200, 403, 404}, each.path
