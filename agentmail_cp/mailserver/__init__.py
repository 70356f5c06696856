"""The port: what this product needs of a mail server, in its own words, and the three ways it fails.

Owns the types that cross the port. Two implementations exist: `agentmail_cp.stalwart` (real) and
`agentmail_cp.sandbox` (in memory, for `make dev` and tests); `tests/contract` runs one suite on both.
A mail is named by its account and its document id: the only id of a mail that Stalwart 0.16 never
changes (its JMAP Email id changes when threads merge). This module does no I/O and knows no JMAP.
"""

from __future__ import annotations

from agentmail_cp.mailserver.accounts import Account, AccountId, MailState, NewAccount, ServerStatus
from agentmail_cp.mailserver.domains import (
    DkimAlgorithm,
    DkimKey,
    InstalledDomain,
    MailDomainSetup,
)
from agentmail_cp.mailserver.errors import (
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
)
from agentmail_cp.mailserver.logins import (
    LONGEST_NAME,
    MOST_APP_PASSWORDS,
    WIDEST_NETWORK,
    Access,
    AppPassword,
    NewAppPassword,
)
from agentmail_cp.mailserver.mail import (
    Address,
    Attachment,
    BlobId,
    Changes,
    Cursor,
    DocumentId,
    Folder,
    FoundMail,
    Listing,
    Mail,
    MailContent,
    NoRoom,
    OutgoingAttachment,
    OutgoingEmail,
    Relabel,
    ReportType,
    Stored,
    Submitted,
    Verdict,
)
from agentmail_cp.mailserver.port import MailServer
from agentmail_cp.mailserver.queue import (
    Complaint,
    Enqueued,
    Outcome,
    QueuedMail,
    QueuedRecipient,
    QueueStatus,
    Report,
)

__all__ = [
    "LONGEST_NAME",
    "MOST_APP_PASSWORDS",
    "WIDEST_NETWORK",
    "Access",
    "Account",
    "AccountId",
    "Address",
    "AppPassword",
    "Attachment",
    "BlobId",
    "Changes",
    "Complaint",
    "Cursor",
    "DkimAlgorithm",
    "DkimKey",
    "DocumentId",
    "Enqueued",
    "Folder",
    "FoundMail",
    "InstalledDomain",
    "Listing",
    "Mail",
    "MailContent",
    "MailDomainSetup",
    "MailServer",
    "MailServerConfused",
    "MailServerError",
    "MailServerRejected",
    "MailServerUnavailable",
    "MailState",
    "NewAccount",
    "NewAppPassword",
    "NoRoom",
    "Outcome",
    "OutgoingAttachment",
    "OutgoingEmail",
    "QueueStatus",
    "QueuedMail",
    "QueuedRecipient",
    "Refusal",
    "Relabel",
    "Report",
    "ReportType",
    "ServerStatus",
    "Stored",
    "Submitted",
    "Verdict",
]
