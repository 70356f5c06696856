"""Mail as it crosses the port: what is sent, what is stored, what changed.

A mail is named by its account and its document id: the only id of a mail that Stalwart 0.16 never
changes (its JMAP Email id changes when threads merge).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NewType

import msgspec

from agentmail_cp.mailserver.accounts import AccountId, MailState

DocumentId = NewType("DocumentId", int)
BlobId = NewType("BlobId", str)


class Folder(StrEnum):
    """The special folders (RFC 8621 mailbox roles) this product gives a meaning to."""

    INBOX = "inbox"
    SENT = "sent"
    DRAFTS = "drafts"
    TRASH = "trash"
    JUNK = "junk"


class Address(msgspec.Struct, frozen=True):
    """One mail address with its optional display name, as in RFC 5322 `mailbox`."""

    email: str
    name: str | None = None


class OutgoingAttachment(msgspec.Struct, frozen=True):
    """One attachment of an outgoing mail, already uploaded as a blob of the same account. `size` is
    in bytes, for whoever adds them up.
    """

    blob_id: BlobId
    content_type: str
    filename: str | None = None
    content_id: str | None = None
    inline: bool = False
    size: int = 0


class OutgoingEmail(msgspec.Struct, frozen=True, kw_only=True):
    """A finished mail: every header is decided. Ids carry no angle brackets.

    `recipients` is the SMTP envelope: bare, distinct addresses. `keywords` are the IMAP keywords the
    copy in Sent gets besides `$seen`. `headers` holds only headers without a field of their own here.
    """

    message_id: str
    date: datetime
    sender: Address
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[OutgoingAttachment, ...] = ()
    keywords: frozenset[str] = frozenset()
    recipients: tuple[str, ...] = ()


class Verdict(msgspec.Struct, frozen=True):
    """What the server said to one recipient when the mail was handed in. `reply` is its SMTP reply."""

    address: str
    accepted: bool
    reply: str


class Submitted(msgspec.Struct, frozen=True):
    """A mail that was handed in: its copy in the account, that copy's size in bytes, and one verdict
    per recipient. The copy's `received_at` is the mail's `date`. `no_room` are keywords of the mail that
    the copy does not have, as for `relabel`; a mail found again (`find_own`) does not tell.

    When no verdict is accepted, nothing leaves the server, but the copy exists until it is destroyed.
    """

    document_id: DocumentId
    size: int
    verdicts: tuple[Verdict, ...]
    no_room: frozenset[str] = frozenset()

    @property
    def refused_by_all(self) -> bool:
        return not any(verdict.accepted for verdict in self.verdicts)


class Stored(msgspec.Struct, frozen=True):
    """A mail that was put into a folder, its size in bytes, and keywords it does not have, as for
    `relabel`.
    """

    document_id: DocumentId
    size: int
    no_room: frozenset[str] = frozenset()


class FoundMail(msgspec.Struct, frozen=True):
    """An own mail found again by its Message-ID. `submitted` is None when it was never handed in."""

    document_id: DocumentId
    submitted: Submitted | None


class ReportType(StrEnum):
    """What a machine-readable report in a mail tells of (RFC 6522)."""

    DELIVERY_STATUS = "delivery-status"
    """Of the delivery of a mail, a bounce most often (RFC 3464)."""

    FEEDBACK = "feedback-report"
    """Of a complaint about a mail (ARF, RFC 5965)."""


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """What the index needs of one stored mail. Ids carry no angle brackets; times are aware UTC.

    `folders` holds the special folders the mail is in; a mail in the user's own folders only has none.
    `keywords` are lower case. `size` is the raw message in bytes. `has_attachment` counts inline pictures
    too. `preview` is plain text. `report` says that a part of the mail claims to be such a report; what
    it reports, and whether that can be believed, only its bytes tell (`raw_blob`).

    `authentication_results` are the values of the Authentication-Results headers (RFC 8601) that our own
    server wrote when the mail came in from outside, unfolded; never one that came with the mail. Empty
    for mail that nobody checked: what we or our accounts handed in or stored. `original_recipient` is the
    address, in lower case, that a mail was sent to which only came here by the domain's catch-all.
    """

    document_id: DocumentId
    folders: frozenset[Folder]
    keywords: frozenset[str]
    received_at: datetime
    sent_at: datetime | None = None
    message_id: str | None = None
    in_reply_to: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    subject: str | None = None
    sender: Address | None = None
    to: tuple[Address, ...] = ()
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    size: int = 0
    has_attachment: bool = False
    preview: str = ""
    report: ReportType | None = None
    authentication_results: tuple[str, ...] = ()
    original_recipient: str | None = None


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """One attachment of a stored mail. `part_id` is stable for the mail; `size` is decoded bytes;
    `charset` is what the mail says a text is written in.
    """

    part_id: str
    blob_id: BlobId
    size: int
    content_type: str
    filename: str | None = None
    content_id: str | None = None
    inline: bool = False
    charset: str | None = None


class MailContent(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a stored mail that never enter our database.

    `headers` are all header fields in order, decoded as text. `text` and `html` are the displayed
    bodies (RFC 8621 textBody/htmlBody), None when the mail has no such part.
    """

    document_id: DocumentId
    raw_blob_id: BlobId
    headers: tuple[tuple[str, str], ...] = ()
    text: str | None = None
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()


class Cursor(msgspec.Struct, frozen=True):
    """Where reading of one account stands. `state` None means: from scratch."""

    account_id: AccountId
    state: MailState | None


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in one account since a cursor.

    `present` are mails that were added or changed, in document order; `destroyed` are mails that are
    really gone (a mail whose server-side thread changed is in `present`, never here). `more` says that
    `state` is not yet the newest: ask again from it.
    """

    account_id: AccountId
    state: MailState
    present: tuple[Mail, ...] = ()
    destroyed: tuple[DocumentId, ...] = ()
    more: bool = False


class Listing(msgspec.Struct, frozen=True):
    """Every mail of an account by document id, ascending, and the state the list was taken at."""

    state: MailState
    document_ids: tuple[DocumentId, ...]


class Relabel(msgspec.Struct, frozen=True):
    """A change to one stored mail: keywords to set and to clear, and a folder to move it to."""

    document_id: DocumentId
    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()
    move_to: Folder | None = None


NoRoom = Mapping[DocumentId, frozenset[str]]
"""By mail the keywords, lower case, that the account has no room for; without mails that have none."""
