"""What a key may do, how far it reaches, and what it may give away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from agentmail.api_keys.types import ApiKeyPermissions
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.access import PERMISSIONS, Principal, Reach, delegation
from agentmail_cp.access.permissions import MEANINGLESS, SPELLINGS, canonical, granted_by
from agentmail_cp.errors import Forbidden, Invalid, NotFound, Unauthorized

NAMES = st.sampled_from(sorted(PERMISSIONS))
GRANTS = st.none() | st.dictionaries(NAMES, st.booleans(), max_size=6)
GRANTED = st.none() | st.frozensets(NAMES, max_size=4)
NOW = datetime.now(UTC)
ORGANIZATION = Reach(UUID(int=1))
POD = Reach(UUID(int=1), UUID(int=11))
INBOX = Reach(UUID(int=1), UUID(int=11), UUID(int=111))
OTHER_POD = Reach(UUID(int=1), UUID(int=12))
OTHER_INBOX = Reach(UUID(int=1), UUID(int=11), UUID(int=112))
STRANGER = Reach(UUID(int=2))
REACHES = (ORGANIZATION, POD, INBOX, OTHER_POD, OTHER_INBOX, STRANGER)


def caller(
    permissions: frozenset[str] | None = None,
    expires_at: datetime | None = None,
    reach: Reach = ORGANIZATION,
) -> Principal:
    return Principal(
        reach=reach, api_key_id=UUID(int=2), permissions=permissions, expires_at=expires_at
    )


def at(hours: int | None) -> datetime | None:
    return None if hours is None else NOW + timedelta(hours=hours)


def within(granted: frozenset[str] | None, own: frozenset[str] | None) -> bool:
    return own is None or (granted is not None and granted <= own)


def test_every_permission_of_the_contract_is_known() -> None:
    """A client that names all of them must not be told that one does not exist."""
    assert set(ApiKeyPermissions.model_fields) == PERMISSIONS | MEANINGLESS
    assert not PERMISSIONS & MEANINGLESS


def test_the_seeds_names_mean_the_contracts() -> None:
    """Seed 004's names would be kept and grant nothing."""
    assert canonical({"messages:read": True, "messages:write": False}) == {
        "message_read": True,
        "message_send": False,
    }
    assert set(SPELLINGS.values()) <= PERMISSIONS


@pytest.mark.parametrize("first", [True, False])
def test_of_two_spellings_the_stricter_counts(first: bool) -> None:
    """Somebody who forbids a thing by one name must not allow it by the other."""
    for names in (("messages:read", "message_read"), ("message_read", "messages:read")):
        wanted = {names[0]: first, names[1]: not first}
        assert canonical(wanted) == {"message_read": False}


@pytest.mark.parametrize(
    "wanted", [{"": True}, {"a b": True}, {"x" * 65: True}, {f"p{n}": True for n in range(257)}]
)
def test_what_is_no_list_of_permissions_is_refused(wanted: dict[str, bool]) -> None:
    """Anything could be stored with a key."""
    with pytest.raises(Invalid) as caught:
        canonical(wanted)
    assert caught.value.field == "permissions"


@given(GRANTS)
def test_a_list_grants_what_is_true_and_nothing_else(wanted: dict[str, bool] | None) -> None:
    granted = granted_by(canonical(wanted))
    if wanted is None:
        assert granted is None
    else:
        assert granted == {name for name, on in wanted.items() if on}


def test_a_reach_covers_itself_and_what_is_narrower() -> None:
    """A key for one customer's pod would reach another's."""
    covered = {(a, b) for a in REACHES for b in REACHES if a.covers(b)}
    assert covered == {
        *((each, each) for each in REACHES),
        *((ORGANIZATION, each) for each in (POD, INBOX, OTHER_POD, OTHER_INBOX)),
        (POD, INBOX),
        (POD, OTHER_INBOX),
    }


@given(GRANTED, GRANTED)
def test_no_key_makes_a_stronger_one(
    own: frozenset[str] | None, wanted: frozenset[str] | None
) -> None:
    if within(wanted, own):
        delegation.check_new(caller(own), ORGANIZATION, wanted, None)
        return
    with pytest.raises(Forbidden) as caught:
        delegation.check_new(caller(own), ORGANIZATION, wanted, None)
    assert caught.value.reason == "permission_escalation"


@pytest.mark.parametrize("own", REACHES)
@pytest.mark.parametrize("wanted", REACHES)
def test_no_key_makes_one_that_reaches_further(own: Reach, wanted: Reach) -> None:
    if own.covers(wanted):
        delegation.check_new(caller(reach=own), wanted, None, None)
        return
    with pytest.raises(NotFound):
        delegation.check_new(caller(reach=own), wanted, None, None)


LIVES = [(None, None, True), (None, 1, True), (1, None, False), (1, 1, True), (1, 2, False)]


@pytest.mark.parametrize(("own", "wanted", "fine"), LIVES)
def test_no_key_makes_one_that_outlives_it(
    own: int | None, wanted: int | None, *, fine: bool
) -> None:
    if fine:
        delegation.check_new(caller(None, at(own)), ORGANIZATION, None, at(wanted))
        return
    with pytest.raises(Forbidden) as caught:
        delegation.check_new(caller(None, at(own)), ORGANIZATION, None, at(wanted))
    assert caught.value.reason == "permission_escalation"


@given(GRANTED, GRANTED)
def test_no_key_touches_a_stronger_one(
    own: frozenset[str] | None, theirs: frozenset[str] | None
) -> None:
    """It could rename, cripple or revoke the key of its owner."""
    if within(theirs, own):
        delegation.check_touch(caller(own), caller(theirs))
        return
    with pytest.raises(Forbidden) as caught:
        delegation.check_touch(caller(own), caller(theirs))
    assert caught.value.reason == (
        "unrestricted_key_required" if theirs is None else "permission_escalation"
    )


@given(GRANTED, GRANTED, GRANTED, st.sampled_from(LIVES))
def test_a_change_gives_no_key_more_than_its_maker_has(
    own: frozenset[str] | None,
    before: frozenset[str] | None,
    after: frozenset[str] | None,
    lives: tuple[int | None, int | None, bool],
) -> None:
    """A key for a day could put all it may do into one that lives for ever."""
    mine, theirs, outlives = lives[0], lives[1], not lives[2]
    me, key = caller(own, at(mine)), caller(before, at(theirs))
    if within(after, own) and (within(after, before) or not outlives):
        delegation.check_change(me, key, after)
        return
    with pytest.raises(Forbidden) as caught:
        delegation.check_change(me, key, after)
    assert caught.value.reason == "permission_escalation"


@given(NAMES, st.frozensets(NAMES))
def test_a_permission_is_had_or_refused_by_name(name: str, own: frozenset[str]) -> None:
    caller().require(name)
    if name in own:
        caller(own).require(name)
        return
    with pytest.raises(Forbidden, match=name) as caught:
        caller(own).require(name)
    assert caught.value.reason == "missing_permission"


def test_a_key_lives_until_its_time_is_over() -> None:
    caller().check_live()
    caller(expires_at=datetime.now(UTC) + timedelta(seconds=5)).check_live()
    with pytest.raises(Unauthorized) as caught:
        caller(expires_at=datetime.now(UTC)).check_live()
    assert caught.value.reason == "api_key_expired"
