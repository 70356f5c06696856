"""What the mail server found out about a mail's sender: an agent acts on it, and a stranger chooses much of
what stands around it.
"""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import authentication
from agentmail_cp.authentication import Authentication, Result
from tests.pure.effort import grows_no_faster_than_its_input

HOST = "mail.agents.test"

# As Stalwart 0.16.18 wrote them.
BOTH_PASS = (
    " mail.agents.test;\r\n\tdkim=pass header.d=bank.test header.s=k1 header.b=aGVsbG8h;\r\n\t"
    "spf=none (mail.agents.test: no SPF records found for postmaster@out.test) smtp.helo=out.test;\r\n\t"
    "spf=pass (mail.agents.test: domain of ceo@bank.test designates 192.0.2.7 as permitted sender)"
    " smtp.mailfrom=ceo@bank.test;\r\n\tiprev=permerror (dns record not found) policy.iprev=192.0.2.7;"
    "\r\n\tdmarc=pass header.from=bank.test policy.dmarc=reject\r\n"
)
NOTHING_PASSED = (
    " mail.agents.test;\r\n\tspf=fail (mail.agents.test: domain of ceo@bank.test does not designate"
    " 192.0.2.9 as permitted sender) smtp.mailfrom=ceo@bank.test;\r\n\t"
    "dmarc=none header.from=bank.test policy.dmarc=quarantine\r\n"
)

REJECTS = "dmarc=none header.from=b.test policy.dmarc=reject"


def made(**fields: Any) -> Authentication:
    nothing: dict[str, Any] = {"spf": "none", "dkim": "none", "dmarc": "none"}
    return Authentication(**nothing | fields)


def test_a_mail_that_passes_everything() -> None:
    """The common case: what an agent relies on before it pays an invoice."""
    found = authentication.read([BOTH_PASS])
    assert found == made(
        spf="pass",
        dkim="pass",
        dmarc="pass",
        spf_domain="bank.test",
        dkim_domains=("bank.test",),
        dmarc_domain="bank.test",
        dmarc_policy="reject",
    )
    assert not authentication.is_fail(found)


def test_a_mail_of_which_nothing_passed_fails_the_policy_of_its_sender() -> None:
    """Stalwart calls it `none`; a forged mail of a bank would look like one of somebody without DMARC."""
    found = authentication.read([NOTHING_PASSED])
    assert found is not None
    assert (found.spf, found.dmarc, found.dmarc_policy) == ("fail", "fail", "quarantine")
    assert authentication.is_fail(found)


@pytest.mark.parametrize("undecided", ["spf", "dkim"])
def test_a_check_that_could_not_be_made_leaves_dmarc_undecided(undecided: str) -> None:
    """A name server that is away for a minute must not hide honest mail."""
    found = authentication.read(
        [f"{HOST}; {undecided}=temperror smtp.mailfrom=a@b.test; {REJECTS}"]
    )
    assert found is not None
    assert found.dmarc == "temperror"
    assert not authentication.is_fail(found)


@pytest.mark.parametrize(
    "value",
    ["", " ", HOST, f" {HOST}; none", f"{HOST} 1; none", f"{HOST};;", f"{HOST}; iprev=fail"],
)
def test_nobody_checked(value: str) -> None:
    """Mail of our own inboxes, and of a developer's machine without DNS, is not suspected of anything."""
    assert authentication.read([value]) is None
    assert not authentication.is_fail(authentication.read([value]))


def test_there_is_no_value() -> None:
    """Mail nobody checked carries none."""
    assert authentication.read([]) is None


