"""The description of the API: valid, complete, open to everybody, and the same as the file in docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import schemathesis.openapi

from tests.api.faults import without_key
from tests.api.isolation_cases import CASES
from tests.api.write_openapi import FILE, description, text
from tests.fix_app import Service

Operation = dict[str, Any]
PERMISSIONS = re.compile(r"^Takes the permissions? (.*)\.$", re.MULTILINE)
METHODS = {"get", "post", "put", "patch", "delete"}


def operations() -> Iterator[tuple[str, str, Operation]]:
    for path, item in description()["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield method, path, operation


def test_the_file_in_docs_is_what_the_code_serves() -> None:
    """Readers of docs/ would build clients for another API: run `python -m tests.api.write_openapi`."""
    assert FILE.read_text(encoding="utf-8") == text()


def test_the_description_is_valid_openapi() -> None:
    """Client generators would refuse it."""
    schemathesis.openapi.from_dict(description()).validate()


def test_every_operation_has_an_id_of_its_own() -> None:
    """Generated clients name their methods after it."""
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))
    assert all(each.replace("_", "").replace(".", "").isalpha() for each in ids)


def test_every_operation_says_that_it_needs_a_key() -> None:
    """A generated client would call it without one."""
    assert description()["security"] == [{"apiKey": []}]
    assert not [operation for _, _, operation in operations() if "security" in operation]


def test_every_operation_documents_its_errors() -> None:
    """A caller could not tell an error body from another answer."""
    for method, path, operation in operations():
        where = f"{method} {path}"
        wanted = {"400", "401", "403", "404", "503"} - ({"404"} if path == "/v0/auth/me" else set())
        assert wanted <= operation["responses"].keys(), where
        for status, response in operation["responses"].items():
            if status >= "400":
                schema = response["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (where, status)


def test_every_operation_and_parameter_is_described() -> None:
    """Somebody who reads only the description would have to guess."""
    for method, path, operation in operations():
        assert operation["description"], f"{method} {path}"
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                assert parameter["description"], f"{method} {path} {parameter['name']}"


def test_a_filter_by_time_says_what_to_poll_with() -> None:
    """Mail that comes in the same second as the last one seen is passed over by whoever asks for what came
    after that.
    """
    told = [
        parameter["description"]
        for _, _, operation in operations()
        for parameter in operation.get("parameters", ())
        if parameter["name"] == "after" and parameter["schema"].get("format") == "date-time"
    ]
    assert len(told) > 3
    for each in told:
        assert "whole seconds" in each
        assert '`labels=["unread"]`' in each
        assert "`/v0/events`" in each


def test_what_may_be_there_already_has_both_answers() -> None:
    """A generated client would not know the answer to a client_id, or an entry, that there is."""
    for _, path, operation in operations():
        answers = {
            status: response["content"]["application/json"]["schema"]
            for status, response in operation["responses"].items()
            if status in {"200", "201"} and "application/json" in response.get("content", {})
        }
        both = "201" in answers and not path.endswith(("/api-keys", "/app-passwords"))
        assert (answers.keys() == {"200", "201"}) == both, path
        assert not both or answers["200"] == answers["201"], path


def permissions(description: str) -> set[str]:
    """Those a description names as taken."""
    return {name for told in PERMISSIONS.findall(description) for name in told.split("`")[1::2]}


def test_every_operation_says_which_permissions_it_takes() -> None:
    """Whoever gives an agent the least it needs would have to try."""
    needs = {
        case.operation: {*case.needs, *case.also, *case.instead} for case in CASES if not case.note
    }
    told = {
        (method.upper(), path): permissions(operation["description"])
        for method, path, operation in operations()
    }
    assert {each: told[each] for each in needs} == needs


def test_answers_say_which_headers_they_have() -> None:
    """A client would not know when to try again, nor that an answer is a repeated one."""
    for method, path, operation in operations():
        where, responses = f"{method} {path}", operation["responses"]
        repeatable = any(
            each["name"] == "Idempotency-Key" for each in operation.get("parameters", ())
        )
        for status, response in responses.items():
            headers = response.get("headers", {}).keys()
            assert (status in {"409", "429", "503"}) == ("Retry-After" in headers), where
            assert (status < "300" or status == "429") == ("X-RateLimit-Reset" in headers), where
            assert (status < "300" and repeatable) == ("Idempotent-Replayed" in headers), where


async def test_the_description_is_readable_without_a_key(service: Service) -> None:
    """Whoever writes a client needs it before they have a key."""
    answer = await without_key(service.client, "GET", "/openapi.json")
    assert answer.status_code == 200
    assert answer.json()["paths"].keys() == description()["paths"].keys()
