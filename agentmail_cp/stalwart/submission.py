"""Handing mail in: store the copy, submit it, read the verdicts, in one request; and finding it again.

A mail goes through these states in the account: nothing → copy in Drafts with `$draft` → submitted →
copy in Sent without `$draft`. The last two steps and the verdicts come with the same request, so a
copy that is still a draft was never handed in, or its answer never came back: then `find_own` tells
(Stalwart commits the submission's record only after it has queued the mail, so a crash of Stalwart
between the two looks like "never handed in"; nothing outside can tell).
Nothing is ever submitted twice here, and nothing is repeated that may have been submitted.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    FoundMail,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    MailState,
    Refusal,
    Submitted,
    Verdict,
)
from agentmail_cp.stalwart.emails import LOST, Page
from agentmail_cp.stalwart.folders import ensure_exists, exists
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import (
    Call,
    Created,
    GetAnswer,
    MethodError,
    RequestRefused,
    SetError,
    reference,
)
from agentmail_cp.stalwart.mime import email_properties

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from agentmail_cp.mailserver import Listing, OutgoingEmail
    from agentmail_cp.stalwart.folders import Folders
    from agentmail_cp.stalwart.jmap import Answer, JmapClient

MAX_RECIPIENTS: Final = 100
"""MtaStageRcpt.maxRecipients in stalwart-config/smtp.toml; nothing in JMAP tells it."""
QUEUED: Final = "250 2.1.5 Queued"

REFUSALS: Final = {
    "overQuota": Refusal.OVER_QUOTA,
    "tooLarge": Refusal.TOO_LARGE,
    "blobNotFound": Refusal.NO_BLOB,
    "tooManyRecipients": Refusal.TOO_MANY_RECIPIENTS,
    "forbiddenFrom": Refusal.SENDER_NOT_ALLOWED,
    "forbiddenMailFrom": Refusal.SENDER_NOT_ALLOWED,
    "forbiddenToSend": Refusal.FORBIDDEN,
    "forbidden": Refusal.FORBIDDEN,
}
"""SetErrors of Email/set and EmailSubmission/set (RFC 8621 section 7.5) in the port's words; every
other one is about the mail itself."""

_SMTP_REPLY = re.compile(r"\b(?P<code>[45]\d\d)[ -]")
_SIZE_REPLIES = re.compile(r"\b(?:552|523|5\.3\.4|5\.2\.3)\b")


class _MadeEmail(msgspec.Struct):
    id: str
    size: int


class _EmailSet(msgspec.Struct, rename="camel"):
    created: dict[str, _MadeEmail] | None = None
    not_created: dict[str, SetError] | None = None
    not_updated: dict[str, SetError] | None = None


class _SubmissionSet(msgspec.Struct, rename="camel"):
    created: dict[str, Created] | None = None
    not_created: dict[str, SetError] | None = None


class _Delivery(msgspec.Struct, rename="camel"):
    delivered: str
    smtp_reply: str = ""


class _Recipient(msgspec.Struct):
    email: str


class _Envelope(msgspec.Struct, rename="camel"):
    rcpt_to: list[_Recipient] = []


class _Submission(msgspec.Struct, rename="camel"):
    id: str
    email_id: str
    undo_status: str
    delivery_status: dict[str, _Delivery] | None = None
    envelope: _Envelope | None = None


class _OwnMail(msgspec.Struct, rename="camel"):
    id: str
    size: int
    message_id: list[str] | None = None
    mailbox_ids: dict[str, bool] = {}


class _Stale(Exception):
    """A remembered folder or identity is gone; nothing was stored."""


class Submissions:
    """The half of `StalwartMailServer` that sends."""

    _jmap: JmapClient
    _folders: Folders

    if TYPE_CHECKING:

        async def destroy_mail(
            self, account_id: AccountId, document_ids: Sequence[DocumentId]
        ) -> None: ...
        async def listing(self, account_id: AccountId) -> Listing: ...

    async def submit(self, account_id: AccountId, email: OutgoingEmail) -> Submitted:
        if not email.recipients:
            # Stalwart would take them from the headers.
            raise MailServerRejected(Refusal.INVALID_MAIL, "The mail has no recipients.")
        if len(email.recipients) > MAX_RECIPIENTS:
            # Stalwart would send to the first ones and refuse the rest one by one.
            text = f"A mail goes to at most {MAX_RECIPIENTS} recipients."
            raise MailServerRejected(Refusal.TOO_MANY_RECIPIENTS, text)
        try:
            return await self._submit(account_id, email)
        except _Stale:
            self._folders.forget(account_id, email.sender.email)
        try:
            return await self._submit(account_id, email)
        except _Stale as error:
            raise MailServerConfused(f"Folders and identities do not stay: {error}") from None

    async def find_own(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> FoundMail | None:
        documents = await self._changed_documents(account_id, since)
        copies = await self._copies(account_id, documents, message_id)
        if not copies:
            return None
        submissions = await self._submissions(account_id, list(copies))
        for submission in submissions:
            copy = copies.get(document_of(submission.email_id))
            if copy is not None and submission.undo_status != "canceled":
                document_id = document_of(copy.id)
                handed_in = Submitted(document_id, copy.size, _recorded_verdicts(submission))
                return FoundMail(document_id, handed_in)
        places = await self._folders.places(account_id)
        own = {Folder.DRAFTS, Folder.SENT}
        for document_id, copy in copies.items():
            if places.folders(copy.mailbox_ids) & own:
                return FoundMail(document_id, None)
        return None

    async def _submit(self, account_id: AccountId, email: OutgoingEmail) -> Submitted:
        identity = await self._folders.identity(account_id, email.sender.email)
        drafts = await self._folders.folder(account_id, Folder.DRAFTS)
        sent = await self._folders.folder(account_id, Folder.SENT)
        try:
            answers = await self._jmap.call(
                exists(account_id, "account"),
                _store(account_id, email, drafts),
                _hand_in(account_id, email, identity, sent),
                _ask_verdicts(account_id),
            )
        except RequestRefused as error:
            raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from None
        ensure_exists(answers["account"])
        copy = _stored(answers["store"])
        await self._ensure_submitted(account_id, copy, answers["submit"])
        await self._ensure_moved(account_id, copy, answers["submit"])
        found = answers["verdicts"].into(GetAnswer[_Submission]).found
        if not found:
            raise MailServerConfused("The mail was handed in, but its submission is unknown.")
        verdicts = tuple(_verdict(each, found[0]) for each in email.recipients)
        return Submitted(document_of(copy.id), copy.size, verdicts)

    async def _ensure_submitted(
        self, account_id: AccountId, copy: _MadeEmail, answer: Answer
    ) -> None:
        """When the mail was refused as a whole, take the copy away and say why."""
        submission = answer.into(_SubmissionSet)
        if (submission.created or {}).get("submission") is not None:
            return
        refused = (submission.not_created or {}).get("submission")
        if refused is None:
            raise MailServerConfused("EmailSubmission/set neither made nor refused the submission.")
        with _afterwards("A refused mail's copy could not be destroyed"):
            await self.destroy_mail(account_id, [document_of(copy.id)])
        if "identityId" in refused.properties:
            raise _Stale(refused.sentence)
        raise _submission_error(refused)

    async def _ensure_moved(self, account_id: AccountId, copy: _MadeEmail, answer: Answer) -> None:
        """The move to Sent is the submission's own side effect; make up for one that failed."""
        if answer.followers and not answer.followers[0].into(_EmailSet).not_updated:
            return
        with _afterwards("The copy of a sent mail could not be filed"):
            # Somebody deleted the Sent folder we remember.
            self._folders.forget(account_id)
            sent = await self._folders.folder(account_id, Folder.SENT)
            key = email_id(document_of(copy.id))
            arguments = {"accountId": account_id, "update": {key: _move_to(sent)}}
            again = await self._jmap.call(Call("Email/set", arguments, "move"))
            for refused in (again["move"].into(_EmailSet).not_updated or {}).values():
                raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)

    async def _changed_documents(
        self, account_id: AccountId, since: MailState | None
    ) -> list[DocumentId]:
        found: dict[DocumentId, None] = {}
        state = since
        while state is not None:
            arguments = {"accountId": account_id, "sinceState": state}
            calls = (exists(account_id, "account"), Call("Email/changes", arguments, "changes"))
            try:
                answers = await self._jmap.call(*calls, repeat=True)
            except RequestRefused:
                break
            ensure_exists(answers["account"])
            page = _page(answers["changes"])
            if page is None:
                break
            found.update((document_of(each), None) for each in (*page.created, *page.updated))
            if not page.has_more_changes:
                return list(found)
            state = page.new_state
        return list((await self.listing(account_id)).document_ids)

    async def _copies(
        self, account_id: AccountId, documents: Sequence[DocumentId], message_id: str
    ) -> dict[DocumentId, _OwnMail]:
        size = (await self._jmap.limits()).max_objects_in_get
        groups = [
            [
                Call(
                    "Email/get",
                    {
                        "accountId": account_id,
                        "ids": [email_id(each) for each in documents[start : start + size]],
                        "properties": ["id", "messageId", "mailboxIds", "size"],
                    },
                    str(start),
                )
            ]
            for start in range(0, len(documents), size)
        ]
        answers = await self._jmap.call_many(groups)
        mails = (
            mail for answer in answers.values() for mail in answer.into(GetAnswer[_OwnMail]).found
        )
        return {
            document_of(mail.id): mail for mail in mails if message_id in (mail.message_id or ())
        }

    async def _submissions(
        self, account_id: AccountId, documents: Sequence[DocumentId]
    ) -> list[_Submission]:
        # Stalwart compares the document half only, so merged threads do not hide a submission.
        filters = {"emailIds": [email_id(each) for each in documents]}
        query = Call("EmailSubmission/query", {"accountId": account_id, "filter": filters}, "query")
        get = Call(
            "EmailSubmission/get",
            {
                "accountId": account_id,
                "#ids": reference("query", "EmailSubmission/query", "/ids"),
                "properties": ["id", "emailId", "undoStatus", "deliveryStatus", "envelope"],
            },
            "get",
        )
        answers = await self._jmap.call(query, get, repeat=True)
        answers["query"].into(dict[str, Any])
        return answers["get"].into(GetAnswer[_Submission]).found


