"""Which draft a mail is, what a reading means for it, and what becomes of its words; without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from agentmail_cp import compose, drafts
from agentmail_cp.drafts import Draft, Patch, attachment_ids
from agentmail_cp.drafts.content import as_message, revised, unreachable
from agentmail_cp.drafts.draft import State, identify, message_id_of
from agentmail_cp.drafts.record import Found, Step, is_draft, step
from agentmail_cp.errors import Invalid
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import (
    AccountId,
    Address,
    Attachment,
    BlobId,
    DocumentId,
    Folder,
    Mail,
    MailContent,
)

PLACE = Place(UUID(int=1), UUID(int=2), UUID(int=3), "agents.test")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
DRAFT = UUID(int=9)


def a_mail(document_id: int = 5, **fields: Any) -> Mail:
    known: dict[str, Any] = {
        "document_id": DocumentId(document_id),
        "folders": frozenset({Folder.DRAFTS}),
        "keywords": frozenset({"$draft", "$seen"}),
        "received_at": NOW,
        "message_id": "m@client.test",
        **fields,
    }
    return Mail(**known)


def a_row(**fields: Any) -> Draft:
    known: dict[str, Any] = {
        "inbox_id": PLACE.inbox_id,
        "draft_id": DRAFT,
        "organization_id": PLACE.organization_id,
        "pod_id": PLACE.pod_id,
        "account_id": AccountId("a"),
        "state": "draft",
        "version": 3,
        "document_id": DocumentId(5),
        "reply_all": False,
        "attempts": 0,
        "size": 1,
        "has_attachment": False,
        "preview": "",
        "created_at": NOW,
        "updated_at": NOW,
    }
    lists = ("labels", "kept_labels", "to", "cc", "bcc", "reply_to", "references")
    every: dict[str, Any] = {each.name: None for each in msgspec.structs.fields(Draft)}
    every |= {name: [] for name in lists} | known | fields
    return Draft(**every)


@given(st.uuids(), st.integers(0, 999_999_999))
def test_a_version_of_ours_is_known_by_its_message_id(draft_id: UUID, version: int) -> None:
    """A database read again from the mail server would give drafts other names."""
    mail = a_mail(message_id=message_id_of(draft_id, version, "agents.test"))
    assert identify(PLACE, mail) == (draft_id, version)


@pytest.mark.parametrize(
    "message_id",
    [
        "x@client.test",
        "0" * 32 + ".1@elsewhere.test",
        "0" * 32 + "@agents.test",
        "0" * 31 + ".1@agents.test",
        "0" * 32 + ".9999999999@agents.test",
        None,
        "x" * 600,
    ],
)
def test_a_client_s_draft_is_named_the_same_each_time_and_by_inbox(message_id: str | None) -> None:
    """Whoever kept the id of a draft would find another one under it."""
    first, version = identify(PLACE, a_mail(message_id=message_id))
    assert version is None
    assert identify(PLACE, a_mail(message_id=message_id))[0] == first
    elsewhere = Place(uuid4(), PLACE.organization_id, PLACE.pod_id, "agents.test")
    assert identify(elsewhere, a_mail(message_id=message_id))[0] != first


@pytest.mark.parametrize(
    ("mail", "expected"),
    [
        (a_mail(), True),
        (a_mail(folders=frozenset({Folder.TRASH})), False),
        (a_mail(keywords=frozenset({"$draft", "$deleted"})), False),
        (a_mail(keywords=frozenset({"$draft", "$sent"})), False),
        (a_mail(message_id="under@way"), False),
        (a_mail(keywords=frozenset()), True),
    ],
)
def test_what_is_a_draft(mail: Mail, expected: bool) -> None:
    """A mail that is being sent would be listed as a draft, or one that was deleted be sent."""
    assert is_draft(mail, {"under@way"}) is expected


STATES = list(get_args(State))


@pytest.mark.parametrize("state", STATES)
def test_somebody_else_s_newer_copy_is_taken_over_in_every_state(state: State) -> None:
    """What a person wrote last would be lost, or an older version be sent."""
    for row in (a_row(state=state), a_row(state=state, document_id=None, taken=DocumentId(5))):
        assert step(row, Found(a_mail(6), None), set()) is Step.ADOPT
        assert step(row, Found(a_mail(6), 2), {DocumentId(5)}) is Step.ADOPT
        assert step(row, Found(a_mail(4), None), set()) is Step.KEEP


@pytest.mark.parametrize("state", STATES)
def test_our_own_version_on_its_way_is_left_to_who_writes_it(state: State) -> None:
    """Every change would look like a client's, and take the schedule away."""
    row = a_row(state=state, document_id=None) if state == "storing" else a_row(state=state)
    ours = Found(a_mail(6), row.version)
    expected = Step.KEEP if state in {"storing", "updating"} else Step.ADOPT
    assert step(row, ours, set()) is expected
    abandoned = a_row(state="deleting", document_id=None)
    assert step(abandoned, Found(a_mail(6), abandoned.version), set()) is Step.KEEP


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("draft", Step.REMOVE),
        ("updating", Step.LOSE),
        ("sending", Step.LOSE),
        ("deleting", Step.KEEP),
        ("sent", Step.KEEP),
        ("storing", Step.KEEP),
    ],
)
def test_a_version_that_is_gone(state: State, expected: Step) -> None:
    """A draft would be listed that is not there, or a row vanish under who works on it."""
    assert step(a_row(state=state), None, {DocumentId(5)}) is expected
    assert step(a_row(state=state), None, {DocumentId(4)}) is Step.KEEP


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("draft", Step.ADOPT),
        ("updating", Step.ADOPT),
        ("sending", Step.ADOPT),
        ("deleting", Step.KEEP),
        ("sent", Step.KEEP),
    ],
)
def test_an_older_copy_that_is_left(state: State, expected: Step) -> None:
    """Whoever deletes the newer of two copies would see the draft vanish, or one that was sent come back."""
    row = a_row(state=state, document_id=5, taken=2)
    assert step(row, Found(a_mail(3), None), {DocumentId(5)}) is expected


