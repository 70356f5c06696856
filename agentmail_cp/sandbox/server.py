"""`MailSandbox`: the port of `agentmail_cp.mailserver`, in memory. See the package docstring.

Owns domains, accounts and the routing between them. Delivery happens inside the call that causes
it: when `submit` has answered, the mail is in its recipients' inboxes, unless it is told to be delayed.
"""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from functools import wraps
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import msgspec

from agentmail_cp.labels import SENT_KEYWORD
from agentmail_cp.mailserver import (
    Account,
    AccountId,
    Attachment,
    BlobId,
    Changes,
    Complaint,
    Cursor,
    DocumentId,
    Enqueued,
    Folder,
    FoundMail,
    Listing,
    Mail,
    MailContent,
    MailServerError,
    MailServerRejected,
    MailState,
    NewAccount,
    NoRoom,
    OutgoingEmail,
    QueuedMail,
    QueuedRecipient,
    QueueStatus,
    Refusal,
    Relabel,
    ServerStatus,
    Stored,
    Submitted,
    Verdict,
)
from agentmail_cp.sandbox import mime, reports
from agentmail_cp.sandbox.faults import HEALTHY, Faults, Hook, answering
from agentmail_cp.sandbox.mailbox import Mailbox, StoredMail, lower
from agentmail_cp.sandbox.queue import FIRST_ID, Listener, Outgoing, Teller
from agentmail_cp.sandbox.smtp import Door
from agentmail_cp.settings import DEFAULT_MESSAGE_SIZE
from agentmail_cp.sizes import mail_limit

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Mapping,
        Sequence,
    )
    from types import CoroutineType

P = ParamSpec("P")
R = TypeVar("R")

NO_MAILBOX = "550 5.1.2 Mailbox does not exist."
CHUNK = 65_536

DELAYED = QueuedRecipient(
    status=QueueStatus.DELAYED, code="4.3.0", diagnostic="Mailbox over quota."
)
FAILED = QueuedRecipient(
    status=QueueStatus.FAILED, code="5.1.1", diagnostic="The mailbox does not exist."
)
DELIVERED = QueuedRecipient(status=QueueStatus.DELIVERED, code="250")

_DOMAIN = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


class OutboxMail(msgspec.Struct, frozen=True):
    """A mail that would have left for another domain."""

    sender: str
    recipient: str
    raw: bytes


def _answered(
    method: Callable[Concatenate[MailSandbox, P], Awaitable[R]],
) -> Callable[Concatenate[MailSandbox, P], CoroutineType[Any, Any, R]]:
    """Send a method of the port through the faults that are set when it is called."""

    @wraps(method)
    async def call(self: MailSandbox, /, *args: P.args, **kwargs: P.kwargs) -> R:
        async with self.answering(method.__name__):
            return await method(self, *args, **kwargs)

    return call


