"""Where a request looks: in one inbox, in one pod, or everywhere its key reaches.

The same handlers stand below three paths; the dependency `within` tells them which, and is never wider
than the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, SkipValidation
from litestar.types import Dependencies

from agentmail_cp import access, inboxes
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx
from agentmail_cp.events import EventType, Subscribed
from agentmail_cp.inboxes import Inbox
from agentmail_cp.web.inject import Caller, Db
from agentmail_cp.web.paths import restore


class Scope(msgspec.Struct, frozen=True):
    """What a path and the caller's key together reach."""

    reach: Reach
    inbox: Inbox | None = None

    @property
    def one(self) -> Inbox:
        """The inbox, where the path names one."""
        if self.inbox is None:
            raise LookupError("This path names no inbox.")
        return self.inbox

    @property
    def inbox_id(self) -> UUID | None:
        return self.inbox.inbox_id if self.inbox else None

    @property
    def pod_id(self) -> UUID | None:
        """The pod, where no single inbox of it is meant."""
        return None if self.inbox else self.reach.pod_id


Within = NamedDependency[SkipValidation[Scope]]


def within(scope: Provide) -> Dependencies:
    """The dependencies of handlers that look in this scope."""
    return {"within": scope}


async def one_inbox(inbox_id: FromPath[str], caller: Caller, db: Db) -> Scope:
    """The scope of `/inboxes/{inbox_id}/…`."""
    async with db.reading() as tx:
        return _of_inbox(await inboxes.get(tx, caller.reach, restore(inbox_id)))


async def one_pod(pod_id: FromPath[str], caller: Caller, db: Db) -> Scope:
    """The scope of `/pods/{pod_id}/…`."""
    async with db.reading() as tx:
        found = await access.find_pod(tx, caller.reach, restore(pod_id))
    return Scope(Reach(caller.organization_id, found))


async def everywhere(caller: Caller, db: Db) -> Scope:
    """The scope of paths that name neither: all that the key reaches."""
    if caller.reach.inbox_id is None:
        return Scope(caller.reach)
    async with db.reading() as tx:
        inbox = await inboxes.get(tx, caller.reach, inboxes.public_id(caller.reach.inbox_id))
    return _of_inbox(inbox)


def _of_inbox(inbox: Inbox) -> Scope:
    return Scope(inbox.reach, inbox)


async def hold(tx: Tx, reach: Reach) -> None:
    """Keep the inbox or pod that something is put into from being deleted meanwhile. Raises `NotFound` when
    it is gone already.
    """
    if reach.inbox_id is not None:
        await inboxes.get(tx, reach, inboxes.public_id(reach.inbox_id), lock=True)
    elif reach.pod_id is not None:
        await access.hold_pod(tx, reach.organization_id, reach.pod_id)


async def subscribed(
    tx: Tx,
    reach: Reach,
    types: frozenset[EventType],
    *,
    inbox_ids: Sequence[str],
    pod_ids: Sequence[str],
) -> Subscribed:
    """What a caller wants to be told who names inboxes and pods, or none for all within reach. Raises
    `NotFound` for one beyond it.
    """
    return Subscribed(
        reach=reach,
        types=types,
        inbox_ids=frozenset([(await inboxes.get(tx, reach, each)).inbox_id for each in inbox_ids]),
        pod_ids=frozenset([await access.find_pod(tx, reach, each) for each in pod_ids]),
    )


def called(kind: str, name: str) -> Callable[..., str]:
    """The operation id of a handler below each of the paths of a kind (`threads`, `api-keys`): that of the
    SDK's call.
    """
    noun = kind.replace("-", "_")

    def operation_id(_handler: object, _method: object, path: Sequence[object]) -> str:
        first = next(each for each in path if each in {"inboxes", "pods", kind})
        return f"{noun}.{name}" if first == kind else f"{first}.{noun}.{name}"

    return operation_id