@given(
    st.sampled_from(STATES),
    st.none() | st.integers(1, 9),
    st.none() | st.integers(1, 9),
    st.none() | st.tuples(st.integers(1, 9), st.none() | st.integers(1, 5)),
    st.sets(st.integers(1, 9)),
)
def test_reading_the_same_again_changes_nothing(
    state: State,
    document_id: int | None,
    taken: int | None,
    found: tuple[int, int | None] | None,
    gone: set[int],
) -> None:
    """Intake reads everything at least once, and some of it twice."""
    row = a_row(state=state, document_id=document_id, taken=taken)
    newest = Found(a_mail(found[0]), found[1]) if found else None
    left = {DocumentId(each) for each in gone - {found[0] if found else 0}}
    first = step(row, newest, left)
    if first is Step.REMOVE:
        return
    after = row
    if first is Step.ADOPT and newest is not None:
        revived: State = "draft" if state in {"deleting", "sent"} else state
        after = msgspec.structs.replace(row, document_id=newest.mail.document_id, state=revived)
    if first is Step.LOSE:
        after = msgspec.structs.replace(row, document_id=None)
    assert step(after, newest, left) in {Step.KEEP, Step.RELABEL}


FILES = st.lists(
    st.builds(
        Attachment,
        part_id=st.text("123", min_size=1),
        blob_id=st.just(BlobId("b")),
        size=st.integers(0, 3),
        content_type=st.just("a/b"),
        filename=st.sampled_from([None, "a", "b"]),
    ),
    max_size=6,
)


@given(FILES, st.data())
def test_attachment_ids_stay_while_others_come_and_go(
    files: list[Attachment], data: st.DataObject
) -> None:
    """Removing two files one after the other would remove a third."""
    ids = attachment_ids(DRAFT, files)
    assert len(set(ids)) == len(files)
    renumbered = [msgspec.structs.replace(each, part_id="9") for each in files]
    assert attachment_ids(DRAFT, renumbered) == ids
    more = [*files, msgspec.structs.replace(files[0], filename="new")] if files else files
    assert attachment_ids(DRAFT, more)[: len(files)] == ids
    distinct = list({(each.filename, each.size): each for each in files}.values())
    if distinct:
        named = dict(zip(attachment_ids(DRAFT, distinct), distinct, strict=True))
        unwanted = data.draw(st.sampled_from(list(named)))
        left = [each for name, each in named.items() if name != unwanted]
        assert attachment_ids(DRAFT, left) == [name for name in named if name != unwanted]


