"""Many messages at once, and messages deleted for good, in both worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
import pytest

from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    MailServer,
    MailServerUnavailable,
    NoRoom,
    Relabel,
)
from tests.api.faults import fault, mistake
from tests.api.mailbox import (
    account_of,
    at,
    document_of,
    numbered,
    ok,
    path_of,
    put,
    restricted,
    rows,
    shown,
    stored,
)
from tests.fix_app import Json, Service, a_mail, until

BODIES = {"text", "html", "extracted_text", "extracted_html"}


async def batch(
    service: Service, inbox: Json, verb: str, ids: Sequence[str], **fields: object
) -> httpx.Response:
    return await service.client.post(
        f"{at(inbox)}/messages/batch-{verb}", json={"message_ids": list(ids), **fields}
    )


def ids_of(messages: Sequence[Json]) -> list[str]:
    return [each["message_id"] for each in messages]


async def test_many_are_got_in_the_order_asked(anywhere: Service) -> None:
    """An agent that zips ids and answers would mix conversations up."""
    inbox = await anywhere.inbox("desk")
    made = await numbered(anywhere, inbox, 3)
    ids = ids_of(made)
    asked = [ids[2], "<nobody@nowhere.test>", ids[0].strip("<>"), ids[1]]
    answer = await ok(await batch(anywhere, inbox, "get", asked))
    assert [each["subject"] for each in answer["messages"]] == ["2", "0", "1"]
    assert (answer["limit"], answer["count"]) == (4, 3)
    assert not BODIES & set().union(*answer["messages"])
    assert answer["messages"] == [made[2], made[0], made[1]]


async def test_many_that_are_got_tell_of_their_attachments(anywhere: Service) -> None:
    """An agent would have to get each message to learn that there is an invoice."""
    inbox = await anywhere.inbox("desk")
    mail = a_mail(inbox["email"], "Invoice")
    mail.add_attachment(b"%PDF-", maintype="application", subtype="pdf", filename="invoice.pdf")
    await anywhere.deliver(mail)
    (message,) = await until(lambda: shown(anywhere, inbox), lambda seen: len(seen) == 1)
    answer = await ok(await batch(anywhere, inbox, "get", [message["message_id"]]))
    (attachment,) = answer["messages"][0]["attachments"]
    assert (attachment["filename"], attachment["size"]) == ("invoice.pdf", 5)
    assert message["attachments"] == [attachment]


@pytest.mark.parametrize("verb", ["get", "update"])
async def test_a_batch_is_bounded_and_names_each_once(service: Service, verb: str) -> None:
    """One request could ask for everything, or for a thing twice with answers that contradict."""
    inbox = await service.inbox("desk")
    most = 500 if verb == "get" else 50
    label = {} if verb == "get" else {"add_labels": ["x"]}
    many = [f"<{number}@o.test>" for number in range(most + 1)]
    mistake(await batch(service, inbox, verb, many, **label), "message_ids", "TOO_MANY")
    mistake(await batch(service, inbox, verb, [], **label), "message_ids", "REQUIRED")
    for twice in (["<a@o.test>", "<a@o.test>"], [many[0], many[1], many[0]]):
        mistake(await batch(service, inbox, verb, twice, **label), "message_ids", "DUPLICATE")
    (message,) = await numbered(service, inbox, 1)
    two = [message["message_id"], message["message_id"].strip("<>")]
    mistake(await batch(service, inbox, verb, two, **label), "message_ids", "DUPLICATE")


async def test_many_are_labelled_in_the_order_asked(anywhere: Service) -> None:
    """An agent that files a batch would not know what became of which."""
    inbox = await anywhere.inbox("desk")
    made = await numbered(anywhere, inbox, 3)
    ids = ids_of(made)
    answer = await ok(
        await batch(
            anywhere,
            inbox,
            "update",
            [ids[2], ids[0]],
            add_labels=["Todo", "gone"],
            remove_labels=["unread", "gone"],
        )
    )
    assert answer == {
        "limit": 2,
        "count": 2,
        "updates": [
            {"message_id": ids[2], "labels": ["received", "todo"]},
            {"message_id": ids[0], "labels": ["received", "todo"]},
        ],
    }
    there = [each["labels"] for each in await shown(anywhere, inbox)]
    assert there == [["received", "todo"], ["received", "unread"], ["received", "todo"]]
    assert (await stored(anywhere, inbox))["2"].keywords == {"$seen", "todo"}


async def test_an_unknown_id_leaves_the_whole_batch_alone(anywhere: Service) -> None:
    """Half of a batch would be filed and nobody could tell which half."""
    inbox = await anywhere.inbox("desk")
    ids = ids_of(await numbered(anywhere, inbox, 2))
    answer = await batch(
        anywhere, inbox, "update", [ids[0], "<nobody@o.test>", ids[1]], add_labels="x"
    )
    assert "nobody@o.test" in fault(answer, 404, "not_found")["message"]
    assert all("x" not in each["labels"] for each in await shown(anywhere, inbox))
    assert all("x" not in mail.keywords for mail in (await stored(anywhere, inbox)).values())


@pytest.mark.parametrize("add", [["x", "trash"], ["x"]])
async def test_a_message_lost_midway_puts_the_others_back(
    anywhere: Service, monkeypatch: pytest.MonkeyPatch, add: list[str]
) -> None:
    """A mail client that deletes at the same moment would leave a batch half done."""
    inbox = await anywhere.inbox("desk")
    made = await numbered(anywhere, inbox, 3)
    lost = await document_of(anywhere, made[1])
    relabel = anywhere.server.relabel

    async def lose_one(account_id: AccountId, changes: Sequence[Relabel]) -> NoRoom:
        await anywhere.server.destroy_mail(account_id, [lost])
        return await relabel(account_id, changes)

    monkeypatch.setattr(anywhere.server, "relabel", lose_one)
    answer = await batch(
        anywhere, inbox, "update", ids_of(made), add_labels=add, remove_labels=["unread"]
    )
    fault(answer, 404, "not_found")
    there = await stored(anywhere, inbox)
    assert there.keys() == {"0", "2"}
    assert [(mail.folders, mail.keywords) for mail in there.values()] == [
        ({Folder.INBOX}, frozenset())
    ] * 2
    await until(
        lambda: shown(anywhere, inbox),
        lambda seen: [each["labels"] for each in seen] == [["received", "unread"]] * 2,
        seconds=1.0,
    )


async def test_what_a_key_may_not_see_it_neither_gets_nor_labels(anywhere: Service) -> None:
    """A key that must not read spam could fetch it by id."""
    inbox = await anywhere.inbox("desk")
    spam = await put(anywhere, inbox, a_mail(inbox["email"], "Spam"), Folder.JUNK)
    (good,) = await numbered(anywhere, inbox, 1)
    headers = await restricted(anywhere, "message_read", "message_update", "message_delete")
    both = {"message_ids": [spam["message_id"], good["message_id"]]}
    url = f"{at(inbox)}/messages/batch-"
    got = await ok(await anywhere.client.post(f"{url}get", json=both, headers=headers))
    assert [each["subject"] for each in got["messages"]] == ["0"]
    got = await ok(await anywhere.client.post(f"{url}get", json=both))
    assert [each["subject"] for each in got["messages"]] == ["Spam", "0"]
    change = {**both, "add_labels": ["x"]}
    fault(await anywhere.client.post(f"{url}update", json=change, headers=headers), 404)
    for method in ("GET", "DELETE"):
        fault(await anywhere.client.request(method, path_of(inbox, spam), headers=headers), 404)
    assert len(await shown(anywhere, inbox)) == 2


async def test_a_deleted_message_is_gone_for_good(anywhere: Service) -> None:
    """What somebody had to erase would stay in the mailbox, or in a thread's preview."""
    inbox = await anywhere.inbox("desk")
    first, second = await numbered(anywhere, inbox, 2, References="<root@o.test>")
    answer = await anywhere.client.delete(path_of(inbox, second))
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await stored(anywhere, inbox)).keys() == {"0"}
    assert ids_of(await shown(anywhere, inbox)) == [first["message_id"]]
    thread = await ok(await anywhere.client.get(f"/v0/threads/{first['thread_id']}"))
    assert (thread["message_count"], thread["last_message_id"]) == (1, first["message_id"])
    for method in ("GET", "DELETE"):
        fault(await anywhere.client.request(method, path_of(inbox, second)), 404, "not_found")
    await anywhere.client.delete(path_of(inbox, first))
    fault(await anywhere.client.get(f"/v0/threads/{first['thread_id']}"), 404, "not_found")
    assert await stored(anywhere, inbox) == {}