@contextmanager
def _afterwards(failure: str) -> Generator[None]:
    """Something is stored or sent already: what fails now must be looked up, not done again."""
    try:
        yield
    except MailServerError as error:
        raise MailServerUnavailable(f"{failure}: {error}", reached=True) from error


def _page(answer: Answer) -> Page | None:
    """A page of changes, None when the server has forgotten the state."""
    try:
        return answer.into(Page)
    except MethodError as error:
        if error.type not in LOST:
            raise
        return None


def _store(account_id: AccountId, email: OutgoingEmail, drafts: str) -> Call:
    keywords = {*map(str.lower, email.keywords), "$seen", "$draft"}
    create = {
        "mailboxIds": {drafts: True},
        "keywords": dict.fromkeys(keywords, True),
        **email_properties(email),
    }
    return Call("Email/set", {"accountId": account_id, "create": {"email": create}}, "store")


def _hand_in(account_id: AccountId, email: OutgoingEmail, identity: str, sent: str) -> Call:
    create = {
        "emailId": "#email",
        "identityId": identity,
        "envelope": {
            "mailFrom": {"email": email.sender.email},
            "rcptTo": [{"email": address} for address in email.recipients],
        },
    }
    arguments = {
        "accountId": account_id,
        "create": {"submission": create},
        "onSuccessUpdateEmail": {"#submission": _move_to(sent)},
    }
    return Call("EmailSubmission/set", arguments, "submit")


