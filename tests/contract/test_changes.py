"""Changes, listings, labels and removal: what intake relies on to lose and double nothing."""

from __future__ import annotations

import asyncio

import pytest

from agentmail_cp.mailserver import (
    AccountId,
    Changes,
    Cursor,
    DocumentId,
    Folder,
    MailServerRejected,
    MailState,
    Refusal,
    Relabel,
)
from tests.contract.witness import covers
from tests.contract.world import World, a_raw_mail, an_email, refused

MISSING = DocumentId(1_000_000)


async def stored(world: World, account_id: AccountId, *lines: str) -> DocumentId:
    return await world.server.append(account_id, a_raw_mail(*lines), folder=Folder.INBOX)


@covers("changes")
async def test_nothing_happened_means_nothing_and_the_same_state(world: World) -> None:
    account = await world.account()
    await stored(world, account.account_id)
    state = (await world.changed(account)).state
    page = await world.page(account, state)
    assert (page.present, page.destroyed, page.more) == ((), (), False)
    assert page.state == state


@covers("changes", "listing", "relabel", "destroy_mail", "append")
async def test_changes_tell_what_was_added_changed_and_destroyed(world: World) -> None:
    account = await world.account()
    kept, changed, gone = [await stored(world, account.account_id) for _ in range(3)]
    state = (await world.changed(account)).state
    await world.server.relabel(account.account_id, [Relabel(changed, add=frozenset({"$seen"}))])
    await world.server.destroy_mail(account.account_id, [gone])
    added = await stored(world, account.account_id)
    since = await world.changed(account, state)
    assert [mail.document_id for mail in since.present] == [changed, added]
    assert since.destroyed == (gone,)
    listing = await world.server.listing(account.account_id)
    assert listing.document_ids == (kept, changed, added)
    assert (await world.changed(account, listing.state)).present == ()


@covers("append", "destroy_mail")
async def test_document_ids_only_grow(world: World) -> None:
    """A reused id would show an old mail's labels on a new one."""
    account = await world.account()
    first = await stored(world, account.account_id)
    await world.server.destroy_mail(account.account_id, [first])
    second = await stored(world, account.account_id)
    assert second > first


@covers("changes", "listing", "fetch")
async def test_many_changes_come_in_pages_that_miss_and_repeat_nothing(world: World) -> None:
    account = await world.account()
    ids = [await stored(world, account.account_id) for _ in range(450)]
    seen: list[DocumentId] = []
    state, more, pages = account.state, True, 0
    while more:
        page = await world.page(account, state, limit=200)
        assert len(page.present) <= 200
        assert page.present == tuple(sorted(page.present, key=lambda mail: mail.document_id))
        seen += [mail.document_id for mail in page.present]
        state, more, pages = page.state, page.more, pages + 1
    assert sorted(seen) == ids
    assert pages >= 3
    assert (await world.server.listing(account.account_id)).document_ids == tuple(ids)
    fetched = await world.server.fetch(account.account_id, ids)
    assert [mail.document_id for mail in fetched] == ids


@covers("changes", Refusal.STATE_LOST)
@pytest.mark.parametrize("state", [None, MailState("garbage"), MailState("")])
async def test_a_cursor_without_a_known_state_is_lost(
    world: World, state: MailState | None
) -> None:
    account = await world.account()
    with refused(Refusal.STATE_LOST):
        await world.page(account, state)


@covers("changes", Refusal.NO_ACCOUNT)
async def test_one_account_in_trouble_leaves_the_others_alone(world: World) -> None:
    accounts = [await world.account() for _ in range(3)]
    documents = [await stored(world, each.account_id) for each in accounts]
    lost, gone = await world.account(), await world.account()
    await world.server.destroy_account(gone.account_id)
    cursors = [
        Cursor(accounts[0].account_id, accounts[0].state),
        Cursor(gone.account_id, gone.state),
        Cursor(accounts[1].account_id, accounts[1].state),
        Cursor(lost.account_id, None),
        Cursor(accounts[2].account_id, accounts[2].state),
    ]
    answer = await world.server.changes(cursors)
    assert set(answer) == {cursor.account_id for cursor in cursors}
    for account, document_id in zip(accounts, documents, strict=True):
        result = answer[account.account_id]
        assert isinstance(result, Changes)
        assert [mail.document_id for mail in result.present] == [document_id]
    refusals = [answer[each.account_id] for each in (gone, lost)]
    assert all(isinstance(each, MailServerRejected) for each in refusals)
    codes = [each.code for each in refusals if isinstance(each, MailServerRejected)]
    assert codes == [Refusal.NO_ACCOUNT, Refusal.STATE_LOST]


@covers("changes")
async def test_more_accounts_than_fit_one_request_are_answered_all_the_same(
    world: World,
) -> None:
    accounts = await asyncio.gather(*(world.account() for _ in range(60)))
    await stored(world, accounts[-1].account_id)
    cursors = [Cursor(each.account_id, each.state) for each in accounts]
    answer = await world.server.changes(cursors)
    assert len(answer) == 60
    last = answer[accounts[-1].account_id]
    assert isinstance(last, Changes)
    assert len(last.present) == 1


