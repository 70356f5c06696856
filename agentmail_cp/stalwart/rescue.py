"""Texts that Stalwart 0.16 cannot decode, read from the raw mail instead. Pure.

A single bad `=` in quoted-printable makes mail-parser 0.11.6 give up the whole part, and its words would
be lost; many home-made senders write one. Which parts those are, `emails.undecoded` tells.
"""

from __future__ import annotations

from email import message_from_bytes, policy
from typing import TYPE_CHECKING, cast

from agentmail_cp import decoding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from email.header import Header
    from email.message import Message

MOST_HEADER = 4_096
"""Characters of a header that are read: Python's parser takes minutes for a million parameters."""


class _Reading(policy.Compat32):
    def header_fetch_parse(self, name: str, value: str) -> str | Header:
        return super().header_fetch_parse(name, value[:MOST_HEADER])


_READING = _Reading()


def texts(raw: bytes, part_ids: Collection[str]) -> dict[str, str]:
    """These parts of a mail as text, by Stalwart's part ids: their numbers in document order, the whole
    mail's being 0. A part that is not there is left out, and so are all of a mail that is nested deeper
    than Python's parser goes.
    """
    try:
        parts = list(_parts(message_from_bytes(raw, policy=_READING)))
    except RecursionError:
        return {}
    return {str(n): _text(part) for n, part in enumerate(parts) if str(n) in part_ids}


def _parts(message: Message) -> Iterator[Message]:
    yield message
    if message.get_content_maintype() == "multipart" and message.is_multipart():
        for part in cast("list[Message]", message.get_payload()):
            yield from _parts(part)


def _text(part: Message) -> str:
    encoding = str(part.get("Content-Transfer-Encoding", ""))
    charset = part.get_param("charset")
    # Otherwise Python undoes an encoding it knows, and drops what is broken.
    del part["Content-Transfer-Encoding"]
    held = part.get_payload(decode=True)
    data = decoding.payload(held if isinstance(held, bytes) else b"", encoding)
    shown = decoding.text(data, charset if isinstance(charset, str) else None)
    return shown.replace("\r\n", "\n")
