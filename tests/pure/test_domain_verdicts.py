"""What findings mean for the domain: when it is complete, when broken, and when it is looked at again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.domains.judging import VALID, Finding
from agentmail_cp.domains.verdicts import (
    FAILED_CHECKS,
    LATEST,
    SOONEST,
    Standing,
    Verdict,
    after,
    next_check,
    verdict,
)
from tests.dns_answers import findings, published, records

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ALL: Mapping[str, Finding] = findings(published())
MISSING = Finding(status="MISSING", reason="There is no such record.")
WRONG = Finding(status="INVALID", kind="value_mismatch", reason="Found x.")
SILENT = Finding(status=None, reason="ns1 does not answer.")


def seen(
    before: Mapping[str, Finding] | None = None, *, verified: bool = True, **changed: Finding
) -> Verdict:
    return verdict(records(), before or {}, {**ALL, **changed}, verified=verified)


def test_a_domain_is_complete_with_all_required_records() -> None:
    assert seen().complete
    assert seen(mta_sts=MISSING, wildcard_spf=WRONG).complete
    assert not seen(spf=MISSING).complete


def test_missing_records_are_no_reason_and_wrong_ones_are() -> None:
    """PENDING is whoever has not got round to it, INVALID who has to mend something."""
    assert seen(spf=MISSING).reason is None
    assert seen(spf=WRONG).reason == "TXT acme.test: Found x."
    assert seen(mta_sts=WRONG).reason is None


def test_silence_says_nothing() -> None:
    """Neither for a domain that was whole before, nor against one that was not."""
    silent = seen(ALL, spf=SILENT)
    assert (silent.complete, silent.failed, silent.answered) == (True, False, False)
    silent = seen({}, spf=SILENT)
    assert (silent.complete, silent.failed, silent.answered) == (False, False, False)
    assert silent.findings["spf"].status == "MISSING"


def test_a_record_that_is_wanted_since_the_check_began_is_not_there_yet() -> None:
    found = {key: each for key, each in ALL.items() if key != "mx"}
    assert not verdict(records(), {}, found, verified=True).complete


def checked(*steps: tuple[Verdict, timedelta], works: bool = True) -> Standing:
    standing, now = Standing(), NOW
    for found, rest in steps:
        standing = after(standing, found, works=works, now=now)
        now += rest
    return standing


QUARTER = timedelta(minutes=15)
BAD, GOOD, MUTE = seen(spf=WRONG), seen(), seen(ALL, spf=SILENT)


def test_a_domain_is_broken_after_an_hour_of_failed_checks() -> None:
    assert checked(*[(BAD, QUARTER)] * 4).broken_since is None
    assert checked(*[(BAD, QUARTER)] * 5).broken_since == NOW + 4 * QUARTER


def test_many_checks_within_minutes_break_nothing() -> None:
    """Whoever presses the button again and again must not pause their own inboxes."""
    standing = checked(*[(BAD, timedelta(seconds=5))] * 50)
    assert standing.failures > FAILED_CHECKS
    assert standing.broken_since is None


def test_an_hour_without_checks_breaks_nothing() -> None:
    assert checked((BAD, timedelta(hours=3)), (BAD, QUARTER)).broken_since is None


def test_one_good_check_begins_the_count_anew_and_silence_does_not() -> None:
    assert checked(*[(BAD, QUARTER)] * 4, (GOOD, QUARTER), (BAD, QUARTER)).failures == 1
    mute = seen({**ALL, "spf": WRONG}, spf=SILENT)
    assert checked(*[(BAD, QUARTER)] * 4, (mute, QUARTER), (BAD, QUARTER)).broken_since is not None
    assert checked(*[(MUTE, QUARTER)] * 50) == Standing()


def test_a_domain_that_the_mail_server_does_not_have_does_not_break() -> None:
    assert checked(*[(BAD, QUARTER)] * 50, works=False) == Standing()


def test_a_record_that_was_never_there_breaks_nothing_and_one_that_was_does() -> None:
    """A domain that is to have sub-domains from now on works as before, by the records it had."""
    had = {key: each for key, each in ALL.items() if key != "wildcard_mx"}
    waiting = seen(had, verified=False, wildcard_mx=MISSING)
    assert (waiting.complete, waiting.failed, waiting.lost) == (False, True, False)
    assert checked(*[(waiting, QUARTER)] * 50) == Standing()
    bad = seen(waiting.findings, verified=False, wildcard_mx=MISSING, spf=MISSING)
    assert checked((waiting, LATEST), *[(bad, QUARTER)] * 4).broken_since is None
    again = seen(bad.findings, verified=False, wildcard_mx=MISSING, spf=WRONG)
    assert checked((bad, QUARTER), *[(again, QUARTER)] * 4).broken_since is not None


def test_a_domain_is_mended_once_all_is_back_that_it_worked_by() -> None:
    """Silence mends nothing, and the record that it waits for is not needed to."""
    had = {key: each for key, each in ALL.items() if key != "wildcard_mx"}
    broken = Standing(5, NOW - LATEST, NOW)
    bad = seen(had, verified=False, wildcard_mx=MISSING, spf=WRONG)
    mute = seen(bad.findings, verified=False, wildcard_mx=MISSING, spf=SILENT)
    assert after(broken, mute, works=True, now=NOW) == broken
    back = seen(bad.findings, verified=False, wildcard_mx=MISSING)
    assert after(broken, back, works=True, now=NOW) == Standing()


def test_a_working_domain_that_waits_for_a_record_is_looked_at_as_often_as_any() -> None:
    """It may be lost all the same, however long ago it was changed."""
    had = {key: each for key, each in ALL.items() if key != "wildcard_mx"}
    waiting = seen(had, verified=False, wildcard_mx=MISSING)
    rest = next_check(waiting, works=True, waiting=timedelta(days=30), chance=0.5)
    assert rest == next_check(GOOD, works=True, waiting=timedelta(0), chance=0.5)


@given(
    st.sampled_from([BAD, GOOD, MUTE, seen(spf=MISSING)]),
    st.booleans(),
    st.timedeltas(timedelta(0), timedelta(days=4000)),
    st.floats(0, 1),
)
def test_the_next_check_is_neither_at_once_nor_never(
    found: Verdict, works: bool, waiting: timedelta, chance: float
) -> None:
    rest = next_check(found, works=works, waiting=waiting, chance=chance)
    assert timedelta(seconds=15) <= rest <= LATEST * 1.2


@pytest.mark.parametrize(
    ("waiting", "least", "most"),
    [
        (timedelta(0), SOONEST, SOONEST),
        (timedelta(hours=1), 6 * SOONEST, 6 * SOONEST),
        (timedelta(days=30), LATEST, LATEST),
    ],
)
def test_the_longer_a_domain_waits_the_longer_it_waits_for_a_look(
    waiting: timedelta, least: timedelta, most: timedelta
) -> None:
    """Claims that nobody will ever prove must not cost a look a minute for years."""
    found = seen(spf=MISSING)
    assert least <= next_check(found, works=False, waiting=waiting, chance=0.5) <= most


def test_what_is_valid_has_no_reason() -> None:
    assert VALID.reason is None
