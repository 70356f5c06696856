"""Request paths: `/api/v1` leads where `/v0` does, and an id that holds `/`, `%`, `+`, `?` or `#` still
reaches its route.

The Python SDK sends Message-IDs as they are (`filing.id_of` sees to it that they come through), the Node SDK
percent-encodes them, and a router parts a path at every `/`. So before routing a path is decoded once,
leniently, and the slashes that belong to an inbox or message id, or to an entry of a list, are replaced by a
private mark, which `restore` turns back in the handler. Never raises: what is no path of ours is left for
the router to refuse.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

MARK: Final = "\ue02f"
"""Stands for a `/` inside an id; a private-use character, which no id has (`filing.id_of`)."""

_HOME = "/v0"

SOCKET: Final = _HOME
"""The path of the WebSocket."""

_ALIAS = "/api/v1"
"""Seed 003's prefix: the same routes under another name."""

_INBOXES = f"{_HOME}/inboxes/"
_PLAIN_DEPTH = 3
"""Segments of `{inbox_id}/messages/{message_id}`; only a longer path needs a look."""
_SUFFIXES = frozenset({"reply", "reply-all", "forward", "raw"})
_ARMOR = frozenset({"feedback", "release"})
_LIST_ENTRY = re.compile(
    rf"({_HOME}(?:/(?:pods|inboxes)/[^/]+)?/lists/[^/]+/[^/]+/)([^/]|[^/].*[^/])/*", re.DOTALL
)
"""A path of a list's entry: an address may hold a slash, too."""


def normalise(raw_path: bytes) -> str:
    """The path to route by, under `/v0`: percent-decoded once, `+` and stray `%` kept, slashes in ids
    marked.

    `raw_path` is as it came over the wire, without the query. An encoded slash outside an id is marked
    too, as it can never part anything.
    """
    segments = [_decoded(segment) for segment in raw_path.split(b"/")]
    path = _at_home("/".join(segments))
    if entry := _LIST_ENTRY.fullmatch(path):
        return entry[1] + entry[2].replace("/", MARK)
    if not path.startswith(_INBOXES):
        return path
    parts = path[len(_INBOXES) :].split("/")
    return _INBOXES + "/".join(_inbox_parts(parts))


def restore(value: str) -> str:
    """An id as the caller wrote it, from a path parameter of a normalised path."""
    return value.replace(MARK, "/")


def message_id_candidates(value: str) -> tuple[str, ...]:
    """The message ids `value` may mean, in the order they should be looked up.

    As given, with brackets added, and the same for what is left after decoding once more (callers
    encode twice, or take an id from a URL).
    """
    spellings = [value, unquote(value, errors="replace")]
    found = dict.fromkeys(each for one in spellings for each in (one, _bracketed(one)))
    return tuple(each for each in found if "\0" not in each)


def _at_home(path: str) -> str:
    """The same path under the prefix routes are registered with."""
    rest = path.removeprefix(_ALIAS)
    return _HOME + rest if path.startswith(_ALIAS) and rest[:1] in {"", "/"} else path


def _decoded(segment: bytes) -> str:
    """One segment as text. PostgreSQL can hold no NUL, so no id has one: it becomes U+FFFD."""
    text = unquote_to_bytes(segment).decode("utf-8", "replace")
    return text.replace("/", MARK).replace("\0", "\ufffd")


def _inbox_parts(parts: list[str]) -> list[str]:
    """The parts of a path after `…/inboxes/`, with a message id in one piece."""
    if len(parts) <= _PLAIN_DEPTH or parts[1] != "messages":
        return parts
    inbox_id, collection, *rest = parts
    if not rest[-1]:
        rest.pop()  # a slash at the end of the path
    return [inbox_id, collection, *_message_parts(rest)]


def _message_parts(rest: list[str]) -> list[str]:
    """`{message_id}[/suffix]`: an id in brackets ends with them, whatever it holds; of any other, the
    known suffixes are taken away and the id is what is left.
    """
    closed = [index for index, part in enumerate(rest, 1) if part.endswith(">")]
    if closed and rest[0].startswith("<"):
        return [MARK.join(rest[: closed[-1]]), *rest[closed[-1] :]]
    match rest:
        case [*id_, "attachments", attachment_id] if id_:
            return [MARK.join(id_), "attachments", attachment_id]
        case [*id_, "agent-armor", verb] if id_ and verb in _ARMOR:
            return [MARK.join(id_), "agent-armor", verb]
        case [*id_, suffix] if id_ and suffix in _SUFFIXES:
            return [MARK.join(id_), suffix]
        case _:
            return [MARK.join(rest)]


def _bracketed(message_id: str) -> str:
    return message_id if message_id.startswith("<") else f"<{message_id}>"
