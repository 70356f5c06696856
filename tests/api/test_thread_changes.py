"""Threads changed, deleted and read page by page, in every scope and in both worlds."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import pytest

from agentmail_cp.mailserver import Folder
from tests.api.faults import fault, mistake
from tests.api.mailbox import (
    account_of,
    arrive,
    at,
    named,
    numbered,
    ok,
    path_of,
    put,
    restricted,
    shown,
    stored,
)
from tests.fix_app import Json, Service, a_mail, until

SCOPES = ("inbox", "pod", "organisation")


def threads_at(inbox: Json, scope: str) -> str:
    return {
        "inbox": f"{at(inbox)}/threads",
        "pod": f"/v0/pods/{inbox['pod_id']}/threads",
        "organisation": "/v0/threads",
    }[scope]


def with_file(mail: EmailMessage, name: str) -> EmailMessage:
    mail.add_attachment(name.encode(), maintype="application", subtype="x-test", filename=name)
    return mail


def names(attachments: list[Json] | None) -> list[str]:
    return [each["filename"] for each in attachments or []]


async def patched(service: Service, path: str, **change: Any) -> Json:
    return await ok(await service.client.patch(path, json=change))


@pytest.mark.parametrize("scope", SCOPES)
async def test_every_message_of_a_thread_is_labelled(anywhere: Service, scope: str) -> None:
    """A conversation would be half filed."""
    inbox = await anywhere.inbox("desk")
    made = await numbered(anywhere, inbox, 3, References="<root@o.test>")
    path = f"{threads_at(inbox, scope)}/{made[0]['thread_id']}"
    answer = await patched(
        anywhere, path, add_labels=["Invoice", "both"], remove_labels=["unread", "both"]
    )
    assert answer == {"thread_id": made[0]["thread_id"], "labels": ["invoice", "received"]}
    assert [each["labels"] for each in await shown(anywhere, inbox)] == [
        ["invoice", "received"]
    ] * 3
    assert all(
        mail.keywords == {"$seen", "invoice"} for mail in (await stored(anywhere, inbox)).values()
    )
    (item,) = (await ok(await anywhere.client.get(f"{threads_at(inbox, scope)}?labels=INVOICE")))[
        "threads"
    ]
    assert item["labels"] == ["invoice", "received"]


async def test_a_thread_is_thrown_away_and_brought_back(anywhere: Service) -> None:
    """Each mail comes back to where it was: what the agent wrote to Sent, the rest to Inbox."""
    inbox, other = await anywhere.inbox("desk"), await anywhere.inbox("other")
    (message,) = await numbered(anywhere, inbox, 1, Message_ID="<0@o.test>")
    await anywhere.send(
        inbox,
        to=other["email"],
        subject="Re: 0",
        text="Answer",
        headers={"In-Reply-To": "<0@o.test>"},
    )
    path = f"{at(inbox)}/threads/{message['thread_id']}"
    answer = await patched(anywhere, path, add_labels=["trash"])
    assert "trash" in answer["labels"]
    assert await anywhere.messages(inbox) == []
    there = await stored(anywhere, inbox)
    assert there["0"].folders == there["Re: 0"].folders == {Folder.TRASH}
    answer = await patched(anywhere, path, remove_labels=["trash"])
    assert "trash" not in answer["labels"]
    there = await stored(anywhere, inbox)
    assert there["0"].folders == {Folder.INBOX}
    assert there["Re: 0"].folders == {Folder.SENT}


async def test_system_labels_of_a_thread_are_not_a_callers(service: Service) -> None:
    """A thread could be made to look delivered, or its spam clean."""
    inbox = await service.inbox("desk")
    (message,) = await numbered(service, inbox, 1)
    path = f"/v0/threads/{message['thread_id']}"
    for field in ("add_labels", "remove_labels"):
        for label in ("spam", "received", "sent", "bounced", "unauthenticated"):
            answer = await service.client.patch(path, json={field: [label]})
            mistake(answer, field, "SYSTEM_LABEL")
    mistake(await service.client.patch(path, json={}), "add_labels", "REQUIRED")
    mistake(await service.client.patch(path, json={"add_labels": None}), "add_labels", "REQUIRED")
    fault(await service.client.patch(f"/v0/threads/{uuid4()}", json={"add_labels": ["x"]}), 404)


async def test_a_thread_of_a_hundred_is_not_labelled_at_once(service: Service) -> None:
    """The contract's bound; ninety-nine are, all of them."""
    inbox = await service.inbox("desk")
    account = await account_of(service, inbox)
    for number in range(99):
        mail = a_mail(inbox["email"], f"{number}", References="<root@o.test>")
        await service.server.append(account, mail.as_bytes(), folder=Folder.INBOX)
    (first, last) = await named(service, inbox, ["0", "98"])
    assert first["thread_id"] == last["thread_id"]
    path = f"/v0/threads/{first['thread_id']}"
    answer = await patched(service, path, add_labels=["x"], remove_labels=["unread"])
    assert answer["labels"] == ["received", "x"]
    await numbered(service, inbox, 1, References="<root@o.test>", Message_ID="<hundredth@o.test>")
    await until(
        lambda: service.client.get(f"{path}?limit=1"),
        lambda seen: seen.json()["message_count"] == 100,
    )
    answer = await service.client.patch(path, json={"add_labels": ["y"]})
    body = fault(answer, 422, "unprocessable")
    assert body["error"]["details"] == {"code": "TOO_MANY"}


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_deleted_thread_is_gone_for_good_hidden_messages_too(
    anywhere: Service, scope: str
) -> None:
    """What is hidden would show up again as a conversation of its own."""
    inbox = await anywhere.inbox("desk")
    (other,) = await numbered(anywhere, inbox, 1)
    (message,) = await arrive(
        anywhere, inbox, a_mail(inbox["email"], "Good", References="<root@o.test>")
    )
    spam = a_mail(inbox["email"], "Spam", References="<root@o.test>")
    await put(anywhere, inbox, spam, Folder.JUNK)
    path = f"{threads_at(inbox, scope)}/{message['thread_id']}"
    assert (await anywhere.client.delete(path)).status_code == 204
    fault(await anywhere.client.delete(path), 404, "not_found")
    fault(await anywhere.client.get(path), 404, "not_found")
    assert (await stored(anywhere, inbox)).keys() == {"0"}
    assert [each["message_id"] for each in await shown(anywhere, inbox)] == [other["message_id"]]


