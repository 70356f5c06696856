"""Releasing: the operator takes a proved name from an organisation, as when the domain was sold or lapsed.

A release is a deletion and a new claim in one transaction: the mail server lets go of the name as of any that
is deleted (`settlement`), and the organisation is left with a claim that proves nothing. Its token and keys
are new, or records that are still in DNS would prove the name again before its next owner did.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import LiteralString

from agentmail_cp import addresses
from agentmail_cp.access import Reach
from agentmail_cp.db import Tx, fetch_one
from agentmail_cp.domains import dkim, keys
from agentmail_cp.domains.claiming import NewDomain, create
from agentmail_cp.domains.domain import COLUMNS, Domain
from agentmail_cp.domains.settlement import end
from agentmail_cp.errors import NotFound


async def release(tx: Tx, name: str, pairs: Iterable[dkim.Pair], sealing_key: bytes) -> Domain:
    """Take a name from whoever proved it; the claim as it was. What replaces it has these keys, the same pod
    and flags, and no catch-all. The mail server is told by the loop.

    Raises `Invalid` for what is no name, and `NotFound` when nobody has proved it.
    """
    name = addresses.check_domain(name.strip().removesuffix("."), "name")
    held = await fetch_one(tx, Domain, _HOLDER, {"name": name})
    if held is None:
        raise NotFound(
            f"Nobody has proved {name}, or it is being let go of already.",
            fix="`agentmail-cp domains list` shows whose names are verified.",
        )
    await end(tx, held)
    new = NewDomain(
        name=name,
        feedback_enabled=held.feedback_enabled,
        inbound_enabled=held.inbound_enabled,
        subdomains_enabled=held.subdomains_enabled,
    )
    made = await create(tx, Reach(held.organization_id, held.pod_id), new, most=0)
    await keys.add(tx, made.organization_id, made.domain_id, pairs, sealing_key)
    return held


_HOLDER: LiteralString = (
    f"select {COLUMNS} from domain where name = %(name)s and proved_at is not null"
    " and deleted_at is null for no key update"
)
