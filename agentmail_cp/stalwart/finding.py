"""Finding a mail by its Message-ID, and what became of one that was handed in.

For callers whose answer was lost: what they ask about may be seconds old. So nothing here asks a search
index, which lags; `Email/changes` names what is new, and `Email/get` tells its Message-ID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from agentmail_cp.mailserver import Folder, FoundMail, Submitted
from agentmail_cp.stalwart.calls import Call, GetAnswer, MethodError, reference
from agentmail_cp.stalwart.emails import LOST, Page
from agentmail_cp.stalwart.folders import ensure_exists, exists
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import RequestRefused
from agentmail_cp.stalwart.submission import Submission, recorded_verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentmail_cp.mailserver import AccountId, DocumentId, Listing, Mail, MailState
    from agentmail_cp.stalwart.calls import Answer
    from agentmail_cp.stalwart.folders import Folders
    from agentmail_cp.stalwart.jmap import JmapClient


class _OwnMail(msgspec.Struct, rename="camel"):
    id: str
    size: int
    message_id: list[str] | None = None
    mailbox_ids: dict[str, bool] = {}


class Finding:
    """The part of `StalwartMailServer` that finds mail again."""

    _jmap: JmapClient
    _folders: Folders

    if TYPE_CHECKING:

        async def fetch(
            self, account_id: AccountId, document_ids: Sequence[DocumentId]
        ) -> tuple[Mail, ...]: ...
        async def listing(self, account_id: AccountId) -> Listing: ...

    async def find(
        self, account_id: AccountId, message_id: str, since: MailState | None
    ) -> tuple[Mail, ...]:
        documents = await self._changed_documents(account_id, since)
        copies = await self._copies(account_id, documents, message_id)
        return await self.fetch(account_id, list(copies)) if copies else ()

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
                handed_in = Submitted(document_id, copy.size, recorded_verdicts(submission))
                return FoundMail(document_id, handed_in)
        places = await self._folders.places(account_id)
        own = {Folder.DRAFTS, Folder.SENT}
        for document_id, copy in copies.items():
            if places.folders(copy.mailbox_ids) & own:
                return FoundMail(document_id, None)
        return None

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
    ) -> list[Submission]:
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
        return answers["get"].into(GetAnswer[Submission]).found


def _page(answer: Answer) -> Page | None:
    """A page of changes, None when the server has forgotten the state."""
    try:
        return answer.into(Page)
    except MethodError as error:
        if error.type not in LOST:
            raise
        return None
