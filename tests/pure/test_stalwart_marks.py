"""Marks of an account: which it has, which it should have, and that nothing else of it changes."""

from __future__ import annotations

from agentmail_cp.stalwart import marks
from agentmail_cp.stalwart.marks import Alias, Mark, Marked

SALES = Alias("sales", "d1", enabled=False, description="theirs")


def an_account(*names: str) -> Marked:
    """Bob of domain d1 with an alias of his own among marks in domain d1."""
    aliases = [*(Alias(name, "d1") for name in names), SALES]
    listed = {str(at): alias for at, alias in enumerate(aliases)}
    return Marked(id="b", name="bob", domain_id="d1", aliases=listed)


def test_a_paused_catch_all_is_marked_under_every_name_it_gets_mail_by() -> None:
    """A mark that is missing lets mail in while the account is paused."""
    found = marks.wanted(an_account(), paused=True, catches=frozenset({"d2"}))
    assert found == {
        Mark("catch-all~", "d2"),
        Mark("paused~bob", "d1"),
        Mark("paused~catch-all~", "d2"),
    }


def test_what_an_account_is_can_be_read_from_its_marks() -> None:
    account = an_account("paused~bob", "catch-all~", "paused~catch-all~")
    assert marks.is_paused(account)
    assert marks.caught(account) == {"d1"}
    assert account.marks == marks.wanted(account, paused=True, catches=frozenset({"d1"}))
    assert not marks.is_paused(an_account("paused~somebody"))


def test_other_aliases_of_an_account_stay_as_they_are() -> None:
    listed = marks.aliases(an_account("paused~bob"), frozenset({Mark("catch-all~", "d2")}))
    assert listed == {
        "0": {"name": "sales", "domainId": "d1", "enabled": False, "description": "theirs"},
        "1": {"name": "catch-all~", "domainId": "d2", "enabled": True, "description": None},
    }
