"""An inbox and its account are made and retired together, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
import random

import httpx
import pytest

from agentmail_cp.inboxes import creation
from agentmail_cp.mailserver import (
    Account,
    AccountId,
    MailServerRejected,
    MailServerUnavailable,
    NewAccount,
    Refusal,
)
from agentmail_cp.sandbox import Faults
from tests.failure.world import NotReached, World
from tests.fix_proxy import Proxy

ALICE = "alice@agents.test"
WAYS = pytest.mark.parametrize(
    "wanted", [{"username": "alice"}, {"username": "alice", "client_id": "c"}, {"client_id": "c"}]
)


async def ask(world: World, **wanted: object) -> httpx.Response:
    return await world.client.post("/v0/inboxes", json=wanted)


async def addresses(world: World, state: str | None = None) -> set[str]:
    rows = await world.rows(
        "select address from inbox where state = coalesce(%(state)s, state)", state=state
    )
    return {row["address"] for row in rows}


def accounts(world: World) -> set[str]:
    """Addresses of the mail server's accounts, asked past every fault."""
    return set(world.sandbox.addresses)


async def assert_consistent(world: World) -> None:
    """No account without an inbox, no inbox without its account."""
    assert accounts(world) == await addresses(world, "active")
    assert await addresses(world) == await addresses(world, "active")


@WAYS
@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_crash_while_the_account_is_made_leaves_nothing(
    world: World, step: str, wanted: dict[str, str]
) -> None:
    """An address would be lost for ever, or an account would take mail nobody can read."""
    hooks = world.sandbox.before if step == "before" else world.sandbox.after
    await world.crash(hooks, "create_account", ask(world, **wanted))
    assert len(await addresses(world, "creating")) == 1
    await world.settle()
    assert await addresses(world) == accounts(world) == set()
    assert (await ask(world, **wanted)).status_code == 201
    await assert_consistent(world)


@WAYS
@pytest.mark.parametrize("step", ["before", "after"])
async def test_the_caller_may_repeat_before_anything_was_settled(
    world: World, step: str, wanted: dict[str, str]
) -> None:
    """Whoever repeats a request would be told that its own address is taken."""
    hooks = world.sandbox.before if step == "before" else world.sandbox.after
    await world.crash(hooks, "create_account", ask(world, **wanted))
    await world.let_leases_end()
    answer = await ask(world, **wanted)
    assert answer.status_code == 201, answer.text
    assert answer.json()["credentials"]["password"]
    await world.settle()
    await assert_consistent(world)
    await world.deliver_to(answer.json()["email"])
    await world.rows("update inbox_sync set due_at = now() returning 1")
    await world.read()
    assert len(await world.messages(answer.json())) == 1


async def test_an_unfinished_address_is_not_called_taken(world: World) -> None:
    """A client that repeats at once would give up its name instead of waiting for it."""
    await world.crash(world.sandbox.after, "create_account", ask(world, username="alice"))
    answer = await ask(world, username="alice")
    assert answer.status_code == 409, answer.text
    assert 1 <= int(answer.headers["Retry-After"]) <= 10


async def test_a_lost_answer_leaves_nothing_and_can_be_repeated(world: World) -> None:
    """A slow mail server would cost the caller its address."""
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"create_account"}))
    first = await ask(world, username="alice")
    assert first.status_code == 503
    assert first.headers["Retry-After"]
    world.sandbox.faults = Faults()
    await world.let_leases_end()
    assert (await ask(world, username="alice")).status_code == 201
    await assert_consistent(world)


async def test_with_the_mail_server_away_no_row_is_left(world: World) -> None:
    """The repetition would have to wait for a lease although nothing was begun."""
    world.sandbox.faults = Faults(down=True)
    answer = await ask(world, username="alice", client_id="c")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert await addresses(world) == set()
    world.sandbox.faults = Faults()
    assert (await ask(world, username="alice", client_id="c")).status_code == 201


