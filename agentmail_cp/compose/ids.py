"""Message-IDs: made, read from headers, and put together into `In-Reply-To` and `References`.

RFC 5322 section 3.6.4. Everywhere but in raw headers ids carry no brackets.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from random import Random

MAX_REFERENCES = 900
"""Characters in References; a line, its name included, holds 998 (RFC 5322 section 2.1.1)."""

_BRACKETED = re.compile(r"<([^<>]*)>")
_UNFIT_FOR_ID = re.compile(r"[\s\x00-\x1f\x7f<>]+")
_ID_ALPHABET = string.ascii_lowercase + string.digits


def new_message_id(domain: str, rng: Random) -> str:
    """A Message-ID without brackets: short, as language models misremember the ends of long ones."""
    return "".join(rng.choices(_ID_ALPHABET, k=16)) + f"@{domain}"


def reply_headers(
    parent_message_id: str, parent_references: Iterable[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`In-Reply-To` and `References` of an answer (RFC 5322 section 3.6.4), ids without brackets.

    References are the parent's own and then the parent, each once. When they would pass
    `MAX_REFERENCES` the oldest, which names the conversation, and the newest stay.
    """
    parent = _bare(parent_message_id)
    older = [id_ for id_ in _distinct(parent_references) if id_ != parent]
    own = (parent,) if parent else ()
    return own, fit((*older, *own))


def parse_message_ids(text: str) -> tuple[str, ...]:
    """The message ids in a header, without brackets, each once, in order.

    Tolerant: rubbish between ids is skipped, white space inside one is dropped (bad folding), and a
    header without any bracket is read as words with an `@`. Never raises.
    """
    bracketed = tuple(_distinct(_BRACKETED.findall(text)))
    if bracketed:
        return bracketed
    return tuple(_distinct(word for word in re.split(r"[\s,;<>]+", text) if "@" in word))


def fit(ids: tuple[str, ...]) -> tuple[str, ...]:
    """Drop ids after the first until the header fits; the last always stays."""
    if _width(ids) <= MAX_REFERENCES:
        return ids
    root, *rest = ids
    while len(rest) > 1 and _width((root, *rest)) > MAX_REFERENCES:
        rest.pop(0)
    kept = (root, *rest)
    return kept if _width(kept) <= MAX_REFERENCES else kept[-1:]


def _width(ids: Iterable[str]) -> int:
    """Bytes of the ids with their brackets, parted by one space each."""
    return sum(len(id_.encode()) + 3 for id_ in ids) - 1


def _distinct(ids: Iterable[str]) -> Iterator[str]:
    return iter(dict.fromkeys(bare for id_ in ids if (bare := _bare(id_))))


def _bare(message_id: str) -> str:
    return _UNFIT_FOR_ID.sub("", message_id)
