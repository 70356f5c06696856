"""The mail sandbox: a mail server in memory, for `make dev` and for tests. Never for production.

It implements the port of `agentmail_cp.mailserver` and an SMTP door for incoming mail. What it
lacks, on purpose: IMAP, SMTP submission, logins, persistence (everything ends with the process),
spam and virus checks, DKIM, delivery to other domains (such mail stays in `MailSandbox.outbox`).

What it does do, it does as Stalwart 0.16 does: `tests/contract` runs the same cases on both, and
where they differ the sandbox is wrong. It can be told to fail, see `Faults`.
"""

from __future__ import annotations

from agentmail_cp.sandbox.faults import Faults, Hook
from agentmail_cp.sandbox.server import MailSandbox, OutboxMail

__all__ = ["Faults", "Hook", "MailSandbox", "OutboxMail"]