async def test_a_joined_thread_is_changed_under_each_of_its_ids(anywhere: Service) -> None:
    """An id a caller kept would stop working when a late mail joins two threads."""
    inbox = await anywhere.inbox("desk")
    older, newer = await arrive(
        anywhere,
        inbox,
        a_mail(inbox["email"], "One", Message_ID="<1@e.test>"),
        a_mail(inbox["email"], "Three", Message_ID="<3@e.test>", References="<2@e.test>"),
    )
    late = a_mail(inbox["email"], "Two", Message_ID="<2@e.test>", In_Reply_To="<1@e.test>")
    await arrive(anywhere, inbox, late)
    ids = {older["thread_id"], newer["thread_id"]}
    for number, thread_id in enumerate(sorted(ids)):
        path = f"{at(inbox)}/threads/{thread_id}"
        answer = await patched(anywhere, path, add_labels=[f"l{number}"])
        assert answer["thread_id"] in ids
    for each in await shown(anywhere, inbox):
        assert {"l0", "l1"} <= set(each["labels"])
    for thread_id in sorted(ids):
        answer = await anywhere.client.delete(f"/v0/threads/{thread_id}")
        assert answer.status_code in (204, 404)
    assert await stored(anywhere, inbox) == {}


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_thread_is_read_from_its_end_page_by_page(anywhere: Service, scope: str) -> None:
    """An agent that reads on would see messages twice, or not the newest ones first."""
    inbox = await anywhere.inbox("desk")
    made = await numbered(anywhere, inbox, 5, References="<root@o.test>")
    thread_id = made[0]["thread_id"]
    path = f"{threads_at(inbox, scope)}/{thread_id}"
    pages: list[list[str]] = []
    token: str | None = ""
    while token is not None:
        whole = await ok(
            await anywhere.client.get(
                path, params={"limit": "2", **({"page_token": token} if token else {})}
            )
        )
        assert (whole["limit"], whole["message_count"]) == (2, 5)
        assert whole["count"] == len(whole["messages"])
        assert all(each["text"] for each in whole["messages"])
        times = [each["timestamp"] for each in whole["messages"]]
        assert times == sorted(times)
        pages.append([each["message_id"] for each in whole["messages"]])
        token = whole.get("next_page_token")
    assert [len(page) for page in pages] == [2, 2, 1]
    every = [each["message_id"] for each in await shown(anywhere, inbox)]
    assert [each for page in reversed(pages) for each in page] == every
    whole = await ok(await anywhere.client.get(path))
    assert (whole["count"], whole["limit"]) == (5, 100)
    assert "next_page_token" not in whole
    foreign = (await ok(await anywhere.client.get(f"{at(inbox)}/messages?limit=1")))[
        "next_page_token"
    ]
    mistake(await anywhere.client.get(path, params={"page_token": foreign}), "page_token")


