"""Accounts of the sandbox: made, paused and let go again, retired, destroyed."""

from __future__ import annotations

from agentmail_cp.mailserver import Account, AccountId, MailServerRejected, NewAccount, Refusal
from agentmail_cp.sandbox.core import Core, answered
from agentmail_cp.sandbox.mailbox import Mailbox


class Accounts(Core):
    """The half of `MailSandbox` that manages accounts."""

    _accounts_made = 0

    @answered
    async def create_account(self, new: NewAccount) -> Account:
        address = new.address.lower()
        if address.rpartition("@")[2] not in self._hosted:
            raise MailServerRejected(
                Refusal.UNKNOWN_DOMAIN, f"{address} is in no domain of this server."
            )
        if address in self._addresses:
            raise MailServerRejected(
                Refusal.ADDRESS_TAKEN, f"{address} belongs to another account."
            )
        mailbox = self._open(address)
        mailbox.display_name = new.display_name
        mailbox.password_hash = new.password_hash
        return _account(mailbox)

    def add_stranger(self, address: str) -> None:
        """Make an account that belongs to somebody else, as a shared server has."""
        self._open(address.lower()).ours = False

    def _open(self, address: str) -> Mailbox:
        self._accounts_made += 1
        mailbox = Mailbox(AccountId(f"sandbox-{self._accounts_made}"), address)
        self._mailboxes[mailbox.account_id] = self._addresses[address] = mailbox
        return mailbox

    @answered
    async def find_account(self, address: str) -> Account | None:
        mailbox = self._addresses.get(address.lower())
        return None if mailbox is None or mailbox.retired else _account(mailbox)

    @answered
    async def retire_account(self, account_id: AccountId) -> None:
        mailbox = self.mailbox(account_id)
        mailbox.retired = True
        mailbox.password_hash = None
        mailbox.app_passwords.clear()

    @answered
    async def pause_receiving(self, account_id: AccountId, paused: bool) -> None:  # noqa: FBT001
        self.mailbox(account_id).paused = paused
        if not paused:
            self.retry()

    @answered
    async def destroy_account(self, account_id: AccountId) -> None:
        mailbox = self._mailboxes.pop(account_id, None)
        if mailbox is None:
            return
        for known in (self._addresses, *self._disabled.values()):
            if known.get(mailbox.address) is mailbox:
                del known[mailbox.address]


def _account(mailbox: Mailbox) -> Account:
    return Account(mailbox.account_id, mailbox.address, mailbox.state, mailbox.ours, mailbox.paused)
