"""Values of the query string, in every spelling the SDKs and people use.

A list may be a JSON array (the official SDKs), a repeated name, `name[]`, `name[0]`, words parted by
commas, or one bare word. Works on the raw pairs of the query string, in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from agentmail_cp.errors import Invalid

Pairs = Sequence[tuple[str, str]]

MAX_VALUES = 100
MAX_VALUE = 1000
"""Characters in one value of a list."""

MAX_TOKEN = 4096
"""Characters in a value that stands alone, such as a page token."""

_FLAGS = {"true": True, "1": True, "false": False, "0": False}
_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_INDEX = re.compile(r"\[\d{0,6}\]")
# A "+" of an offset reaches us as a space when the caller did not encode it.
_LOST_PLUS = re.compile(r"(:\d\d(?:\.\d+)?) (\d\d:?\d\d)$")


def texts(pairs: Pairs, name: str) -> tuple[str, ...]:
    """All values of a list, each once, in order; blank ones are left out.

    Raises `Invalid`: TOO_MANY_VALUES, VALUE_TOO_LONG, INVALID_LIST, INVALID_VALUE.
    """
    found = dict.fromkeys(
        value for raw in _raw(pairs, name) for value in _values(raw, name) if value
    )
    if len(found) > MAX_VALUES:
        raise Invalid(
            name,
            f"{name} has {len(found)} values.",
            fix=f"Give at most {MAX_VALUES}.",
            detail="TOO_MANY_VALUES",
        )
    return tuple(_bounded(value, name) for value in found)


def text(pairs: Pairs, name: str) -> str | None:
    """One value, the last when repeated; None when absent or empty. Raises `Invalid` VALUE_TOO_LONG."""
    values = [value for key, value in pairs if key == name]
    return _bounded(values[-1], name, MAX_TOKEN) if values and values[-1] else None


def flag(pairs: Pairs, name: str, *, default: bool = False) -> bool:
    """A yes or no: true, false, 1 or 0 in any case. Raises `Invalid` INVALID_BOOLEAN."""
    value = text(pairs, name)
    if value is None:
        return default
    answer = _FLAGS.get(value.lower())
    if answer is None:
        raise Invalid(
            name,
            f"{name} is neither true nor false.",
            fix="Use true or false.",
            detail="INVALID_BOOLEAN",
        )
    return answer


def time(pairs: Pairs, name: str) -> datetime | None:
    """A moment in UTC from ISO 8601; without an offset it is UTC, without a time it is midnight.

    Raises `Invalid` INVALID_TIME.
    """
    value = text(pairs, name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", value.strip()))
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            name,
            f"{name} is not a time.",
            fix="Use ISO 8601, like 2026-11-21T08:15:00Z.",
            detail="INVALID_TIME",
        ) from None


def seconds(pairs: Pairs, name: str, *, most: float) -> float | None:
    """A length of time in seconds, at most `most`; None when absent. Raises `Invalid` INVALID_SECONDS."""
    value = text(pairs, name)
    if value is None:
        return None
    if not _SECONDS.fullmatch(value) or float(value) > most:
        raise Invalid(
            name,
            f"{name} is not a number of seconds up to {most:g}.",
            fix=f"Use 0 to {most:g}.",
            detail="INVALID_SECONDS",
        )
    return float(value)


def _raw(pairs: Pairs, name: str) -> Iterator[str]:
    """The unparsed values of `name`, `name[]` and `name[0]`."""
    for key, value in pairs:
        if key.startswith(name) and (key == name or _INDEX.fullmatch(key, len(name))):
            yield value


def _values(raw: str, name: str) -> Sequence[str]:
    stripped = raw.strip()
    if stripped.startswith("["):
        return _array(stripped, name)
    return [part.strip() for part in stripped.split(",")]


def _array(raw: str, name: str) -> Sequence[str]:
    try:
        return msgspec.json.decode(raw, type=list[str])
    except (msgspec.DecodeError, RecursionError):
        raise Invalid(
            name,
            f"{name} starts like a JSON array but is not one of strings.",
            fix=f'Write it like {name}=["a","b"], {name}=a,b or {name}=a&{name}=b.',
            detail="INVALID_LIST",
        ) from None


def _bounded(value: str, name: str, longest: int = MAX_VALUE) -> str:
    if "\0" in value:
        raise Invalid(
            name,
            f"A value of {name} holds a NUL character.",
            fix="Remove it.",
            detail="INVALID_VALUE",
        )
    if len(value) > longest:
        raise Invalid(
            name,
            f"A value of {name} is longer than {longest} characters.",
            fix="Shorten it.",
            detail="VALUE_TOO_LONG",
        )
    return value
