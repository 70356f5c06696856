"""Labels: spelt as keywords every IMAP server takes, and only changed by those who may."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentmail_cp import labels
from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import DocumentId, Folder, Relabel

NOT_IN_ATOM = set('(){%*"\\] ')
DOCUMENT = DocumentId(7)


def valid(text: str) -> bool:
    try:
        return labels.normalise(text, "labels") == text and text not in labels.SYSTEM_LABELS
    except Invalid:
        return False


LABEL = (
    (st.text(max_size=30) | st.text("=abcdef0123$/", max_size=12))
    .map(lambda text: text.strip().lower())
    .filter(valid)
)
ODD = st.sampled_from(
    [*sorted(labels.SYSTEM_LABELS), "junk", "nonjunk", "$seen", "$junk", "=24seen"]
)


@given(LABEL | ODD)
def test_a_label_survives_the_way_through_imap(label: str) -> None:
    if label in labels.SYSTEM_LABELS:
        assert labels.decode(label) is None
    else:
        assert labels.decode(labels.encode(label)) == label


@given(LABEL | ODD, LABEL | ODD)
def test_two_labels_never_share_a_keyword(one: str, other: str) -> None:
    assume(one != other)
    assert labels.encode(one) != labels.encode(other)


@given(LABEL | ODD)
def test_a_keyword_is_an_atom_no_server_refuses(label: str) -> None:
    keyword = labels.encode(label)
    assert 1 <= len(keyword) <= labels.MAX_KEYWORD
    assert all("!" <= char <= "~" for char in keyword)
    assert not NOT_IN_ATOM & set(keyword)
    assert keyword == keyword.lower()


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1).map(str.lower))
def test_every_shown_keyword_can_be_removed_again(keyword: str) -> None:
    """A tag set in a mail client shows as a label only if that label leads back to it."""
    label = labels.decode(keyword)
    if label is not None:
        assert label in labels.SYSTEM_LABELS or labels.encode(label) == keyword


@given(st.text())
def test_any_text_is_a_label_or_refused(text: str) -> None:
    with suppress(Invalid):
        label = labels.normalise(text, "add_labels")
        assert labels.normalise(label, "add_labels") == label


def test_everyday_labels_look_the_same_in_a_mail_client() -> None:
    assert labels.encode("follow-up:123e4567") == "follow-up:123e4567"
    assert labels.encode("important") == "$important"
    assert labels.encode("flagged") == "$flagged"
    assert labels.encode("needs reply") == "needs=20reply"
    assert labels.decode("$customer:42") == "$customer:42"
    assert labels.normalise("  Follow-Up ", "labels") == "follow-up"


@pytest.mark.parametrize(
    "keyword",
    ["$answered", "$forwarded", "$junk", "nonjunk", "sent", "delivered", "$seen", "$sent"],
)
def test_flags_of_mail_clients_are_no_labels(keyword: str) -> None:
    """A person's flag called `sent` must not make a received mail look sent."""
    assert labels.decode(keyword) is None


@pytest.mark.parametrize(
    ("direction", "folders", "keywords", "expected"),
    [
        ("received", {Folder.INBOX}, set[str](), ("received", "unread")),
        ("sent", {Folder.SENT}, {"$seen", "$sent"}, ("sent",)),
        ("received", {Folder.TRASH}, {"$seen"}, ("received", "trash")),
        ("received", {Folder.JUNK}, {"$seen", "$junk"}, ("received", "spam")),
        ("received", set[Folder](), {"$seen", "$blocked"}, ("blocked", "received")),
        ("sent", {Folder.SENT}, {"$seen", "$delivered", "q3"}, ("delivered", "q3", "sent")),
        ("sent", {Folder.DRAFTS}, {"$seen", "$draft"}, ("draft", "sent")),
    ],
)
def test_what_a_stored_mail_is_labelled(
    direction: labels.Direction, folders: set[Folder], keywords: set[str], expected: tuple[str, ...]
) -> None:
    assert labels.labels_of(direction=direction, folders=folders, keywords=keywords) == expected


