"""The route that waits for a message: for agents that have just asked somebody to write to them.

It subscribes first, then looks into the log, then waits to be woken, so that a message is found whether it
came before the request, during it, or on another replica. No connection is held while it waits.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath

from agentmail_cp import arrivals, bodies, events, inboxes
from agentmail_cp.access import Principal
from agentmail_cp.arrivals import RECEIVED, Arrival, Since, Wanted
from agentmail_cp.contents import read
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import Invalid, Unavailable
from agentmail_cp.events import Closed, Overrun, Subscribed, Subscription
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import MailServer
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS, GONE
from agentmail_cp.web.inject import Asked, Caller, Db, Feed, Server
from agentmail_cp.web.listing import INCLUDES, SHAPES, Query, asking, masks
from agentmail_cp.web.paths import restore
from agentmail_cp.web.waiting import LONGEST, while_there

USUAL: Final = 30.0
"""Seconds a request waits that does not say how long."""

_AT_ONCE: Final = 100
"""Events that are taken note of together."""

_NOTHING: dict[int, ResponseSpec] = {
    204: ResponseSpec(None, generate_examples=False, description="Nothing that fits came in time.")
}
_SINCE: Final = "since"
_SHAPES: dict[str, tuple[Schema, str]] = {
    **SHAPES,
    _SINCE: (
        Schema(type=OpenAPIType.STRING),
        "Only a message that arrived after this: a time, or the `event_id` of an event.",
    ),
    "timeout": (
        Schema(type=OpenAPIType.NUMBER, minimum=0, maximum=LONGEST, default=USUAL),
        "Seconds to wait for it.",
    ),
}


@get(
    "/inboxes/{inbox_id:str}/messages/wait",
    operation_id="messages.wait",
    tags=["Messages"],
    guards=[needs("message_read")],
    responses=ERRORS | GONE | _NOTHING,
    operation_class=asking(_SHAPES, _SINCE, "from", "subject", "timeout", *INCLUDES),
)
async def wait_for_message(
    request: Request[Any, Any, Any],
    inbox_id: FromPath[str],
    asked: Asked,
    caller: Caller,
    db: Db,
    server: Server,
    feed: Feed,
) -> Response[bodies.Message]:
    """Get the first message that arrived after `since` and fits, whole; wait for it if there is none yet.
    204 when there is none in time. However many others came later, the first one that fits is the answer.
    """
    timeout = asked.seconds("timeout", most=LONGEST)
    wanted = Wanted(
        masks=masks(asked, caller, ()), sender=asked.texts("from"), subject=asked.texts("subject")
    )
    async with db.reading() as tx:
        inbox = await inboxes.get(tx, caller.reach, restore(inbox_id))
        start = await _start(tx, caller, inbox, asked)
    wait = _Wait(db, server, inbox, wanted, USUAL if timeout is None else timeout)
    message = await while_there(request.receive, wait.until_there(feed, start))
    return Response(cast("bodies.Message", message), status_code=200 if message else 204)


async def _start(tx: Tx, caller: Principal, inbox: Inbox, asked: Query) -> Since:
    event_id = _event_id(asked.text(_SINCE))
    if event_id is not None:
        return await arrivals.since_event(tx, caller.reach, inbox.place, event_id)
    at = asked.time(_SINCE)
    if at is None:
        raise Invalid(
            _SINCE,
            "since is missing: without it, mail that came just before this request would be missed.",
            fix="Give the time before you asked for the mail, or the event_id of the last event you saw.",
            detail="REQUIRED",
        )
    return await arrivals.since_time(tx, inbox.place, at)


def _event_id(value: str | None) -> UUID | None:
    try:
        return UUID(value) if value else None
    except ValueError:
        return None


class _Wait(msgspec.Struct, frozen=True):
    """What is waited for, where, and for how many seconds."""

    db: Database
    server: MailServer
    inbox: Inbox
    wanted: Wanted
    seconds: float

    async def until_there(self, feed: events.Feed, since: Since) -> bodies.Message | None:
        """The message; None when it is not there in time. Raises `Unavailable` when the service stops."""
        deadline = asyncio.get_running_loop().time() + self.seconds
        while True:
            with feed.subscribe(Subscribed(reach=self.inbox.reach, types=RECEIVED)) as heard:
                try:
                    return await self._follow(heard, since, deadline)
                except TimeoutError:
                    return None
                except Closed:
                    raise Unavailable("The service restarts.", retry_after=1.0) from None
                except Overrun:
                    continue

    async def _follow(
        self, heard: Subscription, since: Since, deadline: float
    ) -> bodies.Message | None:
        last = since.seq
        while True:
            row = await self._look(since)
            if row is not None:
                # Gone from the mail server by now, perhaps: then the next one.
                for message in await read(self.db, self.server, self.inbox, [row]):
                    return message
                last = row.seq
            since = Since(max(since.seq, last), since.at)
            if row is None:
                async with asyncio.timeout_at(deadline):
                    last = await _next(heard, since.seq)

    async def _look(self, since: Since) -> Arrival | None:
        async with self.db.reading() as tx:
            return await arrivals.first(tx, self.inbox.place, since, self.wanted)


async def _next(heard: Subscription, seq: int) -> int:
    """The number of the last event heard of, once it is behind this one."""
    while True:
        last = max(event.seq or 0 for event in await heard.take(_AT_ONCE))
        if last > seq:
            return last
