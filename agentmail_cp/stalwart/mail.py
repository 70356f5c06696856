"""Mail in an account: what changed, what is there, what it says, where it lies.

Truth comes from `Email/changes`, from mailbox contents and from `Email/get`; never from text, header
or date searches, which Stalwart answers from an index that lags. A mail is asked for by its bare
document id, and Email ids in answers are cut down to it at once (`ids.py` says why).
Reads go through `call_many`, so that no request exceeds the server's limits; writes are one request.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from agentmail_cp.mailserver import (
    AccountId,
    Address,
    Attachment,
    BlobId,
    Changes,
    DocumentId,
    Folder,
    Listing,
    Mail,
    MailContent,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    Refusal,
)
from agentmail_cp.stalwart.folders import ensure_exists, exists, mailbox_get
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import (
    Call,
    GetAnswer,
    MethodError,
    RequestRefused,
    SetAnswer,
    reference,
)
from agentmail_cp.stalwart.mime import header_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from agentmail_cp.mailserver import Cursor, Relabel
    from agentmail_cp.stalwart.folders import Folders, Places
    from agentmail_cp.stalwart.jmap import Answer, JmapClient, SetError

T = TypeVar("T")

PREVIEW: Final = 200
CONTENTS: Final = 25
"""Mails whose bodies come in one answer; a body may be as large as the largest mail."""
LISTING_TRIES: Final = 5
LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)

ALWAYS_LOWER: Final = frozenset({"$answered", "$draft", "$flagged", "$forwarded", "$seen"})
"""Keywords Stalwart has in one spelling, whatever a client wrote; the usual ones, to save a look."""

LOST: Final = frozenset({"cannotCalculateChanges", "invalidArguments"})
"""Stalwart's answers to a state it forgot or never gave out."""

MAIL: Final = (
    "id",
    "mailboxIds",
    "keywords",
    "receivedAt",
    "sentAt",
    "messageId",
    "inReplyTo",
    "references",
    "subject",
    "from",
    "to",
    "cc",
    "bcc",
    "replyTo",
    "size",
    "hasAttachment",
    "preview",
)
"""Properties of `Mail`. All of them come from Stalwart's metadata; none makes it read the message."""

CONTENT: Final = ("id", "blobId", "headers", "textBody", "htmlBody", "attachments", "bodyValues")
PART: Final = ("partId", "blobId", "size", "type", "name", "cid", "disposition")


class Page(msgspec.Struct, rename="camel"):
    """One answer of Email/changes (RFC 8620 section 5.2)."""

    new_state: MailState
    has_more_changes: bool
    created: list[str]
    updated: list[str]
    destroyed: list[str]


class _Address(msgspec.Struct):
    email: str | None = None
    name: str | None = None


class _Email(msgspec.Struct, rename="camel"):
    id: str
    mailbox_ids: dict[str, bool]
    keywords: dict[str, bool]
    received_at: str
    size: int
    has_attachment: bool
    sent_at: str | None = None
    message_id: list[str] | None = None
    in_reply_to: list[str] | None = None
    references: list[str] | None = None
    subject: str | None = None
    sender: list[_Address] | None = msgspec.field(default=None, name="from")
    to: list[_Address] | None = None
    cc: list[_Address] | None = None
    bcc: list[_Address] | None = None
    reply_to: list[_Address] | None = None
    preview: str | None = None


class _Keywords(msgspec.Struct):
    id: str
    keywords: dict[str, bool]


class _Header(msgspec.Struct):
    name: str
    value: str


class _Part(msgspec.Struct, rename="camel"):
    part_id: str | None
    size: int
    type: str
    blob_id: str | None = None
    name: str | None = None
    cid: str | None = None
    disposition: str | None = None


class _Value(msgspec.Struct):
    value: str


class _Content(msgspec.Struct, rename="camel"):
    id: str
    blob_id: str
    headers: list[_Header]
    text_body: list[_Part]
    html_body: list[_Part]
    attachments: list[_Part]
    body_values: dict[str, _Value]


class _QueryPage(msgspec.Struct, rename="camel"):
    query_state: MailState
    ids: list[str]
    total: int