async def test_threads_tell_what_all_their_messages_have_attached(anywhere: Service) -> None:
    """The invoice is mostly in the first mail, and the list shows the last."""
    desk, other = await anywhere.inbox("desk"), await anywhere.inbox("other")
    for inbox in (desk, other):
        name = str(inbox["username"])
        await arrive(
            anywhere,
            inbox,
            with_file(a_mail(inbox["email"], "One", Message_ID="<r@o.test>"), f"{name}-1"),
            a_mail(inbox["email"], "Two", References="<r@o.test>"),
            with_file(a_mail(inbox["email"], "Three", References="<r@o.test>"), f"{name}-3"),
        )
        spam = with_file(a_mail(inbox["email"], "Spam", References="<r@o.test>"), "virus")
        await put(anywhere, inbox, spam, Folder.JUNK)
    wanted = {
        each["email"]: [f"{each['username']}-1", f"{each['username']}-3"] for each in (desk, other)
    }
    for scope in SCOPES:
        listed = (await ok(await anywhere.client.get(threads_at(desk, scope))))["threads"]
        found = {each["inbox_id"]: names(each["attachments"]) for each in listed}
        assert found == (wanted if scope != "inbox" else {desk["email"]: wanted[desk["email"]]})
    item = (await ok(await anywhere.client.get(f"{at(desk)}/threads")))["threads"][0]
    whole = await ok(await anywhere.client.get(f"{at(desk)}/threads/{item['thread_id']}?limit=1"))
    assert names(whole["attachments"]) == wanted[desk["email"]]
    everything = await ok(await anywhere.client.get(f"{at(desk)}/threads?include_spam=true"))
    assert names(everything["threads"][0]["attachments"])[-1] == "virus"
    for scope in SCOPES:
        path = f"{threads_at(desk, scope)}/{item['thread_id']}"
        for attachment in whole["attachments"]:
            got = await ok(
                await anywhere.client.get(f"{path}/attachments/{attachment['attachment_id']}")
            )
            assert {name: got[name] for name in attachment} == attachment
            assert got["download_url"].startswith("http")
            assert got["expires_at"].endswith("Z")
        fault(await anywhere.client.get(f"{path}/attachments/{uuid4()}"), 404, "not_found")


async def test_a_pod_shows_its_own_threads(service: Service) -> None:
    """A customer's pod would show another customer's mail."""
    inbox = await service.inbox("desk")
    (message,) = await numbered(service, inbox, 1)
    pod = f"/v0/pods/{inbox['pod_id']}"
    listed = (await ok(await service.client.get(f"{pod}/threads")))["threads"]
    assert [each["thread_id"] for each in listed] == [message["thread_id"]]
    for nowhere in (f"/v0/pods/{uuid4()}", "/v0/pods/none"):
        for method, path in (
            ("GET", f"{nowhere}/threads"),
            ("GET", f"{nowhere}/threads/{message['thread_id']}"),
            ("DELETE", f"{nowhere}/threads/{message['thread_id']}"),
        ):
            fault(await service.client.request(method, path), 404, "not_found")
    assert len(await shown(service, inbox)) == 1


