"""Addresses: what a caller writes is read right, or refused with the field and a fix."""

from __future__ import annotations

import string
from contextlib import suppress
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.addresses import MAX_RECIPIENTS, check_domain, display, parse, parse_list
from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import Address

WORD = st.text(string.ascii_letters + string.digits + "+-_'", min_size=1, max_size=10)
LOCAL = st.lists(WORD, min_size=1, max_size=3).map(".".join)
LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
DOMAIN = st.lists(LABEL, min_size=2, max_size=4).map(".".join)
EMAIL = st.builds("{}@{}".format, LOCAL, DOMAIN)
NAME = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40
).map(lambda text: " ".join(text.split()))
ADDRESS = st.builds(Address, EMAIL, st.none() | NAME.filter(bool))


@given(ADDRESS)
def test_what_the_api_shows_can_be_sent_back(address: Address) -> None:
    assert parse(display(address), "to") == address


@given(st.lists(ADDRESS, max_size=5))
def test_a_list_may_come_as_texts_or_as_one_text(addresses: list[Address]) -> None:
    shown = [display(address) for address in addresses]
    assert parse_list(shown, "to") == tuple(addresses)
    assert parse_list(", ".join(shown), "to") == tuple(addresses)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """A request with a strange address must never be a 500."""
    with suppress(Invalid):
        found = parse_list(text, "to")
        assert all(parse(display(each), "to") == each for each in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ada@example.com", Address("ada@example.com")),
        ("  Ada@EXAMPLE.com ", Address("Ada@example.com")),
        ("Ada Lovelace <ada@example.com>", Address("ada@example.com", "Ada Lovelace")),
        ('"Lovelace, Ada" <ada@example.com>', Address("ada@example.com", "Lovelace, Ada")),
        ('"say \\"hi\\"" <ada@example.com>', Address("ada@example.com", 'say "hi"')),
        ("ada@example.com <ada@example.com>", Address("ada@example.com", "ada@example.com")),
        ("<ada@example.com>", Address("ada@example.com")),
        ("ada@bücher.example", Address("ada@xn--bcher-kva.example")),
        ("a+b_c'd@ex-ample.co.uk", Address("a+b_c'd@ex-ample.co.uk")),
    ],
)
def test_accepted_forms(text: str, expected: Address) -> None:
    assert parse(text, "to") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "ada@localhost",
        "a b@example.com",
        "ada@@example.com",
        ".ada@example.com",
        "a..b@example.com",
        "ada@-example.com",
        "ada@exa mple.com",
        "Ada ada@example.com>",
        "Ada <ada@example.com> x",
        "Ada <> <ada@example.com>",
        "Müller, Hans <hans@example.com>",
        "ada@example.com, bob@example.com",
    ],
)
def test_refused_forms_name_the_field_and_show_an_example(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text, "reply_to")
    assert caught.value.field == "reply_to"
    assert caught.value.detail == "INVALID_EMAIL"
    assert "ada@example.com" in (caught.value.fix or "")


@given(EMAIL, st.sampled_from(["\r\n", "\n", "\r", "\0", "\x1b", "\u2028"]), st.data())
def test_a_line_break_never_gets_into_a_header(email: str, bad: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(email)))
    with pytest.raises(Invalid) as caught:
        parse_list(f"Ada <{email[:place]}{bad}{email[place:]}>", "cc")
    assert caught.value.detail == "HEADER_INJECTION"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("a" * 65 + "@example.com", "ADDRESS_TOO_LONG"),
        ("a@" + "b" * 300 + ".com", "ADDRESS_TOO_LONG"),
        ("x" * 10_000 + " <a@example.com>", "NAME_TOO_LONG"),
    ],
)
def test_too_long_is_said_so(text: str, detail: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse(text, "to")
    assert caught.value.detail == detail


@pytest.mark.parametrize(
    "value",
    [
        "a@b.cc," * (MAX_RECIPIENTS + 1),
        ["a@b.cc"] * (MAX_RECIPIENTS + 1),
        ["a@b.cc, b@b.cc"] * (MAX_RECIPIENTS // 2) + ["c@b.cc"],
        "," * 20_000_000,
        "x" * 20_000_000,
        [" " * 10_000_000] * 2,
    ],
    ids=["in one text", "in many", "in both", "only commas", "no comma", "only spaces"],
)
def test_a_list_longer_than_any_mail_takes_is_not_read(value: str | list[str]) -> None:
    """One request would hold the process for a quarter of a minute, with all others waiting."""
    started = thread_time()
    with pytest.raises(Invalid) as caught:
        parse_list(value, "reply_to")
    assert (caught.value.field, caught.value.detail) == ("reply_to", "TOO_MANY_RECIPIENTS")
    assert thread_time() - started < 1


def test_a_list_as_long_as_a_mail_takes_is_read() -> None:
    longest = f'"{"x" * 256}" <{"a" * 64}@{".".join(["b" * 61] * 3)}.cc>'
    assert len(parse_list(", ".join([longest] * MAX_RECIPIENTS), "to")) == MAX_RECIPIENTS
    assert len(parse_list([longest] * MAX_RECIPIENTS, "to")) == MAX_RECIPIENTS


def test_nothing_given_is_no_address_but_a_blank_entry_is_a_mistake() -> None:
    assert parse_list(None, "cc") == parse_list([], "cc") == parse_list(" , ", "cc") == ()
    with pytest.raises(Invalid):
        parse_list(["ada@example.com", ""], "cc")


def test_domains_are_lower_case_ascii() -> None:
    assert check_domain(" Bücher.Example ", "domain") == "xn--bcher-kva.example"
    with pytest.raises(Invalid) as caught:
        check_domain("not a domain", "domain")
    assert caught.value.detail == "INVALID_DOMAIN"
