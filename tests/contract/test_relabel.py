"""Keywords and folders of stored mail while everybody changes them at once."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from agentmail_cp.mailserver import Account, DocumentId, Folder, Refusal, Relabel
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, refused

AT_ONCE = 50
FULL = frozenset(f"k{number}" for number in range(99))
"""As many keywords as an account can show, besides the ones every mail server knows."""


async def a_full_account(world: World, account: Account) -> tuple[DocumentId, DocumentId]:
    """Two mails: one with every keyword there is room for, one with the last of them."""
    first, second = [
        await world.server.append(account.account_id, a_raw_mail(), folder=Folder.INBOX)
        for _ in range(2)
    ]
    changes = [Relabel(first, add=FULL), Relabel(second, add=frozenset({"k98"}))]
    assert await world.server.relabel(account.account_id, changes) == {}
    return first, second


@covers("relabel", "fetch")
async def test_many_changes_at_once_all_take_effect(world: World) -> None:
    """Stalwart refuses a change that met another; none may get lost or fail for that."""
    account = await world.account()
    mine = [frozenset({f"new{number}"}) for number in range(AT_ONCE)]
    theirs = [frozenset({f"old{number}"}) for number in range(AT_ONCE - 1)]
    document_id = await world.server.append(
        account.account_id,
        a_raw_mail(),
        folder=Folder.INBOX,
        keywords=frozenset({"stays"}.union(*theirs[: AT_ONCE - 2])),
    )
    changes = [
        Relabel(document_id, add=added, remove=removed)
        for added, removed in zip(mine, [*theirs, frozenset[str]()], strict=True)
    ]
    await asyncio.gather(*(world.server.relabel(account.account_id, [each]) for each in changes))
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == {"stays"}.union(*mine)
    assert mail.folders == {Folder.INBOX}


@covers("relabel", "fetch")
async def test_opposite_changes_at_once_end_as_some_order_would(world: World) -> None:
    account = await world.account()
    ids = [
        await world.server.append(account.account_id, a_raw_mail(), folder=Folder.INBOX)
        for _ in range(3)
    ]
    flip = frozenset({"flip"})
    sides = (Relabel(ids[0], add=flip), Relabel(ids[0], remove=flip))
    moves = [Relabel(each, move_to=Folder.TRASH) for each in ids]
    changes = [[sides[number % 2]] for number in range(20)] + [moves]
    await asyncio.gather(*(world.server.relabel(account.account_id, each) for each in changes))
    mails = await world.server.fetch(account.account_id, ids)
    assert mails[0].keywords in (flip, frozenset())
    assert [mail.folders for mail in mails] == [{Folder.TRASH}] * 3


@covers("relabel", "fetch")
async def test_a_keyword_that_nobody_would_see_is_left_out_and_named(world: World) -> None:
    """Stalwart stores it in silence; the label would be there one moment and gone the next."""
    account = await world.account()
    first, second = await a_full_account(world, account)
    more = frozenset({"more"})
    changes = [
        Relabel(first, add=frozenset({"More", "k98"}), remove=frozenset({"k0"})),
        Relabel(second, add=more),
    ]
    assert await world.server.relabel(account.account_id, changes) == {first: more, second: more}
    (mail, other) = await world.server.fetch(account.account_id, [first, second])
    assert (mail.keywords, other.keywords) == (FULL - {"k0"}, frozenset({"k98"}))


@covers("relabel", "fetch")
async def test_a_full_account_still_takes_the_keywords_it_has_and_the_usual_ones(
    world: World,
) -> None:
    account = await world.account()
    _, second = await a_full_account(world, account)
    usual = frozenset({"$flagged", "$seen", "$important", "k7"})
    left_out = await world.server.relabel(account.account_id, [Relabel(second, add=usual)])
    assert left_out == {}
    (mail,) = await world.server.fetch(account.account_id, [second])
    assert mail.keywords == usual | {"k98"}


@covers("relabel", Refusal.NO_MAIL)
async def test_a_change_without_room_to_a_mail_beside_one_that_is_gone_sets_nothing(
    world: World,
) -> None:
    account = await world.account()
    first, _ = await a_full_account(world, account)
    more = frozenset({"more"})
    with refused(Refusal.NO_MAIL):
        await world.server.relabel(
            account.account_id,
            [Relabel(DocumentId(99_999), add=more), Relabel(first, add=more)],
        )
    (mail,) = await world.server.fetch(account.account_id, [first])
    assert mail.keywords == FULL


@covers("relabel", "changes", "listing")
async def test_a_mail_marked_as_deleted_stays_until_it_is_erased(world: World) -> None:
    """A mail client edits a draft that way: it marks the old version and may expunge it days later."""
    account = await world.account()
    document_id = await world.server.append(
        account.account_id, a_raw_mail(), folder=Folder.DRAFTS, keywords=frozenset({"$draft"})
    )
    change = Relabel(document_id, add=frozenset({"$deleted"}))
    await world.server.relabel(account.account_id, [change])
    (mail,) = (await world.changed(account)).present
    assert (mail.folders, mail.keywords) == ({Folder.DRAFTS}, {"$draft", "$deleted"})
    assert (await world.server.listing(account.account_id)).document_ids == (document_id,)


@covers("relabel", Refusal.NO_MAIL)
async def test_a_mail_that_is_gone_does_not_hold_up_the_others(world: World) -> None:
    account = await world.account()
    document_id = await world.server.append(account.account_id, a_raw_mail(), folder=Folder.INBOX)
    blue = frozenset({"blue"})
    with refused(Refusal.NO_MAIL):
        await world.server.relabel(
            account.account_id,
            [Relabel(DocumentId(99_999), add=blue), Relabel(document_id, add=blue)],
        )
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == blue


@covers("relabel", Refusal.NO_MAIL)
@pytest.mark.parametrize(
    "change",
    [
        Relabel(DocumentId(1), add=frozenset({"blue"})),
        Relabel(DocumentId(1), remove=frozenset({"blue"})),
        Relabel(DocumentId(1), move_to=Folder.TRASH),
    ],
    ids=["add", "remove", "move"],
)
async def test_a_change_to_an_erased_mail_fails_cleanly(world: World, change: Relabel) -> None:
    account = await world.account()
    document_id = await world.server.append(
        account.account_id, a_raw_mail(), folder=Folder.INBOX, keywords=frozenset({"blue"})
    )
    await world.server.destroy_mail(account.account_id, [document_id])
    with refused(Refusal.NO_MAIL):
        await world.server.relabel(
            account.account_id, [msgspec.structs.replace(change, document_id=document_id)]
        )
