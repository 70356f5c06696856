"""Messages of an inbox, every call of the official Python SDK."""

from __future__ import annotations

import base64
from email import message_from_bytes, policy
from typing import Any

import httpx
import pytest
from agentmail.attachments.types.send_attachment import SendAttachment
from agentmail.core.api_error import ApiError
from agentmail.core.request_options import RequestOptions
from agentmail.errors import ConflictError, NotFoundError, ValidationError
from agentmail.messages.errors.message_rejected_error import MessageRejectedError

from tests.fix_app import OUTSIDER, a_mail
from tests.sdk.mailbox import REPORT, SUBJECT, WORD, conversation, new_inbox, only
from tests.sdk.official import Sdk, until

NOBODY = "nobody@agents.test"
NO_MESSAGE = "<none@elsewhere.test>"
ONCE: RequestOptions = {"max_retries": 0}
"""The SDK repeats a 409 of its own accord."""


def test_send_with_everything(sdk: Sdk) -> None:
    """What an agent says would arrive changed, or not at all."""
    alice, bob = new_inbox(sdk, "alice"), new_inbox(sdk, "bob")
    sent = sdk.client.inboxes.messages.send(
        alice.inbox_id,
        to=f"Bob <{bob.email}>",
        reply_to="office@elsewhere.test",
        subject="Files",
        text="See attached",
        html='<p>See attached <img src="cid:logo"></p>',
        labels=["sent", "Billing"],
        headers={"X-Campaign": "7"},
        attachments=[
            SendAttachment(filename="r.pdf", content=base64.b64encode(REPORT).decode()),
            SendAttachment(
                filename="logo.png",
                content_type="image/png",
                content_disposition="inline",
                content_id="logo",
                content=base64.b64encode(b"png").decode(),
            ),
        ],
    )
    own = sdk.client.inboxes.messages.get(alice.inbox_id, sent.message_id)
    assert {"billing", "sent"} <= set(own.labels) <= {"billing", "sent", "delivered"}
    got = until(
        lambda: sdk.client.inboxes.messages.list(bob.inbox_id), lambda page: page.count == 1
    ).messages[0]
    message = sdk.client.inboxes.messages.get(bob.inbox_id, got.message_id)
    assert message.from_ == f"Alice <{alice.email}>"
    assert message.reply_to == ["office@elsewhere.test"]
    assert (message.text or "").strip() == "See attached"
    assert (message.headers or {})["X-Campaign"] == "7"
    files = {each.filename: each for each in message.attachments or ()}
    assert (files["logo.png"].content_disposition, files["logo.png"].content_id) == (
        "inline",
        "logo",
    )
    assert files["r.pdf"].size == len(REPORT)


def test_list_with_filters(sdk: Sdk) -> None:
    """An agent would read its whole mailbox to find one mail."""
    at = conversation(sdk)
    sdk.client.inboxes.messages.send(at.inbox_id, to=at.inbox_id, subject="Note to self")
    until(lambda: sdk.client.inboxes.messages.list(at.inbox_id), lambda page: page.count == 3)

    def listed(**where: Any) -> int:
        return sdk.client.inboxes.messages.list(at.inbox_id, **where).count

    assert listed(from_=["lovelace"]) == 1
    assert listed(subject=["quarterly"]) == 1
    assert listed(to=[at.inbox_id]) == 3
    assert listed(labels=["unread"]) == 2
    assert listed(labels=["sent"]) == 1
    assert listed(before=at.message.timestamp) == 0
    assert listed(include_spam=True, include_trash=True) == 3
    page = sdk.client.inboxes.messages.list(at.inbox_id, limit=2, ascending=True)
    rest = sdk.client.inboxes.messages.list(
        at.inbox_id, limit=2, ascending=True, page_token=page.next_page_token
    )
    assert (page.count, rest.count) == (2, 1)


