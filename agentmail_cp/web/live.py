"""The WebSocket `GET /v0`: events as they happen, for clients that cannot be called.

A socket is accepted for a live key, and then is

- silent: nothing was asked for yet; it is kept open by pings;
- catching up: a `subscribe` was answered, and what lies between its cursor and now is read from the log;
- live: what is published comes from the process's `Feed`;
- over, with a close code: 1008 for a key that ended or a client that errs again and again, 1011 for what is
  our mistake, 1012 when the process stops, 1013 for a reader that left a thousand events unread. uvicorn adds
  1009 (too large a frame), 1011 (no pong) and 1012. Never 1000, after which the Node SDK does not come back.

Several subscriptions of a socket add up, and each event is told once, in order, complete (`payloads`). While
database or mail server are away it waits. One event is in a reader's hands, the others are rows of the log or
of the feed's thousand; if those are full because we are slow, the socket catches up again. What is told, and
up to where, is decided in `wishes`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final, Never, TypeVar, cast
from uuid import UUID

import structlog
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect
from litestar.params import SkipValidation
from prometheus_client import Counter as Counted
from prometheus_client import Gauge

from agentmail_cp import events
from agentmail_cp.access import Keyring, Principal
from agentmail_cp.db import Database, Tx
from agentmail_cp.errors import AgentMailError, Invalid, RateLimited, Unauthorized, Unavailable
from agentmail_cp.events import (
    DEFAULT_TYPES,
    PROTECTED,
    Closed,
    Event,
    EventType,
    Feed,
    Overrun,
    Subscribed,
    Subscription,
)
from agentmail_cp.web import frames
from agentmail_cp.web.frames import Subscribe
from agentmail_cp.web.inject import Caller
from agentmail_cp.web.listing import sees_all, visible_to
from agentmail_cp.web.rendered import AT_ONCE, Rendered
from agentmail_cp.web.scopes import subscribed
from agentmail_cp.web.upgrade import refuse
from agentmail_cp.web.wishes import Wishes

T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)

LOOK: Final = 1.0
"""Seconds between two looks at keys and readers: a key that ended is noticed within two seconds."""

PAGE: Final = 100
"""Events read from the log, or taken from the feed, at once."""

PAUSE: Final = 0.5
"""Seconds between two attempts while database or mail server are away."""

READERS: Final = 4
"""Sockets that use the database at the same time to subscribe and catch up; others wait for their turn."""

MOST_OPEN: Final = 5_000
"""Sockets of one organisation in this process: each takes some 37 kB, and may stay for good."""

MOST_WISHES: Final = 32
"""Subscriptions of one socket."""

MOST_ERRORS: Final = 32
"""Frames of one socket that are answered with an error."""

FRAMES_AT_ONCE: Final = 64
"""Frames of one socket that are heard as they come."""

BETWEEN_FRAMES: Final = 1.0
"""Seconds for which a socket is deaf after each further one: a frame costs a turn of `READERS`, and other
customers wait for theirs."""

FULL: Final = 60.0
"""Seconds after which whoever has too many sockets may try again."""

BLOCKED: Final = 0.005
"""Seconds from which handing a frame over counts as waiting for its reader."""

GOODBYE: Final = 5.0
"""Seconds a reader has to take the frame that says why its socket ends."""

OPEN = Gauge("agentmail_websockets_open", "WebSockets that are open in this process.")
ENDED = Counted("agentmail_websockets_ended", "WebSockets we closed, by close code.", ["code"])


class Ended(Exception):
    """A socket is over. `code` None: the client is gone, and nobody hears of it."""

    def __init__(self, code: int | None = None, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


REVOKED: Final = (1008, "This API key is not valid any more, or may not read all of this any more.")
CONFUSED: Final = (1008, "Too many frames could not be understood.")
FAILED: Final = (1011, "Something went wrong here. Connect again.")
STOPPING: Final = (1012, "The service restarts. Connect again.")
OVERRUN: Final = (1013, "Over 1,000 events are unread. Connect again and go on after the last one.")


class Socket:
    """One client and what it has subscribed to."""

    def __init__(self, client: WebSocket[Any, Any, Any], caller: Principal, home: Sockets) -> None:
        self.key_hash = cast("bytes", client.scope["auth"])
        self._client = client
        self._caller = caller
        self._home = home
        self._wishes = Wishes()
        self._errors = 0
        self._frames = 0
        self._turn = asyncio.Lock()
        """Held by whoever tells events, so that those of the log and of the feed keep their order."""
        self._hearing = contextlib.ExitStack()
        self._subscription: Subscription | None = None
        self._joined = 0
        """How many wishes the feed knows of."""
        self._pace = _Pace()
        self._tasks = asyncio.TaskGroup()
        self._talking: asyncio.Task[Any] | None = None
        self._over: Ended | None = None

    async def serve(self) -> None:
        """Everything, until the socket is over."""
        try:
            await self._client.accept()
        except OSError:
            return
        with self._hearing:
            ended = await self._until_ended()
        if ended.code is None:
            return
        ENDED.labels(ended.code).inc()
        # Whoever reads nothing gets no answer; `wire` ends the connection.
        with contextlib.suppress(TimeoutError, OSError, WebSocketDisconnect):
            async with asyncio.timeout(GOODBYE):
                await self._client.close(ended.code, ended.reason)

    def look(self, caller: Principal | None) -> None:
        """End it if its key, or its reader's patience, has. `caller` is what the key amounts to now."""
        if caller is None or not self._may_go_on(caller):
            self._end(Ended(*REVOKED))
        elif self._is_left_behind:
            self._end(Ended(*OVERRUN))
        else:
            self._caller = caller

    @property
    def _is_left_behind(self) -> bool:
        heard = self._subscription
        return heard is not None and heard.overrun and self._pace.reader_is_slow

    def _may_go_on(self, caller: Principal) -> bool:
        try:
            caller.check_live()
        except Unauthorized:
            return False
        if not self._wishes:
            return True
        needed = {PROTECTED[each] for each in PROTECTED if each in self._wishes.wanted.types}
        return all(caller.may(each) for each in {"message_read", *needed})

    def _end(self, ended: Ended) -> None:
        if self._talking is not None and self._over is None:
            self._over = ended
            self._talking.cancel()

    async def _until_ended(self) -> Ended:
        self._talking = asyncio.current_task()
        try:
            async with self._tasks:
                await self._read()
        except ExceptionGroup as group:
            self._over = self._over or _why(group)
        except asyncio.CancelledError:
            if self._over is None:
                raise
        finally:
            self._talking = None
        return self._over or Ended()

    async def _read(self) -> Never:
        while True:
            message = await self._client.receive()
            if message["type"] != "websocket.receive":
                raise Ended
            await self._hear(message.get("text") or message.get("bytes") or b"")
            self._frames += 1
            if self._frames > FRAMES_AT_ONCE:
                await asyncio.sleep(BETWEEN_FRAMES)

    async def _hear(self, frame: str | bytes) -> None:
        try:
            await self._subscribe(frames.parse(frame))
        except AgentMailError as error:
            await self._send(frames.error(error))
            self._errors += 1
        if self._errors >= MOST_ERRORS:
            raise Ended(*CONFUSED)

    async def _subscribe(self, asked: Subscribe) -> None:
        self._caller.require("message_read")
        types = events.check_types(asked.event_types, self._caller) or frozenset(DEFAULT_TYPES)
        if len(self._wishes) >= MOST_WISHES:
            raise Invalid(
                "frame",
                f"This socket has {MOST_WISHES} subscriptions.",
                fix="Name several inboxes in one, or open another socket.",
                detail="TOO_MANY",
            )
        wanted, start, cursor = await self._patiently(lambda tx: self._place(tx, asked, types))
        if asked.after is None and self._wishes.knows(wanted):
            await self._send(frames.subscribed(asked, cursor))
            return
        # From here on nothing is told before what this wish is owed.
        self._wishes.add(wanted, start)
        await self._send(frames.subscribed(asked, cursor))
        self._tasks.create_task(self._catch_up(far=asked.after is not None))

    async def _place(
        self, tx: Tx, asked: Subscribe, types: frozenset[EventType]
    ) -> tuple[Subscribed, int, str]:
        """What is asked for, the position where it begins, and the cursor for who comes back there."""
        reach = self._caller.reach
        wanted = await subscribed(
            tx, reach, types, inbox_ids=asked.inbox_ids, pod_ids=asked.pod_ids
        )
        # The cursor first: what happens in between is told to whoever comes back to it.
        cursor = asked.after or await events.newest(tx, reach)
        return wanted, await events.position_of(tx, reach, asked.after or events.NOW), cursor

    async def _patiently(self, read: Callable[[Tx], Awaitable[T]]) -> T:
        """What the database says, when it is there."""
        while True:
            with contextlib.suppress(Unavailable):
                async with self._home.readers, self._home.db.reading() as tx:
                    return await read(tx)
            await asyncio.sleep(PAUSE)

    async def _catch_up(self, *, far: bool = True) -> None:
        """Tell what the log holds, and go on with the feed. As that does not wait for slow readers, it is
        joined only once the log is nearly read.
        """
        async with self._turn:
            while far:
                far = await self._tell_page()
            self._listen()
            while await self._tell_page():
                pass
        self._pace.start()

    def _listen(self) -> None:
        """Hear of everything wished for, from now on, and of nothing from before."""
        self._hearing.close()
        self._joined = len(self._wishes)
        self._subscription = self._hearing.enter_context(
            self._home.feed.subscribe(self._wishes.wanted)
        )
        following = self._tasks.create_task(self._follow(self._subscription))
        self._hearing.callback(following.cancel)

    async def _tell_page(self) -> bool:
        """Tell one page of the log; whether there may be more."""
        wished, wanted = len(self._wishes), self._wishes.wanted
        behind = self._wishes.behind
        page = await self._patiently(
            lambda tx: events.after(tx, wanted, behind, limit=PAGE, masks=self._masks)
        )
        if not await self._tell(page, wished):
            return True
        if len(page) < PAGE:
            self._wishes.level()
        return len(page) == PAGE

    async def _follow(self, subscription: Subscription) -> None:
        """Tell what the feed brings. When it goes too far ahead, and that is not the reader's doing, go on
        with the log: mail that was held up arrives faster than it can be read from the mail server.
        """
        try:
            while True:
                heard = await subscription.take(PAGE)
                async with self._turn:
                    await self._tell(await self._visible(heard), self._joined)
                if len(heard) < PAGE:
                    self._pace.start()
        except Overrun:
            if self._pace.reader_is_slow:
                raise Ended(*OVERRUN) from None
            self._tasks.create_task(self._catch_up())
        except Closed:
            raise Ended(*STOPPING) from None

    @property
    def _masks(self) -> Sequence[int] | None:
        """The hiding masks of messages its key may hear of; None for all."""
        return None if sees_all(self._caller) else visible_to(self._caller)

    async def _visible(self, heard: Sequence[Event]) -> Sequence[Event]:
        masks = self._masks
        if masks is None:
            return heard
        organization_id = self._caller.organization_id
        return await self._patiently(lambda tx: events.visible(tx, organization_id, heard, masks))

    async def _tell(self, page: Sequence[Event], wished: int) -> bool:
        """Tell what is owed of these; False when there are other wishes than those they were read for."""
        for place, event in enumerate(page):
            if len(self._wishes) != wished:
                return False
            if self._wishes.owed(event):
                with self._pace.making():
                    text = await self._payload(event, page[place + 1 : place + AT_ONCE])
                with self._pace.sending():
                    await self._send(text)
        return len(self._wishes) == wished

    async def _payload(self, event: Event, following: Sequence[Event]) -> str:
        while True:
            with contextlib.suppress(Unavailable):
                return await self._home.rendered.text(event, following)
            await asyncio.sleep(PAUSE)

    async def _send(self, text: str) -> None:
        """Hand a frame over, once there is room for it."""
        try:
            await self._client.send_text(text)
        except (OSError, WebSocketDisconnect):
            raise Ended from None


