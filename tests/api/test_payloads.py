"""What consumers of events are sent: exactly the contract's bodies, whatever became of the mail since."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from uuid import UUID, uuid4

import pytest
from agentmail import (
    DomainVerifiedEvent,
    MessageBouncedEvent,
    MessageComplainedEvent,
    MessageDeliveredEvent,
    MessageReceivedEvent,
    MessageRejectedEvent,
    MessageSentEvent,
)
from agentmail.core.pydantic_utilities import parse_obj_as
from agentmail.core.unchecked_base_model import construct_type

from agentmail_cp import events, inboxes, messages, payloads
from agentmail_cp.errors import Unavailable
from agentmail_cp.events import Event, EventType, NewEvent
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    MailContent,
    MailServerConfused,
)
from agentmail_cp.sandbox import Faults, MailSandbox
from tests.api.mailbox import account_of, arrive, document_of, path_of, put
from tests.fix_app import Json, Service, a_mail, until

with warnings.catch_warnings():
    # agentmail 2.0.18 imports what websockets 14 calls old.
    warnings.simplefilter("ignore", DeprecationWarning)
    from agentmail.websockets.socket_client import WebsocketsSocketClientResponse

MODELS: dict[EventType, type] = {
    EventType.MESSAGE_RECEIVED: MessageReceivedEvent,
    EventType.MESSAGE_RECEIVED_SPAM: MessageReceivedEvent,
    EventType.MESSAGE_RECEIVED_BLOCKED: MessageReceivedEvent,
    EventType.MESSAGE_RECEIVED_UNAUTHENTICATED: MessageReceivedEvent,
    EventType.MESSAGE_SENT: MessageSentEvent,
    EventType.MESSAGE_DELIVERED: MessageDeliveredEvent,
    EventType.MESSAGE_BOUNCED: MessageBouncedEvent,
    EventType.MESSAGE_COMPLAINED: MessageComplainedEvent,
    EventType.MESSAGE_REJECTED: MessageRejectedEvent,
    EventType.DOMAIN_VERIFIED: DomainVerifiedEvent,
}


async def log_of(service: Service, inbox: Json) -> list[Event]:
    inbox_id = inboxes.inbox_uuid(inbox["inbox_id"])
    async with service.db.reading() as tx:
        return await events.list_of_inbox(tx, service.organization_id, inbox_id)


async def render(service: Service, *told: Event, most: int = payloads.MOST) -> list[Json]:
    """The payloads, each of them of at most `most` bytes and read by the official SDK as what it is."""
    made = await payloads.render(service.db, service.server, told, most=most)
    assert all(len(each) <= most for each in made)
    shown = [json.loads(each) for each in made]
    for event, body in zip(told, shown, strict=True):
        check(event, body)
    return shown


def check(event: Event, body: Json) -> None:
    assert body["type"] == "event"
    assert body["event_type"] == event.type
    assert body["event_id"] == str(event.event_id)
    model = MODELS.get(event.type)
    if model is not None:
        parse_obj_as(model, body)
        read = construct_type(type_=WebsocketsSocketClientResponse, object_=body)  # type: ignore[arg-type]
        assert type(read) is model


async def test_a_received_message_is_told_whole(anywhere: Service) -> None:
    """Agents act on this alone: what it lacks, they would have to fetch."""
    inbox = await anywhere.inbox("whole")
    mail = a_mail(
        inbox["email"], "Plans", "See you at noon.\n\nOn 1 May 2026, Bo wrote:\n> When?\n"
    )
    mail.add_attachment(b"a,b", maintype="text", subtype="csv", filename="a.csv")
    (message,) = await arrive(anywhere, inbox, mail)
    (event,) = await log_of(anywhere, inbox)
    (body,) = await render(anywhere, event)
    whole = (await anywhere.client.get(path_of(inbox, message))).json()
    told = body["message"]
    assert told.pop("from_") == [whole["from"]]
    assert told.pop("organization_id") == str(anywhere.organization_id)
    assert told == whole
    assert told["extracted_text"] == "See you at noon."
    thread = (await anywhere.client.get(f"/v0/threads/{message['thread_id']}")).json()
    assert body["thread"] == {name: thread[name] for name in body["thread"]}


async def test_a_message_that_was_sent_is_told_with_whom_it_went_to(anywhere: Service) -> None:
    inbox = await anywhere.inbox("sender")
    to = ["Bo <bo@elsewhere.test>", "ada@elsewhere.test"]
    sent = await anywhere.send(
        inbox, to=to, cc=["bo@elsewhere.test"], bcc=["x@elsewhere.test"], subject="Hi", text="Hi."
    )
    (event, *_) = await log_of(anywhere, inbox)
    (body,) = await render(anywhere, event)
    when = body["send"].pop("timestamp")
    assert when.endswith("Z")
    assert body["send"] == {
        "inbox_id": inbox["inbox_id"],
        "thread_id": sent["thread_id"],
        "message_id": sent["message_id"],
        "recipients": ["bo@elsewhere.test", "ada@elsewhere.test", "x@elsewhere.test"],
    }


FACTS: dict[EventType, tuple[Json, str, Json]] = {
    EventType.MESSAGE_DELIVERED: (
        {"recipients": ["cy@elsewhere.test"]},
        "delivery",
        {"recipients": ["cy@elsewhere.test"]},
    ),
    EventType.MESSAGE_BOUNCED: (
        {
            "type": "Permanent",
            "sub_type": "NoEmail",
            "recipients": [{"address": "cy@elsewhere.test", "status": "5.1.1"}],
        },
        "bounce",
        {
            "type": "Permanent",
            "sub_type": "NoEmail",
            "recipients": [{"address": "cy@elsewhere.test", "status": "5.1.1"}],
        },
    ),
    EventType.MESSAGE_COMPLAINED: (
        {"type": "abuse", "sub_type": "General", "recipients": ["cy@elsewhere.test"]},
        "complaint",
        {"type": "abuse", "sub_type": "General", "recipients": ["cy@elsewhere.test"]},
    ),
    EventType.MESSAGE_REJECTED: ({"reason": "No."}, "reject", {"reason": "No."}),
    EventType.LABEL_ADDED: ({"label": "made-up"}, "label", {"label": "made-up"}),
    EventType.LABEL_REMOVED: ({"label": "made-up"}, "label", {"label": "made-up"}),
}


async def happen(
    service: Service, inbox: Json, message: Json, *news: tuple[EventType, Json]
) -> None:
    """Write events of a message into the log."""
    inbox_id = inboxes.inbox_uuid(inbox["inbox_id"])
    document_id = await document_of(service, message)
    async with service.db.transaction() as tx:
        await messages.lock(tx, service.organization_id, inbox_id)
        await events.append(
            tx,
            organization_id=service.organization_id,
            inbox_id=inbox_id,
            events=[
                NewEvent(
                    type=kind,
                    thread_id=UUID(message["thread_id"]),
                    message_id=message["message_id"],
                    document_id=document_id,
                    facts=facts,
                )
                for kind, facts in news
            ],
        )


async def test_what_became_of_a_message_is_told_from_the_log(service: Service) -> None:
    """Also when nothing is left of the message, and without asking the mail server."""
    inbox = await service.inbox("outcomes")
    sent = await service.send(inbox, to="bo@elsewhere.test", text="Hi.")
    news = [(kind, facts) for kind, (facts, _, _) in FACTS.items()]
    await happen(service, inbox, {**sent, "inbox_id": inbox["inbox_id"]}, *news)
    told = [event for event in await log_of(service, inbox) if (event.type, event.facts) in news]
    shown = await render(service, *told)
    for event, body in zip(told, shown, strict=True):
        _, name, fields = FACTS[event.type]
        assert body[name].pop("timestamp")
        assert body[name] == {
            "inbox_id": inbox["inbox_id"],
            "thread_id": sent["thread_id"],
            "message_id": sent["message_id"],
            **fields,
        }
    await service.client.delete(path_of(inbox, sent))
    assert isinstance(service.server, MailSandbox)
    service.server.faults = Faults(down=True)
    assert [each["event_type"] for each in await render(service, *told)] == list(FACTS)


async def test_a_domain_that_was_verified_is_told_as_its_event_has_it(service: Service) -> None:
    """It is about no message, so nothing is looked up."""
    domain = {
        "domain_id": "acme.test",
        "domain": "acme.test",
        "status": "VERIFIED",
        "feedback_enabled": True,
        "subdomains_enabled": False,
        "tracking_enabled": False,
        "records": [{"type": "TXT", "name": "acme.test", "value": "v=spf1", "status": "VALID"}],
        "updated_at": "2026-11-21T08:15:00Z",
        "created_at": "2026-11-21T08:15:00Z",
    }
    event = Event(
        event_id=uuid4(),
        organization_id=service.organization_id,
        pod_id=uuid4(),
        inbox_id=uuid4(),
        seq=1,
        position=1,
        type=EventType.DOMAIN_VERIFIED,
        thread_id=None,
        message_id=None,
        document_id=None,
        recipients=1,
        facts=domain,
        created_at=datetime.now(UTC),
    )
    (body,) = await render(service, event)
    assert body["domain"] == domain


async def test_a_message_deleted_before_it_was_told_is_told_without_its_words(
    anywhere: Service,
) -> None:
    """A consumer waits for this event, or its cursor would have a hole."""
    inbox = await anywhere.inbox("deleted")
    mail = a_mail(inbox["email"], "Secret plans", "The treasure lies below the oak.")
    (message,) = await arrive(anywhere, inbox, mail)
    (event,) = await log_of(anywhere, inbox)
    await anywhere.client.delete(path_of(inbox, message))
    (body,) = await render(anywhere, event)
    assert body["message"]["deleted"] is True
    assert body["thread"]["deleted"] is True
    assert body["message"]["message_id"] == message["message_id"]
    assert body["message"]["inbox_id"] == inbox["inbox_id"]
    assert body["thread"]["thread_id"] == message["thread_id"]
    assert "oak" not in json.dumps(body)
    assert not {"text", "html", "headers"} & body["message"].keys()


async def test_a_message_gone_from_the_mail_server_alone_is_told_with_what_is_known(
    anywhere: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail client may delete it a moment before intake finds out."""
    inbox = await anywhere.inbox("half")
    (message,) = await arrive(anywhere, inbox, a_mail(inbox["email"], "Plans", "Below the oak."))
    (event,) = await log_of(anywhere, inbox)

    async def nothing(*_: object) -> dict[DocumentId, MailContent]:
        return {}

    monkeypatch.setattr(anywhere.server, "read", nothing)
    (body,) = await render(anywhere, event)
    assert body["message"]["deleted"] is True
    assert body["message"]["subject"] == "Plans"
    assert body["message"]["from"] == message["from"]
    assert "text" not in body["message"]
    assert "deleted" not in body["thread"]
    assert body["thread"]["message_count"] == 1


