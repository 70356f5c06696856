"""Lists: who may be written to and heard, whatever entries there are and however an address is spelt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import lists
from agentmail_cp.errors import Invalid
from agentmail_cp.lists import Match, Verdict
from tests.list_model import ADDRESSES, SCOPES, Listed, everything, listed, said

address = st.sampled_from(ADDRESSES)
EXAMPLES: list[tuple[list[Listed], str]] = [
    ([], "allowed"),
    ([Listed("organization", "block", "a.test")], "in block list"),
    ([Listed("organization", "allow", "b.test")], "not in allow list"),
    ([Listed("inbox", "allow", "b.test")], "not in allow list"),
    ([Listed("inbox", "allow", "a.test"), Listed("organization", "block", "a.test")], "allowed"),
    ([Listed("inbox", "block", "a.test"), Listed("inbox", "allow", "ada@a.test")], "in block list"),
    ([Listed("pod", "allow", "ada@a.test"), Listed("inbox", "block", "a.test")], "in block list"),
    (
        [
            Listed("inbox", "allow", "a.test"),
            Listed("organization", "block", "ada@a.test", suppressed=True),
        ],
        "in block list",
    ),
]


def judged(entries: list[Listed], of: str) -> Verdict:
    return lists.verdict(
        [
            Match(
                SCOPES.index(each.scope),
                "block" if each.type == "block" else "allow",
                each.suppressed,
            )
            for each in entries
            if each.entry in lists.spellings(of)
        ],
        exclusive=any(each.type == "allow" for each in entries),
    )


@pytest.mark.parametrize(("entries", "expected"), EXAMPLES)
def test_the_rule_in_examples(entries: list[Listed], expected: str) -> None:
    """The ones docs/guide/lists.md tells of."""
    assert judged(entries, "ada@a.test") == said(entries, "ada@a.test") == expected


@given(everything, address)
def test_any_entries_are_judged_as_the_model_says(entries: list[Listed], of: str) -> None:
    assert judged(entries, of) == said(entries, of)


@given(everything, st.lists(listed), address)
def test_an_inbox_that_says_something_is_not_overruled(
    entries: list[Listed], wider: list[Listed], of: str
) -> None:
    """Whoever runs an inbox must be able to rely on its own lists, but for suppressions."""
    own = [each for each in entries if each.scope == "inbox" and each.fits(of)]
    beyond = [each for each in wider if each.scope != "inbox"]
    if own:
        assert judged([*entries, *beyond], of) == judged(entries, of)


@given(everything, address)
def test_a_suppressed_address_stays_blocked(entries: list[Listed], of: str) -> None:
    """An allow list of a customer's whole domain must not bring back the mailbox that is gone."""
    suppression = Listed("organization", "block", of, suppressed=True)
    assert judged([*entries, suppression], of) is Verdict.BLOCKED


@given(everything, listed, address)
def test_an_entry_for_others_never_opens_a_door(
    entries: list[Listed], another: Listed, of: str
) -> None:
    """Allowing somebody must never let somebody else in."""
    if not another.fits(of) and judged(entries, of) is not Verdict.ALLOWED:
        assert judged([*entries, another], of) is not Verdict.ALLOWED


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Ada@Example.COM", ("ada@example.com", "example.com")),
        ("ada@bücher.example", ("ada@xn--bcher-kva.example", "xn--bcher-kva.example")),
        ("ada@example.com.", ("ada@example.com", "example.com")),
        ('"ada lovelace"@example.com', ('"ada lovelace"@example.com', "example.com")),
        ("a@b@example.com", ("a@b@example.com", "example.com")),
        ("a\0b@example.com", ("a b@example.com", "example.com")),
        (f"{'a' * 300}@example.com", ("example.com",)),
        ("@example.com", ("example.com",)),
        ("ada", ()),
        ("ada@", ()),
        ("ada@localhost", ()),
        ("", ()),
        (None, ()),
    ],
)
def test_a_sender_falls_under_its_address_and_its_domain(
    given: str | None, expected: tuple[str, ...]
) -> None:
    """Odd spellings are how mail gets around a block list."""
    assert lists.spellings(given) == expected


@given(st.text())
def test_no_sender_is_too_odd_to_be_judged(sender: str) -> None:
    """One mail must never stop its inbox; PostgreSQL holds no NUL and no lone surrogate."""
    for each in lists.spellings(sender):
        assert "\0" not in each.encode().decode()


@given(st.emails())
def test_an_entry_is_spelt_like_the_sender_it_is_for(email: str) -> None:
    """Otherwise it is stored and never matches."""
    try:
        entry, kind = lists.parse_entry(email)
    except Invalid:
        return
    assert kind == "email"
    assert lists.spellings(email)[0] == entry
    assert lists.spellings(email.upper())[0] == entry
    assert lists.parse_entry(entry) == (entry, kind)


@given(st.text())
def test_what_is_no_entry_is_refused_by_name(text: str) -> None:
    """Never a crash, and never something that cannot be found again."""
    try:
        entry, _ = lists.parse_entry(text)
    except Invalid as error:
        refused = error
    else:
        assert lists.parse_entry(entry)[0] == entry
        return
    assert (refused.field, bool(refused.detail), bool(refused.fix)) == ("entry", True, True)


def test_a_refusal_names_those_refused_and_why() -> None:
    """The contract's text, which agents match."""
    verdicts = {
        "a@b.test": Verdict.NOT_ALLOWED,
        "ok@b.test": Verdict.ALLOWED,
        "c@d.test": Verdict.BLOCKED,
    }
    assert lists.refusal(verdicts) == (
        "Message rejected: Recipient(s) blocked:"
        " a@b.test (not in allow list), c@d.test (in block list)"
    )
    assert lists.refusal({"ok@b.test": Verdict.ALLOWED}) is None


@pytest.mark.parametrize("entry", ["*@evil.test", " *@EVIL.test", "ev*@evil.test"])
def test_an_entry_with_a_wildcard_is_refused_and_told_to_be_the_domain(entry: str) -> None:
    """A block list of them blocks nobody, and an allow list refuses everybody, while both look right."""
    with pytest.raises(Invalid) as refused:
        lists.parse_entry(entry)
    assert (refused.value.field, refused.value.detail) == ("entry", "INVALID_EMAIL")
    assert "bare domain, evil.test" in (refused.value.fix or "")
