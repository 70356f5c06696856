"""Allow and block lists at each of their three scopes, every call of the official Python SDK."""

from __future__ import annotations

from typing import get_args

import pytest
from agentmail.errors import NotFoundError, ValidationError
from agentmail.messages.errors.message_rejected_error import MessageRejectedError

from agentmail_cp.lists import Direction, ListType
from tests.fix_app import a_mail
from tests.sdk.mailbox import only
from tests.sdk.official import Sdk, until
from tests.sdk.tenants import NO_ID, NOBODY, SCOPES, Calls, calls_at, new_tenant

SPAMMER = "spam@elsewhere.test"


@pytest.mark.parametrize("scope", SCOPES)
def test_create_get_list_delete(sdk: Sdk, scope: str) -> None:
    """Nobody could say whom an agent may write to."""
    tenant = new_tenant(sdk)
    lists = calls_at(scope, "lists", sdk.client, tenant)
    for direction in get_args(Direction):
        for kind in get_args(ListType):
            made = lists.create(direction, kind, entry="Spam@Elsewhere.test", reason="Spam")
            assert (made.entry, made.entry_type, made.reason) == (SPAMMER, "email", "Spam")
            assert (made.direction, made.list_type) == (direction, kind)
            assert made.read_only in {None, False}
            domain = lists.create(direction, kind, entry="elsewhere.test")
            assert (domain.entry_type, domain.reason) == ("domain", None)
            assert lists.get(direction, kind, SPAMMER).entry == SPAMMER
            first = lists.list(direction, kind, limit=1)
            rest = lists.list(direction, kind, limit=1, page_token=first.next_page_token)
            entries = {only(page.entries).entry for page in (first, rest)}
            assert entries == {SPAMMER, "elsewhere.test"}
            lists.delete(direction, kind, SPAMMER)
            with pytest.raises(NotFoundError):
                lists.get(direction, kind, SPAMMER)
            assert only(lists.list(direction, kind).entries).entry == "elsewhere.test"


def test_an_entry_says_whose_it_is(sdk: Sdk) -> None:
    """Somebody who looks at it could not tell whom it concerns."""
    tenant = new_tenant(sdk)
    organization = sdk.client.lists.create("send", "block", entry=SPAMMER)
    pod = sdk.client.pods.lists.create(tenant.pod_id, "send", "block", entry=SPAMMER)
    inbox = sdk.client.inboxes.lists.create(tenant.inbox_id, "send", "block", entry=SPAMMER)
    assert (pod.pod_id, pod.inbox_id) == (tenant.pod_id, None)
    assert (inbox.pod_id, inbox.inbox_id) == (tenant.pod_id, tenant.inbox_id)
    assert {each.organization_id for each in (organization, pod, inbox)} == {
        organization.organization_id
    }


@pytest.mark.parametrize("scope", SCOPES)
def test_a_blocked_recipient_gets_nothing(sdk: Sdk, scope: str) -> None:
    """An agent would write to whom it must not."""
    tenant, other = new_tenant(sdk), new_tenant(sdk, "other")
    calls_at(scope, "lists", sdk.client, tenant).create("send", "block", entry=other.inbox_id)
    messages = sdk.client.inboxes.messages
    with pytest.raises(MessageRejectedError) as refused:
        messages.send(tenant.inbox_id, to=other.inbox_id, text="Hi")
    assert other.inbox_id in (refused.value.body.message or "")
    assert messages.list(tenant.inbox_id).count == 0
    messages.send(tenant.inbox_id, to=tenant.inbox_id, text="Hi")


@pytest.mark.parametrize("scope", SCOPES)
def test_mail_of_a_blocked_sender_is_kept_out_of_sight(sdk: Sdk, scope: str) -> None:
    """An agent would act on what a stranger writes; a person could not look what it was."""
    tenant = new_tenant(sdk)
    calls_at(scope, "lists", sdk.client, tenant).create("receive", "block", entry=SPAMMER)
    sdk.deliver(a_mail(tenant.inbox_id, "Win", From=f"Spam <{SPAMMER}>"))
    sdk.deliver(a_mail(tenant.inbox_id, "Hello"))
    messages = sdk.client.inboxes.messages
    every = until(
        lambda: messages.list(tenant.inbox_id, include_blocked=True), lambda page: page.count == 2
    )
    assert only(messages.list(tenant.inbox_id).messages).subject == "Hello"
    hidden = only([each for each in every.messages if each.subject == "Win"])
    assert "blocked" in hidden.labels
    assert messages.list(tenant.inbox_id, labels=["blocked"]).count == 1
    counted = sdk.client.inboxes.metrics.query_events(tenant.inbox_id)
    assert only(counted["message.received.blocked"]).count == 1


@pytest.mark.parametrize("scope", SCOPES)
def test_mistakes_are_typed(sdk: Sdk, scope: str) -> None:
    """Code that catches the SDK's errors would not catch ours."""
    lists = calls_at(scope, "lists", sdk.client, new_tenant(sdk))
    with pytest.raises(NotFoundError):
        lists.get("send", "block", SPAMMER)
    with pytest.raises(NotFoundError):
        lists.delete("send", "block", SPAMMER)
    with pytest.raises(ValidationError):
        lists.create("send", "block", entry="not an address")


def test_lists_of_what_is_not_there(sdk: Sdk) -> None:
    """A typing error would look like an empty list."""
    pods, inboxes = sdk.client.pods.lists, sdk.client.inboxes.lists
    calls: Calls = [
        lambda: pods.get(NO_ID, "send", "block", SPAMMER),
        lambda: pods.delete(NO_ID, "send", "block", SPAMMER),
        lambda: inboxes.get(NOBODY, "send", "block", SPAMMER),
        lambda: inboxes.delete(NOBODY, "send", "block", SPAMMER),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()
