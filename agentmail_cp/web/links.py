"""Links to downloads: made for whoever may read a mail, good for anybody until they expire.

The dependency `links` is a `Links` for one request: it knows under which base URL this caller reaches us.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Request
from litestar.datastructures import URL

from agentmail_cp import downloads
from agentmail_cp.errors import Invalid
from agentmail_cp.inboxes import Inbox
from agentmail_cp.mailserver import DocumentId
from agentmail_cp.settings import Settings

PATH = "/v0/downloads/"


class Links(msgspec.Struct, frozen=True):
    """Makes links that begin with `base_url`, signed with `key`."""

    base_url: str
    key: bytes

    def make(
        self, inbox: Inbox, document_id: DocumentId, part_id: str | None
    ) -> tuple[str, datetime]:
        """The URL of an attachment, or of the raw mail for None, and when it stops working."""
        expires_at = downloads.expiry(datetime.now(UTC))
        link = downloads.Link(
            inbox.organization_id,
            inbox.inbox_id,
            document_id,
            part_id,
            int(expires_at.timestamp()),
            retained=inbox.state != "active",
        )
        return f"{self.base_url}{PATH}{downloads.sign(link, self.key)}", expires_at


def signing_key(settings: Settings) -> bytes:
    """The key of all links. Without a secret in the settings it lives as long as this process."""
    secret = settings.download_secret or settings.stalwart_key or secrets.token_urlsafe(32)
    return downloads.signing_key(secret)


def asked_at(request: Request[Any, Any, Any]) -> URL:
    """Our URL as this caller wrote it. Raises `Invalid` for a Host header that is none (RFC 9112, 3.2)."""
    try:
        return request.base_url
    except ValueError:
        raise Invalid(
            "host",
            "The Host header of this request names no host.",
            fix="Send it as `host` or `host:port`.",
            detail="INVALID_VALUE",
        ) from None


async def provide_links(request: Request[Any, Any, Any]) -> Links:
    """The dependency `links`. Without a public URL, links name us as the caller did."""
    settings: Settings = request.app.state["resources"].settings
    base_url = settings.public_url or str(asked_at(request))
    return Links(base_url.rstrip("/"), request.app.state["link_key"])
