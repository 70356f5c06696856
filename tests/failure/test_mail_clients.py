"""What the world and a mail client do on a real Stalwart shows up in the API, and soon."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.failure.real import Ringing, Running
from tests.fix_app import Json, until

pytestmark = pytest.mark.stalwart

SOON = 2.0
APPENDED = b"From: me\r\nTo: ada@elsewhere.test\r\nSubject: Mine\r\nMessage-ID: <mine@o.test>\r\n\r\nHi\r\n"


async def one(live: Running, inbox: Json, ringing: Ringing) -> Json:
    """The inbox's only message, just delivered."""
    await ringing.deliver(inbox["email"], 1)
    (message,) = await until(lambda: live.messages(inbox), lambda seen: len(seen) == 1)
    return message


@pytest.mark.alone
async def test_mail_from_smtp_is_there_within_a_second(live: Running, ringing: Ringing) -> None:
    """An agent that waits for a code would time out."""
    inbox = await live.inbox()
    for number in range(5):
        await ringing.deliver(inbox["email"], number)
        handed_in = time.monotonic()
        expected = number + 1
        await until(
            lambda: live.messages(inbox), lambda seen, n=expected: len(seen) == n, seconds=1.0
        )
        assert time.monotonic() - handed_in < 1.0
    assert all(each["labels"] == ["received", "unread"] for each in await live.messages(inbox))


async def test_seen_and_labels_over_imap_show_as_labels(live: Running, ringing: Ringing) -> None:
    """What a person reads in a mail client would be handled again by the agent."""
    inbox = await live.inbox()
    await one(live, inbox, ringing)

    def mark() -> None:
        with ringing.imap(inbox) as client:
            client.select("INBOX")
            client.store("1", "+FLAGS", r"(\Seen follow-up)")

    await asyncio.to_thread(mark)
    await until(
        lambda: live.messages(inbox),
        lambda seen: seen[0]["labels"] == ["follow-up", "received"],
        seconds=SOON,
    )


async def test_mail_deleted_over_imap_disappears_with_its_thread(
    live: Running, ringing: Ringing
) -> None:
    """The API would show mail that is gone, and fail to read it."""
    inbox = await live.inbox()
    message = await one(live, inbox, ringing)

    def delete() -> None:
        with ringing.imap(inbox) as client:
            client.select("INBOX")
            client.store("1", "+FLAGS", r"(\Deleted)")
            client.expunge()

    await asyncio.to_thread(delete)
    await until(lambda: live.messages(inbox), lambda seen: seen == [], seconds=SOON)
    assert (await live.threads(inbox)).json()["threads"] == []
    path = f"/v0/inboxes/{inbox['inbox_id']}/threads/{message['thread_id']}"
    assert (await live.client.get(path)).status_code == 404


async def test_a_sent_mail_erased_over_imap_before_intake_read_of_it_leaves_the_lists(
    live: Running, ringing: Ringing
) -> None:
    """A mail that comes and goes between two readings is in no list of changes."""
    inbox, other = await live.inbox(), await live.inbox()
    hold, let_go = "now() + interval '1 h'", "null, due_at = now()"
    await live.rows(f"update inbox_sync set claimed_until = {hold} returning 1")
    path = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    body = {"to": other["email"], "subject": "Brief", "text": "T"}
    sent = (await live.client.post(f"{path}/send", json=body)).json()

    def erase() -> None:
        with ringing.imap(inbox) as client:
            client.select('"Sent"')
            client.store("1", "+FLAGS", r"(\Deleted)")
            client.expunge()

    await asyncio.to_thread(erase)
    await live.rows(f"update inbox_sync set claimed_until = {let_go} returning 1")
    unread = "select 1 from inbox_sync where due_at is not null or claimed_until is not null"
    await until(lambda: live.rows(unread), lambda rows: rows == [], seconds=SOON)
    assert len(await live.messages(inbox)) == 1, "nobody can have noticed"
    answer = await live.client.get(f"{path}/{sent['message_id']}")
    assert answer.status_code == 404, answer.text
    assert await live.messages(inbox) == []
    assert (await live.threads(inbox)).json()["threads"] == []


async def test_mail_a_client_files_in_sent_is_sent(live: Running, ringing: Ringing) -> None:
    """What a person wrote in a mail client would look like mail from somebody else."""
    inbox = await live.inbox()

    def append() -> None:
        with ringing.imap(inbox) as client:
            client.append('"Sent"', r"(\Seen)", "", APPENDED)

    await asyncio.to_thread(append)
    (message,) = await until(
        lambda: live.messages(inbox), lambda seen: len(seen) == 1, seconds=SOON
    )
    assert message["labels"] == ["sent"]
    assert message["message_id"] == "<mine@o.test>"


async def test_mail_moved_to_trash_is_labelled_trash(live: Running, ringing: Ringing) -> None:
    """An agent would go on answering mail its owner threw away."""
    inbox = await live.inbox()
    await one(live, inbox, ringing)

    def move() -> None:
        with ringing.imap(inbox) as client:
            client.select("INBOX")
            answer = client._simple_command("MOVE", "1", '"Trash"')
            assert answer[0] == "OK"

    await asyncio.to_thread(move)
    await until(lambda: live.messages(inbox), lambda seen: seen == [], seconds=SOON)
    (trashed,) = await live.messages(inbox, include_trash="true")
    assert "trash" in trashed["labels"]
