"""Lists at work on what arrives: hidden and labelled, never lost, and only by the list that applies."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from agentmail_cp import lists
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx
from agentmail_cp.lists import Verdict
from tests import tenants
from tests.api.faults import fault
from tests.api.mailbox import arrive, at, named, path_of, rows, shown
from tests.fix_app import OUTSIDER, Json, Service, a_mail, until

STRANGER = "Eve <eve@stranger.test>"


async def put(service: Service, inbox: Json, which: str, *entries: str) -> None:
    for entry in entries:
        answer = await service.client.post(f"{at(inbox)}/lists/{which}", json={"entry": entry})
        assert answer.status_code == 201, answer.text


async def events_of(service: Service, inbox: Json) -> dict[str, str]:
    """What was announced of each received message, by subject."""
    found = await rows(
        service,
        "select subject, type from event join message using (inbox_id, document_id)"
        " join inbox using (inbox_id) where address = %(address)s and type like 'message.received%%'",
        address=inbox["email"],
    )
    return {each["subject"]: each["type"] for each in found}


async def test_mail_of_a_blocked_sender_is_kept_but_hidden(anywhere: Service) -> None:
    """An agent must not read it by accident, and a person must still be able to find it."""
    inbox = await anywhere.inbox("guarded")
    await put(anywhere, inbox, "receive/block", "eve@stranger.test", "spammers.test")
    mails = [
        a_mail(inbox["email"], "Block me", From="EVE@Stranger.test"),
        a_mail(inbox["email"], "Block my domain", From="Mallory <m@SPAMMERS.test>"),
        a_mail(inbox["email"], "Not below it", From="n@sub.spammers.test"),
        a_mail(inbox["email"], "Welcome"),
    ]
    by_name, by_domain, below, welcome = await arrive(anywhere, inbox, *mails)
    assert by_name["labels"] == by_domain["labels"] == ["blocked", "received", "unread"]
    assert below["labels"] == welcome["labels"] == ["received", "unread"]
    listed = {each["subject"] for each in await anywhere.messages(inbox)}
    assert listed == {"Not below it", "Welcome"}
    included = await anywhere.messages(inbox, include_blocked="true")
    assert len(included) == 4
    assert await events_of(anywhere, inbox) == {
        "Block me": "message.received.blocked",
        "Block my domain": "message.received.blocked",
        "Not below it": "message.received",
        "Welcome": "message.received",
    }
    threads = await anywhere.client.get(f"{at(inbox)}/threads")
    assert {each["subject"] for each in threads.json()["threads"]} == listed
    body = (await anywhere.client.get(path_of(inbox, by_name))).json()
    assert body["text"].strip() == "Hi there."


async def test_an_allow_list_lets_nobody_else_in(anywhere: Service) -> None:
    """Also not who hides, or writes several names: what cannot be told is not on the list."""
    inbox = await anywhere.inbox("exclusive")
    await put(anywhere, inbox, "receive/allow", OUTSIDER)
    nobody = b"To: %b\r\nSubject: Nobody\r\n\r\nHi.\r\n" % inbox["email"].encode()
    await anywhere.deliver(nobody, inbox["email"])
    mails = [
        a_mail(inbox["email"], "Known"),
        a_mail(inbox["email"], "Unknown", From=STRANGER),
        a_mail(inbox["email"], "First counts", From=f"eve@stranger.test, {OUTSIDER}"),
    ]
    known, unknown, several = await arrive(anywhere, inbox, *mails)
    (without,) = await named(anywhere, inbox, ["Nobody"])
    assert "blocked" not in known["labels"]
    for each in (unknown, several, without):
        assert "blocked" in each["labels"], each


async def test_mail_without_a_sender_comes_in_where_no_list_says_who_may_write(
    anywhere: Service,
) -> None:
    """A bounce of an odd server is still a message."""
    inbox = await anywhere.inbox("open")
    await put(anywhere, inbox, "receive/block", "stranger.test")
    await anywhere.deliver(b"To: x@y.test\r\nSubject: Nobody\r\n\r\nHi.\r\n", inbox["email"])
    (message,) = await named(anywhere, inbox, ["Nobody"])
    assert message["labels"] == ["received", "unread"]


async def test_an_answer_is_judged_by_the_reply_lists_alone(anywhere: Service) -> None:
    """An agent that hears only from whom it writes to: an allow list for receiving, none for replies."""
    inbox = await anywhere.inbox("writer")
    await put(anywhere, inbox, "receive/allow", "friends.test")
    sent = await anywhere.send(inbox, to=OUTSIDER, subject="Question", text="?")
    mails = [
        a_mail(inbox["email"], "Re: Question", In_Reply_To=sent["message_id"]),
        a_mail(inbox["email"], "Re: Nothing", In_Reply_To="<unknown@elsewhere.test>"),
        a_mail(inbox["email"], "Only referring", References=sent["message_id"]),
        a_mail(inbox["email"], "News"),
    ]
    answer, *others = await arrive(anywhere, inbox, *mails)
    assert "blocked" not in answer["labels"]
    for each in others:
        assert "blocked" in each["labels"], each


async def test_the_reply_lists_can_close_the_door_to_answers(anywhere: Service) -> None:
    """Whoever is in their block list is not heard, though the receive lists would let them in."""
    inbox = await anywhere.inbox("silent")
    await put(anywhere, inbox, "reply/block", "elsewhere.test")
    await put(anywhere, inbox, "receive/allow", "elsewhere.test")
    sent = await anywhere.send(inbox, to=OUTSIDER, subject="Notice", text="!")
    answer, other = await arrive(
        anywhere,
        inbox,
        a_mail(inbox["email"], "Re: Notice", In_Reply_To=sent["message_id"]),
        a_mail(inbox["email"], "Other"),
    )
    assert "blocked" in answer["labels"]
    assert "blocked" not in other["labels"]


async def test_an_answer_to_an_answer_of_others_is_no_answer_to_us(anywhere: Service) -> None:
    """In-Reply-To must name a mail the inbox sent, not one it got."""
    inbox = await anywhere.inbox("bystander")
    await put(anywhere, inbox, "reply/allow", "nobody.test")
    await put(anywhere, inbox, "receive/block", "stranger.test")
    (first,) = await arrive(anywhere, inbox, a_mail(inbox["email"], "Among us"))
    follow = a_mail(inbox["email"], "Re: Among us", From=STRANGER, In_Reply_To=first["message_id"])
    (message,) = await arrive(anywhere, inbox, follow)
    assert "blocked" in message["labels"]


async def test_inboxes_of_one_server_pass_both_their_doors(anywhere: Service) -> None:
    """Mail among agents is mail: it goes out by the one's lists and comes in by the other's."""
    alice, bob = await anywhere.inbox("alice"), await anywhere.inbox("bob")
    await put(anywhere, bob, "receive/block", alice["email"])
    sent = await anywhere.send(alice, to=bob["email"], subject="Hi Bob", text="?")
    (message,) = await named(anywhere, bob, ["Hi Bob"])
    assert "blocked" in message["labels"]
    assert "blocked" not in (await named(anywhere, alice, ["Hi Bob"]))[0]["labels"]
    await put(anywhere, alice, "reply/block", bob["email"])
    reply = await anywhere.client.post(f"{path_of(bob, message)}/reply", json={"text": "no"})
    assert reply.status_code == 200, reply.text
    back = await until(lambda: shown(anywhere, alice), lambda seen: len(seen) == 2)
    answer = next(each for each in back if each["message_id"] != sent["message_id"])
    assert answer["labels"] == ["blocked", "received", "unread"]


async def test_a_mail_to_oneself_is_judged_as_it_arrives(anywhere: Service) -> None:
    """Its From is as easily forged as any other; the copy in Sent is nobody's to judge."""
    inbox = await anywhere.inbox("narcissus")
    await put(anywhere, inbox, "receive/allow", "friends.test")
    await anywhere.send(inbox, to=inbox["email"], subject="Note", text="!")
    seen = await until(lambda: shown(anywhere, inbox), lambda seen: len(seen) == 2)
    by_way = {"sent" if "sent" in each["labels"] else "received": each for each in seen}
    assert "blocked" in by_way["received"]["labels"]
    assert "blocked" not in by_way["sent"]["labels"]