def test_get_of_what_arrived(sdk: Sdk) -> None:
    """An agent could not read its mail."""
    at = conversation(sdk)
    message = sdk.client.inboxes.messages.get(at.inbox_id, at.message_id)
    assert message.subject == SUBJECT
    assert message.from_ == f"Ada Lovelace <{OUTSIDER}>"
    assert WORD in (message.text or "")
    assert message.extracted_text == (message.text or "").strip()
    attachment = only(message.attachments)
    assert (attachment.filename, attachment.content_type) == ("report.pdf", "application/pdf")


@pytest.mark.parametrize("way", ["plain", "encoded", "without brackets"])
def test_an_id_with_odd_characters_is_found(sdk: Sdk, way: str) -> None:
    """The SDK puts ids into paths as they are; mail with a slash in its id could not be read."""
    inbox = new_inbox(sdk)
    sdk.deliver(a_mail(inbox.email, Message_ID="<a/b+c=100%@elsewhere.test>"))
    (item,) = until(
        lambda: sdk.client.inboxes.messages.list(inbox.inbox_id), lambda page: page.count == 1
    ).messages
    spelled = {
        "plain": item.message_id,
        "encoded": item.message_id.replace("%", "%25").replace("/", "%2F"),
        "without brackets": item.message_id.strip("<>"),
    }[way]
    found = sdk.client.inboxes.messages.get(inbox.inbox_id, spelled)
    assert found.message_id == item.message_id
    raw = sdk.client.inboxes.messages.get_raw(inbox.inbox_id, spelled)
    assert raw.message_id == item.message_id


@pytest.mark.parametrize(
    "local", ["order?7", "order#7", "a/../b", "a/./b", "100%25", "known@elsewhere.test>?x"]
)
def test_a_strangers_id_keeps_nobody_from_their_mail(sdk: Sdk, local: str) -> None:
    """Whoever reads what is unread would meet the mail for ever, or mark another as read in its place."""
    inbox = new_inbox(sdk)
    calls = sdk.client.inboxes.messages
    sdk.deliver(a_mail(inbox.email, "Known", Message_ID="<known@elsewhere.test>"))
    until(lambda: calls.list(inbox.inbox_id), lambda page: page.count == 1)
    stranger = a_mail(inbox.email, "Strange").as_bytes()
    sdk.deliver(f"Message-ID: <{local}@elsewhere.test>\n".encode() + stranger, inbox.email)
    unread = until(
        lambda: calls.list(inbox.inbox_id, labels=["unread"]), lambda page: page.count == 2
    )
    for item in unread.messages:
        assert calls.get(inbox.inbox_id, item.message_id).subject == item.subject
        assert calls.get_raw(inbox.inbox_id, item.message_id).message_id == item.message_id
        calls.update(inbox.inbox_id, item.message_id, remove_labels=["unread"])
    assert calls.list(inbox.inbox_id, labels=["unread"]).count == 0


def test_update_labels(sdk: Sdk) -> None:
    """An agent would answer the same mail again and again."""
    at = conversation(sdk)
    update = sdk.client.inboxes.messages.update
    done = update(at.inbox_id, at.message_id, add_labels="Lead", remove_labels=["unread"])
    assert done.labels == ["lead", "received"]
    assert update(at.inbox_id, at.message_id, add_labels=["trash"]).labels == [
        "lead",
        "received",
        "trash",
    ]
    assert sdk.client.inboxes.messages.list(at.inbox_id).count == 0
    update(at.inbox_id, at.message_id, add_labels=None, remove_labels="trash")
    assert sdk.client.inboxes.messages.list(at.inbox_id, labels=["lead"]).count == 1
    with pytest.raises(ValidationError) as refused:
        update(at.inbox_id, at.message_id, add_labels=["delivered"])
    assert refused.value.body.errors[0]["code"] == "SYSTEM_LABEL"
    with pytest.raises(NotFoundError):
        update(at.inbox_id, NO_MESSAGE, add_labels=["x"])


