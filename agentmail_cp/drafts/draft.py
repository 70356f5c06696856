"""What a draft is: its row, its ids, and how one is looked up. Never talks to the mail server."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID, uuid5

import msgspec

from agentmail_cp import filing, labels, pages
from agentmail_cp.db import Tx, fetch_all, fetch_one
from agentmail_cp.errors import NotFound
from agentmail_cp.filing import Place
from agentmail_cp.mailserver import AccountId, DocumentId, Mail, MailState

State = Literal["storing", "draft", "updating", "sending", "deleting", "sent"]
SendStatus = Literal["scheduled", "sending", "failed"]

SCHEDULED = "scheduled"

COLUMNS = (
    "inbox_id, draft_id, organization_id, pod_id, account_id, client_id, state, version, document_id,"
    " taken, mail_state, lease_until, change, next_send_at, in_reply_to, forward_of, reply_all, send_at,"
    " send_status, send_error, fire_at, attempts, labels, kept_labels, subject,"
    ' "to", cc, bcc, reply_to, "references", preview, size, has_attachment, created_at, updated_at'
)

_VISIBLE = "state in ('draft', 'updating', 'sending')"
_OWN = re.compile(r"([0-9a-f]{32})\.(\d{1,9})@(.+)")


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. Addresses are in display form, ids in brackets."""

    inbox_id: UUID
    draft_id: UUID
    organization_id: UUID
    pod_id: UUID
    account_id: AccountId
    client_id: str | None
    state: State
    version: int
    document_id: DocumentId | None
    taken: DocumentId | None
    mail_state: MailState | None
    lease_until: datetime | None
    change: bytes | None
    next_send_at: datetime | None
    in_reply_to: str | None
    forward_of: str | None
    reply_all: bool
    send_at: datetime | None
    send_status: Literal["scheduled", "failed"] | None
    send_error: str | None
    fire_at: datetime | None
    attempts: int
    labels: list[str]
    kept_labels: list[str]
    subject: str | None
    to: list[str]
    cc: list[str]
    bcc: list[str]
    reply_to: list[str]
    references: list[str]
    preview: str
    size: int
    has_attachment: bool
    created_at: datetime
    updated_at: datetime

    @property
    def shown_status(self) -> SendStatus | None:
        """What callers are told of its sending."""
        return "sending" if self.state == "sending" else self.send_status

    @property
    def shown_labels(self) -> list[str]:
        """What callers are told of its labels; of one that was sent nothing else is kept."""
        return ["sent"] if self.state == "sent" else sorted(self.labels)

    @property
    def key(self) -> dict[str, Any]:
        """What names the row in a query."""
        return {
            "inbox_id": self.inbox_id,
            "organization_id": self.organization_id,
            "draft_id": self.draft_id,
        }


class DraftFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of drafts is narrowed to. Every given condition must hold."""

    labels: tuple[str, ...] = ()
    before: datetime | None = None
    after: datetime | None = None
    ascending: bool = False


def message_id_of(draft_id: UUID, version: int, domain: str) -> str:
    """The Message-ID, without brackets, of a version that this service writes."""
    return f"{draft_id.hex}.{version}@{domain}"


def identify(place: Place, mail: Mail) -> tuple[UUID, int | None]:
    """Which draft a mail in Drafts is, and which version when this service wrote it. Pure, so the same
    mail is the same draft whenever it is read.
    """
    own = _OWN.fullmatch(mail.message_id or "")
    if own is not None and own[3] == place.domain:
        return UUID(hex=own[1]), int(own[2])
    if filing.usable(mail.message_id):
        return uuid5(place.inbox_id, f"draft/{mail.message_id}"), None
    return uuid5(place.inbox_id, f"draft/document/{mail.document_id}"), None


def facts(mail: Mail, *, scheduled: bool, kept: Collection[str] = ()) -> dict[str, Any]:
    """The columns a version of a draft fills. `kept` are labels it has whatever its keywords."""
    return {
        **filing.contents(mail),
        "document_id": mail.document_id,
        "labels": labels_of(mail, scheduled=scheduled, kept=kept),
        "kept_labels": labels.still_kept(kept, mail.keywords),
    }


def labels_of(mail: Mail, *, scheduled: bool, kept: Collection[str] = ()) -> list[str]:
    """A draft's labels: `draft`, `scheduled` where it is, and its custom ones, sorted."""
    custom = labels.decode_all(mail.keywords).union(kept)
    shown = (custom - labels.SYSTEM_LABELS) | {labels.DRAFT}
    return sorted(shown | {SCHEDULED} if scheduled else shown)


