"""SPF as receivers read it, for hosts whose addresses are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.domains import spf
from agentmail_cp.domains.spf import Broken, Host
from tests.dns_answers import MAIL, NAME, Everything

HOST = Host(MAIL, ("192.0.2.7", "2001:db8::7"))
V4 = Host(MAIL, ("192.0.2.7",))
DNS = Everything(
    {
        "other.test/A": ["192.0.2.7"],
        "near.test/A": ["192.0.2.200"],
        "both.test/A": ["192.0.2.7"],
        "both.test/AAAA": ["2001:db8::7"],
        f"{NAME}/A": ["192.0.2.7"],
        "mx.test/MX": ["10 far.test", "20 both.test"],
        "in.test": ["v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all"],
        "not.test": ["v=spf1 -ip4:192.0.2.7 +all"],
        "two.test": ["v=spf1 -all", "v=spf1 +all"],
    }
)


@pytest.mark.parametrize(
    ("record", "host", "passes"),
    [
        ("v=spf1 ip4:192.0.2.7 -all", V4, True),
        ("v=spf1 ip4:192.0.2.7 -all", HOST, False),
        ("v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/64 -all", HOST, True),
        ("v=spf1 a -all", V4, True),
        ("v=spf1 a:other.test -all", V4, True),
        ("v=spf1 a:near.test -all", V4, False),
        ("v=spf1 a:near.test/24 -all", V4, True),
        ("v=spf1 a:both.test -all", HOST, True),
        ("v=spf1 mx:mx.test -all", HOST, True),
        ("v=spf1 include:in.test -all", HOST, True),
        ("v=spf1 include:not.test -all", V4, False),
        ("v=spf1 redirect=in.test", HOST, True),
        ("v=spf1 -ip4:192.0.2.0/24 a:other.test", V4, False),
        ("v=spf1 ?a:other.test -all", V4, False),
        ("v=spf1 +all", HOST, True),
        ("v=spf1 ~all", HOST, False),
        ("v=spf1", HOST, False),
        ("v=spf1 exists:%{i}.x.test ptr -all", HOST, False),
        ("V=SPF1 A:OTHER.test -ALL", V4, True),
        ("v=spf1 exp=why.test foo=bar a:other.test", V4, True),
    ],
)
def test_a_record_lets_in_whom_a_receiver_would_let_in(
    record: str, host: Host, *, passes: bool
) -> None:
    assert spf.lets_in(record, NAME, host, DNS) is passes


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 a:x.test al",
        "v=spf1 ip4:192.0.2",
        "v=spf1 ip6:192.0.2.1",
        "v=spf1 include",
        "v=spf1 include:gone.test",
        "v=spf1 include:two.test",
        "v=spf1 a;mx",
    ],
)
def test_a_record_that_receivers_give_up_is_broken(record: str) -> None:
    with pytest.raises(Broken):
        spf.lets_in(record, NAME, HOST, DNS)


def test_the_merged_record_lets_in_everybody_and_us() -> None:
    merged = spf.merged(["v=spf1 a:near.test mx ~all", "v=spf1 a:near.test -all"], [HOST], DNS)
    assert merged == f"v=spf1 a:{MAIL} a:near.test mx -all"


def test_the_merged_record_stays_within_ten_look_ups() -> None:
    """With eleven, receivers would use none of it: our hosts then stand in it by address."""
    many = "v=spf1 " + " ".join(f"a:h{each}.test" for each in range(10)) + " ~all"
    merged = spf.merged([many], [HOST], DNS)
    assert merged.startswith("v=spf1 ip4:192.0.2.7 ip6:2001:db8::7 a:h0.test")
    assert spf.cost(merged, DNS) == 10


WORDS = st.lists(
    st.sampled_from(
        [
            "a",
            "mx:mx.test",
            "include:in.test",
            "ip4:1.2.3.4",
            "?all",
            "-all",
            "x",
            "redirect=in.test",
        ]
    ),
    max_size=12,
).map(lambda words: " ".join(["v=spf1", *words]))


@given(st.lists(WORDS, min_size=1, max_size=3))
def test_who_publishes_the_merged_record_is_done(records: list[str]) -> None:
    """It is one record that receivers take, it lets us in, and costs no more than they bear."""
    merged = spf.merged(records, [HOST], DNS)
    assert spf.is_spf(merged)
    assert spf.lets_in(merged, NAME, HOST, DNS)
    assert spf.merged([merged], [HOST], DNS) == merged
