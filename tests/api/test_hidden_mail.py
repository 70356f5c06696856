"""What hides a message from a key hides all that tells of it: its thread's summary, its events, its words."""

from __future__ import annotations

from email.message import EmailMessage
from urllib.parse import quote

import pytest

from agentmail_cp.mailserver import Folder
from tests.api.faults import fault
from tests.api.mailbox import arrive, at, ok, path_of, put, restricted, shown
from tests.fix_app import Json, Service, a_mail, until

SCOPES = ("inbox", "pod", "organisation")
CANARY = "zebrafinch"
ROOT = "<root@o.test>"


def threads_at(inbox: Json, scope: str) -> str:
    return {
        "inbox": f"{at(inbox)}/threads",
        "pod": f"/v0/pods/{inbox['pod_id']}/threads",
        "organisation": "/v0/threads",
    }[scope]


def suspicious(inbox: Json, **headers: str) -> EmailMessage:
    """A mail that names the canary wherever it can."""
    mail = a_mail(
        inbox["email"],
        f"About {CANARY}",
        f"Visit {CANARY}",
        From=f"{CANARY} <{CANARY}@elsewhere.test>",
        Cc=f"{CANARY}.too@elsewhere.test",
        References=ROOT,
        **headers,
    )
    mail.add_attachment(b"x", maintype="application", subtype="x-test", filename=f"{CANARY}.bin")
    return mail


async def mixed(service: Service, inbox: Json) -> tuple[Json, Json]:
    """A good message, and a later one of its thread that lies in Junk."""
    (good,) = await arrive(service, inbox, a_mail(inbox["email"], "Good", References=ROOT))
    bad = await put(service, inbox, suspicious(inbox), Folder.JUNK)
    assert good["thread_id"] == bad["thread_id"]
    return good, bad


@pytest.mark.parametrize("scope", SCOPES)
async def test_a_thread_tells_nothing_of_its_hidden_messages(anywhere: Service, scope: str) -> None:
    """An agent kept from spam would read its beginning and its sender in the list of threads."""
    inbox = await anywhere.inbox("desk")
    good, bad = await mixed(anywhere, inbox)
    poor = await restricted(anywhere, "message_read")
    rich = await restricted(anywhere, "message_read", "label_spam_read")
    path = threads_at(inbox, scope)
    for query in ("", "?include_spam=true", "/search?q=good", f"/{good['thread_id']}"):
        answer = await anywhere.client.get(path + query, headers=poor)
        page = await ok(answer)
        assert CANARY not in answer.text, query
        assert bad["message_id"] not in answer.text
        item = page if "messages" in page else page["threads"][0]
        assert (item["message_count"], item["size"]) == (1, good["size"])
        assert item["last_message_id"] == good["message_id"]
        assert "spam" not in item["labels"]
        assert item["timestamp"] == good["timestamp"]
    known = (await ok(await anywhere.client.get(path, headers=rich)))["threads"][0]
    assert (known["message_count"], known["last_message_id"]) == (2, bad["message_id"])


@pytest.mark.parametrize(
    "query", [f"senders={CANARY}", f"recipients={CANARY}.too", "labels=spam", "labels=unread,spam"]
)
async def test_a_thread_is_not_found_by_its_hidden_messages(service: Service, query: str) -> None:
    """Whether spam of somebody is there could be tried out."""
    inbox = await service.inbox("desk")
    await mixed(service, inbox)
    poor = await restricted(service, "message_read")
    rich = await restricted(service, "message_read", "label_spam_read")
    for headers, count in ((poor, 0), (rich, 1)):
        for scope in SCOPES:
            answer = await service.client.get(
                f"{threads_at(inbox, scope)}?{query}", headers=headers
            )
            assert (await ok(answer))["count"] == count, scope


async def test_pages_of_threads_go_on_where_some_are_left_out(service: Service) -> None:
    """A page without its hidden threads could look like the last one."""
    inbox = await service.inbox("desk")
    for number in range(3):
        root = f"<{number}@o.test>"
        await arrive(service, inbox, a_mail(inbox["email"], f"Good {number}", References=root))
        mail = a_mail(
            inbox["email"], f"Bad {number}", From=f"{CANARY}@elsewhere.test", References=root
        )
        await put(service, inbox, mail, Folder.JUNK)
    poor = await restricted(service, "message_read")
    seen: list[str] = []
    token = ""
    while True:
        page = await ok(
            await service.client.get(f"{at(inbox)}/threads?limit=1{token}", headers=poor)
        )
        seen += [each["subject"] for each in page["threads"]]
        if "next_page_token" not in page:
            break
        token = f"&page_token={page['next_page_token']}"
    assert seen == ["Good 2", "Good 1", "Good 0"]


