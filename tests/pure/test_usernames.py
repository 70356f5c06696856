"""Usernames: seed 003's rules to the letter, and random names that keep them."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import usernames
from agentmail_cp.errors import Invalid

RULE = re.compile(r"(?=.{1,64}\Z)(?!.*(?:\.\.|--))[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?\Z", re.DOTALL)
NEAR = st.text("aZ9.-_é \n", max_size=8) | st.text("ab.", min_size=60, max_size=68)


@given(st.text() | NEAR)
def test_exactly_the_rules_of_the_seed(username: str) -> None:
    if RULE.match(username) and username not in usernames.RESERVED:
        assert usernames.check(username) == username
        return
    with pytest.raises(Invalid):
        usernames.check(username)


@pytest.mark.parametrize("username", ["a", "support", "a.b-c_d", "a__b", "a.-b", "0", "a" * 64])
def test_allowed(username: str) -> None:
    assert usernames.check(username) == username


@pytest.mark.parametrize(
    "username",
    [
        "",
        "Support",
        "a" * 65,
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a_",
        "a..b",
        "a--b",
        "a b",
        "a@b",
        "ä",
        "a\n",
    ],
)
def test_refused(username: str) -> None:
    with pytest.raises(Invalid) as caught:
        usernames.check(username)
    assert caught.value.detail == "INVALID_USERNAME"
    assert caught.value.fix


@pytest.mark.parametrize(
    "username",
    [
        "postmaster",
        "abuse",
        "mailer-daemon",
        "hostmaster",
        "admin",
        "root",
        "noreply",
        "control-plane",
    ],
)
def test_reserved(username: str) -> None:
    with pytest.raises(Invalid) as caught:
        usernames.check(username)
    assert caught.value.detail == "RESERVED_USERNAME"


@given(st.integers())
def test_random_names_keep_the_rules(seed: int) -> None:
    name = usernames.random_username(Random(seed))
    assert usernames.check(name) == name
    assert re.fullmatch(r"[a-z]+-[a-z]+-[a-z0-9]{5}", name)


def test_random_names_do_not_meet() -> None:
    """Ten thousand inboxes without a name get ten thousand addresses."""
    rng = Random(7)
    assert len({usernames.random_username(rng) for _ in range(10_000)}) == 10_000


@given(st.integers(), st.from_regex(r"\A[a-z]{1,57}\Z"))
def test_on_a_shared_domain_a_suffix_is_added(seed: int, username: str) -> None:
    name = usernames.shared_username(username, Random(seed))
    assert re.fullmatch(re.escape(username) + "-[a-z0-9]{6}", name)
    assert usernames.check(name) == name


def test_a_name_without_room_for_the_suffix_is_refused() -> None:
    with pytest.raises(Invalid, match="58 characters"):
        usernames.shared_username("a" * 58, Random(1))
