"""Labels that many change at once: what is answered was true, and what stays some order could give."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from urllib.parse import quote

import pytest

from agentmail_cp import labels
from agentmail_cp.mailserver import AccountId, Mail, Relabel
from tests.fix_app import OUTCOMES, Json, Service, a_mail, own_labels, until

OWN = ("a", "b", "urgent: x/y", "größe")
CROSSING = 50

Change = tuple[frozenset[str], frozenset[str]]
"""Labels added and labels removed; none is in both."""


async def a_message(service: Service, inbox: Json, subject: str = "Hello") -> Json:
    await service.deliver(a_mail(inbox["email"], subject))

    async def found() -> list[Json]:
        return [each for each in await service.messages(inbox) if each.get("subject") == subject]

    (message,) = await until(found, lambda seen: len(seen) == 1)
    return message


def path_of(inbox: Json, message: Json) -> str:
    return f"/v0/inboxes/{inbox['inbox_id']}/messages/{quote(message['message_id'], safe='')}"


async def change(service: Service, path: str, add: frozenset[str], remove: frozenset[str]) -> Json:
    answer = await service.client.patch(
        path, json={"add_labels": sorted(add), "remove_labels": sorted(remove)}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stored(service: Service, message: Json) -> Mail:
    """The mail as the mail server has it."""
    async with service.db.reading() as tx:
        row = await (
            await tx.execute(
                "select account_id, document_id from message join inbox using (inbox_id)"
                " where message.message_id = %(message_id)s"
                " and inbox.organization_id = %(organization_id)s",
                {
                    "message_id": message["message_id"],
                    "organization_id": service.organization_id,
                },
            )
        ).fetchone()
    assert row is not None
    (mail,) = await service.server.fetch(AccountId(row["account_id"]), [row["document_id"]])
    return mail


def some_order_gives(before: set[str], changes: Sequence[Change], after: set[str]) -> bool:
    """Whether these changes, one after the other in any order, lead from one set of labels to another.

    Found from the end: a change can be the last one if it says what holds of every label that none
    later has touched.
    """
    left, settled = list(changes), set[str]()
    while left:
        last = next(
            (c for c in left if c[0] - settled <= after and not (c[1] - settled) & after), None
        )
        if last is None:
            return False
        left.remove(last)
        settled |= last[0] | last[1]
    return before - settled == after - settled


def some_changes(random: Random) -> list[Change]:
    names = [*OWN, "unread", "trash"]
    changes: list[Change] = []
    while len(changes) < CROSSING:
        touched = random.sample(names, random.randint(1, 3))
        added = frozenset(each for each in touched if random.random() < 0.5)
        changes.append((added, frozenset(touched) - added))
    return changes


def test_the_judge_of_orders_is_just() -> None:
    """The tests below would pass on anything."""
    add, remove = frozenset({"x", "y"}), frozenset({"x", "y"})
    crossing = [(add, frozenset[str]()), (frozenset[str](), remove)]
    assert some_order_gives(set(), crossing, {"x", "y"})
    assert some_order_gives(set(), crossing, set())
    assert not some_order_gives(set(), crossing, {"x"})
    assert not some_order_gives({"z"}, crossing, set())


@pytest.mark.parametrize("seed", [1, 2])
async def test_fifty_changes_at_once_end_as_some_order_would(anywhere: Service, seed: int) -> None:
    """Half of one agent's change and half of another's would stay, or REST and mail clients differ."""
    inbox = await anywhere.inbox("desk")
    message = await a_message(anywhere, inbox)
    changes = some_changes(Random(seed))
    path = path_of(inbox, message)
    answers = await asyncio.gather(*(change(anywhere, path, *each) for each in changes))
    for (added, removed), answer in zip(changes, answers, strict=True):
        assert added <= set(answer["labels"])
        assert not removed & set(answer["labels"])

    async def both() -> tuple[set[str], set[str]]:
        mail = await stored(anywhere, message)
        there = labels.labels_of(direction="received", folders=mail.folders, keywords=mail.keywords)
        answer = await anywhere.client.get(path)
        return set(there), set(answer.json()["labels"])

    there, shown = await until(both, lambda seen: seen[0] == seen[1])
    assert some_order_gives({"received", "unread"}, changes, shown), shown
    assert await logged(anywhere, inbox, {"received", "unread"}) == shown
    if anywhere.stalwart is not None:
        assert await asyncio.to_thread(flags, anywhere, inbox, shown) == {
            labels.encode(each) for each in there & set(OWN)
        }


def flags(service: Service, inbox: Json, shown: set[str]) -> set[str]:
    """The keywords a mail client sees."""
    with service.imap(inbox) as client:
        client.select("Trash" if "trash" in shown else "INBOX", readonly=True)
        _, found = client.fetch("1", "(FLAGS)")
    assert isinstance(found[0], bytes)
    return {
        each.lower()
        for each in found[0].decode().partition("(FLAGS (")[2].rstrip(")").split()
        if not each.startswith(("\\", "$"))
    }


async def logged(service: Service, inbox: Json, before: set[str]) -> set[str]:
    """The labels an inbox's only message has by its events, each of which must change something; without
    what became of mail it sent.
    """
    seen = set(before)
    token: str | None = ""
    while token is not None:
        answer = await service.client.get(
            f"/v0/inboxes/{inbox['inbox_id']}/events",
            params={
                "ascending": "true",
                "limit": "100",
                **({"page_token": token} if token else {}),
            },
        )
        assert answer.status_code == 200, answer.text
        for event in answer.json()["events"]:
            if event["label"] in OUTCOMES:
                continue
            if event["event_type"] == "label.added":
                assert event["label"] not in seen
                seen.add(event["label"])
            else:
                seen.remove(event["label"])
        token = answer.json().get("next_page_token")
    return seen


async def test_a_mailbox_full_of_labels_takes_more(anywhere: Service) -> None:
    """A label for each draft or customer: Stalwart 0.16 shows 99 in an account and drops the others."""
    inbox, other = await anywhere.inbox("desk"), await anywhere.inbox("other")
    message = await a_message(anywhere, inbox)
    path = path_of(inbox, message)
    halves = [frozenset(f"follow-up:{n}" for n in range(first, first + 75)) for first in (0, 75)]
    many = halves[0] | halves[1]
    for some in halves:
        answer = await change(anywhere, path, some, frozenset())
        assert some <= set(answer["labels"])
    assert len((await stored(anywhere, message)).keywords) == 99
    await anywhere.send(inbox, to=other["email"], subject="Sent", text="Hi", labels="one-more")

    async def shown() -> dict[str, set[str]]:
        return {each["subject"]: set(own_labels(each)) for each in await anywhere.messages(inbox)}

    expected = {"Hello": {*many, "received", "unread"}, "Sent": {"one-more", "sent"}}
    await intake_again(anywhere, message)
    assert await shown() == expected
    assert [each["subject"] for each in await anywhere.messages(inbox, labels="one-more")] == [
        "Sent"
    ]
    for some in halves:
        await change(anywhere, path, frozenset(), some)
    await intake_again(anywhere, message)
    assert (await shown())["Hello"] == {"received", "unread"}
    assert await logged(anywhere, inbox, {"received", "unread"}) == {"received", "unread"}


async def intake_again(service: Service, message: Json) -> None:
    """Let intake read the message once more, as after a change in a mail client."""
    mail = await stored(service, message)
    inbox = {"inbox_id": message["inbox_id"]}
    async with service.db.reading() as tx:
        row = await (
            await tx.execute(
                "select account_id from message join inbox using (inbox_id)"
                " where message_id = %(message_id)s",
                {"message_id": message["message_id"]},
            )
        ).fetchone()
    assert row is not None
    account_id, seen = AccountId(row["account_id"]), frozenset({labels.SEEN})
    await service.server.relabel(account_id, [Relabel(mail.document_id, add=seen)])
    await until(lambda: service.messages(inbox, labels="unread"), lambda unread: not unread)
    await service.server.relabel(account_id, [Relabel(mail.document_id, remove=seen)])
    await until(lambda: service.messages(inbox, labels="unread"), lambda unread: len(unread) == 1)
