"""What a caller may say of an endpoint: what gets through can be delivered to, filters do what they say."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import ip_network
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from agentmail_cp.access import Reach
from agentmail_cp.errors import Invalid
from agentmail_cp.events import DEFAULT_TYPES, EventType, Subscribed
from agentmail_cp.outbound import permitted, target_of
from agentmail_cp.outbound.fetcher import FRAMING
from agentmail_cp.webhooks import DisabledReason, Names, Webhook, WebhookPatch, patched
from agentmail_cp.webhooks.checks import MOST_URL, changed_headers, check_headers, check_url
from agentmail_cp.webhooks.endpoints import new_secret
from agentmail_cp.webhooks.signing import key_of
from tests.pure.an_event import an_event

NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOME = UUID(int=1)
IDS = [UUID(int=each) for each in range(10, 16)]

urls = st.one_of(
    st.text(),
    st.from_regex(r"https?://[a-z0-9.\-\[\]:@%/?#\\]{0,40}", fullmatch=True),
    st.ip_addresses(v=4).map(lambda each: f"http://{each}/"),
    st.ip_addresses(v=6).map(lambda each: f"https://[{each}]:8443/hook"),
    st.text("ab", min_size=MOST_URL).map(lambda each: f"https://a.example/{each}"),
)


@given(url=urls)
def test_a_url_that_gets_through_leads_outside(url: str) -> None:
    """A tenant could have us call the operator's own network; a broken URL would fail for ever."""
    try:
        check_url(url, ())
    except Invalid:
        return
    target = target_of(url)
    assert len(url) <= MOST_URL
    assert target.address is None or permitted(str(target.address), ())
    assert "#" not in url
    assert "@" not in target.authority


@pytest.mark.parametrize(
    "url", ["http://10.1.2.3/", "http://localhost:8080/", "http://[::1]:8080/"]
)
def test_an_operator_opens_networks_by_themselves(url: str) -> None:
    """Opening one network would open all."""
    opened = {"10": "10.0.0.0/8", "lo": "127.0.0.0/8", "[:": "::1/128"}[
        url.removeprefix("http://")[:2]
    ]
    assert check_url(url, [ip_network(opened)]) == url
    with pytest.raises(Invalid):
        check_url(url, [ip_network("192.168.0.0/16")])


names = st.one_of(
    st.text(max_size=90),
    st.from_regex(r"[A-Za-z-]{1,12}", fullmatch=True),
    st.sampled_from([*sorted(FRAMING), "SVIX-ID", "Webhook-Timestamp", "Content-Type"]),
)


@given(given_=st.dictionaries(names, st.text(max_size=40), max_size=25))
def test_headers_that_get_through_are_one_line_each(given_: dict[str, str]) -> None:
    """A value could end the header and begin one of its own, or a signature of its own."""
    try:
        checked = check_headers(given_)
    except Invalid:
        return
    for name, value in checked.items():
        assert re.fullmatch(r"[!-~]+", name)
        assert not re.search(r"[:\s]", name)
        assert re.fullmatch(r"[\x20-\x7e\t]*", value)
        assert name.lower() not in FRAMING
        assert not name.lower().startswith(("svix-", "webhook-"))


@given(
    current=st.dictionaries(st.sampled_from(["A", "B", "C"]), st.just("old")),
    new=st.dictionaries(st.sampled_from(["a", "B", "D"]), st.just("new")),
    gone=st.sets(st.sampled_from(["A", "b", "d", "E"])),
)
def test_headers_change_as_said_in_any_case(
    current: dict[str, str], new: dict[str, str], gone: set[str]
) -> None:
    """A token that was replaced would be sent beside the new one."""
    try:
        changed = changed_headers(current, new, gone)
    except Invalid:
        assert not (new or gone) or {each.lower() for each in new} & {each.lower() for each in gone}
        return
    lower = {name.lower(): value for name, value in changed.items()}
    assert len(lower) == len(changed)
    for name in {each.lower() for each in (*current, *new, *gone)}:
        expected = {each.lower(): value for each, value in new.items()}.get(name)
        kept = name in {each.lower() for each in current} and name not in {
            each.lower() for each in gone
        }
        assert lower.get(name) == (expected or ("old" if kept else None))


# --- filters

some = st.lists(st.sampled_from(IDS), max_size=4, unique=True)


