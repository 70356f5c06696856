"""What is left of a limit, until when, and how that is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import limits, policy
from agentmail_cp.errors import LimitExceeded, RateLimited
from agentmail_cp.limits import Charge, Limits, Standing
from agentmail_cp.settings import Settings

NOW = datetime(2026, 11, 21, 22, 30, 5, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
UNLIMITED = Limits(**dict.fromkeys(limits.NAMES, 0))
THREAD = UUID(int=1)
numbers = st.integers(min_value=0, max_value=30)


def charge(most: Limits, *, recipients: int = 1, thread: bool = False, cold: int = 0) -> Charge:
    everyone = tuple(f"r{number}@elsewhere.test" for number in range(recipients))
    return Charge(
        recipients=everyone,
        cold=everyone[:cold],
        thread_id=THREAD if thread else None,
        limits=most,
    )


def standing(charged: Charge, **used: int) -> Standing:
    return Standing(NOW, {}, used, list(charged.recipients))


@pytest.mark.parametrize("span", [timedelta(hours=1), timedelta(days=1)])
@given(moment=st.datetimes(datetime(2020, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_window_ends_at_the_full_hour_or_at_midnight(span: timedelta, moment: datetime) -> None:
    """Whoever waits until then must find a new window."""
    end = policy.window_end(moment, span)
    assert moment < end <= moment + span
    assert (end.minute, end.second, end.microsecond) == (0, 0, 0)
    assert span < timedelta(days=1) or end.hour == 0


def test_a_day_is_one_in_utc_wherever_the_clock_stands() -> None:
    """Two replicas in two time zones would count two days."""
    here = NOW.astimezone(timezone(timedelta(hours=5, minutes=45)))
    assert policy.window_end(here, timedelta(days=1)) == MIDNIGHT


@given(most=numbers, used=numbers, amount=st.integers(min_value=1, max_value=30))
def test_nobody_is_let_past_a_limit_nor_stopped_before_it(
    most: int, used: int, amount: int
) -> None:
    """One more or one less, in any of the counts."""
    kinds = {
        "organization": ("sends_per_day", charge(UNLIMITED, recipients=amount)),
        "inbox": ("inbox_sends_per_day", charge(UNLIMITED, recipients=amount)),
        "new_recipients": (
            "inbox_new_recipients_per_day",
            charge(UNLIMITED, recipients=amount, cold=amount),
        ),
        "thread": ("thread_sends_per_hour", charge(UNLIMITED, thread=True)),
    }
    for kind, (name, mail) in kinds.items():
        held = msgspec.structs.replace(
            mail, limits=msgspec.structs.replace(UNLIMITED, **{name: most})
        )
        takes = 1 if kind == "thread" else amount
        found = [type(each) for each in policy.shortages(held, standing(held, **{kind: used}))]
        if not most or used + takes <= most:
            assert found == []
        else:
            assert found == [LimitExceeded if takes > most else RateLimited]


def test_what_is_told_says_which_limit_how_much_is_left_and_when() -> None:
    """An agent, and the person behind it, must know what to do without a manual."""
    held = charge(msgspec.structs.replace(UNLIMITED, sends_per_day=10_000), recipients=5)
    (short,) = policy.shortages(held, standing(held, organization=9_998))
    assert isinstance(short, RateLimited)
    assert short.retry_at == MIDNIGHT
    assert short.message == (
        "This organization may send to 10,000 recipients a day; 2 of them left until"
        " 2026-11-22T00:00:00Z, and this message takes 5."
    )
    assert short.fix == (
        "Wait until 2026-11-22T00:00:00Z, or ask the operator of this server to raise sends_per_day."
    )
    held = charge(msgspec.structs.replace(UNLIMITED, inbox_sends_per_day=1), recipients=2)
    (never,) = policy.shortages(held, standing(held))
    assert isinstance(never, LimitExceeded)
    assert never.message == "This inbox may send to 1 recipient a day; this message has 2."


def test_who_was_written_to_before_is_not_new() -> None:
    """A support agent would be stopped in the middle of its conversations."""
    held = charge(
        msgspec.structs.replace(UNLIMITED, inbox_new_recipients_per_day=1), recipients=3, cold=3
    )
    one_stranger = Standing(NOW, {}, {}, [held.recipients[0]])
    assert list(policy.shortages(held, one_stranger)) == []
    assert len(list(policy.shortages(held, standing(held)))) == 1


def test_every_limit_of_an_organization_is_a_setting() -> None:
    """A limit that no setting gives would stop the service from starting."""
    settings = Settings(database_url="postgresql://localhost/x", sends_per_day=7)
    assert limits.defaults(settings).sends_per_day == 7
    assert set(limits.NAMES) <= set(Settings.__struct_fields__)


def test_a_limit_of_another_release_is_passed_over() -> None:
    """A rollback to the release before would refuse every send of that organization."""
    own = {"loop_turns": 3, "no_such_limit": 1}
    assert limits.with_own(UNLIMITED, own) == msgspec.structs.replace(UNLIMITED, loop_turns=3)
