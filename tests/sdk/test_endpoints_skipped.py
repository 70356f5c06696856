"""What only the hosted service has: the official Python SDK gets an answer it has a type for.

Beside it the few paths of the contract that the SDK has no call for: as plain requests.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from agentmail import AgentMail
from agentmail.calendar.errors.forbidden_error import ForbiddenError
from agentmail.errors import NotFoundError
from agentmail.files.errors.file_forbidden_error import FileForbiddenError
from agentmail.organizations.errors.organization_forbidden_error import OrganizationForbiddenError

from tests.fix_app import OUTSIDER
from tests.sdk.mailbox import Conversation, conversation, new_inbox
from tests.sdk.official import Sdk

ACCOUNT = uuid.UUID(int=0)
Call = Callable[[AgentMail, Conversation], Any]

EMPTY: dict[str, Call] = {
    "accounts.list": lambda sdk, _: sdk.accounts.list().accounts,
    "inboxes.accounts.list": lambda sdk, at: sdk.inboxes.accounts.list(at.inbox_id).accounts,
    "pods.accounts.list": lambda sdk, at: sdk.pods.accounts.list(at.pod_id).accounts,
    "apps.list": lambda sdk, _: sdk.apps.list(limit=10).apps,
    "apps.search": lambda sdk, _: sdk.apps.search(q="github").apps,
    "apps.list_accounts": lambda sdk, _: sdk.apps.list_accounts("github").accounts,
}
UNKNOWN: dict[str, Call] = {
    "accounts.get": lambda sdk, _: sdk.accounts.get(ACCOUNT),
    "accounts.update": lambda sdk, _: sdk.accounts.update(ACCOUNT, status="revoked"),
    "inboxes.accounts.get": lambda sdk, at: sdk.inboxes.accounts.get(at.inbox_id, ACCOUNT),
    "pods.accounts.get": lambda sdk, at: sdk.pods.accounts.get(at.pod_id, ACCOUNT),
    "apps.get": lambda sdk, _: sdk.apps.get("github"),
    "apps.connect": lambda sdk, _: sdk.apps.connect("github"),
    "inboxes.authorize": lambda sdk, at: sdk.inboxes.authorize(at.inbox_id, auth_token="t"),
    "agent_armor_feedback": lambda sdk, at: sdk.inboxes.messages.create_agent_armor_feedback(
        at.inbox_id, at.message_id, feedback="confirmed"
    ),
    "agent_armor_release": lambda sdk, at: sdk.inboxes.messages.release_agent_armor_message(
        at.inbox_id, at.message_id, reason="It is harmless."
    ),
}
CALENDAR: dict[str, Call] = {
    "get": lambda sdk, at: sdk.inboxes.calendar.get(at.inbox_id),
    "update": lambda sdk, at: sdk.inboxes.calendar.update(at.inbox_id, timezone="Europe/Berlin"),
    "get_agenda": lambda sdk, at: sdk.inboxes.calendar.get_agenda(at.inbox_id),
    "list_events": lambda sdk, at: sdk.inboxes.calendar.list_events(at.inbox_id),
    "create_event": lambda sdk, at: sdk.inboxes.calendar.create_event(
        at.inbox_id, title="Lunch", start="2027-01-01T12:00:00", end="2027-01-01T13:00:00"
    ),
    "get_event": lambda sdk, at: sdk.inboxes.calendar.get_event(at.inbox_id, "e"),
    "update_event": lambda sdk, at: sdk.inboxes.calendar.update_event(at.inbox_id, "e", title="x"),
    "delete_event": lambda sdk, at: sdk.inboxes.calendar.delete_event(at.inbox_id, "e"),
    "list_event_instances": lambda sdk, at: sdk.inboxes.calendar.list_event_instances(
        at.inbox_id, "e"
    ),
    "respond_to_event": lambda sdk, at: sdk.inboxes.calendar.respond_to_event(
        at.inbox_id, "e", status="accepted"
    ),
}
FILES: dict[str, Call] = {
    "create": lambda sdk, at: sdk.inboxes.files.create(
        at.inbox_id, path="/a.txt", size=1, sha_256="0" * 64
    ),
    "complete": lambda sdk, at: sdk.inboxes.files.complete(at.inbox_id, "f"),
    "get": lambda sdk, at: sdk.inboxes.files.get(at.inbox_id, "f"),
    "list": lambda sdk, at: sdk.inboxes.files.list(at.inbox_id),
    "delete": lambda sdk, at: sdk.inboxes.files.delete(at.inbox_id, "f"),
}


def refused(sdk: Sdk, calls: dict[str, Call], error: type[Exception]) -> None:
    """Make every call; each raises this error of the SDK's."""
    at = conversation(sdk)
    for name, call in calls.items():
        with pytest.raises(error):
            pytest.fail(f"{name} gave {call(sdk.client, at)!r}")


def test_lists_are_empty(sdk: Sdk) -> None:
    """A program that looks which apps there are would stop."""
    at = conversation(sdk)
    assert {name: len(call(sdk.client, at)) for name, call in EMPTY.items()} == dict.fromkeys(
        EMPTY, 0
    )


def test_single_things_are_not_there(sdk: Sdk) -> None:
    """A program that catches NotFoundError would stop."""
    refused(sdk, UNKNOWN, NotFoundError)


def test_calendars_are_forbidden(sdk: Sdk) -> None:
    """The hosted service answers so outside its Labs; programs are prepared for that."""
    refused(sdk, CALENDAR, ForbiddenError)


def test_files_are_forbidden(sdk: Sdk) -> None:
    """The hosted service answers so outside its Labs; programs are prepared for that."""
    refused(sdk, FILES, FileForbiddenError)


def test_labs(sdk: Sdk) -> None:
    """A program would try what is not there."""
    labs = sdk.client.organizations.get_labs()
    assert (labs.enabled, labs.available) == (False, False)
    with pytest.raises(OrganizationForbiddenError):
        sdk.client.organizations.join_labs()


def test_an_inbox_that_is_not_there_comes_first(sdk: Sdk) -> None:
    """A typing error in an address would look like a missing feature."""
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.calendar.get("nobody@agents.test")
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.files.list("nobody@agents.test")


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_public_keys_are_no_api_key(sdk: Sdk, method: str) -> None:
    """The words would be taken for the id of a key."""
    assert sdk.plain(method, "/v0/api-keys/public-keys").status_code == 404


def test_what_older_programs_call(sdk: Sdk) -> None:
    """Apps under the npm SDK's names, and seed 001's path for sending."""
    for path in ("/v0/providers", "/v0/providers/search?q=x", "/v0/providers/x/accounts"):
        assert sdk.plain("GET", path).json()["count"] == 0
    assert sdk.plain("GET", "/v0/providers/x").status_code == 404
    assert sdk.plain("POST", "/v0/providers/x/connect", json={}).status_code == 403
    path = f"/v0/inboxes/{new_inbox(sdk).inbox_id}/messages"
    assert sdk.plain("POST", path, json={"to": OUTSIDER, "text": "Hi"}).status_code == 200
