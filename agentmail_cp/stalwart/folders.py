"""Which id a special folder has in an account, and which identity an address.

Both are looked up by meaning (mailbox role, address) and remembered; Stalwart's usual fixed ids are
never relied on, because people delete folders and administrators rename them. Whoever finds a
remembered id wrong calls `forget` and asks again, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agentmail_cp.mailserver import (
    AccountId,
    Folder,
    MailServerRejected,
    Refusal,
)
from agentmail_cp.stalwart.calls import Call, GetAnswer, SetAnswer
from agentmail_cp.stalwart.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentmail_cp.stalwart.calls import Answer
    from agentmail_cp.stalwart.jmap import JmapClient

KNOWN_ACCOUNTS: Final = 4096

ROLES: Final = {folder.value: folder for folder in Folder}
NAMES: Final = {Folder.SENT: "Sent", Folder.DRAFTS: "Drafts"}
"""Folders a person can delete; Stalwart refuses that for Inbox, Trash and Junk."""


class _Mailbox(msgspec.Struct):
    id: str
    role: str | None = None


class _Identity(msgspec.Struct):
    id: str
    email: str


class _Found(msgspec.Struct):
    id: str


class Missing(msgspec.Struct, rename="camel"):
    """The accounts that an x:Account/get did not find."""

    not_found: list[AccountId]


class Places(msgspec.Struct, frozen=True):
    """All mailbox ids of one account with their meaning, None for a person's own folders."""

    meanings: Mapping[str, Folder | None]

    def id_of(self, folder: Folder) -> str | None:
        return next((key for key, meaning in self.meanings.items() if meaning is folder), None)

    def folders(self, mailbox_ids: Mapping[str, bool]) -> frozenset[Folder]:
        """The special folders among these mailboxes."""
        found = (self.meanings.get(mailbox_id) for mailbox_id in mailbox_ids)
        return frozenset(folder for folder in found if folder is not None)

    def know(self, mailbox_ids: Mapping[str, bool]) -> bool:
        """Whether none of these mailboxes is newer than what was remembered."""
        return mailbox_ids.keys() <= self.meanings.keys()


def exists(account_id: AccountId, tag: str) -> Call:
    """Asks whether there is the account; without it Stalwart answers reads as from an empty mailbox
    and writes with `serverUnavailable`.
    """
    return Call("x:Account/get", {"ids": [account_id], "properties": ["id"]}, tag)


def ensure_exists(answer: Answer) -> None:
    """Raises NO_ACCOUNT when `exists` found nothing."""
    if not answer.into(GetAnswer[_Found]).found:
        raise MailServerRejected(Refusal.NO_ACCOUNT, "There is no such account.")


def mailbox_get(account_id: AccountId, tag: str) -> Call:
    wanted = {"accountId": account_id, "ids": None, "properties": ["id", "role"]}
    return Call("Mailbox/get", wanted, tag)


class Folders:
    """What is remembered of each account's folders and identities."""

    def __init__(self, jmap: JmapClient) -> None:
        self._jmap = jmap
        self._places: Recent[AccountId, Places] = Recent(KNOWN_ACCOUNTS)
        self._identities: Recent[tuple[AccountId, str], str] = Recent(KNOWN_ACCOUNTS)
        # Nearly all accounts have the same five folders under the same ids: keep one copy.
        self._alike: Recent[frozenset[tuple[str, Folder | None]], Places] = Recent(64)

    def known(self, account_id: AccountId) -> Places | None:
        return self._places.get(account_id)

    def learn(self, account_id: AccountId, answer: Answer) -> Places:
        """Remember the answer to `mailbox_get`."""
        mailboxes = answer.into(GetAnswer[_Mailbox]).found
        meanings = {box.id: ROLES.get(box.role or "") for box in mailboxes}
        key = frozenset(meanings.items())
        places = self._alike.get(key) or Places(meanings)
        self._alike.put(key, places)
        self._places.put(account_id, places)
        return places

    def forget(self, account_id: AccountId, address: str | None = None) -> None:
        self._places.forget(account_id)
        if address is not None:
            self._identities.forget((account_id, address.lower()))

    async def places(self, account_id: AccountId) -> Places:
        """The account's folders. Rejected: NO_ACCOUNT."""
        return self._places.get(account_id) or await self.look_up(account_id)

    async def look_up(self, account_id: AccountId) -> Places:
        """The account's folders as they are now. Rejected: NO_ACCOUNT."""
        calls = (exists(account_id, "account"), mailbox_get(account_id, "folders"))
        answers = await self._jmap.call(*calls, repeat=True)
        ensure_exists(answers["account"])
        return self.learn(account_id, answers["folders"])

    async def folder(self, account_id: AccountId, folder: Folder) -> str:
        """The id of a special folder; one that somebody deleted is made again."""
        places = await self.places(account_id)
        return places.id_of(folder) or await self._make(account_id, folder)

    async def identity(self, account_id: AccountId, address: str) -> str:
        """The id of the identity that sends as `address`. Rejected: SENDER_NOT_ALLOWED, NO_ACCOUNT."""
        key = (account_id, address.lower())
        if (known := self._identities.get(key)) is not None:
            return known
        get = Call(
            "Identity/get",
            {"accountId": account_id, "ids": None, "properties": ["id", "email"]},
            "identities",
        )
        calls = (exists(account_id, "account"), mailbox_get(account_id, "folders"), get)
        answers = await self._jmap.call(*calls, repeat=True)
        ensure_exists(answers["account"])
        self.learn(account_id, answers["folders"])
        for identity in answers["identities"].into(GetAnswer[_Identity]).found:
            if identity.email.lower() == address.lower():
                self._identities.put(key, identity.id)
                return identity.id
        raise MailServerRejected(
            Refusal.SENDER_NOT_ALLOWED, f"The account may not send as {address}."
        )

    async def _make(self, account_id: AccountId, folder: Folder) -> str:
        create = {"folder": {"name": NAMES.get(folder, folder.title()), "role": folder.value}}
        call = Call("Mailbox/set", {"accountId": account_id, "create": create}, "set")
        answer = (await self._jmap.call(call))["set"].into(SetAnswer)
        made = answer.made("folder")
        if made is None:
            # Another replica was faster, or a folder of that name has no role.
            made = (await self.look_up(account_id)).id_of(folder)
        if made is None:
            refused = (answer.not_created or {}).get("folder")
            reason = refused.sentence if refused else "no reason given"
            raise MailServerRejected(Refusal.FORBIDDEN, f"No folder {folder}: {reason}")
        self.forget(account_id)
        return made