class Mailboxes:
    """The half of `StalwartMailServer` that reads and files mail."""

    _jmap: JmapClient
    _folders: Folders

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
        found: dict[AccountId, Changes | MailServerError] = {}
        for cursor in cursors:
            account_id = cursor.account_id
            if cursor.state is None:
                found[account_id] = _state_lost("No state was given.")
            elif account_id in missing:
                found[account_id] = MailServerRejected(Refusal.NO_ACCOUNT, "No such account.")
            else:
                try:
                    found[account_id] = await self._changes(account_id, answers)
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
        found = await self._get(account_id, document_ids, size, {"properties": MAIL}, _Email)
        places = await self._places_for(account_id, found)
        return _in_order(_mail(email, places) for email in found)

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
        found = await self._get(account_id, document_ids, CONTENTS, options, _Content)
        return {content.document_id: content for content in map(_mail_content, found)}

    async def relabel(self, account_id: AccountId, changes: Sequence[Relabel]) -> None:
        spellings = await self._spellings(account_id, changes)
        patches: dict[str, dict[str, Any]] = {}
        for change in changes:
            patch = patches.setdefault(email_id(change.document_id), {})
            present = spellings.get(change.document_id, {})
            for keyword in change.remove:
                same = present.get(keyword.lower(), (keyword.lower(),))
                patch.update((f"keywords/{_pointer(each)}", None) for each in same)
            patch.update((f"keywords/{_pointer(k.lower())}", True) for k in change.add)
            if change.move_to is not None:
                mailbox_id = await self._folders.folder(account_id, change.move_to)
                patch["mailboxIds"] = {mailbox_id: True}
        await self._patch(account_id, patches)

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
        raw: bytes,
        *,
        folder: Folder,
        keywords: frozenset[str] = frozenset(),
    ) -> DocumentId:
        mailbox_id = await self._folders.folder(account_id, folder)
        blob_id = await self.upload(account_id, raw, "message/rfc822")
        email = {
            "blobId": blob_id,
            "mailboxIds": {mailbox_id: True},
            "keywords": {keyword.lower(): True for keyword in keywords},
        }
        call = Call("Email/import", {"accountId": account_id, "emails": {"mail": email}}, "import")
        answers = await self._jmap.call(exists(account_id, "account"), call)
        ensure_exists(answers["account"])
        answer = answers["import"].into(SetAnswer)
        made = answer.made("mail")
        if made is not None:
            return document_of(made)
        refused = (answer.not_created or {}).get("mail")
        if refused is None:
            raise MailServerConfused("Email/import neither stored nor refused the mail.")
        if "mailboxIds" in refused.properties:
            self._folders.forget(account_id)
        code = Refusal.OVER_QUOTA if refused.type == "overQuota" else Refusal.INVALID_MAIL
        raise MailServerRejected(code, refused.sentence)

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

    async def _changes(self, account_id: AccountId, answers: Mapping[str, Answer]) -> Changes:
        page = _page(answers[f"{account_id} changes"])
        found = [
            email
            for which in ("created", "updated")
            for email in answers[f"{account_id} {which}"].into(GetAnswer[_Email]).found
        ]
        if (mailboxes := answers.get(f"{account_id} folders")) is not None:
            self._folders.learn(account_id, mailboxes)
        seen = {document_of(each) for each in (*page.created, *page.updated)}
        gone = {document_of(each) for each in page.destroyed} - seen
        # A thread merge destroys an Email id, not the mail, which may have been reported before.
        kept = await self.fetch(account_id, sorted(gone)) if gone else ()
        places = await self._places_for(account_id, found)
        return Changes(
            account_id=account_id,
            state=page.new_state,
            present=_in_order([*(_mail(email, places) for email in found), *kept]),
            destroyed=tuple(sorted(gone - {mail.document_id for mail in kept})),
            more=page.has_more_changes,
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
            page = answers["query"].into(_QueryPage)
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

    async def _spellings(
        self, account_id: AccountId, changes: Sequence[Relabel]
    ) -> dict[DocumentId, dict[str, list[str]]]:
        """How keywords that are to go are really written, by their lower-case form.

        Stalwart tells apart what differs in case only; IMAP (RFC 9051 section 2.3.2) and we do not.
        """
        odd = [change.document_id for change in changes if change.remove - ALWAYS_LOWER]
        size = (await self._jmap.limits()).max_objects_in_get
        options = {"properties": ("id", "keywords")}
        found: dict[DocumentId, dict[str, list[str]]] = {}
        for mail in await self._get(account_id, odd, size, options, _Keywords):
            spellings = found.setdefault(document_of(mail.id), {})
            for keyword in mail.keywords:
                spellings.setdefault(keyword.lower(), []).append(keyword)
        return found

    async def _patch(self, account_id: AccountId, patches: Mapping[str, dict[str, Any]]) -> None:
        refused: dict[str, SetError] = {}
        for some in await self._in_sets(list(patches.items())):
            try:
                answer = await self._set(account_id, {"update": dict(some)})
            except RequestRefused as error:
                raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from None
            refused |= answer.not_updated or {}
        _raise_relabel(refused)

    async def _places_for(self, account_id: AccountId, emails: Sequence[_Email]) -> Places:
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


class _Missing(msgspec.Struct, rename="camel"):
    not_found: list[AccountId]


def _missing_accounts(answers: Mapping[str, Answer]) -> frozenset[AccountId]:
    asked = answers.get(ACCOUNTS)
    return frozenset(asked.into(_Missing).not_found) if asked is not None else frozenset()


def _changes_calls(
    account_id: AccountId, state: MailState, most: int, *, known: bool
) -> list[Call]:
    """Tags begin with the account id, which is unique in a request and has no space."""
    arguments = {"accountId": account_id, "sinceState": state, "maxChanges": most}
    calls = [Call("Email/changes", arguments, f"{account_id} changes")]
    for which in ("created", "updated"):
        ids = reference(f"{account_id} changes", "Email/changes", f"/{which}")
        wanted = {"accountId": account_id, "#ids": ids, "properties": MAIL}
        calls.append(Call("Email/get", wanted, f"{account_id} {which}"))
    if not known:
        calls.append(mailbox_get(account_id, f"{account_id} folders"))
    return calls


def _page(answer: Answer) -> Page:
    try:
        return answer.into(Page)
    except MethodError as error:
        if error.type in LOST:
            raise _state_lost(error.description) from None
        raise


def _state_lost(reason: str) -> MailServerRejected:
    return MailServerRejected(Refusal.STATE_LOST, reason)


def _raise_relabel(refused: Mapping[str, SetError]) -> None:
    others = [error for error in refused.values() if error.type != "notFound"]
    if others:
        raise MailServerRejected(Refusal.INVALID_MAIL, others[0].sentence)
    if refused:
        raise MailServerRejected(Refusal.NO_MAIL, f"{len(refused)} of these mails are gone.")


def _pointer(keyword: str) -> str:
    """One step of a JSON pointer (RFC 6901 section 3)."""
    return keyword.replace("~", "~0").replace("/", "~1")


def _chunks(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _in_order(mails: Iterable[Mail]) -> tuple[Mail, ...]:
    by_id = {mail.document_id: mail for mail in mails}
    return tuple(by_id[document_id] for document_id in sorted(by_id))


def _mail(email: _Email, places: Places) -> Mail:
    senders = _addresses(email.sender)
    message_ids = _message_ids(email.message_id)
    return Mail(
        document_id=document_of(email.id),
        folders=places.folders(email.mailbox_ids),
        keywords=frozenset(keyword.lower() for keyword in email.keywords),
        received_at=_moment(email.received_at) or LONG_AGO,
        sent_at=_moment(email.sent_at),
        message_id=message_ids[0] if message_ids else None,
        in_reply_to=_message_ids(email.in_reply_to),
        references=_message_ids(email.references),
        subject=_text(email.subject) if email.subject is not None else None,
        sender=senders[0] if senders else None,
        to=_addresses(email.to),
        cc=_addresses(email.cc),
        bcc=_addresses(email.bcc),
        reply_to=_addresses(email.reply_to),
        size=email.size,
        has_attachment=email.has_attachment,
        preview=" ".join(_text(email.preview or "").split())[:PREVIEW],
    )


def _addresses(found: Sequence[_Address] | None) -> tuple[Address, ...]:
    return tuple(
        Address(_text(address.email), _text(address.name) if address.name else None)
        for address in found or ()
        if address.email
    )


def _message_ids(found: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(_text(each) for each in found or () if each)


def _text(value: str) -> str:
    """U+0000 is in no real text, but in mails made to break what reads them."""
    return value.replace("\0", "")


def _moment(text: str | None) -> datetime | None:
    """A moment in UTC, None for one that no calendar has: Date headers hold anything."""
    if text is None:
        return None
    try:
        return msgspec.convert(text, datetime).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        return None


def _mail_content(content: _Content) -> MailContent:
    # Inline pictures outside multipart/related are only in the body lists (RFC 8621 section 4.1.4).
    media = [p for p in (*content.text_body, *content.html_body) if not p.type.startswith("text/")]
    parts = {part.part_id: part for part in (*media, *content.attachments)}
    return MailContent(
        document_id=document_of(content.id),
        raw_blob_id=BlobId(content.blob_id),
        headers=tuple((each.name, _text(header_text(each.value))) for each in content.headers),
        text=_body(content.text_body, "text/plain", content.body_values),
        html=_body(content.html_body, "text/html", content.body_values),
        attachments=tuple(
            _attachment(part) for part in sorted(parts.values(), key=_position) if part.blob_id
        ),
    )


def _body(parts: Sequence[_Part], content_type: str, values: Mapping[str, _Value]) -> str | None:
    """The parts of this type in order, None when there is none: HTML stands in for missing text."""
    texts = [
        values[part.part_id].value
        for part in parts
        if part.type == content_type and part.part_id is not None and part.part_id in values
    ]
    return "\n".join(texts) if texts else None


def _position(part: _Part) -> int:
    """Stalwart's part ids are the parts' numbers in document order."""
    return int(part.part_id) if part.part_id and part.part_id.isdecimal() else 0


def _attachment(part: _Part) -> Attachment:
    return Attachment(
        part_id=part.part_id or "",
        blob_id=BlobId(part.blob_id or ""),
        size=part.size,
        content_type=part.type,
        filename=part.name,
        content_id=part.cid,
        inline=part.disposition == "inline" or (part.disposition is None and part.cid is not None),
    )
