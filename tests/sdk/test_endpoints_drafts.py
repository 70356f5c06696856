"""Drafts, every call of the official Python SDK; reading them at each of its three scopes."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from agentmail import AgentMail
from agentmail.attachments.types.send_attachment import SendAttachment
from agentmail.errors import ConflictError, NotFoundError, ValidationError
from agentmail.inboxes.types.inbox import Inbox

from tests.fix_app import OUTSIDER
from tests.sdk.mailbox import REPORT, SUBJECT, WORD, Scope, conversation, new_inbox, only
from tests.sdk.official import Sdk, until

NOBODY = "nobody@agents.test"
NO_DRAFT = str(uuid.UUID(int=0))
FILE = SendAttachment(
    filename="r.pdf", content_type="application/pdf", content=base64.b64encode(REPORT).decode()
)


def in_(delay: timedelta) -> datetime:
    return datetime.now(UTC) + delay


def test_create_get_update_delete(sdk: Sdk) -> None:
    """An agent could not prepare what a person is to look at first."""
    inbox = new_inbox(sdk)
    drafts = sdk.client.inboxes.drafts
    made = drafts.create(
        inbox.inbox_id,
        to=[OUTSIDER],
        cc=["carl@elsewhere.test"],
        bcc=["dora@elsewhere.test"],
        reply_to=["office@elsewhere.test"],
        subject="Offer",
        text="Ten",
        html="<p>Ten</p>",
        labels=["Sales"],
        attachments=[FILE],
        client_id="offer-1",
    )
    got = drafts.get(inbox.inbox_id, made.draft_id)
    assert (got.to, got.cc, got.bcc) == (
        [OUTSIDER],
        ["carl@elsewhere.test"],
        ["dora@elsewhere.test"],
    )
    assert (got.subject, (got.text or "").strip(), got.client_id) == ("Offer", "Ten", "offer-1")
    assert "<p>Ten</p>" in (got.html or "")
    assert "sales" in got.labels
    again = drafts.create(inbox.inbox_id, client_id="offer-1", text="Other")
    assert again.draft_id == made.draft_id
    changed = drafts.update(
        inbox.inbox_id, made.draft_id, subject="Better offer", to=[], add_labels=["Hot"]
    )
    assert (changed.subject, changed.to or []) == ("Better offer", [])
    assert {"sales", "hot"} <= set(changed.labels)
    assert (drafts.get(inbox.inbox_id, made.draft_id).text or "").strip() == "Ten"
    drafts.delete(inbox.inbox_id, made.draft_id)
    with pytest.raises(NotFoundError):
        drafts.get(inbox.inbox_id, made.draft_id)


def test_attachments_come_and_go(sdk: Sdk) -> None:
    """A wrong file could not be taken out again."""
    inbox = new_inbox(sdk)
    drafts = sdk.client.inboxes.drafts
    made = drafts.create(inbox.inbox_id, to=[OUTSIDER], text="See attached", attachments=[FILE])
    first = only(made.attachments)
    other = SendAttachment(filename="note.txt", content=base64.b64encode(b"note").decode())
    changed = drafts.update(
        inbox.inbox_id,
        made.draft_id,
        add_attachments=[other],
        remove_attachments=[first.attachment_id],
    )
    left = only(changed.attachments)
    assert left.filename == "note.txt"
    link = drafts.get_attachment(inbox.inbox_id, made.draft_id, left.attachment_id)
    assert httpx.get(link.download_url).content == b"note"
    with pytest.raises(NotFoundError):
        drafts.get_attachment(inbox.inbox_id, made.draft_id, str(uuid.uuid4()))


def at_inbox(client: AgentMail, inbox: Inbox) -> Scope:
    return Scope(client.inboxes.drafts, (inbox.inbox_id,))


def at_organization(client: AgentMail, _inbox: Inbox) -> Scope:
    return Scope(client.drafts, ())


def at_pod(client: AgentMail, inbox: Inbox) -> Scope:
    return Scope(client.pods.drafts, (inbox.pod_id,))


@pytest.mark.parametrize(
    "scope", [at_inbox, at_organization, at_pod], ids=["inbox", "organization", "pod"]
)
def test_read_at_every_scope(sdk: Sdk, scope: Callable[[AgentMail, Inbox], Scope]) -> None:
    """Whoever looks after many agents could not see what they are about to send."""
    inbox = new_inbox(sdk)
    made = [
        sdk.client.inboxes.drafts.create(
            inbox.inbox_id, to=[OUTSIDER], subject=each, text=each, attachments=[FILE]
        )
        for each in ("One", "Two")
    ]
    drafts = scope(sdk.client, inbox)
    got = drafts.get(made[0].draft_id)
    assert (got.subject, got.inbox_id) == ("One", inbox.inbox_id)
    link = drafts.get_attachment(made[0].draft_id, only(made[0].attachments).attachment_id)
    assert httpx.get(link.download_url).content == REPORT
    first = drafts.list(limit=1)
    rest = drafts.list(limit=1, page_token=first.next_page_token)
    assert [only(page.drafts).subject for page in (first, rest)] == ["Two", "One"]
    assert drafts.list(ascending=True).drafts[0].draft_id == made[0].draft_id


def test_send(sdk: Sdk) -> None:
    """What was prepared would never leave, or twice."""
    alice, bob = new_inbox(sdk, "alice"), new_inbox(sdk, "bob")
    drafts = sdk.client.inboxes.drafts
    made = drafts.create(alice.inbox_id, to=[bob.email], subject="Offer", text="Ten", labels=["a"])
    sent = drafts.send(
        alice.inbox_id, made.draft_id, add_labels=["b"], remove_labels=["a"], idempotency_key="k"
    )
    own = sdk.client.inboxes.messages.get(alice.inbox_id, sent.message_id)
    assert {"b", "sent"} <= set(own.labels) <= {"b", "sent", "delivered"}
    item = only(
        until(
            lambda: sdk.client.inboxes.messages.list(bob.inbox_id), lambda page: page.count == 1
        ).messages
    )
    assert item.subject == "Offer"
    with pytest.raises(NotFoundError):
        drafts.get(alice.inbox_id, made.draft_id)
    assert drafts.list(alice.inbox_id).count == 0
    again = drafts.send(
        alice.inbox_id, made.draft_id, add_labels=["b"], remove_labels=["a"], idempotency_key="k"
    )
    assert again.message_id == sent.message_id
    with pytest.raises(ConflictError):
        drafts.send(
            alice.inbox_id,
            made.draft_id,
            idempotency_key="k",
            request_options={"max_retries": 0},
        )
    with pytest.raises(NotFoundError):
        drafts.send(alice.inbox_id, made.draft_id)


def test_a_reply_draft(sdk: Sdk) -> None:
    """A prepared answer would begin a new conversation."""
    at = conversation(sdk)
    made = sdk.client.inboxes.drafts.create(at.inbox_id, in_reply_to=at.message_id, text="Thanks")
    assert made.in_reply_to == at.message_id
    assert made.subject == f"Re: {SUBJECT}"
    assert [each.endswith(f"<{OUTSIDER}>") for each in made.to or ()] == [True]
    sent = sdk.client.inboxes.drafts.send(at.inbox_id, made.draft_id)
    assert sent.thread_id == at.thread_id


def test_a_forward_draft(sdk: Sdk) -> None:
    """What is to be passed on would leave without its text and files."""
    at, bob = conversation(sdk), new_inbox(sdk, "bob")
    made = sdk.client.inboxes.drafts.create(
        at.inbox_id, forward_of=at.message_id, to=[bob.email], text="For you"
    )
    assert made.forward_of == at.message_id
    sdk.client.inboxes.drafts.send(at.inbox_id, made.draft_id)
    item = only(
        until(
            lambda: sdk.client.inboxes.messages.list(bob.inbox_id), lambda page: page.count == 1
        ).messages
    )
    got = sdk.client.inboxes.messages.get(bob.inbox_id, item.message_id)
    assert got.subject == f"Fwd: {SUBJECT}"
    assert WORD in (got.text or "")
    assert only(got.attachments).filename == "report.pdf"
    with pytest.raises(ValidationError):
        sdk.client.inboxes.drafts.create(
            at.inbox_id, forward_of=at.message_id, in_reply_to=at.message_id
        )


def test_schedule_and_unschedule(sdk: Sdk) -> None:
    """Mail would leave at the wrong time, or although it was called back."""
    inbox = new_inbox(sdk)
    drafts = sdk.client.inboxes.drafts
    made = drafts.create(
        inbox.inbox_id, to=[OUTSIDER], text="Later", send_at=in_(timedelta(hours=1))
    )
    assert made.send_status == "scheduled"
    assert "scheduled" in made.labels
    assert drafts.list(inbox.inbox_id, labels=["scheduled"]).count == 1
    back = drafts.update(inbox.inbox_id, made.draft_id, send_at=None)
    assert (back.send_status, back.send_at) == (None, None)
    assert drafts.list(inbox.inbox_id, labels=["scheduled"]).count == 0
    with pytest.raises(ValidationError):
        drafts.create(inbox.inbox_id, to=[OUTSIDER], send_at=in_(timedelta(hours=-1)))


def test_a_scheduled_draft_is_sent(sdk: Sdk) -> None:
    """Scheduled mail would stay."""
    inbox = new_inbox(sdk)
    made = sdk.client.inboxes.drafts.create(
        inbox.inbox_id, to=[OUTSIDER], subject="Soon", send_at=in_(timedelta(seconds=1))
    )

    def sent() -> int:
        page = sdk.client.inboxes.messages.list(inbox.inbox_id, labels=["sent"])
        return page.count

    assert until(sent, bool) == 1
    with pytest.raises(NotFoundError):
        sdk.client.drafts.get(made.draft_id)


def test_a_draft_that_is_not_there(sdk: Sdk) -> None:
    """Code that catches NotFoundError would miss it."""
    inbox = new_inbox(sdk)
    drafts = sdk.client.inboxes.drafts
    calls: list[Callable[[], object]] = [
        lambda: drafts.get(inbox.inbox_id, NO_DRAFT),
        lambda: drafts.update(inbox.inbox_id, NO_DRAFT, text="x"),
        lambda: drafts.delete(inbox.inbox_id, NO_DRAFT),
        lambda: drafts.send(inbox.inbox_id, NO_DRAFT),
        lambda: drafts.get_attachment(inbox.inbox_id, NO_DRAFT, NO_DRAFT),
        lambda: drafts.list(NOBODY),
        lambda: drafts.create(NOBODY, text="x"),
        lambda: drafts.create(inbox.inbox_id, in_reply_to="<none@elsewhere.test>", text="x"),
        lambda: sdk.client.drafts.get(NO_DRAFT),
        lambda: sdk.client.drafts.get_attachment(NO_DRAFT, NO_DRAFT),
        lambda: sdk.client.pods.drafts.list(NO_DRAFT),
        lambda: sdk.client.pods.drafts.get(inbox.pod_id, NO_DRAFT),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()
