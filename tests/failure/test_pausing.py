"""An inbox is paused here and at the mail server, or at neither, whatever dies in between."""

from __future__ import annotations

import asyncio

import httpx
import pytest
import pytest_asyncio

from agentmail_cp import inboxes
from agentmail_cp.mailserver import MailServerUnavailable
from agentmail_cp.sandbox import Faults
from tests.failure.world import World
from tests.fix_app import Json

TELLING = frozenset({"pause_receiving"})


async def ask(world: World, inbox: Json, **fields: object) -> httpx.Response:
    return await world.client.patch(f"/v0/inboxes/{inbox['inbox_id']}", json=fields)


async def status(world: World, inbox: Json) -> str:
    shown = (await world.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    return shown.get("status", "active")


def held_back(world: World, inbox: Json) -> bool:
    """Whether the mail server defers mail for the inbox."""
    reply = world.sandbox.refusal(inbox["email"])
    assert reply is None or reply.startswith("4")
    return reply is not None


async def settle(world: World) -> None:
    """Time passes, and the worker looks."""
    await world.rows(
        "update inbox set pausing_until = now() - interval '1 s' where pausing_until is not null"
        " returning 1"
    )
    await inboxes.settle_pauses(world.db, world.server)


async def open_ones(world: World) -> int:
    return len(await world.rows("select from inbox where pausing_until is not null"))


@pytest_asyncio.fixture
async def inbox(world: World) -> Json:
    return await world.inbox("alice")


@pytest.mark.parametrize("step", ["before", "after"])
@pytest.mark.parametrize("wanted", ["paused", "active"])
async def test_a_crash_while_the_mail_server_is_told(
    world: World, inbox: Json, step: str, wanted: str
) -> None:
    """An inbox would look paused and take mail, or look active and take none, for ever."""
    if wanted == "active":
        assert (await ask(world, inbox, status="paused")).status_code == 200
    hooks = world.sandbox.before if step == "before" else world.sandbox.after
    await world.crash(hooks, "pause_receiving", ask(world, inbox, status=wanted))
    assert await open_ones(world) == 1
    await settle(world)
    assert await status(world, inbox) == wanted
    assert held_back(world, inbox) is (wanted == "paused")
    assert await open_ones(world) == 0


async def test_with_the_mail_server_away_nothing_changes(world: World, inbox: Json) -> None:
    """All of a request or nothing of it: the name must not change where the status could not."""
    world.sandbox.faults = Faults(down=True, methods=TELLING)
    answer = await ask(world, inbox, status="paused", display_name="Asleep", send_paused=True)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert answer.headers["Retry-After"]
    world.sandbox.faults = Faults()
    shown = (await world.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert {**shown, "updated_at": ""} == {
        **{name: value for name, value in inbox.items() if name != "credentials"},
        "updated_at": "",
    }
    assert not held_back(world, inbox)
    assert await open_ones(world) == 0
    assert (await world.post(inbox)).status_code == 200


async def test_of_a_patch_that_broke_off_all_is_there_or_nothing(world: World, inbox: Json) -> None:
    """An inbox would be paused without the note that says by whom, and nobody would let it go on."""
    asking = ask(world, inbox, status="paused", metadata={"paused by": "carol"})
    await world.crash(world.sandbox.before, "pause_receiving", asking)
    shown = (await world.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert (shown["status"], shown["metadata"]) == ("paused", {"paused by": "carol"})


async def test_what_was_let_through_is_not_refused_for_what_comes_meanwhile(
    world: World, inbox: Json
) -> None:
    """Told 400 for metadata another request added while the mail server was told, and paused all the same."""
    second: list[httpx.Response] = []

    async def meanwhile() -> None:
        world.sandbox.before.clear()
        second.append(await ask(world, inbox, metadata={f"key {n}": n for n in range(256)}))

    world.sandbox.before["pause_receiving"] = meanwhile
    first = await ask(world, inbox, status="paused", metadata={"one": 1})
    assert (first.status_code, [each.status_code for each in second]) == (200, [400])
    shown = (await world.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert (shown["status"], shown["metadata"]) == ("paused", {"one": 1})


async def test_what_another_request_changed_meanwhile_is_not_undone(
    world: World, inbox: Json
) -> None:
    """A request that was answered 200 would be undone by one that was answered 503."""

    async def meanwhile() -> None:
        world.sandbox.before.clear()
        answer = await ask(world, inbox, display_name="Countess", send_paused=True)
        assert answer.status_code == 200, answer.text
        raise MailServerUnavailable("away")

    world.sandbox.before["pause_receiving"] = meanwhile
    answer = await ask(world, inbox, status="paused", display_name="Ada", metadata={"one": 1})
    assert answer.status_code == 503
    shown = (await world.client.get(f"/v0/inboxes/{inbox['inbox_id']}")).json()
    assert (shown["display_name"], shown["send_paused"]) == ("Countess", True)
    assert not {"metadata", "status"} & shown.keys()


async def test_without_an_answer_it_stands_and_is_settled(world: World, inbox: Json) -> None:
    world.sandbox.faults = Faults(lost_answer=True, methods=TELLING)
    assert (await ask(world, inbox, status="paused")).status_code == 200
    world.sandbox.faults = Faults()
    assert await status(world, inbox) == "paused"
    assert (await world.post(inbox)).status_code == 403
    assert await open_ones(world) == 1
    await settle(world)
    assert held_back(world, inbox)
    assert await open_ones(world) == 0


async def test_two_requests_do_not_overtake_each_other(world: World, inbox: Json) -> None:
    """The mail server could be told the first one's wish last."""
    hanging, going_on = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        hanging.set()
        await going_on.wait()

    world.sandbox.before["pause_receiving"] = hang
    first = asyncio.create_task(ask(world, inbox, status="paused"))
    await hanging.wait()
    second = await ask(world, inbox, status="active")
    assert second.status_code == 409
    assert int(second.headers["Retry-After"]) >= 1
    world.sandbox.before.clear()
    going_on.set()
    assert (await first).status_code == 200
    assert (await ask(world, inbox, status="active")).status_code == 200
    assert not held_back(world, inbox)


async def test_settling_waits_for_the_mail_server(world: World, inbox: Json) -> None:
    world.sandbox.faults = Faults(lost_answer=True, methods=TELLING)
    await ask(world, inbox, status="paused")
    world.sandbox.faults = Faults(down=True)
    with pytest.raises(MailServerUnavailable):
        await settle(world)
    world.sandbox.faults = Faults()
    await settle(world)
    assert held_back(world, inbox)


async def test_an_inbox_made_paused_is_there_though_the_mail_server_was_not_told(
    world: World,
) -> None:
    """It has its address and its password by then."""
    world.sandbox.faults = Faults(down=True, methods=TELLING)
    made = await world.inbox("early", status="paused")
    world.sandbox.faults = Faults()
    assert made["credentials"]["password"]
    assert not held_back(world, made)
    await settle(world)
    assert held_back(world, made)


async def test_a_paused_inbox_can_be_deleted(world: World, inbox: Json) -> None:
    await ask(world, inbox, status="paused")
    answer = await world.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert answer.status_code == 204
    assert (await ask(world, inbox, status="active")).status_code == 404
    await settle(world)
    reply = world.sandbox.refusal(inbox["email"])
    assert reply is not None
    assert reply.startswith("5")
