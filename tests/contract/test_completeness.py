"""Nothing of the port is left to belief: whatever it has, some contract case is about it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

from agentmail_cp.mailserver import (
    MailServer,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)
from agentmail_cp.sandbox import Faults
from tests.contract.test_faults import CALLS
from tests.contract.witness import Topic, covered

SCOPE = "methods"
"""The one field of `Faults` that is no fault of its own: it says which calls the others concern."""


ERRORS: set[Topic] = {MailServerUnavailable, MailServerRejected, MailServerConfused}


def declared() -> set[Topic]:
    """What the cases say they are about, all modules of the suite loaded."""
    for module in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.contract.{module.stem}")
    return covered


def methods() -> set[str]:
    members = inspect.getmembers(MailServer, inspect.isfunction)
    return {name for name, _ in members if not name.startswith("_")}


def test_every_method_of_the_port_has_a_case() -> None:
    assert methods() - declared() == set()


def test_every_refusal_has_a_case() -> None:
    assert set(Refusal) - declared() == set()


def test_every_error_has_a_case() -> None:
    assert ERRORS - declared() == set()


def test_every_fault_of_the_sandbox_has_a_case() -> None:
    faults = {f"fault:{name}" for name in Faults.__struct_fields__ if name != SCOPE}
    assert faults - declared() == set()


def test_cases_are_about_things_that_exist() -> None:
    """A method that was renamed must not keep its old cases as an alibi."""
    faults = {f"fault:{name}" for name in Faults.__struct_fields__}
    known: set[Topic] = {*methods(), *faults, *Refusal, *ERRORS}
    assert declared() - known == set()


def test_every_method_is_called_on_a_broken_server() -> None:
    assert methods() - set(CALLS) == {"close"}
