"""Mails of every real and hostile kind go in over SMTP and come out of the API as a person reads them.

Each `tests/corpus/*.eml` stands beside a `.json` written by hand: what the mail says, by its RFCs or, where
senders break them, by what its reader would want. Where one of the two mail servers reads it otherwise and
nothing outside can help, the expectation has a key of that server's name with the fields that differ and
`why`. `refused` means that the mail is not taken at all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from smtplib import SMTPResponseException
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import pytest_asyncio

from agentmail_cp.sandbox import MailSandbox
from tests.fix_app import DOMAIN, Json, Service, serving, serving_on_stalwart, until
from tests.fix_front_door import FrontDoor, Porch
from tests.fix_pg import empty
from tests.fix_stalwart import StalwartServer

CORPUS = Path(__file__).parents[1] / "corpus"
WRITTEN = sorted(path.stem for path in CORPUS.glob("*.eml"))
AT_ONCE = 8
PATIENCE = 10.0
ATTACHMENT = ("filename", "content_type", "size", "content_id", "inline")


HEAD = "From: Ada <ada@elsewhere.test>\r\nSubject: {}\r\nMIME-Version: 1.0\r\n"
TEXT = "Content-Type: text/plain; charset=utf-8\r\n\r\nWords\r\n"


class Monster(NamedTuple):
    """A mail too large to be written by hand, and what it says."""

    raw: bytes
    expected: Json


def _expected(subject: str, text: str | None, attachments: Iterable[Json] = ()) -> Json:
    return {
        "subject": subject,
        "from": "Ada <ada@elsewhere.test>",
        "text": text,
        "html": None,
        "attachments": list(attachments),
    }


def a_thousand_parts() -> Monster:
    """One text and 999 files."""
    files = "".join(
        f"--b\r\nContent-Type: application/x-n\r\nContent-Disposition: attachment; filename={n}.bin"
        f"\r\n\r\n{n}\r\n"
        for n in range(999)
    )
    raw = HEAD.format("Many") + "Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    raw += f"--b\r\n{TEXT}{files}--b--\r\n"
    shown = (
        {
            "filename": f"{n}.bin",
            "content_type": "application/x-n",
            "size": len(str(n)),
            "content_id": None,
            "inline": False,
        }
        for n in range(999)
    )
    return Monster(raw.encode(), _expected("Many", "Words", shown))


def multiparts_in_multiparts(depth: int = 40) -> Monster:
    """A text below forty multiparts."""
    raw = TEXT
    for level in range(depth):
        raw = (
            f"Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n"
            f"--b{level}\r\n{raw}--b{level}--\r\n"
        )
    return Monster((HEAD.format("Deep") + raw).encode(), _expected("Deep", "Words"))


def mails_in_mails(depth: int = 40) -> Monster:
    """Forty mails, each attached to the next: a single file for who reads the outermost."""
    raw = HEAD.format("Innermost") + TEXT
    size = 0
    for level in range(depth):
        size = len(raw)
        raw = (
            HEAD.format(f"Level {level}")
            + f"Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n{TEXT}"
            f"--b{level}\r\nContent-Type: message/rfc822\r\n\r\n{raw}\r\n--b{level}--\r\n"
        )
    inner = {
        "filename": None,
        "content_type": "message/rfc822",
        "size": size,
        "content_id": None,
        "inline": False,
    }
    return Monster(raw.encode(), _expected(f"Level {depth - 1}", "Words", [inner]))


def two_thousand_headers() -> Monster:
    """A mail that is mostly headers, one of them very long."""
    more = "".join(f"X-Header-{n}: {'v' * 50}\r\n" for n in range(2000))
    more += "X-Long: " + "\r\n ".join(["word"] * 5000) + "\r\n"
    return Monster((HEAD.format("Heads") + more + TEXT).encode(), _expected("Heads", "Words\n"))


def a_megabyte_on_one_line() -> Monster:
    """What no mail server has to take, and some send."""
    line = "word " * 180_000
    raw = HEAD.format("Line") + f"Content-Type: text/plain\r\n\r\n{line}\r\n"
    return Monster(raw.encode(), _expected("Line", f"{line}\n"))


MONSTERS = {
    made.__name__: made()
    for made in (
        a_thousand_parts,
        multiparts_in_multiparts,
        mails_in_mails,
        two_thousand_headers,
        a_megabyte_on_one_line,
    )
}


class Seen(NamedTuple):
    """What became of every mail in one world."""

    world: str
    messages: dict[str, Json]


async def _delivered(service: Service, world: str, mails: dict[str, bytes]) -> Seen:
    few = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, raw: bytes) -> tuple[str, Json]:
        async with few:
            return name, await _message(service, raw)

    return Seen(world, dict(await asyncio.gather(*(one(*mail) for mail in mails.items()))))


async def _message(service: Service, raw: bytes) -> Json:
    """The one message of an inbox that gets this mail."""
    inbox = await service.inbox()
    try:
        await service.deliver(raw, inbox["email"])
    except SMTPResponseException as error:
        return {"refused": error.smtp_code}

    async def listed() -> list[Json]:
        return await service.messages(inbox, include_spam="true")

    try:
        (item,) = await until(listed, lambda seen: len(seen) == 1, seconds=PATIENCE)
    except AssertionError as error:
        return {"lost": str(error)}
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages/{quote(item['message_id'], safe='')}"
    answer = await service.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _mails() -> dict[str, bytes]:
    written = {name: (CORPUS / f"{name}.eml").read_bytes() for name in WRITTEN}
    return written | {name: monster.raw for name, monster in MONSTERS.items()}


@pytest_asyncio.fixture(scope="module")
async def in_the_sandbox(migrated_url: str, porch: Porch) -> Seen:
    """Every mail of the corpus, delivered to the sandbox by a service that is gone again."""
    sandbox = MailSandbox(DOMAIN)
    async with (
        sandbox.listening() as door,
        serving(migrated_url, sandbox, smtp_port=door.port, porch=porch) as service,
    ):
        seen = await _delivered(service, "sandbox", _mails())
    await empty(migrated_url)
    return seen


@pytest_asyncio.fixture(scope="module")
async def in_stalwart(
    migrated_url: str, stalwart: StalwartServer, front_door: FrontDoor, porch: Porch
) -> Seen:
    """Every mail of the corpus, delivered to the run's Stalwart by a service that is gone again."""
    async with serving_on_stalwart(migrated_url, stalwart, front_door, porch) as service:
        seen = await _delivered(service, "stalwart", _mails())
    await empty(migrated_url)
    return seen


