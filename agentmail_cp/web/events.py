"""Routes of events: the log from a cursor, of an inbox, a pod and all that the key reaches, with waiting.

An inbox's path is also the contract's list of its changes of labels, which is what it answers where nothing
is said that only the log knows (`after`, `wait`, `event_types`).
"""

from __future__ import annotations

from typing import Any

from litestar import Controller, MediaType, Response, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.spec import Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import SkipValidation
from litestar.types import Dependencies

from agentmail_cp import bodies, events, pages
from agentmail_cp.access import Principal
from agentmail_cp.db import Database
from agentmail_cp.errors import Invalid
from agentmail_cp.events import EventType, Subscribed
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS, GONE
from agentmail_cp.web.inject import Asked, Caller, Db
from agentmail_cp.web.listing import SHAPES, Query, asking, sees_all, visible_to
from agentmail_cp.web.scopes import (
    Scope,
    Within,
    called,
    everywhere,
    one_inbox,
    one_pod,
    subscribed,
    within,
)
from agentmail_cp.web.tail import Following, Tail, provide_tail
from agentmail_cp.web.waiting import LONGEST

Reading = NamedDependency[SkipValidation[Tail]]

_TEXT = Schema(type=OpenAPIType.STRING)
_TEXTS = Schema(type=OpenAPIType.ARRAY, items=_TEXT)
_TYPES = Schema(
    type=OpenAPIType.ARRAY,
    items=Schema(type=OpenAPIType.STRING, enum=[each.value for each in EventType]),
)
_SHAPES: dict[str, tuple[Schema, str]] = {
    "after": (
        _TEXT,
        "Only events behind this: `next_cursor` of the answer before, an `event_id`, `start` or `now`.",
    ),
    "wait": (
        Schema(type=OpenAPIType.NUMBER, minimum=0, maximum=LONGEST),
        "Seconds to wait for an event while there is none.",
    ),
    "event_types": (
        _TYPES,
        "Only events of these types; all but those that take a permission of their own by default.",
    ),
    "inbox_ids": (_TEXTS, "Only events of these inboxes, and of the pods in `pod_ids`."),
    "pod_ids": (_TEXTS, "Only events of these pods, and of the inboxes in `inbox_ids`."),
    "limit": (Schema(type=OpenAPIType.INTEGER, minimum=1), "Events a page holds, at most 100."),
}

_ONLY_LOG = ("after", "wait", "event_types")
"""What asks for the log where a list of changes of labels is the default."""


def _dependencies(scope: Provide) -> Dependencies:
    return {**within(scope), "tail": Provide(provide_tail)}


class _Events(Controller):
    """The log in any scope."""

    tags = ("Events",)

    @get(
        operation_id=called("events", "list"),
        guards=[needs("message_read")],
        responses=ERRORS | GONE,
        operation_class=asking(_SHAPES, *_SHAPES),
    )
    async def list(
        self, within: Within, asked: Asked, caller: Caller, db: Db, tail: Reading
    ) -> Response[bodies.ListEvents]:
        """List events in the order in which they were published, oldest first. Whoever goes on with
        `next_cursor` misses none and gets none twice; where some have expired meanwhile the answer is 410.

        A key that may not read all hidden messages is shown events of messages it may read, and of none
        that are gone.
        """
        return _said(await _answer(within, asked, caller, db, tail))


class PodEvents(_Events):
    """What happens in a pod. `{pod_id}` is its id or its client_id."""

    path = "/pods/{pod_id:str}/events"
    dependencies: Dependencies | None = _dependencies(Provide(one_pod))


class Events(_Events):
    """What happens in all that the key reaches."""

    path = "/events"
    dependencies: Dependencies | None = _dependencies(Provide(everywhere))


class InboxEvents(Controller):
    """What happens in one inbox."""

    path = "/inboxes/{inbox_id:str}/events"
    tags = ("Inboxes",)
    dependencies: Dependencies | None = _dependencies(Provide(one_inbox))

    @get(
        operation_id="inboxes.events.list",
        guards=[needs("message_read")],
        responses=ERRORS | GONE,
        operation_class=asking(SHAPES | _SHAPES, "limit", "page_token", "ascending", *_ONLY_LOG),
    )
    async def list(
        self, within: Within, asked: Asked, caller: Caller, db: Db, tail: Reading
    ) -> Response[bodies.ListInboxEvents | bodies.ListEvents]:
        """List the changes of labels in an inbox, newest first, whoever made them. With any of `after`,
        `wait` and `event_types` list all of its events instead, as `/v0/events` does.

        A key that may not read all hidden messages is shown events of messages it may read, and of none
        that are gone.
        """
        if not any(asked.texts(each) for each in _ONLY_LOG):
            return _said(await _label_changes(within, asked, caller, db))
        if asked.text("page_token"):
            raise Invalid(
                "page_token",
                "page_token goes on with the list of changes of labels, not with the log.",
                fix="Use after with next_cursor of the answer before.",
                detail="INVALID_PAGE_TOKEN",
            )
        return _said(await _answer(within, asked, caller, db, tail))


async def _label_changes(
    within: Scope, asked: Query, caller: Principal, db: Database
) -> bodies.ListInboxEvents:
    limit = pages.limit(asked.text("limit"))
    inbox = within.one
    async with db.reading() as tx:
        rows, token = await events.list_labels(
            tx,
            organization_id=caller.organization_id,
            inbox_id=inbox.inbox_id,
            masks=None if sees_all(caller) else visible_to(caller),
            limit=limit,
            page_token=asked.text("page_token"),
            ascending=asked.flag("ascending"),
        )
    shown = [bodies.inbox_event(row, inbox.address) for row in rows]
    return bodies.ListInboxEvents(len(shown), limit, shown, token)


async def _answer(
    within: Scope, asked: Query, caller: Principal, db: Database, tail: Tail
) -> bytes:
    following = Following(
        wanted=await _wanted(db, within, asked, caller),
        cursor=asked.text("after") or events.START,
        limit=pages.limit(asked.text("limit")),
        wait=asked.seconds("wait", most=LONGEST) or 0.0,
        masks=None if sees_all(caller) else visible_to(caller),
    )
    return await tail.answer(following)


def _said(body: object) -> Response[Any]:
    """An answer of the shape its handler describes, also where it is JSON already."""
    return Response(body, media_type=MediaType.JSON)


async def _wanted(db: Database, within: Scope, asked: Query, caller: Principal) -> Subscribed:
    types = events.check_types(asked.texts("event_types"), caller)
    async with db.reading() as tx:
        return await subscribed(
            tx,
            within.reach,
            types or events.LOGGED_TYPES,
            inbox_ids=asked.texts("inbox_ids"),
            pod_ids=asked.texts("pod_ids"),
        )


ROUTES = (InboxEvents, PodEvents, Events)
