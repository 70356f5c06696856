"""What a key may do and give away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import access
from agentmail_cp.access import PERMISSIONS, Principal, Reach
from agentmail_cp.errors import Forbidden

NAMES = st.sampled_from(sorted(PERMISSIONS))
GRANTS = st.none() | st.dictionaries(NAMES, st.booleans(), max_size=6)
NOW = datetime.now(UTC)


def caller(
    permissions: frozenset[str] | None = None, expires_at: datetime | None = None
) -> Principal:
    return Principal(
        reach=Reach(UUID(int=1)),
        api_key_id=UUID(int=2),
        permissions=permissions,
        expires_at=expires_at,
    )


@given(st.frozensets(NAMES), GRANTS)
def test_no_key_makes_a_stronger_one(own: frozenset[str], wanted: dict[str, bool] | None) -> None:
    granted = None if wanted is None else {name for name, on in wanted.items() if on}
    if granted is not None and granted <= own:
        assert access.grantable(caller(own), wanted) == wanted
        return
    with pytest.raises(Forbidden) as caught:
        access.grantable(caller(own), wanted)
    assert caught.value.reason == "permission_escalation"


@given(GRANTS)
def test_an_unlimited_key_may_give_anything(wanted: dict[str, bool] | None) -> None:
    assert access.grantable(caller(), wanted) == wanted


@pytest.mark.parametrize(
    ("own", "wanted", "fine"),
    [(None, None, True), (None, 1, True), (1, None, False), (1, 1, True), (1, 2, False)],
)
def test_no_key_makes_one_that_outlives_it(
    own: int | None, wanted: int | None, *, fine: bool
) -> None:
    def at(hours: int | None) -> datetime | None:
        return None if hours is None else NOW + timedelta(hours=hours)

    if fine:
        access.outlived(caller(expires_at=at(own)), at(wanted))
        return
    with pytest.raises(Forbidden):
        access.outlived(caller(expires_at=at(own)), at(wanted))


@given(NAMES, st.frozensets(NAMES))
def test_a_permission_is_had_or_refused_by_name(name: str, own: frozenset[str]) -> None:
    caller().require(name)
    if name in own:
        caller(own).require(name)
        return
    with pytest.raises(Forbidden, match=name) as caught:
        caller(own).require(name)
    assert caught.value.reason == "missing_permission"