class MailSandbox:
    """A mail server in memory.

    `faults` may be replaced at any time. `before` and `after` hold, by method name of the port,
    hooks that are awaited when a call begins and when its work is done. `on_bell` is called with
    each account whose mail changed, whoever changed it. `on_queued` is awaited before a mail goes on its
    way, and `on_report` a moment after something became of it. `outbox` keeps mail to other domains.
    `patience` is after how many seconds a slow answer counts as lost.
    """

    def __init__(
        self,
        *domains: str,
        on_bell: Callable[[AccountId], None] | None = None,
        max_size: int = mail_limit(DEFAULT_MESSAGE_SIZE),
        max_recipients: int = 100,
        patience: float = 10.0,
    ) -> None:
        self.faults: Faults = HEALTHY
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.on_bell = on_bell
        self.on_queued: Callable[[Enqueued], Awaitable[None]] | None = None
        self.outbox: list[OutboxMail] = []
        self._max_size = max_size
        self._max_recipients = max_recipients
        self._patience = patience
        self._domains = {domain.lower() for domain in domains}
        self._mailboxes: dict[AccountId, Mailbox] = {}
        self._addresses: dict[str, Mailbox] = {}
        self._accounts_made = 0
        self._queue: dict[int, Outgoing] = {}
        self._last_queue_id = FIRST_ID
        self._teller = Teller()
        self._complaints: dict[str, Complaint] = {}
        self._complaints_heard = 0

    @property
    def on_report(self) -> Listener | None:
        return self._teller.listener

    @on_report.setter
    def on_report(self, listener: Listener | None) -> None:
        self._teller.listener = listener

    def answering(self, method: str) -> AbstractAsyncContextManager[None]:
        """The context one call is carried out in; used by `_answered`."""
        return answering(
            self.faults.of(method),
            patience=self._patience,
            before=self.before.get(method),
            after=self.after.get(method),
        )

    @property
    def hostname(self) -> str:
        return min(self._domains, default="sandbox.test")

    @property
    def addresses(self) -> frozenset[str]:
        """The address of every account, retired ones and strangers' included."""
        return frozenset(self._addresses)

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[Door]:
        """Take mail over SMTP while the context is open. Raises OSError when the port is in use."""
        door = Door(self, hostname=self.hostname, max_size=self._max_size)
        await door.start(host, port)
        try:
            yield door
        finally:
            await door.stop()

    # --- accounts

    @_answered
    async def status(self) -> ServerStatus:
        return ServerStatus("sandbox", version("agentmail-cp"))

    @_answered
    async def ensure_domain(self, domain: str) -> None:
        if not _DOMAIN.fullmatch(domain):
            raise MailServerRejected(Refusal.FORBIDDEN, f"{domain} is no domain name.")
        self._domains.add(domain.lower())

    @_answered
    async def create_account(self, new: NewAccount) -> Account:
        address = new.address.lower()
        if address.rpartition("@")[2] not in self._domains:
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

    @_answered
    async def find_account(self, address: str) -> Account | None:
        mailbox = self._addresses.get(address.lower())
        return None if mailbox is None or mailbox.retired else _account(mailbox)

    @_answered
    async def set_password(self, account_id: AccountId, password_hash: str | None) -> None:
        self.mailbox(account_id).password_hash = password_hash

    @_answered
    async def retire_account(self, account_id: AccountId) -> None:
        mailbox = self.mailbox(account_id)
        mailbox.retired = True
        mailbox.password_hash = None

    @_answered
    async def destroy_account(self, account_id: AccountId) -> None:
        mailbox = self._mailboxes.pop(account_id, None)
        if mailbox is not None:
            del self._addresses[mailbox.address]

    # --- sending

    @_answered
    async def submit(self, account_id: AccountId, email: OutgoingEmail) -> Submitted:
        mailbox = self.mailbox(account_id)
        self._check(mailbox, email)
        raw = self._built(mailbox, email)
        verdicts = tuple(self._verdict(recipient) for recipient in email.recipients)
        keywords = {"$seen", *email.keywords}
        copy = mailbox.store(raw, Folder.SENT, keywords, received_at=email.date)
        submitted = copy.submitted = Submitted(copy.document_id, len(raw), verdicts)
        self._bell(mailbox)
        accepted = [verdict.address for verdict in verdicts if verdict.accepted]
        if accepted:
            await self._send(email, accepted, _build(mailbox, email, with_bcc=False))
        return msgspec.structs.replace(submitted, no_room=_no_room(email, copy))

    def _built(self, mailbox: Mailbox, email: OutgoingEmail) -> bytes:
        """The mail as its own account keeps it."""
        if self.faults.reject is not None:
            raise MailServerRejected(self.faults.reject, "The mail sandbox was told to refuse.")
        raw = _build(mailbox, email, with_bcc=True)
        if len(raw) > self._max_size:
            raise MailServerRejected(Refusal.TOO_LARGE, f"The mail has {len(raw)} bytes.")
        return raw

    def _check(self, mailbox: Mailbox, email: OutgoingEmail) -> None:
        if mailbox.retired or email.sender.email.lower() != mailbox.address:
            raise MailServerRejected(Refusal.SENDER_NOT_ALLOWED, "The sender is not this account.")
        if not email.recipients:
            raise MailServerRejected(Refusal.INVALID_MAIL, "There is no recipient.")
        if len(email.recipients) > self._max_recipients:
            raise MailServerRejected(
                Refusal.TOO_MANY_RECIPIENTS,
                f"There are more than {self._max_recipients} recipients.",
            )

    def _verdict(self, recipient: str) -> Verdict:
        told = {address.lower(): reply for address, reply in self.faults.refuse.items()}
        refusal = told.get(recipient.lower())
        if refusal is None and self._is_local(recipient):
            refusal = None if self._bounces(recipient) else self._unroutable(recipient)
        return Verdict(recipient, refusal is None, refusal or "250 2.1.5 Queued")

    async def _send(self, email: OutgoingEmail, recipients: Sequence[str], raw: bytes) -> None:
        self._last_queue_id += 1
        mail = Outgoing(
            queue_id=self._last_queue_id,
            sender=email.sender.email.lower(),
            message_id=email.message_id,
            raw=raw,
            recipients={
                each.lower(): QueuedRecipient(status=QueueStatus.SCHEDULED) for each in recipients
            },
        )
        if self.on_queued is not None:
            await self.on_queued(Enqueued(mail.queue_id, mail.sender, mail.message_id))
        self._queue[mail.queue_id] = mail
        self._attempt(mail)

    def retry(self) -> None:
        """Try again what is still in the queue, as a mail server does after a while."""
        for mail in list(self._queue.values()):
            self._attempt(mail)

    def _attempt(self, mail: Outgoing) -> None:
        fates = {recipient: self._hand_over(mail, recipient) for recipient in mail.waiting}
        news = mail.advance(fates, datetime.now(UTC))
        if not mail.waiting:
            del self._queue[mail.queue_id]
        self._teller.tell(news)

    def _hand_over(self, mail: Outgoing, recipient: str) -> QueuedRecipient:
        if recipient in lower(self.faults.delay):
            return DELAYED
        if self._bounces(recipient):
            self._bounce(mail.raw, mail.sender, recipient, mail.message_id)
            return FAILED
        if self._is_local(recipient):
            self._deliver(mail.raw, recipient)
        else:
            self.outbox.append(OutboxMail(mail.sender, recipient, mail.raw))
        if recipient in lower(self.faults.complain):
            self._complain(mail, recipient)
        return DELIVERED

    def _complain(self, mail: Outgoing, recipient: str) -> None:
        now = datetime.now(UTC)
        report = reports.feedback_report(mail.raw, sender=mail.sender, recipient=recipient, now=now)
        self._deliver(report, mail.sender)

    @_answered
    async def queue(self, queue_ids: Collection[int]) -> Mapping[int, QueuedMail]:
        return {each: self._queue[each].to_mail() for each in queue_ids if each in self._queue}

    @_answered
    async def queued_by(self, sender: str) -> tuple[QueuedMail, ...]:
        wanted = sender.lower()
        return tuple(mail.to_mail() for mail in self._queue.values() if mail.sender == wanted)

    @_answered
    async def complaints(self) -> tuple[Complaint, ...]:
        return tuple(self._complaints.values())

    @_answered
    async def forget_complaints(self, complaint_ids: Collection[str]) -> None:
        for each in complaint_ids:
            self._complaints.pop(each, None)

    @_answered
    async def store_draft(
        self, account_id: AccountId, email: OutgoingEmail, *, replaces: DocumentId | None = None
    ) -> Stored:
        mailbox = self.mailbox(account_id)
        raw = self._built(mailbox, email)
        if replaces is not None and not mailbox.destroy([replaces]):
            raise MailServerRejected(Refusal.NO_MAIL, "The draft to be replaced is gone.")
        keywords = {"$draft", "$seen", *email.keywords}
        draft = mailbox.store(raw, Folder.DRAFTS, keywords, received_at=email.date)
        self._bell(mailbox)
        return Stored(draft.document_id, len(raw), _no_room(email, draft))

    @_answered
    async def find(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> tuple[Mail, ...]:
        return tuple(mail.to_mail() for mail in self.mailbox(account_id).find(message_id, since))

    @_answered
    async def find_own(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> FoundMail | None:
        twins = self.mailbox(account_id).find(message_id, since)
        own = [mail for mail in twins if _is_own(mail)]
        found = max(own, key=lambda mail: mail.submitted is not None, default=None)
        return None if found is None else FoundMail(found.document_id, found.submitted)

    # --- mail

    @_answered
    async def destroy_mail(self, account_id: AccountId, document_ids: Sequence[DocumentId]) -> None:
        mailbox = self.mailbox(account_id)
        if mailbox.destroy(document_ids):
            self._bell(mailbox)

    @_answered
    async def changes(
        self, cursors: Sequence[Cursor], *, limit: int = 200
    ) -> Mapping[AccountId, Changes | MailServerError]:
        return {cursor.account_id: self._changes(cursor, limit) for cursor in cursors}

    def _changes(self, cursor: Cursor, limit: int) -> Changes | MailServerError:
        try:
            return self.mailbox(cursor.account_id).changes(cursor.state, limit)
        except MailServerError as error:
            return error

    @_answered
    async def listing(self, account_id: AccountId) -> Listing:
        return self.mailbox(account_id).listing()

    @_answered
    async def fetch(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> tuple[Mail, ...]:
        return self.mailbox(account_id).fetch(document_ids)

    @_answered
    async def read(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> Mapping[DocumentId, MailContent]:
        return self.mailbox(account_id).read(document_ids)

    @_answered
    async def attachments(
        self, wanted: Mapping[AccountId, Sequence[DocumentId]]
    ) -> Mapping[AccountId, Mapping[DocumentId, tuple[Attachment, ...]]]:
        return {
            account_id: self._mailboxes[account_id].attachments(document_ids)
            for account_id, document_ids in wanted.items()
            if account_id in self._mailboxes
        }

    @_answered
    async def search(
        self, account_ids: Sequence[AccountId], text: str, *, limit: int
    ) -> Mapping[AccountId, tuple[DocumentId, ...]]:
        return {
            account_id: self._mailboxes[account_id].search(text, limit)
            for account_id in account_ids
            if account_id in self._mailboxes
        }

    @_answered
    async def excerpts(
        self, account_id: AccountId, document_ids: Sequence[DocumentId], text: str
    ) -> Mapping[DocumentId, str]:
        return self.mailbox(account_id).excerpts(document_ids, text)

    @_answered
    async def relabel(self, account_id: AccountId, changes: Sequence[Relabel]) -> NoRoom:
        mailbox = self.mailbox(account_id)
        left_out = {change.document_id: mailbox.relabel(change) for change in changes}
        there = {each: some for each, some in left_out.items() if some is not None}
        if there:
            self._bell(mailbox)
        if len(there) < len(left_out):
            raise MailServerRejected(Refusal.NO_MAIL, "Some of these mails are gone.")
        return {each: some for each, some in there.items() if some}

    @_answered
    async def append(
        self,
        account_id: AccountId,
        raw: bytes | BlobId,
        *,
        folder: Folder,
        keywords: frozenset[str] = frozenset(),
        received_at: datetime | None = None,
    ) -> DocumentId:
        mailbox = self.mailbox(account_id)
        raw = raw if isinstance(raw, bytes) else mailbox.blob(raw)
        if not mime.is_mail(raw):
            raise MailServerRejected(Refusal.INVALID_MAIL, "This is no RFC 5322 message.")
        stored = mailbox.store(raw, folder, keywords, received_at=received_at)
        self._bell(mailbox)
        return stored.document_id

    # --- blobs

    @_answered
    async def upload(
        self,
        account_id: AccountId,
        content: AsyncIterator[bytes] | bytes,
        content_type: str,  # noqa: ARG002  (the mail it goes into says what it is)
    ) -> BlobId:
        mailbox = self.mailbox(account_id)
        data = content if isinstance(content, bytes) else b"".join([part async for part in content])
        return mailbox.upload(data)

    @_answered
    async def blob_size(self, account_id: AccountId, blob_id: BlobId) -> int:
        return len(self.mailbox(account_id).blob(blob_id))

    @_answered
    async def raw_blob(self, account_id: AccountId, document_id: DocumentId) -> BlobId:
        content = self.mailbox(account_id).read([document_id]).get(document_id)
        if content is None:
            raise MailServerRejected(Refusal.NO_MAIL, f"There is no mail {document_id}.")
        return content.raw_blob_id

    async def download(
        self, account_id: AccountId, blob_id: BlobId, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        async with self.answering("download"):
            data = self.mailbox(account_id).blob(blob_id)[start:stop]
        for at in range(0, len(data), CHUNK):
            yield data[at : at + CHUNK]

    # --- the rest of the port

    @_answered
    async def ring(self) -> None:
        """Nothing to flush: the sandbox holds no bell back."""

    async def close(self) -> None:
        """Nothing to give back."""

    # --- the SMTP door and delivery

    def refusal(self, recipient: str) -> str | None:
        if self.faults.down:
            return "451 4.3.0 The mail sandbox was told to be down."
        if not self._is_local(recipient):
            return "550 5.1.2 Relay not allowed."
        return self._unroutable(recipient)

    def receive(
        self, raw: bytes, *, mail_from: str, recipients: list[str], helo: str, peer: str
    ) -> None:
        now = datetime.now(UTC)
        traced = mime.with_trace(
            raw, mail_from=mail_from, helo=helo, peer=peer, hostname=self.hostname, now=now
        )
        for recipient in recipients:
            self._hear_complaint(traced, recipient)
            if self._bounces(recipient):
                self._bounce(traced, mail_from, recipient)
            else:
                self._deliver(traced, recipient)

    def _hear_complaint(self, raw: bytes, recipient: str) -> None:
        """Stalwart reads the reports that come to a postmaster, and delivers them all the same."""
        if not recipient.lower().startswith("postmaster@"):
            return
        number = self._complaints_heard + 1
        complaint = reports.complaint_in(raw, number=number, now=datetime.now(UTC))
        if complaint is not None:
            self._complaints_heard = number
            self._complaints[complaint.complaint_id] = complaint

    def _deliver(self, raw: bytes, recipient: str) -> None:
        mailbox = self._route(recipient)
        if mailbox is None or mailbox.holds_twin(raw):
            return
        mailbox.store(f"Delivered-To: {mailbox.address}\r\n".encode() + raw, Folder.INBOX)
        self._bell(mailbox)

    def _bounces(self, recipient: str) -> bool:
        return recipient.lower() in {address.lower() for address in self.faults.bounce}

    def _bounce(
        self, raw: bytes, sender: str, recipient: str, message_id: str | None = None
    ) -> None:
        report = reports.delivery_report(
            raw,
            sender=sender,
            recipient=recipient,
            hostname=self.hostname,
            now=datetime.now(UTC),
            message_id=message_id,
        )
        self._deliver(report, sender)

    def _is_local(self, address: str) -> bool:
        return address.lower().rpartition("@")[2] in self._domains

    def _unroutable(self, address: str) -> str | None:
        return NO_MAILBOX if self._route(address) is None else None

    def _route(self, address: str) -> Mailbox | None:
        """The mailbox that gets mail to this address; `alice+tag` is alice's."""
        local, _, domain = address.lower().rpartition("@")
        mailbox = self._addresses.get(f"{local}@{domain}") or self._addresses.get(
            f"{local.partition('+')[0]}@{domain}"
        )
        return None if mailbox is None or mailbox.retired else mailbox

    def mailbox(self, account_id: AccountId) -> Mailbox:
        """An account's insides, faults or not. Rejected: NO_ACCOUNT."""
        mailbox = self._mailboxes.get(account_id)
        if mailbox is None:
            raise MailServerRejected(Refusal.NO_ACCOUNT, f"There is no account {account_id}.")
        return mailbox

    def _bell(self, mailbox: Mailbox) -> None:
        if self.on_bell is not None:
            self.on_bell(mailbox.account_id)


def _account(mailbox: Mailbox) -> Account:
    return Account(mailbox.account_id, mailbox.address, mailbox.state, mailbox.ours)


def _no_room(email: OutgoingEmail, stored: StoredMail) -> frozenset[str]:
    """The keywords of labels that the account cannot show; the mark of what was sent is none."""
    return lower(email.keywords) - stored.keywords - {SENT_KEYWORD}


def _is_own(mail: StoredMail) -> bool:
    """A mail to oneself is there twice; the copy that came in is not the one that was sent."""
    return mail.submitted is not None or mail.folder in {Folder.DRAFTS, Folder.SENT}


def _build(mailbox: Mailbox, email: OutgoingEmail, *, with_bcc: bool) -> bytes:
    blobs = {each.blob_id: mailbox.blob(each.blob_id) for each in email.attachments}
    try:
        return mime.build(email, blobs, with_bcc=with_bcc)
    except ValueError as error:
        raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from error
