"""One account of the sandbox: its mails, its change log, its blobs.

Document ids begin at 1, only grow and are never used again. A mail is in exactly one folder. The
change log keeps the last `HISTORY` changes, as Stalwart does; a state from before that, of another
account or of another process is lost. Nothing here knows about other accounts.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from agentmail_cp.excerpts import excerpt, holds, html_words, words
from agentmail_cp.mailserver import (
    AccountId,
    AppPassword,
    Attachment,
    BlobId,
    Changes,
    DocumentId,
    Folder,
    Listing,
    Mail,
    MailContent,
    MailServerRejected,
    MailState,
    Refusal,
    Relabel,
    Submitted,
)
from agentmail_cp.sandbox.mime import ParsedMail, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HISTORY = 10_000
MAX_KEYWORDS = 99
"""Different keywords an account can show besides those known by name, as in Stalwart 0.16."""

KNOWN_KEYWORDS = frozenset(
    f"${name}"
    for name in (
        "seen draft flagged answered recent important phishing junk notjunk deleted forwarded mdnsent"
        " autosent canunsubscribe followed hasattachment hasmemo hasnoattachment imported istrusted"
        " mailflagbit0 mailflagbit1 mailflagbit2 maskedemail memo muted new notify unsubscribed"
    ).split()
)


class StoredMail(msgspec.Struct, kw_only=True):
    """A mail in a mailbox. `submitted` is set when it was handed in from here."""

    document_id: DocumentId
    raw: bytes
    parsed: ParsedMail
    received_at: datetime
    folder: Folder
    keywords: frozenset[str]
    submitted: Submitted | None = None
    authentication_results: tuple[str, ...] = ()
    original_recipient: str | None = None

    def to_mail(self) -> Mail:
        return msgspec.structs.replace(
            self.parsed.index,
            document_id=self.document_id,
            folders=frozenset({self.folder}),
            keywords=self.keywords,
            received_at=self.received_at,
            authentication_results=self.authentication_results,
            original_recipient=self.original_recipient,
        )

    def to_content(self) -> MailContent:
        return MailContent(
            document_id=self.document_id,
            raw_blob_id=BlobId(f"mail-{self.document_id}"),
            headers=self.parsed.headers,
            text=self.parsed.text,
            html=self.parsed.html,
            attachments=self.attachments,
        )

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return tuple(
            Attachment(
                part_id=part.part_id,
                blob_id=BlobId(f"part-{self.document_id}-{part.part_id}"),
                size=len(part.data),
                content_type=part.content_type,
                filename=part.filename,
                content_id=part.content_id,
                inline=part.inline,
                charset=part.charset,
            )
            for part in self.parsed.attachments
        )


class Mailbox:
    """An account. `address` stays for ever, `retired` only closes it; a `paused` one gets nothing yet."""

    def __init__(self, account_id: AccountId, address: str) -> None:
        self.account_id = account_id
        self.address = address
        self.display_name: str | None = None
        self.password_hash: str | None = None
        self.app_passwords: list[AppPassword] = []
        self.ours = True
        self.retired = False
        self.paused = False
        self._mails: dict[DocumentId, StoredMail] = {}
        self._next = 1
        self._born: dict[DocumentId, int] = {}
        self._log: list[DocumentId] = []
        self._keywords: set[str] = set()
        self._uploads: dict[BlobId, bytes] = {}
        self._epoch = secrets.token_hex(4)

    @property
    def state(self) -> MailState:
        return self._state_at(len(self._log))

    def _state_at(self, position: int) -> MailState:
        return MailState(f"{self._epoch}.{position}")

    def _position(self, state: MailState | None) -> int:
        epoch, _, number = (state or "").partition(".")
        position = int(number) if number.isascii() and number.isdigit() else -1
        oldest = max(0, len(self._log) - HISTORY)
        if epoch != self._epoch or not oldest <= position <= len(self._log):
            raise MailServerRejected(Refusal.STATE_LOST, "The state is too old or unknown.")
        return position

    def store(
        self,
        raw: bytes,
        folder: Folder,
        keywords: Iterable[str] = (),
        *,
        received_at: datetime | None = None,
    ) -> StoredMail:
        mail = StoredMail(
            document_id=DocumentId(self._next),
            raw=raw,
            parsed=parse(raw),
            received_at=(received_at or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0),
            folder=folder,
            keywords=self._shown(keywords),
        )
        self._next += 1
        self._mails[mail.document_id] = mail
        self._log.append(mail.document_id)
        self._born[mail.document_id] = len(self._log)
        return mail

    def holds_twin(self, raw: bytes) -> bool:
        """Whether Stalwart would silently drop this mail at delivery (0.16.18, `email_ingest`).

        It does when a mail in Inbox or Junk has the same ids and subject; the copy in Sent of a
        mail to oneself does not count.
        """
        new = parse(raw)
        return bool(new.thread_ids) and any(
            mail.folder in {Folder.INBOX, Folder.JUNK}
            and mail.parsed.thread_ids == new.thread_ids
            and mail.parsed.base_subject == new.base_subject
            for mail in self._mails.values()
        )

    def destroy(self, document_ids: Iterable[DocumentId]) -> bool:
        gone = [each for each in document_ids if self._mails.pop(each, None) is not None]
        self._log.extend(gone)
        return bool(gone)

    def relabel(self, change: Relabel) -> frozenset[str] | None:
        """Apply one change; the keywords there was no room for, or None when the mail is gone."""
        mail = self._mails.get(change.document_id)
        if mail is None:
            return None
        before = (mail.keywords, mail.folder)
        added = self._shown(change.add)
        mail.keywords = (mail.keywords | added) - lower(change.remove)
        mail.folder = change.move_to or mail.folder
        if (mail.keywords, mail.folder) != before:
            self._log.append(mail.document_id)
        return lower(change.add) - added

    def _shown(self, keywords: Iterable[str]) -> frozenset[str]:
        """Those there is room for; Stalwart stores the others where nobody sees them."""
        wanted = lower(keywords)
        for keyword in sorted(wanted - KNOWN_KEYWORDS):
            if len(self._keywords) < MAX_KEYWORDS:
                self._keywords.add(keyword)
        return wanted & (self._keywords | KNOWN_KEYWORDS)

    def changes(self, since: MailState | None, limit: int) -> Changes:
        start = position = self._position(since)
        seen: dict[DocumentId, None] = {}
        for document_id in self._log[start:]:
            if document_id not in seen and len(seen) == limit:
                break
            seen[document_id] = None
            position += 1
        gone = [each for each in seen if each not in self._mails and self._born[each] <= start]
        return Changes(
            account_id=self.account_id,
            state=self._state_at(position),
            present=self.fetch(seen),
            destroyed=tuple(sorted(gone)),
            more=position < len(self._log),
        )

    def find(self, message_id: str, since: MailState | None) -> list[StoredMail]:
        """Mails with this Message-ID among what changed; in all when the state is None or lost."""
        try:
            touched = set(self._log[self._position(since) :])
        except MailServerRejected:
            touched = set(self._mails)
        return [
            mail
            for document_id, mail in sorted(self._mails.items())
            if document_id in touched and mail.parsed.index.message_id == message_id
        ]

    def listing(self) -> Listing:
        return Listing(state=self.state, document_ids=tuple(sorted(self._mails)))

    def fetch(self, document_ids: Iterable[DocumentId]) -> tuple[Mail, ...]:
        known = sorted(set(document_ids).intersection(self._mails))
        return tuple(self._mails[each].to_mail() for each in known)

    def read(self, document_ids: Iterable[DocumentId]) -> Mapping[DocumentId, MailContent]:
        known = sorted(set(document_ids).intersection(self._mails))
        return {each: self._mails[each].to_content() for each in known}

    def search(self, text: str, limit: int) -> tuple[DocumentId, ...]:
        """Mails that hold every word, the newest first. No word is known in other forms than its own."""
        wanted = words(text)
        found = [mail for mail in self._mails.values() if wanted and _holds(mail, wanted)]
        found.sort(key=lambda mail: (mail.received_at, mail.document_id), reverse=True)
        return tuple(mail.document_id for mail in found[:limit])

    def excerpts(self, document_ids: Iterable[DocumentId], text: str) -> dict[DocumentId, str]:
        known = sorted(set(document_ids).intersection(self._mails))
        pieces = {each: excerpt(_body(self._mails[each]), text) for each in known}
        return {each: piece for each, piece in pieces.items() if piece is not None}

    def attachments(
        self, document_ids: Iterable[DocumentId]
    ) -> dict[DocumentId, tuple[Attachment, ...]]:
        known = sorted(set(document_ids).intersection(self._mails))
        return {each: self._mails[each].attachments for each in known}

    def upload(self, content: bytes) -> BlobId:
        blob_id = BlobId(f"upload-{secrets.token_hex(8)}")
        self._uploads[blob_id] = content
        return blob_id

    def blob(self, blob_id: BlobId) -> bytes:
        """An upload, a raw mail or an attachment. Rejected: NO_BLOB."""
        if blob_id in self._uploads:
            return self._uploads[blob_id]
        kind, _, rest = blob_id.partition("-")
        document, _, part_id = rest.partition("-")
        known = document.isascii() and document.isdigit()
        mail = self._mails.get(DocumentId(int(document))) if known else None
        if mail is not None and kind == "mail":
            return mail.raw
        parts = mail.parsed.attachments if mail is not None else ()
        for part in parts:
            if part.part_id == part_id:
                return part.data
        raise MailServerRejected(Refusal.NO_BLOB, f"There is no blob {blob_id}.")


def _holds(mail: StoredMail, wanted: Iterable[str]) -> bool:
    index = mail.parsed.index
    senders = () if index.sender is None else (index.sender,)
    people = [
        " ".join(f"{each.name or ''} {each.email}" for each in addresses)
        for addresses in (senders, index.to, index.cc, index.bcc)
    ]
    fields = (*people, index.subject or "", _body(mail))
    return all(any(holds(field, word) for field in fields) for word in wanted)


def _body(mail: StoredMail) -> str:
    if mail.parsed.text is not None:
        return mail.parsed.text
    return html_words(mail.parsed.html or "")


def lower(keywords: Iterable[str]) -> frozenset[str]:
    return frozenset(keyword.lower() for keyword in keywords)
