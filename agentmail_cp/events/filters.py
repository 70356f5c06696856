"""PURE: which events somebody is told, and which they may ask for.

One rule for webhooks, WebSocket, `/events` and waiting: within reach, of the types named, and, where inboxes
or pods are named, of any of these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from uuid import UUID

import msgspec

from agentmail_cp.access import Principal, Reach
from agentmail_cp.errors import Forbidden, Invalid
from agentmail_cp.events.event import DEFAULT_TYPES, PROTECTED, Event, EventType

LOGGED_TYPES: Final = frozenset(EventType) - frozenset(PROTECTED)
"""What `/events` shows where no types are named: everything that takes no permission of its own."""

HOSTED_ONLY: Final = frozenset(
    {
        "message.opened",
        *(f"message.security.{each}" for each in ("completed", "review", "override")),
        *(
            f"calendar.event.{each}"
            for each in ("created", "updated", "deleted", "responded", "starting", "ending")
        ),
    }
)
"""Types of the contract that only the hosted service knows: nothing here could ever cause them."""


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to be told. `inbox_ids` and `pod_ids` add up; both empty is all in reach."""

    reach: Reach
    types: frozenset[EventType] = frozenset(DEFAULT_TYPES)
    inbox_ids: frozenset[UUID] = frozenset()
    pod_ids: frozenset[UUID] = frozenset()

    def wants(self, event: Event) -> bool:
        """Whether this event is among it."""
        return event.type in self.types and self._names(event) and _within(self.reach, event)

    def _names(self, event: Event) -> bool:
        if not self.inbox_ids and not self.pod_ids:
            return True
        return event.inbox_id in self.inbox_ids or event.pod_id in self.pod_ids


def _within(reach: Reach, event: Event) -> bool:
    return (
        reach.organization_id == event.organization_id
        and reach.pod_id in (None, event.pod_id)
        and reach.inbox_id in (None, event.inbox_id)
    )


def check_types(
    names: Iterable[str], caller: Principal, *, field: str = "event_types"
) -> frozenset[EventType]:
    """The types of these names; none for no names. `field` is where they stand in the request.

    Raises `Invalid` UNKNOWN_EVENT_TYPE or HOSTED_EVENT_TYPE, and `Forbidden` (code `missing_permission`) for
    a type that takes a permission which the caller does not have.
    """
    types = frozenset(_known(name, field) for name in names)
    for each in sorted(types):
        permission = PROTECTED.get(each)
        if permission is not None and not caller.may(permission):
            raise Forbidden(
                f"{permission} is forbidden",
                fix=f"Use a key with {permission}, or leave {each} out.",
                code="missing_permission",
            )
    return types


def _known(name: str, field: str) -> EventType:
    try:
        return EventType(name)
    except ValueError:
        pass
    if name in HOSTED_ONLY:
        raise Invalid(
            field,
            f"{name} is a type of the hosted service only; nothing here causes it.",
            fix="Leave it out.",
            detail="HOSTED_EVENT_TYPE",
        )
    raise Invalid(
        field,
        f"{field} names a type of event that does not exist.",
        fix=f"Use any of {', '.join(EventType)}.",
        detail="UNKNOWN_EVENT_TYPE",
    )
