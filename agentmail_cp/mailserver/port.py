"""The methods of the port. Every one may raise the three errors of `errors`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from agentmail_cp.mailserver.accounts import Account, AccountId, MailState, NewAccount, ServerStatus
from agentmail_cp.mailserver.domains import DkimKey, InstalledDomain, MailDomainSetup
from agentmail_cp.mailserver.errors import MailServerError
from agentmail_cp.mailserver.logins import AppPassword, NewAppPassword
from agentmail_cp.mailserver.mail import (
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
    OutgoingEmail,
    Relabel,
    Stored,
    Submitted,
)
from agentmail_cp.mailserver.queue import Complaint, QueuedMail


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

    async def install_domain(self, domain: MailDomainSetup) -> None:
        """Make the server treat a domain like this from now on. When it fails in the middle, repeating it
        finishes the work. Accounts that the owner had when the domain was disabled are back with it.

        Rejected: FORBIDDEN for what is no domain name or no key; DOMAIN_TAKEN for a domain that the
        server has for another owner, or not of our making; UNKNOWN_DOMAIN when `parent` is not installed;
        NO_KEY; NO_ACCOUNT when `catch_all` is no account of ours.
        """
        ...

    async def find_domain(self, name: str) -> InstalledDomain | None:
        """A domain as the server has it, None when it has none of this name."""
        ...

    async def disable_domain(self, name: str, owner: str) -> None:
        """Let go of an owner's domain and keep its data: nothing is accepted for it, its accounts can
        neither send nor log in, and mail to it from here leaves for its MX. What they have stays readable
        through this port; their addresses are free. No effect on a domain the owner does not have.
        """
        ...

    async def set_catch_all(self, name: str, address: str | None) -> None:
        """Give what is addressed to nobody in this domain to an account, of any domain; None refuses it.

        Rejected: UNKNOWN_DOMAIN when it is not installed; NO_ACCOUNT when it is no account of ours.
        """
        ...

    async def add_dkim_key(self, name: str, key: DkimKey) -> None:
        """Add a key to an installed domain, or make one it has active or not. Repeating has no effect.

        Rejected: UNKNOWN_DOMAIN, NO_KEY, FORBIDDEN for what is no key.
        """
        ...

    async def retire_dkim_key(self, name: str, selector: str) -> None:
        """Sign nothing more with this key and forget it; no effect when there is none."""
        ...

    async def pause_receiving(self, account_id: AccountId, paused: bool) -> None:  # noqa: FBT001
        """Hold back mail for an account, or let it come again. While paused, mail from outside is deferred
        at RCPT (4xx), under its tags and for what comes by catch-all too; mail from accounts of this
        server waits in its queue, also what was accepted just before, and comes in when the pause ends.
        Through this port, mail can still be stored in it. Repeating has no effect. Rejected: NO_ACCOUNT.
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

    async def set_passwords(
        self, passwords: Mapping[AccountId, str | None]
    ) -> frozenset[AccountId]:
        """As `set_password`, for many accounts in few round trips. Returns the accounts that are gone."""
        ...

    async def create_app_password(self, account_id: AccountId, new: NewAppPassword) -> str:
        """Make one more password for an account, and tell it, this once. Not repeated inside.

        Rejected: NO_ACCOUNT; OVER_QUOTA for an account that has as many as it may have.
        """
        ...

    async def app_passwords(self, account_id: AccountId) -> tuple[AppPassword, ...]:
        """The app passwords of an account that `create_app_password` made, the oldest first; none for an
        account that is gone. An id is there twice when one was made twice.
        """
        ...

    async def destroy_app_passwords(
        self, account_id: AccountId, app_password_ids: Collection[UUID]
    ) -> None:
        """Let app passwords of an account open nothing any more; those already gone are no error, nor is
        an account that is gone.
        """
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