def test_batches(sdk: Sdk) -> None:
    """A mailbox of hundreds would take hundreds of requests."""
    at = conversation(sdk)
    messages = sdk.client.inboxes.messages
    sent = messages.send(at.inbox_id, to=at.inbox_id, subject="Two").message_id
    ids = [sent, at.message_id]
    got = messages.batch_get(at.inbox_id, message_ids=[*ids, NO_MESSAGE])
    assert (got.limit, got.count, [each.message_id for each in got.messages]) == (3, 2, ids)
    assert [each.text or each.html for each in got.messages] == [None, None]
    changed = messages.batch_update(at.inbox_id, message_ids=ids, add_labels=["lot"])
    assert [(each.message_id, "lot" in each.labels) for each in changed.updates] == [
        (each, True) for each in ids
    ]
    with pytest.raises(ValidationError):
        messages.batch_get(at.inbox_id, message_ids=[sent, sent])
    with pytest.raises(ValidationError):
        messages.batch_update(at.inbox_id, message_ids=[sent, sent], add_labels=["x"])
    with pytest.raises(ValidationError):
        messages.batch_update(at.inbox_id, message_ids=ids)


def test_delete(sdk: Sdk) -> None:
    """What must be gone would stay."""
    at = conversation(sdk)
    sdk.client.inboxes.messages.delete(at.inbox_id, at.message_id)
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.messages.get(at.inbox_id, at.message_id)
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.messages.delete(at.inbox_id, at.message_id)
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.threads.get(at.inbox_id, at.thread_id)


def test_attachment_and_raw(sdk: Sdk) -> None:
    """Files could not be fetched by programs that know only the link."""
    at = conversation(sdk)
    got = sdk.client.inboxes.messages.get_attachment(at.inbox_id, at.message_id, at.attachment_id)
    assert (got.filename, got.content_type, got.size) == (
        "report.pdf",
        "application/pdf",
        len(REPORT),
    )
    assert httpx.get(got.download_url).content == REPORT
    raw = sdk.client.inboxes.messages.get_raw(at.inbox_id, at.message_id)
    whole = httpx.get(raw.download_url).content
    assert len(whole) == raw.size
    assert message_from_bytes(whole, policy=policy.default)["Subject"] == SUBJECT
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.messages.get_attachment(at.inbox_id, at.message_id, "none")
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.messages.get_raw(at.inbox_id, NO_MESSAGE)


def test_reply(sdk: Sdk) -> None:
    """An answer would go to the wrong person, or begin a new conversation."""
    at = conversation(sdk)
    sent = sdk.client.inboxes.messages.reply(
        at.inbox_id, at.message_id, text="Thanks", cc="boss@elsewhere.test"
    )
    assert sent.thread_id == at.thread_id
    reply = sdk.client.inboxes.messages.get(at.inbox_id, sent.message_id)
    assert reply.to == [f"Ada Lovelace <{OUTSIDER}>"]
    assert reply.cc == ["boss@elsewhere.test"]
    assert reply.subject == f"Re: {SUBJECT}"
    assert reply.in_reply_to == at.message_id
    assert (reply.references or [])[-1] == at.message_id


def test_reply_all(sdk: Sdk) -> None:
    """Somebody in copy would be left out, or the agent write to itself."""
    inbox = new_inbox(sdk)
    sdk.deliver(a_mail(inbox.email, Cc="carl@elsewhere.test"), inbox.email)
    (item,) = until(
        lambda: sdk.client.inboxes.messages.list(inbox.inbox_id), lambda page: page.count == 1
    ).messages
    sent = sdk.client.inboxes.messages.reply_all(inbox.inbox_id, item.message_id, text="All")
    reply = sdk.client.inboxes.messages.get(inbox.inbox_id, sent.message_id)
    addressed = [*reply.to, *(reply.cc or [])]
    assert sorted(each.rpartition("<")[2].rstrip(">") for each in addressed) == [
        OUTSIDER,
        "carl@elsewhere.test",
    ]
    with pytest.raises(ValidationError):
        sdk.client.inboxes.messages.reply(
            inbox.inbox_id, item.message_id, reply_all=True, to=OUTSIDER, text="x"
        )


