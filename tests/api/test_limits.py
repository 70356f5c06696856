"""Limits of sending through the API, in both worlds: what is refused, until when, and whom it costs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx

from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.sandbox.faults import Faults
from tests import tenants
from tests.api.drafting import ahead, look, make, send
from tests.fix_app import OUTSIDER, Json, Service, a_mail, until
from tests.limiting import counts, limit


async def post(
    service: Service, inbox: Json, *, key: str = "", to: Any = OUTSIDER, **fields: object
) -> httpx.Response:
    """Ask for a send."""
    return await service.client.post(
        f"/v0/inboxes/{inbox['inbox_id']}/messages/send",
        json={"to": to, "subject": "S", "text": "T", **fields},
        headers={"Idempotency-Key": key} if key else {},
    )


def assert_refused_until(answer: httpx.Response, at: datetime) -> None:
    """The answer says in every way there is when to try again."""
    assert answer.status_code == 429, answer.text
    body = answer.json()
    assert (body["name"], body["code"]) == ("RateLimitError", "rate_limit_exceeded")
    assert datetime.fromisoformat(body["retry_at"]) == at
    wait = (at - datetime.now(UTC)).total_seconds()
    assert wait - 2 < int(answer.headers["Retry-After"]) <= wait + 5
    assert body["fix"].startswith("Wait until ")


def midnight() -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today + timedelta(days=1)


async def sent(service: Service, inbox: Json) -> list[Json]:
    """What the inbox has sent."""
    return [each for each in await service.messages(inbox) if "sent" in each["labels"]]


async def test_the_day_of_an_organization_ends_with_its_last_recipient(anywhere: Service) -> None:
    """An agent in a loop would send until somebody's patience or reputation is gone."""
    one, other = await anywhere.inbox("one"), await anywhere.inbox("other")
    friend = await anywhere.inbox("friend")
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=3)
    assert (await post(anywhere, one, to=friend["email"])).status_code == 200
    too_many = await post(anywhere, other, to=[friend["email"], one["email"], other["email"]])
    assert_refused_until(too_many, midnight())
    assert "2 of them left" in too_many.json()["message"]
    assert await sent(anywhere, other) == []
    pair = await post(anywhere, other, to=[friend["email"], one["email"]])
    assert pair.status_code == 200, pair.text
    assert_refused_until(await post(anywhere, one, to=friend["email"]), midnight())
    assert len(await sent(anywhere, one)) == 1

    await limit(anywhere.db, anywhere.organization_id, sends_per_day=4)
    assert (await post(anywhere, one, to=friend["email"])).status_code == 200


async def test_what_no_waiting_heals_is_not_told_to_wait(anywhere: Service) -> None:
    """An SDK repeats a 429 by itself; it would do so for ever."""
    inbox = await anywhere.inbox("agent")
    await limit(anywhere.db, anywhere.organization_id, inbox_sends_per_day=2)
    answer = await post(anywhere, inbox, to=[f"r{each}@elsewhere.test" for each in range(3)])
    assert answer.status_code == 403
    body = answer.json()
    assert (body["name"], body["code"]) == ("LimitExceededError", "limit_exceeded")
    assert "Retry-After" not in answer.headers
    assert "retry_at" not in body
    assert "inbox_sends_per_day" in body["fix"]
    assert await counts(anywhere.db, anywhere.organization_id) == {}


async def test_a_repeated_request_counts_once_and_is_answered_though_nothing_is_left(
    anywhere: Service,
) -> None:
    """A client that lost an answer would be told that its mail, which left, may not."""
    inbox = await anywhere.inbox("agent")
    friend = await anywhere.inbox("friend")
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=1)
    first = await post(anywhere, inbox, key="k", to=friend["email"])
    assert first.status_code == 200, first.text
    for _ in range(2):
        again = await post(anywhere, inbox, key="k", to=friend["email"])
        assert (again.status_code, again.json()) == (200, first.json())
        assert again.headers["Idempotent-Replayed"] == "true"
    assert (await counts(anywhere.db, anywhere.organization_id))["organization"] == 1
    assert_refused_until(await post(anywhere, inbox, key="other"), midnight())
    assert (await post(anywhere, inbox, key="other")).status_code == 429, "not remembered as used"


