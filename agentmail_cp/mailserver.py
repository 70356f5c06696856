"""The port: what this product needs of a mail server, in its own words, and the three ways it fails.

Owns the types that cross the port. Two implementations exist: `agentmail_cp.stalwart` (real) and
`agentmail_cp.sandbox` (in memory, for `make dev` and tests); `tests/contract` runs one suite on both.
A mail is named by its account and its document id: the only id of a mail that Stalwart 0.16 never
changes (its JMAP Email id changes when threads merge). This module does no I/O and knows no JMAP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NewType, Protocol

import msgspec

AccountId = NewType("AccountId", str)
DocumentId = NewType("DocumentId", int)
MailState = NewType("MailState", str)
BlobId = NewType("BlobId", str)


class MailServerError(Exception):
    """The mail server did not do what it was asked."""


class MailServerUnavailable(MailServerError):
    """The mail server is away, overloaded or did not answer in time; the same request may work later.

    `reached` is True when the request may have been carried out although no answer came back, so a
    write must be looked up before it is repeated. `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, retry_after: float = 5.0, reached: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reached = reached


class MailServerRejected(MailServerError):
    """The mail server understood and refused; the same request will never work.

    `code` is one of the port's own words (see `Refusal`), `text` the server's sentence.
    """

    def __init__(self, code: Refusal, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class MailServerConfused(MailServerError):
    """The mail server answered something this version does not understand: alarm, do not retry."""


class Refusal(StrEnum):
    """Why a mail server refused."""

    ADDRESS_TAKEN = "address_taken"
    UNKNOWN_DOMAIN = "unknown_domain"
    NO_ACCOUNT = "no_account"
    NO_MAIL = "no_mail"
    NO_BLOB = "no_blob"
    INVALID_MAIL = "invalid_mail"
    TOO_LARGE = "too_large"
    TOO_MANY_RECIPIENTS = "too_many_recipients"
    SENDER_NOT_ALLOWED = "sender_not_allowed"
    OVER_QUOTA = "over_quota"
    FORBIDDEN = "forbidden"
    STATE_LOST = "state_lost"
    """The state passed to `changes` is too old or unknown: read the account from scratch."""


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


class NewAccount(msgspec.Struct, frozen=True):
    """An account to be made. `password_hash` is a crypt-style or `{SCHEME}` hash, never a password."""

    address: str
    display_name: str | None = None
    password_hash: str | None = None


class Account(msgspec.Struct, frozen=True):
    """An account the server has. `state` is where its mail stands at this moment. `ours` is False for
    an account that `create_account` did not make: it is somebody's, and never to be touched.
    """

    account_id: AccountId
    address: str
    state: MailState
    ours: bool = True


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


class Outcome(StrEnum):
    """What became of a mail at one recipient, as the server that sent it knows."""

    DELIVERED = "delivered"
    """The next server has taken it, or it lies in a mailbox of this one."""

    DELAYED = "delayed"
    """It could not be delivered yet; the server goes on trying."""

    FAILED = "failed"
    """It will not be delivered: refused for good, or tried in vain for too long."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says became of a queued mail at one recipient.

    `sender` and `recipient` are the envelope's addresses in lower case; `sender` is empty for mail that
    nobody is told about. `code` is an enhanced status code (RFC 3463), or a three-digit SMTP reply code
    where the other server gave no other. `diagnostic` is the server's sentence. `at` has whole seconds.
    Reports are repeated, come out of order, and may be lost.
    """

    queue_id: int
    sender: str
    recipient: str
    outcome: Outcome
    at: datetime
    code: str | None = None
    diagnostic: str | None = None


class Enqueued(msgspec.Struct, frozen=True):
    """Which mail a queue id belongs to, as far as the server tells it. `message_id` has no brackets."""

    queue_id: int
    sender: str
    message_id: str


class QueueStatus(StrEnum):
    """Where the delivery to one recipient stands while the mail is in the queue."""

    SCHEDULED = "scheduled"
    DELAYED = "delayed"
    FAILED = "failed"
    DELIVERED = "delivered"


class QueuedRecipient(msgspec.Struct, frozen=True, kw_only=True):
    """One recipient of a queued mail; `code` and `diagnostic` as in `Report`. `expires` is when the
    server gives up, None when it counts attempts instead.
    """

    status: QueueStatus
    code: str | None = None
    diagnostic: str | None = None
    expires: datetime | None = None


class QueuedMail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail in the queue. `message_id` is known for mail of `submit` only. `recipients` by address."""

    queue_id: int
    sender: str
    message_id: str | None = None
    recipients: Mapping[str, QueuedRecipient] = {}


class Complaint(msgspec.Struct, frozen=True, kw_only=True):
    """A complaint about a mail that reached the server (ARF, RFC 5965), kept until it is forgotten.

    `kind` is the feedback type (`abuse`, `fraud`, `not-spam`, …). `message_id` (no brackets), `sender` and
    `recipients` are those of the mail complained about, as far as the report tells; anybody can write one.
    """

    complaint_id: str
    kind: str
    at: datetime
    message_id: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()


class ServerStatus(msgspec.Struct, frozen=True):
    """What the server is and what our credential may do. `missing` names absent permissions."""

    product: str
    version: str
    missing: tuple[str, ...] = ()


class MailServer(Protocol):
    """A mail server. Every method may raise the three errors; reads are repeated inside, writes never."""

    async def status(self) -> ServerStatus:
        """Version and permissions, for the start-up check."""
        ...

    async def ensure_domain(self, domain: str) -> None:
        """Make the server accept mail for `domain`; no effect when it already does.

        Rejected: FORBIDDEN for what is no domain name.
        """
        ...

    async def create_account(self, new: NewAccount) -> Account:
        """Make an account.

        Rejected: UNKNOWN_DOMAIN; ADDRESS_TAKEN, also by a retired account until it is destroyed.
        """
        ...

    async def find_account(self, address: str) -> Account | None:
        """The account that owns exactly this address (no catch-all, no plus addressing).

        None for the address of a retired account.
        """
        ...

    async def set_password(self, account_id: AccountId, password_hash: str | None) -> None:
        """Replace the account's own password by a hash; None takes it away. Rejected: NO_ACCOUNT."""
        ...

    async def retire_account(self, account_id: AccountId) -> None:
        """Keep the mail, free nobody: its address answers 550 at RCPT from now on, also under a
        catch-all, and no login works. Its mail stays readable through this port. Repeating it has no
        effect. Rejected: NO_ACCOUNT.
        """
        ...

    async def destroy_account(self, account_id: AccountId) -> None:
        """Erase account and mail; no effect when there is none. Also frees a retired address."""
        ...

    async def submit(self, account_id: AccountId, email: OutgoingEmail) -> Submitted:
        """Store the mail in Sent and hand it in, in one round trip. Not repeated inside.

        Rejected (nothing stored, nothing sent): INVALID_MAIL, TOO_LARGE, TOO_MANY_RECIPIENTS,
        SENDER_NOT_ALLOWED, OVER_QUOTA, NO_ACCOUNT, NO_BLOB, FORBIDDEN.
        """
        ...

    async def store_draft(
        self, account_id: AccountId, email: OutgoingEmail, *, replaces: DocumentId | None = None
    ) -> Stored:
        """Put an unfinished mail into Drafts, with `$draft` and `$seen` beside its keywords, in the
        place of the draft `replaces` where one is named. Not repeated inside. Its envelope is unused.

        Rejected: NO_MAIL when `replaces` is gone, because somebody sent, deleted or edited it, and then
        the new one is not kept either; INVALID_MAIL, TOO_LARGE, OVER_QUOTA, NO_ACCOUNT, NO_BLOB.
        """
        ...

    async def find(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> tuple[Mail, ...]:
        """Every mail with this Message-ID among what changed after `since` (None, or a state the server
        has forgotten: all), in document order. Never answers from a search index, which lags.
        """
        ...

    async def find_own(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> FoundMail | None:
        """Find a mail of `submit` again by Message-ID among what changed after `since` (None: all),
        and whether it was handed in. Never answers from a search index, which lags.
        """
        ...

    async def destroy_mail(self, account_id: AccountId, document_ids: Sequence[DocumentId]) -> None:
        """Erase mails; those already gone are no error."""
        ...

    async def changes(
        self, cursors: Sequence[Cursor], *, limit: int = 200
    ) -> Mapping[AccountId, Changes | MailServerError]:
        """What changed in many accounts since their cursors, in one round trip where possible.

        One account's trouble is its own value, never the others'. A cursor without a state, and one the
        server has forgotten, is answered by MailServerRejected STATE_LOST: use `listing`. `limit` bounds
        the mails per account. Raises only when the server as a whole is unavailable.
        """
        ...

    async def listing(self, account_id: AccountId) -> Listing:
        """Every document id of the account, read from the mailbox itself, never from a search index."""
        ...

    async def fetch(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> tuple[Mail, ...]:
        """Index data of these mails in document order; those gone are left out."""
        ...

    async def read(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> Mapping[DocumentId, MailContent]:
        """Bodies, headers and attachment list of these mails; those gone are left out."""
        ...

    async def attachments(
        self, wanted: Mapping[AccountId, Sequence[DocumentId]]
    ) -> Mapping[AccountId, Mapping[DocumentId, tuple[Attachment, ...]]]:
        """What these mails have attached, in many accounts, without reading their bodies; mails and
        accounts that are gone are left out.
        """
        ...

    async def search(
        self, account_ids: Sequence[AccountId], text: str, *, limit: int
    ) -> Mapping[AccountId, tuple[DocumentId, ...]]:
        """Mails that hold every word of `text` somewhere in bodies, subject or addresses, at most
        `limit` in each account, the newest. Answered from the server's full-text index, so mail of the
        last moments may be missing. Accounts that are gone are left out.
        """
        ...

    async def excerpts(
        self, account_id: AccountId, document_ids: Sequence[DocumentId], text: str
    ) -> Mapping[DocumentId, str]:
        """A piece of each mail's body around words of `text`, plain, at most some 250 characters, with
        each hit between `**`. Mails that are gone, or whose body has no hit, are left out.
        """
        ...

    async def relabel(self, account_id: AccountId, changes: Sequence[Relabel]) -> NoRoom:
        """Apply keyword and folder changes. Those of others at the same moment are kept: the result is
        that of some order. Returns what was not set because there was no room: an account can show
        only so many different keywords over all its mail (Stalwart 0.16: 99 besides the usual `$`
        ones). Rejected: NO_MAIL when one is gone (others are applied).
        """
        ...

    async def append(
        self,
        account_id: AccountId,
        raw: bytes | BlobId,
        *,
        folder: Folder,
        keywords: frozenset[str] = frozenset(),
        received_at: datetime | None = None,
    ) -> DocumentId:
        """Store a raw RFC 5322 message, or one uploaded before, in a folder without sending it;
        `received_at` None means now. Keywords without room are lost. Rejected: INVALID_MAIL, NO_BLOB.
        """
        ...

    async def upload(
        self, account_id: AccountId, content: AsyncIterator[bytes] | bytes, content_type: str
    ) -> BlobId:
        """Store bytes for later use in `submit`, `store_draft` or `append` (a day); what is too large,
        those refuse. The blob id of an attachment of a stored mail can be used there too.
        """
        ...

    def download(
        self, account_id: AccountId, blob_id: BlobId, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """The bytes of a blob in chunks, never whole in memory. Rejected: NO_BLOB."""
        ...

    async def blob_size(self, account_id: AccountId, blob_id: BlobId) -> int:
        """How many bytes `download` gives. An attachment's own `size` is not always that: of a text it
        may be counted after its charset was decoded. Rejected: NO_BLOB.
        """
        ...

    async def raw_blob(self, account_id: AccountId, document_id: DocumentId) -> BlobId:
        """The raw message as a blob, without reading its bodies. Rejected: NO_MAIL."""
        ...

    async def queue(self, queue_ids: Collection[int]) -> Mapping[int, QueuedMail]:
        """The mails of these queue ids that are still in the queue. A mail leaves it when every recipient
        has its outcome; the queue does not tell which.
        """
        ...

    async def queued_by(self, sender: str) -> tuple[QueuedMail, ...]:
        """Everything of this sender that is still in the queue. Looks through the whole queue."""
        ...

    async def complaints(self) -> tuple[Complaint, ...]:
        """Complaints that were not forgotten yet, some hundreds at most; ask again after forgetting."""
        ...

    async def forget_complaints(self, complaint_ids: Collection[str]) -> None:
        """Let go of complaints; those already gone are no error."""
        ...

    async def ring(self) -> None:
        """Make the server flush events it holds back (reference: Stalwart sends on the next event)."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...
