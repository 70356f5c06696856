"""When an inbox may not send: which reason is told, and when too much of its mail ended badly."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import limits, pauses
from agentmail_cp.limits import Limits
from agentmail_cp.outcomes.reputation import FEWEST, Reputation, reputation, too_bad
from agentmail_cp.recipients import Tally
from agentmail_cp.settings import Settings

DEFAULTS = limits.defaults(Settings(database_url="postgresql://unused/unused"))
counts = st.integers(min_value=0, max_value=5_000)


def test_what_stops_most_is_told_first() -> None:
    """A caller who mends the lesser trouble would find that nothing changed."""
    every = pauses.pause("paused", "Too much bounced.", "The domain is broken.")
    assert every is not None
    assert every.reason == pauses.BY_STATUS
    both = pauses.pause("active", "Too much bounced.", "The domain is broken.")
    assert both is not None
    assert both.reason == "The domain is broken."
    one = pauses.pause("active", "Too much bounced.", None)
    assert one is not None
    assert (one.reason, one.fix) == ("Too much bounced.", "Set its send_paused to false.")
    assert pauses.pause("active", None, None) is None


def with_limits(**changes: int) -> Limits:
    return msgspec.structs.replace(DEFAULTS, **changes)


@pytest.mark.parametrize(
    ("sent", "bounced", "complained", "stops"),
    [
        (100, 10, 0, False),
        (100, 11, 0, True),
        (99, 99, 9, False),
        (100, 0, 2, False),
        (100, 0, 3, True),
        (1_000, 100, 5, False),
        (1_000, 0, 6, True),
        (1_000, 101, 0, True),
    ],
)
def test_the_defaults(sent: int, bounced: int, complained: int, stops: bool) -> None:
    """Ten in a hundred may bounce and five in a thousand complain, of a hundred recipients or more."""
    assert (too_bad(Reputation(sent, bounced, complained), DEFAULTS) is not None) is stops


def test_the_reason_says_what_was_counted() -> None:
    reason = too_bad(Reputation(1_200, 150, 0), DEFAULTS)
    assert reason == "150 of the 1,200 recipients of the last 7 days bounced; at most 10 % may."
    reason = too_bad(Reputation(1_000, 0, 6), DEFAULTS)
    assert reason == "6 of the 1,000 recipients of the last 7 days complained; at most 0.5 % may."


@given(sent=counts, bounced=counts, complained=counts)
def test_nothing_is_a_limit_of_nought(sent: int, bounced: int, complained: int) -> None:
    off = with_limits(pause_bounces_per_thousand=0, pause_complaints_per_thousand=0)
    assert too_bad(Reputation(sent, bounced, complained), off) is None


@given(sent=counts, bounced=counts, most=st.integers(min_value=1, max_value=1000))
def test_more_bounces_never_let_an_inbox_go_on(sent: int, bounced: int, most: int) -> None:
    may = with_limits(pause_bounces_per_thousand=most, pause_least_recipients=1)
    if too_bad(Reputation(sent, bounced, 0), may):
        assert bounced >= FEWEST
        assert too_bad(Reputation(sent, bounced + 1, 0), may)
        assert not too_bad(Reputation(sent, bounced, 0), with_limits(pause_bounces_per_thousand=0))


def test_full_mailboxes_are_no_sign_of_a_bad_list() -> None:
    """They bounce for now; the sender could not know."""
    found = reputation(
        [
            Tally("delivered", None, 90),
            Tally("bounced", "5.1.1", 4),
            Tally("bounced", "5.2.2", 3),
            Tally("bounced", "4.4.1", 2),
            Tally("bounced", None, 1),
            Tally("complained", "abuse", 1),
        ]
    )
    assert found == Reputation(recipients=101, bounced=5, complained=1)
