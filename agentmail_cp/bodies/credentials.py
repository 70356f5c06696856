"""Bodies of what mail clients log in with."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from agentmail_cp import access, mailserver
from agentmail_cp.access import Reach
from agentmail_cp.credentials import MailPassword as Chosen
from agentmail_cp.credentials.presets import Endpoint, Preset, Servers, presets
from agentmail_cp.mailserver import Access

PasswordKind = Literal["own", "api_key", "none"]
"""`own`: a generated one; `api_key`: the API key chosen; `none`: no login until a password is set."""


class Credentials(msgspec.Struct, omit_defaults=True, kw_only=True):
    """How a mail client gets into the inbox. A password is shown where it was made, and never again."""

    username: str
    imap: Endpoint
    smtp: Endpoint
    smtps: Endpoint
    password_kind: PasswordKind
    password: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r})"


class InboxCredentials(Credentials, omit_defaults=True, kw_only=True):
    """How a mail client gets into the inbox, without its password. `pending` is there while another
    password than this kind may still open it. The API key is named to who reaches as far as that key.
    """

    email: str
    presets: tuple[Preset, ...]
    pending: bool = False
    api_key_id: UUID | None = None
    api_key_prefix: str | None = None


class ExportCredentials(msgspec.Struct, kw_only=True):
    """`POST …/credentials/export`. `rotate` has to be true: each inbox gets a new password."""

    rotate: bool = False


class CreateAppPassword(msgspec.Struct, kw_only=True):
    """A new app password. `access`: `read` is IMAP without changing anything, `send` SMTP alone."""

    name: str
    access: Access = Access.BOTH
    expires_at: datetime | None = None
    allowed_ips: list[str] | None = None


class AppPassword(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An app password without its secret. Without `allowed_ips` it is good from anywhere."""

    app_password_id: UUID
    name: str
    access: Access
    created_at: datetime
    expires_at: datetime | None = None
    allowed_ips: tuple[str, ...] = ()


class CreatedAppPassword(AppPassword, omit_defaults=True, kw_only=True):
    """A new app password. `password` is the secret, shown here and never again."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"CreatedAppPassword(app_password_id={self.app_password_id!r})"


class ListAppPasswords(msgspec.Struct):
    """All app passwords of an inbox, the oldest first."""

    count: int
    app_passwords: list[AppPassword]


class SetMailPassword(msgspec.Struct, kw_only=True):
    """`PUT …/mail-password`. Without `api_key` it is the one the request is made with."""

    api_key: str | None = None

    def __repr__(self) -> str:
        return "SetMailPassword()"


class MailPassword(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The API key that is the mail password of a scope's inboxes. `scope` says for what it was chosen; one
    that was chosen beyond the caller's reach is not named. `pending` is there while some inbox may still
    have another password.
    """

    scope: Literal["organization", "pod", "inbox"]
    created_at: datetime
    pending: bool = False
    api_key_id: UUID | None = None
    api_key_prefix: str | None = None
    pod_id: UUID | None = None


def credentials(
    found: Servers, address: str, password: str | None, kind: PasswordKind
) -> Credentials:
    """What a mail client needs; with the password, where this answer may tell it."""
    return Credentials(
        username=address,
        imap=found.imap,
        smtp=found.smtp,
        smtps=found.smtps,
        password_kind=kind,
        password=password,
    )


def inbox_credentials(
    found: Servers,
    address: str,
    kind: PasswordKind,
    *,
    pending: bool,
    key: access.ApiKey | None,
) -> InboxCredentials:
    """What a mail client needs, without a password."""
    return InboxCredentials(
        username=address,
        email=address,
        imap=found.imap,
        smtp=found.smtp,
        smtps=found.smtps,
        password_kind=kind,
        presets=presets(found, address),
        pending=pending,
        api_key_id=key and key.api_key_id,
        api_key_prefix=key and key.prefix,
    )


def app_password(found: mailserver.AppPassword) -> AppPassword:
    """An app password as callers see it."""
    return AppPassword(**msgspec.structs.asdict(found))


def created_app_password(
    made: mailserver.AppPassword, secret: str, address: str
) -> CreatedAppPassword:
    """A new app password with its secret."""
    return CreatedAppPassword(**msgspec.structs.asdict(made), username=address, password=secret)


def mail_password(chosen: Chosen, key: access.ApiKey | None, *, pending: bool) -> MailPassword:
    """The chosen key as a caller sees it."""
    return MailPassword(
        scope=_scope(chosen.reach),
        created_at=chosen.created_at,
        pending=pending,
        api_key_id=key and key.api_key_id,
        api_key_prefix=key and key.prefix,
        pod_id=chosen.pod_id,
    )


def _scope(reach: Reach) -> Literal["organization", "pod", "inbox"]:
    if reach.inbox_id is not None:
        return "inbox"
    return "organization" if reach.pod_id is None else "pod"
