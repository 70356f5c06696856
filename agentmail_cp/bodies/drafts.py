"""Bodies of drafts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from agentmail_cp import drafts
from agentmail_cp.bodies.attachments import AttachmentItem, attachment_item
from agentmail_cp.bodies.sends import SendAttachment, SendMessage, Texts
from agentmail_cp.mailserver import Attachment, MailContent


class DraftItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A draft in a list. `send_error` says why a scheduled one has `failed` or waits."""

    inbox_id: str
    draft_id: UUID
    labels: list[str]
    updated_at: datetime
    to: list[str] | None = None
    cc: list[str] | None = None
    bcc: list[str] | None = None
    subject: str | None = None
    preview: str | None = None
    attachments: list[AttachmentItem] | None = None
    in_reply_to: str | None = None
    forward_of: str | None = None
    send_status: str | None = None
    send_at: datetime | None = None
    send_error: str | None = None


class Draft(DraftItem, omit_defaults=True, kw_only=True):
    """A whole draft."""

    created_at: datetime
    client_id: str | None = None
    reply_to: list[str] | None = None
    text: str | None = None
    html: str | None = None
    references: list[str] | None = None


class ListDrafts(msgspec.Struct, omit_defaults=True):
    """One page of drafts; `data` is seed 003's name for them."""

    count: int
    limit: int
    drafts: list[DraftItem]
    data: list[DraftItem]
    next_page_token: str | None = None


class CreateDraft(SendMessage, kw_only=True):
    """`POST …/drafts`. `in_reply_to` makes the draft of a reply, `forward_of` that of a forward; both are
    message ids. A `send_at` without an offset is UTC.
    """

    in_reply_to: str | None = None
    forward_of: str | None = None
    reply_all: bool | None = None
    send_at: datetime | None = None
    client_id: str | None = None


class UpdateDraft(msgspec.Struct, kw_only=True):
    """`PATCH …/drafts/{draft_id}`. What is left out stays; null clears a field, an empty list the
    recipients, `send_at` null the schedule. With those it has, a draft gets at most 100 attachments.
    """

    to: Texts | UnsetType = UNSET
    cc: Texts | UnsetType = UNSET
    bcc: Texts | UnsetType = UNSET
    reply_to: Texts | UnsetType = UNSET
    subject: str | UnsetType | None = UNSET
    text: str | UnsetType | None = UNSET
    html: str | UnsetType | None = UNSET
    add_attachments: list[SendAttachment] | None = None
    remove_attachments: Texts = None
    add_labels: Texts = None
    remove_labels: Texts = None
    send_at: datetime | UnsetType | None = UNSET


class SendDraft(msgspec.Struct, kw_only=True):
    """`POST …/drafts/{draft_id}/send`. The labels are those of the message it becomes."""

    add_labels: Texts = None
    remove_labels: Texts = None


def draft_attachments(
    row: drafts.Draft, attachments: Sequence[Attachment]
) -> list[AttachmentItem] | None:
    """What a draft has attached, under ids that stay while the draft changes."""
    if row.document_id is None:
        return None
    named = zip(drafts.attachment_ids(row.draft_id, attachments), attachments, strict=True)
    shown = [
        msgspec.structs.replace(
            attachment_item(row.inbox_id, row.document_id, each), attachment_id=attachment_id
        )
        for attachment_id, each in named
    ]
    return shown or None


def draft_item(
    row: drafts.Draft, address: str, attachments: Sequence[Attachment] = ()
) -> DraftItem:
    """A draft for a list."""
    return DraftItem(**_shown(row, address, attachments))


def draft(row: drafts.Draft, address: str, content: MailContent | None) -> Draft:
    """A whole draft; None for `content` where it cannot be read now."""
    return Draft(
        **_shown(row, address, content.attachments if content else ()),
        created_at=row.created_at,
        client_id=row.client_id,
        reply_to=row.reply_to or None,
        # A mail without any text has an empty one.
        text=(content.text or None) if content else None,
        html=(content.html or None) if content else None,
        references=row.references or None,
    )


def unread_draft(row: drafts.Draft, address: str) -> Draft:
    """A draft for whoever may not read it: that it is there, and when it is sent. So is one that was."""
    return Draft(
        inbox_id=address,
        draft_id=row.draft_id,
        labels=row.shown_labels,
        updated_at=row.updated_at,
        created_at=row.created_at,
        client_id=row.client_id,
        send_status=row.shown_status,
        send_at=row.send_at,
    )


def _shown(row: drafts.Draft, address: str, attachments: Sequence[Attachment]) -> dict[str, Any]:
    return {
        "inbox_id": address,
        "draft_id": row.draft_id,
        "labels": sorted(row.labels),
        "updated_at": row.updated_at,
        "to": row.to or None,
        "cc": row.cc or None,
        "bcc": row.bcc or None,
        "subject": row.subject or None,
        "preview": row.preview or None,
        "attachments": draft_attachments(row, attachments),
        "in_reply_to": row.in_reply_to,
        "forward_of": row.forward_of,
        "send_status": row.shown_status,
        "send_at": row.send_at,
        "send_error": row.send_error,
    }
