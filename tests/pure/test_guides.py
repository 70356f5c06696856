"""README and docs: what they name exists, what they link to is there, and the numbers are the settings'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich_click as click

from agentmail_cp import limits
from agentmail_cp.access import PERMISSIONS
from agentmail_cp.access.permissions import MEANINGLESS
from agentmail_cp.cli import main
from agentmail_cp.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guide").glob("*.md"))
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
DEFAULTS = limits.defaults(Settings(database_url="postgresql://unused/unused"))

LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
VARIABLE = re.compile(rf"{PREFIX}([A-Z][A-Z_]+[A-Z])\b")
COMMAND = re.compile(r"agentmail-cp((?: [a-z][a-z-]*)+)")
PERMISSION = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")
LIMIT = re.compile(r"^\| `(\w+)` \| ([\d,]+) \|", re.MULTILINE)
PATH = re.compile(r"`((?:agentmail_cp|docs|deploy|tests|stalwart-config)/[\w/.-]*)`")

page = pytest.mark.parametrize("page", PAGES, ids=lambda each: str(each.relative_to(ROOT)))


@page
def test_what_a_page_links_to_is_there(page: Path) -> None:
    """A reader would be led nowhere."""
    text = page.read_text(encoding="utf-8")
    assert [each for each in LINK.findall(text) if not (page.parent / each).exists()] == []
    assert [each for each in PATH.findall(text) if not (ROOT / each).exists()] == []


@page
def test_a_setting_that_a_page_names_is_one(page: Path) -> None:
    """An operator would set something that the service refuses to start with."""
    named = {each.lower() for each in VARIABLE.findall(page.read_text(encoding="utf-8"))}
    assert {each.removesuffix("_file") for each in named} <= set(Settings.__struct_fields__)


@page
def test_a_command_that_a_page_names_is_one(page: Path) -> None:
    """An operator would be told that there is no such command."""
    for words in COMMAND.findall(page.read_text(encoding="utf-8")):
        at: click.Command = main
        for word in words.split():
            if not isinstance(at, click.Group):
                break
            assert word in at.commands, f"agentmail-cp{words}"
            at = at.commands[word]


def test_the_readme_leads_to_every_guide() -> None:
    """Nobody would find it."""
    linked = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {str(each.relative_to(ROOT)) for each in GUIDES} <= set(linked)


def quoted() -> Iterator[tuple[str, int]]:
    """Limits and their defaults, as the guides' tables have them."""
    for guide in ("limits", "pausing"):
        text = (ROOT / f"docs/guide/{guide}.md").read_text(encoding="utf-8")
        for name, value in LIMIT.findall(text):
            yield name, int(value.replace(",", ""))


def test_the_defaults_in_the_guide_are_those_of_the_settings() -> None:
    """An operator would plan with numbers that do not hold."""
    told = dict(quoted())
    assert len(told) > 7
    assert told == {name: getattr(DEFAULTS, name) for name in told}


def test_the_guide_to_keys_names_every_permission_that_grants_something() -> None:
    """Somebody who narrows a key by the table would never find what lets an agent have its webhooks."""
    text = (ROOT / "docs/guide/keys.md").read_text(encoding="utf-8")
    table = text.partition("| For | Permissions |")[2].partition("\n\n")[0]
    told = PERMISSION.findall(table)
    assert sorted(told) == sorted(PERMISSIONS)
    examples = PERMISSION.findall(text.partition("grant nothing")[0].rpartition("Names for")[2])
    assert examples
    assert set(examples) <= MEANINGLESS


@pytest.mark.parametrize(
    ("place", "text", "name"),
    [
        ("docs/guide/limits.md", "may make {:,} requests a minute", "requests_per_minute"),
        ("CHANGELOG.md", "Requests: {:,} a minute", "requests_per_minute"),
        ("CHANGELOG.md", "recipients a day of an organisation ({:,})", "sends_per_day"),
        ("CHANGELOG.md", "mails an hour into one thread ({:,})", "thread_sends_per_hour"),
        ("docs/guide/lists.md", "room for {:,} entries", "list_entries_per_organization"),
        ("docs/guide/webhooks.md", "may have {:,} (", "webhooks_per_organization"),
    ],
)
def test_a_number_in_a_sentence_is_the_default(place: str, text: str, name: str) -> None:
    """The same; seed 001 promises the first two."""
    words = " ".join((ROOT / place).read_text(encoding="utf-8").split())
    assert text.format(getattr(DEFAULTS, name)) in words
