"""Lists in PostgreSQL: judged as the model says, in one quick statement, within their limit."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import UUID, uuid4

import pytest

from agentmail_cp import lists, messages, policy, submissions
from agentmail_cp.access import Reach
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import LimitExceeded
from agentmail_cp.lists import NamedList, Verdict
from agentmail_cp.mailserver import Address, Folder, Mail
from agentmail_cp.messages import Place
from tests.db.mailbox import a_mail, an_inbox
from tests.list_model import ADDRESSES, NAMES, SCOPES, Listed, said

SEEDS = range(40)
DIRECTIONS: tuple[lists.Direction, ...] = ("send", "receive", "reply")
EVE = Address("eve@stranger.test")


def reach(place: Place) -> Reach:
    return Reach(place.organization_id, place.pod_id, place.inbox_id)


def of(place: Place, scope: str) -> Reach:
    """Whose list it is."""
    pod_id = None if scope == "organization" else place.pod_id
    return Reach(place.organization_id, pod_id, place.inbox_id if scope == "inbox" else None)


async def put(
    tx: Tx, whose: Reach, direction: lists.Direction, each: Listed | tuple[lists.ListType, str]
) -> None:
    if isinstance(each, Listed) and each.suppressed:
        await lists.suppress(tx, whose.organization_id, each.entry, origin="bounce")
        return
    kind, entry = (each.type, each.entry) if isinstance(each, Listed) else each
    named = NamedList(whose, direction, "allow" if kind == "allow" else "block")
    await lists.create(tx, named, entry, None, most=0)


def some(chance: random.Random, *, suppressing: bool) -> list[Listed]:
    """Entries at random."""
    found = [
        Listed(chance.choice(SCOPES), chance.choice(["allow", "block"]), chance.choice(NAMES))
        for _ in range(chance.randrange(7))
    ]
    if suppressing and chance.random() < 0.3:
        found.append(Listed("organization", "block", "ada@a.test", suppressed=True))
    return found


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_looked_up_is_judged_as_the_model_says(database: Database, seed: int) -> None:
    """Whatever stands in the lists of others, and in those of the other directions."""
    chance = random.Random(seed)
    place, other = await an_inbox(database), await an_inbox(database)
    entries: dict[lists.Direction, list[Listed]] = {
        direction: some(chance, suppressing=direction == "send") for direction in DIRECTIONS
    }
    async with database.transaction() as tx:
        for direction, several in entries.items():
            for each in several:
                await put(tx, of(place, each.scope), direction, each)
            for each in some(chance, suppressing=False):
                await put(tx, of(other, each.scope), direction, each)
    async with database.reading() as tx:
        for direction, several in entries.items():
            found = await lists.verdicts(tx, reach(place), direction, ADDRESSES)
            assert found == {each: said(several, each) for each in ADDRESSES}


async def test_nobody_is_refused_without_lists(database: Database) -> None:
    place = await an_inbox(database)
    async with database.reading() as tx:
        assert await lists.verdicts(tx, reach(place), "send", []) == {}
        found = await lists.verdicts(tx, reach(place), "send", ["Ada@B.test", "not an address"])
    assert found == {"Ada@B.test": Verdict.ALLOWED, "not an address": Verdict.ALLOWED}


FILL = """
insert into list_entry (organization_id, scope_id, direction, list_type, entry, entry_type)
select %(organization_id)s, %(organization_id)s, direction, list_type, 'p' || n || '@example.com', 'email'
from generate_series(1, 25000) as n, unnest(array['send', 'receive']) as direction,
    unnest(array['allow', 'block']) as list_type