async def test_a_mail_nobody_takes_costs_nothing_and_one_that_some_take_counts_whole(
    anywhere: Service,
) -> None:
    """A typing error would cost a day's mail; or guessing addresses would be free."""
    inbox = await anywhere.inbox("agent")
    nobody = f"nobody{anywhere.suffix}@agents.test"
    assert (await post(anywhere, inbox, to=nobody)).status_code == 403
    assert await counts(anywhere.db, anywhere.organization_id) == {}
    some = await post(anywhere, inbox, to=[nobody, inbox["email"]])
    assert [each["address"] for each in some.json()["rejected"]] == [nobody]
    assert (await counts(anywhere.db, anywhere.organization_id))["organization"] == 2


async def test_lists_speak_before_limits(service: Service) -> None:
    """Waiting until tomorrow would not help with a recipient who is blocked."""
    inbox = await service.inbox("agent")
    await limit(service.db, service.organization_id, sends_per_day=1)
    await service.client.post("/v0/lists/send/block", json={"entry": OUTSIDER})
    answer = await post(service, inbox, to=[OUTSIDER, "b@elsewhere.test"])
    assert (answer.status_code, answer.json()["code"]) == (403, "message_rejected")
    assert await counts(service.db, service.organization_id) == {}


async def test_a_draft_that_may_not_leave_stays_a_draft(anywhere: Service) -> None:
    """Refused, it would be lost; taken, it would never be free again."""
    inbox = await anywhere.inbox("author")
    friend = await anywhere.inbox("friend")
    draft = await make(anywhere, inbox, to=friend["email"], subject="S", text="T")
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=1)
    assert (await post(anywhere, inbox, to=friend["email"])).status_code == 200
    assert_refused_until(await send(anywhere, inbox, draft), midnight())
    assert (await look(anywhere, inbox, draft)).get("send_status") is None
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=2)
    answer = await send(anywhere, inbox, draft)
    assert answer.status_code == 200, answer.text


async def test_a_scheduled_draft_waits_for_the_limit(anywhere: Service) -> None:
    """A mail that was one too many today would be gone, or sent in spite of the limit."""
    inbox = await anywhere.inbox("author")
    friend = await anywhere.inbox("friend")
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=1)
    assert (await post(anywhere, inbox, to=friend["email"])).status_code == 200
    draft = await make(anywhere, inbox, to=friend["email"], subject="S", text="T", send_at=ahead(0))

    async def fire_at() -> datetime:
        async with anywhere.db.reading() as tx:
            row = await (await tx.execute("select fire_at from draft")).fetchone()
        assert row is not None
        return row["fire_at"]

    await until(fire_at, lambda at: at == midnight())
    waiting = await look(anywhere, inbox, draft)
    assert waiting["send_status"] == "scheduled"
    assert "a day" in waiting["send_error"]
    assert len(await sent(anywhere, inbox)) == 1


async def test_every_organization_has_its_own_day(service: Service) -> None:
    """One customer's campaign would silence another's support."""
    other = await tenants.organization(service.db)
    client = tenants.client(service, await tenants.key(service.db, other))
    made = (await client.post("/v0/inboxes", json={"username": "theirs"})).json()
    await limit(service.db, service.organization_id, sends_per_day=1)
    inbox = await service.inbox("ours")
    assert (await post(service, inbox)).status_code == 200
    assert (await post(service, inbox)).status_code == 429
    answer = await client.post(
        f"/v0/inboxes/{made['inbox_id']}/messages/send",
        json={"to": OUTSIDER, "subject": "S", "text": "T"},
    )
    assert answer.status_code == 200, answer.text


async def test_parallel_requests_share_what_is_left(anywhere: Service) -> None:
    """Twenty at once would each find the last place free."""
    inbox, friend = await anywhere.inbox("agent"), await anywhere.inbox("friend")
    await limit(anywhere.db, anywhere.organization_id, sends_per_day=7)
    answers = await asyncio.gather(
        *(post(anywhere, inbox, to=friend["email"], subject=f"S{each}") for each in range(20))
    )
    assert sorted(each.status_code for each in answers) == [200] * 7 + [429] * 13
    assert len(await sent(anywhere, inbox)) == 7


async def test_a_mail_server_that_is_away_costs_no_mail_of_the_day(service: Service) -> None:
    """An outage in the morning would leave nothing for the afternoon."""
    assert isinstance(service.server, MailSandbox)
    inbox = await service.inbox("agent")
    await limit(service.db, service.organization_id, sends_per_day=1)
    service.server.faults = Faults(down=True)
    for _ in range(3):
        assert (await post(service, inbox, key="k")).status_code == 503
    service.server.faults = Faults()
    assert await counts(service.db, service.organization_id) == {}
    assert (await post(service, inbox, key="k")).status_code == 200
    assert (await post(service, inbox)).status_code == 429