async def get(
    tx: Tx,
    *,
    organization_id: UUID,
    draft_id: UUID,
    inbox_id: UUID | None = None,
    pod_id: UUID | None = None,
    remembered: bool = False,
) -> Draft:
    """A draft as callers know it, in one inbox, or in any active one of a pod or of the organisation;
    or, if it may be one that is only `remembered`, one that was sent under a `client_id`.

    Raises `NotFound`. Of copies that a mail client made in several inboxes it is the one made first.
    """
    query: LiteralString = (
        f"select {COLUMNS} from draft where organization_id = %(organization_id)s"
        f" and draft_id = %(draft_id)s and ({_VISIBLE}"
        " or (%(remembered)s and state = 'sent' and client_id is not null))"
    )
    query += " and inbox_id = %(inbox_id)s" if inbox_id is not None else _IN_ACTIVE_INBOXES
    if pod_id is not None:
        query += " and pod_id = %(pod_id)s"
    parameters = {
        "organization_id": organization_id,
        "draft_id": draft_id,
        "inbox_id": inbox_id,
        "pod_id": pod_id,
        "remembered": remembered,
    }
    found = await fetch_one(tx, Draft, query + " order by created_at limit 1", parameters)
    if found is None:
        raise no_draft()
    return found


def no_draft() -> NotFound:
    return NotFound("There is no such draft.", fix="It may have been sent, or deleted in a client.")


_IN_ACTIVE_INBOXES = (
    " and inbox_id in (select inbox_id from inbox where state = 'active'"
    " and organization_id = %(organization_id)s)"
)


async def list_page(
    tx: Tx,
    *,
    organization_id: UUID,
    inbox_id: UUID | None = None,
    pod_id: UUID | None = None,
    where: DraftFilter,
    limit: int,
    page_token: str | None,
) -> tuple[list[Draft], str | None]:
    """One page of drafts by their last change, and the token of the next page: of an inbox, of a pod's
    active inboxes, or of all the organisation's.
    """
    scope = f"drafts/{inbox_id or pod_id or organization_id}/{where.ascending}"
    query, parameters = list_query(where, inbox_id, pod_id)
    parameters |= {"organization_id": organization_id, "limit": limit + 1}
    if page_token:
        updated_at, draft_id = pages.decode(scope, page_token, tuple[datetime, UUID])
        parameters |= {"updated_at": updated_at, "draft_id": draft_id}
        query += (
            " and (updated_at, draft_id) > (%(updated_at)s, %(draft_id)s::uuid)"
            if where.ascending
            else " and (updated_at, draft_id) < (%(updated_at)s, %(draft_id)s::uuid)"
        )
    query += (
        " order by updated_at, draft_id limit %(limit)s"
        if where.ascending
        else " order by updated_at desc, draft_id desc limit %(limit)s"
    )
    rows = await fetch_all(tx, Draft, query, parameters)
    return pages.cut(scope, rows, limit, lambda last: (last.updated_at, last.draft_id))


def list_query(
    where: DraftFilter, inbox_id: UUID | None = None, pod_id: UUID | None = None
) -> tuple[LiteralString, dict[str, object]]:
    """The query of a list, without its order."""
    query: LiteralString = (
        f"select {COLUMNS} from draft where organization_id = %(organization_id)s and {_VISIBLE}"
    )
    parameters: dict[str, object] = {}
    if inbox_id is not None:
        query += " and inbox_id = %(inbox_id)s"
        parameters["inbox_id"] = inbox_id
    else:
        query += _IN_ACTIVE_INBOXES
    if pod_id is not None:
        query += " and pod_id = %(pod_id)s"
        parameters["pod_id"] = pod_id
    if where.labels:
        query += " and labels @> %(labels)s"
        parameters["labels"] = list(where.labels)
    if where.before:
        query += " and updated_at < %(before)s"
        parameters["before"] = where.before
    if where.after:
        query += " and updated_at > %(after)s"
        parameters["after"] = where.after
    return query, parameters


async def row_of(tx: Tx, key: Mapping[str, Any], *, lock: bool = False) -> Draft | None:
    """A row in any state, by `Draft.key`."""
    query: LiteralString = (
        f"select {COLUMNS} from draft where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s and draft_id = %(draft_id)s"
    )
    if lock:
        query += " for update"
    return await fetch_one(tx, Draft, query, dict(key))


async def rows_of(
    tx: Tx, place: Place, draft_ids: Sequence[UUID], documents: Sequence[DocumentId]
) -> list[Draft]:
    """The rows of these drafts and of these documents, locked in one order."""
    return await fetch_all(
        tx,
        Draft,
        f"select {COLUMNS} from draft where inbox_id = %(inbox_id)s"
        " and organization_id = %(organization_id)s"
        " and (draft_id = any(%(draft_ids)s) or document_id = any(%(documents)s))"
        " order by draft_id for update",
        {
            "inbox_id": place.inbox_id,
            "organization_id": place.organization_id,
            "draft_ids": list(draft_ids),
            "documents": list(documents),
        },
    )
