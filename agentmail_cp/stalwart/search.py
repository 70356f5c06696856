"""Full-text search, and why a mail was found.

Stalwart 0.16 indexes a mail some ms after it was stored. In its own index (RocksDB, SQLite; a search
store like PostgreSQL's has rules of its own, stop words among them) words are runs of letters and
digits in lower case; bodies and subjects also match by their stem in the language that was guessed for
each part (`store/src/search`, `nlp/src/language`). Three things of it shape the query:
- a condition wants all its words in one field, so each word gets a condition of its own for any field;
- the language of a word alone is a bad guess and decides its stem, so a word is asked for as English,
  in which it always matches itself, and as what it looks like; `en:` in front says which;
- `text` searches attachments too, so the fields are named.
What it does not find: parts of words, and words of HTML-only mail between whose tags there is no space,
as in `<td>one</td><td>two</td>`: only `<br>` and `</p>` end a word (mail-parser 0.11.6, `html_to_text`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from agentmail_cp.excerpts import excerpt, html_words, words
from agentmail_cp.stalwart.calls import Call, GetAnswer
from agentmail_cp.stalwart.emails import LEAF, Found, Shown
from agentmail_cp.stalwart.folders import Missing, ensure_exists, exists
from agentmail_cp.stalwart.ids import document_of, email_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from agentmail_cp.mailserver import AccountId, DocumentId
    from agentmail_cp.stalwart.jmap import JmapClient

ADDRESSES: Final = ("from", "to", "cc", "bcc")
TEXTS: Final = ("subject", "body")
NEWEST_FIRST: Final = ({"property": "receivedAt", "isAscending": False},)

BODY: Final = 256 * 1024
"""Bytes of each body part that an excerpt is looked for in, and characters of all of a mail's."""
BODIES: Final = 25
"""Mails whose bodies come in one answer."""

FIRST_HAN: Final = "\u2e80"
"""From here on: Chinese and Japanese, which share letters but not the way words are told apart."""


class Searches:
    """The part of `StalwartMailServer` that searches."""

    _jmap: JmapClient

    async def search(
        self, account_ids: Sequence[AccountId], text: str, *, limit: int
    ) -> Mapping[AccountId, tuple[DocumentId, ...]]:
        asked = tuple(dict.fromkeys(account_ids))
        wanted = words(text)
        if not asked or not wanted:
            return dict.fromkeys(asked, ())
        condition = {"operator": "AND", "conditions": [_anywhere(word) for word in wanted]}
        checks = _checks(asked, (await self._jmap.limits()).max_objects_in_get)
        queries = [_query(each, condition, limit) for each in asked]
        answers = await self._jmap.call_many([[call] for call in (*checks, *queries)])
        missing = {each for check in checks for each in answers[check.tag].into(Missing).not_found}
        return {
            each: tuple(map(document_of, answers[each].into(Found).ids))
            for each in asked
            if each not in missing
        }

    async def excerpts(
        self, account_id: AccountId, document_ids: Sequence[DocumentId], text: str
    ) -> Mapping[DocumentId, str]:
        ids = [email_id(each) for each in dict.fromkeys(document_ids)]
        calls = list(_gets(account_id, ids))
        answers = await self._jmap.call_many(
            [[exists(account_id, "account")], *([call] for call in calls)]
        )
        ensure_exists(answers["account"])
        mails = [mail for call in calls for mail in answers[call.tag].into(GetAnswer[Shown]).found]
        # Some ms for a long body: too long to keep everybody else waiting.
        return await asyncio.to_thread(_excerpts, mails, text)


def _anywhere(word: str) -> dict[str, Any]:
    # A colon would end the name of a language.
    bare = word.replace(":", " ")
    spellings = [bare, f"en:{bare}"]
    if any(letter >= FIRST_HAN for letter in word):
        spellings += [f"ja:{bare}", f"zh:{bare}"]
    conditions = [{field: bare} for field in ADDRESSES]
    conditions += [{field: spelling} for field in TEXTS for spelling in spellings]
    return {"operator": "OR", "conditions": conditions}


def _query(account_id: AccountId, condition: dict[str, Any], limit: int) -> Call:
    arguments = {
        "accountId": account_id,
        "filter": condition,
        "sort": NEWEST_FIRST,
        "limit": limit,
    }
    return Call("Email/query", arguments, account_id)


def _checks(account_ids: Sequence[AccountId], size: int) -> list[Call]:
    """Which accounts there are; searches in others are answered like those in empty ones."""
    return [
        Call(
            "x:Account/get",
            {"ids": account_ids[start : start + size], "properties": ["id"]},
            f"accounts {start}",
        )
        for start in range(0, len(account_ids), size)
    ]


def _gets(account_id: AccountId, ids: Sequence[str]) -> Iterator[Call]:
    for start in range(0, len(ids), BODIES):
        arguments = {
            "accountId": account_id,
            "ids": ids[start : start + BODIES],
            "properties": ["id", "textBody", "bodyValues"],
            "bodyProperties": LEAF,
            "fetchTextBodyValues": True,
            "maxBodyValueBytes": BODY,
        }
        yield Call("Email/get", arguments, str(start))


def _excerpts(mails: Iterable[Shown], text: str) -> dict[DocumentId, str]:
    found = {document_of(mail.id): excerpt(_text(mail), text) for mail in mails}
    return {document_id: piece for document_id, piece in found.items() if piece is not None}


def _text(mail: Shown) -> str:
    """What is shown as text, where need be from HTML."""
    pieces: list[str] = []
    for part in mail.text_body:
        value = mail.body_values.get(part.part_id or "")
        if value is not None:
            pieces.append(html_words(value.value) if part.type == "text/html" else value.value)
    return "\n".join(pieces)[:BODY]
