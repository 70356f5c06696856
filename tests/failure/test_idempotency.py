"""A request with an Idempotency-Key dies at every step of making an inbox or a draft: repeated, it comes to
one, and the answer is the one that the first attempt would have given.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
from collections.abc import AsyncGenerator

import httpx
import pytest

from agentmail_cp import drafts, inboxes
from agentmail_cp.drafts import settlement
from agentmail_cp.mailserver import AccountId, Folder, Refusal
from agentmail_cp.sandbox import Faults
from agentmail_cp.sandbox.faults import Hook
from tests.failure.world import NotReached, World, new_sandbox, quiet
from tests.fix_app import OUTSIDER, Json
from tests.fix_proxy import Proxy

INBOXES = "/v0/inboxes"
STEPS = pytest.mark.parametrize("step", ["before", "after"])
WAYS = pytest.mark.parametrize(
    "wanted",
    [{}, {"username": "alice"}, {"client_id": "c"}],
    ids=["random", "named", "with a client_id"],
)


@pytest.fixture(autouse=True)
def hasty_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Second looks without the pause, which only a frozen server needs."""
    monkeypatch.setattr(settlement, "SECOND_LOOK", 0.001)


async def ask(
    world: World, path: str = INBOXES, *, key: str = "k", **wanted: object
) -> httpx.Response:
    return await world.client.post(path, json=wanted, headers={"Idempotency-Key": key})


async def let_leases_end(world: World) -> None:
    await world.let_leases_end()
    for query in (
        "update draft set lease_until = now() - interval '1 s' where lease_until is not null",
        "update idempotency_key set lease_until = now() - interval '1 s' where completed_at is null",
    ):
        await world.rows(f"{query} returning 1")


async def settle(world: World) -> None:
    """Let the leases of everything unfinished end, then settle it."""
    await let_leases_end(world)
    await inboxes.settle(world.db, world.server)
    await drafts.settle(world.db, world.server)


def hooks(world: World, step: str) -> dict[str, Hook]:
    return world.sandbox.before if step == "before" else world.sandbox.after


async def reserved(world: World) -> list[str]:
    return [row["address"] for row in await world.rows("select address from inbox")]


def password_of(world: World, account_id: AccountId) -> str:
    hashed = world.sandbox.mailbox(account_id).password_hash
    assert hashed is not None
    return hashed


async def assert_one_inbox(world: World, answer: httpx.Response) -> None:
    """One address, one account with the password that was told, and the same answer again."""
    assert answer.status_code == 201, answer.text
    made = answer.json()
    await settle(world)
    assert set(world.sandbox.addresses) == set(await reserved(world)) == {made["email"]}
    hashed = password_of(world, await world.account(made))
    raw = base64.b64decode(hashed.removeprefix("{SSHA512}"))
    password = made["credentials"]["password"].encode()
    assert hashlib.sha512(password + raw[64:]).digest() == raw[:64]


async def assert_repeatable(answer: httpx.Response, again: httpx.Response) -> None:
    assert again.status_code == answer.status_code
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == answer.json()


# --- inboxes


@WAYS
@STEPS
async def test_an_inbox_is_finished_by_the_repetition(
    world: World, step: str, wanted: dict[str, str]
) -> None:
    """A client whose first try died would get another address, and the first stay in its way."""
    await world.crash(hooks(world, step), "create_account", ask(world, **wanted))
    (address,) = await reserved(world)
    await let_leases_end(world)
    answer = await ask(world, **wanted)
    assert answer.json()["email"] == address
    assert "Idempotent-Replayed" not in answer.headers
    await assert_one_inbox(world, answer)
    await assert_repeatable(answer, await ask(world, **wanted))


@WAYS
@STEPS
async def test_an_inbox_that_was_taken_back_is_made_again_alike(
    world: World, step: str, wanted: dict[str, str]
) -> None:
    """Whether the job was there before the client would decide about the address."""
    await world.crash(hooks(world, step), "create_account", ask(world, **wanted))
    (address,) = await reserved(world)
    await settle(world)
    assert await reserved(world) == []
    answer = await ask(world, **wanted)
    assert answer.json()["email"] == address
    await assert_one_inbox(world, answer)


@WAYS
async def test_before_the_lease_is_over_the_repetition_is_told_to_wait(
    world: World, wanted: dict[str, str]
) -> None:
    """It would make a second inbox beside the one that is on its way."""
    await world.crash(world.sandbox.after, "create_account", ask(world, **wanted))
    answer = await ask(world, **wanted)
    assert answer.status_code == 409
    assert 1 <= int(answer.headers["Retry-After"]) <= 10
    assert len(await reserved(world)) == 1