@covers("changes", "fetch", "listing")
async def test_a_reply_that_joins_two_threads_destroys_nothing(world: World) -> None:
    """Stalwart gives merged mails new ids and reports the old ones as destroyed."""
    account = await world.account()
    first = await stored(world, account.account_id, "Message-ID: <one@remote.test>")
    second = await stored(world, account.account_id, "Message-ID: <two@remote.test>")
    state = (await world.changed(account)).state
    late = await stored(
        world,
        account.account_id,
        "Message-ID: <three@remote.test>",
        "References: <one@remote.test> <two@remote.test>",
    )
    for _ in range(10):
        for limit in (200, 1):
            since = await world.changed(account, state, limit)
            assert since.destroyed == ()
            assert late in [mail.document_id for mail in since.present]
        await asyncio.sleep(0.05)
    ids = (first, second, late)
    assert (await world.server.listing(account.account_id)).document_ids == ids
    fetched = await world.server.fetch(account.account_id, ids)
    assert tuple(mail.document_id for mail in fetched) == ids
    assert set(await world.server.read(account.account_id, ids)) == set(ids)


@covers("relabel", "fetch")
async def test_keywords_are_added_and_removed_whatever_an_atom_may_hold(world: World) -> None:
    account = await world.account()
    document_id = await stored(world, account.account_id)
    odd = frozenset({"$customer:42", "a=20b", "x/y~z", "ümlaut".encode().hex(), "dot.ted", "+1"})
    relabel = world.server.relabel
    await relabel(account.account_id, [Relabel(document_id, add=odd | {"$Seen", "Old"})])
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == odd | {"$seen", "old"}
    await relabel(
        account.account_id,
        [Relabel(document_id, add=frozenset({"new"}), remove=frozenset({"OLD", "a=20b", "never"}))],
    )
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == (odd - {"a=20b"}) | {"$seen", "new"}
    assert mail.folders == {Folder.INBOX}


@covers("relabel")
@pytest.mark.parametrize("keyword", ["Project-X", "$Customer:42", "$Flagged"])
async def test_a_label_that_a_mail_client_spelled_in_capitals_can_be_taken_away(
    world: World, keyword: str
) -> None:
    account = await world.account()
    document_id = await stored(world, account.account_id)
    await world.backstage.flag(account, document_id, keyword)
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == {keyword.lower()}
    change = Relabel(document_id, remove=frozenset({keyword.lower()}))
    await world.server.relabel(account.account_id, [change])
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.keywords == frozenset()


@covers("relabel", "changes")
async def test_a_mail_moves_between_folders_and_keeps_its_id_and_keywords(world: World) -> None:
    account = await world.account()
    document_id = await stored(world, account.account_id)
    state = account.state
    for folder in (Folder.TRASH, Folder.JUNK, Folder.DRAFTS, Folder.SENT, Folder.INBOX):
        change = Relabel(document_id, add=frozenset({folder.value}), move_to=folder)
        await world.server.relabel(account.account_id, [change])
        changes = await world.changed(account, state)
        (mail,) = changes.present
        assert mail.document_id == document_id
        assert mail.folders == {folder}
        assert folder.value in mail.keywords
        assert changes.destroyed == ()
        state = changes.state


@covers("relabel")
async def test_moving_a_mail_where_it_is_is_no_error(world: World) -> None:
    account = await world.account()
    document_id = await stored(world, account.account_id)
    await world.server.relabel(account.account_id, [])
    await world.server.relabel(
        account.account_id, [Relabel(document_id, move_to=Folder.INBOX), Relabel(document_id)]
    )
    (mail,) = await world.server.fetch(account.account_id, [document_id])
    assert mail.folders == {Folder.INBOX}


@covers("relabel", Refusal.NO_MAIL)
async def test_a_missing_mail_does_not_keep_others_from_being_relabelled(world: World) -> None:
    account = await world.account()
    first, second = [await stored(world, account.account_id) for _ in range(2)]
    seen = frozenset({"$seen"})
    with refused(Refusal.NO_MAIL):
        await world.server.relabel(
            account.account_id,
            [Relabel(first, add=seen), Relabel(MISSING, add=seen), Relabel(second, add=seen)],
        )
    mails = await world.server.fetch(account.account_id, [first, second])
    assert [mail.keywords for mail in mails] == [seen, seen]


@covers("destroy_mail", "fetch", "read", "listing")
async def test_a_destroyed_mail_is_gone_and_destroying_it_again_is_fine(world: World) -> None:
    account = await world.account()
    first, second = [await stored(world, account.account_id) for _ in range(2)]
    for _ in range(2):
        await world.server.destroy_mail(account.account_id, [first, MISSING])
    await world.server.destroy_mail(account.account_id, [])
    assert await world.server.fetch(account.account_id, [first]) == ()
    assert await world.server.read(account.account_id, [first]) == {}
    assert (await world.server.listing(account.account_id)).document_ids == (second,)


@covers("listing")
async def test_a_new_account_lists_nothing_and_its_listing_starts_a_cursor(world: World) -> None:
    account = await world.account()
    listing = await world.server.listing(account.account_id)
    assert listing.document_ids == ()
    document_id = await stored(world, account.account_id)
    changed = await world.changed(account, listing.state)
    assert [mail.document_id for mail in changed.present] == [document_id]


@covers("ring")
async def test_ringing_changes_nothing(world: World) -> None:
    account = await world.account()
    await world.server.ring()
    assert (await world.changed(account)).present == ()


@covers("submit", "changes")
async def test_a_mail_between_our_own_accounts_is_one_change_each(world: World) -> None:
    alice, bob = await world.account(), await world.account()
    await world.server.submit(alice.account_id, an_email(alice, bob.address))
    await world.arrived(bob)
    for account in (alice, bob):
        changed = await world.changed(account)
        assert len(changed.present) == 1
        assert changed.destroyed == ()
