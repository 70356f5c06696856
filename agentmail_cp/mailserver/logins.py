"""What mail clients log in with, as it crosses the port: an account's own password, and its app passwords.

Passwords of an account's own come as hashes. The secret of an app password is the server's making, and
told once.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

MOST_APP_PASSWORDS: Final = 50
"""App passwords an account may have."""

LONGEST_NAME: Final = 128
"""Characters of the name of an app password."""

WIDEST_NETWORK: Final = 8
"""The shortest prefix of a network in `allowed_ips`."""


class Access(StrEnum):
    """What an app password opens: `read` is IMAP without changing anything, `send` is SMTP alone."""

    READ = "read"
    SEND = "send"
    BOTH = "both"


class NewAppPassword(msgspec.Struct, frozen=True, kw_only=True):
    """An app password to be made. From `expires_at` on it opens nothing, and nothing from an address
    outside `allowed_ips` (addresses and CIDRs, without zones and nothing that begins at 0.0.0.0; none is
    any).
    """

    app_password_id: UUID
    name: str
    access: Access
    expires_at: datetime | None = None
    allowed_ips: tuple[str, ...] = ()


class AppPassword(NewAppPassword, frozen=True, kw_only=True):
    """An app password an account has, without its secret."""

    created_at: datetime
