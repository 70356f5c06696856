"""`MailSandbox`: the port of `agentmail_cp.mailserver`, in memory. See the package docstring.

Owns domains, accounts and the routing between them. Delivery happens inside the call that causes
it: when `submit` has answered, the mail is in its recipients' inboxes, unless it is told to be delayed.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from agentmail_cp.labels import SENT_KEYWORD
from agentmail_cp.mailserver import (
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
from agentmail_cp.sandbox.accounts import Accounts
from agentmail_cp.sandbox.core import NO_MAILBOX, answered
from agentmail_cp.sandbox.domains import Domains, Hosted
from agentmail_cp.sandbox.logins import Logins
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

CHUNK = 65_536
PAUSED = "451 4.2.1 This mailbox does not take mail for now."
NO_MAIL_HERE = "550 5.7.1 This domain does not receive mail."

DELAYED = QueuedRecipient(
    status=QueueStatus.DELAYED, code="4.3.0", diagnostic="Mailbox over quota."
)
FAILED = QueuedRecipient(
    status=QueueStatus.FAILED, code="5.1.1", diagnostic="The mailbox does not exist."
)
DELIVERED = QueuedRecipient(status=QueueStatus.DELIVERED, code="250")


class OutboxMail(msgspec.Struct, frozen=True):
    """A mail that would have left for another domain."""

    sender: str
    recipient: str
    raw: bytes


class MailSandbox(Domains, Accounts, Logins):
    """A mail server in memory.

    `faults` may be replaced at any time. `before` and `after` hold, by method name of the port,
    hooks that are awaited when a call begins and when its work is done. `on_bell` is called with
    each account whose mail changed, whoever changed it. `on_queued` is awaited before a mail goes on its
    way, and `on_report` a moment after something became of it. `outbox` keeps mail to other domains.
    `patience` is after how many seconds a slow answer counts as lost. `authentication_results` is the
    value of the header of that name that mail from outside gets; the sandbox itself checks nothing.
    """

    def __init__(
        self,
        *domains: str,
        on_bell: Callable[[AccountId], None] | None = None,
        max_size: int = mail_limit(DEFAULT_MESSAGE_SIZE),
        max_recipients: int = 100,
        patience: float = 10.0,
    ) -> None:
        super().__init__(on_bell=on_bell, patience=patience)
        self.on_queued: Callable[[Enqueued], Awaitable[None]] | None = None
        self.authentication_results: str | None = None
        self.outbox: list[OutboxMail] = []
        self._max_size = max_size
        self._max_recipients = max_recipients
        self._hosted.update({each.lower(): Hosted(name=each.lower()) for each in domains})
        self._queue: dict[int, Outgoing] = {}
        self._held: list[tuple[bytes, str]] = []
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

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[Door]:
        """Take mail over SMTP while the context is open. Raises OSError when the port is in use."""
        door = Door(self, hostname=self.hostname, max_size=self._max_size)
        await door.start(host, port)
        try:
            yield door
        finally:
            await door.stop()

    @answered
    async def status(self) -> ServerStatus:
        return ServerStatus("sandbox", version("agentmail-cp"))

    # --- sending

    @answered
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
        closed = mailbox.retired or self._addresses.get(mailbox.address) is not mailbox
        if closed or email.sender.email.lower() != mailbox.address:
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
        held, self._held = self._held, []
        for raw, recipient in held:
            self._deliver(raw, recipient)

    def _attempt(self, mail: Outgoing) -> None:
        fates = {recipient: self._hand_over(mail, recipient) for recipient in mail.waiting}
        news = mail.advance(fates, datetime.now(UTC))
        if not mail.waiting:
            del self._queue[mail.queue_id]
        self._teller.tell(news)

    def _hand_over(self, mail: Outgoing, recipient: str) -> QueuedRecipient:
        if recipient in lower(self.faults.delay):
            return DELAYED
        if (route := self._route(recipient)) is not None and route.mailbox.paused:
            return mail.recipients[recipient]
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

    @answered
    async def queue(self, queue_ids: Collection[int]) -> Mapping[int, QueuedMail]:
        return {each: self._queue[each].to_mail() for each in queue_ids if each in self._queue}

    @answered
    async def queued_by(self, sender: str) -> tuple[QueuedMail, ...]:
        wanted = sender.lower()
        return tuple(mail.to_mail() for mail in self._queue.values() if mail.sender == wanted)

    @answered
    async def complaints(self) -> tuple[Complaint, ...]:
        return tuple(self._complaints.values())

    @answered
    async def forget_complaints(self, complaint_ids: Collection[str]) -> None:
        for each in complaint_ids:
            self._complaints.pop(each, None)

    @answered
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

    @answered
    async def find(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> tuple[Mail, ...]:
        return tuple(mail.to_mail() for mail in self.mailbox(account_id).find(message_id, since))

    @answered
    async def find_own(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> FoundMail | None:
        twins = self.mailbox(account_id).find(message_id, since)
        own = [mail for mail in twins if _is_own(mail)]
        found = max(own, key=lambda mail: mail.submitted is not None, default=None)
        return None if found is None else FoundMail(found.document_id, found.submitted)

    # --- mail

    @answered
    async def destroy_mail(self, account_id: AccountId, document_ids: Sequence[DocumentId]) -> None:
        mailbox = self.mailbox(account_id)
        if mailbox.destroy(document_ids):
            self._bell(mailbox)

    @answered
    async def changes(
        self, cursors: Sequence[Cursor], *, limit: int = 200
    ) -> Mapping[AccountId, Changes | MailServerError]:
        return {cursor.account_id: self._changes(cursor, limit) for cursor in cursors}

    def _changes(self, cursor: Cursor, limit: int) -> Changes | MailServerError:
        try:
            return self.mailbox(cursor.account_id).changes(cursor.state, limit)
        except MailServerError as error:
            return error

    @answered
    async def listing(self, account_id: AccountId) -> Listing:
        return self.mailbox(account_id).listing()

    @answered
    async def fetch(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> tuple[Mail, ...]:
        return self.mailbox(account_id).fetch(document_ids)

    @answered
    async def read(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> Mapping[DocumentId, MailContent]:
        return self.mailbox(account_id).read(document_ids)

    @answered
    async def attachments(
        self, wanted: Mapping[AccountId, Sequence[DocumentId]]
    ) -> Mapping[AccountId, Mapping[DocumentId, tuple[Attachment, ...]]]:
        return {
            account_id: self._mailboxes[account_id].attachments(document_ids)
            for account_id, document_ids in wanted.items()
            if account_id in self._mailboxes
        }

    @answered
    async def search(
        self, account_ids: Sequence[AccountId], text: str, *, limit: int
    ) -> Mapping[AccountId, tuple[DocumentId, ...]]:
        return {
            account_id: self._mailboxes[account_id].search(text, limit)
            for account_id in account_ids
            if account_id in self._mailboxes
        }

    @answered
    async def excerpts(
        self, account_id: AccountId, document_ids: Sequence[DocumentId], text: str
    ) -> Mapping[DocumentId, str]:
        return self.mailbox(account_id).excerpts(document_ids, text)

    @answered
    async def relabel(self, account_id: AccountId, changes: Sequence[Relabel]) -> NoRoom:
        mailbox = self.mailbox(account_id)
        left_out = {change.document_id: mailbox.relabel(change) for change in changes}
        there = {each: some for each, some in left_out.items() if some is not None}
        if there:
            self._bell(mailbox)
        if len(there) < len(left_out):
            raise MailServerRejected(Refusal.NO_MAIL, "Some of these mails are gone.")
        return {each: some for each, some in there.items() if some}

    @answered
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

    @answered
    async def upload(
        self,
        account_id: AccountId,
        content: AsyncIterator[bytes] | bytes,
        content_type: str,  # noqa: ARG002  (the mail it goes into says what it is)
    ) -> BlobId:
        mailbox = self.mailbox(account_id)
        data = content if isinstance(content, bytes) else b"".join([part async for part in content])
        return mailbox.upload(data)

    @answered
    async def blob_size(self, account_id: AccountId, blob_id: BlobId) -> int:
        return len(self.mailbox(account_id).blob(blob_id))

    @answered
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

    @answered
    async def ring(self) -> None:
        """Nothing to flush: the sandbox holds no bell back."""

    async def close(self) -> None:
        """Nothing to give back."""

    # --- the SMTP door and delivery

    def refusal(self, recipient: str) -> str | None:
        if self.faults.down:
            return "451 4.3.0 The mail sandbox was told to be down."
        domain = self._domain_of(recipient)
        if domain is None:
            return "550 5.1.2 Relay not allowed."
        if not domain.inbound:
            return NO_MAIL_HERE
        route = self._route(recipient)
        if route is None:
            return NO_MAILBOX
        return PAUSED if route.mailbox.paused else None

    def receive(
        self, raw: bytes, *, mail_from: str, recipients: list[str], helo: str, peer: str
    ) -> None:
        now = datetime.now(UTC)
        traced = mime.with_trace(
            raw, mail_from=mail_from, helo=helo, peer=peer, hostname=self.hostname, now=now
        )
        checked = tuple(filter(None, [self.authentication_results]))
        if checked:
            traced = f"Authentication-Results: {checked[0]}\r\n".encode() + traced
        for recipient in recipients:
            self._hear_complaint(traced, recipient)
            if self._bounces(recipient):
                self._bounce(traced, mail_from, recipient)
            else:
                self._deliver(traced, recipient, checked)

    def _hear_complaint(self, raw: bytes, recipient: str) -> None:
        """Stalwart reads the reports that come to a postmaster, and delivers them all the same."""
        if not recipient.lower().startswith("postmaster@"):
            return
        number = self._complaints_heard + 1
        complaint = reports.complaint_in(raw, number=number, now=datetime.now(UTC))
        if complaint is not None:
            self._complaints_heard = number
            self._complaints[complaint.complaint_id] = complaint

    def _deliver(self, raw: bytes, recipient: str, checked: tuple[str, ...] = ()) -> None:
        route = self._route(recipient)
        if route is None or route.mailbox.holds_twin(raw):
            return
        mailbox = route.mailbox
        if mailbox.paused:
            self._held.append((raw, recipient))
            return
        mail = mailbox.store(f"Delivered-To: {mailbox.address}\r\n".encode() + raw, Folder.INBOX)
        mail.original_recipient = route.caught
        mail.authentication_results = checked
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

    def _unroutable(self, address: str) -> str | None:
        return NO_MAILBOX if self._route(address) is None else None


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
