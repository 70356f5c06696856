"""Finding inboxes by the beginnings of words in their address and display name.

A word begins wherever a letter or digit follows something else, so `desk` finds `help-desk@…` and `esk`
does not. An exact address comes first, everything else newest first. Only reads. PostgreSQL narrows the
inboxes down as far as it can tell case apart, which may be ASCII only; what a word is, is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import LiteralString
from uuid import UUID

import msgspec

from agentmail_cp import highlights, pages
from agentmail_cp.access import Reach, in_reach
from agentmail_cp.db import Tx, fetch_all
from agentmail_cp.highlights import fold
from agentmail_cp.inboxes.inbox import COLUMNS, Inbox
from agentmail_cp.threads import pattern

SHORTEST_QUERY = 2
LONGEST_QUERY = 256
MOST_READ = 1_000
"""Inboxes one page looks at. When too few of them fit, the page is short or empty but has a token."""

Key = tuple[datetime, UUID]

_BEGINNING: Key = (datetime(9999, 1, 1, tzinfo=UTC), UUID(int=2**128 - 1))
"""Before the newest inbox: where the list goes on after a page that held the exact address only."""


class _Name(msgspec.Struct, frozen=True):
    inbox_id: UUID
    created_at: datetime
    address: str
    display_name: str | None

    @property
    def key(self) -> Key:
        return self.created_at, self.inbox_id

    def fits(self, words: Sequence[str]) -> bool:
        text = fold(f"{self.address} {self.display_name or ''}")
        return all(begins(text, word) for word in words)


def begins(text: str, word: str) -> bool:
    """Whether a word of `text` begins with `word`; both are folded. Pure.

    A word that begins with neither letter nor digit, like `@example.com`, may stand anywhere.
    """
    at = text.find(word)
    while at >= 0:
        if at == 0 or not text[at - 1].isalnum() or not text[at].isalnum():
            return True
        at = text.find(word, at + 1)
    return False


async def search(
    tx: Tx,
    reach: Reach,
    *,
    q: str | None,
    limit: int,
    page_token: str | None,
) -> tuple[list[Inbox], str | None]:
    """A page of the active inboxes within reach that fit, and the token of the next page.

    Raises `Invalid` as `highlights.parse` does, for fewer than 2 or more than 256 characters too.
    """
    words = highlights.parse(q, shortest=SHORTEST_QUERY, longest=LONGEST_QUERY).folded
    address = (q or "").strip().lower()
    scope = f"search/inboxes/{reach.inbox_id or reach.pod_id or reach.organization_id}/{address}"
    start = pages.decode(scope, page_token, Key) if page_token else None
    names = await _names(tx, reach, words, address, start)
    exact = [each for each in names if each.address == address]
    read = [each for each in names if each.address != address]
    room = limit - len(exact)
    fitting = [each for each in read[:MOST_READ] if each.fits(words)]
    last = None
    if len(fitting) > room:
        last = fitting[room - 1].key if room else _BEGINNING
    elif len(read) > MOST_READ:
        last = read[MOST_READ - 1].key
    shown = await _whole(tx, reach.organization_id, [*exact, *fitting[:room]])
    return shown, pages.encode(scope, last) if last else None


async def _names(
    tx: Tx,
    reach: Reach,
    words: Sequence[str],
    address: str,
    start: Key | None,
) -> list[_Name]:
    """The inboxes after `start` that may fit, one more than are read; on the first page, which has no
    `start`, also the one with exactly this address.
    """
    created_at, last_id = start or _BEGINNING
    scope: LiteralString = (
        " from inbox where organization_id = %(organization_id)s and state = 'active'"
    )
    scope += in_reach(reach)
    columns: LiteralString = "select inbox_id, created_at, address, display_name"
    return await fetch_all(
        tx,
        _Name,
        f"({columns}{scope} and address = %(address)s and %(first)s) union all"
        f" ({columns}{scope} and address <> %(address)s"
        " and (created_at, inbox_id) < (%(created_at)s, %(last_id)s::uuid)"
        " and (concat(address, ' ', display_name) ilike all(%(patterns)s)"
        " or octet_length(display_name) > char_length(display_name))"
        " order by created_at desc, inbox_id desc limit %(most)s)",
        {
            **msgspec.structs.asdict(reach),
            "address": address,
            "first": start is None,
            "created_at": created_at,
            "last_id": last_id,
            "patterns": [pattern(word) for word in words if word.isascii()],
            "most": MOST_READ + 1,
        },
    )


async def _whole(tx: Tx, organization_id: UUID, names: Sequence[_Name]) -> list[Inbox]:
    rows = await fetch_all(
        tx,
        Inbox,
        f"select {COLUMNS} from inbox where organization_id = %(organization_id)s"
        " and inbox_id = any(%(inbox_ids)s)",
        {"organization_id": organization_id, "inbox_ids": [each.inbox_id for each in names]},
    )
    found = {row.inbox_id: row for row in rows}
    return [found[each.inbox_id] for each in names if each.inbox_id in found]
