"""Mail addresses: from what a caller writes to `Address` and back to what the API shows.

Owns one spelling: `local@domain` or `Name <local@domain>`, the domain in lower-case ASCII (IDNA 2008),
the local part as written. Nothing that could start a new header line gets through. A text may hold
several addresses parted by commas. Never asks the DNS and never decides whether mail can be delivered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import idna

from agentmail_cp.errors import Invalid
from agentmail_cp.mailserver import Address

MAX_ADDRESS = 254
"""Characters in `local@domain` (RFC 5321 section 4.5.3.1.3, without the angle brackets)."""

MAX_LOCAL = 64
"""Bytes in the local part (RFC 5321 section 4.5.3.1.1)."""

MAX_NAME = 256
"""Characters in a display name."""

MAX_RECIPIENTS: Final = 50
"""Addresses in one list. A mail has no more over to, cc and bcc together."""

LONGEST_LIST: Final = MAX_RECIPIENTS * 1024
"""Characters of a list of addresses: more than that many have, with names in quotes."""

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NEEDS_QUOTES = re.compile(r'[()<>\[\]:;@\\,."]')
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ATEXT = r"[^\s\x00-\x20\x7f-\xa0()<>\[\]:;@\\,.\"]+"
_LOCAL = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_LABEL = r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_EXAMPLE = "Write it like ada@example.com or Ada Lovelace <ada@example.com>."


def parse(text: str, field: str) -> Address:
    """Read exactly one address.

    Raises `Invalid`: HEADER_INJECTION, INVALID_EMAIL, ADDRESS_TOO_LONG, NAME_TOO_LONG.
    """
    one_line(text, field)
    found = tuple(_split(text))
    if len(found) != 1:
        raise _invalid(text, field)
    return _mailbox(found[0], field)


def parse_list(value: str | Sequence[str] | None, field: str) -> tuple[Address, ...]:
    """Read addresses from a text, or from a list of texts; each text may hold several, by commas.

    None and a blank text are no addresses; a blank text inside a list is a mistake. Raises as `parse`, and
    TOO_MANY_RECIPIENTS.
    """
    ensure_few(value, field)
    if value is None:
        return ()
    if isinstance(value, str):
        return _few(_parse_text(value, field), field)
    found = [_parse_text(text, field) or (parse(text, field),) for text in value]
    return _few([address for addresses in found for address in addresses], field)


def ensure_few(value: str | Sequence[str] | None, field: str) -> None:
    """Raise `Invalid` TOO_MANY_RECIPIENTS for a list that is too long, before any of it is read."""
    texts = (value,) if isinstance(value, str) else value or ()
    if len(texts) > MAX_RECIPIENTS or sum(map(len, texts)) > LONGEST_LIST:
        raise _too_many(field)


def _few(found: Sequence[Address], field: str) -> tuple[Address, ...]:
    if len(found) > MAX_RECIPIENTS:
        raise _too_many(field)
    return tuple(found)


def bare(text: str, field: str) -> str:
    """Read exactly one address that stands without a name or brackets. Raises as `parse`."""
    return _email(one_line(text, field).strip(), field)


def display(address: Address) -> str:
    """Write an address as the API shows it: `addr`, or `Name <addr>` with the name quoted if need be."""
    if not address.name:
        return address.email
    return f"{_quote(address.name)} <{address.email}>"


def email_of(shown: str) -> str:
    """The bare address of what `display` wrote."""
    return shown[shown.rfind("<") + 1 : -1] if shown.endswith(">") else shown


def check_name(name: str, field: str) -> str:
    """Return a display name with its white space tidied.

    Raises `Invalid`: HEADER_INJECTION, NAME_TOO_LONG.
    """
    one_line(name, field)
    tidy = " ".join(name.split())
    if len(tidy) > MAX_NAME:
        raise Invalid(
            field,
            f"This display name has {len(tidy)} characters.",
            fix=f"Use at most {MAX_NAME} characters.",
            detail="NAME_TOO_LONG",
        )
    return tidy


def one_line(text: str, field: str) -> str:
    """Return `text` if it can stand in a header; control characters other than tab cannot.

    Raises `Invalid` HEADER_INJECTION.
    """
    if _CONTROL.search(text):
        raise Invalid(
            field,
            "Line breaks and control characters are not allowed here.",
            fix="Remove them; a header is a single line.",
            detail="HEADER_INJECTION",
        )
    return text


def tame(text: str) -> str:
    """A stranger's text on one line, as `one_line` lets it through: control characters become spaces."""
    return _CONTROL.sub(" ", text).strip()


