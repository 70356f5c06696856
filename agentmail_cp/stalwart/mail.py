"""Mail in an account: what changed, what is there, what it says, where it lies.

Truth comes from `Email/changes`, from mailbox contents and from `Email/get`; never from text, header
or date searches, which Stalwart answers from an index that lags. A mail is asked for by its bare
document id, and Email ids in answers are cut down to it at once (`ids.py` says why).
Reads go through `call_many`, so that no request exceeds the server's limits; writes are one request.
What the answers look like and become is in `emails.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from agentmail_cp.mailserver import (
    AccountId,
    BlobId,
    Changes,
    DocumentId,
    Folder,
    Listing,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    Refusal,
)
from agentmail_cp.stalwart import rescue
from agentmail_cp.stalwart.calls import Call, GetAnswer, MethodError, SetAnswer, reference
from agentmail_cp.stalwart.copies import Stale, refused_copy
from agentmail_cp.stalwart.emails import (
    ATTACHED,
    CONTENT,
    LEAF,
    LOST,
    MAIL,
    PART,
    Attached,
    Content,
    Email,
    Page,
    QueryPage,
    Value,
    attached_to,
    content_of,
    length,
    mail_of,
    undecoded,
)
from agentmail_cp.stalwart.folders import Missing, ensure_exists, exists, mailbox_get
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import BLOB_SLACK, RequestRefused
from agentmail_cp.stalwart.mime import utc_date
from agentmail_cp.stalwart.previews import previews

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from agentmail_cp.mailserver import Attachment, Cursor, Mail, MailContent
    from agentmail_cp.stalwart.calls import Answer, SetError
    from agentmail_cp.stalwart.folders import Folders, Places
    from agentmail_cp.stalwart.jmap import JmapClient
    from agentmail_cp.stalwart.previews import ShownAt
    from agentmail_cp.stalwart.trace import Traces

T = TypeVar("T")

CONTENTS: Final = 25
"""Mails whose bodies come in one answer; a body may be as large as the largest mail."""
LARGE: Final = 65_536
"""Characters of mails whose words are made ready off the event loop."""
LISTING_TRIES: Final = 5


class _Heard(msgspec.Struct):
    """What one account answered to Email/changes: the page, and the mails it names."""

    page: Page
    emails: list[Email]


class Mailboxes:
    """The half of `StalwartMailServer` that reads and files mail."""

    _jmap: JmapClient
    _folders: Folders
    _traces: Traces

    async def changes(
        self, cursors: Sequence[Cursor], *, limit: int = 200
    ) -> Mapping[AccountId, Changes | MailServerError]:
        asked = {c.account_id: c.state for c in cursors if c.state is not None}
        try:
            answers = await self._ask_changes(asked, limit) if asked else {}
        except RequestRefused as error:
            if len(cursors) == 1:
                return {cursors[0].account_id: _state_lost(str(error))}
            return await self._changes_one_by_one(cursors, limit)
        missing = _missing_accounts(answers)
        heard = {c.account_id: _heard(c, missing, answers) for c in cursors}
        shown = await previews(
            self._jmap,
            {who: what.emails for who, what in heard.items() if isinstance(what, _Heard)},
        )
        found: dict[AccountId, Changes | MailServerError] = {}
        for account_id, what in heard.items():
            if isinstance(what, MailServerError):
                found[account_id] = what
                continue
            try:
                self._learn_folders(account_id, answers)
                found[account_id] = await self._changes(account_id, what, shown)
            except MailServerError as error:
                found[account_id] = error
        return found

    async def listing(self, account_id: AccountId) -> Listing:
        for _ in range(LISTING_TRIES):
            listing = await self._list_once(account_id)
            if listing is not None:
                return listing
        raise MailServerUnavailable("The mailbox changes faster than it can be listed.")

    async def fetch(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> tuple[Mail, ...]:
        size = (await self._jmap.limits()).max_objects_in_get
        options = {"properties": MAIL, "bodyProperties": LEAF}
        found = await self._get(account_id, document_ids, size, options, Email)
        shown = await previews(self._jmap, {account_id: found})
        return await self._mails(account_id, found, shown)

    async def read(
        self, account_id: AccountId, document_ids: Sequence[DocumentId]
    ) -> Mapping[DocumentId, MailContent]:
        options = {
            "properties": CONTENT,
            "bodyProperties": PART,
            "fetchTextBodyValues": True,
            "fetchHTMLBodyValues": True,
            "maxBodyValueBytes": 0,
        }
        found = await self._get(account_id, document_ids, CONTENTS, options, Content)
        for content in found:
            if broken := undecoded(content):
                await self._rescue(account_id, content, broken)
        # Megabytes of text, or of headers in encoded words, take their time.
        if sum(map(length, found)) > LARGE:
            contents = await asyncio.to_thread(lambda: list(map(content_of, found)))
        else:
            contents = list(map(content_of, found))
        return {content.document_id: content for content in contents}

    async def _rescue(
        self, account_id: AccountId, content: Content, part_ids: Sequence[str]
    ) -> None:
        """Put the words of these parts into the answer that lacks them."""
        stream = self.download(account_id, BlobId(content.blob_id))
        raw = b"".join([chunk async for chunk in stream])
        texts = await asyncio.to_thread(rescue.texts, raw, part_ids)
        content.body_values.update({part_id: Value(text) for part_id, text in texts.items()})

    async def attachments(
        self, wanted: Mapping[AccountId, Sequence[DocumentId]]
    ) -> Mapping[AccountId, Mapping[DocumentId, tuple[Attachment, ...]]]:
        if not wanted:
            return {}
        size = (await self._jmap.limits()).max_objects_in_get
        calls = [
            _get_attached(account_id, some, str(number))
            for number, (account_id, some) in enumerate(_shares(wanted, size))
        ]
        check = Call("x:Account/get", {"ids": list(wanted), "properties": ["id"]}, ACCOUNTS)
        answers = await self._jmap.call_many([[check], *([call] for call in calls)])
        missing = _missing_accounts(answers)
        found: dict[AccountId, dict[DocumentId, tuple[Attachment, ...]]] = {
            account_id: {} for account_id in wanted if account_id not in missing
        }
        for call in calls:
            account_id = call.arguments["accountId"]
            if account_id in found:
                mails = answers[call.tag].into(GetAnswer[Attached]).found
                found[account_id] |= {document_of(each.id): attached_to(each) for each in mails}
        return found

    async def destroy_mail(self, account_id: AccountId, document_ids: Sequence[DocumentId]) -> None:
        refused: dict[str, SetError] = {}
        ids = [email_id(document_id) for document_id in dict.fromkeys(document_ids)]
        for some in await self._in_sets(ids):
            answer = await self._set(account_id, {"destroy": some})
            refused |= answer.not_destroyed or {}
        for error in refused.values():
            if error.type != "notFound":
                raise MailServerRejected(Refusal.FORBIDDEN, error.sentence)

    async def append(
        self,
        account_id: AccountId,
        raw: bytes | BlobId,
        *,
        folder: Folder,
        keywords: frozenset[str] = frozenset(),
        received_at: datetime | None = None,
    ) -> DocumentId:
        blob_id = raw
        if isinstance(blob_id, bytes):
            blob_id = await self.upload(account_id, blob_id, "message/rfc822")
        email: dict[str, Any] = {
            "blobId": blob_id,
            "keywords": {keyword.lower(): True for keyword in keywords},
        }
        if received_at is not None:
            email["receivedAt"] = utc_date(received_at)
        try:
            return await self._import(account_id, email, folder)
        except Stale:
            self._folders.forget(account_id)
        try:
            return await self._import(account_id, email, folder)
        except Stale as error:
            raise MailServerConfused(f"The folder {folder} does not stay: {error}") from None

    async def upload(
        self, account_id: AccountId, content: AsyncIterator[bytes] | bytes, content_type: str
    ) -> BlobId:
        return BlobId((await self._jmap.upload(account_id, content, content_type)).blob_id)

    def download(
        self, account_id: AccountId, blob_id: BlobId, *, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        return self._jmap.download(account_id, blob_id, start, stop)

    async def ring(self) -> None:
        """Any request that emits an event does; this one is an unknown method, so it does nothing."""
        answers = await self._jmap.call(Call("Bell/ring", {}, "ring"), repeat=True)
        error = answers["ring"].error
        if isinstance(error, MethodError) and error.type == "unknownMethod":
            return
        raise error or MailServerConfused("The mail server knows a method called Bell/ring.")

    async def _import(
        self, account_id: AccountId, email: dict[str, Any], folder: Folder
    ) -> DocumentId:
        """Rejected, with nothing stored. Raises Stale when the folder is not where it was."""
        mailbox_id = await self._folders.folder(account_id, folder)
        emails = {"mail": {**email, "mailboxIds": {mailbox_id: True}}}
        call = Call("Email/import", {"accountId": account_id, "emails": emails}, "import")
        try:
            answers = await self._jmap.call(exists(account_id, "account"), call, slack=BLOB_SLACK)
        except RequestRefused as error:
            raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from None
        ensure_exists(answers["account"])
        answer = answers["import"].into(SetAnswer)
        made = answer.made("mail")
        if made is not None:
            return document_of(made)
        refused = (answer.not_created or {}).get("mail")
        if refused is None:
            raise MailServerConfused("Email/import neither stored nor refused the mail.")
        raise refused_copy(refused)

    async def _changes_one_by_one(
        self, cursors: Sequence[Cursor], limit: int
    ) -> dict[AccountId, Changes | MailServerError]:
        """One state that Stalwart never gave out makes it refuse the request with all the others."""
        found: dict[AccountId, Changes | MailServerError] = {}
        for cursor in cursors:
            found.update(await self.changes([cursor], limit=limit))
        return found

    async def _ask_changes(
        self, asked: Mapping[AccountId, MailState], limit: int
    ) -> dict[str, Answer]:
        most = min(limit, (await self._jmap.limits()).max_objects_in_get)
        groups = [
            _changes_calls(
                account_id, state, most, known=self._folders.known(account_id) is not None
            )
            for account_id, state in asked.items()
        ]
        check = {"ids": list(asked), "properties": ["id"]}
        return await self._jmap.call_many([[Call("x:Account/get", check, ACCOUNTS)], *groups])

    def _learn_folders(self, account_id: AccountId, answers: Mapping[str, Answer]) -> None:
        if (mailboxes := answers.get(f"{account_id} folders")) is not None:
            self._folders.learn(account_id, mailboxes)

    async def _changes(
        self, account_id: AccountId, heard: _Heard, shown: Mapping[ShownAt, str]
    ) -> Changes:
        page = heard.page
        seen = {document_of(each) for each in (*page.created, *page.updated)}
        gone = {document_of(each) for each in page.destroyed} - seen
        # A thread merge destroys an Email id, not the mail, which may have been reported before.
        kept = await self.fetch(account_id, sorted(gone)) if gone else ()
        present = await self._mails(account_id, heard.emails, shown)
        return Changes(
            account_id=account_id,
            state=page.new_state,
            present=_in_order([*present, *kept]),
            destroyed=tuple(sorted(gone - {mail.document_id for mail in kept})),
            more=page.has_more_changes,
        )

    async def _mails(
        self, account_id: AccountId, emails: Sequence[Email], shown: Mapping[ShownAt, str]
    ) -> tuple[Mail, ...]:
        places = await self._places_for(account_id, emails)
        await self._traces.keep_own(account_id, emails)
        return _in_order(
            mail_of(email, places, shown.get((account_id, email.id))) for email in emails
        )

    async def _list_once(self, account_id: AccountId) -> Listing | None:
        """One pass over the mailbox; None when it changed between two pages.

        Without filter and sort Stalwart answers `Email/query` from the mailbox itself, in document
        order, together with the state it read (0.16, `jmap/src/email/query.rs`).
        """
        ids: list[str] = []
        state: MailState | None = None
        while True:
            arguments = {"accountId": account_id, "position": len(ids), "calculateTotal": True}
            calls = (exists(account_id, "account"), Call("Email/query", arguments, "query"))
            answers = await self._jmap.call(*calls, repeat=True)
            ensure_exists(answers["account"])
            page = answers["query"].into(QueryPage)
            if state is not None and page.query_state != state:
                return None
            state = page.query_state
            ids.extend(page.ids)
            if len(ids) >= page.total:
                return Listing(state, tuple(sorted({document_of(each) for each in ids})))
            if not page.ids:
                return None

    async def _get(
        self,
        account_id: AccountId,
        document_ids: Sequence[DocumentId],
        size: int,
        options: Mapping[str, Any],
        shape: type[T],
    ) -> list[T]:
        ids = [email_id(document_id) for document_id in dict.fromkeys(document_ids)]
        if not ids:
            return []
        groups = [
            [Call("Email/get", {"accountId": account_id, "ids": some, **options}, f"get {number}")]
            for number, some in enumerate(_chunks(ids, size))
        ]
        answers = await self._jmap.call_many([[exists(account_id, ACCOUNTS)], *groups])
        ensure_exists(answers.pop(ACCOUNTS))
        # Tags, not the order of requests, tell which answer is which.
        return [
            found
            for number in range(len(groups))
            for found in answers[f"get {number}"].into(GetAnswer[shape]).found
        ]

    async def _places_for(self, account_id: AccountId, emails: Sequence[Email]) -> Places:
        places = await self._folders.places(account_id)
        if all(places.know(email.mailbox_ids) for email in emails):
            return places
        return await self._folders.look_up(account_id)

    async def _in_sets(self, items: Sequence[T]) -> list[list[T]]:
        return _chunks(items, (await self._jmap.limits()).max_objects_in_set)

    async def _set(self, account_id: AccountId, arguments: dict[str, Any]) -> SetAnswer:
        call = Call("Email/set", {"accountId": account_id, **arguments}, "set")
        answers = await self._jmap.call(exists(account_id, "account"), call)
        ensure_exists(answers["account"])
        return answers["set"].into(SetAnswer)


ACCOUNTS: Final = "accounts"


def _missing_accounts(answers: Mapping[str, Answer]) -> frozenset[AccountId]:
    asked = answers.get(ACCOUNTS)
    return frozenset(asked.into(Missing).not_found) if asked is not None else frozenset()


def _changes_calls(
    account_id: AccountId, state: MailState, most: int, *, known: bool
) -> list[Call]:
    """Tags begin with the account id, which is unique in a request and has no space."""
    arguments = {"accountId": account_id, "sinceState": state, "maxChanges": most}
    calls = [Call("Email/changes", arguments, f"{account_id} changes")]
    for which in ("created", "updated"):
        ids = reference(f"{account_id} changes", "Email/changes", f"/{which}")
        wanted = {"accountId": account_id, "#ids": ids, "properties": MAIL, "bodyProperties": LEAF}
        calls.append(Call("Email/get", wanted, f"{account_id} {which}"))
    if not known:
        calls.append(mailbox_get(account_id, f"{account_id} folders"))
    return calls


def _get_attached(account_id: AccountId, ids: list[str], tag: str) -> Call:
    wanted = {"accountId": account_id, "ids": ids, "properties": ATTACHED, "bodyProperties": PART}
    return Call("Email/get", wanted, tag)


def _shares(
    wanted: Mapping[AccountId, Sequence[DocumentId]], size: int
) -> Iterator[tuple[AccountId, list[str]]]:
    """The mails of each account as Email ids, at most `size` at once."""
    for account_id, documents in wanted.items():
        ids = [email_id(document_id) for document_id in dict.fromkeys(documents)]
        for some in _chunks(ids, size):
            yield account_id, some


def _heard(
    cursor: Cursor, missing: frozenset[AccountId], answers: Mapping[str, Answer]
) -> _Heard | MailServerError:
    account_id = cursor.account_id
    if cursor.state is None:
        return _state_lost("No state was given.")
    if account_id in missing:
        return MailServerRejected(Refusal.NO_ACCOUNT, "No such account.")
    try:
        page = _page(answers[f"{account_id} changes"])
        gets = [answers[f"{account_id} {which}"] for which in ("created", "updated")]
        emails = [email for get in gets for email in get.into(GetAnswer[Email]).found]
    except MailServerError as error:
        return error
    return _Heard(page, emails)


def _page(answer: Answer) -> Page:
    try:
        return answer.into(Page)
    except MethodError as error:
        if error.type in LOST:
            raise _state_lost(error.description) from None
        raise


def _state_lost(reason: str) -> MailServerRejected:
    return MailServerRejected(Refusal.STATE_LOST, reason)


def _chunks(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _in_order(mails: Iterable[Mail]) -> tuple[Mail, ...]:
    by_id = {mail.document_id: mail for mail in mails}
    return tuple(by_id[document_id] for document_id in sorted(by_id))
