"""The official SDK at the limit on requests: it waits as long as it is told, and goes on."""

from __future__ import annotations

import time
from collections.abc import Generator

import pytest
from agentmail.core.api_error import ApiError
from agentmail.core.request_options import RequestOptions

from tests.fix_sdk import Live, on_sandbox, running
from tests.sdk.official import Sdk, connected

LIMIT = 6
WINDOW = 2.5
"""Seconds; not a whole number, so that rounding the wrong way shows."""


@pytest.fixture
def limited(database_url: str) -> Generator[Live]:
    """A service whose limit is soon reached, and soon over."""
    with running(
        database_url, on_sandbox, requests_per_minute=LIMIT, request_window=WINDOW
    ) as live:
        yield live


@pytest.fixture
def sdk(limited: Live) -> Generator[Sdk]:
    with connected(limited, "sandbox") as sdk:
        yield sdk


def test_the_sdk_waits_for_the_next_window_and_succeeds(sdk: Sdk) -> None:
    """A user of the SDK never sees a 429 unless their agent is far too fast."""
    begun = time.monotonic()
    for _ in range(2 * LIMIT + 1):
        sdk.client.auth.me()
    assert 2 * WINDOW <= time.monotonic() - begun < 4 * WINDOW


def test_what_the_sdk_sends_while_it_waits_is_done_once(sdk: Sdk) -> None:
    """A refused request is tried again, POST as well."""
    for _ in range(LIMIT):
        sdk.client.auth.me()
    made = sdk.client.inboxes.create()
    listed = sdk.client.inboxes.list()
    assert [each.inbox_id for each in listed.inboxes] == [made.inbox_id]


def test_whoever_does_not_wait_is_told_when_to_come_back(sdk: Sdk) -> None:
    at_once = RequestOptions(max_retries=0)
    for _ in range(LIMIT):
        sdk.client.auth.me()
    with pytest.raises(ApiError) as refused:
        sdk.client.auth.me(request_options=at_once)
    assert refused.value.status_code == 429
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["code"] == "rate_limit_exceeded"
    assert refused.value.body["retry_at"]


def test_an_error_that_stays_is_told_soon(database_url: str) -> None:
    """The SDK tries a 409 again, and without Retry-After it waits until X-RateLimit-Reset: two minutes in
    all, for a pod that cannot be deleted.
    """
    with (
        running(database_url, on_sandbox, requests_per_minute=100) as live,
        connected(live, "sandbox") as sdk,
    ):
        (pod, *_) = sdk.client.pods.list().pods
        begun = time.monotonic()
        with pytest.raises(ApiError) as refused:
            sdk.client.pods.delete(pod.pod_id)
        assert refused.value.status_code == 409
        assert time.monotonic() - begun < 20