"""


async def explained(tx: Tx, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The nodes of the statement's plan, with what they really read."""
    row = await (
        await tx.execute(f"explain (analyze, format json) {lists.FIND}", parameters)
    ).fetchone()
    assert row is not None
    nodes: list[dict[str, Any]] = []
    waiting = [row["QUERY PLAN"][0]["Plan"]]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        waiting += node.get("Plans", [])
    return nodes


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_long_lists_are_judged_by_their_index(database: Database, mode: str) -> None:
    """Every mail in and out asks; a hundred thousand entries must cost it nothing."""
    place = await an_inbox(database)
    async with database.transaction(patience=60) as tx, tx.transaction(force_rollback=True):
        await tx.execute(FILL, {"organization_id": place.organization_id})
        await tx.execute("analyze list_entry")
        await tx.execute("select set_config('plan_cache_mode', %s, true)", (mode,))
        nodes = await explained(
            tx,
            {
                "organization_id": place.organization_id,
                "scopes": [place.inbox_id, place.pod_id, place.organization_id],
                "directions": ["receive", "reply"],
                "entries": [f"p{n}@example.com" for n in range(50)] + ["example.com"],
                "untagged": [],
            },
        )
    scans = [node for node in nodes if node.get("Relation Name") == "list_entry"]
    assert scans
    assert {node.get("Index Name") for node in scans} == {"list_entry_pkey"}
    # 49 addresses in both lists, and one entry to tell that the allow list has any, which an average
    # over all probes may round away.
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in scans) in {98, 99}
    assert all(not node.get("Rows Removed by Filter") for node in scans)


async def test_a_page_of_a_long_list_reads_no_more_than_itself(database: Database) -> None:
    """Or the last page of a hundred thousand would take a thousand times the first."""
    place = await an_inbox(database)
    named = NamedList(Reach(place.organization_id), "send", "block")
    async with database.transaction() as tx, tx.transaction(force_rollback=True):
        await tx.execute(FILL, {"organization_id": place.organization_id})
        await tx.execute("analyze list_entry")
        page, token = await lists.list_page(tx, named, limit=100, page_token=None)
        assert (len(page), token is None) == (100, False)
        row = await (
            await tx.execute(
                "explain (format json) select entry from list_entry"
                " where organization_id = %(organization_id)s and scope_id = %(scope_id)s"
                " and direction = %(direction)s and list_type = %(list_type)s and entry > %(after)s"
                " order by entry limit 101",
                {**named.key, "after": "p2"},
            )
        ).fetchone()
    assert row is not None
    plan = row["QUERY PLAN"][0]["Plan"]
    assert plan["Node Type"] == "Limit"
    assert plan["Plans"][0]["Index Name"] == "list_entry_pkey"


async def create_alone(database: Database, whose: Reach, entry: str, most: int) -> bool:
    """Whether there was room for it."""
    try:
        async with database.transaction() as tx:
            named = NamedList(whose, "send", "block")
            _, new = await lists.create(tx, named, entry, None, most=most)
    except LimitExceeded:
        return False
    return new


async def test_many_at_once_do_not_pass_the_limit(database: Database) -> None:
    """Each of them would see the last place free."""
    place = await an_inbox(database)
    whose = Reach(place.organization_id)
    made = await asyncio.gather(*(create_alone(database, whose, f"d{n}.test", 3) for n in range(9)))
    assert sum(made) == 3


async def test_one_entry_made_by_many_at_once_is_there_once(database: Database) -> None:
    """All of them succeed; one made it."""
    place = await an_inbox(database)
    whose = Reach(place.organization_id)
    for most in (0, 100):
        made = await asyncio.gather(
            *(create_alone(database, whose, f"same{most}.test", most) for _ in range(6))
        )
        assert sum(made) == 1


@pytest.mark.parametrize(
    "address", ["", "nobody", "ada@localhost", f"{'a' * 3000}@example.com", "example.com", "a\0@b"]
)
async def test_what_no_mail_can_go_to_is_not_suppressed(database: Database, address: str) -> None:
    """A bounce may name anything; a whole domain must never be blocked by one."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        await lists.suppress(tx, place.organization_id, address, origin="bounce")
        named = NamedList(Reach(place.organization_id), "send", "block")
        assert await lists.list_page(tx, named, limit=10, page_token=None) == ([], None)


async def test_suppression_outlasts_an_allow_list(database: Database) -> None:
    """Who allows a customer's domain does not mean the mailbox there that is gone."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        await put(tx, reach(place), "send", ("allow", "example.com"))
        await lists.suppress(
            tx,
            place.organization_id,
            "Gone@Example.com",
            origin="bounce",
            reason="550 no\0mailbox\r\n",
        )
        found = await lists.verdicts(
            tx, reach(place), "send", ["gone@example.com", "here@example.com"]
        )
        named = NamedList(Reach(place.organization_id), "send", "block")
        entry = await lists.get(tx, named, "gone@example.com")
    assert [*found.values()] == [Verdict.BLOCKED, Verdict.ALLOWED]
    assert (entry.read_only, entry.origin, entry.reason) == (True, "bounce", "550 no mailbox")


