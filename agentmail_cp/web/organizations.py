"""The route of the caller's organisation."""

from __future__ import annotations

from litestar import get

from agentmail_cp import access, bodies, domains, inboxes, limits, pods
from agentmail_cp.web.errors import ERRORS
from agentmail_cp.web.inject import Caller, Config, Db


@get("/organizations", operation_id="organizations.get", tags=["Organizations"], responses=ERRORS)
async def get_organization(caller: Caller, db: Db, settings: Config) -> bodies.Organization:
    """Get the organisation of the key, which must be one of the whole organisation."""
    caller.reach.require_organization()
    async with db.reading() as tx:
        found = await access.get_organization(tx, caller.organization_id)
        living = await inboxes.count(tx, caller.organization_id)
        claimed = await domains.count(tx, caller.organization_id)
        made = await pods.count(tx, caller.organization_id)
        may = await limits.of(tx, settings, caller.organization_id)
    return bodies.organization(
        found, inbox_count=living, domain_count=claimed, pod_count=made, limits=may
    )