async def test_hidden_mail_does_not_show_in_the_thread_of_other_mail(service: Service) -> None:
    """A subscriber to message.received alone may not read spam; one to spam may."""
    inbox = await service.inbox("mixed")
    (first,) = await arrive(
        service, inbox, a_mail(inbox["email"], "Plans", Message_ID="<one@elsewhere.test>")
    )
    spam = a_mail(inbox["email"], "Pills", "Buy pills.", In_Reply_To="<one@elsewhere.test>")
    await put(service, inbox, spam, Folder.JUNK)
    plain, hidden = await log_of(service, inbox)
    assert hidden.type is EventType.MESSAGE_RECEIVED_SPAM
    assert hidden.thread_id == plain.thread_id
    one, two = await render(service, plain, hidden)
    assert one["thread"]["message_count"] == 1
    assert one["thread"]["last_message_id"] == first["message_id"]
    assert "spam" not in one["thread"]["labels"]
    assert "pills" not in json.dumps(one)
    assert two["thread"]["message_count"] == 2
    assert "spam" in two["message"]["labels"]


async def test_a_message_hidden_since_shows_nothing_hidden_of_its_thread(service: Service) -> None:
    """It was told before; what it was thrown away with was not."""
    inbox = await service.inbox("thrown-away")
    (first,) = await arrive(
        service, inbox, a_mail(inbox["email"], "Plans", Message_ID="<one@elsewhere.test>")
    )
    spam = a_mail(inbox["email"], "Pills", "Buy pills.", In_Reply_To="<one@elsewhere.test>")
    await put(service, inbox, spam, Folder.JUNK)
    await service.client.patch(path_of(inbox, first), json={"add_labels": ["trash"]})
    event, *_ = await log_of(service, inbox)
    (body,) = await render(service, event)
    assert "trash" in body["message"]["labels"]
    assert body["thread"]["message_count"] == 1
    assert body["thread"]["subject"] == "Plans"
    assert body["thread"]["senders"] == [first["from"]]
    assert "deleted" not in body["thread"]
    assert "pills" not in json.dumps(body)


