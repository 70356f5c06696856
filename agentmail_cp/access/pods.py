"""Pods: the parts of an organisation that keys can be held to. Owns the table `pod`.

A pod goes by its id or by the client_id it was made with.
"""

from __future__ import annotations

from uuid import UUID

from agentmail_cp.access.reach import Reach
from agentmail_cp.db import Tx
from agentmail_cp.errors import NotFound


async def default_pod(tx: Tx, organization_id: UUID) -> UUID:
    """The pod that holds what is made without naming one."""
    row = await (
        await tx.execute(
            "select pod_id from pod where organization_id = %(organization_id)s and is_default",
            {"organization_id": organization_id},
        )
    ).fetchone()
    if row is None:
        raise NotFound("There is no such organization.")
    return row["pod_id"]


async def find_pod(tx: Tx, reach: Reach, pod: str) -> UUID:
    """The id of the pod within reach that goes by this id or client_id; `NotFound` otherwise, and
    `Forbidden` for whoever reaches a single inbox.
    """
    reach.require_pod()
    row = await (
        await tx.execute(
            "select pod_id from pod where organization_id = %(organization_id)s"
            " and (pod_id = %(pod_id)s or client_id = %(client_id)s)"
            # Nobody can hide a pod behind another whose client_id looks like its id.
            " order by pod_id <> %(pod_id)s limit 1",
            {
                "organization_id": reach.organization_id,
                "pod_id": _as_uuid(pod),
                # No client_id holds anything else, and PostgreSQL takes no NUL.
                "client_id": pod if pod.isascii() and pod.isprintable() else None,
            },
        )
    ).fetchone()
    if row is None or reach.pod_id not in (None, row["pod_id"]):
        raise NotFound("There is no such pod.")
    return row["pod_id"]


async def hold_pod(tx: Tx, organization_id: UUID, pod_id: UUID) -> None:
    """Keep a pod from being deleted until this transaction ends, for whoever puts something into it.

    Raises `NotFound` when it is gone already.
    """
    cursor = await tx.execute(
        "select 1 from pod where organization_id = %(organization_id)s and pod_id = %(pod_id)s"
        " for key share",
        {"organization_id": organization_id, "pod_id": pod_id},
    )
    if cursor.rowcount == 0:
        raise NotFound("There is no such pod.")


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