def mailable(address: Address) -> Address | None:
    """A stranger's address as mail can be sent to it, its name tidied and cut; None if it cannot."""
    try:
        email = _email(address.email.strip(), "to")
    except Invalid:
        return None
    name = " ".join(tame(address.name or "").split())[:MAX_NAME].rstrip()
    return Address(email, name or None)


def check_domain(text: str, field: str) -> str:
    """Return a domain name in lower-case ASCII. Raises `Invalid` INVALID_DOMAIN."""
    domain = _ascii_domain(text.strip())
    if domain is None:
        raise Invalid(
            field,
            f"{text[:MAX_ADDRESS]!r} is not a domain name.",
            fix="Write it like example.com.",
            detail="INVALID_DOMAIN",
        )
    return domain


def _parse_text(text: str, field: str) -> tuple[Address, ...]:
    one_line(text, field)
    return tuple(_mailbox(part, field) for part in islice(_split(text), MAX_RECIPIENTS + 1))


def _split(text: str) -> Iterator[str]:
    """Part a text at its commas, but not at those inside quotes or angle brackets; skip blanks."""
    start, quoted, angle, escaped = 0, False, False, False
    for index, char in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped, quoted = char == "\\", char != '"'
        elif char == '"':
            quoted = True
        elif char in "<>":
            angle = char == "<"
        elif char == "," and not angle:
            yield from _unless_blank(text[start:index])
            start = index + 1
    yield from _unless_blank(text[start:])


def _unless_blank(part: str) -> Iterator[str]:
    if part := part.strip():
        yield part


def _mailbox(text: str, field: str) -> Address:
    if not text.endswith(">"):
        return Address(_email(text, field))
    name, bracket, email = text[:-1].rpartition("<")
    if not bracket:
        raise _invalid(text, field)
    return Address(_email(email.strip(), field), _name(name.strip(), field) or None)


def _name(text: str, field: str) -> str:
    if quoted := _QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    elif "<" in text or ">" in text:
        raise _invalid(text, field)
    return check_name(text, field)


def _quote(name: str) -> str:
    if not _NEEDS_QUOTES.search(name):
        return name
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'


def _email(text: str, field: str) -> str:
    if len(text) > MAX_ADDRESS:
        raise _too_long(field)
    local, _, host = text.rpartition("@")
    domain = _ascii_domain(host)
    if domain is None or not _LOCAL.fullmatch(local):
        raise _invalid(text, field)
    email = f"{local}@{domain}"
    if len(email) > MAX_ADDRESS or len(local.encode()) > MAX_LOCAL:
        raise _too_long(field)
    return email


def _ascii_domain(text: str) -> str | None:
    """Turn a domain into lower-case ASCII, or None when it is not one."""
    domain = text.lower()
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True).decode("ascii")
        except UnicodeError:
            return None
    return domain if len(domain) < MAX_ADDRESS and _DOMAIN.fullmatch(domain) else None


def _invalid(text: str, field: str) -> Invalid:
    shown = text if len(text) <= MAX_ADDRESS else text[:MAX_ADDRESS] + "…"
    return Invalid(field, f"{shown!r} is not a mail address.", fix=_EXAMPLE, detail="INVALID_EMAIL")


def _too_many(field: str) -> Invalid:
    return Invalid(
        field,
        f"There are more than {MAX_RECIPIENTS} addresses here, or more characters than these can have.",
        fix=f"Give at most {MAX_RECIPIENTS} addresses.",
        detail="TOO_MANY_RECIPIENTS",
    )


def _too_long(field: str) -> Invalid:
    return Invalid(
        field,
        f"A mail address has at most {MAX_ADDRESS} characters, {MAX_LOCAL} of them before the @.",
        fix=_EXAMPLE,
        detail="ADDRESS_TOO_LONG",
    )
