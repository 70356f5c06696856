"""More different labels than a mail server can show: none is lost, whatever happens to the mail after.

Stalwart 0.16 shows 99 different keywords in an account. Labels such as `follow-up:<draft>` pass that in a
day, and one more is stored there in silence and seen by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agentmail_cp import labels
from agentmail_cp.mailserver import AccountId, Folder, NoRoom, Relabel
from tests.api import drafting
from tests.api.mailbox import (
    account_of,
    at,
    document_of,
    named,
    numbered,
    ok,
    path_of,
    rows,
    stored,
)
from tests.fix_app import Json, Service, a_mail, own_labels, until

FULL = [f"k{number}" for number in range(98)]
"""As many labels as there is room for beside the mark of what was sent."""

OUTSIDER = "ada@elsewhere.test"


async def a_full_inbox(service: Service) -> tuple[Json, Json]:
    """An inbox that can show no other label, and the message that fills it."""
    inbox = await service.inbox("full")
    await service.server.append(
        await account_of(service, inbox),
        a_mail(inbox["email"], "Full").as_bytes(),
        folder=Folder.INBOX,
        keywords=frozenset({"$sent"}),
    )
    (message,) = await named(service, inbox, ["Full"])
    assert own_labels(message) == ["sent", "unread"]
    await ok(await service.client.patch(path_of(inbox, message), json={"add_labels": FULL}))
    assert len((await stored(service, inbox))["Full"].keywords) == 99
    return inbox, message


async def read_from_scratch(service: Service, inbox: Json) -> None:
    """Let intake forget what it has read of the inbox, and read everything."""
    where = {"address": inbox["email"]}
    await rows(
        service,
        "update inbox_sync set state = null, due_at = now(), claimed_until = null from inbox"
        " where inbox.inbox_id = inbox_sync.inbox_id and address = %(address)s returning 1",
        **where,
    )

    async def unread() -> list[Json]:
        return await rows(
            service,
            "select from inbox_sync join inbox using (inbox_id)"
            " where address = %(address)s and inbox_sync.state is null",
            **where,
        )

    await until(unread, lambda left: left == [])


async def labelled(service: Service, inbox: Json) -> dict[str, list[str]]:
    return {each["subject"]: own_labels(each) for each in await service.messages(inbox)}


async def filtered(service: Service, inbox: Json, kind: str, label: str) -> list[str]:
    """The subjects of messages or threads with this label."""
    answer = await ok(await service.client.get(f"{at(inbox)}/{kind}", params={"labels": label}))
    return [each["subject"] for each in answer[kind]]


async def test_150_labels_in_one_inbox_all_show_and_survive_reading_from_scratch(
    anywhere: Service,
) -> None:
    """A label would be there one moment and gone the next."""
    inbox = await anywhere.inbox("busy")
    made = await numbered(anywhere, inbox, 3)
    names = [f"case {number}" for number in range(150)]
    one, batch, thread = names[:60], names[60:120], names[120:]
    await ok(await anywhere.client.patch(path_of(inbox, made[0]), json={"add_labels": one}))
    answer = await anywhere.client.post(
        f"{at(inbox)}/messages/batch-update",
        json={"message_ids": [made[1]["message_id"]], "add_labels": batch},
    )
    await ok(answer)
    answer = await anywhere.client.patch(
        f"{at(inbox)}/threads/{made[2]['thread_id']}", json={"add_labels": thread}
    )
    assert set(thread) < set((await ok(answer))["labels"])
    expected = {
        subject: sorted([*some, "received", "unread"])
        for subject, some in zip("012", (one, batch, thread), strict=True)
    }
    assert await labelled(anywhere, inbox) == expected
    await read_from_scratch(anywhere, inbox)
    assert await labelled(anywhere, inbox) == expected
    for label, subject in ((names[0], "0"), (names[90], "1"), (names[110], "1"), (names[149], "2")):
        assert await filtered(anywhere, inbox, "messages", label) == [subject]
        assert await filtered(anywhere, inbox, "threads", label) == [subject]
    keywords = frozenset[str]().union(
        *(m.keywords for m in (await stored(anywhere, inbox)).values())
    )
    assert len(keywords) == 99
    assert labels.decode_all(keywords) < set(names)


async def test_labels_with_and_without_room_can_be_taken_away(anywhere: Service) -> None:
    """In the API, where both look alike, and in mail clients, which see the one kind only."""
    inbox, message = await a_full_inbox(anywhere)
    path = path_of(inbox, message)
    answer = await anywhere.client.patch(path, json={"add_labels": ["late", "later"]})
    assert {"late", "later", "k0"} < set((await ok(answer))["labels"])
    answer = await anywhere.client.patch(path, json={"remove_labels": ["late", "k0"]})
    assert not {"late", "k0"} & set((await ok(answer))["labels"])
    document_id = await document_of(anywhere, message)
    await anywhere.server.relabel(
        await account_of(anywhere, inbox), [Relabel(document_id, remove=frozenset({"k1"}))]
    )
    expected = sorted([*FULL[2:], "later", "sent", "unread"])
    await until(lambda: labelled(anywhere, inbox), lambda seen: seen == {"Full": expected})
    await read_from_scratch(anywhere, inbox)
    assert await labelled(anywhere, inbox) == {"Full": expected}
    events = (await ok(await anywhere.client.get(f"{at(inbox)}/events?limit=4")))["events"]
    assert sorted((each["event_type"], each["label"]) for each in events) == [
        ("label.added", "later"),
        ("label.removed", "k0"),
        ("label.removed", "k1"),
        ("label.removed", "late"),
    ]


async def test_a_reply_from_a_full_inbox_has_its_labels(anywhere: Service) -> None:
    inbox, message = await a_full_inbox(anywhere)
    answer = await anywhere.client.post(
        f"{path_of(inbox, message)}/reply",
        json={"text": "Yes", "to": OUTSIDER, "labels": ["answered by a.i.", "k5"]},
    )
    await ok(answer)
    await read_from_scratch(anywhere, inbox)
    assert (await labelled(anywhere, inbox))["Re: Full"] == ["answered by a.i.", "k5", "sent"]
    assert await filtered(anywhere, inbox, "messages", "answered by a.i.") == ["Re: Full"]
    mail = (await stored(anywhere, inbox))["Re: Full"]
    assert mail.keywords == {"$seen", "$sent", "k5"}


async def test_a_draft_in_a_full_inbox_keeps_its_labels_and_so_does_its_mail(
    anywhere: Service,
) -> None:
    """The label that says whom a draft waits for would be lost, and with it the draft."""
    inbox, _ = await a_full_inbox(anywhere)
    draft = await drafting.make(anywhere, inbox, to=OUTSIDER, subject="Plan", labels=["one", "k1"])
    assert draft["labels"] == ["draft", "k1", "one"]
    draft = await drafting.change(anywhere, inbox, draft, add_labels=["two"], remove_labels="k1")
    assert draft["labels"] == ["draft", "one", "two"]
    draft = await drafting.change(
        anywhere, inbox, draft, text="At six", add_labels="three", remove_labels="one"
    )
    await read_from_scratch(anywhere, inbox)
    (found,) = await drafting.listed(anywhere, inbox, labels="three")
    assert found["labels"] == ["draft", "three", "two"]
    answer = await drafting.send(anywhere, inbox, draft, add_labels="four", remove_labels="two")
    await ok(answer)
    await read_from_scratch(anywhere, inbox)
    assert (await labelled(anywhere, inbox))["Plan"] == ["four", "sent", "three"]


async def test_a_thread_with_a_message_that_is_gone_keeps_the_labels_of_the_others(
    anywhere: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, message = await a_full_inbox(anywhere)
    (reply,) = await numbered(anywhere, inbox, 1, In_Reply_To=message["message_id"])
    lost = await document_of(anywhere, reply)
    relabel = anywhere.server.relabel

    async def lose_one(account_id: AccountId, changes: Sequence[Relabel]) -> NoRoom:
        await anywhere.server.destroy_mail(account_id, [lost])
        return await relabel(account_id, changes)

    with monkeypatch.context() as patch:
        patch.setattr(anywhere.server, "relabel", lose_one)
        path = f"{at(inbox)}/threads/{message['thread_id']}"
        await ok(await anywhere.client.patch(path, json={"add_labels": ["late"]}))
    await read_from_scratch(anywhere, inbox)
    assert (await labelled(anywhere, inbox)).keys() == {"Full"}
    assert "late" in (await labelled(anywhere, inbox))["Full"]