def test_forward(sdk: Sdk) -> None:
    """What is passed on would come without its text or its files."""
    at, bob = conversation(sdk), new_inbox(sdk, "bob")
    sent = sdk.client.inboxes.messages.forward(
        at.inbox_id, at.message_id, to=bob.email, text="For you"
    )
    assert sent.thread_id == at.thread_id
    (item,) = until(
        lambda: sdk.client.inboxes.messages.list(bob.inbox_id), lambda page: page.count == 1
    ).messages
    got = sdk.client.inboxes.messages.get(bob.inbox_id, item.message_id)
    assert got.subject == f"Fwd: {SUBJECT}"
    assert "For you" in (got.text or "")
    assert WORD in (got.text or "")
    attachment = only(got.attachments)
    link = sdk.client.inboxes.messages.get_attachment(
        bob.inbox_id, item.message_id, attachment.attachment_id
    )
    assert httpx.get(link.download_url).content == REPORT


def test_search(sdk: Sdk) -> None:
    """An agent could not find what it once was told."""
    at = conversation(sdk)
    search = sdk.client.inboxes.messages.search
    (hit,) = until(lambda: search(at.inbox_id, q=WORD), lambda page: page.count == 1).messages
    assert hit.message_id == at.message_id
    assert hit.highlights is not None
    assert any(f"**{WORD}**" in each for each in hit.highlights.text or ())
    (hit,) = search(at.inbox_id, q="quarterly", limit=5).messages
    assert hit.highlights is not None
    assert "**Quarterly** figures" in (hit.highlights.subject or ())
    assert search(at.inbox_id, q=WORD, before=at.message.timestamp).count == 0
    assert search(at.inbox_id, q="nowhere").count == 0
    sdk.client.inboxes.messages.update(at.inbox_id, at.message_id, add_labels=["trash"])
    assert search(at.inbox_id, q="quarterly").count == 0
    with pytest.raises(ValidationError):
        search(at.inbox_id, q="")


@pytest.mark.parametrize("way", ["send", "reply", "reply_all", "forward"])
def test_one_key_sends_once(sdk: Sdk, way: str) -> None:
    """A program that repeats itself would send twice."""
    at = conversation(sdk)
    messages = sdk.client.inboxes.messages

    def ask(text: str) -> str:
        options: dict[str, Any] = {"idempotency_key": "k-1", "text": text, "request_options": ONCE}
        match way:
            case "send":
                sent = messages.send(at.inbox_id, to=OUTSIDER, **options)
            case "forward":
                sent = messages.forward(at.inbox_id, at.message_id, to=OUTSIDER, **options)
            case "reply_all":
                sent = messages.reply_all(at.inbox_id, at.message_id, **options)
            case _:
                sent = messages.reply(at.inbox_id, at.message_id, **options)
        return sent.message_id

    assert ask("One") == ask("One")
    assert messages.list(at.inbox_id, labels=["sent"]).count == 1
    with pytest.raises(ConflictError):
        ask("Two")


def test_sends_that_are_refused_have_their_types(sdk: Sdk) -> None:
    """Code that catches the SDK's errors would not catch ours."""
    at = conversation(sdk)
    messages = sdk.client.inboxes.messages
    with pytest.raises(MessageRejectedError):
        messages.send(at.inbox_id, to=NOBODY, text="Hi")
    with pytest.raises(ValidationError):
        messages.send(at.inbox_id, to="not an address", text="Hi")
    with pytest.raises(ApiError) as nobody:
        messages.send(at.inbox_id, text="Hi")
    assert nobody.value.status_code == 422, "the SDK has no type for this one"
    with pytest.raises(NotFoundError):
        messages.send(NOBODY, to=OUTSIDER, text="Hi")
    for answer in (messages.reply, messages.reply_all):
        with pytest.raises(NotFoundError):
            answer(at.inbox_id, NO_MESSAGE, text="Hi")
    with pytest.raises(NotFoundError):
        messages.forward(at.inbox_id, NO_MESSAGE, to=OUTSIDER)
