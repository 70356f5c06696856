"""What Stalwart tells of mail on its way is written down before it is answered, or told again."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from agentmail_cp.stalwart import hooks, mtahook
from agentmail_cp.web import doorbell
from tests.failure.world import World, new_sandbox, quiet
from tests.fix_app import Json
from tests.fix_proxy import Proxy, through
from tests.pure.test_hooks import sign

SECRET = "between the two of us"
QUEUE_ID = 341813797633130496


class Told(World):
    """A world in which the test is Stalwart."""

    async def ring(self, *events: Json) -> httpx.Response:
        body = msgspec.json.encode({"events": events})
        headers = {hooks.SIGNATURE_HEADER: sign(body, SECRET)}
        return await self.client.post(hooks.DOORBELL_PATH, content=body, headers=headers)

    async def tell(
        self, sender: str, name: str = "m1@agents.test", *, token: str = mtahook.token(SECRET)
    ) -> httpx.Response:
        """What Stalwart says when it has queued a mail of this service."""
        question: dict[str, Any] = {
            "context": {
                "stage": "data",
                "sasl": {"login": sender},
                "queue": {"id": f"{QUEUE_ID:x}"},
            },
            "envelope": {"from": {"address": sender}, "to": [{"address": "ada@far.test"}]},
            "message": {
                "headers": [["Subject", " hi\r\n"], ["Message-ID", f" <{name}>\r\n"]],
                "contents": "Text\r\n",
                "size": 1,
            },
        }
        return await self.client.post(
            mtahook.QUEUED_PATH,
            content=msgspec.json.encode(question),
            headers={"Authorization": f"Bearer {token}"},
        )

    async def under_way(self, inbox: Json, name: str = "m1@agents.test", **changes: object) -> None:
        """The row of a send that Stalwart is about to ask about."""
        row = {"name": name, "address": inbox["email"], "state": "submitting", "lease": "1 min"}
        await self.rows(
            "insert into send (send_id, organization_id, inbox_id, account_id, fingerprint, message_id,"
            " state, lease_until, addresses) select gen_random_uuid(), organization_id, inbox_id,"
            " account_id, '', %(name)s, %(state)s, now() + %(lease)s::interval, '{ada@far.test}'"
            " from inbox where address = %(address)s returning 1",
            **{**row, **changes},
        )

    async def known(self) -> list[tuple[int, str]]:
        """The queue ids that are known, and which messages they are."""
        found = await self.rows("select queue_id, message_id from queued_mail order by queue_id")
        return [(row["queue_id"], row["message_id"]) for row in found]

    async def noted(self) -> list[tuple[str, str]]:
        found = await self.rows("select address, outcome from outcome_report order by report_id")
        return [(row["address"], row["outcome"]) for row in found]


def delivered(sender: str, to: str = "ada@far.test") -> Json:
    facts = {"queueId": QUEUE_ID, "from": sender, "to": to, "code": 250, "details": "OK"}
    return {
        "type": "delivery.dsn-success",
        "createdAt": "2026-11-21T13:58:39Z",
        "data": {**facts, "hostname": "mx.far.test"},
    }


@pytest_asyncio.fixture
async def told(database_url: str, pg_proxy: Proxy) -> AsyncGenerator[Told]:
    settings = {"stalwart_webhook_secret": SECRET}
    async with quiet(through(database_url, pg_proxy), new_sandbox(), **settings) as here:
        yield Told(
            here.client, here.db, here.server, here.organization_id, here.key, here.smtp_port
        )


async def test_reports_are_not_taken_while_they_cannot_be_written_down(
    told: Told, pg_proxy: Proxy
) -> None:
    """Stalwart forgets what it has been thanked for, and nobody else knows that a mail was delivered."""
    inbox = await told.inbox("alice")
    pg_proxy.refuse()
    assert (await told.ring(delivered(inbox["email"]))).status_code == 503
    await pg_proxy.heal()
    for _ in range(2):
        assert (await told.ring(delivered(inbox["email"]))).status_code == 204
    assert await told.noted() == [("ada@far.test", "delivered")]


async def test_bells_alone_need_no_database(told: Told, pg_proxy: Proxy) -> None:
    pg_proxy.refuse()
    changed = {"type": "imap.store", "data": {"accountId": 7}}
    assert (await told.ring(changed)).status_code == 204
    await pg_proxy.heal()


async def test_reports_on_mail_of_strangers_leave_nothing(told: Told) -> None:
    """Stalwart reports on mail from outside as well: each would be a row for ever."""
    inbox = await told.inbox("alice")
    stranger = "ada@far.test"
    assert (await told.ring(delivered(stranger, inbox["email"]))).status_code == 204
    assert (await told.ring(delivered("<>", inbox["email"]))).status_code == 204
    assert (await told.tell(stranger)).status_code == 200
    assert await told.noted() == await told.known() == []


async def test_a_queue_id_is_known_once_stalwart_is_answered(told: Told) -> None:
    inbox = await told.inbox("alice")
    await told.under_way(inbox)
    for _ in range(2):
        answer = await told.tell(inbox["email"])
        assert (answer.status_code, answer.json()["action"]) == (200, "accept")
    assert await told.known() == [(QUEUE_ID, "<m1@agents.test>")]


@pytest.mark.parametrize(
    "changes",
    [{"name": "other@agents.test"}, {"state": "abandoned"}, {"state": "sent"}, {"lease": "-1 s"}],
    ids=["unknown", "given-up", "sent-before", "late"],
)
async def test_what_is_not_under_way_does_not_leave(told: Told, changes: Json) -> None:
    """Whatever comes in by JMAP would pass every rule, and what was told to be unsent would be sent."""
    inbox, other = await told.inbox("alice"), await told.inbox("other")
    await told.under_way(inbox, **changes)
    await told.under_way(other)
    refused = (await told.tell(inbox["email"])).json()
    assert (refused["action"], refused["response"]["status"]) == ("reject", 550)
    assert refused["response"]["message"].endswith("[message_rejected]")
    assert await told.known() == []


async def test_without_a_database_the_hook_says_so(told: Told, pg_proxy: Proxy) -> None:
    """Stalwart holds the mail back then; an answer that all is well would not be true."""
    inbox = await told.inbox("alice")
    pg_proxy.refuse()
    assert (await told.tell(inbox["email"])).status_code == 503
    await pg_proxy.heal()


async def test_a_mail_client_s_mail_is_known_by_its_queue_id_too(told: Told) -> None:
    inbox = await told.inbox("alice")
    question = {
        "context": {
            "stage": "data",
            "sasl": {"login": inbox["email"]},
            "queue": {"id": f"{QUEUE_ID:x}"},
        },
        "envelope": {"from": {"address": inbox["email"]}, "to": [{"address": "ada@far.test"}]},
        "message": {"headers": [["From", inbox["email"]]], "contents": "Hi\r\n", "size": 1},
    }
    answer = await told.client.post(
        mtahook.HOOK_PATH,
        json=question,
        headers={"Authorization": f"Bearer {mtahook.token(SECRET)}"},
    )
    (given,) = answer.json()["modifications"]
    assert await told.known() == [(QUEUE_ID, given["value"])]


@pytest.mark.parametrize("token", ["", "guess", SECRET])
async def test_strangers_tell_nothing(told: Told, token: str) -> None:
    """Else anybody could have outcomes told of other people's mail."""
    inbox = await told.inbox("alice")
    assert (await told.tell(inbox["email"], token=token)).status_code == 401
    assert await told.known() == []


@pytest.mark.parametrize("body", [b"", b"{}", b'{"context":{"stage":"data"}}', b"x" * 2_000_000])
async def test_what_is_no_mail_is_refused(told: Told, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {mtahook.token(SECRET)}"}
    answer = await told.client.post(mtahook.QUEUED_PATH, content=body, headers=headers)
    assert answer.status_code == 400


async def test_a_flood_of_reports_is_taken_at_once(told: Told) -> None:
    """After an outage Stalwart sends all it kept in one batch."""
    inbox = await told.inbox("alice")
    many = [delivered(inbox["email"], f"a{number}@far.test") for number in range(2_500)]
    assert (await told.ring(*many)).status_code == 204
    assert len(await told.noted()) == 2_500


async def test_a_batch_too_large_to_be_read_does_not_come_for_ever(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would grow with everything that happens meanwhile, and no bell would ring again."""
    inbox = await told.inbox("alice")
    monkeypatch.setattr(doorbell, "LARGEST_BATCH", 500)
    many = [delivered(inbox["email"]) for _ in range(5)]
    assert (await told.ring(*many)).status_code == 204
    assert await told.noted() == []
    assert (await told.ring(delivered(inbox["email"]))).status_code == 204
    assert len(await told.noted()) == 1