async def test_postgresql_away_before_activation(proxied: World, pg_proxy: Proxy) -> None:
    """The account would stay without an inbox."""

    async def cut() -> None:
        pg_proxy.refuse()

    proxied.sandbox.after["create_account"] = cut
    assert (await ask(proxied, username="alice")).status_code == 503
    proxied.sandbox.after.clear()
    await pg_proxy.heal()
    assert accounts(proxied) == {ALICE}
    await proxied.settle()
    assert await addresses(proxied) == accounts(proxied) == set()
    assert (await ask(proxied, username="alice")).status_code == 201


async def test_an_account_made_late_by_a_frozen_mail_server_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row would be gone and the account would stay for ever."""
    monkeypatch.setattr(creation, "SECOND_LOOK", 0.3)
    create = world.sandbox.create_account
    late: list[asyncio.Task[Account]] = []

    async def carry_out(new: NewAccount) -> Account:
        await asyncio.sleep(0.1)
        return await create(new)

    async def freeze(new: NewAccount) -> Account:
        late.append(asyncio.create_task(carry_out(new)))
        raise MailServerUnavailable("No answer.", reached=True)

    with monkeypatch.context() as frozen:
        frozen.setattr(world.sandbox, "create_account", freeze)
        assert (await ask(world, username="alice")).status_code == 503
    await world.settle()
    await late[0]
    assert await addresses(world) == accounts(world) == set()


async def test_a_request_that_outlived_its_lease_leaves_its_account_to_settle(
    world: World,
) -> None:
    """A request that hung while its row was taken back would make an account nobody knows."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await go.wait()

    world.sandbox.before["create_account"] = hang
    slow = asyncio.create_task(ask(world, username="alice"))
    await begun.wait()
    await world.settle()
    assert await addresses(world) == set()
    go.set()
    assert (await slow).status_code == 409
    assert accounts(world) == {ALICE}
    await world.settle()
    assert await addresses(world) == accounts(world) == set()


async def test_a_request_that_lost_its_row_does_not_delete_its_successors(world: World) -> None:
    """The address would be freed under the request that is just making it."""
    begun, fail = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        world.sandbox.before.clear()
        await fail.wait()
        raise MailServerUnavailable("Away.")

    world.sandbox.before["create_account"] = hang
    slow = asyncio.create_task(ask(world, username="alice"))
    await begun.wait()
    await world.let_leases_end()
    second = await ask(world, username="alice")
    fail.set()
    assert (await slow).status_code == 503
    assert second.status_code == 201
    await assert_consistent(world)


async def test_a_successor_has_the_only_password(world: World) -> None:
    """Two callers would hold an inbox, and one of them a password that never worked."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await go.wait()

    world.sandbox.after["create_account"] = hang
    slow = asyncio.create_task(ask(world, username="alice"))
    await begun.wait()
    world.sandbox.after.clear()
    await world.let_leases_end()
    second = await ask(world, username="alice")
    go.set()
    assert second.status_code == 201
    assert (await slow).status_code == 409
    await world.settle()
    await assert_consistent(world)


async def test_a_foreign_account_is_never_touched(world: World) -> None:
    """Somebody else's mailbox on the same server would be destroyed or handed out."""
    await world.crash(world.sandbox.before, "create_account", ask(world, username="alice"))
    world.sandbox.add_stranger(ALICE)
    await world.let_leases_end()
    assert (await ask(world, username="alice")).json()["code"] == "resource_taken"
    assert accounts(world) == {ALICE}

    await world.crash(world.sandbox.before, "create_account", ask(world, username="alice"))
    await world.settle()
    assert accounts(world) == {ALICE}
    assert await addresses(world) == set()


async def test_an_account_that_holds_mail_is_neither_destroyed_nor_handed_over(
    world: World,
) -> None:
    """After a restored backup, mail would be erased or shown to whoever asks for the address."""
    made = await world.server.create_account(NewAccount(ALICE))
    await world.deliver_to(ALICE)
    for finish in ("repeat", "settle"):
        await world.crash(world.sandbox.before, "create_account", ask(world, username="alice"))
        await world.let_leases_end()
        if finish == "repeat":
            assert (await ask(world, username="alice")).json()["code"] == "resource_taken"
        await world.settle()
        assert await addresses(world) == set()
        assert len(world.sandbox.mailbox(made.account_id).listing().document_ids) == 1


