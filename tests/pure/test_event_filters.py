"""Who is told of which event: nobody of what is beyond their reach, not asked for, or hidden from them."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.access import Principal, Reach
from agentmail_cp.errors import Forbidden, Invalid
from agentmail_cp.events import (
    DEFAULT_TYPES,
    LABEL_TYPES,
    LOGGED_TYPES,
    PROTECTED,
    EventType,
    Subscribed,
    check_types,
)
from agentmail_cp.events.filters import HOSTED_ONLY
from tests.pure.an_event import SOMEWHERE, an_event

IDS = [UUID(int=number) for number in range(1, 4)]
ORGANIZATION = SOMEWHERE


def a_caller(*permissions: str, restricted: bool = True) -> Principal:
    return Principal(
        reach=Reach(ORGANIZATION),
        api_key_id=uuid4(),
        permissions=frozenset(permissions) if restricted else None,
        expires_at=None,
    )


ids = st.sampled_from(IDS)
some = st.frozensets(ids, max_size=2)
reaches = st.builds(Reach, ids, st.none() | ids, st.none() | ids)


@given(reaches, some, some, st.frozensets(st.sampled_from(EventType)), ids, ids, ids)
def test_nobody_is_told_of_what_is_beyond_reach_or_not_asked_for(
    reach: Reach,
    inbox_ids: frozenset[UUID],
    pod_ids: frozenset[UUID],
    types: frozenset[EventType],
    inbox_id: UUID,
    pod_id: UUID,
    organization_id: UUID,
) -> None:
    """By the rule in other words: those of the reach, of those named."""
    wanted = Subscribed(reach=reach, types=types, inbox_ids=inbox_ids, pod_ids=pod_ids)
    for kind in EventType:
        event = an_event(
            organization_id=organization_id, pod_id=pod_id, inbox_id=inbox_id, kind=kind
        )
        reached = reach.covers(Reach(organization_id, pod_id, inbox_id))
        named = (inbox_id in inbox_ids, pod_id in pod_ids, not inbox_ids | pod_ids)
        assert wanted.wants(event) is (reached and any(named) and kind in types)


def test_by_default_nobody_is_told_of_labels_or_of_hidden_mail() -> None:
    """Clients of the hosted service take an event of a type they do not know for new mail."""
    told = {
        kind
        for kind in EventType
        if Subscribed(reach=Reach(ORGANIZATION)).wants(an_event(kind=kind))
    }
    assert told == set(DEFAULT_TYPES)
    assert not told & (LABEL_TYPES | set(PROTECTED))


def test_the_log_shows_labels_and_not_hidden_mail() -> None:
    assert set(LOGGED_TYPES) == {*DEFAULT_TYPES, *LABEL_TYPES}


@pytest.mark.parametrize("kind", EventType)
def test_a_type_that_exists_may_be_asked_for(kind: EventType) -> None:
    assert check_types([kind.value, kind.value], a_caller(restricted=False)) == {kind}


@pytest.mark.parametrize(("kind", "permission"), PROTECTED.items())
def test_hidden_mail_takes_its_own_permission(kind: EventType, permission: str) -> None:
    others = set(PROTECTED.values()) - {permission}
    with pytest.raises(Forbidden, match=f"{permission} is forbidden") as error:
        check_types(["message.sent", kind], a_caller("message_read", *others))
    assert error.value.reason == "missing_permission"
    assert check_types([kind], a_caller(permission)) == {kind}


@pytest.mark.parametrize("name", ["", "message", "MESSAGE.SENT", "message.sent ", "x" * 10_000])
def test_an_unknown_type_is_refused_in_few_words(name: str) -> None:
    with pytest.raises(Invalid) as error:
        check_types([name], a_caller())
    assert error.value.detail == "UNKNOWN_EVENT_TYPE"
    assert "message.received" in (error.value.fix or "")
    assert len(error.value.message) < 200


@pytest.mark.parametrize("name", sorted(HOSTED_ONLY))
def test_a_type_of_the_hosted_service_is_refused_by_name(name: str) -> None:
    """A subscriber must learn at once that such an event will never come."""
    with pytest.raises(Invalid, match="hosted service only") as error:
        check_types([name], a_caller())
    assert error.value.detail == "HOSTED_EVENT_TYPE"


def test_no_names_are_no_types() -> None:
    """What they then mean differs between the log and subscribers."""
    assert check_types([], a_caller()) == frozenset()
