"""Stalwart's text ids: base 32 with an alphabet of its own (0.16, `types/src/id.rs`). Pure.

An Email id is `thread << 32 | document`. The thread half changes when threads merge; the document half
never does and is not used again in its account, so it alone names a mail on our side of the port.
Wherever Stalwart takes an Email id, a bare document id finds the same mail.
"""

from __future__ import annotations

from typing import Final

from agentmail_cp.mailserver import DocumentId

ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz792013"
_VALUES: Final = {letter: value for value, letter in enumerate(ALPHABET)}
_DOCUMENT_MASK: Final = 0xFFFF_FFFF


def encode(number: int) -> str:
    """The text form of a number of at most 64 bits; most significant group first."""
    text = ALPHABET[number & 31]
    while number := number >> 5:
        text = ALPHABET[number & 31] + text
    return text


def decode(text: str) -> int:
    """The number behind a text id. Raises ValueError for anything that is none."""
    number = 0
    for letter in text:
        value = _VALUES.get(letter)
        if value is None:
            raise ValueError(f"{text!r} is not an id")
        number = number << 5 | value
    if not text or number >= 1 << 64:
        raise ValueError(f"{text!r} is not an id")
    return number


def document_of(email_id: str) -> DocumentId:
    """The document half of an Email id."""
    return DocumentId(decode(email_id) & _DOCUMENT_MASK)


def email_id(document_id: DocumentId) -> str:
    """An Email id that finds the document, whatever thread it is in."""
    return encode(document_id)
