"""Quotas of inboxes hold exactly, whatever comes at once, fails or dies in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from uuid import uuid4

import httpx
import pytest

from agentmail_cp import limits
from agentmail_cp.sandbox import Faults, MailSandbox
from tests.api.faults import fault
from tests.failure.world import World, new_sandbox, quiet
from tests.fix_app import Json, until


async def ask(world: World, path: str = "inboxes", **wanted: object) -> httpx.Response:
    return await world.client.post(f"/v0/{path}", json=wanted)


async def insist(world: World, path: str) -> httpx.Response:
    """The answer to a request that comes again when it is told to: so many at once may have to wait for a
    connection for longer than a caller would.
    """
    headers = {"Idempotency-Key": uuid4().hex}

    async def again() -> httpx.Response:
        return await world.client.post(f"/v0/{path}", json={}, headers=headers)

    return await until(again, lambda answer: "retry-after" not in answer.headers, seconds=20)


async def give(world: World, **most: int) -> None:
    """Give the world's organisation limits of its own."""
    async with world.db.transaction() as tx:
        for name, value in most.items():
            await limits.set_limit(tx, world.organization_id, name, value)


async def a_pod(world: World, inbox_limit: int | None = None, **fields: object) -> str:
    pod: str = (await ask(world, "pods", **fields)).json()["pod_id"]
    answer = await world.client.patch(f"/v0/pods/{pod}", json={"inbox_limit": inbox_limit})
    assert answer.status_code == 200, answer.text
    return pod


async def inbox_count(world: World) -> int:
    answer: Json = (await world.client.get("/v0/organizations")).json()
    return answer["inbox_count"]


def outcomes(answers: Iterable[httpx.Response]) -> Counter[int | str]:
    return Counter(
        answer.status_code if answer.is_success else answer.json()["code"] for answer in answers
    )


@pytest.fixture
def sandbox() -> MailSandbox:
    return new_sandbox()


@pytest.mark.parametrize("kind", ["organization", "pod", "own"])
async def test_fifty_requests_to_two_replicas_at_a_quota_of_ten_make_ten(
    database_url: str, sandbox: MailSandbox, kind: str
) -> None:
    """What somebody pays for would be exceeded by whoever asks fastest."""
    setting = {
        "organization": {"inboxes_per_organization": 10},
        "pod": {"inboxes_per_pod": 10},
        "own": {"inboxes_per_pod": 40},
    }[kind]
    async with quiet(database_url, sandbox, **setting) as one, quiet(database_url, sandbox) as two:
        # The same settings, and the same organisation: another replica of one service.
        two.client.headers = one.client.headers
        if kind != "own":
            await give(one, **setting)
        pod = await a_pod(one, inbox_limit=10 if kind == "own" else None)
        answers = await asyncio.gather(
            *(insist((one, two)[number % 2], f"pods/{pod}/inboxes") for number in range(50))
        )
        assert outcomes(answers) == {201: 10, "limit_exceeded": 40}
        assert await inbox_count(one) == len(sandbox.addresses) == 10
        body = fault(await ask(two, f"pods/{pod}/inboxes"), 403, "limit_exceeded")
        assert body["name"] == "LimitExceededError"
        assert "10" in body["message"]
        assert body["fix"]
        elsewhere = await ask(one)
        assert elsewhere.status_code == (403 if kind == "organization" else 201)


@pytest.mark.parametrize("places", [1, 3])
async def test_one_client_id_takes_one_place_however_often_it_is_asked_for(
    world: World, places: int
) -> None:
    """An agent that is started again at the limit would not get its inbox."""
    await give(world, inboxes_per_organization=places)
    for _ in range(places - 1):
        await ask(world)
    answers = await asyncio.gather(*(ask(world, client_id="agent") for _ in range(20)))
    assert outcomes(answers) == {201: 1, 200: 19}
    assert (await ask(world, client_id="agent")).status_code == 200
    fault(await ask(world, client_id="other"), 403, "limit_exceeded")
    assert await inbox_count(world) == places


async def test_a_deleted_inbox_gives_its_place_back(world: World) -> None:
    await give(world, inboxes_per_organization=1)
    inbox = await world.inbox()
    fault(await ask(world), 403, "limit_exceeded")
    await world.client.delete(f"/v0/inboxes/{inbox['inbox_id']}")
    assert (await ask(world)).status_code == 201