@pytest.mark.parametrize("wanted", [{}, {"username": "alice"}], ids=["random", "named"])
async def test_a_lost_answer_costs_no_second_account(world: World, wanted: dict[str, str]) -> None:
    """A slow mail server would be filled with mailboxes that nobody knows."""
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"create_account"}))
    assert (await ask(world, **wanted)).status_code == 503
    world.sandbox.faults = Faults()
    waiting = await ask(world, **wanted)
    assert waiting.status_code == 409
    assert waiting.headers["Retry-After"]
    assert len(world.sandbox.addresses) == 1
    await let_leases_end(world)
    await assert_one_inbox(world, await ask(world, **wanted))


@WAYS
async def test_with_the_mail_server_away_the_key_can_be_used_at_once(
    world: World, wanted: dict[str, str]
) -> None:
    """The client would wait for a lease although nothing was begun."""
    world.sandbox.faults = Faults(down=True)
    assert (await ask(world, **wanted)).status_code == 503
    world.sandbox.faults = Faults()
    await assert_one_inbox(world, await ask(world, **wanted))


async def test_after_a_refusal_the_key_is_for_any_request(world: World) -> None:
    """A client that mends its request would be told of a conflict with the refused one."""
    assert (await ask(world, key="other", username="alice")).status_code == 201
    assert (await ask(world, username="alice")).status_code == 403
    assert (await ask(world, username="bob")).status_code == 201


@WAYS
async def test_postgresql_away_before_the_record(
    proxied: World, pg_proxy: Proxy, wanted: dict[str, str]
) -> None:
    """The account would stay without an inbox, and the client with another address."""

    async def cut() -> None:
        pg_proxy.refuse()

    proxied.sandbox.after["create_account"] = cut
    assert (await ask(proxied, **wanted)).status_code == 503
    proxied.sandbox.after.clear()
    await pg_proxy.heal()
    await let_leases_end(proxied)
    await assert_one_inbox(proxied, await ask(proxied, **wanted))