@pytest.fixture(
    params=[
        pytest.param("in_the_sandbox", id="sandbox"),
        pytest.param("in_stalwart", id="stalwart", marks=pytest.mark.stalwart),
    ]
)
def seen(request: pytest.FixtureRequest) -> Seen:
    """The corpus in both worlds."""
    return request.getfixturevalue(request.param)


def as_expected(message: Json) -> Json:
    """A message in the words of an expectation."""
    if message.keys() & {"refused", "lost"}:
        return message
    attachments = [
        {name: each.get(name) for name in ATTACHMENT}
        | {"inline": each["content_disposition"] == "inline"}
        for each in message.get("attachments", ())
    ]
    return {
        "subject": message.get("subject"),
        "from": message["from"],
        "text": message.get("text"),
        "html": message.get("html"),
        "attachments": attachments,
        "extracted_text": message.get("extracted_text"),
        "extracted_html": message.get("extracted_html"),
    }


@pytest.mark.parametrize("name", MONSTERS)
def test_a_monster_comes_out_as_it_reads(seen: Seen, name: str) -> None:
    """One such mail would stop an inbox, or be cut down to a part of it."""
    expected = MONSTERS[name].expected
    found = as_expected(seen.messages[name])
    assert {field: found.get(field) for field in expected} == expected


@pytest.mark.parametrize("name", WRITTEN)
def test_a_mail_comes_out_as_it_reads(seen: Seen, name: str) -> None:
    """An agent would act on something else than what was written."""
    expected: dict[str, Any] = json.loads((CORPUS / f"{name}.json").read_text("utf-8"))
    worlds = {world: expected.pop(world, {}) for world in ("sandbox", "stalwart")}
    special = worlds[seen.world]
    assert not special or len(special.pop("why")) > 20
    if "refused" in special:
        expected = special
    found = as_expected(seen.messages[name])
    assert {field: found.get(field) for field in expected} == expected | special


def test_every_mail_has_an_expectation() -> None:
    """A mail without one would be delivered and never looked at."""
    assert len(WRITTEN) >= 45
    assert {path.stem for path in CORPUS.glob("*.json")} == set(WRITTEN)
