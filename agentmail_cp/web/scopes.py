"""Where a request looks for threads and drafts: in one inbox, in one pod or in the whole organisation.

The same handlers stand below three paths; the dependency `within` tells them which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec
from litestar.di import NamedDependency
from litestar.params import FromPath, SkipValidation

from agentmail_cp import access, inboxes
from agentmail_cp.inboxes import Inbox
from agentmail_cp.web.inject import Caller, Db
from agentmail_cp.web.paths import restore


class Scope(msgspec.Struct, frozen=True):
    """In one inbox, in one pod, or, without either, everywhere."""

    inbox: Inbox | None = None
    pod_id: UUID | None = None

    @property
    def inbox_id(self) -> UUID | None:
        return self.inbox.inbox_id if self.inbox else None


Within = NamedDependency[SkipValidation[Scope]]


async def one_inbox(inbox_id: FromPath[str], caller: Caller, db: Db) -> Scope:
    """The scope of `/inboxes/{inbox_id}/…`."""
    async with db.reading() as tx:
        return Scope(inbox=await inboxes.get(tx, caller.organization_id, restore(inbox_id)))


async def one_pod(pod_id: FromPath[str], caller: Caller, db: Db) -> Scope:
    """The scope of `/pods/{pod_id}/…`."""
    async with db.reading() as tx:
        return Scope(pod_id=await access.find_pod(tx, caller.organization_id, restore(pod_id)))


def everywhere() -> Scope:
    """The scope of paths that name neither."""
    return Scope()


def called(kind: str, name: str) -> Callable[..., str]:
    """The operation id of a handler below each of the paths of a kind (`threads`, `drafts`): that of the
    SDK's call.
    """

    def operation_id(_handler: object, _method: object, path: Sequence[object]) -> str:
        first = next(each for each in path if each in {"inboxes", "pods", kind})
        return f"{kind}.{name}" if first == kind else f"{first}.{kind}.{name}"

    return operation_id
