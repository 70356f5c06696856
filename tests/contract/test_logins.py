"""Own passwords of many accounts, and app passwords."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from agentmail_cp.access import LATEST_END
from agentmail_cp.mailserver import WIDEST_NETWORK, Access, NewAppPassword, Refusal
from tests.contract.witness import covers
from tests.contract.world import World, refused

HASH = "{SSHA512}" + "A" * 96


def new(access: Access = Access.BOTH, app_password_id: UUID | None = None) -> NewAppPassword:
    return NewAppPassword(
        app_password_id=app_password_id or uuid4(), name="Ada's phone", access=access
    )


@covers("set_passwords")
async def test_passwords_of_many_are_set_at_once_and_those_that_are_gone_named(
    world: World,
) -> None:
    first, second, gone = [(await world.account()).account_id for _ in range(3)]
    await world.server.destroy_account(gone)
    passwords = {first: HASH, second: None, gone: HASH}
    assert await world.server.set_passwords(passwords) == {gone}
    assert await world.server.set_passwords({first: None, second: HASH}) == frozenset()
    assert await world.server.set_passwords({}) == frozenset()


@covers("create_app_password", "app_passwords", "destroy_app_passwords")
async def test_app_passwords_are_listed_as_they_were_made_until_they_are_destroyed(
    world: World,
) -> None:
    account = (await world.account()).account_id
    ends = (datetime.now(UTC) + timedelta(days=2)).replace(microsecond=0)
    wanted = [new(access) for access in Access]
    wanted.append(
        NewAppPassword(
            app_password_id=uuid4(),
            name="Büro: 7. Stock",
            access=Access.READ,
            expires_at=ends,
            allowed_ips=("192.0.2.0/24", "2001:db8::1"),
        )
    )
    secrets = [await world.server.create_app_password(account, each) for each in wanted]
    assert len(set(secrets)) == len(wanted)
    found = {each.app_password_id: each for each in await world.server.app_passwords(account)}
    for each in wanted:
        shown = found[each.app_password_id]
        assert (shown.name, shown.access, shown.expires_at) == (
            *(each.name, each.access),
            each.expires_at,
        )
        assert set(shown.allowed_ips) == set(each.allowed_ips)
        assert abs(shown.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    ids = [each.app_password_id for each in wanted]
    await world.server.destroy_app_passwords(account, [*ids[1:], uuid4()])
    await world.server.destroy_app_passwords(account, ids[1:])
    (left,) = await world.server.app_passwords(account)
    assert left.app_password_id == ids[0]


@covers("create_app_password", "app_passwords")
async def test_the_latest_end_and_the_widest_networks_are_taken(world: World) -> None:
    """What is let through by our own check and refused here is told in the mail server's own words."""
    account = (await world.account()).account_id
    widest = (
        f"128.0.0.0/{WIDEST_NETWORK}",
        f"2000::/{WIDEST_NETWORK}",
        "0.0.0.1",
        "::1",
        "fe80::1",
    )
    wanted = NewAppPassword(
        app_password_id=uuid4(),
        name="for good",
        access=Access.BOTH,
        expires_at=LATEST_END,
        allowed_ips=widest,
    )
    await world.server.create_app_password(account, wanted)
    (shown,) = await world.server.app_passwords(account)
    assert (shown.expires_at, set(shown.allowed_ips)) == (LATEST_END, set(widest))


@covers("create_app_password", "set_password", "app_passwords")
async def test_an_accounts_own_password_and_its_app_passwords_leave_each_other_alone(
    world: World,
) -> None:
    account = (await world.account()).account_id
    first, second = new(), new()
    await world.server.create_app_password(account, first)
    await world.server.set_password(account, HASH)
    await world.server.create_app_password(account, second)
    await world.server.set_password(account, None)
    await world.server.destroy_app_passwords(account, [first.app_password_id])
    await world.server.set_password(account, HASH)
    (left,) = await world.server.app_passwords(account)
    assert left.app_password_id == second.app_password_id


@covers("create_app_password", "destroy_app_passwords")
async def test_one_that_was_made_twice_goes_as_one(world: World) -> None:
    """A request repeated after a lost answer makes a second one under the same id."""
    account = (await world.account()).account_id
    wanted = new()
    for _ in range(2):
        await world.server.create_app_password(account, wanted)
    found = await world.server.app_passwords(account)
    assert [each.app_password_id for each in found] == [wanted.app_password_id] * 2
    await world.server.destroy_app_passwords(account, [wanted.app_password_id])
    assert await world.server.app_passwords(account) == ()


@covers("create_app_password", Refusal.OVER_QUOTA)
async def test_an_account_has_only_so_many_app_passwords(world: World) -> None:
    account = await world.account()
    async with world.backstage.few_app_passwords(account, 1) as server:
        await server.create_app_password(account.account_id, new())
        with refused(Refusal.OVER_QUOTA):
            await server.create_app_password(account.account_id, new())


@covers("retire_account", "app_passwords")
async def test_a_retired_account_has_no_app_passwords(world: World) -> None:
    account = (await world.account()).account_id
    await world.server.create_app_password(account, new())
    await world.server.retire_account(account)
    assert await world.server.app_passwords(account) == ()


@covers("create_app_password", "app_passwords", "destroy_app_passwords", Refusal.NO_ACCOUNT)
async def test_an_account_that_is_gone_has_no_app_passwords(world: World) -> None:
    account = (await world.account()).account_id
    await world.server.destroy_account(account)
    with refused(Refusal.NO_ACCOUNT):
        await world.server.create_app_password(account, new())
    assert await world.server.app_passwords(account) == ()
    await world.server.destroy_app_passwords(account, [uuid4()])
