"""An inbox without a mail server: rows as `inboxes` leaves them, and mails as intake reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from agentmail_cp import access, messages
from agentmail_cp.db import Database
from agentmail_cp.mailserver import Address, DocumentId, Folder, Mail
from agentmail_cp.messages import Place

START = datetime(2026, 1, 1, tzinfo=UTC)


async def an_inbox(db: Database) -> Place:
    """A new organisation with one active inbox."""
    async with db.transaction() as tx:
        organization = await access.create_organization(tx, "Test")
        place = Place(
            uuid4(),
            organization.organization_id,
            await access.default_pod(tx, organization.organization_id),
            "agents.test",
        )
        row = {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "pod_id": place.pod_id,
            "name": place.inbox_id.hex,
        }
        await tx.execute(
            "insert into inbox (inbox_id, organization_id, pod_id, address, username, domain, state,"
            " account_id) values (%(inbox_id)s, %(organization_id)s, %(pod_id)s,"
            " %(name)s || '@agents.test', %(name)s, 'agents.test', 'active', %(name)s)",
            row,
        )
        await tx.execute(
            "insert into inbox_sync (inbox_id, organization_id, pod_id, account_id)"
            " values (%(inbox_id)s, %(organization_id)s, %(pod_id)s, %(name)s)",
            row,
        )
    return place


def a_mail(document_id: int, **fields: Any) -> Mail:
    """A received, unread mail; mails with larger document ids are later."""
    known: dict[str, Any] = {
        "document_id": DocumentId(document_id),
        "folders": frozenset({Folder.INBOX}),
        "keywords": frozenset[str](),
        "received_at": START + timedelta(minutes=document_id),
        "message_id": f"m{document_id}@elsewhere.test",
        "subject": f"Subject {document_id}",
        "sender": Address("ada@elsewhere.test", "Ada"),
        "to": (Address("agent@agents.test"),),
        "preview": f"Preview {document_id}",
        "size": 1000 + document_id,
        **fields,
    }
    return Mail(**known)


async def record(
    db: Database,
    place: Place,
    *mails: Mail,
    destroyed: tuple[int, ...] = (),
    held: frozenset[str] = frozenset(),
) -> None:
    """What intake does with one answer of the mail server."""
    async with db.transaction() as tx:
        await messages.lock(tx, place.organization_id, place.inbox_id)
        await messages.record(
            tx,
            place,
            present=mails,
            destroyed=[DocumentId(each) for each in destroyed],
            held=held,
        )
