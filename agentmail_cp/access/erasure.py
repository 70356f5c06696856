"""Erasing an organisation: every row of every table that names it, whoever owns the table.

Only for what was nobody's: the organisation of `agentmail-cp doctor`. Says nothing to the mail server.
"""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

from psycopg import sql

from agentmail_cp.db import Tx

_TABLES: LiteralString = (
    "select table_name from information_schema.columns join information_schema.tables"
    " using (table_schema, table_name) where column_name = 'organization_id'"
    " and table_schema = current_schema() and table_type = 'BASE TABLE'"
    # Whoever writes of an inbox holds its row in the first of them, or looks it up in the second.
    " order by table_name <> 'inbox_sync', table_name <> 'inbox', table_name"
)


async def erase_organization(tx: Tx, organization_id: UUID) -> int:
    """Remove an organisation and all it has; returns how many rows that were.

    Where workers are about its rows, let each statement stand alone (`db.reading`): they take rows of several
    tables in other orders. What they were writing meanwhile is left: once this returns 0, nothing is.
    """
    rows = await (await tx.execute(_TABLES)).fetchall()
    removed = 0
    for row in rows:
        cursor = await tx.execute(
            sql.SQL("delete from {} where organization_id = %(organization_id)s").format(
                sql.Identifier(row["table_name"])
            ),
            {"organization_id": organization_id},
        )
        removed += cursor.rowcount
    return removed
