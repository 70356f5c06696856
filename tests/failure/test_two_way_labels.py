"""Labels and folders are one thing seen from two sides: what an agent and a person with a mail client do
to a mail shows on the other side within a second, and in the inbox's events.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote

import pytest
import pytest_asyncio
from imapclient import IMAPClient

from agentmail_cp import labels
from tests.failure.real import Ringing, Running
from tests.fix_app import Json, own_labels, until
from tests.fix_process import HOST
from tests.fix_stalwart import unverified

pytestmark = pytest.mark.stalwart

T = TypeVar("T")

SECOND = 1.0
ODD = ("follow-up:3f2a", "größe", "a b", "50% (off)", 'quo"ted', "back\\slash", "=41", "junk", "*")
"""Labels no IMAP keyword can spell as they are."""


class Desk:
    """An inbox seen through the API and through a mail client at once."""

    def __init__(self, live: Running, inbox: Json, client: IMAPClient) -> None:
        self.live = live
        self.inbox = inbox
        self._client = client
        self.at = f"/v0/inboxes/{inbox['inbox_id']}"

    async def imap(self, act: Callable[[IMAPClient], T]) -> T:
        """Let the mail client do something."""
        return await asyncio.to_thread(act, self._client)

    async def inside(self, folder: str, act: Callable[[IMAPClient, list[int]], T]) -> T:
        """Let the mail client do something with every mail of a folder."""

        def there(client: IMAPClient) -> T:
            client.select_folder(folder)
            return act(client, list(client.search()))

        return await self.imap(there)

    async def messages(self) -> list[Json]:
        hidden = {f"include_{each}": "true" for each in ("trash", "spam")}
        return await self.live.messages(self.inbox, **hidden)

    async def shows(self, *expected: str) -> Json:
        """Wait until the inbox's only message has exactly these labels, beside `received`."""
        wanted = sorted({*expected, "received"})
        (message,) = await until(
            self.messages,
            lambda seen: [each["labels"] for each in seen] == [wanted],
            seconds=SECOND,
        )
        return message

    async def change(self, message: Json, **change: Any) -> list[str]:
        path = f"{self.at}/messages/{quote(message['message_id'], safe='')}"
        answer = await self.live.client.patch(path, json=change)
        assert answer.status_code == 200, answer.text
        return answer.json()["labels"]

    async def lies_in(self, folder: str, *flags: str) -> None:
        """Wait until a mail client finds one mail in this folder, with these flags."""

        def found(client: IMAPClient, uids: list[int]) -> list[set[str]]:
            return [flags_of(client, uid) for uid in uids]

        wanted = {each.lower() for each in flags}
        await until(
            lambda: self.inside(folder, found),
            lambda seen: seen == [wanted],
            seconds=SECOND,
        )

    async def events(self) -> list[tuple[str, str]]:
        """What was labelled, oldest first: `added` or `removed`, and the label."""
        answer = await self.live.client.get(f"{self.at}/events?ascending=true&limit=100")
        assert answer.status_code == 200, answer.text
        return [
            (each["event_type"].removeprefix("label."), each["label"])
            for each in answer.json()["events"]
        ]


@pytest_asyncio.fixture
async def desk(live: Running, ringing: Ringing) -> AsyncGenerator[Desk]:
    """An inbox with one mail, just delivered, and a mail client that is logged in."""
    inbox = await live.inbox()
    port = ringing.process.ports.imaps

    def log_in() -> IMAPClient:
        client = IMAPClient(HOST, port=port, ssl_context=unverified(), timeout=20)
        client.login(inbox["email"], inbox["credentials"]["password"])
        client.create_folder("Projects")
        return client

    await ringing.deliver(inbox["email"], 1)
    client = await asyncio.to_thread(log_in)
    here = Desk(live, inbox, client)
    await here.shows("unread")
    yield here
    with contextlib.suppress(OSError):
        await asyncio.to_thread(client.logout)


def flags_of(client: IMAPClient, uid: int) -> set[str]:
    """The flags of a mail in lower case, without the session's own."""
    found: Any = client.get_flags([uid])  # pyright: ignore[reportUnknownVariableType]
    return {each.decode().lower() for each in found[uid]} - {"\\recent"}


Act = Callable[[IMAPClient, list[int]], object]


