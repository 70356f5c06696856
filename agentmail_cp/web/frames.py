"""PURE: the frames of the WebSocket, as the official SDKs send and read them.

A client sends `subscribe` only. It is read leniently: names in snake_case or camelCase, one text where a list
may stand, null or an empty list for what is not asked for. Answers are `subscribed`, `error` and events.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from agentmail_cp.errors import AgentMailError, Invalid
from agentmail_cp.web import errors

MOST_IDS: Final = 100
"""Inboxes, or pods, that one `subscribe` may name."""

_CAPITAL: Final = re.compile("(?<=[a-z])([A-Z])")
_PLACE: Final = re.compile(r"^(.*?) - at `\$\.?(.*)`$", re.DOTALL)
_encode = msgspec.json.Encoder().encode


class Subscribe(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks for. `after` is a cursor: an event's id, `start` or `now`."""

    event_types: tuple[str, ...] = ()
    inbox_ids: tuple[str, ...] = ()
    pod_ids: tuple[str, ...] = ()
    after: str | None = None


class _Frame(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    event_types: str | list[str] | None = None
    inbox_ids: str | list[str] | None = None
    pod_ids: str | list[str] | None = None
    after: str | None = None


def parse(frame: str | bytes) -> Subscribe:
    """What a client's frame asks for. Raises `Invalid`: MALFORMED_JSON, UNKNOWN_FRAME, TOO_MANY or what is
    wrong with a field.
    """
    read = _read(frame)
    if read.type != "subscribe":
        raise Invalid(
            "type",
            "There is no such kind of frame.",
            fix='Send {"type": "subscribe"}.',
            detail="UNKNOWN_FRAME",
        )
    return Subscribe(
        event_types=_listed("event_types", read.event_types),
        inbox_ids=_listed("inbox_ids", read.inbox_ids),
        pod_ids=_listed("pod_ids", read.pod_ids),
        after=read.after,
    )


def subscribed(asked: Subscribe, cursor: str) -> str:
    """That a subscription holds from now on, and the cursor it began at."""
    told: dict[str, Any] = {"type": "subscribed"}
    for name in ("event_types", "inbox_ids", "pod_ids"):
        if named := getattr(asked, name):
            told[name] = named
    return _encode({**told, "cursor": cursor}).decode()


def error(problem: AgentMailError) -> str:
    """What went wrong, with the fields a body of the same error has over HTTP."""
    told = cast("dict[str, Any]", msgspec.to_builtins(errors.body(problem)))
    return _encode({"type": "error", **told}).decode()


def _read(frame: str | bytes) -> _Frame:
    try:
        found = msgspec.json.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise Invalid(
            "frame",
            "This frame is not valid JSON.",
            fix='Send a JSON object, like {"type": "subscribe"}.',
            detail="MALFORMED_JSON",
        ) from None
    try:
        return msgspec.convert(_in_snake_case(found), _Frame)
    except msgspec.ValidationError as refused:
        raise _wrong(str(refused)) from None


def _in_snake_case(found: object) -> object:
    if not isinstance(found, dict):
        return found
    named = cast("Mapping[str, object]", found)
    return {_CAPITAL.sub(r"_\1", name).lower(): value for name, value in named.items()}


def _wrong(complaint: str) -> Invalid:
    place = _PLACE.match(complaint)
    return errors.invalid(*place.groups()) if place else errors.invalid(complaint, "frame")


def _listed(field: str, given: str | list[str] | None) -> tuple[str, ...]:
    named = (given,) if isinstance(given, str) else tuple(dict.fromkeys(given or ()))
    if len(named) > MOST_IDS:
        raise Invalid(
            field,
            f"{field} has over {MOST_IDS} entries.",
            fix="Send several frames, or leave it out and choose among the events.",
            detail="TOO_MANY",
        )
    return named
