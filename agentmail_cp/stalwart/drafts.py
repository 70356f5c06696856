"""Drafts: an unfinished mail in the Drafts folder, and a newer version in an older one's place.

A mail cannot change in place, so a new version is stored first and then the old one destroyed: a
crash between the two leaves both, never none. One Email/set cannot do it: Stalwart carries out its
destroys also when its create was refused.

Destroying decides who wins when several replace the same draft. It is a safe compare-and-set: Stalwart
0.16 commits it on the condition that the stored mail is still the one it read
(`common/src/storage/index.rs`, `assert_value`). The loser hears `notFound` or, when both were under
way at once, `serverUnavailable`, as it does when somebody changed a keyword meanwhile; asked again, it
hears which.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agentmail_cp import sizes
from agentmail_cp.mailserver import (
    Folder,
    MailServerConfused,
    MailServerRejected,
    MailServerUnavailable,
    Refusal,
    Stored,
)
from agentmail_cp.stalwart.calls import Call, SetAnswer
from agentmail_cp.stalwart.copies import Stale, afterwards, store, stored
from agentmail_cp.stalwart.folders import ensure_exists, exists
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import RequestRefused
from agentmail_cp.stalwart.keywords import look_at_new, no_room

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentmail_cp.mailserver import AccountId, DocumentId, OutgoingEmail
    from agentmail_cp.stalwart.folders import Folders
    from agentmail_cp.stalwart.jmap import JmapClient

PAUSES: Final = (0.01, 0.05, 0.2)
"""Seconds before a destroy that met somebody else's change is asked for again."""


class Drafts:
    """The part of `StalwartMailServer` that keeps unfinished mail."""

    _jmap: JmapClient
    _folders: Folders

    if TYPE_CHECKING:

        async def destroy_mail(
            self, account_id: AccountId, document_ids: Sequence[DocumentId]
        ) -> None: ...

    async def store_draft(
        self, account_id: AccountId, email: OutgoingEmail, *, replaces: DocumentId | None = None
    ) -> Stored:
        draft = await self._stored_draft(account_id, email)
        if replaces is not None:
            await self._ensure_replaced(account_id, replaces, draft)
        return draft

    async def _stored_draft(self, account_id: AccountId, email: OutgoingEmail) -> Stored:
        try:
            return await self._store_draft(account_id, email)
        except Stale:
            self._folders.forget(account_id)
        try:
            return await self._store_draft(account_id, email)
        except Stale as error:
            raise MailServerConfused(f"The folder for drafts does not stay: {error}") from None

    async def _store_draft(self, account_id: AccountId, email: OutgoingEmail) -> Stored:
        drafts = await self._folders.folder(account_id, Folder.DRAFTS)
        try:
            answers = await self._jmap.call(
                exists(account_id, "account"),
                store(account_id, email, drafts),
                *look_at_new(account_id, email),
                slack=sizes.slack(sizes.size_of(email)),
            )
        except RequestRefused as error:
            raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from None
        ensure_exists(answers["account"])
        made = stored(answers["store"])
        left_out = await no_room(self._jmap, account_id, email, answers)
        return Stored(document_of(made.id), made.size, left_out)

    async def _ensure_replaced(self, account_id: AccountId, old: DocumentId, draft: Stored) -> None:
        """Destroy the old version; when somebody else already did, take the new one back."""
        with afterwards("The draft was stored, but not the older version taken away"):
            if await self._destroyed(account_id, old):
                return
            await self.destroy_mail(account_id, [draft.document_id])
        raise MailServerRejected(Refusal.NO_MAIL, "The draft to be replaced is gone.")

    async def _destroyed(self, account_id: AccountId, document_id: DocumentId) -> bool:
        """Whether it was this call that destroyed the mail."""
        key = email_id(document_id)
        call = Call("Email/set", {"accountId": account_id, "destroy": [key]}, "destroy")
        answer = (await self._jmap.call(call))["destroy"]
        for pause in PAUSES:
            if not isinstance(answer.error, MailServerUnavailable):
                break
            await asyncio.sleep(pause)
            answer = (await self._jmap.call(call))["destroy"]
        refused = (answer.into(SetAnswer).not_destroyed or {}).get(key)
        if refused is not None and refused.type != "notFound":
            raise MailServerRejected(Refusal.FORBIDDEN, refused.sentence)
        return refused is None