def test_a_label_without_room_is_among_the_others_until_a_keyword_holds_it() -> None:
    """Kept for ever it would stay when somebody takes the keyword away in a mail client."""
    kept, keywords = ["größe", "q3"], {"$seen", "q3"}
    shown = labels.labels_of(direction="sent", folders={Folder.SENT}, keywords=keywords, kept=kept)
    assert shown == ("größe", "q3", "sent")
    assert labels.still_kept(kept, keywords) == ["größe"]
    assert labels.still_kept(kept, {labels.encode("größe"), "q3"}) == []


@pytest.mark.parametrize("label", sorted(labels.SERVER_LABELS))
def test_what_happened_to_a_mail_is_not_for_callers_to_say(label: str) -> None:
    for add, remove in ((label.upper(), None), (None, [label])):
        with pytest.raises(Invalid) as caught:
            labels.change(add, remove)
        assert caught.value.detail == "SYSTEM_LABEL"
        assert label in caught.value.message


def test_reading_a_message_sets_seen() -> None:
    change = labels.change(None, "unread")
    wanted = Relabel(DOCUMENT, add=frozenset({"$seen"}))
    assert labels.relabel(DOCUMENT, change, ("received", "unread")) == wanted
    assert labels.after(change, ("received", "unread")) == ("received",)


def test_unread_can_be_put_back() -> None:
    wanted = Relabel(DOCUMENT, remove=frozenset({"$seen"}))
    assert labels.relabel(DOCUMENT, labels.change("unread", None), ("received",)) == wanted


@pytest.mark.parametrize(
    ("current", "folder"),
    [
        (("received", "trash"), Folder.INBOX),
        (("sent", "trash"), Folder.SENT),
        (("received",), None),
    ],
)
def test_a_message_comes_back_from_trash_to_where_it_belongs(
    current: tuple[str, ...], folder: Folder | None
) -> None:
    found = labels.relabel(DOCUMENT, labels.change(None, "trash"), current)
    assert (found.move_to if found else None) == folder


@pytest.mark.parametrize("current", [("received",), ("received", "trash")])
def test_trashing_moves_wherever_the_mail_is_thought_to_be(current: tuple[str, ...]) -> None:
    """Who takes it out of Trash at the same moment must not leave half of each change."""
    wanted = Relabel(DOCUMENT, move_to=Folder.TRASH)
    assert labels.relabel(DOCUMENT, labels.change("trash", None), current) == wanted


def test_spam_thrown_away_is_spam_no_more() -> None:
    """A mail lies in Junk or in Trash: the answer would name a label no later list shows."""
    change = labels.change("trash", None)
    assert labels.after(change, ("received", "spam")) == ("received", "trash")


@given(st.lists(LABEL, max_size=4), st.lists(LABEL, max_size=4), st.lists(LABEL, max_size=4))
def test_removing_wins_over_adding(add: list[str], remove: list[str], current: list[str]) -> None:
    change = labels.change(add, remove)
    assert not change.add & change.remove
    assert set(labels.after(change, current)) == (set(current) | set(add)) - set(remove)
    assert change.empty == (not add and not remove)


def test_sending_drops_system_labels_and_keeps_the_rest() -> None:
    """Callers copy the labels of the mail they answer."""
    assert labels.for_send(["sent", "Important", "unread", "q3"]) == ("important", "q3")
    assert labels.for_send("q3") == ("q3",)
    assert labels.for_send(None) == ()


@pytest.mark.parametrize(
    ("given_labels", "detail"),
    [
        ([""], "INVALID_LABEL"),
        (["a\nb"], "HEADER_INJECTION"),
        (["x" * 101], "LABEL_TOO_LONG"),
        (["é" * 30], "LABEL_TOO_LONG"),
        ([str(number) for number in range(101)], "TOO_MANY_LABELS"),
    ],
)
def test_bad_labels_are_refused(given_labels: list[str], detail: str) -> None:
    with pytest.raises(Invalid) as caught:
        labels.for_send(given_labels)
    assert caught.value.detail == detail
