"""Changes that cross each other, intake, mail clients or the process's death end as the mail server says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentmail_cp import edits, labels
from agentmail_cp.mailserver import DocumentId, Folder, Relabel
from tests.failure.world import World
from tests.fix_app import Json

Hook = Callable[[], Awaitable[None]]


async def a_message(world: World) -> tuple[Json, Json]:
    """An inbox, and the only message in it."""
    box = await world.inbox("alice")
    await world.deliver_to(box["email"])
    await read(world)
    (message,) = await world.messages(box)
    return box, message


async def read(world: World) -> None:
    """Let intake read everything, whoever rang."""
    await world.rows("update inbox_sync set due_at = now() returning 1")
    await world.let_leases_end()
    await world.read()


def path_of(box: Json, message: Json) -> str:
    return f"/v0/inboxes/{box['inbox_id']}/messages/{message['message_id']}"


async def change(world: World, box: Json, message: Json, **fields: Any) -> list[str]:
    answer = await world.client.patch(path_of(box, message), json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["labels"]


async def elsewhere(world: World, box: Json, **fields: Any) -> None:
    """What somebody else does to the only mail, in the mail server, past every hook."""
    mailbox = world.sandbox.mailbox(await world.account(box))
    (document_id,) = mailbox.listing().document_ids
    mailbox.relabel(Relabel(document_id, **fields))


async def both(world: World, box: Json) -> tuple[list[str], list[str]]:
    """The only mail's labels as the mail server has them and as the API shows them."""
    mailbox = world.sandbox.mailbox(await world.account(box))
    (mail,) = mailbox.fetch(mailbox.listing().document_ids)
    there = labels.labels_of(direction="received", folders=mail.folders, keywords=mail.keywords)
    (message,) = await world.messages(box, include_trash="true")
    return list(there), message["labels"]


def once(hooks: dict[str, Hook], method: str, act: Hook) -> None:
    """Let something happen at the next call of a method, and only then."""

    async def then() -> None:
        del hooks[method]
        await act()

    hooks[method] = then


async def test_a_change_overruled_and_read_before_it_was_noted_stays_overruled(
    world: World,
) -> None:
    """The API would show for ever a label that the mailbox lost long ago."""
    box, message = await a_message(world)

    async def overrule() -> None:
        await elsewhere(world, box, remove=frozenset({"x"}))
        await read(world)

    once(world.sandbox.after, "relabel", overrule)
    await change(world, box, message, add_labels="x")
    there, shown = await both(world, box)
    assert "x" not in there
    assert shown == there


async def test_an_inbox_that_is_read_faster_than_compared_is_read_from_scratch(
    world: World,
) -> None:
    """Under a stream of changes the comparison never finds intake standing still."""
    box, message = await a_message(world)
    looks = 0

    async def overrule() -> None:
        await elsewhere(world, box, remove=frozenset({"x"}))
        await read(world)

    async def disturb() -> None:
        nonlocal looks
        looks += 1
        await elsewhere(world, box, add=frozenset({f"d{looks}"}))
        await read(world)

    once(world.sandbox.after, "relabel", overrule)
    world.sandbox.after["fetch"] = disturb
    await change(world, box, message, add_labels="x")
    del world.sandbox.after["fetch"]
    assert looks == edits.COMPARISONS
    await read(world)
    there, shown = await both(world, box)
    assert "x" not in there
    assert shown == there


async def test_a_way_out_of_trash_that_crosses_a_way_in_is_taken(world: World) -> None:
    """Half of one change and half of the other would stay: still in Trash, but without its label."""
    box, message = await a_message(world)

    async def throw_away() -> None:
        await elsewhere(world, box, add=frozenset({"x"}), move_to=Folder.TRASH)

    once(world.sandbox.before, "relabel", throw_away)
    answered = await change(world, box, message, remove_labels=["trash", "x"])
    assert answered == ["received", "unread"]
    await read(world)
    assert await both(world, box) == (answered, answered)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_process_that_dies_while_labelling(world: World, where: str) -> None:
    """The label would be in the mailbox and never in the API, or be announced twice."""
    box, message = await a_message(world)
    hooks = world.sandbox.before if where == "before" else world.sandbox.after
    request = world.client.patch(path_of(box, message), json={"add_labels": "x"})
    await world.crash(hooks, "relabel", request)
    await read(world)
    there, shown = await both(world, box)
    assert shown == there
    assert ("x" in there) is (where == "after")
    await change(world, box, message, add_labels="x")
    added = [each for each in await world.events_of(box) if each.type.value == "label.added"]
    assert [each.facts for each in added] == [{"label": "x"}]


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_process_that_dies_while_deleting(world: World, where: str) -> None:
    """A message that is gone would be listed for ever, and nobody could delete it again."""
    box, message = await a_message(world)
    hooks = world.sandbox.before if where == "before" else world.sandbox.after
    await world.crash(hooks, "destroy_mail", world.client.delete(path_of(box, message)))
    if where == "after":
        assert len(await world.messages(box)) == 1, "nobody has noticed yet"
    answer = await world.client.delete(path_of(box, message))
    assert answer.status_code == 204, answer.text
    await read(world)
    assert await world.messages(box) == []
    assert await world.stored(box, Folder.INBOX) == []


