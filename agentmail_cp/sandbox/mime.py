"""Reading and writing raw mail for the sandbox. Pure; reading never raises, whatever the bytes.

Headers are taken from the raw bytes instead of through `email.policy.default`, whose parsers raise
on some hostile mail and whose folding breaks long `In-Reply-To` and `References` (gh-79986).
The rules for bodies and attachments are those of RFC 8621 section 4.1.4, as Stalwart applies them.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.errors import MessageError
from email.header import Header
from email.message import Message
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.utils import format_datetime, formataddr, getaddresses, make_msgid
from email.utils import parsedate_to_datetime as parse_date
from typing import TYPE_CHECKING, cast

import msgspec

from agentmail_cp import decoding
from agentmail_cp.extract import preview_html
from agentmail_cp.mailserver import (
    Address,
    BlobId,
    DocumentId,
    Mail,
    OutgoingAttachment,
    OutgoingEmail,
    ReportType,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PREVIEW_LENGTH = 200
KNOWN = frozenset(
    "from to cc bcc reply-to sender subject date message-id in-reply-to references comments keywords "
    "received return-path mime-version dkim-signature".split()
)
KNOWN_KINDS = ("content-", "list-", "resent-", "arc-")

REPORTS = {
    "message/delivery-status": ReportType.DELIVERY_STATUS,
    "message/global-delivery-status": ReportType.DELIVERY_STATUS,
    "message/feedback-report": ReportType.FEEDBACK,
}

_WIRE = policy.compat32.clone(linesep="\r\n", max_line_length=998)
_HEADER = re.compile(rb"^([!-9;-~]+)[ \t]*:(.*)$", re.DOTALL)
_FOLD = re.compile(rb"\r?\n[ \t]+")
_ID = re.compile(r"<([^<>]+)>")
_REPLY_PREFIX = re.compile(r"^(?:(?:re|fwd?|aw|wg)(?:\[\d+\])?:\s*)+", re.IGNORECASE)


class _Reading(policy.Compat32):
    """Headers as text, their bytes read as UTF-8: Python would make U+FFFD of each."""

    def header_fetch_parse(self, name: str, value: str) -> str:  # noqa: ARG002
        return value.encode(errors="surrogateescape").decode(errors="replace")


_READING = _Reading()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One leaf of a mail's MIME tree; `data` is decoded."""

    part_id: str
    content_type: str
    data: bytes
    charset: str | None = None
    filename: str | None = None
    content_id: str | None = None
    disposition: str | None = None

    @property
    def media(self) -> bool:
        return self.content_type.startswith(("image/", "audio/", "video/"))

    @property
    def inline(self) -> bool:
        """Shown within the body: said so, or has a content id and does not say otherwise."""
        return self.disposition == "inline" or (not self.disposition and bool(self.content_id))

    @property
    def text(self) -> str:
        shown = decoding.text(self.data, self.charset).replace("\0", "")
        return shown.replace("\r\n", "\n")


