"""Threads, every call of the official Python SDK, at each of its three scopes: inbox, organisation, pod."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import httpx
import pytest
from agentmail import AgentMail
from agentmail.core.api_error import ApiError
from agentmail.errors import NotFoundError, UnprocessableError, ValidationError

from tests.fix_app import a_mail
from tests.sdk.mailbox import REPORT, SUBJECT, WORD, Conversation, Scope, conversation, only
from tests.sdk.official import Sdk, until

NO_THREAD = str(uuid.UUID(int=0))


def at_inbox(client: AgentMail, at: Conversation) -> Scope:
    return Scope(client.inboxes.threads, (at.inbox_id,))


def at_organization(client: AgentMail, _at: Conversation) -> Scope:
    return Scope(client.threads, ())


def at_pod(client: AgentMail, at: Conversation) -> Scope:
    return Scope(client.pods.threads, (at.pod_id,))


@pytest.fixture
def at(sdk: Sdk) -> Conversation:
    return conversation(sdk)


@pytest.fixture(params=[at_inbox, at_organization, at_pod], ids=["inbox", "organization", "pod"])
def threads(request: pytest.FixtureRequest, sdk: Sdk, at: Conversation) -> Scope:
    return request.param(sdk.client, at)


def test_list_with_filters(sdk: Sdk, at: Conversation, threads: Scope) -> None:
    """An agent would read everything to find one conversation."""
    sdk.deliver(a_mail(at.inbox_id, "Another matter", From="Bob <bob@elsewhere.test>"))
    until(threads.list, lambda page: page.count == 2)
    assert threads.list(subject=["quarterly"]).count == 1
    assert threads.list(senders=["lovelace"]).count == 1
    assert threads.list(recipients=[at.inbox_id], labels=["unread"], subject=["fig"]).count == 1
    assert threads.list(labels=["sent"]).count == 0
    first = threads.list(limit=1, ascending=True)
    rest = threads.list(limit=1, ascending=True, page_token=first.next_page_token)
    # Both may have arrived in one second, which is as exactly as a mail server tells.
    subjects = [only(page.threads).subject for page in (first, rest)]
    assert sorted(subjects) == ["Another matter", SUBJECT]
    item = only(threads.list(labels=["unread"], subject=[SUBJECT]).threads)
    assert item.preview
    assert only(item.attachments).filename == "report.pdf"


def test_get_in_pages(sdk: Sdk, at: Conversation, threads: Scope) -> None:
    """A long conversation could not be read to its beginning."""
    texts = ["first answer", "second answer"]
    for text in texts:
        sdk.client.inboxes.messages.reply(at.inbox_id, at.message_id, text=text)
    whole = threads.get(at.thread_id)
    assert (whole.count, whole.message_count) == (3, 3)
    assert [(each.text or "").strip() for each in whole.messages[1:]] == texts
    newest = threads.get(at.thread_id, limit=2)
    assert [(each.text or "").strip() for each in newest.messages] == texts
    oldest = threads.get(at.thread_id, limit=2, page_token=newest.next_page_token)
    assert only(oldest.messages).message_id == at.message_id
    assert oldest.next_page_token is None


def test_get_attachment(at: Conversation, threads: Scope) -> None:
    """A file could be had only by who knows in which message it came."""
    got = threads.get_attachment(at.thread_id, at.attachment_id)
    assert httpx.get(got.download_url).content == REPORT
    with pytest.raises(NotFoundError):
        threads.get_attachment(at.thread_id, str(uuid.uuid4()))


def test_update(sdk: Sdk, at: Conversation, threads: Scope) -> None:
    """A conversation could not be filed."""
    done = threads.update(at.thread_id, add_labels=["Lead"], remove_labels=["unread"])
    assert done.thread_id == at.thread_id
    assert done.labels == ["lead", "received"]
    assert sdk.client.inboxes.messages.get(at.inbox_id, at.message_id).labels == done.labels
    threads.update(at.thread_id, add_labels=["trash"])
    assert threads.list().count == 0
    assert threads.list(include_trash=True).count == 1
    with pytest.raises(ValidationError):
        threads.update(at.thread_id, add_labels=["delivered"])


def test_delete(sdk: Sdk, at: Conversation, threads: Scope) -> None:
    """What must be gone would stay."""
    threads.delete(at.thread_id)
    with pytest.raises(NotFoundError):
        threads.get(at.thread_id)
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.messages.get(at.inbox_id, at.message_id)


def test_search(sdk: Sdk, at: Conversation, threads: Scope) -> None:
    """A conversation could not be found by what was said in it."""
    hit = only(until(lambda: threads.search(q=WORD), lambda page: page.count == 1).threads)
    assert hit.thread_id == at.thread_id
    assert hit.highlights is not None
    assert any(f"**{WORD}**" in each for each in hit.highlights.text or ())
    assert only(threads.search(q="quarterly", limit=5).threads).thread_id == at.thread_id
    assert threads.search(q=WORD, after=at.message.timestamp).count in {0, 1}
    assert threads.search(q="nowhere").count == 0
    sdk.client.inboxes.threads.update(at.inbox_id, at.thread_id, add_labels=["trash"])
    assert threads.search(q="quarterly").count == 0
    with pytest.raises(ValidationError):
        threads.search(q="")


def test_a_thread_that_is_not_there(threads: Scope) -> None:
    """Code that catches NotFoundError would miss it."""
    calls: list[Callable[[], object]] = [
        lambda: threads.get(NO_THREAD),
        lambda: threads.update(NO_THREAD, add_labels=["x"]),
        lambda: threads.delete(NO_THREAD),
        lambda: threads.get_attachment(NO_THREAD, NO_THREAD),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


def test_another_scope_s_thread_is_not_there(sdk: Sdk, at: Conversation) -> None:
    """A pod or inbox would show what is not its own."""
    stranger = conversation(sdk)
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.threads.get(at.inbox_id, stranger.thread_id)
    with pytest.raises(NotFoundError):
        sdk.client.pods.threads.get(NO_THREAD, at.thread_id)
    with pytest.raises(NotFoundError):
        sdk.client.inboxes.threads.list("nobody@agents.test")


def test_a_thread_too_long_to_label_at_once(sdk: Sdk, at: Conversation) -> None:
    """Code that catches UnprocessableError, to label message by message, would miss it."""
    answers = [a_mail(at.inbox_id, f"Re: {SUBJECT}", In_Reply_To=at.message_id) for _ in range(100)]
    sdk.deliver_all(answers)
    threads = sdk.client.threads
    until(lambda: threads.get(at.thread_id, limit=1), lambda seen: seen.message_count == 101)
    with pytest.raises(UnprocessableError):
        threads.update(at.thread_id, add_labels=["lead"])


def test_paging_with_a_damaged_token(threads: Scope) -> None:
    """A program would start over without noticing."""
    with pytest.raises(ApiError) as damaged:
        threads.list(page_token="damaged")
    assert damaged.value.status_code == 400