@pytest.mark.parametrize(
    ("results", "together"),
    [
        (["fail", "pass"], "pass"),
        (["fail", "temperror"], "temperror"),
        (["none", "fail", "neutral"], "fail"),
        (["hardfail"], "fail"),
        (["PASS"], "pass"),
        (["splendid"], "none"),
    ],
)
def test_one_signature_that_passes_is_enough(results: list[str], together: str) -> None:
    """Mail goes through lists that break one signature and add their own."""
    signatures = "; ".join(f"dkim={each} header.d=d{n}.test" for n, each in enumerate(results))
    found = authentication.read([f"{HOST}; spf=none smtp.mailfrom=a@b.test; {signatures}"])
    assert found is not None
    assert found.dkim == together
    passed = tuple(f"d{n}.test" for n, each in enumerate(results) if each.lower() == "pass")
    assert found.dkim_domains == passed


@pytest.mark.parametrize(
    ("fields", "fails"),
    [
        ({"dmarc": "fail", "dmarc_policy": "reject"}, True),
        ({"dmarc": "fail", "dmarc_policy": "quarantine"}, True),
        ({"dmarc": "fail"}, True),
        ({"dmarc": "fail", "dmarc_policy": "none"}, False),
        ({"dmarc": "fail", "dmarc_policy": "none", "spf": "fail"}, False),
        ({"dmarc": "pass", "spf": "fail", "dkim": "fail"}, False),
        ({"dmarc": "temperror", "spf": "fail"}, False),
        ({"spf": "fail"}, True),
        ({"spf": "fail", "dkim": "fail"}, True),
        ({"spf": "fail", "dmarc": "permerror"}, True),
        ({"spf": "fail", "dkim": "pass"}, False),
        ({"spf": "fail", "dkim": "temperror"}, False),
        ({"dkim": "fail"}, False),
        ({"spf": "softfail", "dkim": "fail"}, False),
        ({"spf": "permerror"}, False),
        ({}, False),
    ],
)
def test_what_an_explicit_fail_is(fields: dict[str, Any], fails: bool) -> None:
    """Less would let forgeries through, more would hide mail that people wait for."""
    assert authentication.is_fail(made(**fields)) is fails


def test_the_sender_of_a_bounce_is_the_server_that_greeted() -> None:
    """It has no other; its SPF record is asked for all the same (RFC 7208 section 2.4)."""
    value = f"{HOST}; spf=none smtp.helo=mx.out.test; spf=pass smtp.mailfrom=<>; dmarc=none"
    found = authentication.read([value])
    assert found is not None
    assert (found.spf, found.spf_domain) == ("pass", "mx.out.test")


def test_a_mail_from_several_domains_has_no_dmarc_domain() -> None:
    """Stalwart then writes nothing after the sign of equality; RFC 9989 exempts such mail."""
    value = f"{HOST}; spf=pass smtp.mailfrom=x@good.test; dmarc=none header.from= policy.dmarc=none"
    expected = made(spf="pass", spf_domain="good.test")
    assert authentication.read([value]) == expected


def test_a_domain_without_dmarc_asks_for_nothing_we_know_of() -> None:
    """Stalwart writes `none` where there is no record and where the record says so."""
    found = authentication.read([f"{HOST}; dmarc=none header.from=a.test policy.dmarc=none"])
    assert found is not None
    assert found.dmarc_policy is None


def test_what_a_server_greets_with_says_nothing_of_the_mail() -> None:
    """Whoever has a domain can greet with it, and write in anybody's name."""
    found = authentication.read([f"{HOST}; spf=pass smtp.helo=mx.out.test; dmarc=none"])
    assert found is not None
    assert found.spf == "none"


def test_arc_is_told_where_the_server_tells_it() -> None:
    """In a value of its own, as a second check writes it."""
    found = authentication.read([BOTH_PASS, f" {HOST}; arc=pass smtp.remote-ip=192.0.2.7"])
    assert found is not None
    assert (found.arc, found.dmarc) == ("pass", "pass")


EVERY_LICENCE = (
    '"mail.agents.test" 1 (a (nested) comment; dmarc=pass) ; dmarc/1 = fail (why\\) not; spf=pass)'
    ' reason="it said; spf=pass"\r\n policy.dmarc = reject header.from=bank.test'
)


