"""What mail clients of the sandbox would log in with. It has no IMAP, and its SMTP asks nobody who they
are, so passwords are kept here and never asked for.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from agentmail_cp.mailserver import (
    MOST_APP_PASSWORDS,
    AccountId,
    AppPassword,
    MailServerRejected,
    NewAppPassword,
    Refusal,
)
from agentmail_cp.sandbox.core import Core, answered

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from uuid import UUID


class Logins(Core):
    """The half of `MailSandbox` that keeps passwords."""

    most_app_passwords = MOST_APP_PASSWORDS

    @answered
    async def set_password(self, account_id: AccountId, password_hash: str | None) -> None:
        self.mailbox(account_id).password_hash = password_hash

    @answered
    async def set_passwords(
        self, passwords: Mapping[AccountId, str | None]
    ) -> frozenset[AccountId]:
        gone = passwords.keys() - self._mailboxes.keys()
        for account_id in passwords.keys() - gone:
            self.mailbox(account_id).password_hash = passwords[account_id]
        return frozenset(gone)

    @answered
    async def create_app_password(self, account_id: AccountId, new: NewAppPassword) -> str:
        kept = self.mailbox(account_id).app_passwords
        if len(kept) >= self.most_app_passwords:
            raise MailServerRejected(Refusal.OVER_QUOTA, "The account has too many app passwords.")
        now = datetime.now(UTC).replace(microsecond=0)
        kept.append(AppPassword(**msgspec.structs.asdict(new), created_at=now))
        return f"app_{secrets.token_hex(20)}"

    @answered
    async def app_passwords(self, account_id: AccountId) -> tuple[AppPassword, ...]:
        known = self._mailboxes.get(account_id)
        return () if known is None else tuple(known.app_passwords)

    @answered
    async def destroy_app_passwords(
        self, account_id: AccountId, app_password_ids: Collection[UUID]
    ) -> None:
        if account_id in self._mailboxes:
            kept = self.mailbox(account_id).app_passwords
            kept[:] = [each for each in kept if each.app_password_id not in app_password_ids]