async def test_what_a_key_may_not_see_hides_in_threads_too(anywhere: Service) -> None:
    """A key that must not read spam would read it through its thread."""
    inbox = await anywhere.inbox("desk")
    alone = await put(anywhere, inbox, a_mail(inbox["email"], "Alone"), Folder.JUNK)
    (good,) = await arrive(
        anywhere, inbox, a_mail(inbox["email"], "Good", References="<root@o.test>")
    )
    mixed = a_mail(inbox["email"], "Mixed", References="<root@o.test>")
    await put(anywhere, inbox, mixed, Folder.JUNK)
    poor = await restricted(anywhere, "message_read", "message_update", "message_delete")
    rich = await restricted(anywhere, "message_read", "label_spam_read")
    listed = f"{at(inbox)}/threads?include_spam=true"

    async def subjects(path: str, headers: dict[str, str], key: str) -> list[str]:
        page = await ok(await anywhere.client.get(path, headers=headers))
        return sorted(each["subject"] for each in page[key])

    assert await subjects(listed, poor, "threads") == ["Good"]
    assert await subjects(listed, rich, "threads") == ["Alone", "Good"]
    whole = f"{at(inbox)}/threads/{good['thread_id']}"
    assert await subjects(whole, rich, "messages") == ["Good"]
    assert await subjects(f"{whole}?include_spam=true", rich, "messages") == ["Good", "Mixed"]
    assert await subjects(f"{whole}?include_spam=true", poor, "messages") == ["Good"]
    lone = f"{at(inbox)}/threads/{alone['thread_id']}"
    for method in ("GET", "DELETE"):
        fault(await anywhere.client.request(method, lone, headers=poor), 404, "not_found")
    fault(await anywhere.client.patch(lone, json={"add_labels": ["x"]}, headers=poor), 404)
    fault(await anywhere.client.patch(whole, json={"add_labels": ["x"]}, headers=rich), 403)
    fault(await anywhere.client.delete(whole, headers=rich), 403, "missing_permission")
    assert len(await shown(anywhere, inbox)) == 3


@pytest.mark.parametrize(
    ("label", "folder", "keywords"),
    [
        ("spam", Folder.JUNK, ()),
        ("trash", Folder.TRASH, ()),
        ("blocked", Folder.INBOX, ("$blocked",)),
        ("unauthenticated", Folder.INBOX, ("$unauthenticated",)),
    ],
)
async def test_each_hiding_label_hides_until_asked_for_by_who_may(
    anywhere: Service, label: str, folder: Folder, keywords: tuple[str, ...]
) -> None:
    """An agent would act on what the server took for dangerous, or never find it."""
    inbox = await anywhere.inbox("desk")
    hidden = await put(anywhere, inbox, a_mail(inbox["email"], "Hidden"), folder, *keywords)
    assert label in hidden["labels"]
    poor = await restricted(anywhere, "message_read")
    rich = await restricted(anywhere, "message_read", f"label_{label}_read")
    others = {"spam", "trash", "blocked", "unauthenticated"} - {label}
    for kind in ("messages", "threads"):
        for query, headers, count in (
            ("", rich, 0),
            ("&".join(f"include_{other}=true" for other in others), rich, 0),
            (f"include_{label}=true", poor, 0),
            (f"labels={label}", poor, 0),
            (f"include_{label}=true", rich, 1),
            (f"labels={label.upper()}", rich, 1),
        ):
            answer = await anywhere.client.get(f"{at(inbox)}/{kind}?{query}", headers=headers)
            assert (await ok(answer))["count"] == count, (kind, query)
    path = path_of(inbox, hidden)
    fault(await anywhere.client.get(path, headers=poor), 404, "not_found")
    assert (await ok(await anywhere.client.get(path, headers=rich)))["subject"] == "Hidden"


