"""An outgoing mail as JMAP Email properties (RFC 8621 section 4.6), and header text both ways. Pure.

Stalwart 0.16 builds the MIME from these properties, and does it right except for three things that
are spelled out here instead (mail-builder 0.4.4): it puts encoded words inside quotes, which RFC 2047
section 5 forbids and strict readers show as they are; it writes a long name as one endless word; and
it encodes any ASCII header longer than a line, which breaks structured ones (List-Unsubscribe).
"""

from __future__ import annotations

import re
from datetime import UTC
from email.header import Header
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from agentmail_cp import decoding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agentmail_cp.mailserver import Address, OutgoingAttachment, OutgoingEmail

TEXT_PART: Final = "text"
HTML_PART: Final = "html"
SHORT: Final = 60
"""Characters of a name or file name that are safe to leave to Stalwart, when they are ASCII."""

_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_FOLD = re.compile(r"\r?\n[ \t]+")


def email_properties(email: OutgoingEmail) -> dict[str, Any]:
    """Everything of an Email/set create but mailboxIds and keywords."""
    moment = utc_date(email.date)
    values = {TEXT_PART: email.text, HTML_PART: email.html}
    if email.text is None and email.html is None:
        values[TEXT_PART] = ""
    return {
        "messageId": [email.message_id],
        "sentAt": moment,
        "receivedAt": moment,
        **_addresses("from", (email.sender,)),
        **_addresses("to", email.to),
        **_addresses("cc", email.cc),
        **_addresses("bcc", email.bcc),
        **_addresses("replyTo", email.reply_to),
        **({"subject": email.subject} if email.subject else {}),
        **({"inReplyTo": list(email.in_reply_to)} if email.in_reply_to else {}),
        **({"references": list(email.references)} if email.references else {}),
        **_headers(email.headers),
        "bodyStructure": _body(email),
        "bodyValues": {key: {"value": value} for key, value in values.items() if value is not None},
    }


def utc_date(moment: datetime) -> str:
    """A moment as JMAP spells it (UTCDate, RFC 8620 section 1.4), without fractions of a second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def header_text(raw: str) -> str:
    """A raw header value unfolded and decoded (RFC 2047). What cannot be decoded stays as it is."""
    return decoding.words(_FOLD.sub(" ", raw)).strip()


RAW_NAMES: Final = {"from": "From", "to": "To", "cc": "Cc", "bcc": "Bcc", "replyTo": "Reply-To"}


def _addresses(field: str, addresses: Sequence[Address]) -> dict[str, Any]:
    if not addresses:
        return {}
    if all(_is_plain(address.name) for address in addresses):
        return {field: [{"name": a.name or None, "email": a.email} for a in addresses]}
    value = ", ".join(_mailbox(address) for address in addresses)
    return {f"header:{RAW_NAMES[field]}:asRaw": value}


def _is_plain(name: str | None) -> bool:
    return name is None or (name.isascii() and name.isprintable() and len(name) <= SHORT)


def _mailbox(address: Address) -> str:
    if not address.name:
        return f"<{address.email}>"
    # Never a quoted string: Stalwart folds raw headers at any space, and inside quotes that changes
    # the name.
    name = address.name if _PHRASE.fullmatch(address.name) else _encoded(address.name)
    return f"{name} <{address.email}>"


def _encoded(text: str) -> str:
    words = Header(text, "utf-8", maxlinelen=75).encode(linesep="\n")
    return " ".join(words.split())


def _headers(headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
    named: dict[str, list[str]] = {}
    spelling: dict[str, str] = {}
    for name, value in headers:
        key = spelling.setdefault(name.lower(), name)
        named.setdefault(key, []).append(value if value.isascii() else _encoded(value))
    return {f"header:{name}:asRaw:all": values for name, values in named.items()}


def _body(email: OutgoingEmail) -> dict[str, Any]:
    text = {"type": "text/plain", "partId": TEXT_PART}
    html = {"type": "text/html", "partId": HTML_PART}
    inline = [_attachment(a) for a in email.attachments if a.inline and email.html is not None]
    others = [_attachment(a) for a in email.attachments if not a.inline or email.html is None]
    if email.html is None:
        shown = text
    else:
        shown = _multipart("related", [html, *inline])
        if email.text is not None:
            shown = _multipart("alternative", [text, shown])
    return _multipart("mixed", [shown, *others])


def _multipart(kind: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {"type": f"multipart/{kind}", "subParts": parts}


def _attachment(attachment: OutgoingAttachment) -> dict[str, Any]:
    part: dict[str, Any] = {"type": attachment.content_type, "blobId": attachment.blob_id}
    disposition = "inline" if attachment.inline else "attachment"
    if attachment.content_id is not None:
        part["cid"] = attachment.content_id
    name = attachment.filename
    if not name:
        return part | {"disposition": disposition}
    if _is_plain(name):
        return part | {"disposition": disposition, "name": name}
    # RFC 2231 section 4; percent signs leave nothing to fold or quote.
    value = f"{disposition}; filename*=utf-8''{quote(name, safe='')}"
    return part | {"header:Content-Disposition:asRaw": value}