async def test_an_attempt_that_hangs_gives_way(world: World) -> None:
    """Two requests would each be told another outcome for one key."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go.wait()

    world.sandbox.after["create_account"] = wait
    slow = asyncio.create_task(ask(world))
    await begun.wait()
    world.sandbox.after.clear()
    await let_leases_end(world)
    answer = await ask(world)
    go.set()
    assert (await slow).status_code == 409
    await assert_one_inbox(world, answer)


@pytest.fixture
async def shared(database_url: str, hasty: None) -> AsyncGenerator[World]:
    """A world whose domain several organisations share: every address has a random end."""
    async with quiet(database_url, new_sandbox(), domain_shared=True) as here:
        yield here


@STEPS
async def test_the_random_end_of_a_shared_domains_address_stays(shared: World, step: str) -> None:
    """The half-made address would not be recognised as its own."""
    await shared.crash(hooks(shared, step), "create_account", ask(shared, username="support"))
    (address,) = await reserved(shared)
    await let_leases_end(shared)
    answer = await ask(shared, username="support")
    assert answer.json()["email"] == address
    await assert_one_inbox(shared, answer)


async def test_nobody_else_can_take_what_is_half_made(world: World) -> None:
    """Another request of the organisation would get the first one's address by the same key's name."""
    await world.crash(world.sandbox.after, "create_account", ask(world))
    await let_leases_end(world)
    other = await ask(world, key="other")
    assert other.status_code == 201
    assert [other.json()["email"]] != await reserved(world)
    assert len(await reserved(world)) == 2


# --- drafts


async def drafts_of(world: World, inbox: Json) -> list[str]:
    await world.rows("update inbox_sync set due_at = now() returning 1")
    await world.read()
    answer = await world.client.get(f"{INBOXES}/{inbox['inbox_id']}/drafts")
    return [each["draft_id"] for each in answer.json()["drafts"]]


async def assert_one_draft(world: World, inbox: Json, answer: httpx.Response) -> None:
    assert answer.status_code == 201, answer.text
    await settle(world)
    assert await drafts_of(world, inbox) == [answer.json()["draft_id"]]
    assert len(await world.stored(inbox, Folder.DRAFTS)) == 1


DRAFTS = pytest.mark.parametrize("wanted", [{}, {"client_id": "c"}], ids=["", "with a client_id"])


@DRAFTS
@STEPS
@pytest.mark.parametrize("settled", [False, True], ids=["client first", "job first"])
async def test_a_draft_is_made_once(
    world: World, step: str, wanted: dict[str, str], *, settled: bool
) -> None:
    """A person would find two of it, and may send both."""
    inbox = await world.inbox("author")
    path = f"{INBOXES}/{inbox['inbox_id']}/drafts"
    body = {"to": OUTSIDER, "text": "Hi", **wanted}
    await world.crash(hooks(world, step), "store_draft", ask(world, path, **body))
    waiting = await ask(world, path, **body)
    assert (waiting.status_code, "Retry-After" in waiting.headers) == (409, True)
    await (settle if settled else let_leases_end)(world)
    answer = await ask(world, path, **body)
    await assert_one_draft(world, inbox, answer)
    await assert_repeatable(answer, await ask(world, path, **body))


@DRAFTS
async def test_a_draft_whose_answer_was_lost_is_made_once(
    world: World, wanted: dict[str, str]
) -> None:
    """As above, with a mail server that is slow instead of a service that dies."""
    inbox = await world.inbox("author")
    path = f"{INBOXES}/{inbox['inbox_id']}/drafts"
    world.sandbox.faults = Faults(lost_answer=True, methods=frozenset({"store_draft"}))
    assert (await ask(world, path, **wanted)).status_code == 503
    world.sandbox.faults = Faults()
    await assert_one_draft(world, inbox, await ask(world, path, **wanted))


BODY = {"to": OUTSIDER, "subject": "S"}


async def stored_late(world: World, inbox: Json) -> str:
    """A mail server that was frozen carries out, after all is settled, what a dead attempt asked it for:
    the draft's id.
    """
    path = f"{INBOXES}/{inbox['inbox_id']}/drafts"
    await world.crash(world.sandbox.before, "store_draft", ask(world, path, **BODY))
    (row,) = await world.rows("select draft_id from draft")
    await settle(world)
    assert await drafts_of(world, inbox) == []
    head = f"Message-ID: <{row['draft_id'].hex}.1@agents.test>\r\nTo: {OUTSIDER}\r\nSubject: S\r\n"
    await world.sandbox.append(
        await world.account(inbox),
        f"{head}\r\n".encode(),
        folder=Folder.DRAFTS,
        keywords=frozenset({"$draft"}),
    )
    draft_id = str(row["draft_id"])
    assert await drafts_of(world, inbox) == [draft_id]
    return draft_id


async def test_a_copy_that_shows_up_late_is_the_draft(world: World) -> None:
    """The repetition would find its draft's name taken, for ever."""
    inbox = await world.inbox("author")
    draft_id = await stored_late(world, inbox)
    answer = await ask(world, f"{INBOXES}/{inbox['inbox_id']}/drafts", **BODY)
    assert answer.json()["draft_id"] == draft_id
    await assert_one_draft(world, inbox, answer)


async def test_a_draft_the_mail_server_refuses_leaves_the_key_free(world: World) -> None:
    """The client would have to guess that it needs a new key for a smaller draft."""
    inbox = await world.inbox("author")
    path = f"{INBOXES}/{inbox['inbox_id']}/drafts"
    world.sandbox.faults = Faults(reject=Refusal.TOO_LARGE)
    assert (await ask(world, path, text="long")).status_code == 400
    world.sandbox.faults = Faults()
    await assert_one_draft(world, inbox, await ask(world, path, text="short"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_dies_when_there_is_one_of_each(world: World, seed: int) -> None:
    """Clients that repeat until they are told would fill the mail server."""
    choose = random.Random(seed)
    inbox = await world.inbox("author")
    path = f"{INBOXES}/{inbox['inbox_id']}/drafts"
    told: dict[str, str] = {}
    for number in range(25):
        key = f"k{number}"
        made, where = choose.choice([("create_account", INBOXES), ("store_draft", path)])
        while key not in told:
            if choose.random() < 0.6:
                step = choose.choice(["before", "after"])
                method = choose.choice([made, made, "set_password", "destroy_mail", "find_account"])
                with contextlib.suppress(NotReached):
                    await world.crash(hooks(world, step), method, ask(world, where, key=key))
            await (settle if choose.random() < 0.3 else let_leases_end)(world)
            answer = await ask(world, where, key=key)
            if answer.status_code == 201:
                told[key] = answer.text
    await settle(world)
    made_inboxes = [json for json in told.values() if '"email_address"' in json]
    assert len(world.sandbox.addresses) == len(await reserved(world)) == len(made_inboxes) + 1
    assert len(await drafts_of(world, inbox)) == 25 - len(made_inboxes)
    assert len(await world.stored(inbox, Folder.DRAFTS)) == 25 - len(made_inboxes)
