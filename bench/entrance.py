"""What a request costs before its handler: authentication, permission, the limit on requests.

Measured inside one process, on the application's own middleware before a route that does nothing, with
the key remembered as it is for all but one request in 1.5 seconds. "Raw" is the same route without a key.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import litestar
from litestar.types import Middleware

from agentmail_cp import access
from agentmail_cp.access import Keyring, Reach
from agentmail_cp.app import AgentMail, entrance
from agentmail_cp.db import Database
from agentmail_cp.settings import Settings
from agentmail_cp.throttle import Throttle
from agentmail_cp.web.auth import OPEN, needs
from bench.measuring import Figure, Target, percentiles

KEYS: Final = 25
REQUESTS: Final = 800
"""Of one key: below the limit of a minute."""

TOGETHER: Final = 40
"""Requests that are timed as one: enough to hold their part of the leases."""

PERMISSION: Final = "message_read"

Call = Callable[[str], Awaitable[object]]


async def keys(target: Target) -> list[Figure]:
    """Through the whole stack, and the two steps by themselves."""
    db = Database(target.database_url)
    await db.open()
    try:
        unlimited, limited = _settings(target, 0), _settings(target, 1000)
        keyring, throttle = Keyring(db), Throttle(db, limited)
        plain, counted = entrance(unlimited, db, keyring), entrance(limited, db, keyring)

        async def authenticate(secret: str) -> None:
            (await keyring.authenticate(secret)).require(PERMISSION)

        async def admit(secret: str) -> None:
            # The key is remembered; what is left to measure is the counting.
            caller = await keyring.authenticate(secret)
            await throttle.admit(caller.organization_id, caller.api_key_id)

        figures = [
            await _stack("authentication and permission", plain, db),
            await _stack("the same with the limit on requests", counted, db),
            await _alone("authentication and permission, alone", authenticate, db),
            await _alone("the same, and counting, alone", admit, db),
        ]
    finally:
        await db.close()
    for each in figures:
        print(each.line, flush=True)
    return figures


def _settings(target: Target, limit: int) -> Settings:
    return Settings(database_url=target.database_url, requests_per_minute=limit)


async def _secrets(db: Database) -> list[str]:
    """Keys with a list of permissions, all of one organisation."""
    async with db.transaction() as tx:
        organization = await access.create_organization(tx, "Bench")
        reach = Reach(organization.organization_id)
        made = [
            await access.create_key(
                tx, reach, prefix="inai_", name="bench", permissions={PERMISSION: True}
            )
            for _ in range(KEYS)
        ]
    return [each.secret for each in made]


async def _stack(name: str, middleware: list[Middleware], db: Database) -> Figure:
    """A route that needs a key beside one that needs none, in turns."""
    app = AgentMail(route_handlers=[_open, _closed], middleware=middleware, openapi_config=None)

    def to(path: str) -> Call:
        return lambda secret: _request(app, path, secret)

    with_key: list[float] = []
    without: list[float] = []
    for secret in await _secrets(db):
        without += await _times(to("/open"), secret)
        with_key += await _times(to("/closed"), secret)
    return Figure(name, 1, percentiles(without)[0], *percentiles(with_key))


async def _alone(name: str, step: Call, db: Database) -> Figure:
    times: list[float] = []
    for secret in await _secrets(db):
        times += await _times(step, secret)
    return Figure(name, 1, None, *percentiles(times))


async def _times(call: Call, secret: str) -> list[float]:
    """What one of many calls with one key takes, in ms, without the first, which reads the key."""
    await call(secret)
    times: list[float] = []
    for _ in range(REQUESTS // TOGETHER):
        begun = time.perf_counter()
        for _ in range(TOGETHER):
            await call(secret)
        times.append((time.perf_counter() - begun) * 1000 / TOGETHER)
    return times


@litestar.get("/open", opt=OPEN, include_in_schema=False)
async def _open() -> None:
    """Nothing, for everybody."""


@litestar.get("/closed", guards=[needs(PERMISSION)], include_in_schema=False)
async def _closed() -> None:
    """Nothing, for those who may read messages."""


async def _request(app: AgentMail, path: str, secret: str) -> None:
    """A request as uvicorn hands it on. Raises AssertionError when it is refused."""
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"bench.test"), (b"authorization", f"Bearer {secret}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message

    await app(scope, receive, send)
