"""Threads through the API: joined by ids alone, found under every id they ever had, listed and filtered."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import partial

from agentmail_cp.sandbox import MailSandbox
from tests.api.faults import fault, mistake
from tests.fix_app import Json, Service, a_mail, own_labels, serving, until

ELSEWHERE = "elsewhere.test"


async def arrived(service: Service, inbox: Json, subject: str, **headers: str) -> Json:
    """Deliver one mail from outside; the message it became."""
    await service.deliver(a_mail(inbox["email"], subject, **headers))

    async def found() -> list[Json]:
        seen = await service.messages(inbox, limit=100, include_trash="true")
        return [each for each in seen if each["subject"] == subject]

    (message,) = await until(found, lambda seen: len(seen) == 1)
    return message


async def threads(service: Service, path: str, query: str = "") -> list[Json]:
    answer = await service.client.get(f"{path}?{query}")
    assert answer.status_code == 200, answer.text
    page: Json = answer.json()
    assert page["count"] == len(page["threads"])
    assert page["data"] == page["threads"]
    return page["threads"]


async def get(service: Service, path: str) -> Json:
    answer = await service.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_thread_shows_everything_the_sdk_and_the_seeds_name(service: Service) -> None:
    """A list of conversations would be a list of gaps."""
    inbox = await service.inbox("desk", display_name="Desk")
    first = await arrived(service, inbox, "Question", Message_ID="<q@elsewhere.test>")
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    await service.send(
        inbox,
        to="ada@elsewhere.test",
        subject="Re: Question",
        text="Answer",
        headers={"In-Reply-To": "<q@elsewhere.test>"},
    )
    (item,) = await threads(service, f"{at}/threads")
    whole = await get(service, f"{at}/threads/{first['thread_id']}")
    for shown in (item, whole):
        assert shown["thread_id"] == first["thread_id"]
        assert shown["inbox_id"] == "desk@agents.test"
        assert shown["subject"] == "Question"
        assert shown["message_count"] == 2
        assert shown["senders"] == [
            "Ada Lovelace <ada@elsewhere.test>",
            "Desk <desk@agents.test>",
        ]
        assert shown["recipients"] == ["desk@agents.test", "ada@elsewhere.test"]
        assert set(shown["participants"]) == {*shown["senders"], *shown["recipients"]}
        assert own_labels(shown) == ["received", "sent", "unread"]
        assert shown["preview"] == "Answer"
        assert shown["timestamp"] == shown["last_message_at"] == shown["sent_timestamp"]
        assert shown["received_timestamp"] == first["timestamp"]
        assert shown["size"] > first["size"]
        for moment in ("timestamp", "created_at", "updated_at"):
            assert shown[moment].endswith("Z")
    assert "messages" not in item
    assert whole["count"] == 2
    assert [each["text"].strip() for each in whole["messages"]] == ["Hi there.", "Answer"]
    assert whole["messages"][-1]["message_id"] == whole["last_message_id"]


async def test_the_same_subject_alone_joins_nothing(service: Service) -> None:
    """Two strangers' mails called 'Hello' would be one conversation."""
    inbox = await service.inbox("desk")
    for number in range(2):
        await service.deliver(a_mail(inbox["email"], "Hello", From=f"p{number}@{ELSEWHERE}"))
    seen = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 2)
    assert len({each["thread_id"] for each in seen}) == 2


async def test_a_late_parent_joins_what_it_connects(service: Service) -> None:
    """Mail overtakes mail: a conversation must be one again, and no id a caller kept may go dead."""
    inbox = await service.inbox("desk")
    older = await arrived(service, inbox, "One", Message_ID="<1@e.test>")
    await asyncio.sleep(1.1)  # mail servers tell time in seconds
    newer = await arrived(service, inbox, "Three", Message_ID="<3@e.test>", References="<2@e.test>")
    assert older["thread_id"] != newer["thread_id"]
    parent = await arrived(service, inbox, "Two", Message_ID="<2@e.test>", In_Reply_To="<1@e.test>")
    assert parent["thread_id"] == older["thread_id"]
    at = f"/v0/inboxes/{inbox['inbox_id']}/threads"
    (item,) = await threads(service, at)
    assert item["thread_id"] == older["thread_id"]
    assert item["message_count"] == 3
    for id_ in (older["thread_id"], newer["thread_id"]):
        for path in (f"{at}/{id_}", f"/v0/threads/{id_}"):
            whole = await get(service, path)
            assert whole["thread_id"] == older["thread_id"]
            assert {each["subject"] for each in whole["messages"]} == {"One", "Two", "Three"}
    assert {each["thread_id"] for each in await service.messages(inbox)} == {older["thread_id"]}


async def test_threads_of_all_inboxes_are_listed_and_found_by_id(service: Service) -> None:
    """Somebody with many inboxes would have to ask each."""
    alice, bob = await service.inbox("alice"), await service.inbox("bob")
    sent = await service.send(alice, to=bob["email"], subject="Hi", text="Hi")
    (got,) = await until(lambda: service.messages(bob), lambda seen: len(seen) == 1)
    found = await threads(service, "/v0/threads")
    assert {(each["inbox_id"], each["thread_id"]) for each in found} == {
        ("alice@agents.test", sent["thread_id"]),
        ("bob@agents.test", got["thread_id"]),
    }
    assert sent["thread_id"] != got["thread_id"], "threads are each inbox's own"
    whole = await get(service, f"/v0/threads/{got['thread_id']}")
    assert whole["inbox_id"] == "bob@agents.test"
    assert whole["messages"][0]["text"].strip() == "Hi"
    at = f"/v0/inboxes/{alice['inbox_id']}/threads/{got['thread_id']}"
    fault(await service.client.get(at), 404, "not_found")


