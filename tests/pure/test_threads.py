"""Which messages make a conversation: exactly those a chain of shared ids connects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from agentmail_cp.threads import Links, link, named_after

INBOX = UUID(int=7)
START = datetime(2026, 1, 1, tzinfo=UTC)

IDS = st.lists(st.sampled_from("abcdefgh"), max_size=4, unique=True).map(tuple)
MESSAGES = st.lists(st.tuples(IDS, st.integers(0, 3)), max_size=12).map(
    lambda several: [
        Links(number, ids, START + timedelta(hours=hour))
        for number, (ids, hour) in enumerate(several)
    ]
)


class Index:
    """What the database keeps between two batches: ids, beginnings, messages, aliases."""

    def __init__(self) -> None:
        self.references: dict[str, UUID] = {}
        self.started: dict[UUID, datetime] = {}
        self.threads: dict[int, UUID] = {}
        self.aliases: dict[UUID, UUID] = {}

    def add(self, batch: Sequence[Links]) -> None:
        """One batch, told only what `assign` would read for it."""
        mentioned = {each for message in batch for each in message.ids}
        references = {each: at for each, at in self.references.items() if each in mentioned}
        started = {at: self.started[at] for at in references.values()}
        outcome = link(INBOX, batch, references, started)
        for old, new in outcome.joined.items():
            for known in (self.references, self.threads, self.aliases):
                move(known, old, new)
            self.aliases[old] = new
            self.started.pop(old, None)
        self.references |= outcome.references
        self.threads |= outcome.threads
        for message in batch:
            at = self.threads[message.document_id]
            self.started[at] = min(self.started.get(at, message.at), message.at)


def move(known: dict[str, UUID] | dict[int, UUID] | dict[UUID, UUID], old: UUID, new: UUID) -> None:
    moved = {key: new if at == old else at for key, at in known.items()}
    known.update(moved)  # pyright: ignore[reportArgumentType, reportCallIssue]


def groups(threads: Mapping[int, UUID]) -> set[frozenset[int]]:
    """The partition, whatever its parts are called."""
    return {
        frozenset(number for number, at in threads.items() if at == each)
        for each in set(threads.values())
    }


def connected(messages: Sequence[Links]) -> set[frozenset[int]]:
    """The same by definition: merge sets of messages until none share an id."""
    parts = [({message.document_id}, set(message.ids)) for message in messages]
    merged = True
    while merged:
        merged = False
        for one in parts:
            other = next((each for each in parts if each is not one and each[1] & one[1]), None)
            if other is not None:
                parts.remove(other)
                one[0].update(other[0])
                one[1].update(other[1])
                merged = True
                break
    return {frozenset(numbers) for numbers, _ in parts}


def batches(messages: Sequence[Links], data: st.DataObject) -> list[Sequence[Links]]:
    order = data.draw(st.permutations(messages))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(order)), max_size=4)))
    bounds = [0, *cuts, len(order)]
    return [order[start:stop] for start, stop in pairwise(bounds)]


@given(MESSAGES, st.data())
def test_threads_are_what_shared_ids_connect_in_any_order_and_any_batches(
    messages: list[Links], data: st.DataObject
) -> None:
    index = Index()
    for batch in batches(messages, data):
        index.add(batch)
    assert groups(index.threads) == connected(messages)


@given(MESSAGES, st.data())
def test_a_thread_id_once_given_out_leads_to_its_messages_for_ever(
    messages: list[Links], data: st.DataObject
) -> None:
    index = Index()
    given_out: dict[int, set[UUID]] = {message.document_id: set() for message in messages}
    for batch in batches(messages, data):
        index.add(batch)
        for number, at in index.threads.items():
            given_out[number].add(at)
    for number, ids in given_out.items():
        assert {index.aliases.get(each, each) for each in ids} == {index.threads[number]}
    assert not index.aliases.keys() & set(index.threads.values())


@given(MESSAGES)
def test_reading_an_inbox_again_names_its_threads_the_same(messages: list[Links]) -> None:
    """In one batch or one by one: a resync must not change ids that callers hold."""
    one_by_one, at_once = Index(), Index()
    for message in messages:
        one_by_one.add([message])
    at_once.add(messages)
    assert one_by_one.threads == at_once.threads
    assert one_by_one.references == at_once.references


@given(st.integers(0, 5), st.integers(0, 5))
def test_the_older_thread_survives_a_late_parent(first: int, second: int) -> None:
    index = Index()
    index.add([Links(1, ("a",), START + timedelta(hours=first))])
    index.add([Links(2, ("b",), START + timedelta(hours=second))])
    index.add([Links(3, ("a", "b"), START + timedelta(hours=9))])
    a, b = named_after(INBOX, "a"), named_after(INBOX, "b")
    oldest = min((first, a), (second, b))[1]
    assert set(index.threads.values()) == {oldest}
    assert index.aliases == {({a, b} - {oldest}).pop(): oldest}


def test_messages_without_ids_stay_alone() -> None:
    """Nothing connects two mails that name nothing, least of all an equal subject."""
    outcome = link(INBOX, [Links(1, (), START), Links(2, (), START)], {}, {})
    assert outcome.threads[1] != outcome.threads[2]


def test_a_thread_is_named_after_its_oldest_ancestor_even_if_that_never_arrived() -> None:
    outcome = link(INBOX, [Links(1, ("root", "reply"), START)], {}, {})
    assert outcome.threads == {1: named_after(INBOX, "root")}
