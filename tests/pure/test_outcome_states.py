"""Where a message stands at a recipient: the same end whatever order the news come in, each told once."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.outcomes import states
from agentmail_cp.outcomes.states import Bounce, News, Outcome, Step, labels_after, steps
from agentmail_cp.recipients import Standing, Status

ADA, BOB, CY = "ada@elsewhere.test", "bob@far.test", "cy@far.test"
EVERYBODY = (ADA, BOB, CY)

news = st.builds(
    News,
    message_id=st.just("<m@x>"),
    address=st.sampled_from([*EVERYBODY, "ADA@elsewhere.test", "eve@elsewhere.test"]),
    outcome=st.sampled_from(get_args(Outcome)),
    code=st.sampled_from([None, "5.1.1", "4.4.7", "250"]),
)


def queued(*addresses: str, status: Status = "queued") -> list[Standing]:
    return [Standing(message_id="<m@x>", address=each, status=status) for each in addresses]


def said(outcome: Outcome, address: str | None = ADA, *, by_mail: bool = False) -> News:
    return News(message_id="<m@x>", address=address, outcome=outcome, by_mail=by_mail)


def in_batches(batches: list[list[News]]) -> tuple[list[Step], list[Standing]]:
    """Every step, and where everybody stands at the end."""
    standing = {each.address: each for each in queued(*EVERYBODY)}
    taken: list[Step] = []
    for batch in batches:
        now = steps(standing.values(), batch)
        standing |= {step.now.address: step.now for step in now}
        taken += now
    return taken, list(standing.values())


@given(st.lists(st.lists(news, max_size=4), max_size=6))
def test_nothing_is_told_twice(batches: list[list[News]]) -> None:
    """Each step is one piece of news to customers; Stalwart repeats and reorders its reports."""
    taken, _ = in_batches([*batches, *batches])
    told = Counter((step.now.address, step.now.status) for step in taken)
    assert set(told.values()) <= {1}


@given(st.lists(news, max_size=10), st.randoms(use_true_random=False))
def test_the_end_does_not_depend_on_the_order(every: list[News], rng: Random) -> None:
    """A recipient would stand elsewhere depending on which worker was faster."""
    shuffled = list(every)
    rng.shuffle(shuffled)
    _, one = in_batches([every])
    _, other = in_batches([[each] for each in shuffled])
    assert {each.address: each.status for each in one} == {
        each.address: each.status for each in other
    }


@given(st.lists(st.lists(news, max_size=4), max_size=6))
def test_nobody_moves_back(batches: list[list[News]]) -> None:
    """A message that bounced would look delivered again."""
    taken, _ = in_batches(batches)
    for step in taken:
        assert states.ORDER.index(step.now.status) > states.ORDER.index(step.before)


@given(st.lists(news, max_size=10))
def test_one_who_was_refused_stays_refused(every: list[News]) -> None:
    """Nothing left for them, whatever a stranger's mail says."""
    assert steps(queued(*EVERYBODY, status="rejected"), every) == []


@pytest.mark.parametrize(
    ("said_of", "expected"),
    [
        (["delivered"], ["delivered"]),
        (["delayed", "delivered"], ["delayed", "delivered"]),
        (["delivered", "delayed"], ["delivered"]),
        (["delivered", "failed"], ["delivered", "bounced"]),
        (["failed", "delivered"], ["bounced"]),
        (["unknown", "delivered"], ["unknown", "delivered"]),
        (["unknown", "failed"], ["unknown", "bounced"]),
        (["unknown", "delayed"], ["unknown"]),
        (["delivered", "complained", "failed"], ["delivered", "complained"]),
        (["complained", "complained"], ["complained"]),
    ],
)
def test_what_follows_what(said_of: list[Outcome], expected: list[Status]) -> None:
    """A delivery after a delay, a bounce after a delivery: what customers are told, in order."""
    taken, _ = in_batches([[said(each)] for each in said_of])
    assert [step.now.status for step in taken] == expected