async def test_two_half_made_inboxes_are_no_dead_end(world: World) -> None:
    """A request that names the address of one and the client_id of another would end in a 500."""
    await world.crash(world.sandbox.before, "create_account", ask(world, username="alice"))
    await world.crash(world.sandbox.before, "create_account", ask(world, client_id="c"))
    await world.let_leases_end()
    answer = await ask(world, username="alice", client_id="c")
    assert answer.status_code in (201, 409), answer.text
    await world.settle()
    assert (await ask(world, username="alice", client_id="c")).status_code in (200, 201)
    await assert_consistent(world)


# --- delete


@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_crash_while_an_inbox_is_deleted_finishes_it(world: World, step: str) -> None:
    """An inbox promised to be gone would go on taking mail."""
    inbox = await world.inbox("alice")
    hooks = world.sandbox.before if step == "before" else world.sandbox.after
    path = f"/v0/inboxes/{inbox['inbox_id']}"
    await world.crash(hooks, "retire_account", world.client.delete(path))
    assert (await world.client.get(path)).status_code == 404
    await world.settle()
    assert await addresses(world, "deleted") == {ALICE}
    assert world.sandbox.refusal(ALICE) is not None
    assert (await ask(world, username="alice")).json()["code"] == "resource_taken"


async def test_with_the_mail_server_away_an_inbox_is_not_deleted(world: World) -> None:
    """A caller told 503 would find its inbox gone."""
    inbox = await world.inbox("alice")
    world.sandbox.faults = Faults(down=True)
    path = f"/v0/inboxes/{inbox['inbox_id']}"
    assert (await world.client.delete(path)).status_code == 503
    assert (await world.client.get(path)).status_code == 200
    world.sandbox.faults = Faults()
    assert (await world.client.delete(path)).status_code == 204


async def test_a_lost_answer_to_a_deletion_is_a_deletion(world: World) -> None:
    """An inbox would come back to life after its account was retired."""
    inbox = await world.inbox("alice")
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"retire_account"}))
    path = f"/v0/inboxes/{inbox['inbox_id']}"
    assert (await world.client.delete(path)).status_code == 204
    world.sandbox.faults = Faults()
    assert (await world.client.get(path)).status_code == 404
    await world.settle()
    assert await addresses(world, "deleted") == {ALICE}


async def test_one_inbox_the_mail_server_refuses_does_not_hold_up_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One account an operator broke would keep every half-made address from its owner."""
    inbox = await world.inbox("alice")
    path = f"/v0/inboxes/{inbox['inbox_id']}"
    await world.crash(world.sandbox.before, "retire_account", world.client.delete(path))
    await world.crash(world.sandbox.before, "create_account", ask(world, username="bob"))

    async def refuse(account_id: AccountId) -> None:
        raise MailServerRejected(Refusal.FORBIDDEN, "No.")

    monkeypatch.setattr(world.sandbox, "retire_account", refuse)
    await world.settle()
    assert await addresses(world) == {ALICE}


async def test_an_account_that_is_gone_already_can_be_deleted(world: World) -> None:
    """An inbox whose account an operator destroyed could never be got rid of."""
    inbox = await world.inbox("alice")
    await world.sandbox.destroy_account(await world.account(inbox))
    path = f"/v0/inboxes/{inbox['inbox_id']}"
    assert (await world.client.delete(path)).status_code == 204
    assert await addresses(world, "deleted") == {ALICE}


@pytest.mark.slow
async def test_sixty_crashes_at_random_leave_accounts_and_inboxes_in_step(world: World) -> None:
    """Whatever dies when: after settling, both sides know the same addresses."""
    choose = random.Random(20_261_121)
    for number in range(60):
        wanted = {"username": f"agent{number % 20}"}
        side = choose.choice([world.sandbox.before, world.sandbox.after])
        if choose.random() < 0.7:
            with contextlib.suppress(NotReached):
                await world.crash(side, "create_account", ask(world, **wanted))
        else:
            await ask(world, **wanted)
        if choose.random() < 0.3:
            await world.let_leases_end()
        if choose.random() < 0.2:
            await world.settle()
    await world.settle()
    await assert_consistent(world)
