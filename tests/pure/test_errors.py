"""Errors speak the contract's words and carry what a person needs to go on."""

from __future__ import annotations

import re

import pytest

from agentmail_cp import errors
from agentmail_cp.errors import AgentMailError
from agentmail_cp.web.errors import invalid

KINDS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, AgentMailError)
]


@pytest.mark.parametrize("kind", KINDS)
def test_names_and_codes_are_spelt_as_the_contract_spells_them(kind: type[AgentMailError]) -> None:
    """SDKs and agents branch on them."""
    assert re.fullmatch(r"[A-Z][A-Za-z]+Error", kind.name)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)


def test_a_code_given_where_it_is_raised_wins_over_the_kinds_own() -> None:
    assert errors.Forbidden("No.").reason == "forbidden"
    assert errors.Forbidden("No.", code="missing_permission").reason == "missing_permission"


def test_an_invalid_value_says_where_what_and_how_to_mend_it() -> None:
    error = errors.Invalid("to", "Nobody.", fix="Name somebody.", detail="REQUIRED")
    assert (error.field, error.message, error.fix) == ("to", "Nobody.", "Name somebody.")
    assert (error.reason, error.detail) == ("validation_error", "REQUIRED")


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ("data", "url"),
        ("body", "url"),
        ("frame", "url"),
        ("attachments[0]", "attachments.0.url"),
        ("headers[...]", "headers.url"),
    ],
)
def test_a_missing_field_is_named_where_it_should_be(place: str, field: str) -> None:
    """A client that shows mistakes beside its fields would show this one nowhere."""
    error = invalid("Object missing required field `url`", place)
    assert (error.field, error.detail, error.message) == (field, "REQUIRED", f"{field} is missing.")
    assert error.fix == f"Add {field}."


def test_waiting_helps_where_a_time_is_given() -> None:
    assert errors.Unavailable("Away.").retry_after == 5.0
    assert errors.Conflict("Running.", retry_after=2.0).retry_after == 2.0
    assert errors.Conflict("Other body.").retry_after is None