@pytest.mark.parametrize("scope", ["inbox", "pod", "organization"])
async def test_lists_of_every_scope_hold_for_an_inbox(service: Service, scope: str) -> None:
    """A rule for all inboxes must not need to be told to each."""
    inbox = await service.inbox("alice")
    base = {"inbox": at(inbox), "pod": f"/v0/pods/{inbox['pod_id']}", "organization": "/v0"}[scope]
    await service.client.post(f"{base}/lists/receive/block", json={"entry": "stranger.test"})
    (message,) = await arrive(service, inbox, a_mail(inbox["email"], "In", From=STRANGER))
    assert "blocked" in message["labels"]


async def test_lists_of_others_are_not_asked(service: Service) -> None:
    """Neither those of another inbox, nor of another pod, nor of another organisation."""
    inbox, neighbour = await service.inbox("alice"), await service.inbox("bob")
    await put(service, neighbour, "receive/block", "stranger.test")
    other_pod = await tenants.pod(service.db, service.organization_id)
    await service.client.post(
        f"/v0/pods/{other_pod}/lists/receive/block", json={"entry": "stranger.test"}
    )
    stranger = await tenants.key(service.db, await tenants.organization(service.db))
    await tenants.client(service, stranger).post(
        "/v0/lists/receive/block", json={"entry": "stranger.test"}
    )
    (message,) = await arrive(service, inbox, a_mail(inbox["email"], "In", From=STRANGER))
    assert message["labels"] == ["received", "unread"]