async def test_pages_of_threads_show_each_once(service: Service) -> None:
    """A conversation would be skipped or answered twice."""
    inbox = await service.inbox("desk")
    made = [(await arrived(service, inbox, str(n)))["thread_id"] for n in range(5)]
    for path in (f"/v0/inboxes/{inbox['inbox_id']}/threads", "/v0/threads"):
        for ascending in ("false", "true"):
            seen: list[str] = []
            token: str | None = ""
            while token is not None:
                query = f"limit=2&ascending={ascending}" + (f"&page_token={token}" if token else "")
                page = await get(service, f"{path}?{query}")
                seen += [each["thread_id"] for each in page["threads"]]
                token = page.get("next_page_token")
            assert len(seen) == 5
            assert set(seen) == set(made)
    own = await get(service, f"/v0/inboxes/{inbox['inbox_id']}/threads?limit=1")
    token = own["next_page_token"]
    mistake(await service.client.get(f"/v0/threads?page_token={token}"), "page_token")


async def test_a_page_of_a_thread_takes_no_more_memory_than_a_message_may(
    database_url: str, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """Strangers decide how much a thread holds; a hundred large mails in one would end the process."""
    sandbox, port = sandbox_server
    async with serving(
        database_url, sandbox, smtp_port=port, max_message_size=1_000_000
    ) as service:
        inbox = await service.inbox("desk")
        for n in range(5):
            mail = a_mail(inbox["email"], f"Part {n}", References="<root@elsewhere.test>")
            if n < 2:
                mail.set_content(f"{'x' * 70}\n" * 17_000)
            else:
                mail.add_attachment(b"x" * 500_000, maintype="image", subtype="png")
            await service.deliver(mail)
            await until(partial(service.messages, inbox), lambda seen, n=n: len(seen) > n)
        (item,) = await threads(service, "/v0/threads")
        path = f"/v0/threads/{item['thread_id']}"
        pages = [await get(service, path)]
        while token := pages[-1].get("next_page_token"):
            pages.append(await get(service, f"{path}?page_token={token}"))
    shown = [[each["subject"] for each in page["messages"]] for page in pages]
    assert shown == [["Part 1", "Part 2", "Part 3", "Part 4"], ["Part 0"]]


async def test_threads_are_filtered(service: Service) -> None:
    """An agent could not find the conversation it is looking for."""
    inbox = await service.inbox("desk")
    one = await arrived(service, inbox, "Invoice", From="Ada <ada@elsewhere.test>")
    await arrived(service, inbox, "Lunch", From="eve@elsewhere.test")
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    await service.client.patch(
        f"{at}/messages/{one['message_id']}",
        json={"add_labels": "todo", "remove_labels": "unread"},
    )
    moment = datetime.fromisoformat(one["timestamp"])
    earlier = (moment - timedelta(seconds=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    expected = {
        "labels=todo": ["Invoice"],
        'labels=["unread"]': ["Lunch"],
        "labels=todo,unread": [],
        "senders=ADA": ["Invoice"],
        "senders=elsewhere": ["Invoice", "Lunch"],
        "recipients=desk@": ["Invoice", "Lunch"],
        "recipients=ada": [],
        "subject=lun": ["Lunch"],
        f"after={earlier}": ["Invoice", "Lunch"],
        f"before={earlier}": [],
    }
    for path in (f"{at}/threads", "/v0/threads"):
        for query, subjects in expected.items():
            found = await threads(service, path, query)
            assert sorted(each["subject"] for each in found) == subjects, query


async def test_a_thread_in_the_trash_is_hidden_until_asked_for(service: Service) -> None:
    """A thrown-away conversation would keep an agent busy."""
    inbox = await service.inbox("desk")
    message = await arrived(service, inbox, "Spammy")
    at = f"/v0/inboxes/{inbox['inbox_id']}"
    path = f"{at}/messages/{message['message_id']}"
    await service.client.patch(path, json={"add_labels": "trash"})
    for path in (f"{at}/threads", "/v0/threads"):
        assert await threads(service, path) == []
        assert len(await threads(service, path, "include_trash=true")) == 1
        assert len(await threads(service, path, "labels=trash")) == 1
    whole = await get(service, f"/v0/threads/{message['thread_id']}?include_trash=true")
    assert [each["subject"] for each in whole["messages"]] == ["Spammy"]


async def test_a_thread_is_shown_with_its_newest_messages(service: Service) -> None:
    """A long conversation would be cut at its end, where the news is."""
    inbox = await service.inbox("desk")
    first = await arrived(service, inbox, "0", Message_ID="<0@e.test>")
    for number in range(1, 4):
        await arrived(service, inbox, str(number), References="<0@e.test>")
    whole = await get(service, f"/v0/threads/{first['thread_id']}?limit=2")
    assert whole["count"] == 2
    assert whole["message_count"] == 4
    assert [each["subject"] for each in whole["messages"]] == ["2", "3"]


async def test_a_thread_that_is_not_there_is_404(service: Service) -> None:
    """A stale id must not look like a crash."""
    inbox = await service.inbox("desk")
    for id_ in ("none", "00000000-0000-0000-0000-000000000000", "thd_1"):
        for at in ("/v0/threads", f"/v0/inboxes/{inbox['inbox_id']}/threads"):
            fault(await service.client.get(f"{at}/{id_}"), 404, "not_found")
