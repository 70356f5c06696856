"""PURE: who a request comes from, how far they reach, and what they may do there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import LiteralString
from uuid import UUID

import msgspec

from agentmail_cp.access.permissions import MAIL_CLIENT
from agentmail_cp.errors import Forbidden, Unauthorized


class Reach(msgspec.Struct, frozen=True):
    """How far somebody reaches: a whole organisation, one pod of it, or one inbox of that pod. What lies
    beyond is not there for them.
    """

    organization_id: UUID
    pod_id: UUID | None = None
    inbox_id: UUID | None = None

    @property
    def whole(self) -> bool:
        """Whether this is the whole organisation."""
        return self.pod_id is None and self.inbox_id is None

    def covers(self, other: Reach) -> bool:
        """Whether the other reaches no further."""
        return (
            self.organization_id == other.organization_id
            and self.pod_id in (None, other.pod_id)
            and self.inbox_id in (None, other.inbox_id)
        )

    def require_organization(self) -> None:
        """Raise `Forbidden` unless this is the whole organisation."""
        if not self.whole:
            raise Forbidden(
                "This API key is for one pod or inbox only.", fix="Use a key of the organization."
            )

    def require_pod(self) -> None:
        """Raise `Forbidden` when this is a single inbox."""
        if self.inbox_id is not None:
            raise Forbidden(
                "This API key is for one inbox only.",
                fix="Use a key of the pod or of the organization.",
            )


def in_reach(reach: Reach) -> LiteralString:
    """The condition that keeps a query of rows of pods and inboxes within reach, beside that on their
    organisation.
    """
    if reach.inbox_id is not None:
        return " and inbox_id = %(inbox_id)s"
    return "" if reach.pod_id is None else " and pod_id = %(pod_id)s"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who a request comes from, and what they may do."""

    reach: Reach
    api_key_id: UUID
    permissions: frozenset[str] | None
    expires_at: datetime | None

    @property
    def organization_id(self) -> UUID:
        return self.reach.organization_id

    def check_live(self) -> None:
        """Raise `Unauthorized` (code `api_key_expired`) when the key's time is over."""
        if self.expires_at is not None and self.expires_at <= datetime.now(UTC):
            raise Unauthorized(
                "This API key has expired.", fix="Make a new key.", code="api_key_expired"
            )

    def may(self, permission: str) -> bool:
        return self.permissions is None or permission in self.permissions

    @property
    def outranks_mail_passwords(self) -> bool:
        """Whether the key may do all that a mail client can, and has no end either."""
        return self.expires_at is None and all(self.may(each) for each in MAIL_CLIENT)

    def require(self, permission: str) -> None:
        """Raise `Forbidden` (code `missing_permission`) unless the key has the permission."""
        if not self.may(permission):
            raise Forbidden(
                f"This API key does not have the permission {permission}.",
                fix=f"Use a key with {permission}, or one without a permission list.",
                code="missing_permission",
            )