def test_a_patch_changes_what_it_names_and_nothing_else() -> None:
    """A field would be cleared that nobody mentioned."""
    content = MailContent(document_id=DocumentId(5), raw_blob_id=BlobId("r"), text="T", html="H")
    mail = a_mail(subject="S", to=(Address("a@b.test"),), cc=(Address("c@d.test", "C"),))
    message = as_message(mail, content, ["kept"])
    assert revised(message, Patch(), []) == message
    assert Patch().empty
    for name in ("to", "cc", "bcc", "reply_to", "subject", "text", "html"):
        value: Any = () if name in {"to", "cc", "bcc", "reply_to"} else "new"
        changed = revised(message, Patch(**{name: value}), [])
        assert getattr(changed, name) == value
        assert msgspec.structs.replace(changed, **{name: getattr(message, name)}) == message
    assert revised(message, Patch(html=None, text=UNSET), []).html is None


def test_removing_what_is_not_there_is_a_mistake() -> None:
    """A misspelt id would leave a file in a mail that must not have it."""
    message = compose.SendMessage()
    with pytest.raises(Invalid) as raised:
        revised(message, Patch(remove_attachments=("x",)), [])
    assert raised.value.field == "remove_attachments"


def test_only_headers_for_the_recipients_are_kept() -> None:
    """What a mail client notes for itself would be sent to strangers, or a header be sent twice."""
    headers = (
        ("Date", "x"),
        ("From", "a@b.test"),
        ("Subject", "x"),
        ("Message-ID", "<x@y>"),
        ("In-Reply-To", "<x@y>"),
        ("References", "<x@y>"),
        ("MIME-Version", "1.0"),
        ("Content-Type", "text/plain"),
        ("Bcc", "x@y.test"),
        ("FCC", "imap://x"),
        ("User-Agent", "x"),
        ("X-Mozilla-Draft-Info", "x"),
        ("X-Identity-Key", "id1"),
        ("X-Unsent", "1"),
        ("Auto-Submitted", "auto-replied"),
        ("X-Own", "a\r\nBcc: evil@x.test"),
        ("X-Long", "x" * 2000),
        ("Bad Name", "x"),
    )
    content = MailContent(
        document_id=DocumentId(5), raw_blob_id=BlobId("r"), headers=headers, text=""
    )
    kept = as_message(a_mail(), content, ()).headers
    assert kept.keys() == {"Auto-Submitted", "X-Own"}
    assert "\n" not in kept["X-Own"]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("ada@b.test, Bob <bob@b.test>", []),
        ("=?utf-8?q?Doe=2C_Jane?= <jane@b.test>", []),
        ('"Doe, Jane" <jane@b.test>', []),
        ("undisclosed-recipients:;", []),
        ("Team: a@b.test, c@d.test;", []),
        ("ada, bob@b.test", ["ada"]),
        ("Bob <bob>", ["bob"]),
        ("ada@host", ["ada@host"]),
        ("", []),
    ],
)
def test_a_half_written_address_is_noticed(to: str, expected: list[str]) -> None:
    """A mail would go to some of those it was meant for; or a good one not go at all."""
    assert unreachable(f"To: {to}\r\nSubject: x\r\n\r\nTo: me".encode(), "to") == expected
    assert unreachable(f"To: {to}\r\n\r\n".encode(), "cc") == []


@given(st.datetimes() | st.datetimes(timezones=st.just(UTC)))
def test_a_time_to_send_at_is_in_utc_and_to_come(moment: datetime) -> None:
    """A mail would go out an hour early, or in the year 9999."""
    try:
        checked = drafts.check_send_at(moment, NOW)
    except Invalid:
        aware = moment.replace(tzinfo=moment.tzinfo or UTC)
        assert not NOW <= aware <= NOW + timedelta(days=366)
    else:
        assert checked == moment.replace(tzinfo=UTC)
        assert NOW - timedelta(seconds=60) <= checked <= NOW + timedelta(days=366)
