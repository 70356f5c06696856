"""What tests of limits do over and over."""

from __future__ import annotations

from uuid import UUID

from agentmail_cp import limits
from agentmail_cp.db import Database


async def limit(db: Database, organization_id: UUID, **numbers: int) -> None:
    """Give an organisation limits of its own."""
    async with db.transaction() as tx:
        for name, value in numbers.items():
            await limits.set_limit(tx, organization_id, name, value)


async def counts(db: Database, organization_id: UUID) -> dict[str, int]:
    """What is counted for an organisation, by kind, over all its windows; nothing that is 0."""
    async with db.reading() as tx:
        rows = await (
            await tx.execute(
                "select kind, sum(count)::int as total from send_count"
                " where organization_id = %(organization_id)s group by kind having sum(count) <> 0",
                {"organization_id": organization_id},
            )
        ).fetchall()
    return {row["kind"]: row["total"] for row in rows}
