"""Keywords and folders of stored mail, changed while others change them too.

Stalwart 0.16 commits a change on the condition that nobody else changed the mail since it was read, and
refuses it otherwise (`jmap/src/email/set.rs`); then it is asked for again, so of many changes to one mail
all take effect in some order. Changes are patches: they say nothing about other keywords. A keyword that
does not show afterwards found no room (see `keywords`).
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentmail_cp.mailserver import MailServerRejected, MailServerUnavailable, Refusal
from agentmail_cp.stalwart.calls import SetAnswer
from agentmail_cp.stalwart.emails import Keywords
from agentmail_cp.stalwart.folders import ensure_exists, exists
from agentmail_cp.stalwart.ids import document_of, email_id
from agentmail_cp.stalwart.jmap import RequestRefused
from agentmail_cp.stalwart.keywords import (
    ALWAYS_LOWER,
    PROPERTIES,
    look,
    shown,
    step,
    take_away,
    uncertain,
    update,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentmail_cp.mailserver import AccountId, DocumentId, NoRoom, Relabel
    from agentmail_cp.stalwart.calls import SetError
    from agentmail_cp.stalwart.folders import Folders
    from agentmail_cp.stalwart.jmap import JmapClient
    from agentmail_cp.stalwart.keywords import Patches

T = TypeVar("T")

PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Seconds, more or less, before a change that met another one is asked for again."""
LOOKS: Final = 2
"""Tries after which a keyword that does not show found no room: others may take away what was just set."""


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

    async def relabel(self, account_id: AccountId, changes: Sequence[Relabel]) -> NoRoom:
        patches = await self._patches(account_id, changes)
        added = _added(changes)
        limits = await self._jmap.limits()
        size = min(limits.max_objects_in_get, limits.max_objects_in_set)
        refused: dict[str, SetError] = {}
        hidden: dict[str, frozenset[str]] = {}
        ids = list(patches)
        for start in range(0, len(ids), size):
            some = {key: patches[key] for key in ids[start : start + size]}
            errors, unseen = await self._patch(account_id, some, added)
            refused |= errors
            hidden |= unseen
        _raise_relabel(refused)
        return {document_of(key): keywords for key, keywords in hidden.items()}

    async def _patches(self, account_id: AccountId, changes: Sequence[Relabel]) -> Patches:
        spellings = await self._spellings(account_id, changes)
        patches: Patches = {}
        for change in changes:
            patch = patches.setdefault(email_id(change.document_id), {})
            present = spellings.get(change.document_id, {})
            for keyword in change.remove:
                same = present.get(keyword.lower(), (keyword.lower(),))
                patch.update((step(each), None) for each in same)
            patch.update((step(each.lower()), True) for each in change.add)
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
        for mail in await self._get(account_id, odd, size, {"properties": PROPERTIES}, Keywords):
            spellings = found.setdefault(document_of(mail.id), {})
            for keyword in mail.keywords:
                spellings.setdefault(keyword.lower(), []).append(keyword)
        return found

    async def _patch(
        self, account_id: AccountId, patches: Patches, added: Mapping[str, frozenset[str]]
    ) -> tuple[dict[str, SetError], dict[str, frozenset[str]]]:
        """Apply the changes, those that met others again and again; what was refused for good, and the
        keywords that found no room.
        """
        refused: dict[str, SetError] = {}
        without: dict[str, frozenset[str]] = {}
        for attempt, pause in enumerate((*PAUSES, None), start=1):
            errors, seen = await self._attempt(account_id, patches, added)
            contended = {key for key, error in errors.items() if _is_contention(error)}
            refused |= {key: errors[key] for key in errors.keys() - contended}
            applied = (patches.keys() - errors.keys()) & seen.keys()
            hidden = {key: unseen for key in applied if (unseen := added[key] - seen[key])}
            if hidden and attempt >= LOOKS:
                await take_away(self._jmap, account_id, hidden)
                without |= hidden
                hidden = {}
            # Only what does not show is tried again: the rest may have been changed by others since.
            added = {**added, **hidden}
            patches = {key: patches[key] for key in contended} | {
                key: {step(each): True for each in some} for key, some in hidden.items()
            }
            if not patches:
                return refused, without
            if pause is not None:
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  (no secret)
        raise MailServerUnavailable("Others keep changing these mails.", reached=True)

    async def _attempt(
        self, account_id: AccountId, patches: Patches, added: Mapping[str, frozenset[str]]
    ) -> tuple[Mapping[str, SetError], dict[str, frozenset[str]]]:
        """What was refused, and the keywords that mails with new ones show afterwards."""
        looked_at = [key for key in patches if added.get(key)]
        calls = [exists(account_id, "account"), update(account_id, patches)]
        if looked_at:
            calls.append(look(account_id, looked_at))
        try:
            answers = await self._jmap.call(*calls)
        except RequestRefused as error:
            raise MailServerRejected(Refusal.INVALID_MAIL, str(error)) from None
        ensure_exists(answers["account"])
        errors = answers["set"].into(SetAnswer).not_updated or {}
        return errors, shown(answers["shown"]) if looked_at else {}


def _added(changes: Iterable[Relabel]) -> dict[str, frozenset[str]]:
    """By Email id, the keywords to be set that may turn out not to show."""
    added: dict[str, frozenset[str]] = {}
    for change in changes:
        key = email_id(change.document_id)
        added[key] = added.get(key, frozenset()) | uncertain(change.add)
    return added


def _is_contention(error: SetError) -> bool:
    return error.type == "forbidden" and "try again" in error.description


def _raise_relabel(refused: Mapping[str, SetError]) -> None:
    others = [error for error in refused.values() if error.type != "notFound"]
    if others:
        raise MailServerRejected(Refusal.INVALID_MAIL, others[0].sentence)
    if refused:
        raise MailServerRejected(Refusal.NO_MAIL, f"{len(refused)} of these mails are gone.")
