"""Which messages a list shows: hidden labels as bits, and masks as what may be seen."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp import filing, labels
from agentmail_cp.mailserver import DocumentId
from agentmail_cp.threads import pattern

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


@given(st.text(max_size=20))
def test_a_pattern_is_the_text_with_its_wildcards_escaped(text: str) -> None:
    plain = pattern(text)[1:-1]
    unescaped = plain.replace("\\\\", "\0").replace("\\%", "%").replace("\\_", "_")
    assert unescaped.replace("\0", "\\") == text.replace("\0", "\\")
