"""Metrics at each of their three scopes, every call of the official Python SDK."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from agentmail.core.api_error import ApiError
from agentmail.errors import ValidationError

from tests.sdk.mailbox import Scope, only
from tests.sdk.official import Sdk, until
from tests.sdk.tenants import NO_ID, NOBODY, SCOPES, Calls, Tenant, calls_at, holding, new_tenant

DAY = timedelta(days=1)


@pytest.fixture
def tenant(sdk: Sdk) -> Tenant:
    """One whose inbox has written to itself, and beside it another's that has, too."""
    for name in ("other", "acme"):
        made = new_tenant(sdk, name)
        sdk.client.inboxes.messages.send(made.inbox_id, to=[made.inbox_id], text="Note to self")
        until(
            lambda made=made: sdk.client.inboxes.messages.list(made.inbox_id),
            lambda page: page.count == 2,
        )
    return made


@pytest.fixture(params=SCOPES)
def scope(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def metrics(sdk: Sdk, tenant: Tenant, scope: str) -> Scope:
    return calls_at(scope, "metrics", sdk.client, tenant)


def test_query_events(metrics: Scope, scope: str) -> None:
    """Nobody could see how busy an agent is."""
    both = 2 if scope == "organization" else 1
    found = metrics.query_events()
    for kind in ("message.sent", "message.received"):
        assert sum(each.count for each in found[kind]) == both
    assert found["message.bounced"] == []
    today = metrics.query_events(event_types=["message.sent"], period=86_400)
    assert list(today) == ["message.sent"]
    # At midnight they may be of two days.
    assert sum(each.count for each in today["message.sent"]) == both
    now = datetime.now(UTC)
    assert metrics.query_events(start=now - 3 * DAY, end=now - 2 * DAY)["message.sent"] == []
    newest = metrics.query_events(limit=1, descending=True)
    assert only(newest["message.sent"]).timestamp == max(
        each.timestamp for each in found["message.sent"]
    )


def test_query_usage(metrics: Scope, scope: str) -> None:
    """Nobody could see what a customer stores."""
    now = metrics.query_usage(limit=1, descending=True)
    latest = {name: only(points).value for name, points in now.items()}
    several = 2 if scope == "organization" else 1
    assert latest.pop("storage_bytes") > 200
    expected = {"message_count": 2 * several, "thread_count": several}
    if scope != "inbox":
        expected |= {"inbox_count": several, "domain_count": 0}
    if scope == "organization":
        expected |= {"pod_count": 3}
    assert latest == expected
    week = metrics.query_usage(
        usage_types=["message_count"], start=datetime.now(UTC) - 7 * DAY, period=86_400
    )
    assert [each.value for each in week["message_count"]][:6] == [0] * 6
    assert week["message_count"][-1].value == expected["message_count"]


def test_query_rates(metrics: Scope, scope: str) -> None:
    """Nobody would be warned before providers stop taking the mail."""
    found = metrics.query_rates()
    assert found.keys() == {"bounce", "complaint"}
    for points in found.values():
        assert (points[-1].rate, points[-1].sent) == (0.0, 2 if scope == "organization" else 1)
        assert (points[0].rate, points[0].sent) == (None, 0)
    few = metrics.query_rates(rate_types=["bounce"], period=1800, window=3600, limit=5)
    assert len(few["bounce"]) == 5


def test_mistakes_are_typed(metrics: Scope) -> None:
    """Code that catches the SDK's errors would not catch ours."""
    now = datetime.now(UTC)
    calls: Calls = [
        lambda: metrics.query_events(start=now - 91 * DAY),
        lambda: metrics.query_events(start=now, end=now - DAY),
        lambda: metrics.query_events(period=0),
        lambda: metrics.query_events(event_types=["message.invented"]),
        lambda: metrics.query_usage(period=86_401),
        lambda: metrics.query_rates(window=5400),
    ]
    for call in calls:
        with pytest.raises(ValidationError):
            call()
    for wide in (
        lambda: metrics.query_usage(period=1),
        lambda: metrics.query_rates(period=1, window=1),
    ):
        with pytest.raises(ValidationError) as refused:
            wide()
        assert refused.value.body.code == "query_range_too_wide"


def test_what_is_not_there_and_what_is_not_allowed(sdk: Sdk, tenant: Tenant) -> None:
    """A typing error would look like a quiet customer."""
    calls: Calls = [
        lambda: sdk.client.pods.metrics.query_events(NO_ID),
        lambda: sdk.client.pods.metrics.query_usage(NO_ID),
        lambda: sdk.client.pods.metrics.query_rates(NO_ID),
        lambda: sdk.client.inboxes.metrics.query_events(NOBODY),
        lambda: sdk.client.inboxes.metrics.query_usage(NOBODY),
        lambda: sdk.client.inboxes.metrics.query_rates(NOBODY),
    ]
    for call in calls:
        with pytest.raises(ApiError) as missing:
            call()
        assert missing.value.status_code == 404
    mute = holding(sdk, "inbox", tenant, "message_read")
    with pytest.raises(ApiError) as refused:
        mute.metrics.query_events()
    assert refused.value.status_code == 403


def test_a_narrow_key_gets_the_numbers_of_its_scope(sdk: Sdk, tenant: Tenant) -> None:
    """An agent would learn how busy others are."""
    for scope in ("pod", "inbox"):
        metrics = holding(sdk, scope, tenant).metrics
        assert only(metrics.query_events()["message.sent"]).count == 1
        assert metrics.query_usage()["message_count"][-1].value == 2
        assert metrics.query_rates()["bounce"][-1].sent == 1


def test_the_call_of_release_0_5(sdk: Sdk, tenant: Tenant) -> None:
    """Programs that were not brought up to date would stop."""
    answer = sdk.plain("GET", "/v0/metrics")
    assert answer.status_code == 200
    assert sum(each["count"] for each in answer.json()["message.sent"]) == 2