def endpoint(pod_ids: Sequence[UUID] = (), inbox_ids: Sequence[UUID] = ()) -> Webhook:
    return Webhook(
        webhook_id=HOME,
        organization_id=HOME,
        pod_id=None,
        inbox_id=None,
        url="https://a.example/",
        event_types=list(DEFAULT_TYPES),
        pod_ids=list(pod_ids),
        inbox_ids=list(inbox_ids),
        headers={},
        client_id=None,
        secret=new_secret(),
        previous_secret=None,
        previous_until=None,
        enabled=True,
        disabled_reason=None,
        disabled_at=None,
        failing_since=NOW,
        created_at=NOW,
        updated_at=NOW,
    )


def told(webhook: Webhook) -> set[tuple[UUID, UUID]]:
    """Of which pods' and inboxes' events it is told."""
    subscribed = Subscribed(
        reach=Reach(HOME),
        inbox_ids=frozenset(webhook.inbox_ids),
        pod_ids=frozenset(webhook.pod_ids),
    )
    return {
        (pod_id, inbox_id)
        for pod_id in IDS
        for inbox_id in IDS
        if subscribed.wants(
            an_event(
                organization_id=HOME,
                pod_id=pod_id,
                inbox_id=inbox_id,
                kind=EventType.MESSAGE_SENT,
            )
        )
    }


@given(pods=some, inboxes=some, more_pods=some, more_inboxes=some)
def test_what_is_added_takes_nothing_away(
    pods: list[UUID], inboxes: list[UUID], more_pods: list[UUID], more_inboxes: list[UUID]
) -> None:
    """An endpoint for everything would fall silent when its owner adds a new inbox."""
    before = endpoint(pods, inboxes)
    patch = WebhookPatch(pods=Names(add=more_pods), inboxes=Names(add=more_inboxes))
    after = patched(before, patch)
    assert told(before) <= told(after)
    if pods or inboxes:
        assert set(more_pods) <= set(after.pod_ids)
        assert set(more_inboxes) <= set(after.inbox_ids)


@given(pods=some, inboxes=some, less_pods=some, less_inboxes=some)
def test_what_is_removed_lets_nothing_else_pass(
    pods: list[UUID], inboxes: list[UUID], less_pods: list[UUID], less_inboxes: list[UUID]
) -> None:
    """An endpoint for one customer would be told of all others."""
    before = endpoint(pods, inboxes)
    patch = WebhookPatch(pods=Names(remove=less_pods), inboxes=Names(remove=less_inboxes))
    with contextlib.suppress(Invalid):
        after = patched(before, patch)
        assert told(after) <= told(before)
        return
    assert set(pods) <= set(less_pods)
    assert set(inboxes) <= set(less_inboxes)


@given(pods=some, inboxes=some, new=some)
def test_what_is_put_is_what_there_is(
    pods: list[UUID], inboxes: list[UUID], new: list[UUID]
) -> None:
    """Whoever says what a filter is would find something else in it."""
    after = patched(endpoint(pods, inboxes), WebhookPatch(inboxes=Names(put=new)))
    assert (after.inbox_ids, after.pod_ids) == (new, pods)


# --- enabled, and not


@pytest.mark.parametrize("reason", DisabledReason)
def test_a_disabled_one_keeps_its_reason_until_it_is_enabled(reason: DisabledReason) -> None:
    """Its owner would not know whether to repair the receiver."""
    off = patched(endpoint(), WebhookPatch(enabled=False))
    assert (off.enabled, off.disabled_reason) == (False, DisabledReason.REQUESTED)
    broken = msgspec.structs.replace(off, disabled_reason=reason)
    assert patched(broken, WebhookPatch(enabled=False)).disabled_reason is reason
    assert patched(broken, WebhookPatch(url="https://b.example/")).disabled_reason is reason
    back = patched(broken, WebhookPatch(enabled=True))
    assert (back.enabled, back.disabled_reason, back.failing_since) == (True, None, None)


def test_somewhere_else_it_has_not_failed_yet() -> None:
    """A new receiver would be disabled for what the old one did."""
    before = endpoint()
    assert patched(before, WebhookPatch(url="https://b.example/")).failing_since is None
    assert patched(before, WebhookPatch(url=before.url)).failing_since == NOW
    assert patched(before, WebhookPatch(url=UNSET, enabled=True)).failing_since == NOW


def test_secrets_are_of_256_bits_and_no_two_are_alike() -> None:
    """Whoever guesses one can tell a receiver anything."""
    made = {new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(key_of(each)) for each in made} == {32}
