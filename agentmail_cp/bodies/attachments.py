"""Bodies of attachments and of links to what is too large for a body."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec

from agentmail_cp.addresses import tame
from agentmail_cp.mailserver import Attachment, DocumentId


class AttachmentItem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a message says of an attachment."""

    attachment_id: UUID
    size: int
    filename: str | None = None
    content_type: str | None = None
    content_disposition: str | None = None
    content_id: str | None = None


class AttachmentResponse(AttachmentItem, omit_defaults=True, kw_only=True):
    """An attachment and where to fetch it, without a key, until `expires_at`."""

    download_url: str
    expires_at: datetime


class RawMessageResponse(msgspec.Struct, kw_only=True):
    """Where to fetch a message as it was sent or received (RFC 5322), until `expires_at`."""

    message_id: str
    size: int
    download_url: str
    expires_at: datetime


def attachment_id(inbox_id: UUID, document_id: DocumentId, part_id: str) -> UUID:
    """The id of an attachment: the same as long as its mail is there."""
    return uuid5(inbox_id, f"{document_id}/{part_id}")


def attachment_item(
    inbox_id: UUID, document_id: DocumentId, attachment: Attachment
) -> AttachmentItem:
    """An attachment for a list."""
    return AttachmentItem(**_shown(inbox_id, document_id, attachment))


def attachment_items(
    inbox_id: UUID, document_id: DocumentId, attachments: Iterable[Attachment]
) -> list[AttachmentItem] | None:
    """The attachments of one mail; None when it has none."""
    return [attachment_item(inbox_id, document_id, each) for each in attachments] or None


def attachment_response(
    inbox_id: UUID,
    document_id: DocumentId,
    attachment: Attachment,
    *,
    size: int,
    download_url: str,
    expires_at: datetime,
) -> AttachmentResponse:
    """An attachment with its link. `size` is what the link gives, in bytes."""
    shown: dict[str, Any] = {**_shown(inbox_id, document_id, attachment), "size": size}
    return AttachmentResponse(**shown, download_url=download_url, expires_at=expires_at)


def _shown(inbox_id: UUID, document_id: DocumentId, attachment: Attachment) -> dict[str, Any]:
    return {
        "attachment_id": attachment_id(inbox_id, document_id, attachment.part_id),
        "size": attachment.size,
        "filename": tame((attachment.filename or "").replace("\0", "")) or None,
        "content_type": attachment.content_type,
        "content_disposition": "inline" if attachment.inline else "attachment",
        "content_id": attachment.content_id,
    }