# --- loops


class Robot:
    """An agent that answers every mail at once, and asks nobody whether it makes sense."""

    def __init__(self, service: Service, inbox: Json) -> None:
        self.service = service
        self.base = f"/v0/inboxes/{inbox['inbox_id']}/messages"
        self.refusals: list[httpx.Response] = []

    async def run(self) -> None:
        client = self.service.client
        while True:
            page = await client.get(self.base, params={"labels": "unread"})
            for message in page.json()["messages"]:
                path = f"{self.base}/{quote(message['message_id'], safe='')}"
                await client.patch(path, json={"remove_labels": ["unread"]})
                answer = await client.post(f"{path}/reply", json={"text": "Indeed."})
                if answer.status_code != 200:
                    self.refusals.append(answer)
            await asyncio.sleep(0.02)


async def test_two_robots_that_answer_each_other_come_to_a_stop(anywhere: Service) -> None:
    """They would fill two mailboxes and spend two budgets overnight."""
    one, other = await anywhere.inbox("one"), await anywhere.inbox("other")
    robots = [Robot(anywhere, each) for each in (one, other)]
    running = [asyncio.create_task(robot.run()) for robot in robots]
    try:
        assert (await post(anywhere, one, to=other["email"])).status_code == 200

        async def refusals() -> list[httpx.Response]:
            return [each for robot in robots for each in robot.refusals]

        (refused,) = await until(refusals, bool, seconds=30)
        await asyncio.sleep(0.5)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert refused.status_code == 429, refused.text
    wait = datetime.fromisoformat(refused.json()["retry_at"]) - datetime.now(UTC)
    assert timedelta(seconds=20) < wait <= timedelta(seconds=60)
    assert "10 times without a pause of 60 seconds" in refused.json()["message"]
    for inbox in (one, other):
        assert len(await anywhere.messages(inbox)) == 10


async def test_a_machine_outside_that_says_what_it_is_gets_three_answers(
    anywhere: Service,
) -> None:
    """An out-of-office robot and an agent would write to each other for the whole holiday."""
    inbox = await anywhere.inbox("agent")
    base = f"/v0/inboxes/{inbox['inbox_id']}/messages"
    name, parent, answers = "", "", list[httpx.Response]()
    for number in range(4):
        name = f"<auto-{number}{anywhere.suffix}@elsewhere.test>"
        headers = {"Message_ID": name, "Auto_Submitted": "auto-replied"}
        if parent:
            headers["In_Reply_To"] = parent
        await anywhere.deliver(a_mail(inbox["email"], **headers))

        async def there(wanted: str = name) -> list[Json]:
            return [m for m in await anywhere.messages(inbox) if m["message_id"] == wanted]

        await until(there, bool)
        path = f"{base}/{quote(name, safe='')}/reply"
        answers.append(await anywhere.client.post(path, json={"text": "Are you there?"}))
        if answers[-1].status_code == 200:
            parent = answers[-1].json()["message_id"]
    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    refused = answers[-1].json()
    assert "automatic" in refused["message"]
    wait = datetime.fromisoformat(refused["retry_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < wait <= timedelta(hours=1)

    # The same as a draft, which is composed long before it leaves.
    draft = await make(anywhere, inbox, in_reply_to=name, text="Are you there?")
    assert (await send(anywhere, inbox, draft)).status_code == 429
    # It tells a person instead.
    forward = await anywhere.client.post(
        f"{base}/{quote(name, safe='')}/forward", json={"to": inbox["email"]}
    )
    assert forward.status_code == 200, forward.text


async def test_people_are_not_machines(anywhere: Service) -> None:
    """A person who writes five mails in a row would be left without an answer."""
    inbox = await anywhere.inbox("agent")
    parent = ""
    for number in range(5):
        name = f"<person-{number}{anywhere.suffix}@elsewhere.test>"
        headers = {"Message_ID": name, **({"In_Reply_To": parent} if parent else {})}
        await anywhere.deliver(a_mail(inbox["email"], **headers))

        async def there(wanted: str = name) -> list[Json]:
            return [m for m in await anywhere.messages(inbox) if m["message_id"] == wanted]

        await until(there, bool)
        answer = await anywhere.client.post(
            f"/v0/inboxes/{inbox['inbox_id']}/messages/{quote(name, safe='')}/reply",
            json={"text": "Yes."},
        )
        assert answer.status_code == 200, answer.text
        parent = answer.json()["message_id"]