def spellings_of(place: Place) -> tuple[str, str]:
    """An inbox's address, and a tag of it."""
    name = place.inbox_id.hex
    return f"{name}@agents.test", f"{name}+tag@agents.test"


@pytest.mark.parametrize(
    ("entries", "verdict"),
    [
        ([("block", 0)], Verdict.BLOCKED),
        ([("allow", 0)], Verdict.ALLOWED),
        ([("allow", 0), ("block", 1)], Verdict.BLOCKED),
        ([("block", 0), ("allow", 1)], Verdict.BLOCKED),
        ([("suppress", 0), ("allow", 1)], Verdict.BLOCKED),
    ],
)
async def test_a_tag_of_an_inbox_is_its_address_too(
    database: Database, entries: list[tuple[str, int]], verdict: Verdict
) -> None:
    """Whoever is kept from writing to an inbox would put a tag behind its name."""
    place, other = await an_inbox(database), await an_inbox(database)
    async with database.transaction() as tx:
        spellings = spellings_of(other)
        for kind, which in entries:
            if kind == "suppress":
                address = spellings[which]
                await lists.suppress(tx, place.organization_id, address, origin="complaint")
            else:
                whose = "block" if kind == "block" else "allow"
                await put(tx, reach(place), "send", (whose, spellings[which]))
        found = await lists.verdicts(tx, reach(place), "send", [spellings[1].upper()])
    assert [*found.values()] == [verdict]


async def test_an_inbox_is_not_its_tag(database: Database) -> None:
    """Allowed is what was allowed."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        own, tagged = spellings_of(place)
        await put(tx, reach(place), "send", ("allow", tagged))
        found = await lists.verdicts(tx, reach(place), "send", [own, tagged])
    assert found == {own: Verdict.NOT_ALLOWED, tagged: Verdict.ALLOWED}


async def test_elsewhere_a_tag_may_be_anybody(database: Database) -> None:
    """Only of its own inboxes a server knows that; and a sender may write anything."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        own, tagged = spellings_of(place)
        await put(tx, reach(place), "send", ("block", "ada@b.test"))
        await put(tx, reach(place), "receive", ("block", own))
        asked = ["ada@b.test", "ada+x@b.test"]
        found = await lists.verdicts(tx, reach(place), "send", asked)
        assert [*found.values()] == [Verdict.BLOCKED, Verdict.ALLOWED]
        found = await lists.verdicts(tx, reach(place), "receive", [own, tagged])
        assert [*found.values()] == [Verdict.BLOCKED, Verdict.ALLOWED]