async def test_threads_of_deleted_inboxes_are_read_but_not_changed(service: Service) -> None:
    """Retained mail is evidence."""
    inbox = await service.inbox("desk")
    (message,) = await numbered(service, inbox, 1)
    assert (await service.client.delete(at(inbox))).status_code == 204
    for scope in ("pod", "organisation"):
        path = f"{threads_at(inbox, scope)}/{message['thread_id']}"
        fault(await service.client.get(path), 404)
        assert (await ok(await service.client.get(f"{path}?include_deleted=true")))["count"] == 1
        fault(await service.client.delete(f"{path}?include_deleted=true"), 404, "not_found")
        change = {"add_labels": ["x"]}
        fault(await service.client.patch(f"{path}?include_deleted=true", json=change), 404)
    page = await ok(await service.client.get(f"{threads_at(inbox, 'pod')}?include_deleted=true"))
    assert page["count"] == 1


async def test_every_change_of_a_label_is_an_event(anywhere: Service) -> None:
    """A mirror of the mailbox would drift away from it."""
    inbox = await anywhere.inbox("desk")
    one, two = await numbered(anywhere, inbox, 2, References="<root@o.test>")
    assert (await ok(await anywhere.client.get(f"{at(inbox)}/events")))["events"] == []
    await patched(anywhere, path_of(inbox, one), add_labels="x", remove_labels=["unread", "none"])
    await patched(anywhere, f"/v0/threads/{one['thread_id']}", add_labels=["x"])
    await ok(
        await anywhere.client.post(
            f"{at(inbox)}/messages/batch-update",
            json={
                "message_ids": [one["message_id"], two["message_id"]],
                "remove_labels": ["x"],
            },
        )
    )
    page = await ok(await anywhere.client.get(f"{at(inbox)}/events?ascending=true"))
    found = [(each["event_type"], each["message_id"], each["label"]) for each in page["events"]]
    first, second = one["message_id"], two["message_id"]
    assert found[:3] == [
        ("label.added", first, "x"),
        ("label.removed", first, "unread"),
        ("label.added", second, "x"),
    ]
    assert sorted(found[3:]) == sorted(("label.removed", each, "x") for each in (first, second))
    await asyncio.sleep(0.5)  # intake reads them once more, and must find nothing new
    again = await ok(await anywhere.client.get(f"{at(inbox)}/events?ascending=true"))
    assert again == page


async def test_events_say_what_the_sdk_reads_and_come_in_pages(service: Service) -> None:
    """A reader of the log would miss or repeat entries."""
    inbox = await service.inbox("desk")
    (message,) = await numbered(service, inbox, 1)
    for number in range(5):
        await patched(service, path_of(inbox, message), add_labels=f"l{number}")
    page = await ok(await service.client.get(f"{at(inbox)}/events?limit=2"))
    assert (page["count"], page["limit"]) == (2, 2)
    event = page["events"][0]
    assert event | {"event_id": "", "event_at": "", "created_at": ""} == {
        "organization_id": str(service.organization_id),
        "pod_id": inbox["pod_id"],
        "inbox_id": inbox["inbox_id"],
        "event_id": "",
        "event_type": "label.added",
        "message_id": message["message_id"],
        "label": "l4",
        "event_at": "",
        "created_at": "",
    }
    assert event["event_at"].endswith("Z")
    for ascending in ("true", "false"):
        seen: list[str] = []
        token: str | None = ""
        while token is not None:
            query = {"limit": "2", "ascending": ascending}
            page = await ok(
                await service.client.get(
                    f"{at(inbox)}/events",
                    params=query | ({"page_token": token} if token else {}),
                )
            )
            seen += [each["label"] for each in page["events"]]
            token = page.get("next_page_token")
        assert seen == sorted(seen, reverse=ascending == "false")
        assert len(seen) == 5
    bad = await service.client.get(f"{at(inbox)}/events?page_token=x")
    mistake(bad, "page_token", "INVALID_PAGE_TOKEN")
    headers = await restricted(service, "message_update")
    fault(await service.client.get(f"{at(inbox)}/events", headers=headers), 403)
    fault(await service.client.get("/v0/inboxes/none@agents.test/events"), 404, "not_found")
