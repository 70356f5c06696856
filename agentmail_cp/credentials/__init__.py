"""What mail clients log in with: each inbox's own mail password, app passwords, API keys as mail passwords.

Owns the tables `mail_password`, `mail_login` and `app_password`; their modules say what states exist. No
password, secret or API key is stored: hashes are Stalwart's, and of a chosen API key its hash is kept here.
Who may make a mail login is for `access.require_mail_maker`. Works with inboxes by
their ids, so that `inboxes` can ask what a new one's password is.
"""

from __future__ import annotations

from agentmail_cp.access import Reach
from agentmail_cp.credentials import app_passwords, choosing, export, logins, mail_passwords
from agentmail_cp.credentials.choosing import LOOK, apply_now, choose, key_changed, withdraw
from agentmail_cp.credentials.logins import Login, Mailbox, mark, rotate, told_before, works_as_made
from agentmail_cp.credentials.mail_passwords import MailPassword, holding, of_new_inbox
from agentmail_cp.credentials.passwords import new_password, password_hash
from agentmail_cp.db import Database, Tx
from agentmail_cp.mailserver import MailServer

__all__ = [
    "LOOK",
    "Login",
    "MailPassword",
    "Mailbox",
    "app_passwords",
    "apply_now",
    "choose",
    "choosing",
    "export",
    "forget",
    "holding",
    "key_changed",
    "logins",
    "mail_passwords",
    "mark",
    "new_password",
    "of_new_inbox",
    "password_hash",
    "rotate",
    "settle",
    "told_before",
    "withdraw",
    "works_as_made",
]


async def settle(db: Database, server: MailServer) -> int:
    """What crashed requests, outages and keys that died left to be done. Returns how much was."""
    return await choosing.settle(db, server) + await app_passwords.settle(db, server)


async def forget(tx: Tx, reach: Reach) -> None:
    """Let go of everything for this inbox or pod: it is gone."""
    await mail_passwords.forget(tx, reach)
    await logins.forget(tx, reach)
    await app_passwords.forget(tx, reach)