@pytest.mark.parametrize("how", ["as a message", "in its thread"])
async def test_a_sent_mail_erased_before_intake_read_of_it_is_not_listed_for_ever(
    world: World, how: str
) -> None:
    """What came and went between two readings is in no list of changes: agents would be shown a message
    that none of them can read, with every list anew.
    """
    box = await world.inbox("alice")
    sent = (await world.post(box, key="k")).json()
    mailbox = world.sandbox.mailbox(await world.account(box))
    mailbox.destroy(mailbox.listing().document_ids)
    await read(world)
    assert len(await world.messages(box)) == 1, "nobody has noticed yet"
    url = path_of(box, sent)
    if how == "in its thread":
        url = f"/v0/inboxes/{box['inbox_id']}/threads/{sent['thread_id']}"
    first = await world.client.get(url)
    assert first.status_code == 404 or first.json()["messages"] == [], first.text
    assert await world.messages(box) == []
    assert await world.threads(box) == []
    assert (await world.client.get(url)).status_code == 404
    again = await world.post(box, key="k")
    assert again.json() == sent
    assert len(world.sandbox.outbox) == 1


async def test_what_intake_read_before_a_deletion_brings_nothing_back(world: World) -> None:
    """An erased message would be listed and announced once more."""
    box, message = await a_message(world)
    await elsewhere(world, box, add=frozenset({"mark"}))
    await world.rows("update inbox_sync set due_at = now() returning 1")
    reader = world.intake

    async def delete() -> None:
        answer = await world.client.delete(path_of(box, message))
        assert answer.status_code == 204, answer.text

    once(world.sandbox.after, "changes", delete)
    await reader.read_batch()
    await read(world)
    assert await world.messages(box) == []
    received = [e for e in await world.events_of(box) if e.type.value == "message.received"]
    assert len(received) == 1


async def test_a_batch_put_back_leaves_what_was_there_before(world: World) -> None:
    """Undoing a change would take away labels the message had all along."""
    box = await world.inbox("alice")
    for number in range(3):
        await world.deliver_to(box["email"], number=number)
    await read(world)
    made = await world.messages(box)
    await change(world, box, made[0], add_labels=["x", "trash"], remove_labels="unread")
    await change(world, box, made[1], add_labels="x")
    lost = await document_of(world, made[2])

    async def lose() -> None:
        world.sandbox.mailbox(await world.account(box)).destroy([lost])

    before = await stored(world, box, made[:2])
    once(world.sandbox.before, "relabel", lose)
    answer = await world.client.post(
        f"/v0/inboxes/{box['inbox_id']}/messages/batch-update",
        json={
            "message_ids": [each["message_id"] for each in made],
            "add_labels": ["x", "y", "unread"],
            "remove_labels": ["trash"],
        },
    )
    assert answer.status_code == 404, answer.text
    assert await stored(world, box, made[:2]) == before
    await read(world)
    shown = {
        each["message_id"]: each["labels"]
        for each in await world.messages(box, include_trash="true")
    }
    assert shown == {
        made[0]["message_id"]: ["received", "trash", "x"],
        made[1]["message_id"]: ["received", "unread", "x"],
    }


async def document_of(world: World, message: Json) -> DocumentId:
    (row,) = await world.rows(
        "select document_id from message where message_id = %(message_id)s",
        message_id=message["message_id"],
    )
    return DocumentId(row["document_id"])


async def stored(world: World, box: Json, messages: list[Json]) -> list[object]:
    mailbox = world.sandbox.mailbox(await world.account(box))
    mails = mailbox.fetch([await document_of(world, each) for each in messages])
    return [(mail.document_id, mail.folders, mail.keywords) for mail in mails]
