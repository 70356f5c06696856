"""Handing mail in: store the copy, submit it, read the verdicts, in one request.

A mail goes through these states in the account: nothing → copy in Drafts with `$draft` → submitted →
copy in Sent without `$draft`. The last two steps and the verdicts come with the same request, so a
copy that is still a draft was never handed in, or its answer never came back: then `find_own` tells
(Stalwart commits the submission's record only after it has queued the mail, so a crash of Stalwart
between the two looks like "never handed in"; nothing outside can tell).
Nothing is ever submitted twice here, and nothing is repeated that may have been submitted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentmail_cp import sizes
from agentmail_cp.mailserver import (
    AccountId,
    DocumentId,
    Folder,
    MailServerConfused,
    MailServerError,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
    Submitted,
    Verdict,
)
from agentmail_cp.stalwart.calls import Call, Created, GetAnswer, SetError
from agentmail_cp.stalwart.copies import (
    REFUSALS,
    EmailSet,
    MadeEmail,
    Stale,
    afterwards,
    store,
    stored,
)
from agentmail_cp.stalwart.folders import ensure_exists, exists
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import RequestRefused
from agentmail_cp.stalwart.keywords import look_at_new, no_room
from agentmail_cp.stalwart.queue import envelope_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentmail_cp.mailserver import OutgoingEmail
    from agentmail_cp.stalwart.calls import Answer
    from agentmail_cp.stalwart.folders import Folders
    from agentmail_cp.stalwart.jmap import JmapClient

MAX_RECIPIENTS: Final = 100
"""MtaStageRcpt.maxRecipients in stalwart-config/smtp.toml; nothing in JMAP tells it."""
QUEUED: Final = "250 2.1.5 Queued"

_SMTP_REPLY = re.compile(r"\b(?P<code>[45]\d\d)[ -]")
_SIZE_REPLIES = re.compile(r"\b(?:552|523|5\.3\.4|5\.2\.3)\b")


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


class Submission(msgspec.Struct, rename="camel"):
    """An EmailSubmission (RFC 8621 section 7)."""

    id: str
    email_id: str
    undo_status: str
    delivery_status: dict[str, _Delivery] | None = None
    envelope: _Envelope | None = None


class Submissions:
    """The half of `StalwartMailServer` that sends."""

    _jmap: JmapClient
    _folders: Folders

    if TYPE_CHECKING:

        async def destroy_mail(
            self, account_id: AccountId, document_ids: Sequence[DocumentId]
        ) -> None: ...

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
        except Stale:
            self._folders.forget(account_id, email.sender.email)
        try:
            return await self._submit(account_id, email)
        except Stale as error:
            raise MailServerConfused(f"Folders and identities do not stay: {error}") from None

    async def _submit(self, account_id: AccountId, email: OutgoingEmail) -> Submitted:
        identity = await self._folders.identity(account_id, email.sender.email)
        drafts = await self._folders.folder(account_id, Folder.DRAFTS)
        sent = await self._folders.folder(account_id, Folder.SENT)
        try:
            answers = await self._jmap.call(
                exists(account_id, "account"),
                store(account_id, email, drafts),
                *look_at_new(account_id, email),
                _hand_in(account_id, email, identity, sent),
                _ask_verdicts(account_id),
                slack=sizes.slack(sizes.size_of(email)),
            )
        except RequestRefused as error:
            raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from None
        ensure_exists(answers["account"])
        copy = stored(answers["store"])
        await self._ensure_submitted(account_id, copy, answers["submit"])
        await self._ensure_moved(account_id, copy, answers["submit"])
        found = answers["verdicts"].into(GetAnswer[Submission]).found
        if not found:
            raise MailServerConfused("The mail was handed in, but its submission is unknown.")
        verdicts = tuple(_verdict(each, found[0]) for each in email.recipients)
        left_out = await no_room(self._jmap, account_id, email, answers)
        return Submitted(document_of(copy.id), copy.size, verdicts, left_out)

    async def _ensure_submitted(
        self, account_id: AccountId, copy: MadeEmail, answer: Answer
    ) -> None:
        """When the mail was refused as a whole, take the copy away and say why."""
        submission = answer.into(_SubmissionSet)
        if (submission.created or {}).get("submission") is not None:
            return
        refused = (submission.not_created or {}).get("submission")
        if refused is None:
            raise MailServerConfused("EmailSubmission/set neither made nor refused the submission.")
        with afterwards("A refused mail's copy could not be destroyed"):
            await self.destroy_mail(account_id, [document_of(copy.id)])
        if "identityId" in refused.properties:
            raise Stale(refused.sentence)
        raise _submission_error(refused)

    async def _ensure_moved(self, account_id: AccountId, copy: MadeEmail, answer: Answer) -> None:
        """The move to Sent is the submission's own side effect; make up for one that failed."""
        if answer.followers and not answer.followers[0].into(EmailSet).not_updated:
            return
        with afterwards("The copy of a sent mail could not be filed"):
            # Somebody deleted the Sent folder we remember.
            self._folders.forget(account_id)
            sent = await self._folders.folder(account_id, Folder.SENT)
            key = email_id(document_of(copy.id))
            arguments = {"accountId": account_id, "update": {key: _move_to(sent)}}
            again = await self._jmap.call(Call("Email/set", arguments, "move"))
            for refused in (again["move"].into(EmailSet).not_updated or {}).values():
                raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)


