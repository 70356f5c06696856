"""Mail through the API on the sandbox: what an agent does on its first day."""

from __future__ import annotations

import asyncio
from email.message import EmailMessage

from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests.fix_app import Json, Service, a_mail, own_labels, until


async def test_mail_sent_between_two_inboxes_is_received_and_threaded(service: Service) -> None:
    """An agent could not talk to another one."""
    alice, bob = await service.inbox("alice", display_name="Alice"), await service.inbox("bob")
    sent = await service.send(alice, to=bob["email"], subject="Hello", text="Hi Bob")

    (received,) = await until(lambda: service.messages(bob), lambda seen: len(seen) == 1)
    (copy,) = await service.messages(alice)

    assert received["from"] == f"Alice <{alice['email']}>"
    assert received["labels"] == ["received", "unread"]
    assert received["message_id"] == sent["message_id"] == copy["message_id"]
    assert own_labels(copy) == ["sent"]
    assert copy["thread_id"] == sent["thread_id"]
    whole = await service.client.get(
        f"/v0/inboxes/{bob['inbox_id']}/messages/{received['message_id']}"
    )
    assert whole.json()["text"].strip() == "Hi Bob"
    assert whole.json()["subject"] == "Hello"


async def test_mail_from_outside_is_listed_as_unread_and_can_be_marked_as_read(
    service: Service,
) -> None:
    """The loop of every agent, polling for unread mail, would not end or never start."""
    inbox = await service.inbox("support")
    await service.deliver(a_mail(inbox["email"], "Help", "It is broken."))

    async def unread() -> list[Json]:
        return await service.messages(inbox, labels='["unread"]')

    (message,) = await until(unread, lambda seen: len(seen) == 1)
    answer = await service.client.patch(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{message['message_id']}",
        json={"remove_labels": ["unread"], "add_labels": "Done: yes"},
    )

    assert answer.json() == {
        "message_id": message["message_id"],
        "labels": ["done: yes", "received"],
    }
    assert await unread() == []
    await until(unread, lambda seen: seen == [])


async def test_a_send_refused_for_everybody_leaves_no_trace(service: Service) -> None:
    """A message the server refused would look as if it had been sent."""
    inbox = await service.inbox("sender")
    answer = await service.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/send",
        json={"to": "nobody@agents.test", "subject": "x", "text": "y"},
    )

    assert answer.status_code == 403
    assert answer.json()["code"] == "message_rejected"
    assert "nobody@agents.test" in answer.json()["message"]
    assert await service.messages(inbox) == []
    threads = await service.client.get(f"/v0/inboxes/{inbox['inbox_id']}/threads")
    assert threads.json()["threads"] == []


async def test_a_send_refused_for_some_says_for_whom(service: Service) -> None:
    """The caller would believe that everybody got it."""
    inbox, other = await service.inbox("sender"), await service.inbox("other")
    sent = await service.send(inbox, to=["nobody@agents.test", other["email"]], text="y")
    assert [each["address"] for each in sent["rejected"]] == ["nobody@agents.test"]
    await until(lambda: service.messages(other), lambda seen: len(seen) == 1)


async def test_mail_to_oneself_gives_two_messages(service: Service) -> None:
    """One of the two would hide the other."""
    inbox = await service.inbox("me")
    sent = await service.send(inbox, to=inbox["email"], subject="Note", text="Remember")
    seen = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 2)
    assert len({message["message_id"] for message in seen}) == 2
    assert {message["thread_id"] for message in seen} == {sent["thread_id"]}
    own = next(each for each in seen if each["message_id"] == sent["message_id"])
    assert own_labels(own) == ["sent"]


async def test_an_answer_from_outside_joins_the_thread(service: Service) -> None:
    """A conversation would fall apart."""
    inbox = await service.inbox("talk")
    sent = await service.send(inbox, to="ada@elsewhere.test", subject="Question", text="?")
    await service.deliver(
        a_mail(inbox["email"], "Another subject", "!", In_Reply_To=sent["message_id"])
    )
    await until(lambda: service.messages(inbox), lambda seen: len(seen) == 2)
    thread = await service.client.get(
        f"/v0/inboxes/{inbox['inbox_id']}/threads/{sent['thread_id']}"
    )
    shown = thread.json()
    assert shown["message_count"] == 2
    assert shown["subject"] == "Question"
    assert own_labels(shown) == ["received", "sent", "unread"]
    assert [message["subject"] for message in shown["messages"]] == ["Question", "Another subject"]
    assert shown["senders"] == ["talk@agents.test", "Ada Lovelace <ada@elsewhere.test>"]


def _with_picture(to: str) -> EmailMessage:
    mail = a_mail(to, "A picture")
    mail.set_content('<img src="cid:logo">', subtype="html")
    mail.add_related(b"\x89PNG", "image", "png", cid="<logo>")
    return mail


async def test_a_list_tells_of_a_mail_whose_only_attachment_is_inline(anywhere: Service) -> None:
    """An agent that looks for pictures in a list would not open the mail that has one."""
    inbox = await anywhere.inbox()
    await anywhere.deliver(_with_picture(inbox["email"]))
    (message,) = await until(lambda: anywhere.messages(inbox), lambda seen: len(seen) == 1)
    (attachment,) = message["attachments"]
    assert (attachment["content_type"], attachment["content_id"]) == ("image/png", "logo")


async def test_lists_answer_while_the_mail_server_hangs(
    service: Service, sandbox_server: tuple[MailSandbox, int]
) -> None:
    """One attachment on a page would keep every list waiting for as long as the mail server hangs."""
    inbox = await service.inbox()
    await service.deliver(_with_picture(inbox["email"]))
    await until(lambda: service.messages(inbox), lambda seen: len(seen) == 1)
    sandbox_server[0].faults = Faults(slow=60.0, methods=frozenset({"attachments"}))
    async with asyncio.timeout(3):
        (message,) = await service.messages(inbox)
        threads = (await service.client.get("/v0/threads")).json()["threads"]
    assert "attachments" not in message
    assert len(threads) == 1