async def test_a_large_message_is_told_without_what_makes_it_large(service: Service) -> None:
    """Receivers refuse bodies over a megabyte; what is left out can be fetched."""
    inbox = await service.inbox("large")
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "ada@elsewhere.test", inbox["email"], "Large"
    mail.set_content("word " * 300_000)
    mail.add_alternative("<p>" + "word " * 50_000 + "</p>", subtype="html")
    await arrive(service, inbox, mail)
    (event,) = await log_of(service, inbox)
    whole, without_text, least = [
        (await render(service, event, most=most))[0]["message"]
        for most in (5_000_000, 1_000_000, 3_000)
    ]
    assert "truncated" not in whole
    assert {"text", "html"} <= whole.keys()
    assert without_text["truncated"] is True
    assert "text" not in without_text
    assert without_text["html"] == whole["html"]
    assert least["truncated"] is True
    assert not {"text", "html", "extracted_text", "extracted_html"} & least.keys()
    assert least["subject"] == "Large"


async def test_a_message_large_in_every_way_is_told_all_the_same(service: Service) -> None:
    """Strangers decide how many recipients, files and headers a mail has."""
    inbox = await service.inbox("hostile")
    mail = a_mail(inbox["email"], "Hostile", "word")
    mail["Cc"] = ", ".join(f"{'c' * 50} <{each}@{'d' * 50}.test>" for each in range(900))
    mail["X-Long"] = "x" * 900
    for each in range(300):
        mail.add_attachment(b"a", maintype="a", subtype="b", filename=f"{each}-{'f' * 100}")
    raw = mail.as_bytes(policy=mail.policy.clone(max_line_length=None))
    await service.deliver(raw, inbox["email"])
    (event,) = await until(lambda: log_of(service, inbox), bool)
    (body,) = await render(service, event, most=60_000)
    assert body["message"]["truncated"] is True
    assert body["message"]["to"] == [inbox["email"]]
    assert body["thread"]["message_count"] == 1


