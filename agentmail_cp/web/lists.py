"""Routes of allow and block lists, of an inbox, a pod and the organisation: one set of handlers.

Each path leads to the lists of its own scope only; a key of one pod or inbox finds its own lists where others
find the organisation's. What a scope inherits is not shown here: `lists` says how they work together.
"""

from __future__ import annotations

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody, SkipValidation
from litestar.types import Dependencies

from agentmail_cp import bodies, idempotency, limits, lists, pages
from agentmail_cp.lists import NamedList
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import Repeatable, answered, making
from agentmail_cp.web.inject import Asked, Config, Db
from agentmail_cp.web.listing import listing
from agentmail_cp.web.paths import restore
from agentmail_cp.web.scopes import Within, called, everywhere, hold, one_inbox, one_pod


class Asking(msgspec.Struct, frozen=True):
    """The list a path names, and the address of the inbox it belongs to, if it is one's."""

    named: NamedList
    address: str | None

    def shown(self, entry: lists.Entry) -> bodies.ListEntry:
        return bodies.list_entry(entry, self.address)


async def provide_list(
    within: Within,
    direction: FromPath[lists.Direction],
    type: FromPath[lists.ListType],  # noqa: A002 - the contract's name of it
) -> Asking:
    """The dependency `at`."""
    inbox = within.inbox
    return Asking(NamedList(within.reach, direction, type), inbox.address if inbox else None)


At = NamedDependency[SkipValidation[Asking]]


class _Lists(Controller):
    """What can be done with the lists of any scope."""

    tags = ("Lists",)

    @post(
        operation_id=called("lists", "create"),
        guards=[needs("list_entry_create")],
        responses=making(bodies.ListEntry),
    )
    async def create(
        self,
        at: At,
        data: JSONBody[bodies.CreateListEntry],
        db: Db,
        settings: Config,
        once: Repeatable,
    ) -> Response[bodies.ListEntry]:
        """Put an address or a domain into a list. One that is in it stays as it is (200 instead of 201)."""
        said = [at.named.direction, at.named.type, data]
        async with db.transaction() as tx:
            claim = await once.claim(tx, "list_entry", at.named.whose, said)
            if claim.made:
                again = lists.get(tx, at.named, claim.made.resource_id)
                return answered(claim, at.shown(await idempotency.replay(again)))
            await hold(tx, at.named.whose)
            held_to = await limits.of(tx, settings, at.named.whose.organization_id)
            entry, new = await lists.create(
                tx, at.named, data.entry, data.reason, most=held_to.list_entries_per_organization
            )
            await idempotency.complete(tx, claim, entry.entry, new=new)
        return answered(claim, at.shown(entry), new=new)

    @get(
        operation_id=called("lists", "list"),
        guards=[needs("list_entry_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token"),
    )
    async def list(self, at: At, asked: Asked, db: Db) -> bodies.ListListEntries:
        """List the entries of a list by their spelling."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            found, token = await lists.list_page(
                tx, at.named, limit=limit, page_token=asked.text("page_token")
            )
        return bodies.ListListEntries(len(found), limit, [at.shown(each) for each in found], token)

    @get(
        "/{entry:str}",
        operation_id=called("lists", "get"),
        guards=[needs("list_entry_read")],
        responses=ERRORS,
    )
    async def get(self, at: At, entry: FromPath[str], db: Db) -> bodies.ListEntry:
        """Get one entry of a list."""
        async with db.reading() as tx:
            return at.shown(await lists.get(tx, at.named, restore(entry)))

    @delete(
        "/{entry:str}",
        operation_id=called("lists", "delete"),
        guards=[needs("list_entry_delete")],
        responses=ERRORS,
    )
    async def delete(self, at: At, entry: FromPath[str], db: Db) -> None:
        """Take an entry off a list. One that is `read_only` stays."""
        async with db.transaction() as tx:
            await lists.delete(tx, at.named, restore(entry))


_OF = "/lists/{direction:str}/{type:str}"


def _dependencies(scope: Provide) -> Dependencies:
    return {"within": scope, "at": Provide(provide_list)}


class InboxLists(_Lists):
    """Whom one inbox may write to, hear from and get answers from."""

    path = "/inboxes/{inbox_id:str}" + _OF
    dependencies: Dependencies | None = _dependencies(Provide(one_inbox))


class PodLists(_Lists):
    """The lists for all inboxes of a pod."""

    path = "/pods/{pod_id:str}" + _OF
    dependencies: Dependencies | None = _dependencies(Provide(one_pod))


class Lists(_Lists):
    """The lists for all inboxes of the organisation, or of the pod or inbox the key is for."""

    path = _OF
    dependencies: Dependencies | None = _dependencies(Provide(everywhere))