async def test_a_change_of_a_thread_leaves_hidden_messages_alone(anywhere: Service) -> None:
    """A key would delete or label mail it may not even see."""
    inbox = await anywhere.inbox("desk")
    good, bad = await mixed(anywhere, inbox)
    poor = await restricted(anywhere, "message_read", "message_update", "message_delete")
    path = f"{at(inbox)}/threads/{good['thread_id']}"
    changed = await ok(
        await anywhere.client.patch(path, json={"add_labels": ["seen"]}, headers=poor)
    )
    assert changed["labels"] == ["received", "seen", "unread"]
    labels = {each["message_id"]: each["labels"] for each in await shown(anywhere, inbox)}
    assert "seen" in labels[good["message_id"]]
    assert "seen" not in labels[bad["message_id"]]
    assert (await anywhere.client.delete(path, headers=poor)).status_code == 204
    left = await until(lambda: shown(anywhere, inbox), lambda seen: len(seen) == 1)
    assert left[0]["message_id"] == bad["message_id"]
    fault(await anywhere.client.get(path, headers=poor), 404, "not_found")


async def events(service: Service, inbox: Json, headers: dict[str, str]) -> set[tuple[str, str]]:
    """Message and label of each change a key is shown."""
    page = await ok(await service.client.get(f"{at(inbox)}/events?limit=100", headers=headers))
    return {(each["message_id"], each["label"]) for each in page["events"]}


async def test_events_of_hidden_messages_are_hidden(anywhere: Service) -> None:
    """A key that must not know of a message would learn its id, and that it is spam."""
    inbox = await anywhere.inbox("desk")
    good, bad = await mixed(anywhere, inbox)
    for message in (good, bad):
        await ok(
            await anywhere.client.patch(path_of(inbox, message), json={"add_labels": ["mine"]})
        )
    poor = await restricted(anywhere, "message_read", "label_trash_read")
    rich = await restricted(anywhere, "message_read", "label_spam_read")
    kept = (good["message_id"], "mine")
    assert await events(anywhere, inbox, poor) == {kept}
    assert await events(anywhere, inbox, rich) >= {kept, (bad["message_id"], "mine")}


async def test_events_of_deleted_messages_are_for_keys_that_see_all(service: Service) -> None:
    """Nobody can say any more whether what is gone was hidden."""
    inbox = await service.inbox("desk")
    good, _ = await mixed(service, inbox)
    await ok(await service.client.patch(path_of(inbox, good), json={"add_labels": ["mine"]}))
    assert (await service.client.delete(path_of(inbox, good))).status_code == 204
    everything = {"Authorization": f"Bearer {service.key}"}
    rich = await restricted(
        service,
        "message_read",
        *(f"label_{each}_read" for each in ("spam", "blocked", "unauthenticated", "trash")),
    )
    poor = await restricted(service, "message_read")
    gone = (good["message_id"], "mine")
    assert gone in await events(service, inbox, everything)
    assert gone in await events(service, inbox, rich)
    assert await events(service, inbox, poor) == set()


async def test_pages_of_events_pass_over_hidden_ones(service: Service) -> None:
    """A page of nothing but hidden events would end the list."""
    inbox = await service.inbox("desk")
    good, bad = await mixed(service, inbox)
    for message, labels in ((good, "ab"), (bad, "cdefg"), (good, "hi")):
        for label in labels:
            await ok(
                await service.client.patch(path_of(inbox, message), json={"add_labels": [label]})
            )
    poor = await restricted(service, "message_read")
    for ascending in ("true", "false"):
        path = f"{at(inbox)}/events?limit=1&ascending={ascending}"
        seen: list[str] = []
        token = ""
        while True:
            page = await ok(await service.client.get(path + token, headers=poor))
            seen += [each["label"] for each in page["events"]]
            if "next_page_token" not in page:
                break
            token = f"&page_token={quote(page['next_page_token'])}"
        assert seen == sorted("abhi", reverse=ascending == "false")