@pytest.mark.parametrize(
    ("recipients", "address", "expected"),
    [
        ((ADA, BOB), "Ada@Elsewhere.test", ADA),
        (("bob+tag@far.test", ADA), "bob@far.test", "bob+tag@far.test"),
        ((BOB, ADA), "bob+bounces@far.test", BOB),
        (("bob+1@far.test", "bob+2@far.test"), "bob@far.test", None),
        ((ADA,), "forwarded@gmail.test", ADA),
        ((ADA,), None, ADA),
        ((ADA, BOB), "eve@far.test", None),
        ((ADA, BOB), None, None),
        ((), ADA, None),
    ],
)
def test_whom_an_address_stands_for(
    recipients: tuple[str, ...], address: str | None, expected: str | None
) -> None:
    """A server that passes mail on reports whom it passed it to; another recipient must not bounce for it."""
    assert states.whom(recipients, address) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("5.1.1", Bounce("Permanent", "NoEmail")),
        ("5.1.2", Bounce("Permanent", "NoEmail")),
        ("550 5.1.10 null MX", Bounce("Permanent", "NoEmail")),
        ("5.2.2", Bounce("Transient", "MailboxFull")),
        ("4.2.2", Bounce("Transient", "MailboxFull")),
        ("4.1.1", Bounce("Transient", "General")),
        ("5.3.4", Bounce("Permanent", "MessageTooLarge")),
        ("5.7.1", Bounce("Permanent", "General")),
        ("4.4.7", Bounce("Transient", "General")),
        ("550", Bounce("Permanent", "General")),
        ("451", Bounce("Transient", "General")),
        ("", Bounce("Permanent", "General")),
        (None, Bounce("Permanent", "General")),
        ("15.1.1", Bounce("Permanent", "General")),
        ("10.5.1.1", Bounce("Permanent", "General")),
    ],
)
def test_what_kind_of_bounce_a_code_means(code: str | None, expected: Bounce) -> None:
    """Agents give an address up for good after a permanent one."""
    assert states.bounce(code) == expected


@pytest.mark.parametrize("code", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1"])
def test_an_address_that_is_none_is_dead(code: str) -> None:
    assert states.is_dead(code)


@pytest.mark.parametrize(
    "code", ["5.7.1", "5.2.2", "4.1.1", "5.0.0", "5.4.4", "5.5.0", "550", "5.1.8", "5.1.7", None]
)
def test_a_refusal_for_other_reasons_leaves_the_address_alone(code: str | None) -> None:
    """A blocked sender or a broken DNS would bar a customer's own customers for good."""
    assert not states.is_dead(code)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("550 5.1.1 <ada@x.test>: no such user", "5.1.1"),
        ("550 no such user", "550"),
        ("421-4.7.0 slow down", "4.7.0"),
        ("connection refused by 10.5.1.1", None),
        (None, None),
    ],
)
def test_the_code_in_what_a_server_said(text: str | None, code: str | None) -> None:
    assert states.enhanced(text) == code


def test_a_stranger_is_believed_about_itself_only() -> None:
    """Whoever got a mail together with others could bar them from ever hearing from the customer again."""
    by_mail = said("failed", by_mail=True)
    assert states.is_believed(said("failed"), 3, quoted=True)
    assert states.is_believed(by_mail, 1, quoted=False)
    assert not states.is_believed(by_mail, 2, quoted=False)
    assert not states.is_believed(by_mail, 1, quoted=True)


def test_labels_say_what_happened_to_anybody() -> None:
    every = queued(ADA, BOB)
    taken = steps(every, [said("delivered", ADA), said("delayed", BOB)])
    assert labels_after(every, taken) == ({"delivered", "delayed"}, set())
    later = [step.now for step in taken]
    assert labels_after(later, steps(later, [said("failed", BOB)])) == ({"bounced"}, {"delayed"})
    lost = steps(every, [said("unknown", ADA)])
    assert labels_after(every, lost) == (set(), {"delayed"})