async def test_nothing_is_told_while_the_mail_server_is_away(service: Service) -> None:
    """Whoever tells comes again; a payload without its text would never be followed by one with it."""
    inbox = await service.inbox("away")
    await arrive(service, inbox, a_mail(inbox["email"]))
    (event,) = await log_of(service, inbox)
    assert isinstance(service.server, MailSandbox)
    service.server.faults = Faults(down=True)
    with pytest.raises(Unavailable):
        await payloads.render(service.db, service.server, [event])
    service.server.faults = Faults()
    (body,) = await render(service, event)
    assert body["message"]["text"]


async def test_a_batch_reads_each_account_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries come in batches; a question per event would cost the mail server a multiple."""
    one, two = await service.inbox("one"), await service.inbox("two")
    for inbox in (one, two):
        await arrive(service, inbox, *(a_mail(inbox["email"], f"{each}") for each in range(3)))
    told = [*await log_of(service, one), *await log_of(service, two)]
    read = service.server.read
    asked: list[AccountId] = []

    async def counting(
        account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> Mapping[DocumentId, MailContent]:
        asked.append(account_id)
        return await read(account_id, document_ids)

    monkeypatch.setattr(service.server, "read", counting)
    made = await render(service, *told, told[0])
    assert [each["message"]["subject"] for each in made] == list("0120120")
    assert sorted(asked) == sorted([await account_of(service, one), await account_of(service, two)])


async def test_mail_that_nobody_understands_holds_up_nobody(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One strange answer of the mail server would keep every other event of the batch waiting."""
    odd, fine = await service.inbox("odd"), await service.inbox("fine")
    for inbox in (odd, fine):
        await arrive(service, inbox, a_mail(inbox["email"]))
    told = [*await log_of(service, odd), *await log_of(service, fine)]
    read, strange = service.server.read, await account_of(service, odd)

    async def confused(
        account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> Mapping[DocumentId, MailContent]:
        if account_id == strange:
            raise MailServerConfused("What is this?")
        return await read(account_id, document_ids)

    monkeypatch.setattr(service.server, "read", confused)
    one, two = [each["message"] for each in await render(service, *told)]
    assert one["truncated"] is True
    assert "text" not in one
    assert two["text"]