class ParsedMail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail taken apart. `index` lacks only what the mailbox knows: id, folder, keywords, time."""

    index: Mail
    headers: tuple[tuple[str, str], ...]
    text: str | None
    html: str | None
    attachments: tuple[Part, ...]

    @property
    def thread_ids(self) -> frozenset[str]:
        """Every id Stalwart compares when it looks for a duplicate."""
        own = {self.index.message_id} if self.index.message_id else set[str]()
        return frozenset(own.union(self.index.in_reply_to, self.index.references))

    @property
    def base_subject(self) -> str:
        return _REPLY_PREFIX.sub("", (self.index.subject or "").strip()).strip().lower()


class _Bodies:
    """The three lists of RFC 8621 section 4.1.4, while the tree is walked."""

    def __init__(self) -> None:
        self.text: list[Part] = []
        self.html: list[Part] = []
        self.attachments: list[Part] = []
        self.count = 0
        self.need_text = True
        self.need_html = True


def parse(raw: bytes) -> ParsedMail:
    """Take a mail apart."""
    headers = _headers(raw)
    bodies = _bodies(raw)
    text = _joined(bodies.text, "text/plain")
    html_text = _joined(bodies.html, "text/html")
    return ParsedMail(
        index=_index(raw, headers, bodies),
        headers=tuple((name, decoding.words(value)) for name, value in headers),
        text=text,
        html=html_text,
        attachments=tuple(bodies.attachments),
    )


def _bodies(raw: bytes) -> _Bodies:
    found = _Bodies()
    try:
        _walk([message_from_bytes(raw, policy=_READING)], "mixed", found, in_alternative=False)
    except RecursionError:
        # Python's parser goes some hundred levels down; Stalwart's as far as the mail does.
        return _Bodies()
    return found


def is_mail(raw: bytes) -> bool:
    """Whether Stalwart would store this: it wants one header that mail is known to have."""
    names = {name.lower() for name, _ in _headers(raw)}
    return not names.isdisjoint(KNOWN) or any(name.startswith(KNOWN_KINDS) for name in names)


def has_headers(raw: bytes) -> bool:
    """Whether Stalwart takes this over SMTP: it wants any header."""
    return bool(_headers(raw))


def _headers(raw: bytes) -> list[tuple[str, str]]:
    block = re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[0]
    if raw.startswith((b"\n", b"\r\n")):
        return []
    lines = re.split(rb"\r?\n", _FOLD.sub(b" ", block))
    found = [match.groups() for line in lines if (match := _HEADER.match(line))]
    return [(name.decode("ascii"), decoding.text(value, None).strip()) for name, value in found]


def _index(raw: bytes, headers: list[tuple[str, str]], bodies: _Bodies) -> Mail:
    last = {name.lower(): value for name, value in headers}
    ids = _ids(last.get("message-id", ""))
    subject = last.get("subject")
    return Mail(
        document_id=DocumentId(0),
        folders=frozenset(),
        keywords=frozenset(),
        received_at=datetime.fromtimestamp(0, UTC),
        sent_at=_date(last.get("date")),
        message_id=ids[0] if ids else None,
        in_reply_to=_ids(last.get("in-reply-to", "")),
        references=_ids(last.get("references", "")),
        subject=decoding.words(subject) if subject else None,
        sender=next(iter(_addresses(last.get("from"))), None),
        to=_addresses(last.get("to")),
        cc=_addresses(last.get("cc")),
        bcc=_addresses(last.get("bcc")),
        reply_to=_addresses(last.get("reply-to")),
        size=len(raw),
        has_attachment=bool(bodies.attachments),
        preview=_preview(bodies),
        report=_report(bodies),
    )


def _report(bodies: _Bodies) -> ReportType | None:
    kinds = (part.content_type for part in bodies.attachments)
    return next((REPORTS[kind] for kind in kinds if kind in REPORTS), None)


def _ids(value: str) -> tuple[str, ...]:
    found: list[str] = _ID.findall(value)
    return tuple(each.strip() for each in found) or tuple(filter(None, [value.strip()]))


def _date(value: str | None) -> datetime | None:
    try:
        parsed = parse_date(value or "")
        return parsed.replace(tzinfo=parsed.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _addresses(value: str | None) -> tuple[Address, ...]:
    if not value:
        return ()
    try:
        pairs = getaddresses([value])
    except (ValueError, IndexError):
        return ()
    return tuple(
        Address(email, decoding.words(name) or None) for name, email in pairs if "@" in email
    )


def _walk(parts: Sequence[Message], kind: str, found: _Bodies, *, in_alternative: bool) -> None:
    texts, htmls = len(found.text), len(found.html)
    for position, message in enumerate(parts):
        if message.get_content_maintype() == "multipart" and message.is_multipart():
            sub = message.get_content_subtype()
            below = in_alternative or sub == "alternative"
            _walk(_children(message), sub, found, in_alternative=below)
            continue
        found.count += 1
        part = _part(message, str(found.count))
        if part.content_type.startswith("multipart/") and not part.data:
            continue
        _place(part, position, kind, found, in_alternative=in_alternative)
    if kind == "alternative" and found.need_text and found.need_html:
        _fill(found, texts, htmls)


def _place(part: Part, position: int, kind: str, found: _Bodies, *, in_alternative: bool) -> None:
    inline = (
        part.disposition != "attachment"
        and (part.media or part.content_type in {"text/plain", "text/html"})
        and (position == 0 or (kind != "related" and (part.media or not part.filename)))
    )
    if not inline:
        found.attachments.append(part)
        return
    if kind == "alternative":
        shown = {"text/plain": found.text, "text/html": found.html}
        shown.get(part.content_type, found.attachments).append(part)
        return
    if in_alternative:
        found.need_html = found.need_html and part.content_type != "text/plain"
        found.need_text = found.need_text and part.content_type != "text/html"
    if found.need_text:
        found.text.append(part)
    if found.need_html:
        found.html.append(part)
    if part.media:
        found.attachments.append(part)


def _fill(found: _Bodies, texts: int, htmls: int) -> None:
    """An alternative with one kind only stands for the other, too."""
    if len(found.text) == texts:
        found.text.extend(found.html[htmls:])
    elif len(found.html) == htmls:
        found.html.extend(found.text[texts:])


def _part(message: Message, part_id: str) -> Part:
    disposition = str(message.get("Content-Disposition", "")).split(";", 1)[0].strip().lower()
    content_id = _ids(str(message.get("Content-ID", "")))
    return Part(
        part_id=part_id,
        content_type=message.get_content_type(),
        data=_data(message),
        charset=_charset(message),
        filename=_filename(message),
        content_id=content_id[0] if content_id else None,
        disposition=disposition or None,
    )


def _data(message: Message) -> bytes:
    encoding = str(message.get("Content-Transfer-Encoding", ""))
    if message.is_multipart():
        nested = decoding.payload(_nested(_children(message)), encoding)
        # Python takes any report for mails, and ends each with an empty line.
        is_mail = message.get_content_type() == "message/rfc822"
        return nested if is_mail else nested.removesuffix(b"\r\n")
    return decoding.payload(_raw(message), encoding)


def _raw(message: Message) -> bytes:
    # With a transfer encoding Python decodes, but only one it knows in a spelling it likes.
    del message["Content-Transfer-Encoding"]
    held = message.get_payload(decode=True)
    return held if isinstance(held, bytes) else b""


def _children(message: Message) -> list[Message]:
    return cast("list[Message]", message.get_payload())


def _nested(messages: Iterable[Message]) -> bytes:
    try:
        return b"".join(message.as_bytes(policy=_WIRE) for message in messages)
    except (MessageError, ValueError, LookupError, TypeError, AttributeError):
        return b""


def _charset(message: Message) -> str | None:
    try:
        return message.get_content_charset()
    except (ValueError, LookupError):
        return None


def _filename(message: Message) -> str | None:
    try:
        name = message.get_filename()
    except (ValueError, LookupError, TypeError):
        return None
    return decoding.words(name) if name else None


def _joined(parts: Iterable[Part], content_type: str) -> str | None:
    texts = [part.text for part in parts if part.content_type == content_type]
    return "\n".join(texts) if texts else None


def _preview(bodies: _Bodies) -> str:
    """The beginning of the first body."""
    texts = [part for part in (*bodies.text, *bodies.html) if not part.media]
    if not texts:
        return ""
    shown = texts[0].text
    if texts[0].content_type == "text/html":
        return preview_html(shown)
    return " ".join(shown.split())[:PREVIEW_LENGTH]


def build(email: OutgoingEmail, blobs: Mapping[BlobId, bytes], *, with_bcc: bool) -> bytes:
    """The raw mail. Raises ValueError when a value cannot stand in a header."""
    lines = [
        ("From", _mailboxes([email.sender])),
        ("To", _mailboxes(email.to)),
        ("Cc", _mailboxes(email.cc)),
        ("Bcc", _mailboxes(email.bcc) if with_bcc else ""),
        ("Reply-To", _mailboxes(email.reply_to)),
        ("Subject", _words(email.subject)),
        ("Date", format_datetime(email.date)),
        ("Message-ID", _brackets([email.message_id])),
        ("In-Reply-To", _brackets(email.in_reply_to)),
        ("References", _brackets(email.references)),
        *((name, _words(value)) for name, value in email.headers),
    ]
    block = "".join(f"{name}: {value}\r\n" for name, value in lines if value)
    return block.encode() + _body(email, blobs).as_bytes(policy=_WIRE)


def _one_line(value: str) -> str:
    if any(char in value for char in "\r\n\0"):
        raise ValueError("A header value must be one line.")
    return value


def _words(value: str) -> str:
    _one_line(value)
    return value if value.isascii() else Header(value, "utf-8").encode(linesep="\r\n")


def _mailboxes(addresses: Iterable[Address]) -> str:
    checked = [(_one_line(address.name or ""), _one_line(address.email)) for address in addresses]
    return ",\r\n ".join(formataddr(pair) for pair in checked)


def _brackets(ids: Iterable[str]) -> str:
    return "\r\n ".join(f"<{_one_line(each)}>" for each in ids)


def _body(email: OutgoingEmail, blobs: Mapping[BlobId, bytes]) -> Message:
    texts = [
        _leaf(f'text/{kind}; charset="utf-8"', content.encode())
        for kind, content in (("plain", email.text), ("html", email.html))
        if content is not None
    ]
    attached = [(each.inline, _attachment(each, blobs[each.blob_id])) for each in email.attachments]
    inline = [part for is_inline, part in attached if is_inline]
    files = [part for is_inline, part in attached if not is_inline]
    shown = _multipart("alternative", texts or [_leaf('text/plain; charset="utf-8"', b"")])
    return _multipart("mixed", [_multipart("related", [shown, *inline]), *files])


def _multipart(kind: str, parts: Sequence[Message]) -> Message:
    if len(parts) == 1:
        return parts[0]
    return MIMEMultipart(kind, _subparts=parts)


def _leaf(content_type: str, data: bytes) -> Message:
    part = Message(policy=_WIRE)
    part["Content-Type"] = _one_line(content_type)
    part["Content-Transfer-Encoding"] = "base64"
    part.set_payload(base64.encodebytes(data).decode("ascii"))
    return part


def _attachment(attachment: OutgoingAttachment, data: bytes) -> Message:
    part = (
        MIMEMessage(message_from_bytes(data, policy=_WIRE))
        if attachment.content_type == "message/rfc822"
        else _leaf(attachment.content_type, data)
    )
    name = _one_line(attachment.filename or "")
    encoded = name if name.isascii() else ("utf-8", "", name)
    disposition = "inline" if attachment.inline else "attachment"
    part.add_header("Content-Disposition", disposition, **({"filename": encoded} if name else {}))
    if attachment.content_id:
        part["Content-ID"] = f"<{_one_line(attachment.content_id)}>"
    return part


def with_trace(
    raw: bytes, *, mail_from: str, helo: str, peer: str, hostname: str, now: datetime
) -> bytes:
    """Add what port 25 adds: Return-Path, Received and, where missing, Message-ID and Date."""
    names = {name.lower() for name, _ in _headers(raw)}
    date = format_datetime(now)
    lines = [
        f"Return-Path: <{mail_from}>",
        f"Received: from {helo} ([{peer}])\r\n\tby {hostname} with ESMTP;\r\n\t{date}",
    ]
    if "message-id" not in names:
        lines.append(f"Message-ID: {make_msgid(domain=hostname)}")
    if "date" not in names:
        lines.append(f"Date: {date}")
    return "".join(f"{line}\r\n" for line in lines).encode() + raw