async def test_a_message_in_the_trash_can_be_deleted(anywhere: Service) -> None:
    """Throwing away and erasing later is what people do."""
    inbox = await anywhere.inbox("desk")
    (message,) = await numbered(anywhere, inbox, 1)
    await ok(await anywhere.client.patch(path_of(inbox, message), json={"add_labels": "trash"}))
    assert (await anywhere.client.delete(path_of(inbox, message))).status_code == 204
    assert await stored(anywhere, inbox) == {}


async def test_nothing_is_deleted_while_the_mail_server_is_away(
    anywhere: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API would forget a message that the mailbox keeps."""
    inbox = await anywhere.inbox("desk")
    (message,) = await numbered(anywhere, inbox, 1)

    async def away(account_id: AccountId, document_ids: Sequence[DocumentId]) -> None:
        raise MailServerUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(anywhere.server, "destroy_mail", away)
        answer = await anywhere.client.delete(path_of(inbox, message))
        fault(answer, 503, "service_unavailable")
        assert answer.headers["retry-after"]
        assert len(await shown(anywhere, inbox)) == 1
        path = f"/v0/threads/{message['thread_id']}"
        fault(await anywhere.client.delete(path), 503, "service_unavailable")
    assert len(await stored(anywhere, inbox)) == 1
    assert (await anywhere.client.delete(path_of(inbox, message))).status_code == 204


async def test_deleting_wins_over_labels_that_cross_it(anywhere: Service) -> None:
    """A message would come back to the list, with an event, after it was erased."""
    inbox = await anywhere.inbox("desk")
    (message,) = await numbered(anywhere, inbox, 1)
    path = path_of(inbox, message)
    labelling = [anywhere.client.patch(path, json={"add_labels": f"l{n}"}) for n in range(20)]
    answers = await asyncio.gather(
        *labelling[:10], anywhere.client.delete(path), anywhere.client.delete(path), *labelling[10:]
    )
    assert {answer.status_code for answer in answers[10:12]} <= {204, 404}
    assert 204 in {answer.status_code for answer in answers[10:12]}
    labelled = {answer.status_code for answer in [*answers[:10], *answers[12:]]}
    assert labelled <= {200, 404}, labelled
    await settled(anywhere, inbox)
    assert await shown(anywhere, inbox) == []
    assert await stored(anywhere, inbox) == {}
    found = await rows(anywhere, "select count(*) as n from event where type = 'message.received'")
    assert found == [{"n": 1}]


async def settled(service: Service, inbox: Json) -> None:
    """Wait until intake has read everything there is."""
    account = await account_of(service, inbox)

    async def due() -> object:
        (row,) = await rows(
            service,
            "select due_at, claimed_until from inbox_sync where account_id = %(account)s",
            account=account,
        )
        return row["due_at"] or row["claimed_until"]

    await until(due, lambda seen: seen is None)


def test_the_faults_above_are_put_where_the_service_calls() -> None:
    """A rename in the port would leave them without effect."""
    assert {"relabel", "destroy_mail"} <= vars(MailServer).keys()