@pytest.mark.parametrize(
    "value",
    [
        EVERY_LICENCE,
        "mail.agents.test;dmarc=FAIL policy.dmarc=Reject HEADER.FROM=Bank.TEST;",
    ],
)
def test_every_way_to_write_it_is_read(value: str) -> None:
    """Comments, quotes, folds and capitals are the writer's choice (RFC 8601 section 2.2)."""
    expected = made(dmarc="fail", dmarc_domain="bank.test", dmarc_policy="reject")
    assert authentication.read([value]) == expected


def quoted(value: str) -> str:
    """A value as Stalwart 0.16 writes what a stranger chose (mail-auth, `push_quoted_pvalue`)."""
    unsafe = set(map(chr, [*range(0x21), *range(0x7F, 0xA0)])) | set('();="\\')
    if value and not unsafe & set(value):
        return value
    kept = (each for each in value if each >= " " and not "\x7f" <= each <= "\x9f")
    return '"' + "".join(f"\\{each}" if each in '"\\' else each for each in kept) + '"'


def tidied(value: str) -> str:
    """The same in a comment or a name (`sanitize_pvalue`)."""
    return re.sub(r'[\x00-\x20\x7f-\x9f();="\\]', "", value)


hostile = st.lists(
    st.sampled_from([*';="\\() \r\n\t<>@.a\xe9\x00', "dmarc=pass", "spf=pass ", "; dkim=pass"]),
    max_size=40,
).map("".join)


@given(hostile, hostile, hostile)
def test_a_stranger_cannot_speak_in_our_servers_name(sender: str, helo: str, user: str) -> None:
    """The envelope, the greeting and a signature are theirs to choose, and stand in our server's words."""
    value = (
        f" {HOST};\r\n\tdkim=fail (body hash did not verify) header.i={quoted(user)} header.s=s1;\r\n\t"
        f"spf=none ({HOST}: no SPF records found for postmaster@{tidied(helo)})"
        f" smtp.helo={tidied(helo)};\r\n\t"
        f"spf=fail ({HOST}: domain of {tidied(sender)} does not designate 192.0.2.9 as permitted sender)"
        f" smtp.mailfrom={quoted(sender)};\r\n\tdmarc=fail (policy not aligned) header.from=bank.test"
        " policy.dmarc=reject\r\n"
    )
    found = authentication.read([value])
    assert found is not None
    assert (found.spf, found.dkim, found.dmarc) == ("fail", "fail", "fail")
    assert found.dkim_domains == ()
    assert found.dmarc_domain == "bank.test"
    assert authentication.is_fail(found)


pieces = st.sampled_from(
    [
        *';="\\() \r\n',
        HOST,
        "spf=",
        "dkim=",
        "dmarc=",
        "policy.dmarc=",
        "smtp.mailfrom=",
        "a@b.test",
        *get_args(Result),
    ]
)


@given(st.lists(st.lists(pieces).map("".join), max_size=3))
def test_whatever_it_reads_is_small_and_of_known_words(values: list[str]) -> None:
    """It goes into rows, events and webhooks: it must fit there, and never be what no client knows."""
    found = authentication.read(values)
    if found is None:
        return
    for word in (found.spf, found.dkim, found.dmarc, found.arc):
        assert word is None or word in get_args(Result)
    assert len(found.dkim_domains) <= authentication.MOST_DOMAINS
    for domain in (found.spf_domain, found.dmarc_domain, *found.dkim_domains):
        assert domain is None or 0 < len(domain) <= authentication.LONGEST_DOMAIN


@pytest.mark.parametrize(
    "bit", ['"', '\\"', "(", "()", '("', ";", "=", 'a"b"', "dkim=pass ", "(\\"]
)
def test_a_long_value_takes_time_in_proportion(bit: str) -> None:
    """A mail may carry thousands of signatures, and everybody's mail waits for its reading."""
    grows_no_faster_than_its_input(
        # In two values: what was read before is remembered while it is short.
        lambda size: authentication.read(
            [HOST + "; spf=" + bit * (size // len(bit)), " " * authentication.LONGEST_REMEMBERED]
        )
    )