class _Pace:
    """Whose time it takes to tell events, ours or the reader's, since the reader was last up to date."""

    def __init__(self) -> None:
        self.start()
        self._since: float | None = None

    def start(self) -> None:
        self._ours = self._theirs = 0.0

    @contextlib.contextmanager
    def making(self) -> Generator[None]:
        began = monotonic()
        yield
        self._ours += monotonic() - began

    @contextlib.contextmanager
    def sending(self) -> Generator[None]:
        began = self._since = monotonic()
        yield
        self._since = None
        spent = monotonic() - began
        # Less than this nobody waited for a client.
        self._theirs += spent if spent > BLOCKED else 0.0

    @property
    def reader_is_slow(self) -> bool:
        waiting = monotonic() - self._since if self._since is not None else 0.0
        return self._theirs + waiting > self._ours


class Sockets:
    """All sockets of this process, and what they share."""

    def __init__(self, keyring: Keyring, db: Database, feed: Feed, rendered: Rendered) -> None:
        self.db = db
        self.feed = feed
        self.rendered = rendered
        self.readers = asyncio.Semaphore(READERS)
        self._keyring = keyring
        self._open = set[Socket]()
        self._of = Counter[UUID]()

    async def serve(self, client: WebSocket[Any, Any, Any], caller: Principal) -> None:
        """One client, until it is gone. Raises `RateLimited` where its organisation has too many."""
        self._check_room(caller.organization_id)
        socket = Socket(client, caller, self)
        self._open.add(socket)
        self._of[caller.organization_id] += 1
        OPEN.inc()
        try:
            await socket.serve()
        finally:
            OPEN.dec()
            self._open.discard(socket)
            self._leave(caller.organization_id)

    def _check_room(self, organization_id: UUID) -> None:
        if self._of[organization_id] >= MOST_OPEN:
            raise RateLimited(
                f"This organization has {MOST_OPEN} WebSockets open.",
                retry_at=datetime.now(UTC) + timedelta(seconds=FULL),
                retry_after=FULL,
                fix="Close some: one can tell of many inboxes, and has room for several subscriptions.",
            )

    def _leave(self, organization_id: UUID) -> None:
        self._of[organization_id] -= 1
        if not self._of[organization_id]:
            del self._of[organization_id]

    async def watch(self) -> None:
        """End, until cancelled, what its key or its reader should not have any longer."""
        while True:
            await asyncio.sleep(LOOK)
            if self._open:
                with contextlib.suppress(Unavailable):
                    await self.look()

    async def look(self) -> None:
        """Look at every socket once. Raises `Unavailable`."""
        callers = await self._keyring.look_again({each.key_hash for each in self._open})
        for each in list(self._open):
            each.look(callers.get(each.key_hash))


@websocket("/")
async def live(
    socket: WebSocket[Any, Any, Any],
    caller: Caller,
    sockets: NamedDependency[SkipValidation[Sockets]],
) -> None:
    """Events as they happen."""
    try:
        await sockets.serve(socket, caller)
    except RateLimited as error:
        # Litestar would make something of its own out of it.
        await refuse(socket.scope, socket.send, error)


def _why(group: ExceptionGroup[Exception]) -> Ended:
    """What ended a socket, of all that was raised in it."""
    ended, failed = group.split(Ended)
    if ended is None or failed is not None:
        log.error("websocket.failed", exc_info=failed)
        return Ended(*FAILED)
    return cast("Ended", ended.exceptions[0])
