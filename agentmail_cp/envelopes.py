"""Envelopes: subject and addresses of every message, folded for search by substring.

Owns the table `envelope`, one row for each row of `message`, written and removed with it under the same
lock; changing labels leaves it alone. It holds nothing the message's row does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from agentmail_cp.db import Tx
from agentmail_cp.highlights import fold
from agentmail_cp.mailserver import DocumentId


async def add(tx: Tx, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make messages findable; `rows` are those `filing.row` made."""
    async with tx.cursor() as cursor:
        await cursor.executemany(
            "insert into envelope (organization_id, inbox_id, document_id, subject, people)"
            " values (%(organization_id)s, %(inbox_id)s, %(document_id)s, %(subject)s, %(people)s)",
            [_envelope(row) for row in rows],
        )


def _envelope(row: Mapping[str, Any]) -> dict[str, object]:
    # No word of a query holds a blank, so none is found across two addresses.
    people = "\n".join([row["sender"], *row["to"], *row["cc"], *row["bcc"]])
    return {
        "organization_id": row["organization_id"],
        "inbox_id": row["inbox_id"],
        "document_id": row["document_id"],
        "subject": fold(row["subject"] or ""),
        "people": fold(people),
    }


async def move(tx: Tx, row: Mapping[str, Any], old: DocumentId) -> None:
    """Let the message that was `old` be the document `row` says."""
    await tx.execute(
        "update envelope set document_id = %(document_id)s, people = %(people)s"
        " where organization_id = %(organization_id)s and inbox_id = %(inbox_id)s"
        " and document_id = %(old)s",
        _envelope(row) | {"old": old},
    )


async def remove(
    tx: Tx, *, organization_id: UUID, inbox_id: UUID, document_ids: Iterable[DocumentId]
) -> None:
    """Forget messages."""
    await tx.execute(
        "delete from envelope where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s and document_id = any(%(document_ids)s)",
        {
            "organization_id": organization_id,
            "inbox_id": inbox_id,
            "document_ids": list(document_ids),
        },
    )


async def erase(tx: Tx, *, organization_id: UUID, inbox_id: UUID) -> None:
    """Forget every message of an inbox."""
    await tx.execute(
        "delete from envelope where organization_id = %(organization_id)s"
        " and inbox_id = %(inbox_id)s",
        {"organization_id": organization_id, "inbox_id": inbox_id},
    )
