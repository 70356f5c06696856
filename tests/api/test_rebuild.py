"""What PostgreSQL knows of mail can be read again from the mail server, under the same names; but for what
became of it.
"""

from __future__ import annotations

from agentmail_cp.sandbox import MailSandbox
from tests.api.mailbox import shown
from tests.fix_app import Json, Service, a_mail, own_labels, until

FORGET = (
    "delete from message",
    "delete from envelope",
    "delete from thread",
    "delete from thread_reference",
    "delete from thread_alias",
    "update inbox_sync set state = null, due_at = now(), claimed_until = null",
)


async def test_threads_messages_and_labels_come_back_under_the_same_ids(service: Service) -> None:
    """After losing the database's mail tables every stored id of a customer would dangle."""
    inbox = await service.inbox("memory")
    sent = await service.send(
        inbox, to="ada@elsewhere.test", subject="Plan", text="?", labels=["Follow up", "naïve"]
    )
    await service.deliver(a_mail(inbox["email"], "Re: Plan", "!", In_Reply_To=sent["message_id"]))
    await service.deliver(a_mail(inbox["email"], "Other"))
    await service.send(inbox, to=inbox["email"], subject="To myself", text="twice")
    before = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 5)
    unread = next(each for each in before if each["subject"] == "Other")
    await service.client.patch(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/{unread['message_id']}",
        json={"remove_labels": "unread", "add_labels": "seen: yes"},
    )
    before = await service.messages(inbox)

    async with service.db.transaction() as tx:
        for statement in FORGET:
            await tx.execute(statement)

    after = await until(lambda: service.messages(inbox), lambda seen: len(seen) == 5)
    assert [_named(each) for each in after] == [_named(each) for each in before]


async def test_what_was_found_out_about_senders_comes_back(service: Service) -> None:
    """A forged mail would be shown, and announced, once the index is made anew."""
    assert isinstance(service.server, MailSandbox)
    inbox = await service.inbox("memory")
    service.server.authentication_results = (
        "mail.agents.test; spf=fail smtp.mailfrom=a@bank.test; dmarc=fail policy.dmarc=reject"
    )
    await service.deliver(a_mail(inbox["email"], "Pay me", From="a@bank.test"))
    before = await until(lambda: shown(service, inbox), lambda seen: len(seen) == 1)
    async with service.db.transaction() as tx:
        for statement in FORGET:
            await tx.execute(statement)
    (after,) = await until(lambda: shown(service, inbox), lambda seen: len(seen) == 1)
    assert after["authentication"] == before[0]["authentication"]
    assert after["labels"] == before[0]["labels"] == ["received", "unauthenticated", "unread"]


def _named(message: Json) -> tuple[str, str, list[str], str, str]:
    return (
        message["message_id"],
        message["thread_id"],
        own_labels(message),
        message["timestamp"],
        message["subject"],
    )
