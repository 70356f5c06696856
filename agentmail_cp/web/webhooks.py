"""Routes of webhook endpoints, per inbox, per pod and over all that the caller's key reaches: one set of
handlers. What was delivered to them is in `web/deliveries.py`.

A list shows the endpoints of its scope and of narrower ones, as with API keys. Who makes an endpoint may read
what it will be told, and so may who changes where its events go: it outlives the key, whose permissions
nobody asks for again when it is told.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import Provide
from litestar.params import FromPath, JSONBody
from litestar.types import Dependencies
from msgspec import UNSET, UnsetType

from agentmail_cp import (
    access,
    bodies,
    events,
    filing,
    idempotency,
    inboxes,
    limits,
    pages,
    webhooks,
)
from agentmail_cp.access import Principal, Reach
from agentmail_cp.db import Tx
from agentmail_cp.errors import Forbidden, Invalid, NotFound
from agentmail_cp.events import DEFAULT_TYPES, LABEL_TYPES, EventType
from agentmail_cp.settings import Settings
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import Repeatable, answered, making
from agentmail_cp.web.inject import Asked, Caller, Config, Db
from agentmail_cp.web.listing import listing
from agentmail_cp.web.scopes import (
    Within,
    called,
    everywhere,
    hold,
    one_inbox,
    one_pod,
    within,
)
from agentmail_cp.webhooks import Names, NewWebhook, Webhook, WebhookPatch

_ONE = "/{webhook_id:str}"
_CHANGE = f"{_ONE}/headers"


class _Webhooks(Controller):
    """What can be done with endpoints in any scope."""

    tags = ("Webhooks",)

    @post(
        operation_id=called("webhooks", "create"),
        guards=[needs("webhook_create")],
        responses=making(bodies.Webhook),
    )
    async def create(
        self,
        within: Within,
        caller: Caller,
        db: Db,
        settings: Config,
        once: Repeatable,
        data: JSONBody[bodies.CreateWebhook],
    ) -> Response[bodies.Webhook]:
        """Make an endpoint for this scope, or with a known client_id get the one that has it (200 instead
        of 201). It is told of nothing beyond the scope, whatever becomes of the key that made it.
        """
        async with db.transaction() as tx:
            claim = await once.claim(tx, "webhook", within.reach, data)
            if claim.made:
                again = find(tx, within.reach, claim.made.resource_id)
                return answered(claim, await _shown(tx, await idempotency.replay(again)))
            await hold(tx, within.reach)
            held_to = await limits.of(tx, settings, within.reach.organization_id)
            made = await webhooks.create(
                tx,
                within.reach,
                await _new(tx, within.reach, caller, settings, data),
                most=held_to.webhooks_per_organization,
            )
            await idempotency.complete(tx, claim, made.webhook.webhook_id, new=made.new)
            shown = await _shown(tx, made.webhook)
        return answered(claim, shown, new=made.new)

    @get(
        operation_id=called("webhooks", "list"),
        guards=[needs("webhook_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token", "ascending"),
    )
    async def list(self, within: Within, asked: Asked, db: Db) -> bodies.ListWebhooks:
        """List the endpoints of this scope and of narrower ones, newest first."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            found, token = await webhooks.list_page(
                tx,
                within.reach,
                limit=limit,
                page_token=asked.text("page_token"),
                ascending=asked.flag("ascending"),
            )
            shown = await _all_shown(tx, within.reach.organization_id, found)
        return bodies.ListWebhooks(len(shown), limit, shown, token)

    @get(
        _CHANGE,
        operation_id=called("webhooks", "get_headers"),
        guards=[needs("webhook_read")],
        responses=ERRORS,
    )
    async def get_headers(
        self, within: Within, webhook_id: FromPath[str], db: Db
    ) -> bodies.WebhookHeaders:
        """Get the names of the headers that go with every delivery; their values are never shown."""
        async with db.reading() as tx:
            found = await find(tx, within.reach, webhook_id)
        return bodies.WebhookHeaders(sorted(found.headers, key=str.lower))

    @get(
        _ONE,
        operation_id=called("webhooks", "get"),
        guards=[needs("webhook_read")],
        responses=ERRORS,
    )
    async def get(self, within: Within, webhook_id: FromPath[str], db: Db) -> bodies.Webhook:
        """Get one endpoint with its secret."""
        async with db.reading() as tx:
            return await _shown(tx, await find(tx, within.reach, webhook_id))

    @patch(
        _ONE,
        operation_id=called("webhooks", "update"),
        guards=[needs("webhook_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        within: Within,
        webhook_id: FromPath[str],
        data: JSONBody[bodies.UpdateWebhook],
        caller: Caller,
        db: Db,
        settings: Config,
    ) -> bodies.Webhook:
        """Change where an endpoint is, what it is told of, and whether. Enabled again, it is told of what
        happens from then on; a replay tells it the rest.
        """
        async with db.transaction() as tx:
            return await _shown(
                tx, await _change(tx, within.reach, webhook_id, data, caller, settings)
            )

    @put(
        _ONE,
        operation_id=called("webhooks", "replace"),
        guards=[needs("webhook_update")],
        responses=ERRORS,
    )
    async def replace(
        self,
        within: Within,
        webhook_id: FromPath[str],
        data: JSONBody[bodies.UpdateWebhook],
        caller: Caller,
        db: Db,
        settings: Config,
    ) -> bodies.Webhook:
        """The same as PATCH: what is left out stays as it is (seed 001)."""
        async with db.transaction() as tx:
            return await _shown(
                tx, await _change(tx, within.reach, webhook_id, data, caller, settings)
            )

    @delete(
        _ONE,
        operation_id=called("webhooks", "delete"),
        guards=[needs("webhook_delete")],
        responses=ERRORS,
    )
    async def delete(self, within: Within, webhook_id: FromPath[str], db: Db) -> None:
        """Delete an endpoint. What was still to be delivered is not."""
        async with db.transaction() as tx:
            found = await find(tx, within.reach, webhook_id)
            await webhooks.delete(tx, within.reach, found.webhook_id)

    @patch(
        _CHANGE,
        operation_id=called("webhooks", "update_headers"),
        guards=[needs("webhook_update")],
        responses=ERRORS,
        status_code=204,
    )
    async def update_headers(
        self,
        within: Within,
        webhook_id: FromPath[str],
        data: JSONBody[bodies.UpdateWebhookHeaders],
        db: Db,
    ) -> None:
        """Set and remove headers that go with every delivery, all of them or none."""
        async with db.transaction() as tx:
            found = await find(tx, within.reach, webhook_id, lock=True)
            changed = webhooks.changed_headers(
                found.headers, data.headers or {}, data.remove_headers or ()
            )
            await webhooks.set_headers(tx, found, changed)

    @post(
        f"{_ONE}/secret/rotate",
        operation_id=called("webhooks", "rotate_secret"),
        guards=[needs("webhook_update")],
        responses=ERRORS,
        status_code=200,
    )
    async def rotate_secret(
        self,
        within: Within,
        webhook_id: FromPath[str],
        db: Db,
        once: Repeatable,
        data: JSONBody[bodies.RotateWebhookSecret | None] = None,
    ) -> Response[bodies.Webhook]:
        """Give an endpoint a new secret. The old one signs as well for a while, so that its receiver can
        change over without losing anything.
        """
        wanted = data or bodies.RotateWebhookSecret()
        async with db.transaction() as tx:
            claim = await once.claim(tx, "webhook", within.reach, ["rotate", webhook_id, wanted])
            found = await find(tx, within.reach, webhook_id, lock=True)
            if not claim.made:
                found = await webhooks.rotate(tx, found, _overlap(wanted.overlap_seconds))
                await idempotency.complete(tx, claim, found.webhook_id, new=False)
            shown = await _shown(tx, found)
        return answered(claim, shown, new=False)


class InboxWebhooks(_Webhooks):
    """Endpoints that are told what happens in one inbox."""

    path = "/inboxes/{inbox_id:str}/webhooks"
    dependencies: Dependencies | None = within(Provide(one_inbox))


class PodWebhooks(_Webhooks):
    """Endpoints that are told what happens in a pod, and those of its inboxes."""

    path = "/pods/{pod_id:str}/webhooks"
    dependencies: Dependencies | None = within(Provide(one_pod))


class Webhooks(_Webhooks):
    """Endpoints of all that the caller's key reaches. A new one is told of as much as the key reaches."""

    path = "/webhooks"
    dependencies: Dependencies | None = within(Provide(everywhere))


async def find(tx: Tx, reach: Reach, webhook_id: str, *, lock: bool = False) -> Webhook:
    """The endpoint that a path names. Raises `NotFound`."""
    return await webhooks.get(tx, reach, as_uuid(webhook_id, "webhook"), lock=lock)


def as_uuid(text: str, what: str) -> UUID:
    """The id in a path; what is none leads nowhere, which is `NotFound`."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no such {what}.", fix=f"Use the id of a {what}.") from None


def types_of(named: frozenset[EventType]) -> tuple[EventType, ...]:
    """Types in the order of the contract."""
    return tuple(each for each in EventType if each in named)


def check_told(types: Iterable[EventType], caller: Principal) -> None:
    """Raise `Forbidden` unless the caller may read all that events of these types tell. Changes of labels
    tell of every message, the hidden ones included.
    """
    told = frozenset(types)
    events.check_types(told, caller)
    if told - {EventType.DOMAIN_VERIFIED}:
        caller.require("message_read")
    for each in sorted(told & LABEL_TYPES):
        for permission in (f"label_{label}_read" for label in filing.HIDING):
            if not caller.may(permission):
                raise Forbidden(
                    f"{permission} is forbidden",
                    fix=f"Use a key with {permission}, or leave {each} out.",
                    code="missing_permission",
                )


async def _new(
    tx: Tx, reach: Reach, caller: Principal, settings: Settings, data: bodies.CreateWebhook
) -> NewWebhook:
    types = DEFAULT_TYPES
    if data.event_types is not None:
        types = types_of(events.check_types(data.event_types, caller))
    if not types:
        raise Invalid(
            "event_types",
            "event_types is empty.",
            fix="Name one at least, or leave it out for the standard ones.",
            detail="REQUIRED",
        )
    check_told(types, caller)
    return NewWebhook(
        url=webhooks.check_url(data.url, settings.outbound_networks),
        event_types=types,
        pod_ids=await _pods(tx, reach, "pod_ids", data.pod_ids),
        inbox_ids=await _inboxes(tx, reach, "inbox_ids", data.inbox_ids),
        headers=webhooks.check_headers(data.headers or {}),
        client_id=data.client_id,
        enabled=data.enabled is not False,
    )


async def _change(
    tx: Tx,
    reach: Reach,
    webhook_id: str,
    data: bodies.UpdateWebhook,
    caller: Principal,
    settings: Settings,
) -> Webhook:
    if data.says_nothing:
        raise Invalid(
            "url",
            "Nothing to update.",
            fix="Give url, event_types, enabled, or inboxes or pods to add or remove.",
            detail="REQUIRED",
        )
    current = await find(tx, reach, webhook_id, lock=True)
    changed = webhooks.patched(current, await _patch(tx, current.reach, data, caller, settings))
    if not data.only_disables:
        check_told(changed.event_types, caller)
    return await webhooks.update(tx, changed)


async def _patch(
    tx: Tx, reach: Reach, data: bodies.UpdateWebhook, caller: Principal, settings: Settings
) -> WebhookPatch:
    url = data.url
    if url is not UNSET:
        url = webhooks.check_url(url, settings.outbound_networks)
    return WebhookPatch(
        url=url,
        event_types=types_of(events.check_types(data.event_types or (), caller)),
        enabled=data.enabled,
        pods=Names(
            put=None if data.pod_ids is UNSET else await _pods(tx, reach, "pod_ids", data.pod_ids),
            add=await _pods(tx, reach, "add_pod_ids", data.add_pod_ids),
            remove=await _leaving_pods(tx, reach, data.remove_pod_ids),
        ),
        inboxes=Names(
            put=None
            if data.inbox_ids is UNSET
            else await _inboxes(tx, reach, "inbox_ids", data.inbox_ids),
            add=await _inboxes(tx, reach, "add_inbox_ids", data.add_inbox_ids),
            remove=[inboxes.parse_id(each) for each in data.remove_inbox_ids or ()],
        ),
    )


_Given = Sequence[str] | UnsetType | None


async def _inboxes(tx: Tx, reach: Reach, field: str, named: _Given) -> list[UUID]:
    """The inboxes of these addresses or ids. Raises `NotFound` beyond reach, and `Invalid` TOO_MANY."""
    webhooks.check_count(field, named or ())
    return [(await inboxes.get(tx, reach, each)).inbox_id for each in named or ()]


async def _pods(tx: Tx, reach: Reach, field: str, named: _Given) -> list[UUID]:
    """The pods of these ids or client_ids. Raises `NotFound` beyond reach, and `Invalid`."""
    if named and reach.inbox_id is not None:
        raise Invalid(
            field, "A webhook of an inbox has no pods to choose from.", fix=f"Leave {field} out."
        )
    webhooks.check_count(field, named or ())
    return [await access.find_pod(tx, reach, each) for each in named or ()]


async def _leaving_pods(tx: Tx, reach: Reach, named: _Given) -> list[UUID]:
    """The same for pods that may be gone: one that is not known is in no filter."""
    webhooks.check_count("remove_pod_ids", named or ())
    found: list[UUID] = []
    for each in named or ():
        try:
            found.append(await access.find_pod(tx, reach, each))
        except (NotFound, Forbidden):
            with contextlib.suppress(ValueError):
                found.append(UUID(each))
    return found


async def _shown(tx: Tx, found: Webhook) -> bodies.Webhook:
    return (await _all_shown(tx, found.organization_id, [found]))[0]


async def _all_shown(
    tx: Tx, organization_id: UUID, found: Sequence[Webhook]
) -> list[bodies.Webhook]:
    named = {each for webhook in found for each in (*webhook.inbox_ids, webhook.inbox_id) if each}
    theirs = await inboxes.get_each(tx, organization_id, named) if named else {}
    addresses = {inbox_id: inbox.address for inbox_id, inbox in theirs.items()}
    return [bodies.webhook(each, addresses) for each in found]


def _overlap(seconds: int | None) -> timedelta:
    """How long two secrets sign. What is out of bounds `rotate` refuses."""
    if seconds is None:
        return webhooks.DEFAULT_OVERLAP
    return timedelta(seconds=max(-1, min(seconds, _FOREVER)))


_FOREVER = 10**9
"""Seconds; more than any overlap, and less than what a `timedelta` holds."""
