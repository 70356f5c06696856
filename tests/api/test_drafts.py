"""Drafts through the API, on the sandbox and on a real Stalwart."""

from __future__ import annotations

import base64
from typing import Any
from uuid import UUID

import pytest

from agentmail_cp.mailserver import Folder
from tests.api.drafting import ahead, change, listed, look, make, path, send, status
from tests.api.faults import fault, mistake
from tests.api.mailbox import account_of
from tests.fix_app import DOMAIN, OUTSIDER, Json, Service, a_mail, own_labels, until
from tests.tenants import inbox_in, pod


async def one_message(service: Service, inbox: Json, **query: object) -> Json:
    """The only message of an inbox, whole."""
    (item,) = await until(lambda: service.messages(inbox, **query), lambda seen: len(seen) == 1)
    answer = await service.client.get(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{item['message_id']}"
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def attachment(name: str, content: bytes, content_type: str = "application/pdf") -> Json:
    return {
        "filename": name,
        "content_type": content_type,
        "content": base64.b64encode(content).decode(),
    }


async def test_a_draft_is_there_as_it_was_written(anywhere: Service) -> None:
    """What an agent wrote would come back changed, or not at all."""
    inbox = await anywhere.inbox("author")
    made = await make(
        anywhere,
        inbox,
        to="Ada Lovelace <ada@elsewhere.test>",
        cc=["bob@elsewhere.test", "cy@elsewhere.test"],
        bcc=["dee@elsewhere.test"],
        reply_to="desk@elsewhere.test",
        subject="Größe",
        text="Dear Ada",
        html="<p>Dear <b>Ada</b></p>",
        labels=["Needs Review"],
    )
    assert made["to"] == ["Ada Lovelace <ada@elsewhere.test>"]
    assert made["cc"] == ["bob@elsewhere.test", "cy@elsewhere.test"]
    assert made["bcc"] == ["dee@elsewhere.test"]
    assert made["reply_to"] == ["desk@elsewhere.test"]
    assert made["subject"] == "Größe"
    assert made["text"] == "Dear Ada"
    assert made["html"] == "<p>Dear <b>Ada</b></p>"
    assert made["labels"] == ["draft", "needs review"]
    assert made["preview"] == "Dear Ada"
    assert made["inbox_id"] == inbox["email"]
    assert "send_status" not in made
    assert "send_at" not in made
    assert await look(anywhere, inbox, made) == made
    (item,) = await listed(anywhere, inbox)
    assert item == {key: value for key, value in made.items() if key in item}
    assert item.keys() >= {"inbox_id", "draft_id", "labels", "updated_at", "to", "preview"}
    assert not item.keys() & {"text", "html"}
    assert await anywhere.messages(inbox) == []


async def test_an_empty_draft_can_be_made(anywhere: Service) -> None:
    """An agent that fills in a draft later could not begin one."""
    inbox = await anywhere.inbox("author")
    answer = await anywhere.client.post(path(inbox))
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["labels"] == ["draft"]
    assert await look(anywhere, inbox, made) == made
    refused = await send(anywhere, inbox, made)
    fault(refused, 422, "unprocessable")
    assert (await look(anywhere, inbox, made))["labels"] == ["draft"]


async def test_a_change_leaves_alone_what_it_does_not_name(anywhere: Service) -> None:
    """Correcting a subject would lose the recipients."""
    inbox = await anywhere.inbox("author")
    made = await make(
        anywhere, inbox, to=[OUTSIDER], cc=["bob@elsewhere.test"], subject="One", text="Text"
    )
    changed = await change(anywhere, inbox, made, subject="Two")
    assert changed["draft_id"] == made["draft_id"]
    assert changed["subject"] == "Two"
    assert changed["updated_at"] > made["updated_at"]
    for field in ("to", "cc", "text", "labels", "created_at"):
        assert changed[field] == made[field], field
    assert await look(anywhere, inbox, made) == changed
    assert len(await listed(anywhere, inbox)) == 1


async def test_null_clears_a_field_and_an_empty_list_recipients(anywhere: Service) -> None:
    """What is not wanted any more would be sent."""
    inbox = await anywhere.inbox("author")
    made = await make(
        anywhere,
        inbox,
        to=[OUTSIDER],
        cc=[OUTSIDER],
        bcc=[OUTSIDER],
        reply_to=[OUTSIDER],
        subject="S",
        text="T",
        html="<p>T</p>",
    )
    changed = await change(
        anywhere, inbox, made, cc=[], bcc=None, reply_to=None, subject=None, html=None
    )
    assert changed["to"] == [OUTSIDER]
    for field in ("cc", "bcc", "reply_to", "subject", "html"):
        assert field not in changed, field
    assert changed["text"].strip() == "T"
    bare = await change(anywhere, inbox, made, to=[], text=None)
    assert "to" not in bare
    assert "text" not in bare


async def test_attachments_are_added_and_removed_one_by_one(anywhere: Service) -> None:
    """Removing one file would remove another, as every change gives the mail new parts."""
    inbox = await anywhere.inbox("author")
    made = await make(
        anywhere, inbox, to=OUTSIDER, text="T", attachments=[attachment("a.pdf", b"A" * 100)]
    )
    assert [each["filename"] for each in made["attachments"]] == ["a.pdf"]
    two = await change(
        anywhere,
        inbox,
        made,
        add_attachments=[
            attachment("b.txt", "ünï\n".encode(), "text/plain"),
            attachment("c.pdf", b"C"),
        ],
    )
    ids = {each["filename"]: each["attachment_id"] for each in two["attachments"]}
    assert list(ids) == ["a.pdf", "b.txt", "c.pdf"]
    assert ids["a.pdf"] == made["attachments"][0]["attachment_id"]
    again = await change(anywhere, inbox, made, subject="Other")
    assert {e["filename"]: e["attachment_id"] for e in again["attachments"]} == ids
    fewer = await change(anywhere, inbox, made, remove_attachments=[ids["b.txt"]])
    assert {e["filename"]: e["attachment_id"] for e in fewer["attachments"]} == {
        name: ids[name] for name in ("a.pdf", "c.pdf")
    }
    (item,) = await listed(anywhere, inbox)
    assert item["attachments"] == fewer["attachments"]
    answer = await anywhere.client.patch(
        path(inbox, made), json={"remove_attachments": [ids["b.txt"]]}
    )
    mistake(answer, "remove_attachments")
    none = await change(
        anywhere, inbox, made, remove_attachments=[ids["a.pdf"], ids["c.pdf"]], text="Bare"
    )
    assert "attachments" not in none
    assert none["text"].strip() == "Bare"


async def test_an_attachment_of_a_draft_can_be_downloaded(anywhere: Service) -> None:
    """Whoever approves a draft could not see what it carries."""
    inbox = await anywhere.inbox("author")
    made = await make(anywhere, inbox, attachments=[attachment("a.pdf", b"%PDF" * 30)])
    (item,) = made["attachments"]
    for base in (path(inbox, made), f"/v0/drafts/{made['draft_id']}"):
        answer = await anywhere.client.get(f"{base}/attachments/{item['attachment_id']}")
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        assert shown["attachment_id"] == item["attachment_id"]
        assert shown["size"] == 120
        file = await anywhere.client.get(shown["download_url"])
        assert file.content == b"%PDF" * 30
    missing = await anywhere.client.get(f"{path(inbox, made)}/attachments/{made['draft_id']}")
    fault(missing, 404, "not_found")


async def test_labels_of_a_draft_change_and_narrow_lists(anywhere: Service) -> None:
    """A reviewer could not find what waits for them."""
    inbox = await anywhere.inbox("author")
    one = await make(anywhere, inbox, subject="One", labels=["todo", "a b"])
    two = await make(anywhere, inbox, subject="Two")
    changed = await change(anywhere, inbox, one, add_labels=["ok"], remove_labels="todo")
    assert changed["labels"] == ["a b", "draft", "ok"]
    assert changed["subject"] == "One"
    assert [e["draft_id"] for e in await listed(anywhere, inbox, labels='["ok","a b"]')] == [
        one["draft_id"]
    ]
    both = {one["draft_id"], two["draft_id"]}
    assert {e["draft_id"] for e in await listed(anywhere, inbox, labels="draft")} == both
    again = await change(anywhere, inbox, one, subject="Uno", add_labels="more")
    assert again["labels"] == ["a b", "draft", "more", "ok"]
    for field, label in (("add_labels", "scheduled"), ("remove_labels", "draft")):
        answer = await anywhere.client.patch(path(inbox, one), json={field: [label]})
        mistake(answer, field, "SYSTEM_LABEL")
    answer = await anywhere.client.patch(path(inbox, one), json={"add_labels": ["trash"]})
    mistake(answer, "add_labels", "SYSTEM_LABEL")


async def test_a_deleted_draft_is_gone(anywhere: Service) -> None:
    """A draft that was thrown away would come back, or be sent."""
    inbox = await anywhere.inbox("author")
    made = await make(anywhere, inbox, to=OUTSIDER, text="T", send_at=ahead(3600))
    answer = await anywhere.client.delete(path(inbox, made))
    assert answer.status_code == 204
    assert await listed(anywhere, inbox) == []
    for again in (
        await anywhere.client.get(path(inbox, made)),
        await anywhere.client.delete(path(inbox, made)),
        await anywhere.client.patch(path(inbox, made), json={"subject": "x"}),
        await send(anywhere, inbox, made),
    ):
        fault(again, 404, "not_found")
    await until(lambda: listed(anywhere, inbox), lambda seen: seen == [])


async def test_a_sent_draft_is_a_message_and_no_draft(anywhere: Service) -> None:
    """A mail would be sent twice, or an agent would not find what it sent."""
    sender, receiver = await anywhere.inbox("sender"), await anywhere.inbox("receiver")
    made = await make(
        anywhere,
        sender,
        to=receiver["email"],
        subject="Plan",
        text="The plan",
        html="<p>The plan</p>",
        labels=["q3", "old"],
        attachments=[attachment("plan.pdf", b"%PDF")],
    )
    answer = await send(anywhere, sender, made, add_labels=["done"], remove_labels="old")
    assert answer.status_code == 200, answer.text
    assert await status(anywhere, sender, made) == 404
    assert await listed(anywhere, sender) == []
    sent = await one_message(anywhere, sender)
    assert sent["message_id"] == answer.json()["message_id"]
    assert sent["thread_id"] == answer.json()["thread_id"]
    assert own_labels(sent) == ["done", "q3", "sent"]
    got = await one_message(anywhere, receiver)
    for message in (sent, got):
        assert message["subject"] == "Plan"
        assert message["text"].strip() == "The plan"
        assert message["html"].strip() == "<p>The plan</p>"
        assert [each["filename"] for each in message["attachments"]] == ["plan.pdf"]
    fault(await send(anywhere, sender, made), 404, "not_found")


async def test_a_repeated_request_to_send_gets_the_first_answer(anywhere: Service) -> None:
    """A client that repeats a request whose answer it lost would believe that nothing was sent."""
    inbox = await anywhere.inbox("sender")
    made = await make(anywhere, inbox, to=inbox["email"], text="T")
    first = await send(anywhere, inbox, made, key="k-1")
    assert first.status_code == 200, first.text
    again = await send(anywhere, inbox, made, key="k-1")
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await send(anywhere, inbox, made, key="k-1", add_labels=["x"])
    fault(other, 409, "conflict")
    seen = await until(lambda: anywhere.messages(inbox), lambda seen: len(seen) == 2)
    assert len(seen) == 2
    for bad in ("", "a b", "x" * 257):
        answer = await anywhere.client.post(
            f"{path(inbox, made)}/send", json={}, headers={"Idempotency-Key": bad}
        )
        mistake(answer, "Idempotency-Key")


async def received(service: Service, inbox: Json, **headers: str) -> Json:
    """A mail from outside with an attachment, as the API shows it."""
    mail = a_mail(inbox["email"], "Offer", "Here is our offer.", **headers)
    mail.add_attachment(b"%PDF offer", maintype="application", subtype="pdf", filename="o.pdf")
    await service.deliver(mail)
    return await one_message(service, inbox)


async def test_a_reply_is_drafted_with_recipients_subject_and_thread(anywhere: Service) -> None:
    """A reply that somebody looked over first would start a conversation of its own."""
    inbox = await anywhere.inbox("desk")
    parent = await received(
        anywhere, inbox, Message_ID="<p@elsewhere.test>", References="<root@elsewhere.test>"
    )
    made = await make(anywhere, inbox, in_reply_to=parent["message_id"], text="Thanks")
    assert made["in_reply_to"] == parent["message_id"]
    assert made["to"] == ["Ada Lovelace <ada@elsewhere.test>"]
    assert made["subject"] == "Re: Offer"
    assert made["references"] == ["<root@elsewhere.test>", "<p@elsewhere.test>"]
    changed = await change(anywhere, inbox, made, to=[inbox["email"]], text="Thank you")
    assert changed["in_reply_to"] == parent["message_id"]
    answer = await send(anywhere, inbox, made)
    assert answer.json()["thread_id"] == parent["thread_id"]
    (sent,) = await until(
        lambda: anywhere.messages(inbox, labels="sent"), lambda seen: len(seen) == 1
    )
    assert sent["in_reply_to"] == parent["message_id"]
    assert sent["references"] == made["references"]
    assert sent["subject"] == "Re: Offer"


async def test_a_reply_to_all_takes_no_recipients_of_its_own(anywhere: Service) -> None:
    """Somebody would be left out, or written to, by surprise."""
    inbox = await anywhere.inbox("desk")
    parent = await received(anywhere, inbox, Cc="Bob <bob@elsewhere.test>")
    made = await make(anywhere, inbox, in_reply_to=parent["message_id"], reply_all=True)
    assert made["to"] == ["Ada Lovelace <ada@elsewhere.test>"]
    assert made["cc"] == ["Bob <bob@elsewhere.test>"]
    for wrong, field in (
        ({"in_reply_to": parent["message_id"], "reply_all": True, "to": OUTSIDER}, "reply_all"),
        ({"reply_all": True}, "reply_all"),
        (
            {"in_reply_to": parent["message_id"], "forward_of": parent["message_id"]},
            "forward_of",
        ),
    ):
        answer = await anywhere.client.post(path(inbox), json=wrong)
        mistake(answer, field)
    for field in ("in_reply_to", "forward_of"):
        answer = await anywhere.client.post(path(inbox), json={field: "<none@elsewhere.test>"})
        fault(answer, 404, "not_found")
    assert len(await listed(anywhere, inbox)) == 1


async def test_a_forward_gets_its_message_s_words_and_files_when_it_is_sent(
    anywhere: Service,
) -> None:
    """A forwarded offer would arrive without the offer."""
    inbox, boss = await anywhere.inbox("desk"), await anywhere.inbox("boss")
    parent = await received(anywhere, inbox)
    made = await make(
        anywhere, inbox, forward_of=parent["message_id"], to=boss["email"], text="Look at this"
    )
    assert made["forward_of"] == parent["message_id"]
    assert made["subject"] == "Fwd: Offer"
    assert made["text"] == "Look at this"
    assert "attachments" not in made
    answer = await send(anywhere, inbox, made)
    assert answer.status_code == 200, answer.text
    assert answer.json()["thread_id"] == parent["thread_id"]
    got = await one_message(anywhere, boss)
    assert got["text"].startswith("Look at this")
    assert "Here is our offer." in got["text"]
    assert [each["filename"] for each in got["attachments"]] == ["o.pdf"]


async def test_a_deleted_message_is_still_replied_to_but_not_forwarded(anywhere: Service) -> None:
    """A forward would go out empty; a reply that is all there would be lost."""
    inbox = await anywhere.inbox("desk")
    parent = await received(anywhere, inbox)
    reply = await make(anywhere, inbox, in_reply_to=parent["message_id"], text="Thanks")
    forward = await make(anywhere, inbox, forward_of=parent["message_id"], to=inbox["email"])
    gone = await anywhere.client.delete(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{parent['message_id']}"
    )
    assert gone.status_code == 204
    await until(lambda: anywhere.messages(inbox), lambda seen: seen == [])
    refused = fault(await send(anywhere, inbox, forward), 422, "unprocessable")
    assert refused["error"]["details"] == {"field": "forward_of", "code": "DELETED"}
    assert await status(anywhere, inbox, forward) == 200
    answer = await send(anywhere, inbox, reply)
    assert answer.status_code == 200, answer.text


async def test_a_scheduled_draft_is_sent_when_its_time_comes(anywhere: Service) -> None:
    """A mail that was promised for nine o'clock would not go out, or go out twice."""
    inbox, other = await anywhere.inbox("early"), await anywhere.inbox("bird")
    made = await make(anywhere, inbox, to=other["email"], text="Now", send_at=ahead(1.5))
    assert made["send_status"] == "scheduled"
    assert made["labels"] == ["draft", "scheduled"]
    (item,) = await listed(anywhere, inbox, labels='["scheduled"]')
    assert item["send_at"] == made["send_at"]
    assert await anywhere.messages(other) == []
    await until(lambda: anywhere.messages(other), lambda seen: len(seen) == 1, seconds=5)
    assert await status(anywhere, inbox, made) == 404
    sent = await one_message(anywhere, inbox)
    assert own_labels(sent) == ["sent"]


async def test_a_schedule_is_set_moved_and_taken_away(anywhere: Service) -> None:
    """A mail would go out at a time nobody wants any more."""
    inbox = await anywhere.inbox("early")
    made = await make(anywhere, inbox, to=inbox["email"], text="T", labels=["own"])
    later = await change(anywhere, inbox, made, send_at="2026-12-24T09:00:00")
    assert later["send_at"] == "2026-12-24T09:00:00Z"
    assert later["send_status"] == "scheduled"
    assert later["labels"] == ["draft", "own", "scheduled"]
    edited = await change(anywhere, inbox, made, subject="Other")
    assert edited["send_at"] == later["send_at"]
    assert edited["labels"] == later["labels"]
    labelled = await change(anywhere, inbox, made, add_labels=["more"])
    assert labelled["labels"] == ["draft", "more", "own", "scheduled"]
    off = await change(anywhere, inbox, made, send_at=None, text="Not yet")
    assert "send_at" not in off
    assert "send_status" not in off
    assert off["labels"] == ["draft", "more", "own"]
    assert await look(anywhere, inbox, made) == off


@pytest.mark.parametrize(
    "send_at", ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"]
)
async def test_a_time_that_cannot_be_meant_is_refused(service: Service, send_at: str) -> None:
    """A typing mistake in a year would send at once, or never."""
    inbox = await service.inbox("early")
    answer = await service.client.post(path(inbox), json={"send_at": send_at})
    mistake(answer, "send_at", "TIME_OUT_OF_RANGE")
    made = await make(service, inbox)
    answer = await service.client.patch(path(inbox, made), json={"send_at": send_at})
    mistake(answer, "send_at", "TIME_OUT_OF_RANGE")


async def test_a_scheduled_draft_that_is_refused_has_failed_until_it_gets_a_new_time(
    anywhere: Service,
) -> None:
    """Nobody would notice, or it would be tried for ever."""
    inbox = await anywhere.inbox("early")
    nobody = f"nobody{anywhere.suffix}@agents.test"
    made = await make(anywhere, inbox, to=nobody, text="T", send_at=ahead(0.2))
    # That it was refused is known a moment before by whom.
    failed = await until(
        lambda: look(anywhere, inbox, made), lambda seen: nobody in seen.get("send_error", "")
    )
    assert failed["send_status"] == "failed"
    assert failed["labels"] == ["draft"]
    assert await listed(anywhere, inbox, labels="scheduled") == []
    assert await anywhere.messages(inbox) == []
    again = await change(anywhere, inbox, made, to=[inbox["email"]], send_at=ahead(0.2))
    assert again["send_status"] == "scheduled"
    assert "send_error" not in again
    await until(lambda: anywhere.messages(inbox), lambda seen: len(seen) == 2)
    assert await status(anywhere, inbox, made) == 404


async def test_a_scheduled_draft_can_be_sent_before_its_time(anywhere: Service) -> None:
    """It would be sent a second time when its time comes."""
    inbox = await anywhere.inbox("early")
    made = await make(anywhere, inbox, to=inbox["email"], text="T", send_at=ahead(3600))
    assert (await send(anywhere, inbox, made)).status_code == 200
    assert await status(anywhere, inbox, made) == 404
    sent = await until(lambda: anywhere.messages(inbox, labels="sent"), lambda seen: len(seen) == 1)
    assert own_labels(sent[0]) == ["sent"]


async def test_the_same_client_id_makes_one_draft(anywhere: Service) -> None:
    """A workflow that is run again would leave two drafts, and both would be sent."""
    inbox, other = await anywhere.inbox("flow"), await anywhere.inbox("flow2")
    made = await make(anywhere, inbox, client_id="run-1", text="One")
    again = await anywhere.client.post(path(inbox), json={"client_id": "run-1", "text": "Two"})
    assert again.status_code == 200, again.text
    assert again.json() == made
    elsewhere = await make(anywhere, other, client_id="run-1")
    assert elsewhere["draft_id"] != made["draft_id"]
    changed = await change(anywhere, inbox, made, to=inbox["email"])
    assert changed["client_id"] == "run-1"
    assert (await send(anywhere, inbox, made)).status_code == 200
    late = await anywhere.client.post(path(inbox), json={"client_id": "run-1", "text": "One"})
    assert late.status_code == 200, late.text
    assert (late.json()["draft_id"], late.json()["labels"]) == (made["draft_id"], ["sent"])
    bad = await anywhere.client.post(path(inbox), json={"client_id": "no spaces"})
    mistake(bad, "client_id")


async def test_drafts_are_listed_in_their_pod_and_their_organisation(anywhere: Service) -> None:
    """A reviewer would have to know every inbox."""
    one, two = await anywhere.inbox("one"), await anywhere.inbox("two")
    first = await make(anywhere, one, subject="First")
    second = await make(anywhere, two, subject="Second")
    first = await change(anywhere, one, first, subject="Last")
    for base in ("/v0/drafts", f"/v0/pods/{one['pod_id']}/drafts"):
        page: Json = (await anywhere.client.get(base)).json()
        shown = [(each["inbox_id"], each["subject"]) for each in page["drafts"]]
        assert shown == [(one["email"], "Last"), (two["email"], "Second")]
        assert page["count"] == 2
        whole = await anywhere.client.get(f"{base}/{second['draft_id']}")
        assert whole.json() == second
    assert await status(anywhere, two, first) == 404
    deleted = await anywhere.client.delete(f"/v0/inboxes/{one['inbox_id']}")
    assert deleted.status_code == 204
    page = (await anywhere.client.get("/v0/drafts")).json()
    assert [each["draft_id"] for each in page["drafts"]] == [second["draft_id"]]
    gone = await anywhere.client.get(f"/v0/drafts/{first['draft_id']}")
    fault(gone, 404, "not_found")


async def test_a_draft_copied_into_another_pod_is_found_there(anywhere: Service) -> None:
    """A copy that a mail client makes keeps its Message-ID, and with it the draft's id: in the pod of the
    copy, the draft would be listed and yet not be there.
    """
    one = await anywhere.inbox("one")
    two = await inbox_in(anywhere, await pod(anywhere.db, anywhere.organization_id), username="two")
    draft = await make(anywhere, one, subject="Both")
    copy = a_mail(
        two["email"], "Both", **{"Message-ID": f"<{UUID(draft['draft_id']).hex}.1@{DOMAIN}>"}
    )
    await anywhere.server.append(
        await account_of(anywhere, two),
        copy.as_bytes(),
        folder=Folder.DRAFTS,
        keywords=frozenset({"$draft"}),
    )

    async def copied() -> list[Json]:
        return await listed(anywhere, two)

    await until(copied, lambda seen: [each["draft_id"] for each in seen] == [draft["draft_id"]])
    for base in (f"/v0/pods/{two['pod_id']}", f"/v0/pods/{one['pod_id']}"):
        page = (await anywhere.client.get(f"{base}/drafts")).json()
        found = await anywhere.client.get(f"{base}/drafts/{draft['draft_id']}")
        assert found.status_code == 200, found.text
        assert [each["inbox_id"] for each in page["drafts"]] == [found.json()["inbox_id"]]


async def test_a_list_is_cut_into_pages_by_the_last_change(service: Service) -> None:
    """A list of many drafts would miss some, or show one twice."""
    inbox = await service.inbox("many")
    made = [await make(service, inbox, subject=str(number)) for number in range(5)]
    made.append(await change(service, inbox, made.pop(1), subject="changed"))
    names = [each["draft_id"] for each in made]
    for ascending, expected in (("false", names[::-1]), ("true", names)):
        found: list[str] = []
        query: dict[str, Any] = {"limit": "2", "ascending": ascending}
        while True:
            page = (await service.client.get(path(inbox), params=query)).json()
            assert len(page["drafts"]) <= 2
            found += [each["draft_id"] for each in page["drafts"]]
            if "next_page_token" not in page:
                break
            query["page_token"] = page["next_page_token"]
        assert found == expected
    middle = made[2]["updated_at"]
    older = await listed(service, inbox, before=middle)
    newer = await listed(service, inbox, after=middle)
    assert [each["draft_id"] for each in older] == names[:2][::-1]
    assert [each["draft_id"] for each in newer] == names[3:][::-1]


@pytest.mark.parametrize(
    ("method", "verb", "permission"),
    [
        ("GET", "", "draft_read"),
        ("POST", "", "draft_create"),
        ("PATCH", "/x", "draft_update"),
        ("DELETE", "/x", "draft_delete"),
        ("POST", "/x/send", "draft_send"),
    ],
)
async def test_a_key_needs_the_permission(
    service: Service, method: str, verb: str, permission: str
) -> None:
    """A key that may only read could send."""
    inbox = await service.inbox("locked")
    answer = await service.client.post(
        "/v0/api-keys", json={"name": "bare", "permissions": {"inbox_read": True}}
    )
    secret = answer.json()["api_key"]
    refused = await service.client.request(
        method,
        path(inbox) + verb,
        json={},
        headers={"Authorization": f"Bearer {secret}"},
    )
    body = fault(refused, 403, "missing_permission")
    assert permission in body["message"]


@pytest.mark.parametrize("kept", ["draft_create", "draft_update"])
async def test_scheduling_needs_the_permission_to_send(service: Service, kept: str) -> None:
    """A key that may write drafts for a person to look at could send them, a second later."""
    inbox = await service.inbox("unscheduled")
    made = await make(service, inbox, to="ada@elsewhere.test", text="x")
    key = await service.client.post(
        "/v0/api-keys", json={"permissions": {kept: True, "draft_read": True}}
    )
    headers = {"Authorization": f"Bearer {key.json()['api_key']}"}
    method, where = (
        ("POST", path(inbox)) if kept == "draft_create" else ("PATCH", path(inbox, made))
    )
    for send_at, expected in ((ahead(3600), 403), (None, 201 if method == "POST" else 200)):
        answer = await service.client.request(
            method, where, json={"text": "x", "send_at": send_at}, headers=headers
        )
        assert answer.status_code == expected, answer.text
        if send_at:
            assert "draft_send" in fault(answer, 403, "missing_permission")["message"]
    assert not await listed(service, inbox, labels="scheduled")


async def test_another_organisation_sees_nothing(service: Service) -> None:
    """One customer could read or send another's drafts."""
    from tests.failure.world import new_organization  # noqa: PLC0415

    inbox = await service.inbox("secret")
    made = await make(service, inbox, subject="Secret")
    _, key = await new_organization(service.db)
    headers = {"Authorization": f"Bearer {key}"}
    for method, where in (
        ("GET", path(inbox, made)),
        ("GET", f"/v0/drafts/{made['draft_id']}"),
        ("PATCH", path(inbox, made)),
        ("DELETE", path(inbox, made)),
        ("POST", f"{path(inbox, made)}/send"),
    ):
        answer = await service.client.request(method, where, json={}, headers=headers)
        assert answer.status_code in {400, 404}, answer.text
    page = await service.client.get("/v0/drafts", headers=headers)
    assert page.json()["drafts"] == []
    assert await look(service, inbox, made) == made


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"to": "not an address"}, "to"),
        ({"subject": "a\nb"}, "subject"),
        ({"to": [f"a{n}@b.test" for n in range(51)]}, "to"),
        ({"labels": ["x" * 200]}, "labels"),
    ],
)
async def test_what_could_never_be_sent_is_refused_at_once(
    service: Service, body: Json, field: str
) -> None:
    """The mistake would show when the mail is due, with nobody there to correct it."""
    inbox = await service.inbox("strict")
    mistake(await service.client.post(path(inbox), json=body), field)
    assert await listed(service, inbox) == []
    if field == "labels":
        return
    made = await make(service, inbox, subject="Kept")
    mistake(await service.client.patch(path(inbox, made), json=body), field)
    assert await look(service, inbox, made) == made


async def test_a_change_of_nothing_is_a_mistake(service: Service) -> None:
    """A misspelt field would look as if it had been changed."""
    inbox = await service.inbox("strict")
    made = await make(service, inbox)
    answer = await service.client.patch(path(inbox, made), json={"subjct": "x"})
    mistake(answer, "subject", "REQUIRED")