async def test_the_lists_of_an_organization_are_never_erased_with_a_part_of_it(
    database: Database,
) -> None:
    """Deleting a pod must not open the door of the others."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        for scope in SCOPES:
            await put(tx, of(place, scope), "send", ("block", f"{scope}.test"))
        await lists.erase(tx, of(place, "inbox"))
        await lists.erase(tx, of(place, "pod"))
        await lists.erase(tx, of(place, "organization"))
        row = await (await tx.execute("select array_agg(entry) as left from list_entry")).fetchone()
    assert row is not None
    assert row["left"] == ["organization.test"]


async def labels_after(
    database: Database, place: Place, *mails: Mail, held: frozenset[str] = frozenset()
) -> dict[int, list[str]]:
    """The labels of these mails once intake has written them."""
    async with database.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        copies = await submissions.copies(tx, place, mails)
        await messages.record(
            tx, place, present=mails, held=held, copies=copies, judge=policy.received
        )
        rows = await messages.list_page(
            tx,
            organization_id=place.organization_id,
            inbox_id=place.inbox_id,
            where=messages.MessageFilter(masks=(0, 2)),
            limit=100,
            page_token=None,
        )
    return {row.document_id: row.labels for row in rows[0]}


async def guarded(database: Database) -> Place:
    """An inbox that hears from nobody but those who answer it."""
    place = await an_inbox(database)
    async with database.transaction() as tx:
        await put(tx, reach(place), "receive", ("block", "stranger.test"))
    return place


async def test_an_answer_may_be_quicker_than_the_record_of_the_send(database: Database) -> None:
    """Between agents of one server it comes while the send is still under way."""
    place = await guarded(database)
    answer = a_mail(1, sender=EVE, in_reply_to=("live@agents.test",))
    other = a_mail(2, sender=EVE, in_reply_to=("old@agents.test",))
    found = await labels_after(database, place, answer, other, held=frozenset({"live@agents.test"}))
    assert ["blocked" in found[each] for each in (1, 2)] == [False, True]


async def test_an_answer_is_known_though_both_mails_are_read_at_once(database: Database) -> None:
    """So it is after an outage, and when a mail client saves its own copy."""
    place = await guarded(database)
    sent = a_mail(5, message_id="own@agents.test", folders=frozenset({Folder.SENT}))
    answer = a_mail(4, sender=EVE, in_reply_to=("own@agents.test",))
    found = await labels_after(database, place, answer, sent)
    assert "blocked" not in found[4]
    assert found[5] == ["sent", "unread"]


async def test_an_answer_to_mail_a_client_just_handed_in_is_one(database: Database) -> None:
    """Its copy is put into Sent some seconds later, when an answer may long be there."""
    place = await guarded(database)
    async with database.transaction() as tx:
        await tx.execute(
            "insert into submission (submission_id, organization_id, inbox_id, account_id, message_id,"
            " blob_id) values (%(id)s, %(organization_id)s, %(inbox_id)s, 'a', 'smtp@agents.test', 'b')",
            {"id": uuid4(), "organization_id": place.organization_id, "inbox_id": place.inbox_id},
        )
    answer = a_mail(1, sender=EVE, in_reply_to=("smtp@agents.test",))
    assert "blocked" not in (await labels_after(database, place, answer))[1]


async def test_a_mail_that_others_sent_makes_no_answer(database: Database) -> None:
    """Also one whose Message-ID the inbox knows, and also of another inbox's sent mail."""
    place, neighbour = await guarded(database), await an_inbox(database)
    sent = a_mail(1, message_id="theirs@agents.test", folders=frozenset({Folder.SENT}))
    await labels_after(database, neighbour, sent)
    await labels_after(database, place, a_mail(1, message_id="got@elsewhere.test"))
    found = await labels_after(
        database,
        place,
        a_mail(2, sender=EVE, in_reply_to=("got@elsewhere.test",)),
        a_mail(3, sender=EVE, in_reply_to=("theirs@agents.test",)),
    )
    assert "blocked" in found[2]
    assert "blocked" in found[3]


@pytest.mark.parametrize(
    "sender",
    [
        None,
        Address("eve\0@stranger.test"),
        Address("\ud800@stranger.test"),
        Address(""),
        Address("@" * 500),
        Address("x" * 100_000 + "@stranger.test"),
        Address("EVE@Stranger.Test."),
        Address("eve@\uff33tranger.test"),
    ],
)
async def test_no_sender_stops_an_inbox(database: Database, sender: Address | None) -> None:
    """One mail that cannot be judged would hold up all that follow it."""
    place = await guarded(database)
    found = await labels_after(database, place, a_mail(1, sender=sender))
    expected = sender is not None and "@" in sender.email.strip("@")
    assert ("blocked" in found[1]) == expected


async def test_a_hostile_number_of_parents_is_no_trouble(database: Database) -> None:
    """Only so many of them are looked at."""
    place = await guarded(database)
    parents = tuple(f"{n}@elsewhere.test" for n in range(5000))
    assert (
        "blocked"
        in (await labels_after(database, place, a_mail(1, sender=EVE, in_reply_to=parents)))[1]
    )


async def test_a_mail_that_is_known_is_not_judged_again(database: Database) -> None:
    """However often it is read."""
    place = await guarded(database)
    mail = a_mail(1, sender=EVE)
    before = await labels_after(database, place, mail)
    async with database.transaction() as tx:
        await lists.delete(tx, NamedList(reach(place), "receive", "block"), "stranger.test")
    assert (
        await labels_after(database, place, mail)
        == before
        == {1: ["blocked", "received", "unread"]}
    )
    async with database.transaction() as tx:
        await put(tx, reach(place), "receive", ("block", "elsewhere.test"))
    assert await labels_after(database, place, mail) == before


def test_a_named_list_knows_whose_it_is() -> None:
    """The narrowest of what the reach names."""
    ids = UUID(int=1), UUID(int=2), UUID(int=3)
    assert [NamedList(Reach(*ids[:count]), "send", "block").scope_id for count in (1, 2, 3)] == [
        *ids
    ]
