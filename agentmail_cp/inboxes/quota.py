"""How many inboxes may live at once, exactly, however many requests and replicas ask for one.

An inbox lives from the moment its address is reserved until it is deleted; the half-made and the
half-deleted count, as both may still become active. Nothing is kept but the rows themselves, so that what
fails or is abandoned gives its place back by going. Where there is a limit, requests count one after the
other: whoever counts holds the row of the organisation or of the pod, in this order.
"""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from agentmail_cp import access
from agentmail_cp.db import Tx
from agentmail_cp.errors import LimitExceeded, NotFound
from agentmail_cp.limits import Limits


async def count(tx: Tx, organization_id: UUID, pod_id: UUID | None = None) -> int:
    """How many inboxes live in an organisation, or in one of its pods."""
    query: LiteralString = (
        "select count(*) as living from inbox where organization_id = %(organization_id)s"
        " and state in ('creating', 'active', 'deleting')"
    )
    if pod_id is not None:
        query += " and pod_id = %(pod_id)s"
    cursor = await tx.execute(query, {"organization_id": organization_id, "pod_id": pod_id})
    row = await cursor.fetchone()
    return row["living"] if row else 0


async def obstacle(
    tx: Tx, organization_id: UUID, pod_id: UUID, limits: Limits
) -> LimitExceeded | None:
    """What stands in the way of one more inbox in this pod, if anything does.

    Until the transaction ends, the pod cannot be deleted, and nobody else takes the place that was found.
    Raises `NotFound` for a pod that is gone.
    """
    if limits.inboxes_per_organization:
        await access.get_organization(tx, organization_id, lock=True)
    most = await _most_in_pod(tx, organization_id, pod_id, limits)
    if most and await count(tx, organization_id, pod_id) >= most:
        return _reached("pod", most, "Delete an inbox, or make this one in another pod.")
    most = limits.inboxes_per_organization
    if most and await count(tx, organization_id) >= most:
        return _reached(
            "organization", most, "Delete an inbox, or ask the operator of this server for more."
        )
    return None


async def _most_in_pod(tx: Tx, organization_id: UUID, pod_id: UUID, limits: Limits) -> int:
    """The limit of a pod, which is held: alone where it has one, beside others where it has none."""
    own = await _own_limit(tx, organization_id, pod_id, " for key share")
    if own or limits.inboxes_per_pod:
        own = await _own_limit(tx, organization_id, pod_id, " for no key update")
    return min((each for each in (own, limits.inboxes_per_pod) if each), default=0)


async def _own_limit(tx: Tx, organization_id: UUID, pod_id: UUID, lock: LiteralString) -> int:
    cursor = await tx.execute(
        "select coalesce(inbox_limit, 0) as most from pod"
        f" where organization_id = %(organization_id)s and pod_id = %(pod_id)s{lock}",
        {"organization_id": organization_id, "pod_id": pod_id},
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFound("There is no such pod.")
    return row["most"]


def _reached(kind: str, most: int, fix: str) -> LimitExceeded:
    return LimitExceeded(f"This {kind} has as many inboxes as it may have: {most}.", fix=fix)
