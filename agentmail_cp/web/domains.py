"""Routes of domains, of the organisation and of a pod: one set of handlers. `{domain_id}` is the id or the
name.

A key of a pod sees the domains of its pod and those of all pods, and changes only the former. Nothing here
waits for DNS but the look for another mail provider when a domain is added: checks are made by the workers.
"""

from __future__ import annotations

from litestar import Controller, MediaType, Response, delete, get, patch, post
from litestar.di import Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody
from litestar.types import Dependencies

from agentmail_cp import bodies, domains, idempotency, limits, pages
from agentmail_cp.domains import dkim
from agentmail_cp.web import naming as work
from agentmail_cp.web.auth import needs
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.idempotency import Repeatable, answered, making
from agentmail_cp.web.inject import Asked, Config, Db, Naming, Server
from agentmail_cp.web.listing import listing
from agentmail_cp.web.paths import restore
from agentmail_cp.web.scopes import Within, called, everywhere, one_pod, within

_ONE = "/{domain_id:str}"
_ZONE = {200: ResponseSpec(str, media_type=MediaType.TEXT, generate_examples=False), **ERRORS}


class _Domains(Controller):
    """What can be done with domains in any scope."""

    tags = ("Domains",)

    @post(
        operation_id=called("domains", "create"),
        guards=[needs("domain_create")],
        responses=making(bodies.Domain),
    )
    async def create(
        self,
        within: Within,
        db: Db,
        settings: Config,
        naming: Naming,
        once: Repeatable,
        data: JSONBody[bodies.CreateDomain],
    ) -> Response[bodies.Domain]:
        """Add a domain, and be told every DNS record it needs. Adding one captures nobody's mail: it works
        once its records were seen. Several organizations may add a name; the first that proves it has it.
        """
        within.reach.require_pod()
        async with db.reading() as tx:
            may = await limits.of(tx, settings, within.reach.organization_id)
        async with once.held(db, "domain", within.reach, data) as claim:
            if claim.made:
                again = work.get_shown(db, naming, within.reach, claim.made.resource_id)
                return answered(claim, await idempotency.replay(again))
            made = await work.add(db, naming, within.reach, data, may, claim)
        return answered(claim, made)

    @get(
        operation_id=called("domains", "list"),
        guards=[needs("domain_read")],
        responses=ERRORS,
        operation_class=listing("limit", "page_token", "ascending"),
    )
    async def list(self, asked: Asked, within: Within, db: Db) -> bodies.ListDomains:
        """List domains, newest first: those of all pods are in the list of each."""
        limit = pages.limit(asked.text("limit"))
        async with db.reading() as tx:
            found, token = await domains.list_page(
                tx,
                within.reach,
                limit=limit,
                page_token=asked.text("page_token"),
                ascending=asked.flag("ascending"),
            )
        shown = [bodies.domain_item(each) for each in found]
        return bodies.ListDomains(len(shown), limit, shown, token)

    @get(
        f"{_ONE}/zone-file",
        operation_id=called("domains", "get_zone_file"),
        guards=[needs("domain_read")],
        responses=_ZONE,
        media_type=MediaType.TEXT,
    )
    async def get_zone_file(
        self, domain_id: FromPath[str], within: Within, db: Db, naming: Naming
    ) -> Response[str]:
        """Get the records as a zone file (RFC 1035), which most DNS providers can import."""
        async with db.reading() as tx:
            found = await domains.get(tx, within.reach, restore(domain_id))
            records = await work.records_of(tx, naming, found)
        named = f'attachment; filename="{found.name}.zone"'
        return Response(
            domains.zone_file(found.name, records),
            media_type=MediaType.TEXT,
            headers={"Content-Disposition": named},
        )

    @get(
        f"{_ONE}/setup-link",
        operation_id=called("domains", "get_setup_link"),
        guards=[needs("domain_read")],
        responses=ERRORS,
    )
    async def get_setup_link(
        self, domain_id: FromPath[str], within: Within, db: Db
    ) -> bodies.SetupLink:
        """Ask for a link by which a DNS provider publishes the records itself (Domain Connect). That is not
        offered here: `supported` is false, which sends clients to the records.
        """
        async with db.reading() as tx:
            await domains.get(tx, within.reach, restore(domain_id))
        return bodies.SetupLink(supported=False)

    @post(
        f"{_ONE}/verify",
        operation_id=called("domains", "verify"),
        guards=[needs("domain_update")],
        responses=ERRORS,
        status_code=204,
    )
    async def verify(self, domain_id: FromPath[str], within: Within, db: Db) -> None:
        """Have the records looked up now. The domain is VERIFYING while that lasts, some seconds; what was
        seen is in its records then, and `domain.verified` is an event.
        """
        async with db.transaction() as tx:
            found = await domains.get(tx, within.reach, restore(domain_id))
            await domains.check_soon(tx, found)

    @post(
        f"{_ONE}/dkim/rotate",
        operation_id=called("domains", "rotate_dkim"),
        guards=[needs("domain_update")],
        responses=ERRORS,
        status_code=200,
    )
    async def rotate_dkim(
        self, domain_id: FromPath[str], within: Within, db: Db, naming: Naming
    ) -> bodies.Domain:
        """Make new DKIM keys. Their records come beside the present ones; once they were seen the new keys
        sign, and the records of the old ones are asked for until mail signed with them has arrived. While
        there are new keys already, nothing changes.
        """
        async with db.reading() as tx:
            await domains.get(tx, within.reach, restore(domain_id))
        pairs = await dkim.new_pairs()
        async with db.transaction() as tx:
            found = await domains.get_own(tx, within.reach, restore(domain_id))
            await domains.rotate(tx, found, pairs, naming.sealing_key)
            return await work.shown(tx, naming, found)

    @get(
        _ONE,
        operation_id=called("domains", "get"),
        guards=[needs("domain_read")],
        responses=ERRORS,
    )
    async def get(
        self, domain_id: FromPath[str], within: Within, db: Db, naming: Naming
    ) -> bodies.Domain:
        """Get one domain, with what the last check saw of each record."""
        return await work.get_shown(db, naming, within.reach, restore(domain_id))

    @patch(
        _ONE,
        operation_id=called("domains", "update"),
        guards=[needs("domain_update")],
        responses=ERRORS,
    )
    async def update(
        self,
        domain_id: FromPath[str],
        data: JSONBody[bodies.UpdateDomain],
        within: Within,
        db: Db,
        server: Server,
        naming: Naming,
    ) -> bodies.Domain:
        """Change what a domain does. One that begins to receive, or to have sub-domains, needs another
        record: it is PENDING until that was seen, and goes on working meanwhile.
        """
        async with db.transaction() as tx:
            wanted = await work.patch_of(tx, within.reach, restore(domain_id), data)
            changed = await domains.update(tx, within.reach, restore(domain_id), wanted)
            await domains.check_soon(tx, changed)
            shown = await work.shown(tx, naming, changed)
        await work.tell(db, server, naming, changed)
        return shown

    @delete(
        _ONE,
        operation_id=called("domains", "delete"),
        guards=[needs("domain_delete")],
        responses=ERRORS,
    )
    async def delete(
        self, domain_id: FromPath[str], within: Within, db: Db, server: Server, naming: Naming
    ) -> None:
        """Delete a domain. Its inboxes stay readable, and neither send nor receive any more. Somebody else
        may have the name after that, and none of these addresses.
        """
        async with db.transaction() as tx:
            deleted = await domains.delete(tx, within.reach, restore(domain_id))
        await work.tell(db, server, naming, deleted)


class Domains(_Domains):
    """Domains of all that the key reaches. One that is added belongs to the key's pod, or to all pods."""

    path = "/domains"
    dependencies: Dependencies | None = within(Provide(everywhere))


class PodDomains(_Domains):
    """Domains of one pod. One that is added belongs to it alone."""

    path = "/pods/{pod_id:str}/domains"
    dependencies: Dependencies | None = within(Provide(one_pod))
