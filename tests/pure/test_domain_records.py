"""Which records a domain needs, and the zone file they are handed out in."""

from __future__ import annotations

import re
from collections.abc import Sequence

import dns.rdatatype
import dns.zone
import pytest
from dns.rdtypes.ANY.TXT import TXT
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.domains import dkim
from agentmail_cp.domains.records import Claimed, Hosts, Key, Record, Stage, hosts_of, wanted
from agentmail_cp.domains.zone import LONGEST_STRING, strings, zone_file
from agentmail_cp.settings import Settings
from tests.dns_answers import ED, HOSTS, MAIL, NAME, RSA, records

URL = "postgresql://localhost/x"


def by_key(claim: Claimed, *keys: Key) -> dict[str, Record]:
    return {each.key: each for each in wanted(claim, keys or (ED, RSA), HOSTS)}


def test_a_domain_that_receives_needs_six_records() -> None:
    """One too many is one that somebody gives up at; one too few is mail that fails."""
    found = by_key(Claimed(NAME, "c0ffee"))
    assert [key for key, each in found.items() if each.required] == [
        *("token", "mx", "spf", "dkim:am-1-ed", "dkim:am-1-rsa", "dmarc")
    ]
    assert found["token"].name == f"_agentmail.{NAME}"
    assert found["token"].value == "agentmail-verification=c0ffee"
    assert (found["mx"].priority, found["mx"].value) == (10, MAIL)
    assert found["dkim:am-1-rsa"].value == f"v=DKIM1; k=rsa; p={RSA.public_key}"


def test_a_domain_that_only_sends_has_no_mx_and_still_names_who_sends() -> None:
    found = by_key(Claimed(NAME, "c0ffee", inbound_enabled=False, subdomains_enabled=True))
    assert not [key for key in found if "mx" in key or "mta_sts" in key]
    assert found["spf"].value == f"v=spf1 a:{MAIL} ~all"


def test_sub_domains_need_a_wildcard_mx() -> None:
    found = by_key(Claimed(NAME, "c0ffee", subdomains_enabled=True))
    assert (found["wildcard_mx"].name, found["wildcard_mx"].required) == (f"*.{NAME}", True)
    assert not found["wildcard_spf"].required


@pytest.mark.parametrize(
    ("stages", "required"),
    [
        (["pending"], [True]),
        (["active", "pending"], [True, False]),
        (["retiring", "active"], [False, True]),
        (["retiring", "pending"], [False, True]),
    ],
)
def test_a_domain_needs_the_records_of_the_keys_that_sign_or_will_be_the_first_to(
    stages: Sequence[Stage], required: Sequence[bool]
) -> None:
    """Rotating keys would otherwise break the domain until the new records are there; and one without any
    key that signs would be VERIFIED, and its mail unsigned.
    """
    keys = [Key(f"s{place}", "rsa", "AAAA", stage) for place, stage in enumerate(stages)]
    found = by_key(Claimed(NAME, "c0ffee"), *keys)
    assert [found[f"dkim:s{place}"].required for place in range(len(stages))] == required


def test_a_retired_key_has_no_record() -> None:
    assert not [
        key for key in by_key(Claimed(NAME, "x"), Key("s", "rsa", "A", "retired")) if "dkim" in key
    ]


def test_each_record_says_what_it_is_for_and_has_a_key_of_its_own() -> None:
    found = records()
    assert all(each.about.endswith(".") for each in found)
    assert len({each.key for each in found}) == len(found)


@pytest.mark.parametrize(
    ("settings", "mail", "sending"),
    [
        ({}, ("mail.agents.test",), ("mail.agents.test",)),
        ({"imap_host": "localhost"}, ("mail.agents.test",), ("mail.agents.test",)),
        ({"public_url": "https://api.acme.test"}, ("api.acme.test",), ("api.acme.test",)),
        ({"public_url": "http://10.0.0.1:8000"}, ("mail.agents.test",), ("mail.agents.test",)),
        ({"smtp_host": "s.test", "imap_host": "i.test"}, ("i.test",), ("i.test",)),
        (
            {"mail_host": "mx1.x.test, MX2.x.test"},
            ("mx1.x.test", "mx2.x.test"),
            ("mx1.x.test", "mx2.x.test"),
        ),
        ({"mail_host": "mx.x.test", "sending_host": "out.x.test"}, ("mx.x.test",), ("out.x.test",)),
    ],
)
def test_records_name_hosts_and_never_addresses(
    settings: dict[str, str], mail: tuple[str, ...], sending: tuple[str, ...]
) -> None:
    """An MX record can't lead to an address."""
    found = hosts_of(Settings(database_url=URL, **settings))  # pyright: ignore[reportArgumentType]
    assert (found.mail, found.sending) == (mail, sending)


def test_the_second_mail_host_is_a_second_choice() -> None:
    hosts = Hosts(mail=("mx1.x.test", "mx2.x.test"), sending=("mx1.x.test",))
    found = {each.key: each for each in wanted(Claimed(NAME, "x"), [], hosts)}
    assert (found["mx"].priority, found["mx:mx2.x.test"].priority) == (10, 20)
    assert not found["mx:mx2.x.test"].required


def test_the_zone_file_is_read_back_as_the_same_records() -> None:
    """A provider that imports it would otherwise publish something else."""
    wanted_records = records()
    zone = dns.zone.from_text(
        zone_file(NAME, wanted_records), NAME, relativize=False, check_origin=False
    )
    found: set[tuple[str, str, str]] = set()
    for name, _ttl, data in zone.iterate_rdatas():
        value = data.to_text().removesuffix(".")
        if isinstance(data, TXT):
            value = b"".join(data.strings).decode()
        kind = dns.rdatatype.to_text(data.rdtype)
        found.add((name.to_text(omit_final_dot=True), kind, value))
    assert found == {
        (each.name, each.type, f"{each.priority} {each.value}" if each.priority else each.value)
        for each in wanted_records
    }


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=700))
def test_any_value_survives_the_zone_file(value: str) -> None:
    """Semicolons would begin a comment, quotes would end a string, and strings end after 255 bytes."""
    each = Record(key="x", type="TXT", name=f"x.{NAME}", value=value, required=False, about="X.")
    zone = dns.zone.from_text(zone_file(NAME, [each]), NAME, check_origin=False)
    (data,) = (data for _, _, data in zone.iterate_rdatas())
    assert isinstance(data, TXT)
    assert b"".join(data.strings).decode() == value


@given(st.text('ab;"\\ ', max_size=1000))
def test_a_value_is_cut_into_strings_that_fit(value: str) -> None:
    pieces = strings(value)
    assert "".join(pieces) == value
    assert all(len(piece) <= LONGEST_STRING for piece in pieces)
    assert pieces


async def test_two_claims_on_a_name_share_no_key_and_no_selector() -> None:
    """The loser of a race could otherwise sign as the winner."""
    first, second = await dkim.new_pairs(), await dkim.new_pairs()
    assert {each.algorithm for each in first} == {"ed25519", "rsa"}
    assert len({each.selector for each in (*first, *second)}) == 4
    assert len({each.public_key for each in (*first, *second)}) == 4
    assert all(re.fullmatch(r"[a-z0-9-]{1,63}", each.selector) for each in first)
    assert "PRIVATE" not in repr(first)