def _ask_verdicts(account_id: AccountId) -> Call:
    arguments = {
        "accountId": account_id,
        "ids": ["#submission"],
        "properties": ["id", "emailId", "undoStatus", "deliveryStatus"],
    }
    return Call("EmailSubmission/get", arguments, "verdicts")


def _move_to(mailbox_id: str) -> dict[str, Any]:
    return {"mailboxIds": {mailbox_id: True}, "keywords/$draft": None}


def _stored(answer: Answer) -> _MadeEmail:
    result = answer.into(_EmailSet)
    if (made := (result.created or {}).get("email")) is not None:
        return made
    refused = (result.not_created or {}).get("email")
    if refused is None:
        raise MailServerConfused("Email/set neither made nor refused the mail.")
    if "mailboxIds" in refused.properties:
        raise _Stale(refused.sentence)
    code = REFUSALS.get(refused.type, Refusal.INVALID_MAIL)
    if "maximum size" in refused.description:
        code = Refusal.TOO_LARGE
    if any(name.endswith("blobId") for name in refused.properties):
        code = Refusal.NO_BLOB
    raise MailServerRejected(code, refused.sentence)


def _submission_error(refused: SetError) -> MailServerError:
    """The error for a mail refused at MAIL or DATA; the description ends with the SMTP reply."""
    reply = _SMTP_REPLY.search(refused.description)
    if reply is not None and reply["code"].startswith("4"):
        return MailServerUnavailable(refused.description)
    code = REFUSALS.get(refused.type, Refusal.INVALID_MAIL)
    if "maximum size" in refused.description or _SIZE_REPLIES.search(refused.description):
        code = Refusal.TOO_LARGE
    return MailServerRejected(code, refused.sentence)


def _verdict(address: str, submission: _Submission) -> Verdict:
    status = (submission.delivery_status or {}).get(address.lower())
    if status is None or not _refused_at_once(status):
        return Verdict(address, accepted=True, reply=QUEUED)
    return Verdict(address, accepted=False, reply=status.smtp_reply)


def _refused_at_once(status: _Delivery) -> bool:
    # A failure after queueing reads "Code: 550, …" or names an error; its bounce reports that one.
    return status.delivered == "no" and _SMTP_REPLY.match(status.smtp_reply) is not None


def _recorded_verdicts(submission: _Submission) -> tuple[Verdict, ...]:
    recipients: Mapping[str, None]
    if submission.envelope is not None:
        recipients = dict.fromkeys(each.email for each in submission.envelope.rcpt_to)
    else:
        recipients = dict.fromkeys(submission.delivery_status or {})
    return tuple(_verdict(address, submission) for address in recipients)
