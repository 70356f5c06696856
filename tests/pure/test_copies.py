"""Of two copies of one mail in Sent one is shown: never both, never none, and the client's before ours."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.copies import Sorted, sort_out
from agentmail_cp.labels import SENT_KEYWORD
from agentmail_cp.mailserver import DocumentId, Folder, Mail

NAME = "a@x"


def copy(number: int, *, ours: bool = False, folder: Folder = Folder.SENT) -> Mail:
    return Mail(
        document_id=DocumentId(number),
        folders=frozenset({folder}),
        keywords=frozenset({SENT_KEYWORD} if ours else ()),
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
        message_id=NAME,
    )


def ids(*numbers: int) -> list[DocumentId]:
    return [DocumentId(number) for number in numbers]


def added(found: Sorted) -> list[DocumentId]:
    return [mail.document_id for mail in found.new]


def test_other_mail_is_added_as_it_is() -> None:
    mails = [copy(2), copy(1, ours=True)]
    assert added(sort_out(mails, {}, {})) == ids(1, 2)


def test_the_clients_copy_is_added_at_once() -> None:
    """What a person sent would show up late."""
    assert added(sort_out([copy(1)], {NAME: None}, {})) == ids(1)


def test_our_copy_waits_for_whoever_made_it() -> None:
    """Intake may see it before its row says whose it is."""
    assert added(sort_out([copy(1, ours=True)], {NAME: None}, {})) == []
    assert added(sort_out([copy(1, ours=True)], {NAME: DocumentId(1)}, {})) == ids(1)


def test_the_clients_copy_takes_the_place_of_ours() -> None:
    found = sort_out([copy(2)], {NAME: DocumentId(1)}, {NAME: DocumentId(1)})
    assert (added(found), found.moved) == ([], {1: copy(2)})


def test_a_second_copy_of_the_clients_is_a_message() -> None:
    """Somebody copied it; it is there for mail clients too."""
    found = sort_out([copy(2), copy(3)], {NAME: DocumentId(1)}, {NAME: DocumentId(1)})
    assert (added(found), found.moved) == (ids(3), {1: copy(2)})
    assert added(sort_out([copy(3)], {NAME: None}, {NAME: DocumentId(2)})) == ids(3)


def test_ours_never_stands_beside_the_clients() -> None:
    """Both seen for the first time, as when an index is made anew."""
    mails = [copy(1, ours=True), copy(2)]
    assert added(sort_out(mails, {NAME: DocumentId(1)}, {})) == ids(2)
    assert added(sort_out(mails[:1], {NAME: DocumentId(1)}, {NAME: DocumentId(2)})) == []


def test_what_was_received_is_another_message() -> None:
    """A mail to oneself."""
    mail = copy(3, folder=Folder.INBOX)
    for known in ({}, {NAME: DocumentId(1)}):
        assert added(sort_out([mail], {NAME: DocumentId(1)}, known)) == ids(3)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans()), unique_by=lambda each: each[0]),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 5),
)
def test_one_stands_for_the_mail_whatever_came_in_whatever_order(
    seen: list[tuple[int, bool]], own: int | None, standing: int | None
) -> None:
    """After any batch at least the client's copy is shown, and at most one of ours."""
    mails = [copy(number, ours=ours) for number, ours in seen if number != standing]
    copies = {NAME: None if own is None else DocumentId(own)}
    found = sort_out(mails, copies, {} if standing is None else {NAME: DocumentId(standing)})
    ours = {mail.document_id for mail in mails if SENT_KEYWORD in mail.keywords} | {own}
    shown = {standing} - found.moved.keys() - {None}
    shown |= set(added(found)) | {mail.document_id for mail in found.moved.values()}
    theirs = {mail.document_id for mail in mails} - ours
    assert theirs <= shown
    assert len(shown & ours) <= 1
    if theirs:
        assert not shown & ours - {standing if standing != own else None}