async def test_a_list_never_changes_what_was_judged(service: Service) -> None:
    """Neither by a change of the list, nor when the whole mailbox is read again."""
    inbox = await service.inbox("alice")
    await put(service, inbox, "receive/block", "stranger.test")
    (blocked,) = await arrive(service, inbox, a_mail(inbox["email"], "One", From=STRANGER))
    await service.client.delete(f"{at(inbox)}/lists/receive/block/stranger.test")
    await put(service, inbox, "receive/block", "elsewhere.test")
    (passed,) = await arrive(service, inbox, a_mail(inbox["email"], "Two", From=STRANGER))
    await put(service, inbox, "receive/allow", "friends.test")
    async with service.db.transaction() as tx:
        await tx.execute("update inbox_sync set state = null, due_at = now(), claimed_until = null")
    await until(
        lambda: rows(service, "select from inbox_sync where state is not null"),
        lambda seen: len(seen) == 1,
    )
    seen = {each["subject"]: each["labels"] for each in await shown(service, inbox)}
    assert seen == {"One": blocked["labels"], "Two": passed["labels"]}
    assert blocked["labels"] == ["blocked", "received", "unread"]
    assert passed["labels"] == ["received", "unread"]


async def test_a_blocked_message_stays_blocked_while_it_is_worked_on(anywhere: Service) -> None:
    """Reading it in a mail client, or putting a label of one's own on it, lets nobody in."""
    inbox = await anywhere.inbox("careful")
    await put(anywhere, inbox, "receive/block", "stranger.test")
    (message,) = await arrive(anywhere, inbox, a_mail(inbox["email"], "One", From=STRANGER))
    changed = await anywhere.client.patch(
        path_of(inbox, message), json={"add_labels": ["seen by ops"], "remove_labels": ["unread"]}
    )
    assert changed.json()["labels"] == ["blocked", "received", "seen by ops"]
    refused = await anywhere.client.patch(
        path_of(inbox, message), json={"remove_labels": ["blocked"]}
    )
    fault(refused, 400, "validation_error")
    await anywhere.deliver(a_mail(inbox["email"], "Two"))
    await named(anywhere, inbox, ["Two"])
    assert await anywhere.messages(inbox, labels="seen by ops") == []
    (still,) = await anywhere.messages(inbox, labels="seen by ops", include_blocked="true")
    assert "blocked" in still["labels"]


async def test_a_key_without_the_label_permission_never_sees_it(service: Service) -> None:
    """Not in lists, not by id: 404, as if it were not there."""
    inbox = await service.inbox("alice")
    await put(service, inbox, "receive/block", "stranger.test")
    (message,) = await arrive(service, inbox, a_mail(inbox["email"], "One", From=STRANGER))
    key = await tenants.key(
        service.db, service.organization_id, permissions=tenants.all_but("label_blocked_read")
    )
    client = tenants.client(service, key)
    listed = await client.get(f"{at(inbox)}/messages", params={"include_blocked": "true"})
    assert listed.json()["messages"] == []
    fault(await client.get(path_of(inbox, message)), 404, "not_found")


async def test_a_mail_is_asked_about_once_when_it_is_new(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intake must stay fast: one question for an inbox with new mail, none for anything else."""
    inbox = await service.inbox("alice")
    asked: list[int] = []
    judge = lists.judge

    async def counted(
        tx: Tx, whose: Reach, questions: Collection[lists.Question]
    ) -> Mapping[lists.Question, Verdict]:
        asked.append(len(questions))
        return await judge(tx, whose, questions)

    monkeypatch.setattr(lists, "judge", counted)
    (message,) = await arrive(service, inbox, a_mail(inbox["email"], "One"))
    assert asked == [1]
    await service.client.patch(path_of(inbox, message), json={"remove_labels": ["unread"]})
    async with service.db.transaction() as tx:
        await tx.execute("update inbox_sync set state = null, due_at = now(), claimed_until = null")
    await arrive(service, inbox, a_mail(inbox["email"], "Two"))
    assert asked == [1, 1]
