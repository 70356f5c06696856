"""A domain's records as a zone file that name servers and their web forms read (RFC 1035 section 5). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from agentmail_cp.domains.records import Record

TTL: Final = 3600
"""Seconds; short enough that a mistake is mended within the hour."""

LONGEST_STRING: Final = 255
"""Bytes one string of a TXT record can hold (RFC 1035 section 3.3)."""


def zone_file(name: str, records: Iterable[Record]) -> str:
    """The records of domain `name`, with names relative to it."""
    lines = [f"$ORIGIN {name}.", f"$TTL {TTL}"]
    for record in records:
        need = "" if record.required else "Optional. "
        lines += ["", f"; {need}{record.about}", _line(name, record)]
    return "\n".join(lines) + "\n"


def strings(value: str) -> list[str]:
    """A TXT value in the pieces it is stored in."""
    text = value.encode("ascii")
    pieces = (text[at : at + LONGEST_STRING] for at in range(0, max(len(text), 1), LONGEST_STRING))
    return [piece.decode("ascii") for piece in pieces]


def _line(name: str, record: Record) -> str:
    owner = "@" if record.name == name else record.name.removesuffix(f".{name}")
    return f"{owner} IN {record.type} {_data(record)}"


def _data(record: Record) -> str:
    if record.type == "TXT":
        return " ".join(_quoted(piece) for piece in strings(record.value))
    target = f"{record.value}."
    return f"{record.priority} {target}" if record.type == "MX" else target


def _quoted(text: str) -> str:
    """Within quotes a semicolon begins no comment; quotes and backslashes are marked."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
