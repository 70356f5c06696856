"""Requests per key through the API: what every answer says, and what happens over the limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from time import time
from typing import Any

import httpx
import pytest

from agentmail_cp import limits
from agentmail_cp.app import create_app
from agentmail_cp.db import Database
from agentmail_cp.sandbox import MailSandbox
from agentmail_cp.throttle import WINDOW
from tests import tenants
from tests.fix_app import DOMAIN, settings_for, started
from tests.fix_proxy import Proxy, port_of, through

LIMIT, LEFT, RESET = "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"


class Api:
    """A service with a limit, and a client of it with the key of one organisation."""

    def __init__(self, client: httpx.AsyncClient, db: Database) -> None:
        self.client = client
        self.db = db

    async def new_key(self, **fields: Any) -> dict[str, str]:
        """The headers of a key of a new organisation."""
        made = await tenants.key(self.db, await tenants.organization(self.db), **fields)
        return made.headers

    async def me(self, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.client.get("/v0/auth/me", headers=headers)


@contextlib.asynccontextmanager
async def limited(database_url: str, limit: int, *, window: float = WINDOW) -> AsyncGenerator[Api]:
    """A service that lets each key make `limit` requests in `window` seconds."""
    settings = settings_for(database_url, requests_per_minute=limit)
    app = create_app(settings, server=MailSandbox(DOMAIN), worker=False, request_window=window)
    async with started(app) as client:
        api = Api(client, app.state["resources"].db)
        client.headers.update(await api.new_key())
        yield api


def told(answer: httpx.Response) -> tuple[int, int]:
    """Limit and rest of an answer that also says until when."""
    assert 0 < int(answer.headers[RESET]) - time() <= WINDOW + 1, answer.headers
    return int(answer.headers[LIMIT]), int(answer.headers[LEFT])


async def test_every_answer_says_how_much_is_left(database_url: str) -> None:
    """A client that paces itself by these headers is never refused."""
    async with limited(database_url, 1000) as api:
        assert told(await api.me()) == (1000, 999)
        for rest in range(998, 900, -1):
            assert told(await api.me()) == (1000, rest)


@pytest.mark.parametrize(
    ("status", "method", "path", "body"),
    [
        (400, "POST", "/v0/inboxes", {"username": 7}),
        (400, "POST", "/v0/inboxes", {"username": "not a name"}),
        (400, "GET", "/v0/inboxes?limit=zero", None),
        (404, "GET", "/v0/inboxes/nobody@agents.test", None),
        (413, "POST", "/v0/inboxes", {"display_name": "x" * 60_000_000}),
    ],
)
async def test_errors_say_it_too(
    database_url: str, status: int, method: str, path: str, body: dict[str, Any] | None
) -> None:
    async with limited(database_url, 50) as api:
        answer = await api.client.request(method, path, json=body)
        assert answer.status_code == status
        assert told(answer) == (50, 49)


async def test_a_missing_permission_says_it_too(database_url: str) -> None:
    async with limited(database_url, 50) as api:
        weak = await api.new_key(permissions={"message_read": True})
        answer = await api.client.get("/v0/api-keys", headers=weak)
        assert answer.status_code == 403
        assert told(answer) == (50, 49)


async def test_an_answer_that_is_tried_again_does_not_make_sdks_wait_for_the_window(
    database_url: str,
) -> None:
    """The SDKs try a 409 again, and without Retry-After they wait until X-RateLimit-Reset: a minute for
    an error that stays.
    """
    async with limited(database_url, 50) as api:
        pods = (await api.client.get("/v0/pods")).json()["pods"]
        answer = await api.client.delete(f"/v0/pods/{pods[0]['pod_id']}")
        assert answer.status_code == 409
        assert (answer.headers[LIMIT], answer.headers[LEFT]) == ("50", "48")
        assert RESET not in answer.headers
        assert "retry-after" not in answer.headers


async def test_over_the_limit_the_answer_says_when_to_come_back(database_url: str) -> None:
    async with limited(database_url, 3) as api:
        last = [await api.me() for _ in range(3)][-1]
        assert told(last) == (3, 0)
        answer = await api.me()
        assert answer.status_code == 429
        assert told(answer) == (3, 0)
        wait = int(answer.headers["retry-after"])
        assert 1 <= wait <= WINDOW
        body = answer.json()
        retry_at = datetime.fromisoformat(body["retry_at"])
        assert abs((retry_at - datetime.now(UTC)).total_seconds() - wait) <= 1.5
        assert int(answer.headers[RESET]) - 1 <= retry_at.timestamp() <= int(answer.headers[RESET])
        assert (body["code"], body["name"]) == ("rate_limit_exceeded", "RateLimitError")
        assert body["error"]["type"] == "rate_limit_exceeded"
        assert "retry_at" in body["fix"]
        assert answer.headers["x-request-id"]


async def test_a_refused_request_does_nothing(database_url: str) -> None:
    async with limited(database_url, 2) as api:
        await api.me()
        await api.me()
        assert (await api.client.post("/v0/inboxes", json={})).status_code == 429
        async with api.db.reading() as tx:
            assert await (await tx.execute("select 1 from inbox")).fetchone() is None


async def test_coming_back_when_told_always_succeeds(database_url: str) -> None:
    """Also for a client that hammers: refused requests use up nothing of the next window."""
    async with limited(database_url, 4, window=1.9) as api:
        for _ in range(2):
            answers = [await api.me() for _ in range(12)]
            assert [each.status_code for each in answers] == [200] * 4 + [429] * 8
            await asyncio.sleep(int(answers[-1].headers["retry-after"]))


async def test_a_key_that_is_none_is_401_and_nothing_is_counted(database_url: str) -> None:
    """Whoever guesses keys learns nothing of limits."""
    async with limited(database_url, 2) as api:
        for _ in range(5):
            answer = await api.me({"Authorization": "Bearer inai_unknown"})
            assert answer.status_code == 401
            assert LIMIT not in answer.headers
        assert told(await api.me()) == (2, 1)


async def test_what_needs_no_key_has_no_limit(database_url: str) -> None:
    """A probe that is refused takes a healthy replica out of service."""
    async with limited(database_url, 1) as api:
        for path in ("/health/live", "/openapi.json", "/v0/nothing/here"):
            for _ in range(3):
                answer = await api.client.get(path)
                assert answer.status_code in {200, 404}
                assert LIMIT not in answer.headers


async def test_each_key_has_its_own_limit(database_url: str) -> None:
    """One agent that runs wild must not silence the others of its organisation."""
    async with limited(database_url, 2) as api:
        organization_id = await tenants.organization(api.db)
        wild, calm = [await tenants.key(api.db, organization_id) for _ in range(2)]
        statuses = [(await api.me(wild.headers)).status_code for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        assert told(await api.me(calm.headers)) == (2, 1)


async def test_an_organization_can_have_its_own_limit(database_url: str) -> None:
    async with limited(database_url, 2) as api:
        for own in (5, 0):
            organization_id = await tenants.organization(api.db)
            async with api.db.transaction() as tx:
                await limits.set_limit(tx, organization_id, "requests_per_minute", own)
            key = await tenants.key(api.db, organization_id)
            answers = [await api.me(key.headers) for _ in range(8)]
            got = [each.status_code for each in answers]
            assert got == ([200] * 5 + [429] * 3 if own else [200] * 8)
            assert (LIMIT in answers[0].headers) == bool(own)


async def test_a_new_limit_of_an_organization_holds_from_the_next_window(
    database_url: str,
) -> None:
    async with limited(database_url, 2, window=1.9) as api:
        organization_id = await tenants.organization(api.db)
        key = await tenants.key(api.db, organization_id)
        assert told(await api.me(key.headers)) == (2, 1)
        async with api.db.transaction() as tx:
            await limits.set_limit(tx, organization_id, "requests_per_minute", 7)
        assert told(await api.me(key.headers)) == (2, 0)
        refused = await api.me(key.headers)
        await asyncio.sleep(int(refused.headers["retry-after"]))
        assert told(await api.me(key.headers)) == (7, 6)


async def test_without_postgresql_the_answer_is_503(database_url: str) -> None:
    """Counting must not turn an outage into an error nobody expects."""
    async with (
        Proxy(port_of(database_url)) as proxy,
        limited(through(database_url, proxy), 100) as api,
    ):
        await api.me()
        await api.me()
        proxy.refuse()
        answers = await asyncio.gather(*(api.me() for _ in range(20)))
        assert {each.status_code for each in answers} == {503}
        assert all(int(each.headers["retry-after"]) >= 1 for each in answers)
