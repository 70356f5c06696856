"""Keywords and folders of stored mail, changed while others change them too.

Stalwart 0.16 commits a change on the condition that nobody else changed the mail since it was read, and
refuses it otherwise (`jmap/src/email/set.rs`); then it is asked for again, so of many changes to one mail
all take effect in some order. Changes are patches: they say nothing about other keywords.

An account can show 99 different keywords besides the 29 that Stalwart knows by name, over all its mail
and for as long as the server keeps the account in memory (`email/src/cache/email.rs`). One more is
stored in silence and seen by nobody, in IMAP or JMAP. So what was set is looked at in the same request,
and a keyword that does not show is taken away again and refused.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentmail_cp.mailserver import MailServerRejected, MailServerUnavailable, Refusal
from agentmail_cp.stalwart.emails import Keywords
from agentmail_cp.stalwart.folders import ensure_exists, exists
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import Call, GetAnswer, RequestRefused, SetAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentmail_cp.mailserver import AccountId, DocumentId, Relabel
    from agentmail_cp.stalwart.folders import Folders
    from agentmail_cp.stalwart.jmap import Answer, JmapClient, SetError

T = TypeVar("T")

Patches = dict[str, dict[str, Any]]
"""Changes of an Email/set by Email id."""

PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds, more or less, before a change that met another one is asked for again."""
LOOKS: Final = 3
"""Tries after which a keyword that does not show never will: others may take away what was just set."""

ALWAYS_LOWER: Final = frozenset({"$answered", "$draft", "$flagged", "$forwarded", "$seen"})
"""Keywords Stalwart has in one spelling, whatever a client wrote, and always shows; the usual ones, to
save a look."""

PATCHED: Final = ("id", "keywords")


class Relabelling:
    """The part of `StalwartMailServer` that changes keywords and folders."""

    _jmap: JmapClient
    _folders: Folders

    if TYPE_CHECKING:

        async def _get(
            self,
            account_id: AccountId,
            document_ids: Sequence[DocumentId],
            size: int,
            options: Mapping[str, Any],
            shape: type[T],
        ) -> list[T]: ...

    async def relabel(self, account_id: AccountId, changes: Sequence[Relabel]) -> None:
        patches = await self._patches(account_id, changes)
        added = _customs(changes)
        limits = await self._jmap.limits()
        size = min(limits.max_objects_in_get, limits.max_objects_in_set)
        refused: dict[str, SetError] = {}
        ids = list(patches)
        for start in range(0, len(ids), size):
            some = {key: patches[key] for key in ids[start : start + size]}
            refused |= await self._patch(account_id, some, added)
        _raise_relabel(refused)

    async def _patches(self, account_id: AccountId, changes: Sequence[Relabel]) -> Patches:
        spellings = await self._spellings(account_id, changes)
        patches: Patches = {}
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
        return patches

    async def _spellings(
        self, account_id: AccountId, changes: Sequence[Relabel]
    ) -> dict[DocumentId, dict[str, list[str]]]:
        """How keywords that are to go are really written, by their lower-case form.

        Stalwart tells apart what differs in case only; IMAP (RFC 9051 section 2.3.2) and we do not.
        """
        odd = [change.document_id for change in changes if change.remove - ALWAYS_LOWER]
        size = (await self._jmap.limits()).max_objects_in_get
        found: dict[DocumentId, dict[str, list[str]]] = {}
        for mail in await self._get(account_id, odd, size, {"properties": PATCHED}, Keywords):
            spellings = found.setdefault(document_of(mail.id), {})
            for keyword in mail.keywords:
                spellings.setdefault(keyword.lower(), []).append(keyword)
        return found

    async def _patch(
        self, account_id: AccountId, patches: Patches, added: Mapping[str, frozenset[str]]
    ) -> dict[str, SetError]:
        """Apply the changes, those that met others again and again; what was refused for good."""
        refused: dict[str, SetError] = {}
        for attempt, pause in enumerate((*PAUSES, None), start=1):
            errors, shown = await self._attempt(account_id, patches, added)
            contended = {key for key, error in errors.items() if _is_contention(error)}
            refused |= {key: errors[key] for key in errors.keys() - contended}
            applied = patches.keys() - errors.keys()
            unseen = {key: added[key] - shown[key] for key in applied & shown.keys()}
            hidden = {key: keywords for key, keywords in unseen.items() if keywords}
            if hidden and attempt >= LOOKS:
                await self._refuse_hidden(account_id, hidden)
            patches = {key: patches[key] for key in contended | hidden.keys()}
            if not patches:
                return refused
            if pause is not None:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  (no secret)
        raise MailServerUnavailable("Others keep changing these mails.", reached=True)

    async def _attempt(
        self, account_id: AccountId, patches: Patches, added: Mapping[str, frozenset[str]]
    ) -> tuple[Mapping[str, SetError], dict[str, frozenset[str]]]:
        """What was refused, and the keywords that mails with new ones show afterwards."""
        looked_at = [key for key in patches if added.get(key)]
        calls = [exists(account_id, "account"), _set(account_id, patches)]
        if looked_at:
            wanted = {"accountId": account_id, "ids": looked_at, "properties": PATCHED}
            calls.append(Call("Email/get", wanted, "get"))
        try:
            answers = await self._jmap.call(*calls)
        except RequestRefused as error:
            raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from None
        ensure_exists(answers["account"])
        errors = answers["set"].into(SetAnswer).not_updated or {}
        return errors, _shown(answers["get"]) if looked_at else {}

    async def _refuse_hidden(
        self, account_id: AccountId, hidden: Mapping[str, frozenset[str]]
    ) -> None:
        """Take away keywords that nobody would see, and raise."""
        patches = {
            key: {f"keywords/{_pointer(keyword)}": None for keyword in keywords}
            for key, keywords in hidden.items()
        }
        await self._jmap.call(_set(account_id, patches))
        raise MailServerRejected(
            Refusal.TOO_MANY_KEYWORDS, "The account has no room for another keyword."
        )


def _customs(changes: Iterable[Relabel]) -> dict[str, frozenset[str]]:
    """By Email id, the keywords to be set that may turn out not to show."""
    added: dict[str, frozenset[str]] = {}
    for change in changes:
        key = email_id(change.document_id)
        custom = {keyword.lower() for keyword in change.add} - ALWAYS_LOWER
        added[key] = added.get(key, frozenset()) | custom
    return added


def _set(account_id: AccountId, patches: Patches) -> Call:
    return Call("Email/set", {"accountId": account_id, "update": patches}, "set")


def _shown(answer: Answer) -> dict[str, frozenset[str]]:
    return {
        email_id(document_of(mail.id)): frozenset(keyword.lower() for keyword in mail.keywords)
        for mail in answer.into(GetAnswer[Keywords]).found
    }


def _is_contention(error: SetError) -> bool:
    return error.type == "forbidden" and "try again" in error.description


def _raise_relabel(refused: Mapping[str, SetError]) -> None:
    others = [error for error in refused.values() if error.type != "notFound"]
    if others:
        raise MailServerRejected(Refusal.INVALID_MAIL, others[0].sentence)
    if refused:
        raise MailServerRejected(Refusal.NO_MAIL, f"{len(refused)} of these mails are gone.")


def _pointer(keyword: str) -> str:
    """One step of a JSON pointer (RFC 6901 section 3)."""
    return keyword.replace("~", "~0").replace("/", "~1")