def flag(*flags: str) -> Act:
    def act(client: IMAPClient, uids: list[int]) -> None:
        client.add_flags(uids, flags)

    return act


def unflag(*flags: str) -> Act:
    def act(client: IMAPClient, uids: list[int]) -> None:
        client.remove_flags(uids, flags)

    return act


def move(folder: str) -> Act:
    return lambda client, uids: client.move(uids, folder)


def copy(folder: str) -> Act:
    return lambda client, uids: client.copy(uids, folder)


def erase(client: IMAPClient, uids: list[int]) -> None:
    client.delete_messages(uids)
    client.expunge()


async def test_flags_of_a_mail_client_are_labels(desk: Desk) -> None:
    """What a person read, starred or tagged would be new to the agent."""
    await desk.inside("INBOX", flag("\\Seen"))
    await desk.shows()
    await desk.inside("INBOX", flag("\\Flagged", "Customer", "\\Answered", "$Forwarded", "NonJunk"))
    await desk.shows("customer", "flagged")
    await desk.inside("INBOX", unflag("\\Seen", "Customer", "\\Flagged"))
    await desk.shows("unread")
    assert sorted(await desk.events()) == sorted(
        [
            ("removed", "unread"),
            ("added", "customer"),
            ("added", "flagged"),
            ("added", "unread"),
            ("removed", "customer"),
            ("removed", "flagged"),
        ]
    )


async def test_labels_of_an_agent_are_flags(desk: Desk) -> None:
    """A person would not see what the agent handled."""
    message = await desk.shows("unread")
    assert await desk.change(message, remove_labels="unread", add_labels=["flagged", "todo"]) == [
        "flagged",
        "received",
        "todo",
    ]
    await desk.lies_in("INBOX", "\\Seen", "\\Flagged", "todo")
    await desk.change(message, add_labels="unread", remove_labels=["flagged", "todo"])
    await desk.lies_in("INBOX")
    await desk.shows("unread")
    added, removed = ["flagged", "todo"], ["unread"]
    assert await desk.events() == [
        *(("added", each) for each in added),
        *(("removed", each) for each in removed),
        *(("added", each) for each in removed),
        *(("removed", each) for each in added),
    ]


async def test_labels_of_odd_characters_go_both_ways(desk: Desk) -> None:
    """A label a keyword cannot spell would be lost, or come back as another one."""
    message = await desk.shows("unread")
    assert set(await desk.change(message, add_labels=list(ODD))) >= set(ODD)
    await desk.lies_in("INBOX", *(labels.encode(each) for each in ODD))
    await desk.inside("INBOX", flag("\\Seen"))
    message = await desk.shows(*ODD)
    await desk.change(message, remove_labels=list(ODD))
    await desk.lies_in("INBOX", "\\Seen")
    await desk.inside("INBOX", flag(*(labels.encode(each) for each in ODD)))
    await desk.shows(*ODD)
    await desk.inside("INBOX", unflag(*(labels.encode(each) for each in ODD)))
    await desk.shows()


@pytest.mark.parametrize(("folder", "label"), [("Trash", "trash"), ("Junk", "spam")])
async def test_a_mail_moved_there_and_back_in_a_mail_client(
    desk: Desk, folder: str, label: str
) -> None:
    """An agent would answer what a person threw away, or miss what was no spam after all."""
    await desk.inside("INBOX", move(folder))
    await desk.shows("unread", label)
    assert await desk.live.messages(desk.inbox) == []
    await desk.inside(folder, move("INBOX"))
    await desk.shows("unread")
    assert await desk.events() == [("added", label), ("removed", label)]


async def test_a_mail_thrown_away_and_brought_back_by_an_agent(desk: Desk) -> None:
    """A person would find it in the wrong folder, or twice."""
    message = await desk.shows("unread")
    assert "trash" in await desk.change(message, add_labels="trash")
    await desk.lies_in("Trash")
    assert await desk.inside("INBOX", lambda _, uids: uids) == []
    await desk.change(message, remove_labels="trash")
    await desk.lies_in("INBOX")
    assert await desk.inside("Trash", lambda _, uids: uids) == []
    assert await desk.events() == [("added", "trash"), ("removed", "trash")]


