"""How mail is filed: what hides it, as bits and masks, what its id may be, and what counts as an answer."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import filing, labels
from agentmail_cp.mailserver import DocumentId, Folder
from agentmail_cp.threads import pattern
from tests.db.mailbox import a_mail

HIDING = sorted(filing.HIDING)
SUBSETS = list(chain.from_iterable(combinations(HIDING, size) for size in range(5)))


def test_every_hiding_label_has_a_bit_of_its_own() -> None:
    assert filing.HIDING.keys() <= labels.SYSTEM_LABELS
    assert sorted(filing.HIDING.values()) == [1, 2, 4, 8]
    assert sorted(filing.mask_of(each) for each in SUBSETS) == list(range(16))


@pytest.mark.parametrize("included", SUBSETS)
def test_a_message_shows_when_all_that_hides_it_is_included(included: tuple[str, ...]) -> None:
    """All 256 pairs of what hides a message and what a caller asked to see."""
    visible = filing.visible_masks(included)
    for hidden_by in SUBSETS:
        shown = filing.mask_of([*hidden_by, "unread", "work"]) in visible
        assert shown == (set(hidden_by) <= set(included))


@given(st.integers(0, 2**32), st.sampled_from(["agents.test", "a.b.example"]))
def test_a_synthetic_id_is_recognised_so_that_no_mail_can_claim_it(
    number: int, domain: str
) -> None:
    own = filing.synthetic_id(DocumentId(number), domain)
    assert filing.SYNTHETIC.fullmatch(own)
    assert filing.SYNTHETIC.fullmatch(filing.id_of(f"{number}?@{domain}"))


@given(st.text(max_size=20))
def test_a_pattern_is_the_text_with_its_wildcards_escaped(text: str) -> None:
    plain = pattern(text)[1:-1]
    unescaped = plain.replace("\\\\", "\0").replace("\\%", "%").replace("\\_", "_")
    assert unescaped.replace("\0", "\\") == text.replace("\0", "\\")


def test_only_what_others_sent_arrived_and_an_answer_is_told_by_its_parent() -> None:
    """Own copies are nobody's to judge, and only In-Reply-To makes an answer."""
    sent = a_mail(1, folders=frozenset({Folder.SENT}), message_id="own@agents.test")
    found = filing.arrivals(
        [
            sent,
            a_mail(2, in_reply_to=("x@y", "own@agents.test")),
            a_mail(3, in_reply_to=("known@agents.test",)),
            a_mail(4, references=("own@agents.test",), sender=None),
            a_mail(5, keywords=frozenset({"$sent"}), folders=frozenset({Folder.TRASH})),
            a_mail(6, message_id=None, in_reply_to=("",)),
            a_mail(7, in_reply_to=("order#7@agents.test",)),
            a_mail(8, in_reply_to=("order#8@agents.test",)),
        ],
        {"<known@agents.test>", filing.id_of("order#7@agents.test"), "<order#8@agents.test>"},
    )
    ada = "ada@elsewhere.test"
    assert [(each.document_id, each.sender, each.answers) for each in found] == [
        (2, ada, True),
        (3, ada, True),
        (4, None, False),
        (6, ada, False),
        (7, ada, True),
        (8, ada, True),
    ]