async def test_a_failed_creation_gives_its_place_back(world: World) -> None:
    """An outage of the mail server would use a quota up."""
    await give(world, inboxes_per_organization=1)
    world.sandbox.faults = Faults(down=True)
    for _ in range(3):
        fault(await ask(world), 503)
    world.sandbox.faults = Faults()
    assert (await ask(world)).status_code == 201


async def test_an_abandoned_creation_gives_its_place_back(world: World) -> None:
    """Every crash would cost an inbox for ever."""
    await give(world, inboxes_per_organization=1)
    await world.crash(world.sandbox.after, "create_account", ask(world))
    fault(await ask(world), 403, "limit_exceeded")
    await world.settle()
    assert (await ask(world)).status_code == 201
    assert await inbox_count(world) == len(world.sandbox.addresses) == 1


@pytest.mark.parametrize("wanted", [{"username": "alice"}, {"client_id": "c"}])
async def test_whoever_holds_the_last_place_half_made_may_finish(
    world: World, wanted: dict[str, str]
) -> None:
    """Its own unfinished request would stand in the way of repeating it."""
    await give(world, inboxes_per_organization=1)
    await world.crash(world.sandbox.after, "create_account", ask(world, **wanted))
    if "username" in wanted:
        fault(await ask(world, **wanted), 409, "conflict")
    await world.let_leases_end()
    assert (await ask(world, **wanted)).status_code == 201
    assert await inbox_count(world) == 1


async def test_nobody_takes_a_half_made_inbox_into_another_pod(world: World) -> None:
    """A pod would get an inbox past its quota."""
    one = await a_pod(world)
    full = await a_pod(world, inbox_limit=1)
    await ask(world, f"pods/{full}/inboxes")
    for wanted in ({"username": "alice"}, {"client_id": "c"}):
        await world.crash(
            world.sandbox.before, "create_account", ask(world, f"pods/{one}/inboxes", **wanted)
        )
        await world.let_leases_end()
        for pod in (full, await a_pod(world)):
            fault(await ask(world, f"pods/{pod}/inboxes", **wanted), 409, "conflict")
        assert (await ask(world, f"pods/{one}/inboxes", **wanted)).status_code == 201


async def test_a_pod_s_limit_only_narrows(world: World) -> None:
    """An organisation would give itself more than the operator does."""
    await give(world, inboxes_per_pod=2)
    pod = await a_pod(world, inbox_limit=100)
    answers = [await ask(world, f"pods/{pod}/inboxes") for _ in range(3)]
    assert outcomes(answers) == {201: 2, "limit_exceeded": 1}


async def test_a_limit_below_what_is_there_takes_nothing_away(world: World) -> None:
    inboxes = [await world.inbox() for _ in range(3)]
    await give(world, inboxes_per_organization=1)
    assert await inbox_count(world) == 3
    await world.client.delete(f"/v0/inboxes/{inboxes[0]['inbox_id']}")
    fault(await ask(world), 403, "limit_exceeded")
    assert (await world.client.get("/v0/organizations")).json()["inbox_limit"] == 1


async def test_pods_of_two_replicas_are_counted_once(
    database_url: str, sandbox: MailSandbox
) -> None:
    async with quiet(database_url, sandbox) as one, quiet(database_url, sandbox) as two:
        two.client.headers = one.client.headers
        await give(one, pods_per_organization=5)
        answers = await asyncio.gather(
            *(insist((one, two)[number % 2], "pods") for number in range(30))
        )
        assert outcomes(answers) == {201: 4, "limit_exceeded": 26}
        listed: Json = (await one.client.get("/v0/pods")).json()
        assert listed["count"] == 5


async def test_a_pod_is_deleted_or_gets_an_inbox_and_never_both(world: World) -> None:
    """The inbox would take mail that no key reaches."""
    for number in range(15):
        pod = await a_pod(world)
        made, gone = await asyncio.gather(
            ask(world, f"pods/{pod}/inboxes", username=f"agent{number}"),
            world.client.delete(f"/v0/pods/{pod}"),
        )
        assert (made.status_code, gone.status_code) in {(201, 409), (404, 204)}, made.text
    (row,) = await world.rows(
        "select count(*) as orphans from inbox where not exists"
        " (select from pod where pod.pod_id = inbox.pod_id)"
    )
    assert row["orphans"] == 0