def _hand_in(account_id: AccountId, email: OutgoingEmail, identity: str, sent: str) -> Call:
    create = {
        "emailId": "#email",
        "identityId": identity,
        "envelope": {
            "mailFrom": _mail_from(email),
            "rcptTo": [{"email": address} for address in email.recipients],
        },
    }
    arguments = {
        "accountId": account_id,
        "create": {"submission": create},
        "onSuccessUpdateEmail": {"#submission": _move_to(sent)},
    }
    return Call("EmailSubmission/set", arguments, "submit")


def _mail_from(email: OutgoingEmail) -> dict[str, Any]:
    envelope = envelope_id(email)
    named = {} if envelope is None else {"parameters": {"ENVID": envelope}}
    return {"email": email.sender.email, **named}


def _ask_verdicts(account_id: AccountId) -> Call:
    arguments = {
        "accountId": account_id,
        "ids": ["#submission"],
        "properties": ["id", "emailId", "undoStatus", "deliveryStatus"],
    }
    return Call("EmailSubmission/get", arguments, "verdicts")


def _move_to(mailbox_id: str) -> dict[str, Any]:
    return {"mailboxIds": {mailbox_id: True}, "keywords/$draft": None}


def _submission_error(refused: SetError) -> MailServerError:
    """The error for a mail refused at MAIL or DATA; the description ends with the SMTP reply."""
    reply = _SMTP_REPLY.search(refused.description)
    if reply is not None and reply["code"].startswith("4"):
        return MailServerUnavailable(refused.description)
    code = REFUSALS.get(refused.type, Refusal.INVALID_MAIL)
    if "maximum size" in refused.description or _SIZE_REPLIES.search(refused.description):
        code = Refusal.TOO_LARGE
    return MailServerRejected(code, refused.sentence)


def _verdict(address: str, submission: Submission) -> Verdict:
    status = (submission.delivery_status or {}).get(address.lower())
    if status is None or not _refused_at_once(status):
        return Verdict(address, accepted=True, reply=QUEUED)
    return Verdict(address, accepted=False, reply=status.smtp_reply)


def _refused_at_once(status: _Delivery) -> bool:
    # A failure after queueing reads "Code: 550, …" or names an error; its bounce reports that one.
    return status.delivered == "no" and _SMTP_REPLY.match(status.smtp_reply) is not None


def recorded_verdicts(submission: Submission) -> tuple[Verdict, ...]:
    """One verdict per recipient of a submission found later, in the order of its envelope."""
    recipients: Mapping[str, None]
    if submission.envelope is not None:
        recipients = dict.fromkeys(each.email for each in submission.envelope.rcpt_to)
    else:
        recipients = dict.fromkeys(submission.delivery_status or {})
    return tuple(_verdict(address, submission) for address in recipients)