async def test_a_sent_mail_comes_back_from_trash_to_sent(desk: Desk) -> None:
    """A person would find their own mail among what they received."""
    answer = await desk.live.post(desk.inbox, to="ada@elsewhere.test")
    assert answer.status_code == 200, answer.text
    await desk.change(answer.json(), add_labels="trash")
    await desk.lies_in("Trash", "\\Seen", "$sent")
    labels_left = await desk.change(answer.json(), remove_labels="trash")
    assert own_labels({"labels": labels_left}) == ["sent"]
    await desk.lies_in("Sent", "\\Seen", "$sent")


async def test_folders_of_a_persons_own_change_no_label(desk: Desk) -> None:
    """Filing a mail would look like something the agent must act on."""
    await desk.inside("INBOX", move("Projects"))
    await desk.inside("Projects", flag("filed"))
    message = await desk.shows("filed", "unread")
    assert await desk.events() == [("added", "filed")]
    assert "x" in await desk.change(message, add_labels="x", remove_labels="trash")
    await desk.lies_in("Projects", "filed", "x")
    await desk.change(message, add_labels="trash")
    await desk.lies_in("Trash", "filed", "x")
    await desk.change(message, remove_labels="trash")
    await desk.lies_in("INBOX", "filed", "x")


async def test_a_copied_mail_is_one_message_in_two_folders(desk: Desk) -> None:
    """Stalwart 0.16 keeps one mail: a copy must not look like new mail, nor its end like a deletion."""
    await desk.inside("INBOX", copy("Projects"))
    await desk.inside("Projects", flag("copied"))
    await desk.shows("copied", "unread")
    await desk.inside("INBOX", copy("Trash"))
    await desk.shows("copied", "trash", "unread")
    await desk.inside("Trash", erase)
    await desk.shows("copied", "unread")
    await desk.inside("INBOX", erase)
    await desk.lies_in("Projects", "copied")
    await desk.shows("copied", "unread")
    await desk.inside("Projects", erase)
    await until(desk.messages, lambda seen: seen == [], seconds=SECOND)


async def test_a_second_mail_with_the_same_id_is_a_message_of_its_own(desk: Desk) -> None:
    """A mail client that uploads what it downloaded: neither may hide or rename the other."""
    message = await desk.shows("unread")

    def again(client: IMAPClient, uids: list[int]) -> None:
        found: Any = client.fetch(uids, ["BODY.PEEK[]"])  # pyright: ignore[reportUnknownVariableType]
        client.append("Projects", found[uids[0]][b"BODY[]"], flags=("twin",))

    await desk.inside("INBOX", again)
    seen = await until(desk.messages, lambda seen: len(seen) == 2, seconds=SECOND)
    assert len({each["message_id"] for each in seen}) == 2
    assert {each["thread_id"] for each in seen} == {message["thread_id"]}
    twin = next(each for each in seen if each["message_id"] != message["message_id"])
    assert twin["labels"] == ["received", "twin", "unread"]
    await desk.change(twin, add_labels="trash")
    await desk.lies_in("Trash", "twin")
    await desk.lies_in("INBOX")
    path = f"{desk.at}/messages/{quote(twin['message_id'], safe='')}"
    assert (await desk.live.client.delete(path)).status_code == 204
    left = await desk.shows("unread")
    assert left["message_id"] == message["message_id"]


async def test_two_sides_that_cross_end_alike(desk: Desk) -> None:
    """A person and an agent at the same mail would be shown two truths for good."""
    message = await desk.shows("unread")
    steps: list[Awaitable[object]] = []
    for number in range(10):
        steps.append(desk.change(message, add_labels=f"a{number}", remove_labels="both"))
        steps.append(desk.change(message, add_labels="both", remove_labels=f"a{number - 1}"))
    await asyncio.gather(
        *steps,
        desk.inside("INBOX", person),
    )

    async def both() -> tuple[set[str], set[str]]:
        (message,) = await desk.messages()
        shown = {labels.encode(each) for each in message["labels"]} - {
            labels.encode(each) for each in ("received", "unread")
        }
        there = await desk.inside("INBOX", lambda client, uids: flags_of(client, uids[0]))
        return shown, there - {"\\seen"}

    await until(both, lambda seen: seen[0] == seen[1], seconds=SECOND)


def person(client: IMAPClient, uids: list[int]) -> None:
    for number in range(10):
        client.add_flags(uids, ("both", f"p{number}"))
        client.remove_flags(uids, ("both", "a5"))
